# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of OpenSSL, which its library reads once, when it is loaded."""

from __future__ import annotations

import os
import re

try:
    import _ssl
except ImportError:  # not each Python has it
    _DIRECTORY = ""
else:
    _DIRECTORY = os.path.dirname(_ssl.get_default_verify_paths()[3])

_INCLUDE = re.compile(r"^\s*\.include\s*=?\s*(.*?)\s*$", re.MULTILINE)


def configuration() -> list[str]:
    """The file, and what it includes: files, and directories with the files in them."""
    first = os.environ.get("OPENSSL_CONF") or (_DIRECTORY and os.path.join(_DIRECTORY, "openssl.cnf"))
    found: list[str] = []
    left = [first] if first else []
    while left:
        path = left.pop()
        if path not in found:
            found.append(path)
            left += _included(path)
    return found


def _included(path: str) -> list[str]:
    if os.path.isdir(path):
        return [os.path.join(path, name) for name in os.listdir(path) if name.endswith((".cnf", ".conf"))]
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return [
                os.path.join(os.environ.get("OPENSSL_CONF_INCLUDE", ""), each) for each in _INCLUDE.findall(file.read())
            ]
    except OSError:
        return []
