# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m relengq`` is ``relengq``."""

from __future__ import annotations

import sys

from relengq.cli import main

if __name__ == "__main__":
    sys.exit(main())
