# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks for canaries: values that must be nowhere, in whatever form, in all that an installation leaves or shows."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import kombu
import psutil
import redis
import zstandard
from sqlalchemy import MetaData, create_engine, select

from relengq.execution.forms import forms
from relengq.execution.processes import MARK


def wanted(canaries: dict[str, str]) -> dict[str, list[bytes]]:
    """By name: every form of the canary, to be looked for in bytes."""
    return {name: [form.encode("utf-8", "surrogatepass") for form in forms(value)] for name, value in canaries.items()}


def hits(where: str, data: bytes, canaries: dict[str, list[bytes]]) -> list[str]:
    """The canaries that are in the data."""
    return [f"{name} in {where}: {form!r}" for name, each in canaries.items() for form in each if form in data]


def files(directory: Path, without: tuple[Path, ...] = ()) -> Iterator[tuple[str, bytes]]:
    """Every file below a directory."""
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink() and not any(path.is_relative_to(each) for each in without):
            with suppress(FileNotFoundError):  # it has just gone
                yield str(path), path.read_bytes()


def tables(url: str) -> Iterator[tuple[str, bytes]]:
    """Every value of every table: texts as they are, JSON with and without escapes, bytes decompressed as well."""
    engine = create_engine(url)
    metadata = MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        for table in metadata.sorted_tables:
            for row in connection.execute(select(table)):
                for column, value in zip(table.columns, row, strict=True):
                    for data in _shown(value):
                        yield f"{table.name}.{column.name}", data
    engine.dispose()


def _shown(value: object) -> Iterator[bytes]:
    if isinstance(value, bytes | memoryview):
        data = bytes(value)
        yield data
        with suppress(zstandard.ZstdError):
            yield zstandard.ZstdDecompressor().decompress(data)
    elif isinstance(value, str):
        yield value.encode("utf-8", "surrogatepass")
        with suppress(ValueError):
            yield json.dumps(json.loads(value), ensure_ascii=False).encode()
    elif value is not None:
        yield json.dumps(value, default=str, ensure_ascii=False).encode()


def keys(url: str) -> Iterator[tuple[str, bytes]]:
    """Every key of a Redis server with what it holds."""
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter():
            read = {
                b"string": client.get,
                b"list": lambda name: client.lrange(name, 0, -1),
                b"set": client.smembers,
                b"hash": client.hgetall,
                b"zset": lambda name: client.zrange(name, 0, -1),
            }[client.type(key)]
            yield f"Redis key {key!r}", key + repr(read(key)).encode()


def messages(url: str, *queues: str) -> Iterator[tuple[str, bytes]]:
    """Every message of these queues, taken out of them."""
    with kombu.Connection(url) as connection:
        channel = connection.default_channel
        for queue in queues:
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
                yield (
                    f"queue {queue}",
                    body + repr((message.headers, message.properties, message.delivery_info)).encode(),
                )


@contextmanager
def watched(canaries: dict[str, list[bytes]]) -> Iterator[list[str]]:
    """What command lines, and environments of the processes of plays, show while the block lasts.

    The last entry tells how many environments of plays were looked at.
    """
    found: list[str] = []
    over = threading.Event()
    seen: set[int] = set()
    mark = f"{MARK}=".encode()

    def look() -> None:
        while not over.is_set():
            for pid in psutil.pids():
                with suppress(OSError):
                    found.extend(hits(f"command line of {pid}", Path(f"/proc/{pid}/cmdline").read_bytes(), canaries))
                    environment = Path(f"/proc/{pid}/environ").read_bytes()
                    if mark in environment and pid != os.getpid():
                        seen.add(pid)
                        found.extend(hits(f"environment of {pid}", environment, canaries))
            time.sleep(0.05)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
    assert seen, "no process of a play was seen"
