# SPDX-License-Identifier: GPL-3.0-or-later
"""What relengq tells the bus: written to an outbox in the transaction of what it tells, and sent after it.

``outbox`` writes, in every process that moves states; ``announcer`` sends, in the one clock that leads.
"""
