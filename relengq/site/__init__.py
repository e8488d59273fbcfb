# SPDX-License-Identifier: GPL-3.0-or-later
"""A site: the directory with everything that one installation runs. Load it, check it, make a new one."""

from __future__ import annotations

from relengq.site.check import check
from relengq.site.create import create
from relengq.site.load import Site, SiteCache, is_site, load
from relengq.site.schema import KINDS, schema

__all__ = ["KINDS", "Site", "SiteCache", "check", "create", "is_site", "load", "schema"]
