# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from relengq.execution.messages import ansible_error, exit_message, failure_message, item_label, shortened

NO_SUCH_PROGRAM = """\
Traceback (most recent call last):
  File "subprocess.py", line 1950, in _execute_child
    raise child_exception_type(errno_num, err_msg, err_filename)
FileNotFoundError: [Errno 2] No such file or directory: 'nosuchprogram'
"""


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"msg": "No package foo"}, "No package foo"),
        ({"msg": "non-zero return code", "stderr": "disk full\n", "stdout": "x"}, "non-zero return code: disk full"),
        ({"msg": "non-zero return code", "stderr": "", "stdout": "bad"}, "non-zero return code: bad"),
        (
            {"msg": "The command exited with a non-zero return code.", "stderr": "", "stdout": "bad"},
            "The command exited with a non-zero return code: bad",
        ),
        ({"msg": "MODULE FAILURE", "module_stderr": "Traceback"}, "MODULE FAILURE: Traceback"),
        (
            {"msg": "Module result deserialization failed: No start of json char found", "module_stderr": "no python"},
            "Module result deserialization failed: No start of json char found: no python",
        ),
        ({"msg": "Assertion failed", "assertion": "a == b"}, "Assertion failed: a == b"),
        ({"msg": "Failed: Unknown error.", "message": "no vault secrets"}, "Failed: Unknown error: no vault secrets"),
        (
            {"msg": "Task failed: Action failed: Unknown error.", "message": "no vault secrets"},
            "Task failed: Action failed: Unknown error: no vault secrets",
        ),
        (
            {"msg": "Task failed: Module failed: Error executing command.", "cmd": "nosuchprogram --x"},
            "Task failed: Module failed: Error executing command: nosuchprogram --x",
        ),
        ({"msg": "cannot", "stderr": "because"}, "cannot: because"),
        (
            {"msg": "Error executing command.", "cmd": "nosuchprogram --x", "rc": 2, "exception": NO_SUCH_PROGRAM},
            "Error executing command: No such file or directory: 'nosuchprogram' (nosuchprogram --x)",
        ),
        (
            {"msg": "Error executing command.", "cmd": ["a b", "c"], "exception": "(traceback unavailable)"},
            "Error executing command: 'a b' c",
        ),
        (
            {"msg": "c is DOOMED. non-zero return code", "assertion": "compose_pungi.rc == 0"},
            "c is DOOMED. non-zero return code",
        ),
        ({"msg": "An Unknown error. See there", "stdout": "x"}, "An Unknown error. See there"),
        ({"msg": {"a": 1}}, '{"a": 1}'),
        ({"censored": "hidden", "changed": True}, "hidden"),
        ({"rc": 3}, '{"rc": 3}'),
        ({}, "failed; the result was too large to be kept, the output has it"),
    ],
)
def test_what_a_failed_result_says(result: dict[str, object], message: str) -> None:
    assert failure_message(result) == message


def test_long_messages_keep_both_ends() -> None:
    text = shortened("a" * 50_000 + "end")
    assert len(text) < 10_200
    assert text.startswith("aaa")
    assert text.endswith("end")
    assert "[… 40003 characters cut here; the output has them …]" in text


def test_text_that_no_database_takes_is_replaced() -> None:
    assert shortened("a\0b\ud800") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"


def test_the_item_as_ansible_shows_it() -> None:
    assert item_label({"item": {"name": "x"}, "_ansible_item_label": "x"}) == "x"
    assert item_label({"item": {"name": "x"}}) == '{"name": "x"}'


@pytest.mark.parametrize(
    ("tail", "error"),
    [
        ("x\nERROR! the role 'a' was not found\n\nThe error\n", "the role 'a' was not found"),
        (
            "[WARNING]: w\n[ERROR]: YAML parsing failed: bad\nOrigin: a.yml:1:2\n\n1 x\n",
            "YAML parsing failed: bad Origin: a.yml:1:2",
        ),
        ("all is well\n", None),
        ("ok: ERROR! inside", None),
    ],
)
def test_ansibles_own_error_is_found(tail: str, error: str | None) -> None:
    assert ansible_error(tail) == error


def test_an_end_without_an_error_is_explained() -> None:
    assert exit_message(4, "a\nlast words\n") == "ansible-playbook ended with exit code 4. Its last line: last words"
    assert "out of memory" in exit_message(-9, "")
