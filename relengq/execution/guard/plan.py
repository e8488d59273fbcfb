# SPDX-License-Identifier: GPL-3.0-or-later
"""How one play is guarded, as the worker decided: it comes as words of the guard's command line."""

from __future__ import annotations

PROGRAM = "ansible-playbook"
MARK = "RELENGQ_PLAY"
"""Environment variable that all processes of a play inherit; its value is the play's own."""


class Plan:
    """Which means are to be used. What fails at this play, though it worked before, is done without."""

    __slots__ = ("group", "limit", "memory_group", "namespace", "warm")

    def __init__(
        self,
        *,
        namespace: bool = False,
        group: str | None = None,
        memory_group: str | None = None,
        limit: int | None = None,
        warm: str | None = None,
    ) -> None:
        self.namespace = namespace
        """Whether the reaper is to be process 1 of a PID namespace."""
        self.group = group
        """The directory in which a control group (version 2) is to be made, to end the play with."""
        self.memory_group = memory_group
        """The directory in which a control group that limits memory is to be made; it may be the same."""
        self.limit = limit
        """Bytes of memory that the play may use."""
        self.warm = warm
        """The socket of a server that has Ansible loaded and may start the play (see ``handover``)."""

    def words(self) -> list[str]:
        """The plan as options."""
        options = [
            ("--namespace", "" if self.namespace else None),
            ("--group", self.group),
            ("--memory-group", self.memory_group),
            ("--limit", None if self.limit is None else str(self.limit)),
            ("--warm", self.warm),
        ]
        return [f"{name}={value}" for name, value in options if value is not None]

    @classmethod
    def of(cls, words: list[str]) -> Plan:
        """What ``words`` wrote."""
        given = {name: value for name, _, value in (each.partition("=") for each in words)}
        return cls(
            namespace="--namespace" in given,
            group=given.get("--group"),
            memory_group=given.get("--memory-group"),
            limit=int(given["--limit"]) if "--limit" in given else None,
            warm=given.get("--warm"),
        )
