# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a worker finds the secrets of its pool, and what it says of those that it does not find."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from relengq.errors import SecretFault
from relengq.pools import Pool
from relengq.secrets import SECRET_LIMIT, Surroundings, examine, exposed, plugins, resolve, withheld
from tests.support.providers import install_provider

VALUE = "v4lue-of-a-s3cret"


def pool(**more: object) -> Pool:
    return Pool.model_validate({"name": "main", "queues": ["default"], **more})


def around(site: Path, **environment: str) -> Surroundings:
    return Surroundings(site, environment)


def found(site: Path, source: Mapping[str, object], **environment: str) -> str:
    return resolve(["TOKEN"], pool(secrets={"TOKEN": source}), around(site, **environment))["TOKEN"]


def reason(site: Path, source: Mapping[str, object], **environment: str) -> str:
    """Why it is not found: without the part that is always the same, and never with the value."""
    with pytest.raises(SecretFault) as raised:
        found(site, source, **environment)
    said = str(raised.value)
    assert VALUE not in said
    before, _, after = said.partition("cannot be had on this worker: ")
    assert before == "The secret 'TOKEN' of the pool 'main' "
    return after


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"abc", "abc"),
        (b"abc\n", "abc"),
        (b"abc\r\n", "abc"),
        (b"abc\n\n", "abc\n"),
        (b" a b \n", " a b "),
        ("kö\n".encode(), "kö"),
        (b"x" * SECRET_LIMIT, "x" * SECRET_LIMIT),
    ],
    ids=["bare", "newline", "DOS", "two newlines", "blanks", "UTF-8", "large"],
)
def test_a_file_is_the_secret_but_for_one_newline(tmp_path: Path, content: bytes, value: str) -> None:
    (tmp_path / "token").write_bytes(content)
    assert found(tmp_path, {"file": "token"}) == value
    assert found(Path("/"), {"file": str(tmp_path / "token")}) == value


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n", "it is empty."),
        (b"", "it is empty."),
        (b"v4lue-of-a-s3cret\xff", "it is not UTF-8; encode it in base64, and decode it in the playbook."),
        (b"v4lue-of-a-s3cret\0", "it has a NUL in it; encode it in base64, and decode it in the playbook."),
        (b"x" * (SECRET_LIMIT + 1), f"it is larger than {SECRET_LIMIT} bytes."),
    ],
    ids=["newline", "empty", "Latin-1", "NUL", "too large"],
)
def test_what_no_playbook_could_use_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "token").write_bytes(content)
    assert reason(tmp_path, {"file": "token"}) == said
    assert reason(tmp_path, {"credential": "token"}, CREDENTIALS_DIRECTORY=str(tmp_path)) == said


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    assert reason(tmp_path, {"file": "missing"}) == f"the file {tmp_path}/missing does not exist."
    assert reason(tmp_path, {"file": "pipe"}) == f"{tmp_path}/pipe is no regular file."
    assert reason(tmp_path, {"file": "."}) == f"the file {tmp_path} cannot be read: Is a directory."
    assert reason(tmp_path, {"file": "loop"}).startswith(f"the file {tmp_path}/loop cannot be read: Too many levels")
    assert reason(tmp_path, {"file": "a\0b"}).endswith("its name has a NUL.")


def test_a_variable_of_the_workers_environment(tmp_path: Path) -> None:
    assert found(tmp_path, {"environment": "KOJI_TOKEN"}, KOJI_TOKEN=f"{VALUE}\n") == f"{VALUE}\n"
    said = reason(tmp_path, {"environment": "KOJI_TOKEN"})
    assert said == "the variable KOJI_TOKEN is not in the worker's environment."
    assert "not UTF-8" in reason(tmp_path, {"environment": "KOJI_TOKEN"}, KOJI_TOKEN=f"{VALUE}\udcff")
    assert "is empty" in reason(tmp_path, {"environment": "KOJI_TOKEN"}, KOJI_TOKEN="")


