# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells relengq of a play's events: a line of JSON for each, through a named pipe, as soon as it happens.

Ansible finds this callback before ansible-runner's of the same name, and it *is* ansible-runner's, which it loads: what
that one knows of an event is what counts. Only what it does with an event is left out: a file for each, marks for them
in the output, and wrappers around everything that displays. Of an event, only what ``relengq.execution.events`` reads
is sent, so that a result of many megabytes costs nothing when all is well.

The site's own stdout callback is its base class, as with ansible-runner. It runs in the Python of ansible-playbook, and
imports nothing of relengq.

Since it is in each play, it also sees to it that what modules are given on the worker's own host goes with the play.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TextIO

from ansible import constants
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import callback_loader
from ansible.utils.display import Display

DOCUMENTATION = """
name: awx_display
type: stdout
short_description: Tells relengq of the play's events
description:
  - Shows what the site's own stdout callback shows.
extends_documentation_fragment:
  - default_callback
"""

PIPE = "RELENGQ_EVENTS"
"""Environment variable that names the pipe. It is taken away, so that playbooks which a play starts know of none."""
LARGEST_RESULT = 4_000_000
"""Characters of a failed task's result that are sent; of a larger one comes nothing but that it failed."""

_TASK = ("host", "play", "role", "task", "task_uuid", "task_action", "start", "duration", "res")
_RECAP = ("ok", "changed", "dark", "failures", "skipped", "rescued", "ignored", "artifact_data")
_SENT: dict[str, tuple[str, ...]] = {
    "playbook_on_play_start": ("name",),
    "playbook_on_task_start": ("name",),
    "playbook_on_no_hosts_matched": (),
    "playbook_on_stats": _RECAP,
    "runner_on_start": ("host",),
    "runner_item_on_failed": ("host", "task_uuid", "res"),
    "runner_item_on_ok": ("host", "res"),
    "runner_on_ok": _TASK,
    "runner_on_failed": (*_TASK, "ignore_errors"),
    "runner_on_unreachable": _TASK,
    "runner_on_skipped": _TASK,
}
"""The events that are sent, and what of each."""
_FAILURES = frozenset({"runner_item_on_failed", "runner_on_failed", "runner_on_unreachable"})
_OF_SUCCESS = ("changed", "ansible_stats")
_OF_FAILURE = (
    "changed", "censored", "cmd", "msg", "message", "stderr", "module_stderr", "exception", "stdout", "module_stdout",
    "assertion", "item", "_ansible_item_label",
)  # fmt: skip
_USUAL = {"remote_tmp": "~/.ansible/tmp", "async_dir": "~/.ansible_async"}
"""Where Ansible puts modules with their arguments, and asynchronous results, unless somebody says otherwise."""
_TELLING = {"censored", "msg", "message", "stderr", "module_stderr", "exception", "stdout", "module_stdout"}
"""Without any of these, the whole result is what a failure says."""


