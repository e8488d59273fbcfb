# SPDX-License-Identifier: GPL-3.0-or-later
"""In the innermost fork: make anew what Python and Ansible make once for a process, and be ``ansible-playbook``."""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import io
import logging
import multiprocessing.process
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import TextIO

from .. import kernel
from .places import file_of, installed

_BROKEN_STREAM = 120
"""Python's exit code when what was printed could not be written in the end."""
_INSTALLED = installed()


def play(arguments: list[str], instead: Callable[[BaseException], None]) -> None:
    """Run the playbook command in this process and end the process as Python does.

    ``instead`` is called, and does not return, when Ansible cannot be made anew: nothing has been played yet.
    """
    kernel.set_name(os.path.basename(arguments[0]))
    _python(arguments)
    _end(_ended_with(lambda: _ansible_playbook(instead)))


def _ansible_playbook(instead: Callable[[BaseException], None]) -> None:
    try:
        _ansible()
    except (Exception, SystemExit) as error:
        instead(error)
    importlib.import_module("ansible.cli.playbook").main()


def _python(arguments: list[str]) -> None:
    sys.argv[:] = arguments
    sys.modules["__main__"].__package__ = None
    sys.stdin = sys.__stdin__ = _stream(0, "stdin", sys.stdin)  # type: ignore[misc, assignment]
    sys.stdout = sys.__stdout__ = _stream(1, "stdout", sys.stdout)  # type: ignore[misc, assignment]
    sys.stderr = sys.__stderr__ = _stream(2, "stderr", sys.stderr)  # type: ignore[misc, assignment]
    _zone()
    multiprocessing.process.current_process().authkey = os.urandom(32)


def _zone() -> None:
    """Read the zone's file again, which the C library does only for another TZ than the last."""
    zone = os.environ.get("TZ")
    os.environ["TZ"] = "UTC0" if zone != "UTC0" else "UTC1"
    time.tzset()
    if zone is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = zone
    time.tzset()


def _stream(descriptor: int, name: str, before: TextIO) -> TextIO | None:
    """A standard stream as Python opens it, like the server's in all that the environment has a say in."""
    mode = "w" if descriptor else "r"
    unbuffered = bool(getattr(before, "write_through", False))
    try:
        buffer = open(descriptor, f"{mode}b", buffering=0 if unbuffered and mode == "w" else -1, closefd=False)  # noqa: SIM115
    except OSError:
        return None  # it is closed: so it would be for the plain command
    setattr(getattr(buffer, "raw", buffer), "name", f"<{name}>")  # noqa: B010
    stream = io.TextIOWrapper(
        buffer,
        encoding=before.encoding,
        # Ansible has put handlers of its own into the other two.
        errors="backslashreplace" if name == "stderr" else sys.stdin.errors,
        newline="\n",
        line_buffering=not unbuffered and (name == "stderr" or buffer.isatty()),
        write_through=unbuffered,
    )
    stream.mode = mode  # type: ignore[misc]
    return stream


def _ansible() -> None:
    """What Ansible works out while it is imported."""
    cli = importlib.import_module("ansible.cli")
    cli.check_blocking_io()
    importlib.reload(importlib.import_module("ansible.utils.color"))
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            # The file may have been moved away since.
            handler.close()
            handler.stream = handler._open()  # noqa: SLF001
    display = importlib.import_module("ansible.utils.display")
    display.Display.__init__(display.Display())
    _unique_ids(importlib.import_module("ansible.utils.vars"))
    # At last: who could not be made anew leaves nothing behind.
    _local_temp(importlib.import_module("ansible.constants"))


def _local_temp(constants: ModuleType) -> None:
    """A directory of this process's own, and removed at its end; the server's is the server's."""
    manager = importlib.import_module("ansible.config.manager")
    atexit.unregister(manager.cleanup_tmp_file)
    vars(constants)["DEFAULT_LOCAL_TMP"] = constants.config.get_config_value("DEFAULT_LOCAL_TMP")


def _unique_ids(module: ModuleType) -> None:
    vars(module).update(cur_id=0, random_int=os.urandom(4).hex())
    # The C library's generator has chosen in the server what tells its processes apart; Python's chooses each time.
    vars(uuid).update({name: None for name in ("_generate_time_safe", "_last_timestamp") if hasattr(uuid, name)})
    if uuid.getnode() >> 40 & 1:
        # There is no address of a network card: each process has a number of its own for that.
        vars(uuid)["_node"] = int.from_bytes(os.urandom(6)) | 1 << 40
        vars(module)["node_mac"] = f"{uuid.getnode():012x}"


def _has_foreign_code() -> bool:
    """Whether anything was imported that is neither Python's, nor installed beside Ansible, nor ours."""
    ours = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    ansible = os.path.dirname(os.path.dirname(file_of(sys.modules.get("ansible")) or __file__))
    known = tuple(f"{place}/" for place in (*_INSTALLED, ansible, ours))
    files = map(file_of, list(sys.modules.values()))
    # In brackets is the name of a module that Ansible has made without a file.
    return any(file and not file.startswith((*known, "<")) and file != sys.argv[0] for file in files)


def _flush_files() -> None:
    """Write what is left in files that are open still, as Python does at its end; those of the server are frozen."""
    found = gc.get_objects()
    for kind in (io.TextIOWrapper, io.BufferedIOBase):
        for each in found:
            if issubclass(type(each), kind):
                with suppress(OSError, ValueError):  # it is closed, or nobody reads it any more
                    each.flush()


def _ended_with(what: Callable[[], None]) -> int:
    """Call it. Returns the exit code with which Python would end; a signal's number as a negative one."""
    try:
        what()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _end(code: int) -> None:
    """End as Python ends, but for what it does to the memory, which the kernel does faster.

    With a plugin of the site's, it is Python that ends: what the plugin made may count on being finalised.
    """
    with suppress(Exception):
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
    atexit._run_exitfuncs()  # noqa: SLF001
    if code >= 0 and _has_foreign_code():
        ctypes.pythonapi.Py_Exit(code)
    _flush_files()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            code = _BROKEN_STREAM
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
