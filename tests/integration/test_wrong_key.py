# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker whose secret key is another one plays nothing with empty values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from relengq.engine.execute import execute
from relengq.engine.installation import Installation
from relengq.testing import Bench

WORKFLOW = """\
inputs:
  token: {type: string, secret: true}
steps:
  - {name: hello, playbook: hello.yml}
"""


@pytest.mark.parametrize("key", ["another", "none"])
def test_a_worker_with_another_key_fails_the_attempt_with_that_sentence(
    make_bench: Callable[..., Bench], tmp_path: Path, key: str
) -> None:
    bench = make_bench(deploy=WORKFLOW)
    run_id = bench.start("deploy", token="the key of the gate")
    own = tmp_path / "other.key"
    if key == "another":
        Installation(bench.installation.settings.model_copy(update={"secret_key_file": own})).secrets.seal({"a": 1})
    settings = bench.installation.settings.model_copy(update={"secret_key_file": own})
    other = Installation(settings, bench.installation.database, send=bench.installation.send)
    [attempt] = [attempt.id for attempt in bench.run(run_id).steps[0].attempts]
    execute(other, attempt, "worker@other")
    run = bench.run(run_id)
    assert run.state == "failed"
    assert ("sealed with another key" if key == "another" else "cannot be used") in str(run.steps[0].reason)
