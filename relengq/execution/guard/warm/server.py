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

from ..plan import PROGRAM
from ..tree import remove
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


def main(words: list[str]) -> None:
    """Serve until the owner dies, nobody asks any more, what is loaded has changed, or SIGTERM comes."""
    listener, state, owner, directory, scratch = words
    program = os.path.join(directory, PROGRAM)
    os.makedirs(scratch, mode=0o700, exist_ok=True)
    try:
        stem = os.path.splitext(state)[0]
        server = _Server(socket.socket(fileno=int(listener)), os.pidfd_open(int(owner)), stem, program, scratch)
        server.serve()
        _leave_nothing(stem)
    except ProcessLookupError:
        pass  # the owner has gone already
    except BaseException:
        traceback.print_exc()
    finally:
        remove(scratch)
        # Forks of this process have the handlers for its exit, and it has nothing else to do there.
        os._exit(0)


def _leave_nothing(stem: str) -> None:
    """Remove the files of a server that ended as it should. Without its state nobody waits until another is started."""
    for suffix in (".socket", ".log", ".refusal", ".server"):
        with suppress(OSError):
            os.unlink(stem + suffix)


class _Server:
    def __init__(self, listener: socket.socket, owner: int, stem: str, program: str, scratch: str) -> None:
        self._listener = listener
        self._stem = stem
        """What its files are called, without their suffixes."""
        self._owner = owner
        self._around = Surroundings(program, scratch, dict(os.environ), Watched())
        self._stages = self._load(program)
        self._loading = True
        self._stop = False
        self._signals, self._waker = _wake()
        self._plays: set[int] = set()
        self._asked = self._looked = self._began = time.monotonic()

    def serve(self) -> None:
        """Do it all. A play that runs goes on without the server."""
        poll = select.poll()
        for descriptor in (self._listener.fileno(), self._owner, self._signals):
            poll.register(descriptor, select.POLLIN)
        next(self._stages)
        while not self._stop:
            ready = {descriptor for descriptor, _ in poll.poll(0 if self._loading else 1000 * self._patience())}
            if self._owner in ready:
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
            self._refuse(part.refusal or threads)
            # What is there now is shared with all plays, and stays so when nobody looks at it for garbage.
            gc.collect()
            gc.freeze()
            yield part.name

    def _refuse(self, reason: str | None) -> None:
        """From now on, for the first reason, start no play; and leave a note of it for who asks what runs here."""
        if reason is None or self._around.refusal is not None:
            return
        self._around.refusal = reason
        with suppress(OSError), open(f"{self._stem}.refusal", "w", encoding="utf-8") as file:
            file.write(reason)

    def _accept(self) -> None:
        self._asked = time.monotonic()
        with suppress(OSError):  # whoever asked may have gone, or there is no room for another process
            connection, _ = self._listener.accept()
            with connection:
                mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.Signals)
                try:
                    pid = os.fork()
                    if not pid:
                        for descriptor in (self._owner, self._signals, self._waker):
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
        self._stop = self._stop or idle or useless or self._around.watched.changed() is not None


def _wake() -> tuple[int, int]:
    """Where the numbers of SIGCHLD and SIGTERM can be read, and where they are written."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD, signal.SIGTERM))
    return reader, writer
