# SPDX-License-Identifier: GPL-3.0-or-later
"""The secrets of pools: a worker reads them where its pool says, at the last moment, afresh for each attempt."""

from relengq.secrets.finding import SECRET_LIMIT, Missing, Surroundings, exposed
from relengq.secrets.plugins import GROUP, Provider
from relengq.secrets.resolving import examine, password_file, resolve, withheld

__all__ = [
    "GROUP",
    "SECRET_LIMIT",
    "Missing",
    "Provider",
    "Surroundings",
    "examine",
    "exposed",
    "password_file",
    "resolve",
    "withheld",
]
