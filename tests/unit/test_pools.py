# SPDX-License-Identifier: GPL-3.0-or-later
"""What a pool's file may say of environment and Ansible configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from relengq.pools import Pool
from relengq.site import create, load


def faults(tmp_path: Path, body: str) -> str:
    site = tmp_path / "site"
    create(site)
    (site / "workers/default.yml").write_text(f"queues: [default]\n{body}\n")
    return "\n".join(map(str, load(site).faults))


@pytest.mark.parametrize(
    "body",
    [
        "environment: {KOJI_PASSWORD: hunter2}",
        "environment: {GITHUB_TOKEN: abc}",
        "environment: {aws_secret_access_key: abc, AWS_SECRET: abc}",
        "environment: {PROXY: 'http://me:hunter2@proxy.example.org'}",
        "environment: {KEY: '-----BEGIN OPENSSH PRIVATE KEY-----'}",
        "environment: {X: '$ANSIBLE_VAULT;1.1;AES256'}",
    ],
)
def test_what_looks_like_a_secret_is_refused_and_not_shown(tmp_path: Path, body: str) -> None:
    told = faults(tmp_path, body)
    assert "name it under 'secrets'" in told
    assert told.startswith("workers/default.yml:2:")
    assert "hunter2" not in told


@pytest.mark.parametrize(
    "body",
    [
        "environment: {ANSIBLE_VAULT_PASSWORD_FILE: /etc/relengq/vault, KRB5_CLIENT_KTNAME: /etc/krb5.keytab}",
        "environment: {PROXY: 'http://proxy.example.org:3128', KOJI_PROFILE: koji, TOKENS_AT_ONCE: '3'}",
        "ansible: {config: ansible/s390x.cfg, forks: 10}",
        "ansible: {config: /etc/relengq/ansible.cfg}",
    ],
)
def test_what_is_no_secret_is_allowed(tmp_path: Path, body: str) -> None:
    assert faults(tmp_path, body) == ""


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("environment: {RELENGQ_DATABASE_URL: x}", "RELENGQ_DATABASE_URL is not for pools to set"),
        ("environment: {AD_HOC_COMMAND_ID: '1'}", "AD_HOC_COMMAND_ID is not for pools to set"),
        ("ansible: {config: ../other/ansible.cfg}", "a path in the site has no '..'"),
        ("ansible: {config: ''}", "config"),
        ("ansible: {forks: 3}\nenvironment: {ANSIBLE_FORKS: '5'}", "say the same twice"),
    ],
)
def test_what_would_have_no_effect_or_another_is_refused(tmp_path: Path, body: str, told: str) -> None:
    assert told in faults(tmp_path, body)


@pytest.mark.parametrize(("concurrency", "forks"), [(1, 20), (2, 10), (3, 6), (4, 5), (100, 5)])
def test_forks_are_shared_by_the_attempts_of_a_worker(concurrency: int, forks: int) -> None:
    assert Pool(name="p", queues=["q"], concurrency=concurrency).usual_forks == forks
