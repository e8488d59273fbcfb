# SPDX-License-Identifier: GPL-3.0-or-later
"""Start, claim, execute, advance, cancel, recover: what makes a run go on."""
