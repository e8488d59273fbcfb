# SPDX-License-Identifier: GPL-3.0-or-later
"""Values from outside: secrets are nowhere in clear, and hostile text is never executed and arrives as it was given."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import select
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import zstandard
from sqlalchemy import select as query

from relengq.models import OutputChunk
from tests.support.servers import RedisServer
from tests.support.systems import RELENGQ, System, private_redis, system

FILES = {
    "playbooks/secret.yml": """\
- name: Use a secret badly
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Print it
      ansible.builtin.debug:
        msg: "the token is {{ relengq.inputs.token }}, and lower {{ relengq.inputs.token | lower }}"
    - name: Wait until the test has looked at the processes
      ansible.builtin.command:
        argv: [./gate.sh, "{{ relengq.inputs.gates }}", first]
    - name: Prove that it arrived
      ansible.builtin.copy:
        content: "{{ relengq.inputs.token | hash('sha256') }}"
        dest: "{{ relengq.inputs.gates }}/digest"
        mode: "0600"
    - name: Hand it on
      ansible.builtin.set_stats:
        data: {leaked: "{{ relengq.inputs.token }}"}
    - name: Fail with it
      ansible.builtin.fail:
        msg: "rejected: {{ relengq.inputs.token }}"
""",
    "playbooks/write.yml": """\
- name: Write values to files
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Write each
      ansible.builtin.copy:
        content: "{{ item }}"
        dest: "{{ relengq.inputs.gates }}/{{ number }}"
        mode: "0600"
        decrypt: false
      loop: "{{ values }}"
      loop_control: {index_var: number, label: "{{ number }}"}
    - name: Hand them on
      ansible.builtin.set_stats:
        data: {written: "{{ values }}"}
""",
    "playbooks/tell.yml": """\
- name: Write values as JSON
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Write all
      ansible.builtin.copy:
        content: "{{ {'values': values} | to_json }}"
        dest: "{{ relengq.inputs.gates }}/values.json"
        mode: "0600"
""",
    "playbooks/workflows/secret.yml": """\
inputs:
  gates: {type: string}
  token: {type: string, secret: true}
steps:
  - {name: use, playbook: secret.yml}
""",
    "playbooks/workflows/write.yml": """\
inputs:
  gates: {type: string}
  values: {type: list, max_length: 200000}
steps:
  - {name: write, playbook: write.yml, vars: {values: "{{ inputs.values }}"}}
  - {name: tell, playbook: tell.yml, vars: {values: "{{ outputs.written }}"}}
""",
    "playbooks/workflows/limited.yml": """\
inputs:
  hosts: {type: string}
steps:
  - {name: limited, playbook: write.yml, limit: "{{ inputs.hosts }}", vars: {values: []}}
