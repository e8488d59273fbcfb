# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether relengq stays as quick when there is much of everything: runs that wait, runs that are over, steps to send.

``python -m benchmarks.scale`` (or ``make scale``) needs PostgreSQL, and Redis for the third part. Each part compares
two sides by turns in one run, prints the ratio of their medians beside its target, and the whole ends with exit code 1
when a target is missed.
"""
