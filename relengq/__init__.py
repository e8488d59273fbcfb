# SPDX-License-Identifier: GPL-3.0-or-later
"""A Celery-based distributed task queue for release engineering."""

__version__ = "0.1.0"