""",
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with private_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, broker: RedisServer) -> Iterator[System]:
    with system(tmp_path_factory.mktemp("values"), FILES, broker.url) as made:
        made.worker()
        yield made


@contextmanager
def _watched(canary: str) -> Iterator[list[str]]:
    """Command lines and environments of all processes that show the canary while the block lasts."""
    found: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for each in psutil.process_iter(["cmdline"]):
                if canary in " ".join(each.info["cmdline"] or []):
                    found.append(" ".join(each.info["cmdline"]))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield found
    over.set()
    thread.join()


def _typed(running: System, answer: str, *arguments: str) -> str:
    """Call the command line at a terminal of its own and type an answer; returns what the terminal showed."""
    master, slave = pty.openpty()
    environment = {**os.environ, **running.settings_in_environment, "NO_COLOR": "1"}
    process = subprocess.Popen(
        [*RELENGQ, *arguments], cwd=running.site, env=environment, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    shown = b""
    try:
        while process.poll() is None or select.select([master], [], [], 0)[0]:
            if not select.select([master], [], [], 0.1)[0]:
                continue
            try:
                shown += os.read(master, 65536)
            except OSError:
                break
            if answer and shown.rstrip().endswith(b":"):
                os.write(master, answer.encode() + b"\n")
                answer = ""
        assert process.wait(60) == 0, shown
    finally:
        os.close(master)
    return shown.decode()


def test_a_secret_is_nowhere_in_clear(running: System, broker: RedisServer, tmp_path: Path) -> None:
    canary = f"Canary{uuid.uuid4().hex}"
    file = tmp_path / "token"
    file.write_text(f"{canary}\n")
    with _watched(canary) as shown:
        gates = [running.gates("secret-file"), running.gates("secret-typed")]
        first = running.run("secret", gates=str(gates[0].directory), token=f"@{file}")
        terminal = _typed(running, canary, "run", "secret", "-i", f"gates={gates[1].directory}")
        second: str = running.shell.json("runs", "-i", f"gates={gates[1].directory}")[0]["id"]
        for run_id, each in zip((first, second), gates, strict=True):
            running.reach(run_id, each, "first start")
            each.open("first")
        for run_id in (first, second):
            running.wait(run_id, "failed")
    assert shown == []
    assert canary not in terminal
    digest = hashlib.sha256(canary.encode()).hexdigest()
    assert [(each.directory / "digest").read_text() for each in gates] == [digest, digest], "both arrived"

    for run_id in (first, second):
        assert "the token is ********" in running.output(run_id)
        assert "rejected: ********" in (running.get(run_id).reason or "")
    shell = running.shell
    looks = [[verb, first, *more] for verb in ("status", "logs", "history") for more in ([], ["--json"])]
    told = [shell.run(*look).stdout for look in looks]
    told += [shell.run("runs", "--json").stdout, shell.run("logs", first, "--host", "localhost").stdout]
    assert not [text for text in told if canary in text]
    assert [path for path in _files(running.site, broker.directory) if canary.encode() in path.read_bytes()] == []
    assert canary not in _all_output(running)


def _files(*directories: Path) -> list[Path]:
    """Every file of the site (its state and its workers' logs too) and of the broker."""
    return [path for directory in directories for path in directory.rglob("*") if path.is_file()]


def _all_output(running: System) -> str:
    """Everything that was ever stored as output; it is compressed, so a search of the file would not find it."""
    with running.installation.database.read() as session:
        chunks = session.scalars(query(OutputChunk.data)).all()
    return "".join(zstandard.ZstdDecompressor().decompress(each).decode() for each in chunks)


def test_a_secret_on_the_command_line_leaves_it_with_the_command(running: System) -> None:
    canary = f"Canary{uuid.uuid4().hex}"
    gates = running.gates("secret-argument")
    run_id = running.run("secret", gates=str(gates.directory), token=canary)
    with _watched(canary) as shown:
        running.reach(run_id, gates, "first start")
        gates.open("first")
        running.wait(run_id, "failed")
    assert shown == []
    assert [path for path in _files(running.site) if canary.encode() in path.read_bytes()] == []


def test_hostile_values_arrive_as_they_were_given(running: System, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    values = [
        f"{{{{ lookup('pipe', 'touch {trap}') }}}}",
        f"{{% for x in [1] %}}{{{{ lookup('pipe', 'touch {trap}') }}}}{{% endfor %}}",
        f"{{{{ ''.__class__.__mro__[1].__subclasses__() }}}} {{# {trap} #}}",
        f"$(touch {trap})",
        f"`touch {trap}`; touch {trap} && touch {trap} | touch {trap}",
        f"--extra-vars=x --version -o ProxyCommand=touch {trap}",
        "@/etc/hostname",
        "!unsafe text",
        "!!python/object/apply:os.system ['true']",
        '{"__ansible_unsafe": "text"} and {"__ansible_vault": "text"}',
        "$ANSIBLE_VAULT;1.1;AES256\n6162",
        "first line\nsecond line\r\n\ttabs and trailing blanks  \n\n",
        "Ünïcödé \U0001f4e6 \u202e\u2028 \ud7ff",
        "yes",
        "007",
        "null",
        "'\"\\ '' \"\"",
        "x" * 150_000,
        f"{{{{ inputs.values }}}} {{{{ relengq }}}} {{{{ hostvars }}}} {trap}",
    ]
    gates = running.gates("hostile")
    file = tmp_path / "inputs.json"
    file.write_text(json.dumps({"gates": str(gates.directory), "values": values}))
    run_id: str = running.shell.json("run", "write", "--inputs", str(file))["run"]
    running.wait(run_id, "succeeded")
    written = [(gates.directory / str(number)).read_bytes().decode() for number in range(len(values))]
    assert written == values
    handed_on = json.loads((gates.directory / "values.json").read_text())["values"]
    assert handed_on == values, "also after they were handed on from step to step"
    assert not trap.exists()
    assert running.get(run_id).inputs["values"] == values


def test_a_value_never_becomes_an_option(running: System) -> None:
    run_id = running.run("limited", hosts="--list-hosts")
    assert "begins with '-'" in (running.wait(run_id, "failed").reason or "")
    run_id = running.run("limited", hosts="@@/etc/passwd")
    assert "would make Ansible read a file" in (running.wait(run_id, "failed").reason or "")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["a\0b"], "NUL"),
        (["\ud800"], "half a character"),
        (["x" * 200_001], "the limit is 200000"),
        (["x" * 190_000] * 7, "the limit is 1048576"),
        (["x"] * 1001, "must have 0 to 1000 items"),
        ([1], "must be a string"),
    ],
    ids=["NUL", "surrogate", "long", "large", "many", "number"],
)
def test_values_that_nothing_could_store_are_refused(
    running: System, tmp_path: Path, values: list[str | int], said: str
) -> None:
    file = tmp_path / "inputs.json"
    file.write_text(json.dumps({"gates": str(tmp_path), "values": values}))
    done = running.shell.run("run", "write", "--inputs", str(file), code=2)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
