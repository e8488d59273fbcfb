# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets of pools in the engine: what a step gets, what fails it, and what the doctor says of them."""

from __future__ import annotations

import logging
import os
import socket
import textwrap
from pathlib import Path

import pytest
from sqlalchemy import select

from relengq.doctor.secrets import secrets as examined
from relengq.engine import execute as execution
from relengq.engine.hidden import Hidden
from relengq.engine.orders import Prepared, play_order, pool_secrets, prepare
from relengq.errors import SecretFault
from relengq.execution import Outcome, PlayOrder
from relengq.models import Attempt, Run, Worker
from relengq.settings import POOL_VARIABLE
from relengq.testing import Bench

VALUE = "v4lue-of-a-s3cret"
WORKFLOW = """\
secrets: [TOKEN, PIN]
steps:
  - {name: both, playbook: hello.yml, vars: {login: "releng:{{ secrets.TOKEN }}"}}
  - {name: one, playbook: hello.yml, secrets: [PIN], vars: {pins: ["{{ secrets.PIN }}"]}}
  - {name: none, playbook: hello.yml, secrets: []}
"""
POOL = """\
queues: [default]
secrets: {TOKEN: {file: token}, PIN: {environment: PIN_OF_A_SMARTCARD}, CRED: {credential: unused}}
ansible: {vault_password_file: vault/password}
"""


