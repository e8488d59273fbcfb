# SPDX-License-Identifier: GPL-3.0-or-later
"""That a server has loaded something ahead changes neither which file a play executes nor what it prints."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tests.support.warm import PLAY, Site, own_site

FREE = """\
from ansible.plugins.strategy.linear import StrategyModule as Linear
from ansible.utils.display import Display


class StrategyModule(Linear):
    def run(self, iterator, play_context):
        Display().display(f"the site's free in {type(self).__module__}")
        return super().run(iterator, play_context)
"""
FRAGMENT = '''\
class ModuleDocFragment:
    DOCUMENTATION = """
options:
  header: {description: It is the site's., default: the site's header}
"""
'''
LOOKUP = '''\
DOCUMENTATION = """
name: header
short_description: A header
description: A header.
author: nobody
extends_documentation_fragment: [url]
options: {_terms: {description: None.}}
"""
from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **more):
        self.set_options(var_options=variables, direct=more)
        return [self.get_option("header")]
'''
FILTERS = """\
import uuid


class FilterModule:
    def filters(self):
        return {"clocks": lambda _: [uuid.uuid1().clock_seq for _ in range(4)]}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with plugins that are called as some of Ansible's."""
    with own_site(tmp_path_factory.mktemp("ahead")) as site:
        site.file("strategy_plugins/free.py", FREE)
        for kind, name in (("become", "runas"), ("shell", "powershell"), ("shell", "sh")):
            spec = importlib.util.find_spec(f"ansible.plugins.{kind}")
            assert spec is not None
            source = (Path(spec.origin or "").parent / f"{name}.py").read_text()
            site.file(f"{kind}_plugins/{name}.py", source + f"import sys; sys.stderr.write('the site has {name}\\n')\n")
        site.file("doc_fragments/url.py", FRAGMENT)
        site.file("lookup_plugins/header.py", LOOKUP)
        site.file("filter_plugins/clocks.py", FILTERS)
        load(site)
        yield site


def load(site: Site) -> None:
    """Have a server that has loaded all that it loads."""
    wait_until(lambda: played(site, "fine.yml", warm=True)[2] is None)
    site.wait_until_loaded()


def played(site: Site, *words: str, warm: bool) -> tuple[str, str, str | None]:
    """Play it. Returns what it said, without what differs each time, and why the server did not start it."""
    private = site.root / f"play-{time.monotonic_ns()}"
    started = site.start(private, *words, warm=warm, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, error = (re.sub(r"play-\d+|ansible-local-\w+", "...", each.decode()) for each in started.process.communicate())
    assert started.process.returncode == 0, out + error
    return out, error, started.cold()


def alike(site: Site, *words: str) -> str:
    """Play it by the plain command and from the server. Returns what both said."""
    plain, warm = (played(site, *words, warm=warm) for warm in (False, True))
    assert warm == plain
    return plain[0] + plain[1]


def test_what_ansible_loads_at_its_start_is_not_loaded_again_for_a_plugin_of_that_name(site: Site) -> None:
    said = alike(site, "fine.yml")
    assert "the site has sh" in said
    assert "the site has powershell" not in said
    assert "the site has runas" not in said


def test_a_strategy_is_built_on_the_site_s_if_that_was_loaded_first(site: Site) -> None:
    play = "- hosts: localhost\n  gather_facts: false\n  strategy: {}\n  tasks: [debug: ]\n"
    site.file("both.yml", play.format("free") + play.format("host_pinned"))
    site.file("pinned.yml", play.format("host_pinned"))
    assert "the site's free in ansible.plugins.strategy.host_pinned" in alike(site, "both.yml")
    assert "the site's free" not in alike(site, "pinned.yml")


def test_a_documentation_fragment_of_the_site_counts(site: Site) -> None:
    site.file("header.yml", PLAY + "    - debug: {msg: \"{{ lookup('header') }}\"}\n")
    assert "the site's header" in alike(site, "header.yml")


def test_all_that_it_says_of_its_loading_is_the_same(site: Site) -> None:
    assert alike(site, "fine.yml", "-vvvvv").count("Loading collection ansible.builtin from") == 1


def test_plays_have_unique_ids_of_their_own(site: Site) -> None:
    site.file("clocks.yml", PLAY + "    - debug: {msg: \"{{ 1 | clocks | join(' ') }}\"}\n")
    first, second = (played(site, "clocks.yml", warm=True)[0] for _ in range(2))
    assert '"msg": "' in first
    assert first != second


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Site]:
    """A site that has a library with what a plugin of ansible-core imports."""
    with own_site(tmp_path) as site:
        site.file("library/winrm.py", "import warnings\nwarnings.warn('too old', UserWarning)\nResponse = None\n")
        site.environment["PYTHONPATH"] = str(site.root / "site/library")
        yield site


def test_what_a_library_prints_while_it_is_loaded_is_printed_by_each_play(own: Site) -> None:
    load(own)
    own.file("asks.yml", PLAY + "    - debug: {msg: \"{{ lookup('config', 'port', plugin_type='connection', "
             "plugin_name='winrm') }}\"}\n")  # fmt: skip
    for _ in range(2):
        assert "too old" in alike(own, "asks.yml")


def test_a_library_that_prints_and_cannot_be_loaded_twice_is_a_reason_for_the_plain_command(own: Site) -> None:
    spec = importlib.util.find_spec("_lsprof")
    if spec is None or not (spec.origin or "").endswith(".so"):
        pytest.skip("this Python has that in itself")
    native = own.file("library/native/__init__.py", "").parent
    shutil.copy(spec.origin or "", native)
    winrm = own.root / "site/library/winrm.py"
    winrm.write_text("import native._lsprof\n" + winrm.read_text())
    wait_until(lambda: "native._lsprof cannot be loaded twice" in (played(own, "fine.yml", warm=True)[2] or ""))
