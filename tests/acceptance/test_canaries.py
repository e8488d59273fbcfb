# SPDX-License-Identifier: GPL-3.0-or-later
"""Canaries in every place where secrets and hostile text can enter: afterwards they are nowhere, and nothing ran."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import func, select

from relengq.engine.installation import Installation
from relengq.engine.intake import Intake
from relengq.messages import Message
from relengq.models import Announcement, Run
from tests.support import canaries
from tests.support.bus import Bus, bus, counts, listener
from tests.support.providers import install_provider
from tests.support.servers import PostgreSQLServer, RabbitMQServer
from tests.support.systems import System, private_redis, system
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(1200)
LONG = 300.0
"""Seconds for a play with many tasks on a machine that is busy with other things."""
TOPIC = "org.example.canary.#"
NAMES = ("FILE", "ENV", "CRED", "VAULT", "PLUG")

LEAK = """\
- name: "Leak {{ relengq.secrets.FILE }}"
  hosts: localhost
  gather_facts: false
  vars:
    known: "{{ relengq.secrets | combine({'TOKEN': relengq.inputs.token}) }}"
  tasks:
    - name: Prove that they arrived
      ansible.builtin.copy:
        content: "{{ known.keys() | sort | map('extract', known) | map('hash', 'sha256') | join(' ') }}"
        dest: "{{ relengq.inputs.gates }}/digests"
        mode: "0600"
    - name: "Print {{ handed }}"
      ansible.builtin.debug:
        msg:
          - "{{ item.value }} and {{ item.value }}"
          - "{{ item.value | b64encode }} {{ ('user:' ~ item.value) | b64encode }}"
          - "{{ ('me:' ~ item.value) | b64encode }}"
          - "{{ item.value | urlencode }} {{ item.value | to_json }} {{ item.value | to_json | to_json }}"
          - "{{ item.value | quote }} {{ item.value | to_nice_yaml(width=20) }}"
      loop: "{{ known | dict2items }}"
      loop_control: {label: "{{ item.value }}"}
    - name: Print them as a program does
      ansible.builtin.command:
        argv: [cat]
        stdin: "{{ known | to_nice_json }} {{ known.values() | join(' ') }}"
      register: printed
    - name: Show what it has printed
      ansible.builtin.debug: {var: printed.stdout_lines}
    - name: Read the inventory again
      ansible.builtin.meta: refresh_inventory
    - name: Include tasks
      ansible.builtin.include_tasks: included.yml
    - name: Wait until the test has looked at the processes
      ansible.builtin.command:
        argv: [./gate.sh, "{{ relengq.inputs.gates }}", first]
    - name: Hand them on
      ansible.builtin.set_stats:
        data:
          values: "{{ known.values() | list }}"
          map: "{{ {relengq.secrets.FILE: relengq.secrets.ENV | b64encode} }}"
    - name: Hand them on by host
      ansible.builtin.set_stats:
        data: {host: "{{ relengq.secrets.PLUG }}"}
        per_host: true
    - name: Fail with them
      ansible.builtin.fail:
        msg: "rejected: {{ known.values() | join(', ') }}"
"""
SHOW = """\
- name: Show hostile text
  hosts: localhost
  gather_facts: false
  tasks:
    - name: "Show {{ values | first }}"
      ansible.builtin.debug:
        msg: "{{ item }}"
      loop: "{{ values }}"
    - name: Let a program print it
      ansible.builtin.command:
        argv: [cat]
        stdin: "{{ values | join(' ') }}"
      register: printed
    - name: Print what it has printed
      ansible.builtin.debug:
        msg: "{{ printed.stdout }}"
    - name: Hand it on
      ansible.builtin.set_stats:
        data: {texts: "{{ values + [printed.stdout] }}"}
"""
FILES = {
    "playbooks/leak.yml": LEAK,
    "playbooks/show.yml": SHOW,
    "playbooks/included.yml": """\
- name: Read a secret where tasks are included
  ansible.builtin.assert:
    that: relengq.secrets.FILE | length > 10
    quiet: true
