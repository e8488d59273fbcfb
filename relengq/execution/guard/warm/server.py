# SPDX-License-Identifier: GPL-3.0-or-later
"""The server: one thread that accepts, forks and collects, and between that loads more of Ansible."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress

from ..inherited import inherited, touched
from ..plan import PROGRAM
from ..tree import remove
from .peer import Owner
from .plays import STALE, Surroundings, serve
from .preload import stages
from .watched import Watched

IDLE_SECONDS = 900.0
"""A server that nobody has asked for anything for so long ends."""
_LOOK_SECONDS = 30.0
"""How often an idle server looks whether what it has loaded has changed."""
REFUSING_SECONDS = 300.0
"""After so long a server that can start no play ends: the next one may have better luck."""
_THREADS = "something that Ansible loads has started a thread, which plays would be without"
_CHANGED = "something that Ansible loads has changed the {}, as it would for each play"
_STRANGER = b"-it starts plays for its own worker, and for nothing that runs in a play\n"
_OWN = frozenset({signal.SIGCHLD, signal.SIGTERM})


def main(words: list[str]) -> None:
    """Serve until the owner dies, nobody asks any more, what is loaded has changed, or SIGTERM comes."""
    listener, state, owner, directory, scratch, *given = words
    files = _Files(os.path.splitext(state)[0], scratch)
    program = os.path.join(directory, PROGRAM)
    os.makedirs(scratch, mode=0o700, exist_ok=True)
    try:
        python = sys.orig_argv[: -1 - len(words)]
        around = Surroundings(python, program, scratch, dict(os.environ), Watched())
        server = _Server(socket.socket(fileno=int(listener)), int(owner), files, around, _named(given))
        server.serve()
        files.remove()
    except ProcessLookupError:
        pass  # the owner has gone already
    except BaseException:
        traceback.print_exc()
    finally:
        files.clear()
        # Forks of this process have the handlers for its exit, and it has nothing else to do there.
        os._exit(0)


def _named(words: list[str]) -> dict[str, str]:
    return dict(each.split("=", 1) for each in words)


class _Files:
    """A server's files, as long as they are its own: they are the next one's when its state was removed."""

    def __init__(self, stem: str, scratch: str) -> None:
        self._stem = stem
        """What they are called, without their suffixes."""
        self._scratch = scratch

    def are_own(self) -> bool:
        """Whether the state says that this process is the server: then the pool knows of it."""
        with suppress(OSError, ValueError, IndexError), open(f"{self._stem}.server", encoding="ascii") as file:
            return int(file.read().split()[0]) == os.getpid()
        return False

    def refuse(self, reason: str) -> None:
        """Leave a note for who asks what runs here."""
        with suppress(OSError), open(f"{self._stem}.refusal", "w", encoding="utf-8") as file:
            file.write(reason)

    def clear(self) -> None:
        """Remove what plays do not need."""
        if self.are_own():
            remove(self._scratch)

    def remove(self) -> None:
        """Remove all, after an end as it should be. Without its state nobody waits until another is started."""
        self.clear()
        if self.are_own():
            for suffix in (".socket", ".log", ".refusal", ".server"):
                with suppress(OSError):
                    os.unlink(self._stem + suffix)


class _Server:
    def __init__(
        self, listener: socket.socket, owner: int, files: _Files, around: Surroundings, given: dict[str, str]
    ) -> None:
        self._listener = listener
        self._owner = Owner(owner)
        self._files = files
        self._around = around
        self._given = given
        """What a play would take over: first as the pool's process had it when it started this one."""
        self._touched: set[int] = set()
        self._refuse(self._changed())
        self._stages = self._load(around.program)
        self._loading = True
        self._stop = False
        self._signals, self._waker = _wake()
        self._given, self._touched = inherited(), touched()
        self._plays: set[int] = set()
        self._asked = self._looked = self._began = time.monotonic()

    def serve(self) -> None:
        """Do it all. A play that runs goes on without the server."""
        poll = select.poll()
        for descriptor in (self._listener.fileno(), self._owner.end, self._signals):
            poll.register(descriptor, select.POLLIN)
        next(self._stages)
        while not self._stop:
            ready = {descriptor for descriptor, _ in poll.poll(0 if self._loading else 1000 * self._patience())}
            if self._owner.end in ready:
                return
            if self._signals in ready:
                self._stop = signal.SIGTERM in os.read(self._signals, 4096)
                self._collect()
            if self._listener.fileno() in ready:
                self._accept()
            elif self._loading:
                self._loading = next(self._stages, None) is not None
            else:
                self._look()

    def _load(self, program: str) -> Iterator[str]:
        """Load Ansible, one part at each turn, and note what of it must not change."""
        watched = self._around.watched
        watched.add([program, sys.executable])
        for part in stages(program):
            watched.add_modules()
            watched.add(part.files)
            threads = _THREADS if len(os.listdir("/proc/self/task")) > 1 else None
            self._refuse(part.refusal or threads or self._changed())
            # What is there now is shared with all plays, and stays so when nobody looks at it for garbage.
            gc.collect()
            gc.freeze()
            yield part.name

    def _refuse(self, reason: str | None) -> None:
        """From now on, for the first reason, start no play; and leave a note of it for who asks what runs here."""
        if reason is None or self._around.refusal is not None:
            return
        self._around.refusal = reason
        self._files.refuse(reason)

    def _changed(self) -> str | None:
        """What has changed of that which a play would take over, though not by this process's own doing; or None."""
        now = inherited()
        changed = [name for name, value in self._given.items() if now[name] != value]
        changed += [f"disposition of signal {number}" for number in sorted(touched() ^ self._touched)]
        return _CHANGED.format(changed[0]) if changed else None

    def _accept(self) -> None:
        with suppress(OSError):  # whoever asked may have gone, or there is no room for another process
            connection, _ = self._listener.accept()
            with connection:
                if not self._owner.started(connection):
                    connection.sendall(_STRANGER)
                    return
                self._asked = time.monotonic()
                mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.Signals)
                try:
                    pid = os.fork()
                    if not pid:
                        for descriptor in (self._owner.end, self._signals, self._waker):
                            os.close(descriptor)
                        self._listener.close()
                        serve(connection, self._around)
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                self._plays.add(pid)

    def _collect(self) -> None:
        for pid in list(self._plays):
            with suppress(ChildProcessError):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if not ended:
                    continue
                self._stop = self._stop or (os.WIFEXITED(status) and os.WEXITSTATUS(status) == STALE)
            self._plays.discard(pid)

    def _patience(self) -> float:
        return max(0.0, _LOOK_SECONDS - (time.monotonic() - self._looked))

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        idle = not self._plays and now - self._asked > IDLE_SECONDS
        useless = self._around.refusal is not None and now - self._began > REFUSING_SECONDS
        gone = not self._files.are_own() or self._around.watched.changed() is not None
        self._stop = self._stop or idle or useless or gone


def _wake() -> tuple[int, int]:
    """Where the numbers of SIGCHLD and SIGTERM can be read, and where they are written."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _OWN:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OWN)
    return reader, writer
