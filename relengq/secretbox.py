# SPDX-License-Identifier: GPL-3.0-or-later
"""Secret inputs at rest: encrypted with the installation's key, so that the database never has them in clear."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from relengq.documents import Json
from relengq.errors import SiteFault


class SecretBox:
    """Seals and opens secret inputs with the key in a file, which is made (mode 0600) when it is missing.

    The key never leaves the file: losing it makes sealed inputs of old runs unreadable, and nothing else.
    """

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file

    def seal(self, values: dict[str, Json]) -> bytes | None:
        """The values encrypted, or None when there are none. Raises SiteFault when the key cannot be had."""
        if not values:
            return None
        return self._cipher(make=True).encrypt(json.dumps(values).encode())

    def open(self, sealed: bytes | None) -> dict[str, Json]:
        """The values that ``seal`` was given. Raises SiteFault when this host has not the right key."""
        if sealed is None:
            return {}
        try:
            values: dict[str, Json] = json.loads(self._cipher(make=False).decrypt(sealed))
        except InvalidToken:
            raise SiteFault(
                f"The secret inputs of this run were sealed with another key than {self._key_file}.",
                hint="All hosts need the same secret_key_file.",
            ) from None
        return values

    def _cipher(self, *, make: bool) -> Fernet:
        try:
            if make:
                self._make()
            return Fernet(self._key_file.read_bytes().strip())
        except (OSError, ValueError) as error:
            raise SiteFault(
                f"The key for secret inputs, {self._key_file}, cannot be used: {error}.",
                hint="Set secret_key_file to a file that this user may read, the same on all hosts.",
            ) from None

    def _make(self) -> None:
        """Write a new key whole or not at all; of two processes that do so at once, the first one's stays."""
        if self._key_file.exists():
            return
        self._key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._key_file.with_name(f"{self._key_file.name}.{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(Fernet.generate_key())
        try:
            os.link(fresh, self._key_file)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
