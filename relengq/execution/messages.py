# SPDX-License-Identifier: GPL-3.0-or-later
"""The sentence that a person reads about a failure."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Mapping

from relengq.storable import storable

LONGEST = 10_000
"""Characters of a message that are kept; the output has the rest."""
_DETAILS = ("message", "stderr", "module_stderr", "exception", "stdout", "module_stdout", "assertion")
_NO_TRACEBACK = "(traceback unavailable)"
_SAYS_LITTLE = re.compile(
    r"((Task |Action |Module )?[Ff]ailed: )*"
    r"((The command exited with a )?non-zero return code|Assertion failed|Unknown error|Error executing command)?\.?"
    r"|(MODULE FAILURE|Module result deserialization failed).*",
    re.DOTALL,
)
"""Whole messages after which a person still does not know what happened."""
_ANSIBLE_ERROR = re.compile(r"^(?:ERROR!|\[ERROR\]:) ?(.*)", re.MULTILINE | re.DOTALL)
_ERROR_END = re.compile(r"\n(?:\n|PLAY RECAP|PLAY \[|TASK \[|\[WARNING\]|\[DEPRECATION)|\Z")


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text, or its beginning and end when it is longer than ``longest`` characters."""
    text = storable(text)
    if len(text) <= longest:
        return text
    head, tail = longest * 2 // 5, longest * 3 // 5
    cut = len(text) - head - tail
    return f"{text[:head]}\n[… {cut} characters cut here; the output has them …]\n{text[-tail:]}"


def failure_message(result: Mapping[str, object]) -> str:
    """What a failed result says: its message, and where that says little, the module's standard error.

    The result is masked already: the sentence leaves out a dot here and a line there, which may be part of a secret. It
    is as long as it is; whoever shortens it masks it once more before.
    """
    if not result:
        return "failed; the result was too large to be kept, the output has it"
    if "censored" in result:
        return _plain(result["censored"])
    message = _plain(result.get("msg", "")).strip()
    if not _SAYS_LITTLE.fullmatch(message):
        stderr = _plain(result.get("stderr", "")).strip()
        return f"{message.rstrip('.')}: {stderr}" if stderr and stderr not in message else message
    details = (_plain(result.get(name, "")).strip() for name in _DETAILS)
    detail = next((each for each in details if each and each != _NO_TRACEBACK), "")
    command = _command(result)
    if command and "Error executing command" in message:
        # The module never began: its exception is a long traceback with one telling line.
        detail = f"{_last_line(detail)} ({command})" if detail else command
    if detail:
        return f"{message.rstrip('.')}: {detail}" if message else detail
    return message or _plain(dict(result))


def item_label(result: Mapping[str, object]) -> str:
    """The item of a loop as Ansible shows it."""
    label = result.get("_ansible_item_label")
    return _plain(label if label is not None else result.get("item", ""))


def ansible_error(tail: str) -> str | None:
    """Ansible's own error (``ERROR! …`` before 2.19, ``[ERROR]: …`` since) at the end of an output."""
    found = _ANSIBLE_ERROR.search(tail)
    if not found:
        return None
    text = found[1]
    end = _ERROR_END.search(text)
    first = text[: end.start()] if end else text
    return shortened(" ".join(first.split()), 2000) or None


def exit_message(return_code: int, tail: str) -> str:
    """Why ansible-playbook failed when no task did: its error, or how it ended and its last line."""
    if error := ansible_error(tail):
        return error
    if return_code < 0:
        name = signal.strsignal(-return_code) or f"signal {-return_code}"
        hint = " Was the host out of memory?" if return_code == -signal.SIGKILL else ""
        return f"ansible-playbook was ended by a signal: {name}.{hint}"
    lines = tail.strip().splitlines()
    last = f" Its last line: {shortened(lines[-1].strip(), 500)}" if lines else ""
    return f"ansible-playbook ended with exit code {return_code}.{last}"


def _command(result: Mapping[str, object]) -> str:
    command = result.get("cmd")
    return shlex.join(map(str, command)) if isinstance(command, list) else _plain(command or "")


def _last_line(traceback: str) -> str:
    """What a traceback ends with, without the exception's type and number."""
    return re.sub(r"^[A-Za-z_.]+: (\[Errno \d+\] )?", "", traceback.splitlines()[-1].strip())


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
