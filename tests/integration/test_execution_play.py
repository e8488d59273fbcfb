# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays of real playbooks by the real ansible-playbook: what comes out of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from relengq.documents import Json
from relengq.execution import Stop, play
from relengq.states import AttemptState
from tests.support.plays import Collected, Project, never


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


LOCAL = 'ansible_connection=local ansible_python_interpreter="{{ ansible_playbook_python }}"'
TEN = {
    "ok": ("ok", False),
    "changed": ("changed", True),
    "skipped": ("skipped", False),
    "ignored": ("ignored", True),
    "rescued": ("rescued", True),
    "unreachable but ignored": ("ignored", False),
    "hidden": ("ignored", False),
    "r : in a role": ("changed", True),
    "loop": ("failed", True),
}


def test_every_task_is_told_with_its_status_and_the_first_failure_is_the_message(project: Project) -> None:
    project.file("roles/r/tasks/main.yml", "- name: in a role\n  command: 'true'\n")
    project.tasks(
        """
        - {name: ok, debug: {msg: hello}}
        - {name: changed, command: "true"}
        - {name: skipped, command: "true", when: false}
        - {name: ignored, command: "sh -c 'echo why >&2; exit 3'", ignore_errors: true}
        - block:
            - {name: rescued, command: "false"}
          rescue:
            - {name: saved, debug: {msg: saved}}
        - name: unreachable but ignored
          ping:
          delegate_to: away
          ignore_unreachable: true
          vars: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 1, ansible_python_interpreter: x}
        - {name: hidden, fail: {msg: the password}, no_log: true, ignore_errors: true}
        - import_role: {name: r}
        - name: loop
          command: "sh -c 'echo {{ item }} is bad >&2; exit {{ item }}'"
          loop: [0, 7, 8]
        """
    )
    outcome, sink = project.play()
    assert {name: (sink.named(name).status, sink.named(name).changed) for name in TEN} == TEN
    assert outcome.state is AttemptState.FAILED
    assert outcome.return_code == 2
    message = outcome.message or ""
    assert message.startswith("localhost: loop (item=7): ")
    assert message.endswith("non-zero return code: 7 is bad")
    assert outcome.stats["localhost"] == {
        "ok": 7,
        "changed": 3,
        "unreachable": 0,
        "failed": 1,
        "skipped": 1,
        "rescued": 1,
        "ignored": 3,
    }
    assert (sink.named("ignored").message or "").endswith("non-zero return code: why")
    assert "the password" not in repr(sink.tasks)
    assert "no_log" in (sink.named("hidden").message or "")
    assert sink.named("changed").action.endswith("command")
    assert sink.named("changed").duration > 0
    assert sink.named("ok").play == "The play"
    assert ("The play", "changed", "localhost") in sink.places
    assert len(sink.threads) == 1


def test_values_are_handed_on_with_set_stats(project: Project) -> None:
    project.file("inventory", f"a {LOCAL}\nb {LOCAL}\n")
    project.file(
        "play.yml",
        """
        - name: One
          hosts: all
          gather_facts: false
          tasks:
            - set_stats: {data: {compose_id: F-1, n: 1, tree: {a: [1, 2.5, null, true, "{{ 'é' }}"]}}}
              run_once: true
            - set_stats: {data: {size: "size of {{ inventory_hostname }}"}, per_host: true}
        - name: Two
          hosts: all
          gather_facts: false
          tasks:
            - set_stats: {data: {n: 5, late: yes}, aggregate: false}
        """,
    )
    outcome, _ = project.play()
    assert outcome.state is AttemptState.SUCCEEDED
    assert outcome.message is None
    assert outcome.outputs == {
        "compose_id": "F-1",
        "n": 5,
        "tree": {"a": [1, 2.5, None, True, "é"]},
        "late": True,
        "size": {"a": "size of a", "b": "size of b"},
    }