def test_a_credential_of_systemd(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{VALUE}\n")
    assert found(tmp_path, {"credential": "token"}, CREDENTIALS_DIRECTORY=str(tmp_path)) == VALUE
    assert "CREDENTIALS_DIRECTORY is not set" in reason(tmp_path, {"credential": "token"})
    missing = reason(tmp_path, {"credential": "other"}, CREDENTIALS_DIRECTORY=str(tmp_path))
    assert missing == f"the file {tmp_path}/other does not exist."


PASSWORD = "hunter2"


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    """A site with encrypted files, and the password beside it."""
    site = tmp_path / "site"
    (site / "playbooks").mkdir(parents=True)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    for name, text in {"whole": f"{VALUE}\n", "map.yml": f"TOKEN: {VALUE}\nport: 5\n", "list.yml": "- x\n"}.items():
        (site / name).write_text(text)
        program = Path(sys.executable).with_name("ansible-vault")
        subprocess.run(
            [program, "encrypt", f"--vault-password-file={tmp_path}/password", site / name],
            check=True, capture_output=True,
        )  # fmt: skip
    return site


def test_a_file_of_ansible_vault_with_the_password_where_plays_have_it(vault: Path, tmp_path: Path) -> None:
    password = str(tmp_path / "password")
    whole, keyed = {"vault": "whole"}, {"vault": "map.yml", "key": "TOKEN"}
    assert found(vault, whole, ANSIBLE_VAULT_PASSWORD_FILE=password) == VALUE
    (vault / "playbooks/ansible.cfg").write_text("[defaults]\nvault_password_file = ../../password\n")
    assert found(vault, keyed) == VALUE
    (vault / "playbooks/ansible.cfg").write_text("[defaults]\nvault_identity_list = prod@../../password\n")
    assert found(vault, keyed) == VALUE


def test_the_pool_can_say_where_the_password_is(vault: Path, tmp_path: Path) -> None:
    secrets = {"TOKEN": {"vault": "whole"}, "AGAIN": {"vault": "whole"}}
    for more in (
        {"ansible": {"vault_password_file": "../password"}},
        {"environment": {"ANSIBLE_VAULT_PASSWORD_FILE": str(tmp_path / "password")}},
    ):
        made = pool(secrets=secrets, **more)
        assert resolve(["TOKEN", "AGAIN"], made, around(vault)) == {"TOKEN": VALUE, "AGAIN": VALUE}


def test_the_password_can_come_from_a_program_that_is_ended_when_it_hangs(
    vault: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ask"
    program.write_text(f"#!/bin/sh\necho {PASSWORD}\n")
    program.chmod(0o755)
    made = pool(secrets={"TOKEN": {"vault": "whole"}}, ansible={"vault_password_file": str(program)})
    assert resolve(["TOKEN"], made, around(vault, PATH=os.environ["PATH"])) == {"TOKEN": VALUE}
    program.write_text("#!/bin/sh\nsleep 300\n")
    monkeypatch.setattr("relengq.secrets.vault._SECONDS", 0.5)
    with pytest.raises(SecretFault, match=r"has not decrypted .*whole within 0\.5 seconds"):
        resolve(["TOKEN"], made, around(vault, PATH=os.environ["PATH"]))


def test_the_program_for_the_password_gets_no_secret_of_another_pool(vault: Path, tmp_path: Path) -> None:
    program = tmp_path / "ask"
    program.write_text(f'#!/bin/sh\n[ -z "$OTHER" ] && echo {PASSWORD}\n')
    program.chmod(0o755)
    made = pool(secrets={"TOKEN": {"vault": "whole"}}, ansible={"vault_password_file": str(program)})
    both = {"PATH": os.environ["PATH"], "OTHER": VALUE}
    with pytest.raises(SecretFault):
        resolve(["TOKEN"], made, Surroundings(vault, both))
    assert resolve(["TOKEN"], made, Surroundings(vault, both, frozenset({"OTHER"}))) == {"TOKEN": VALUE}


def test_what_ansible_vault_cannot_give(vault: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong\n")
    (vault / "plain").write_text(VALUE)
    password = {"ANSIBLE_VAULT_PASSWORD_FILE": str(tmp_path / "password")}
    assert "cannot decrypt" in reason(vault, {"vault": "whole"})
    said = reason(vault, {"vault": "whole"}, ANSIBLE_VAULT_PASSWORD_FILE=str(tmp_path / "wrong"))
    assert "Decryption failed" in said
    assert "\n" not in said
    for source, expected in (
        ({"vault": "missing"}, "does not exist."),
        ({"vault": "plain"}, "is not encrypted by ansible-vault as a whole."),
        ({"vault": "map.yml", "key": "NONE"}, "has no key 'NONE'."),
        ({"vault": "list.yml", "key": "NONE"}, "has no key 'NONE'."),
        ({"vault": "map.yml", "key": "port"}, "under 'port' is no text; put it in quotes."),
    ):
        assert reason(vault, source, **password).endswith(expected)


def test_a_provider_that_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = install_provider(
        tmp_path, "acme", """
        import asyncio, sys, time
        from relengq.errors import SecretFault
        def safe(name, options):
            if options.get("fail"):
                raise SecretFault("the safe is locked.")
            if options.get("break"):
                raise ValueError("v4lue-of-a-s3cret")
            if options.get("cancel"):
                raise asyncio.CancelledError("v4lue-of-a-s3cret")
            if options.get("exit"):
                sys.exit("v4lue-of-a-s3cret")
            if options.get("hang"):
                time.sleep(300)
            return 5 if options.get("number") else f"{name} of {options['item']}"
        """,
    )  # fmt: skip
    monkeypatch.syspath_prepend(installed)
    assert found(tmp_path, {"provider": "acme", "options": {"item": "koji"}}) == "TOKEN of koji"
    for option, said in (
        ("fail", "the provider 'acme' says: the safe is locked."),
        ("break", "the provider 'acme' failed with ValueError."),
        ("cancel", "the provider 'acme' failed with CancelledError."),
        ("exit", "the provider 'acme' failed with SystemExit."),
        ("number", "the provider 'acme' gave no text but int."),
    ):
        assert reason(tmp_path, {"provider": "acme", "options": {option: True}}) == said
    assert "'acm' is not installed on this worker (installed: acme)" in reason(tmp_path, {"provider": "acm"})
    monkeypatch.setattr(plugins, "_SECONDS", 0.1)
    assert "has not answered within 0.1 seconds" in reason(tmp_path, {"provider": "acme", "options": {"hang": True}})


@pytest.mark.parametrize(
    ("name", "code", "error"),
    [("broken", "import there_is_no_such_module", "ModuleNotFoundError"), ("ended", "raise SystemExit", "SystemExit")],
)
def test_a_provider_that_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str, error: str
) -> None:
    monkeypatch.syspath_prepend(install_provider(tmp_path, name, code))
    assert reason(tmp_path, {"provider": name}) == f"the provider '{name}' cannot be loaded: {error}."


def test_each_attempt_gets_the_secret_as_it_is_then(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("old")
    assert found(tmp_path, {"file": "token"}) == "old"
    (tmp_path / "token").write_text("new")
    assert found(tmp_path, {"file": "token"}) == "new"


def test_a_secret_that_the_pool_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(SecretFault, match=r"'KEY' of the pool 'main' .* workers/main.yml does not say where it is"):
        resolve(["KEY"], pool(), around(tmp_path))
    with pytest.raises(SecretFault, match="'KEY' cannot be had on this worker: it serves no pool"):
        resolve(["KEY"], None, around(tmp_path))
    assert resolve([], None, around(tmp_path)) == {}


def test_an_examination_tells_no_values(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(VALUE)
    made = pool(secrets={"A": {"file": "token"}, "B": {"file": "missing"}})
    assert dict(examine(made, around(tmp_path))) == {"A": None, "B": f"the file {tmp_path}/missing does not exist"}


def test_plays_do_not_inherit_where_secrets_come_from() -> None:
    assert withheld([pool(secrets={"A": {"file": "x"}})]) == frozenset()
    made = pool(secrets={"A": {"environment": "KOJI"}, "B": {"credential": "x"}})
    assert withheld([pool(), made]) == {"KOJI", "CREDENTIALS_DIRECTORY"}


@pytest.mark.parametrize(("mode", "is_exposed"), [(0o600, False), (0o640, False), (0o660, True), (0o604, True)])
def test_permissions_that_are_too_open(tmp_path: Path, mode: int, is_exposed: bool) -> None:
    path = tmp_path / "token"
    path.touch()
    path.chmod(mode)
    assert exposed(path) is is_exposed
    assert not exposed(tmp_path / "missing")
