# SPDX-License-Identifier: GPL-3.0-or-later
"""One module for each kind of check. Each gives faults; none changes or raises anything."""
