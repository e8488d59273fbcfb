# SPDX-License-Identifier: GPL-3.0-or-later
"""A corpus of plays by the plain command and from a server: the same but for times, ids and the order of hosts."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relengq.execution import Outcome, TaskOutcome, Warm, servers
from relengq.execution.servers import running
from tests.support.plays import Collected, Project

CORPUS = Path(__file__).parents[1] / "corpus"
PASSWORD = "the vault's password\n"
ANSIBLE = os.environ.get("CORPUS_ANSIBLE")
"""A directory with another ``ansible-playbook``: the oldest that is supported, say, or the newest."""
ORDERS: dict[str, dict[str, object]] = {
    "roles": {"playbook": "roles.yml", "variables": {"greeting": "{{ not a template }}"}},
    "blocks": {"playbook": "blocks.yml"},
    "handlers, serial, free": {"playbook": "handlers.yml"},
    "async, prompts, meta": {"playbook": "async.yml"},
    "vault": {"playbook": "vault.yml", "variables": {"relengq": {"a": [1, "{{ 2 }}"]}}},
    "plugins of the site": {"playbook": "plugins.yml"},
    "a module of a role": {"playbook": "module.yml"},
    "a collection": {"playbook": "collection.yml"},
    "an unknown module": {"playbook": "unknown.yml"},
    "unreachable": {"playbook": "unreachable.yml"},
    "tags": {"playbook": "tags.yml", "tags": ("a",), "skip_tags": ("b",), "verbosity": 2},
    "check and diff": {"playbook": "tags.yml", "check": True, "diff": True},
    "diff, limit": {"playbook": "tags.yml", "diff": True, "limit": "h2", "verbosity": 1},
    "no hosts": {"playbook": "empty.yml"},
    "a wrong playbook": {"playbook": "wrong.yml"},
    "a missing import": {"playbook": "imports.yml"},
    "a wrong limit": {"playbook": "tags.yml", "limit": "no-such-host"},
    "facts and modules": {"playbook": "facts.yml"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A site with all plays; one server starts them all."""
    root = tmp_path_factory.mktemp("corpus")
    project = Project(root)
    shutil.copytree(CORPUS, project.playbooks)
    project.file("password", PASSWORD)
    encrypt(project.playbooks / "secret.yml", "opened: what was in the vault\n")
    yield root
    for pid in running(root / "warm"):
        os.kill(pid, signal.SIGTERM)


def encrypt(path: Path, text: str) -> None:
    """As ansible-vault does it."""
    from ansible.parsing.vault import VaultLib, VaultSecret  # noqa: PLC0415 -- few tests pay for it

    vault = VaultLib([("default", VaultSecret(PASSWORD.strip().encode()))])
    path.write_bytes(vault.encrypt(text))


@pytest.mark.parametrize("name", ORDERS)
def test_a_play_from_a_server_is_the_play_of_the_plain_command(name: str, root: Path) -> None:
    with capture_logs() as logs, ThreadPoolExecutor(2) as pool:
        both = [pool.submit(played, root, kind, ORDERS[name]) for kind in ("plain", "warm")]
        plain, warm = (each.result() for each in both)
    assert [line for line in logs if line["action"] == "warm_declined"] == []
    for what in plain:
        assert warm[what] == plain[what], what


def played(root: Path, kind: str, order: Mapping[str, object]) -> dict[str, object]:
    """Play it. All that came of it, with one word for what differs each time."""
    made = root / "made" / kind
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    project = Project(root, Warm(root / "warm", os.getpid()) if kind == "warm" else None)
    variables = {"made": str(made)} | dict(order.get("variables", {}))  # type: ignore[call-overload]
    environment = {"PATH": f"{ANSIBLE}:{os.environ['PATH']}"} if ANSIBLE else {}
    outcome, sink = project.play(Collected(), **{**order, "variables": variables, "environment": environment})
    steady = Steady(kind)
    return {
        "outcome": ended(outcome, steady),
        "tasks": sorted(told(each, steady) for each in sink.tasks.values()),
        "places": sorted(set(map(repr, sink.places))),
        "output": output(sink.text, steady),
        "files": {
            str(path.relative_to(made)): (path.stat().st_mode, path.read_text())
            for path in made.rglob("*")
            if path.is_file()
        },
    }


class Steady:
    """Replaces what differs from one play to the next."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def text(self, text: str) -> str:
        for pattern, word in (
            (rf"/made/{self._kind}\b", "/made"),
            (r"play-[a-z0-9_]{8}", "PLAY"),
            (r"ansible-(local-|tmp-)[-0-9.a-z_]+", "TEMPORARY"),
            (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?", "MOMENT"),
            (r"\b\d:\d\d:\d\d\.\d+", "DURATION"),
            (r"j\d+\.\d+", "JOB"),
            (r"/tmp[a-z0-9_]{8}\b|/\.?tmp[a-z0-9_]{8}|/[.a-z]*_?[a-z0-9_]{8}/", "/FILE/"),
            (r'"elapsed": \d+', '"elapsed": N'),
            (r"FAILED - RETRYING: \[(h\d)\]: ends.*\n", ""),
        ):
            text = re.sub(pattern, word, text)
        return text


def ended(outcome: Outcome, steady: Steady) -> tuple[object, ...]:
    message = None if outcome.message is None else steady.text(outcome.message)
    return outcome.state, outcome.return_code, outcome.stats, outcome.outputs, message


def told(task: TaskOutcome, steady: Steady) -> tuple[str, ...]:
    shown = (task.host, task.play, task.task, task.action, task.status, task.changed, task.item)
    return (*map(str, shown), steady.text(task.message or ""))


def output(text: str, steady: Steady) -> list[str]:
    """The lines, sorted within each task: hosts come in any order, and so do those that are named after ``for``."""
    text = re.sub(r"(?<= for )h\d(, h\d)+", ordered, steady.text(text))
    parts = re.split(r"(?m)^(?=TASK |PLAY |RUNNING HANDLER )", text)
    return ["\n".join(sorted(part.splitlines())) for part in parts]


def ordered(hosts: re.Match[str]) -> str:
    return ", ".join(sorted(hosts[0].split(", ")))


def test_one_server_has_started_them_all(root: Path) -> None:
    assert len(servers.running(root / "warm")) == 1
