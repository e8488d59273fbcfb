# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx builds the manual: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from relengq import __version__

project = "relengq"
copyright = "The relengq authors; GPL-3.0-or-later"  # noqa: A001 -- Sphinx's name for it
version = release = __version__

extensions = ["sphinx.ext.autodoc", "relengq_reference"]
exclude_patterns = ["_build"]
nitpicky = True
highlight_language = "none"
html_theme = "alabaster"
html_theme_options = {"description": "Durable workflows of Ansible playbooks for release engineering"}
html_show_sourcelink = False
smartquotes = False
