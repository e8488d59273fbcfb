# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes as they are stored: compressed with Zstandard."""

from __future__ import annotations

import zstandard

_LEVEL = 3


def pack(data: bytes) -> bytes:
    """The bytes, compressed."""
    return zstandard.ZstdCompressor(level=_LEVEL).compress(data)


def unpack(data: bytes, limit: int) -> bytes:
    """The bytes as they were, at most ``limit`` of them. Raises ValueError when they are damaged."""
    try:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=limit)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
