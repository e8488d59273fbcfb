# SPDX-License-Identifier: GPL-3.0-or-later
"""The only writer of run state: creation, state changes by the table in ``states``, attempts and their leases.

Everything here works inside the caller's transaction (a Session from ``Database.write``), so that a state change and
what follows from it are committed together or not at all.
"""