def _load() -> ModuleType:
    """ansible-runner's callback, with nothing of Ansible's displays wrapped."""
    _check_own()
    before = dict(vars(Display))
    spec = importlib.util.spec_from_file_location("ansible_runner_awx_display", _find())
    if spec is None or spec.loader is None:
        raise AnsibleError("ansible-runner's callback cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in before.items():
        if vars(Display)[name] is not value:
            setattr(Display, name, value)
    return module


def _check_own() -> None:
    """See to it that there is the site's own stdout callback. Raises AnsibleError as Ansible does without us."""
    name = os.environ.get("ORIGINAL_STDOUT_CALLBACK") or "default"
    if callback_loader.get(name, class_only=True) is None:
        raise AnsibleError(f"Could not load {name!r} callback plugin.")


def _find() -> Path:
    """Where ansible-runner's callback is: in one of the other directories that Ansible searches for callbacks."""
    for directory in os.environ.get("ANSIBLE_CALLBACK_PLUGINS", "").split(os.pathsep):
        path = Path(directory) / "awx_display.py"
        # A directory that may not be looked into, below a hidden /home say, has nothing for Ansible either.
        with suppress(OSError):
            if directory and path.is_file() and not path.samefile(__file__):
                return path
    raise AnsibleError("ansible-runner's callback awx_display.py is in no directory of ANSIBLE_CALLBACK_PLUGINS")


_runner = _load()
_encode: Callable[[object], str] = _runner.AnsibleJSONEncoderLocal(separators=(",", ":"), check_circular=False).encode
_encode_anything: Callable[[object], str] = _runner.json.JSONEncoder(skipkeys=True, default=str).encode


class _Pipe:
    """The pipe, once there is one. Writing waits while it is full, and ends when nobody reads any more."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._torn = False
        """Whether a signal has interrupted a line: what follows is a line of its own all the same."""

    def open(self) -> None:
        """Open the pipe that the environment names, if it names one that is still there."""
        path = os.environ.pop(PIPE, "")
        if path and self._descriptor is None:
            with suppress(FileNotFoundError):
                # Without a reader this would wait for ever; later it is the reader that is waited for.
                self._descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.set_blocking(self._descriptor, True)

    def send(self, context: Mapping[str, object]) -> None:
        """Send what is wanted of an event."""
        name = context.get("event")
        if self._descriptor is None or not isinstance(name, str) or name not in _SENT:
            return
        line = _line(name, {key: context[key] for key in _SENT[name] if context.get(key) is not None})
        data = memoryview((f"\n{line}" if self._torn else line).encode("ascii"))
        self._torn = True
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except BrokenPipeError:
            os.close(self._descriptor)
            self._descriptor = None
        self._torn = False


def _line(name: str, data: dict[str, object]) -> str:
    """The event as a line; of a loop's item that went well, nothing unless it hands a value on."""
    result = data.pop("res", None)
    if isinstance(result, Mapping):
        if name == "runner_item_on_ok" and "ansible_stats" not in result:
            return ""
        if name in _FAILURES:
            return _failed(name, data, result)
        if name != "runner_on_skipped":
            data["res"] = _success(result)
    return _json({"event": name, "event_data": data}) + "\n"


def _failed(name: str, data: dict[str, object], result: Mapping[str, object]) -> str:
    told = _json({"event": name, "event_data": {**data, "res": _failure(result)}})
    if len(told) > LARGEST_RESULT:
        told = _json({"event": name, "event_data": {**data, "res": {}}})
    return told + "\n"


def _success(result: Mapping[str, object]) -> dict[str, object]:
    # Of a loop, the values are those of its items, which have come before.
    kept = ("changed",) if "results" in result else _OF_SUCCESS
    return {name: result[name] for name in kept if name in result}


def _failure(result: Mapping[str, object]) -> dict[str, object]:
    if _TELLING.isdisjoint(result):
        return dict(result)
    return {name: result[name] for name in _OF_FAILURE if name in result}


def _json(value: object) -> str:
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError):
        return _encode_anything(value)


def _keep_with_the_play() -> None:
    """On the worker's own host, have modules and results of asynchronous tasks in the play's private directory.

    Ansible removes modules after each task, but not when the play is killed, and such results only where it waits for
    them itself. The private directory is always removed. Not where somebody chose another place, nor for a user by
    ``become`` who could not read them there.
    """
    asked = ActionBase.get_shell_option

    def get_shell_option(self: ActionBase, option: str, default: object = None) -> object:
        found = asked(self, option, default)
        if option not in _USUAL or found != _USUAL[option] or self._connection.transport != "local":
            return found
        private = str(constants.DEFAULT_LOCAL_TMP)
        # Ansible gives it to a shell as it is.
        sound = shlex.quote(private) == private and not self._is_become_unprivileged()
        return private if sound else found

    ActionBase.get_shell_option = get_shell_option


_keep_with_the_play()
_pipe = _Pipe()


class _EventContext(_runner.EventContext):  # type: ignore[name-defined]  # a module loaded by its path
    """ansible-runner's own keeps what is known of the present event; where it ends up is what differs."""

    def dump_begin(self, fileobj: TextIO) -> None:
        """Send the event."""
        _pipe.send(self.get())

    def dump_end(self, fileobj: TextIO) -> None:
        """Say nothing of its end."""


setattr(_runner, "event_context", _EventContext())  # noqa: B010 -- the same: no type knows its names


class CallbackModule(_runner.CallbackModule):  # type: ignore[name-defined]  # the same
    """The site's own stdout callback, around which ansible-runner's gathers what happens."""

    CALLBACK_NAME = "awx_display"

    def __init__(self) -> None:
        super().__init__()
        _pipe.open()
