# SPDX-License-Identifier: GPL-3.0-or-later
"""What plays take with relengq, against what people would use without it.

``python -m benchmarks.plays`` (or ``make bench``): one row a file, each with its peer by turns in the same run, each of
which asserts that both sides have done the same. ``--quick`` does everything once, in a small size.
"""