@pytest.fixture
def bench(site: Path, tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Bench:
    (site / "playbooks/workflows/tell.yml").write_text(WORKFLOW)
    (site / "workers/default.yml").write_text(POOL)
    (site / "token").write_text(f"{VALUE}\n")
    (site / "token").chmod(0o600)
    monkeypatch.setenv(POOL_VARIABLE, "default")
    monkeypatch.setenv("PIN_OF_A_SMARTCARD", "123456")
    made = Bench(site, tmp_path / "bench", sqlite_url)
    assert made.installation.site.faults == ()
    made.start("tell")
    return made


def prepared(bench: Bench) -> Prepared:
    """The next attempt, claimed and read."""
    held = bench.claim()
    assert held is not None
    with bench.installation.database.read() as session:
        found = prepare(session.get_one(Attempt, held.attempt_id))
        _ = found.run.definition.body, [step.outputs for step in found.steps]
    bench.finish(held)
    return found


def secrets_of(bench: Bench, found: Prepared) -> dict[str, str]:
    return pool_secrets(bench.installation, found, bench.installation.settings.site)


def order(bench: Bench) -> PlayOrder:
    found = prepared(bench)
    inputs = bench.installation.secrets.open(found.run.sealed_inputs)
    secrets, hidden = secrets_of(bench, found), Hidden(found.run.inputs, inputs)
    hidden.secrets(secrets.values())
    return play_order(bench.installation, found, inputs, secrets, hidden, bench.installation.settings.site)


def test_a_step_gets_what_it_wants_and_no_more(bench: Bench) -> None:
    both, one, none = order(bench), order(bench), order(bench)
    assert both.variables["relengq"]["secrets"] == {"TOKEN": VALUE, "PIN": "123456"}  # type: ignore[index, call-overload]
    assert both.variables["login"] == f"releng:{VALUE}"
    assert both.hidden == (VALUE, "123456")
    assert one.variables["relengq"]["secrets"] == {"PIN": "123456"}  # type: ignore[index, call-overload]
    assert one.variables["pins"] == ["123456"]
    assert none.variables["relengq"]["secrets"] == {}  # type: ignore[index, call-overload]
    assert none.hidden == ()


def test_plays_find_the_vaults_password_and_do_not_inherit_the_pools_secrets(bench: Bench, site: Path) -> None:
    made = order(bench)
    assert made.withheld == {"PIN_OF_A_SMARTCARD", "CREDENTIALS_DIRECTORY"}
    assert made.environment["ANSIBLE_VAULT_PASSWORD_FILE"] == str(site / "vault/password")
    assert VALUE not in repr(made)


def test_plays_do_not_inherit_the_secrets_of_any_pool(
    bench: Bench, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "workers/plain.yml").write_text("queues: [plain]\nenvironment: {SHARED: its own}\n")
    (site / "workers/third.yml").write_text("queues: [third]\nsecrets: {S: {environment: SHARED}}\n")
    for variable in ("PIN_OF_A_SMARTCARD", "SHARED"):
        monkeypatch.setenv(variable, VALUE)
    for own in ("plain", None):
        monkeypatch.setenv(POOL_VARIABLE, own) if own else monkeypatch.delenv(POOL_VARIABLE)
        found = prepared(bench)
        made = play_order(bench.installation, found, {}, {"TOKEN": "", "PIN": ""}, Hidden({}, {}), site)
        assert made.withheld == {"PIN_OF_A_SMARTCARD", "SHARED", "CREDENTIALS_DIRECTORY"}
        assert made.environment.get("SHARED") == ("its own" if own else None)


DERIVED = """\
secrets: [TOKEN]
inputs:
  user: {type: string}
  login: {type: string, secret: true}
steps:
  - name: only
    playbook: hello.yml
    vars:
      part: "{{ secrets.TOKEN.split(':')[1] }}"
      within: ["--password={{ inputs.login.split('/')[1] }}", {deep: "{{ (inputs.login + '/x').split('/') }}"}]
      length: "{{ secrets.TOKEN | length }}"
      sure: "{{ 'true' if secrets.TOKEN else 'false' }}"
      open: "{{ inputs.user }}@host"
    limit: "{{ inputs.user }}"
"""


@pytest.fixture
def derived(bench: Bench, site: Path) -> Bench:
    (site / "playbooks/workflows/derived.yml").write_text(DERIVED)
    (site / "token").write_text("releng:hunter2-Qx81kz")
    bench.sent.clear()
    return bench


def test_what_expressions_make_of_secrets_is_hidden_too(derived: Bench) -> None:
    derived.start("derived", user="releng", login="releng/s3same-open")
    made = order(derived)
    assert made.variables["part"] == "hunter2-Qx81kz"
    assert set(made.hidden) == {
        "releng/s3same-open", "releng:hunter2-Qx81kz",  # as they are
        "hunter2-Qx81kz", "s3same-open", "x",  # and their parts, but for the open input's value, numbers and 'true'
    }  # fmt: skip


def test_what_is_in_a_secret_that_is_json_is_hidden_too(derived: Bench, site: Path) -> None:
    whole = '{"user": "releng", "ssl": "true", "port": 5432, "keys": [{"password": "hunter2-Qx81kz"}]}'
    (site / "token").write_text(whole)
    text = DERIVED.replace("secrets.TOKEN.split(':')[1]", "(secrets.TOKEN | from_json)['keys'][0].password")
    (site / "playbooks/workflows/derived.yml").write_text(text)
    derived.start("derived", user="qa", login='["k1-of-a-list/2"]')
    made = order(derived)
    assert {whole, "releng", "hunter2-Qx81kz", '["k1-of-a-list/2"]', "k1-of-a-list/2"} <= set(made.hidden)
    assert not {"true", "5432", "qa"} & set(made.hidden)


def test_a_message_tells_nothing_of_what_was_made_of_a_secret(derived: Bench, site: Path) -> None:
    lookup = "{{ {'a': 1}[secrets.TOKEN.split(':')[1]] }}"
    text = DERIVED.replace("      length:", f'      wrong: "{lookup}"\n      length:')
    (site / "playbooks/workflows/derived.yml").write_text(text)
    run_id = derived.start("derived", user="releng", login="releng/s3same-open")
    execution.execute(derived.installation, derived.sent.popleft().attempt_id, "w@h")
    reason = derived.run(run_id).steps[0].reason or ""
    assert "has no attribute '********'" in reason


@pytest.mark.parametrize("host", ["", ",", "all"])
def test_a_value_cannot_turn_one_host_into_all(derived: Bench, host: str) -> None:
    run_id = derived.start("derived", user=host, login="releng/s3same-open")
    execution.execute(derived.installation, derived.sent.popleft().attempt_id, "w@h")
    step = derived.run(run_id).steps[0]
    assert (step.state, (step.reason or "").partition(" ")[0]) == ("failed", "limit")


def test_the_next_attempt_has_a_secret_that_has_been_changed(bench: Bench, site: Path) -> None:
    found = prepared(bench)
    assert secrets_of(bench, found)["TOKEN"] == VALUE
    (site / "token").write_text("changed")
    assert secrets_of(bench, found)["TOKEN"] == "changed"


def test_a_secret_that_is_not_there_fails_the_attempt_with_its_sentence(bench: Bench, site: Path) -> None:
    (site / "token").unlink()
    execution.execute(bench.installation, bench.sent.popleft().attempt_id, "w@h")
    step = bench.run(_only_run(bench)).steps[0]
    assert step.state == "failed"
    assert step.reason == (
        f"The secret 'TOKEN' of the pool 'default' cannot be had on this worker: the file {site}/token does not exist."
    )


def _only_run(bench: Bench) -> str:
    with bench.installation.database.read() as session:
        return session.scalars(select(Run.id)).one()


def test_a_worker_of_no_pool_has_no_secrets(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    found = prepared(bench)
    monkeypatch.delenv(POOL_VARIABLE)
    with pytest.raises(SecretFault, match="it serves no pool"):
        secrets_of(bench, found)


def test_a_bug_does_not_tell_what_it_has_seen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(given: PlayOrder, *_: object) -> Outcome:
        raise RuntimeError(f"{given.hidden[0]} and {given.hidden[0]!r}")

    monkeypatch.setattr(execution, "play", broken)
    with caplog.at_level(logging.INFO):
        execution.execute(bench.installation, bench.sent.popleft().attempt_id, "w@h")
    told = caplog.text + "".join(capsys.readouterr())
    assert "attempt.bug" in told
    assert "RuntimeError: ******** and" in told
    assert VALUE not in told


def test_the_doctor_says_which_can_be_had_as_the_worker_sees_them(
    bench: Bench, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "token").chmod(0o644)
    found = {(finding.level, finding.subject): finding.message for finding in examined(bench.installation)}
    assert found["ok", "secrets of default"] == "can be had here: PIN, TOKEN"
    assert found["warn", "secret CRED of default"].startswith("systemd has handed no credentials to this worker")
    assert f"may use {site}/token" in found["warn", "secrets of default"]
    assert VALUE not in repr(found)

    # A worker of the pool lives here: what counts is the environment that it was started in, not the doctor's own.
    with bench.installation.database.write() as session:
        now = bench.installation.database.now(session)
        own = Worker(
            name="w@h", host=socket.gethostname(), pid=os.getpid(), pool="default", queues=["default"], concurrency=1,
            version="1", started_at=now, seen_at=now,
        )  # fmt: skip
        session.add(own)
    found = {(finding.level, finding.subject): finding.message for finding in examined(bench.installation)}
    assert found["ok", "secrets of default"] == "can be had here: TOKEN"
    assert found["bad", "secret PIN of default"] == "the variable PIN_OF_A_SMARTCARD is not in the worker's environment"


def test_the_doctor_looks_at_pools_of_this_host_only(bench: Bench, site: Path) -> None:
    (site / "workers/other.yml").write_text(textwrap.dedent(POOL).replace("default", "other"))
    subjects = {finding.subject for finding in examined(bench.installation)}
    assert {"secrets of default", "secrets of other"} <= subjects
    with bench.installation.database.write() as session:
        now = bench.installation.database.now(session)
        more = {"queues": ["other"], "concurrency": 1, "version": "1", "started_at": now, "seen_at": now}
        session.add(Worker(name="w@h", host=socket.gethostname(), pid=os.getpid(), pool="other", **more))
    subjects = {finding.subject for finding in examined(bench.installation)}
    assert "secrets of default" not in subjects
