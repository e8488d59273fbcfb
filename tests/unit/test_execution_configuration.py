# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from relengq.errors import AttemptFault
from relengq.execution.configuration import AnsibleConfiguration
from relengq.execution.pipe import CALLBACKS


@pytest.fixture(autouse=True)
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))


def project(tmp_path: Path, text: str) -> AnsibleConfiguration:
    (tmp_path / "ansible.cfg").write_text(text)
    return AnsibleConfiguration.find(tmp_path, {})


def test_the_sites_callbacks_survive_ansible_runner(tmp_path: Path) -> None:
    found = project(tmp_path, "[defaults]\nstdout_callback = mine ; why\ncallback_plugins = plugins:/opt/x\n")
    kept = found.callbacks({})
    assert kept["ANSIBLE_STDOUT_CALLBACK"] == "mine"
    assert kept["ANSIBLE_CALLBACK_PLUGINS"] == f"{CALLBACKS}:{tmp_path}/plugins:/opt/x"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    found = project(tmp_path, "[defaults]\nstdout_callback = mine\n")
    kept = found.callbacks({"ANSIBLE_STDOUT_CALLBACK": "other", "ANSIBLE_CALLBACK_PLUGINS": "/p"})
    assert "ANSIBLE_STDOUT_CALLBACK" not in kept
    assert kept["ANSIBLE_CALLBACK_PLUGINS"] == f"{CALLBACKS}:/p"


def test_the_default_places_of_callbacks_stay(tmp_path: Path) -> None:
    kept = AnsibleConfiguration.find(tmp_path, {}).callbacks({})
    assert kept["ANSIBLE_CALLBACK_PLUGINS"].endswith("/.ansible/plugins/callback:/usr/share/ansible/plugins/callback")


def test_the_home_of_ansible_is_where_callbacks_are_by_default(tmp_path: Path) -> None:
    found = project(tmp_path, "[defaults]\nhome = own\n")
    assert found.callbacks({})["ANSIBLE_CALLBACK_PLUGINS"].startswith(f"{CALLBACKS}:{tmp_path}/own/plugins/callback:")
    kept = found.callbacks({"ANSIBLE_HOME": "/srv/ansible"})
    assert kept["ANSIBLE_CALLBACK_PLUGINS"].startswith(f"{CALLBACKS}:/srv/ansible/plugins/callback:")


def test_paths_are_read_in_the_environment_of_the_play(tmp_path: Path) -> None:
    (tmp_path / "hosts").touch()
    environment = {"SITE": str(tmp_path), "HOME": str(tmp_path)}
    for place in ("$SITE", "${SITE}", "~"):
        found = project(tmp_path, f"[defaults]\ncallback_plugins = {place}/own:$OTHER\ninventory = {place}/hosts\n")
        assert (
            found.callbacks(environment)["ANSIBLE_CALLBACK_PLUGINS"] == f"{CALLBACKS}:{tmp_path}/own:{tmp_path}/$OTHER"
        )
        assert inventory(found, None, tmp_path, **environment) == []
        assert inventory(found, f"{place}/hosts", tmp_path, **environment) == [f"--inventory={place}/hosts"]
        assert inventory(found, None, tmp_path, ANSIBLE_INVENTORY=f"{place}/hosts", **environment) == []


def test_quotes_around_a_word_are_none_of_it(tmp_path: Path) -> None:
    found = project(tmp_path, "[defaults]\nstdout_callback = 'minimal'\n")
    assert found.callbacks({})["ANSIBLE_STDOUT_CALLBACK"] == "minimal"


def test_a_configuration_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(AttemptFault, match=r"configuration .*/no\.cfg does not exist"):
        AnsibleConfiguration.find(tmp_path, {"ANSIBLE_CONFIG": "no.cfg"})


def test_a_configuration_that_is_no_ini_is_said(tmp_path: Path) -> None:
    with pytest.raises(AttemptFault, match=r"ansible\.cfg cannot be read: .*no section"):
        project(tmp_path, "a = b\n")


def inventory(found: AnsibleConfiguration, wanted: str | None, tmp_path: Path, **environment: str) -> list[str]:
    private = tmp_path / "private"
    private.mkdir(exist_ok=True)
    return found.inventory_arguments(wanted, tmp_path, private, environment)


def test_which_inventory_is_taken(tmp_path: Path) -> None:
    bare = AnsibleConfiguration.find(tmp_path, {})
    assert inventory(bare, None, tmp_path) == [f"--inventory={tmp_path}/private/inventory"]
    (tmp_path / "inventory").mkdir()
    assert inventory(bare, None, tmp_path) == ["--inventory=inventory"]
    assert inventory(bare, "a,b", tmp_path) == ["--inventory=a,b"]
    assert inventory(bare, None, tmp_path, ANSIBLE_INVENTORY="inventory") == []
    assert inventory(project(tmp_path, "[defaults]\ninventory = inventory\n"), None, tmp_path) == []
    assert inventory(project(tmp_path, "[defaults]\ninventory = a.example, b.example\n"), None, tmp_path) == []


def test_an_inventory_that_is_missing_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    with pytest.raises(AttemptFault, match="inventory 'prod' does not exist"):
        inventory(project(tmp_path, "[defaults]\ninventory = here,prod\n"), None, tmp_path)
    with pytest.raises(AttemptFault, match="inventory 'stg' does not exist"):
        inventory(AnsibleConfiguration.find(tmp_path, {}), "stg", tmp_path)
    with pytest.raises(AttemptFault, match="inventory 'gone' does not exist"):
        inventory(AnsibleConfiguration(None), None, tmp_path, ANSIBLE_INVENTORY="gone")


def test_forks_are_set_where_nobody_else_does(tmp_path: Path) -> None:
    said = project(tmp_path, "[defaults]\nforks = 7\n")
    assert said.forks({}, 10) == {}
    silent = project(tmp_path, "[defaults]\n")
    assert silent.forks({}, 10) == {"ANSIBLE_FORKS": "10"}
    assert silent.forks({"ANSIBLE_FORKS": "3"}, 10) == {}
    assert silent.forks({}, None) == {}


def test_a_home_that_the_pool_sets_is_the_one_that_is_looked_in(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.ansible.cfg").write_text("[defaults]\nforks = 7\n")
    found = AnsibleConfiguration.find(tmp_path, {"HOME": str(tmp_path / "home")})
    assert found.path == tmp_path / "home/.ansible.cfg"


def test_what_may_not_be_looked_into_counts_as_not_there_as_it_does_for_ansible(tmp_path: Path) -> None:
    # As below a /home that systemd hides (EACCES, which root in a test does not get), no answer comes but an error.
    beyond = str(tmp_path / ("n" * 300))
    assert AnsibleConfiguration.find(tmp_path, {"HOME": beyond}).path is None
    with pytest.raises(AttemptFault, match="does not exist on this worker"):
        AnsibleConfiguration.find(tmp_path, {"ANSIBLE_CONFIG": f"{beyond}/ansible.cfg"})
    with pytest.raises(AttemptFault, match="does not exist in"):
        inventory(AnsibleConfiguration(None), None, tmp_path, ANSIBLE_INVENTORY=f"{beyond}/hosts")
