# SPDX-License-Identifier: GPL-3.0-or-later
"""Twisted's reactor, of which there is one a process."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as installed

# Twisted declares its methods on interfaces, without ``self``, so that no type checker can check a call.
reactor: Any = installed