""",
    "playbooks/none.yml": """\
- name: See no secret
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Look
      ansible.builtin.assert:
        that: relengq.secrets == {}
""",
    "playbooks/workflows/canary.yml": """\
inputs:
  gates: {type: string}
  text: {type: string}
  token: {type: string, secret: true}
secrets: [FILE, ENV, CRED, VAULT, PLUG]
steps:
  - name: leak
    playbook: leak.yml
    vars: {handed: "{{ secrets.VAULT ~ secrets.CRED ~ inputs.token }}"}
    allow_failure: true
  - {name: none, playbook: none.yml, secrets: []}
  - {name: go, approval: {note: "{{ inputs.text }}"}}
  - name: show
    secrets: [FILE]
    playbook: show.yml
    vars: {values: ["{{ inputs.text }}", "{{ outputs.go.note }}", "{{ steps.leak.message }}", "{{ secrets.FILE }}"]}
  - name: again
    secrets: []
    playbook: show.yml
    vars: {values: ["{{ outputs.show | to_json }}", "{{ outputs.texts[0] }}"]}
""",
    "playbooks/workflows/bus.yml": """\
inputs:
  text: {type: string}
  more: {type: list}
on:
  - message: org.example.canary.#
    inputs: {text: "{{ msg.text }}", more: ["{{ headers.text }}", "{{ topic }}", "{{ msg.deep[0].text }}"]}
    key: "{{ msg.text }}"
steps:
  - {name: show, playbook: show.yml, vars: {values: "{{ [inputs.text] + inputs.more }}"}}
""",
    "workers/default.yml": """\
queues: [default]
concurrency: 2
secrets:
  FILE: {file: ../kept/file}
  ENV: {environment: CANARY_OF_THE_ENVIRONMENT}
  CRED: {credential: canary}
  VAULT: {vault: ../kept/vault.yml, key: canary}
  PLUG: {provider: acme, options: {file: kept/plug}}
ansible: {vault_password_file: ../kept/password}
""",
}


def traps(trap: Path) -> str:
    """Text that runs a command wherever it is taken for a template, for a shell's word, or for YAML."""
    return (
        f"{{{{ lookup('pipe', 'touch {trap}') }}}} {{% if lookup('pipe', 'touch {trap}') %}}{{% endif %}} "
        f"{{{{ query('ansible.builtin.pipe', 'touch {trap}') }}}} $(touch {trap}) `touch {trap}` "
        f"!!python/object/apply:os.system ['touch {trap}']"
    )


