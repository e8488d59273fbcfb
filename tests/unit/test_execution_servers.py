# SPDX-License-Identifier: GPL-3.0-or-later
"""Which server fits a play, and which Python runs ``ansible-playbook``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from relengq.execution.servers import Wanted, Warm, _Declined, _environment, _interpreter, _key

BODY = (
    "import re\nimport sys\nfrom ansible.cli.playbook import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
)


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    program = tmp_path / "ansible-playbook"
    program.write_text("#!/usr/bin/python3\n" + BODY)
    (tmp_path / "ansible.cfg").write_text("[defaults]\n")
    private = tmp_path / "play-one"
    environment = {
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        "ANSIBLE_LOCAL_TEMP": f"{private}/tmp",
        "LANG": "C.UTF-8",
        "RELENGQ_PLAY": "play-one",
    }
    return Wanted(str(program), environment, tmp_path, private)


@pytest.mark.parametrize(
    ("head", "python"),
    [
        ("#!/usr/bin/python3\n", ["/usr/bin/python3"]),
        ("#! /usr/bin/python3 -sP\n", ["/usr/bin/python3", "-sP"]),
        ("#!/bin/sh\n'''exec' /a/long/python \"$0\" \"$@\"\n' '''\n", ["/a/long/python"]),
        ("#!/bin/sh\n'''exec' \"/with a/python\" \"$0\" \"$@\"\n' '''\n", ["/with a/python"]),
    ],
)
def test_the_python_of_the_script_that_pip_installs(wanted: Wanted, head: str, python: list[str]) -> None:
    Path(wanted.program).write_text(head + "# -*- coding: utf-8 -*-\n" + BODY)
    assert _interpreter(wanted.program) == python


@pytest.mark.parametrize(
    "text",
    [
        "#!/bin/sh\nexec ansible-playbook\n",
        "#!/usr/bin/env python3\n" + BODY,
        "#!/usr/bin/python3\nmain()\n",
        "\x7fELF",
    ],
)
def test_other_programs_are_left_alone(wanted: Wanted, text: str) -> None:
    Path(wanted.program).write_text(text)
    with pytest.raises(_Declined, match="is not the script that pip installs"):
        _interpreter(wanted.program)


def test_plays_that_differ_in_their_private_directory_alone_have_one_server(wanted: Wanted, tmp_path: Path) -> None:
    private = tmp_path / "play-two"
    environment = {**wanted.environment, "ANSIBLE_LOCAL_TEMP": f"{private}/tmp", "RELENGQ_PLAY": "play-two"}
    other = replace(wanted, private=private, environment=environment)
    warm = Warm(tmp_path, 1)
    assert _key(warm, wanted, ["python"]) == _key(warm, other, ["python"])
    scratch = tmp_path / "server"
    assert _environment(other, scratch) == _environment(wanted, scratch)
    assert _environment(wanted, scratch)["ANSIBLE_LOCAL_TEMP"] == f"{scratch}/tmp"


CHANGES: dict[str, Callable[[Wanted], Wanted]] = {
    "a variable": lambda wanted: replace(wanted, environment={**wanted.environment, "ANSIBLE_FORKS": "7"}),
    "its value": lambda wanted: replace(wanted, environment={**wanted.environment, "LANG": "de_DE.UTF-8"}),
    "the directory": lambda wanted: replace(wanted, directory=wanted.directory / "other"),
    "the configuration": lambda wanted: _edited(wanted, "ansible.cfg", "[defaults]\nforks = 7\n"),
    "the program": lambda wanted: _edited(wanted, "ansible-playbook", "#!/usr/bin/python3\n\n" + BODY),
}


def _edited(wanted: Wanted, name: str, text: str) -> Wanted:
    (wanted.directory / f"{name}.new").write_text(text)
    (wanted.directory / f"{name}.new").rename(wanted.directory / name)
    return wanted


@pytest.mark.parametrize("change", CHANGES)
def test_what_ansible_reads_at_first_decides_which_server_fits(wanted: Wanted, change: str, tmp_path: Path) -> None:
    warm = Warm(tmp_path, 1)
    before = _key(warm, wanted, ["python"])
    assert _key(warm, CHANGES[change](wanted), ["python"]) != before


def test_each_worker_has_its_own(wanted: Wanted, tmp_path: Path) -> None:
    assert _key(Warm(tmp_path, 1), wanted, ["python"]) != _key(Warm(tmp_path, 2), wanted, ["python"])
