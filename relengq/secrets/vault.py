# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in files that ansible-vault has encrypted.

``ansible-vault`` itself decrypts them, in memory, with the settings that plays have: so the password comes from where
people have it already, be it a file, a program, or several vault ids.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import yaml

from relengq.secrets.finding import SECRET_LIMIT, Missing, read, sound, without_newline

PROGRAM = "ansible-vault"
_HEADER = b"$ANSIBLE_VAULT;"
_GROWTH = 5
"""An encrypted file is about four times as large as its text."""
_SECONDS = 30.0
"""How long decrypting may take, with the program that knows the password."""
_ERROR = re.compile(r"^(?:ERROR!|\[ERROR\]:) ?(.*)", re.MULTILINE | re.DOTALL)
_SHOWN = 300


class Vault:
    """Decrypts files, each once. ``environment`` and ``directory`` are those of plays."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self._environment = environment
        self._directory = directory
        self._texts: dict[Path, str] = {}

    def secret(self, path: Path, key: str | None) -> str:
        """The text of the file, or the text under a key of it. Raises Missing."""
        text = self._text(path)
        if key is None:
            return sound(without_newline(text).encode())
        try:
            found = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise Missing(f"what {path} has encrypted is no YAML, so it has no key '{key}'") from None
        if not isinstance(found, dict) or key not in found:
            raise Missing(f"what {path} has encrypted has no key '{key}'")
        if not isinstance(found[key], str):
            raise Missing(f"what {path} has under '{key}' is no text; put it in quotes")
        return sound(found[key].encode("utf-8", "surrogatepass"))

    def _text(self, path: Path) -> str:
        if path not in self._texts:
            if not read(path, _GROWTH * SECRET_LIMIT).startswith(_HEADER):
                raise Missing(f"the file {path} is not encrypted by ansible-vault as a whole")
            try:
                self._texts[path] = self._decrypted(path).decode("utf-8")
            except UnicodeDecodeError:
                raise Missing("it is not UTF-8; encode it in base64, and decode it in the playbook") from None
        return self._texts[path]

    def _decrypted(self, path: Path) -> bytes:
        beside = str(Path(sys.executable).parent)
        program = shutil.which(PROGRAM, path=f"{self._environment.get('PATH', os.defpath)}{os.pathsep}{beside}")
        if program is None:
            raise Missing(f"{PROGRAM} is not installed on this worker")
        process = subprocess.Popen(
            [program, "decrypt", "--output=-", "--", str(path)],
            cwd=self._directory if self._directory.is_dir() else None,
            env={**self._environment, "ANSIBLE_NOCOLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            text, said = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise Missing(f"{PROGRAM} has not decrypted {path} within {_SECONDS:g} seconds") from None
        if process.returncode != 0:
            raise Missing(f"{PROGRAM} cannot decrypt {path}: {_reason(said, process.returncode)}")
        return text


def _reason(said: bytes, status: int) -> str:
    found = _ERROR.search(said.decode("utf-8", "replace"))
    reason = " ".join(found[1].split()).rstrip(".") if found else f"it ended with {status}"
    return reason if len(reason) <= _SHOWN else f"{reason[:_SHOWN]}…"