def keep(directory: Path) -> dict[str, str]:
    """Put a canary into each source of secrets; returns the canaries by their names."""
    made = {name: f'{name}-it\'s "{uuid.uuid4().hex}" ü/+&?{uuid.uuid4().hex}' for name in (*NAMES, "TOKEN")}
    kept = directory / "kept"
    (kept / "credentials").mkdir(parents=True)
    (kept / "password").write_text(uuid.uuid4().hex)
    for file, name in (("file", "FILE"), ("credentials/canary", "CRED"), ("plug", "PLUG"), ("token", "TOKEN")):
        (kept / file).write_text(f"{made[name]}\n")
    (kept / "vault.yml").write_text(f"canary: '{made['VAULT'].replace(chr(39), chr(39) * 2)}'\n")
    program = Path(sys.executable).with_name("ansible-vault")
    subprocess.run(
        [program, "encrypt", f"--vault-password-file={kept}/password", kept / "vault.yml"],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


@contextmanager
def installation(
    directory: Path, broker_url: str, database_url: str = "", on: Bus | None = None
) -> Iterator[tuple[System, dict[str, str]]]:
    """A worker and a clock whose home and temporary directory are the test's own, with the canaries in their places.

    ``on`` a bus it announces all that it does, and listens.
    """
    made = keep(directory)
    code = f"def safe(name, options):\n    return open('{directory}/' + options['file']).read().strip()\n"
    for name in ("home", "tmp"):
        (directory / name).mkdir()
    environment = {
        "CANARY_OF_THE_ENVIRONMENT": made["ENV"],
        "CREDENTIALS_DIRECTORY": str(directory / "kept/credentials"),
        "PYTHONPATH": install_provider(directory / "kept", "acme", code),
        "HOME": str(directory / "home"),
        "TMPDIR": str(directory / "tmp"),
    }
    with system(directory, {**FILES, **(_announcing(on) if on else {})}, broker_url, database_url) as running:
        running.worker(**environment)
        running.clock()
        if on:
            on.declare(TOPIC)  # what is sent before the listener is there waits for it
            listener(running, on.directory / "bus.toml")
        yield running, made


def _announcing(on: Bus) -> dict[str, str]:
    """Files of a site that announces whatever it can, also in bodies of its own."""
    file = on.configuration(TOPIC, top=f'publish_exchange = "{on.exchange}"')
    said = ("{{ inputs.text }}", "{{ steps.leak.message }}", "{{ outputs.values | to_json }}", "{{ outputs.texts }}")
    bodies = {"canary": json.dumps(dict(zip("abcd", said, strict=True))), "bus": json.dumps({"text": said[0]})}
    files = {"relengq.toml": f'bus_config = "{file}"\n'}
    for workflow, body in bodies.items():
        name = f"playbooks/workflows/{workflow}.yml"
        told = f"[run.started, step.finished, run.waiting, run.finished, {{topic: said.{workflow}, body: {body}}}]"
        files[name] = f"announce: {told}\n{FILES[name]}"
    return files


def send_by_hand(running: System, messages: list[Message]) -> None:
    """What a listener does with messages."""
    quiet = Installation(running.installation.settings, running.installation.database, lambda parcel: None)
    assert [str(receipt.disposition) for receipt in Intake(quiet).take(messages)] == ["started", "parked"]


def play_everything(running: System, text: str, send: Callable[[list[Message]], None]) -> list[str]:
    """One run by a person, one by a message, one by the clock; and a message that is parked. Returns the runs."""
    gates = running.gates("canary")
    token = running.site.parent / "kept/token"
    by_person = running.run("canary", gates=str(gates.directory), text=text, token=f"@{token}")
    headers = {"text": text, "fedora_messaging_severity": 20}
    body = {"text": text, "deep": [{"text": text}], text: text}
    good = Message("m1", f"org.example.canary.{text}"[:200], headers, json.dumps(body).encode())
    bad = Message("m2", "org.example.canary.bad", headers, json.dumps({"text": [text]}).encode())
    send([good, bad])
    running.reach(by_person, gates, "first start", timeout=LONG)
    gates.open("first")
    running.wait(by_person, "waiting", timeout=LONG)
    running.shell.run("approve", by_person, "--note", text)
    running.wait(by_person, "succeeded", timeout=LONG)

    by_message = _run_by(running, "message")
    schedule = "hostile: {workflow: bus, every: 1s, inputs: {text: TEXT, more: [TEXT]}, enabled: true}\n"
    schedule = schedule.replace("TEXT", "'" + text.replace("'", "''") + "'")
    running.write({"beat/hostile.yml": schedule})
    by_clock = _run_by(running, "schedule")
    running.write({"beat/hostile.yml": schedule.replace("true", "false")})
    for run_id in (by_message, by_clock):
        running.wait(run_id, "succeeded", timeout=LONG)
    return [by_person, by_message, by_clock]


def _run_by(running: System, kind: str) -> str:
    """The first run that was started so, awaited."""

    def found() -> str | None:
        with running.installation.database.read() as session:
            return session.scalar(select(Run.id).where(Run.trigger_kind == kind).order_by(Run.id).limit(1))

    wait_until(lambda: found() is not None, LONG, f"a run by {kind}")
    return str(found())


def _unsent(running: System) -> int:
    with running.installation.database.read() as session:
        count = select(func.count()).select_from(Announcement).where(Announcement.sent_at.is_(None))
        return session.scalar(count) or 0


def leave_one_on_the_broker(running: System, text: str) -> None:
    """With the worker gone, a run's message stays in its queue."""
    for process in running.processes:
        process.stop(30)
    token = running.site.parent / "kept/token"
    running.run("canary", gates="/nowhere", text=text, token=f"@{token}")


def told(running: System, runs: list[str]) -> Iterator[tuple[str, bytes]]:
    """What the command line says of the runs."""
    for verb in ("status", "logs", "history"):
        yield verb, running.shell.run(verb, runs[0], "--json").stdout.encode()
    yield "parked", running.shell.run("parked", "--json").stdout.encode()


def searched(running: System, runs: list[str]) -> Iterator[tuple[str, bytes]]:
    """Everything but the broker's and the database's own files."""
    directory = running.site.parent
    yield from canaries.files(directory, without=(directory / "kept",))
    yield from canaries.tables(running.database_url or running.installation.settings.database_url)
    yield from told(running, runs)


def check_arrival(running: System, made: dict[str, str], run_id: str) -> None:
    """The playbook had the values, and what it said of them was masked."""
    values = [made[name] for name in sorted(made)]
    digests = (running.gates("canary").directory / "digests").read_text().split()
    assert digests == [hashlib.sha256(value.encode()).hexdigest() for value in values]
    output = running.output(run_id)
    assert output.count("********") > 50
    run = running.get(run_id)
    leak = next(step for step in run.steps if step.name == "leak")
    assert leak.reason == "localhost: Fail with them: rejected: " + ", ".join(["********"] * len(made))


def test_with_sqlite_and_redis(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    with (
        private_redis(tmp_path / "redis") as broker,
        installation(tmp_path / "all", broker.url) as (
            running,
            made,
        ),
    ):
        looked_for = canaries.wanted(made)
        with canaries.watched(looked_for) as shown:
            runs = play_everything(running, traps(trap), partial(send_by_hand, running))
        assert shown == []
        check_arrival(running, made, runs[0])
        leave_one_on_the_broker(running, traps(trap))
        places = [*searched(running, runs), *canaries.keys(broker.url), *canaries.files(broker.directory)]
        assert [hit for where, data in places for hit in canaries.hits(where, data, looked_for)] == []
        assert any("Redis key b'default'" in where for where, _ in places), "there was a message to look at"
    assert not trap.exists()


@pytest.mark.rabbitmq
@pytest.mark.postgresql
def test_with_postgresql_and_rabbitmq(
    tmp_path: Path, rabbitmq_server: RabbitMQServer, postgresql_server: PostgreSQLServer, postgresql_url: str
) -> None:
    trap = tmp_path / "trap"
    with (
        bus(rabbitmq_server, tmp_path) as on,
        installation(tmp_path / "all", rabbitmq_server.url, postgresql_url, on) as (running, made),
    ):
        heard = on.declare("#", queue=f"{on.queue}.heard")

        def send(messages: list[Message]) -> None:
            for message in messages:
                on.send(message.topic, message.body, dict(message.headers), message_id=message.id)
            wait_until(lambda: counts(running.installation)["parked"] == 1, LONG, running.logs)

        looked_for = canaries.wanted(made)
        with canaries.watched(looked_for) as shown:
            runs = play_everything(running, traps(trap), send)
        assert shown == []
        check_arrival(running, made, runs[0])
        wait_until(lambda: not _unsent(running), LONG, "all is announced")
        leave_one_on_the_broker(running, traps(trap))
        messages = list(canaries.messages(rabbitmq_server.url, "default"))
        assert messages, "there was a message to look at"
        announced = list(canaries.messages(rabbitmq_server.url, heard))
        for word in (b"said.canary", b"said.bus", b"run.waiting", b"********", str(trap).encode()):
            assert any(word in data for _, data in announced), word
        name = urlsplit(postgresql_url).path.lstrip("/")
        places = [*searched(running, runs), *messages, *announced, ("pg_dump", postgresql_server.dump(name))]
        assert [hit for where, data in places for hit in canaries.hits(where, data, looked_for)] == []
    assert not trap.exists()
