# SPDX-License-Identifier: GPL-3.0-or-later
"""A storm over a whole installation, and what may not have happened in it."""