def test_values_stay_values(project: Project, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    evil = f"{{{{ lookup('pipe', 'touch {touched}') }}}}"
    values: dict[str, Json] = {
        "plain": evil,
        "deep": [{"a": [evil, {"b": evil}]}, 1, None, True, 1.5, {}, []],
        "big": "x" * 200_000,
        "odd": "é\u2028\x1b[31m%n$(touch x)`'\"\n#{",
    }
    project.tasks(
        """
        - debug: {msg: "{{ plain }} {{ deep }}"}
        - set_stats: {data: {plain: "{{ plain }}", deep: "{{ deep }}", odd: "{{ odd }}"}}
        - assert: {that: ["deep[0].a[1].b == plain", "big | length == 200000"]}
        - command: "{{ ['printf', '%s', plain] | map('quote') | join(' ') }}"
          register: printed
        - assert: {that: printed.stdout == plain}
        """
    )
    outcome, sink = project.play(variables=values)
    assert outcome.state is AttemptState.SUCCEEDED, sink.text
    assert outcome.outputs == {name: value for name, value in values.items() if name != "big"}
    assert not touched.exists()


def test_no_value_is_on_a_command_line_nor_relengqs_own_settings_in_the_environment(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELENGQ_DATABASE_URL", "postgresql://u:s3cret@h/d")
    monkeypatch.setenv("JOB_ID", "not a number")
    project.tasks(
        """
        - shell: "cat /proc/[0-9]*/cmdline | tr '\\\\0' ' '; env"
          register: seen
        - copy: {content: "{{ seen.stdout }}", dest: "{{ where }}"}
        """
    )
    seen = project.root / "seen"
    project.play(variables={"value": "v4lue-of-a-run", "where": str(seen)}, environment={"POOL": "p"})
    assert "ansible-playbook" in seen.read_text()
    assert "v4lue" not in seen.read_text()
    assert "s3cret" not in seen.read_text()
    assert "POOL=p" in seen.read_text()


def test_secrets_are_masked_in_everything(project: Project) -> None:
    secret = 'top "s3cret" value'
    project.tasks(
        """
        - name: "{{ key }}"
          debug: {msg: "{{ key }} {{ key | b64encode }} {{ key | urlencode }} {{ ('u:' ~ key) | b64encode }}"}
        - set_stats: {data: {said: "it is {{ key }}", "x": ["{{ key | b64encode }}"]}}
        - {name: fails, fail: {msg: "not {{ key }}"}}
        """
    )
    outcome, sink = project.play(variables={"key": secret}, hidden=(secret,))
    everything = sink.text + repr((sink.tasks, sink.places, outcome))
    for form in ("s3cret", "dG9wICJzM2NyZXQiIHZhbHVl", "s3cret%22", "zM2NyZXQ", "MzY3JldC"):
        assert form not in everything
    assert outcome.outputs == {"said": "it is ********", "x": ["********"]}
    assert outcome.message == "localhost: fails: not ********"


def test_nothing_is_left_behind(project: Project) -> None:
    project.tasks("- debug: {msg: '{{ item }}'}\n  loop: '{{ range(50) | list }}'\n")
    project.play(variables={"secret": "x"})
    assert project.left() == []


def test_options_reach_ansible_and_no_value_becomes_one(project: Project) -> None:
    project.file("inventory", f"[web]\na {LOCAL}\nb {LOCAL}\n")
    project.tasks(
        """
        - {name: tagged, copy: {content: "x\\n", dest: "{{ where }}"}, tags: [yes_please]}
        - {name: other, debug: {msg: x}}
        - {name: not me, debug: {msg: x}, tags: [yes_please, no_thanks]}
        """,
        hosts="all",
    )
    target = project.root / "new"
    outcome, sink = project.play(
        limit="a", tags=("yes_please",), skip_tags=("no_thanks",), check=True, diff=True, verbosity=2,
        variables={"where": str(target)},
    )  # fmt: skip
    assert outcome.state is AttemptState.SUCCEEDED, sink.text
    assert [(each.task, each.host) for each in sink.tasks.values()] == [("tagged", "a")]
    assert not target.exists()
    assert "+x" in sink.text
    assert "task path:" in sink.text
    outcome, _ = project.play(limit="--version")
    assert outcome.state is AttemptState.FAILED
    assert "no hosts to target" in (outcome.message or "")


def test_the_sites_own_callbacks_and_configuration_work(project: Project) -> None:
    callback = """
        from ansible.plugins.callback.default import CallbackModule as Default
        DOCUMENTATION = '''
        name: loud
        type: stdout
        short_description: x
        extends_documentation_fragment: [default_callback]
        '''
        class CallbackModule(Default):
            CALLBACK_NAME = "loud"
            def v2_runner_on_ok(self, result):
                self._display.display("LOUD ok")
        """
    notes = """
        from ansible.plugins.callback import CallbackBase
        DOCUMENTATION = '''
        name: notes
        type: notification
        short_description: x
        '''
        class CallbackModule(CallbackBase):
            CALLBACK_TYPE, CALLBACK_NAME, CALLBACK_NEEDS_ENABLED = "notification", "notes", True
            def v2_playbook_on_stats(self, stats):
                self._display.display("NOTED")
        """
    project.file("plugins/loud.py", callback)
    project.file("plugins/notes.py", notes)
    project.file("hosts", f"localhost {LOCAL}\n")
    project.file(
        "ansible.cfg",
        "[defaults]\ninventory = hosts\ncallback_plugins = plugins\nstdout_callback = loud\ncallbacks_enabled = notes\n"
        "nocolor = 0\nforce_color = 1\n",
    )
    project.tasks("- {name: quiet, debug: {msg: x}}")
    outcome, sink = project.play()
    assert outcome.state is AttemptState.SUCCEEDED, sink.text
    assert "LOUD ok" in sink.text
    assert "NOTED" in sink.text
    assert "\x1b" not in sink.text
    assert sink.named("quiet").status == "ok"


def test_a_stdout_callback_that_is_not_there_is_said_as_ansible_says_it(project: Project) -> None:
    project.file("ansible.cfg", "[defaults]\nstdout_callback = nosuch\n")
    project.tasks("- debug: {msg: x}")
    outcome, sink = project.play()
    assert (outcome.state, outcome.return_code) == (AttemptState.FAILED, 1)
    assert outcome.message == "Could not load 'nosuch' callback plugin."
    assert "\x1b" not in sink.text
    assert not sink.tasks


def test_a_home_that_may_not_be_looked_into_keeps_nothing_from_being_played(project: Project) -> None:
    # As below a /home that systemd hides (EACCES, which root in a test does not get), no answer comes but an error.
    project.tasks("- {name: hello, command: echo hello}\n")
    outcome, sink = project.play(environment={"HOME": str(project.root / ("n" * 300))})
    assert outcome.state is AttemptState.SUCCEEDED, sink.text
    assert sink.named("hello").status == "changed"


def test_callbacks_of_every_kind_work_beside_ours(project: Project) -> None:
    """One that the environment names, one beside the playbook, and one of Ansible's own."""
    noted = """
        from ansible.plugins.callback import CallbackBase
        DOCUMENTATION = '''
        name: {0}
        type: aggregate
        short_description: x
        '''
        class CallbackModule(CallbackBase):
            CALLBACK_TYPE, CALLBACK_NAME, CALLBACK_NEEDS_ENABLED = "aggregate", "{0}", {1}
            def v2_runner_on_ok(self, result):
                self._display.display("{0} saw " + result._task.get_name())
                raise ValueError("{0} is broken")
            def v2_playbook_on_stats(self, stats):
                self._display.display("{0} at the end")
        """
    project.file("named/one.py", noted.format("one", "True"))
    project.file("callback_plugins/two.py", noted.format("two", "False"))
    project.tasks("- {name: first, debug: {msg: x}}\n- {name: second, debug: {msg: x}}")
    outcome, sink = project.play(
        environment={
            "ANSIBLE_CALLBACK_PLUGINS": str(project.playbooks / "named"),
            "ANSIBLE_CALLBACKS_ENABLED": "one,ansible.builtin.tree",
            "ANSIBLE_CALLBACK_TREE_DIR": str(project.root / "tree"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
        }
    )
    assert outcome.state is AttemptState.SUCCEEDED, sink.text
    assert [each.status for each in sink.tasks.values()] == ["ok", "ok"]
    for word in ("one saw first", "one saw second", "two saw first", "one at the end", "two at the end"):
        assert word in sink.text
    assert "localhost | SUCCESS => {" in sink.text
    assert (project.root / "tree" / "localhost").is_file()


def test_a_playbook_that_a_task_starts_is_none_of_ours(project: Project) -> None:
    project.file(
        "nested.yml", "- hosts: localhost\n  gather_facts: false\n  tasks: [{name: inner, debug: {msg: deep}}]\n"
    )
    project.tasks(
        """
        - {name: outer, command: "ansible-playbook -i localhost, -c local nested.yml", register: nested}
        - {name: said, debug: {var: nested.stdout_lines}}
        - {name: told, set_stats: {data: {said: "{{ nested.stdout }}", known: "{{ lookup('env', 'RELENGQ_EVENTS') }}"}}}
        """
    )
    outcome, sink = project.play()
    assert outcome.state is AttemptState.SUCCEEDED, sink.text
    assert [each.task for each in sink.tasks.values()] == ["outer", "said", "told"]
    said = str(outcome.outputs["said"])
    assert "TASK [inner]" in said
    assert "\x1b" not in said
    assert outcome.outputs["known"] == ""


def test_tasks_of_every_strategy_and_loop_are_told(project: Project) -> None:
    project.file("inventory", "".join(f"h{number} {LOCAL}\n" for number in range(3)))
    project.file(
        "play.yml",
        """
        - hosts: all
          gather_facts: false
          strategy: free
          tasks:
            - {name: many, debug: {msg: "{{ item }}"}, loop: "{{ range(200) | list }}", loop_control: {label: x}}
            - {name: values, set_stats: {data: {n: ["{{ item }}"]}, per_host: true, aggregate: true}, loop: [1, 2]}
            - {name: later, command: sleep 0.1, async: 10, poll: 1}
            - {name: wanted, command: "false", register: r, until: r is succeeded, retries: 1, delay: 0,
               ignore_errors: true, notify: handled, changed_when: true}
          handlers: [{name: handled, debug: {msg: x}}]
        """,
    )
    outcome, sink = project.play()
    found = sorted((each.task, each.host, each.status) for each in sink.tasks.values())
    wanted = {"many": "ok", "values": "ok", "later": "changed", "wanted": "ignored"}
    assert [each for each in found if each[0] in wanted] == sorted(
        (task, f"h{number}", status) for task, status in wanted.items() for number in range(3)
    ), sink.text
    assert outcome.outputs["n"] == {f"h{number}": [1, 2] for number in range(3)}


def test_host_keys_are_checked_unless_the_site_says_otherwise(project: Project) -> None:
    project.tasks("- debug: {msg: \"{{ lookup('config', 'HOST_KEY_CHECKING') }}\"}")
    _, sink = project.play()
    assert '"msg": true' in sink.text


def test_output_is_what_ansible_playbook_prints(project: Project) -> None:
    project.file("inventory", f"localhost {LOCAL}\n")
    project.tasks(
        """
        - debug: {msg: "naïve ✓ \\x1b[K tab\\t"}
        - {command: "printf 'a\\\\377b\\\\0c'", register: raw}
        - debug: {var: raw.stdout}
        """
    )
    loose = {"ANSIBLE_MODULE_STRICT_UTF8_RESPONSE": "False"}
    _, sink = project.play(environment=loose)
    plain = subprocess.run(
        ["ansible-playbook", "-i", "inventory", "play.yml"],
        cwd=project.playbooks,
        env={**project_environment(), **loose},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
    )
    assert without_times(sink.text) == without_times((plain.stdout).decode("utf-8", "replace"))


def project_environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"}


def without_times(text: str) -> str:
    return re.sub(r'"(start|end|delta)": "[^"]*"', "", text)


def test_a_play_that_finds_no_host_says_so(project: Project) -> None:
    project.tasks("- debug: {msg: x}", hosts="nobody")
    outcome, _ = project.play()
    assert outcome.state is AttemptState.SUCCEEDED
    assert outcome.message == "No play found a host in the inventory: nothing was done."


def test_a_prompt_does_not_hang(project: Project) -> None:
    project.tasks("- pause: {prompt: go on?}\n- debug: {msg: after}")
    outcome, _ = project.play(timeout=60)
    assert outcome.state is AttemptState.SUCCEEDED


def test_a_sink_that_breaks_ends_the_play_and_is_heard(project: Project) -> None:
    class Broken(Collected):
        def output(self, text: str) -> None:
            raise OSError(28, "No space left on device")

    project.tasks("- {name: long, command: sleep 60}")
    with pytest.raises(OSError, match="No space left"):
        play(project.order(), Broken(), never)
    assert project.left() == []


def test_a_stop_that_breaks_ends_the_play_and_is_heard(project: Project) -> None:
    def broken() -> Stop | None:
        raise RuntimeError("stop broke")

    project.tasks("- {name: long, command: sleep 60}")
    with pytest.raises(RuntimeError, match="stop broke"):
        play(project.order(), Collected(), broken)
    assert project.left() == []
