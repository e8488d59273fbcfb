# SPDX-License-Identifier: GPL-3.0-or-later
"""Mistakes that people make at every verb: one line that says what to do, the documented exit code, no traceback."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

from relengq.cli import main
from relengq.engine import control
from relengq.testing import Bench
from tests.support.systems import FILES as PLAIN
from tests.support.systems import NOWHERE, System, system

FILES = {
    "playbooks/workflows/typed.yml": """\
inputs:
  count: {type: int, min: 1, max: 9}
  text: {type: string, default: x}
steps:
  - {name: first, playbook: gated.yml, vars: {gate_name: "{{ inputs.text }}"}}
""",
    "playbooks/workflows/decide.yml": "steps:\n  - {name: go, approval: {groups: [leads]}}\n",
    "playbooks/workflows/closed.yml": """\
access: {launch: [nobody-is-in-this-group]}
steps:
  - {name: go, approval: {groups: [leads]}}
""",
}
BROKEN = {
    "playbooks/workflows/broken.yml": "steps:\n  - {name: first, playbok: gated.yml}\n",
    "playbooks/workflows/unread.yml": "steps: [\n",
    "playbooks/workflows/bomb.yml": "a: &a [x, x]\nb: &b [*a, *a]\n"
    + "".join(f"{chr(99 + n)}: &{chr(99 + n)} [*{chr(98 + n)}, *{chr(98 + n)}]\n" for n in range(20)),
    "workers/broken.yml": "queue: [default]\n",
    "beat/broken.yml": "wrong: {workflow: gatd, cron: '61 5 * * *'}\nnever: {workflow: decide, cron: '0 0 31 2 *'}\n",
}


@dataclass(frozen=True)
class Mistake:
    """What somebody types; ``RUNNING``, ``OVER`` and ``AMBIGUOUS`` stand for ids of runs."""

    line: str
    code: int
    says: str
    where: str = "site"
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([*map("=".join, self.environment.items()), self.line, f"in {self.where}"])


def _with(name: str, value: str, line: str, code: int, says: str) -> Mistake:
    return Mistake(line, code, says, environment={name: value})


MISTAKES = [
    Mistake("rnu typed", 2, "did you mean 'run'?"),
    Mistake("run", 2, "Missing argument 'WORKFLOW'"),
    Mistake("run typd -i count=1", 3, "did you mean 'typed'?"),
    Mistake("run broken", 2, "playbooks/workflows/broken.yml:2:"),
    Mistake("run unread", 2, "this is not YAML"),
    Mistake("run bomb", 2, "limit"),
    Mistake("run typed", 2, "input 'count' is missing"),
    Mistake("run typed -i count=ten", 2, "must be a whole number"),
    Mistake("run typed -i count=10", 2, "must be at most 9"),
    Mistake("run typed -i cuont=1", 2, "did you mean 'count'?"),
    Mistake("run typed -i count", 2, "not of the form key=value"),
    Mistake("run typed -i count=1 -i count=2", 2, "is given twice"),
    Mistake("run typed -i count=1 -i text=@missing.txt", 2, "missing.txt"),
    Mistake("run typed --inputs missing.yml", 2, "does not exist"),
    Mistake("run typed --inputs ../broken-inputs.yml", 2, "this is not YAML"),
    Mistake("run typed --inputs ../broken-inputs.json", 2, "is not JSON"),
    Mistake("run typed --inputs ../list.yml", 2, "must have a mapping"),
    Mistake("run typed --inputs ../large.yml", 2, "the limit is 1048576"),
    Mistake("run typed --inputs ../many.yml", 2, "the limit is 200"),
    Mistake("show decied", 3, "did you mean 'decide'?"),
    Mistake("status zzzzzzzz", 3, "There is no run 'zzzzzzzz'"),
    Mistake("status ../../etc/passwd", 3, "There is no run"),
    Mistake("status AMBIGUOUS", 2, "Several runs begin with"),
    Mistake("logs OVER --step nope", 3, "has no step 'nope'"),
    Mistake("logs OVER --host nope", 3, "nope"),
    Mistake("cancel OVER", 4, "is over"),
    Mistake("hold OVER", 4, "is over"),
    Mistake("release RUNNING", 4, "is not on hold"),
    Mistake("approve OVER", 4, "does not wait for approval"),
    Mistake("approve RUNNING og", 3, "did you mean 'go'?"),
    Mistake("rerun RUNNING", 4, "is still waiting"),
    Mistake("rerun OVER --from nope", 3, "has no step 'nope'"),
    Mistake("rerun OVER --from go --failed", 2, "either --from or --failed"),
    Mistake("rerun OVER --revision newest", 2, "'newest' is not one of"),
    Mistake("runs --since whenever", 2, "is no time"),
    Mistake("runs --state finished", 2, "'finished' is not one of"),
    Mistake("worker defualt", 3, "did you mean 'default'?"),
    Mistake("worker broken", 2, "workers/broken.yml:1:"),
    Mistake("schema workflows", 2, "'workflows' is not one of"),
    Mistake("init .", 4, "Name a directory that is new or empty"),
    Mistake("run decide", 2, "is no site", where="elsewhere"),
    Mistake("check", 2, "is no site", where="elsewhere"),
    Mistake("up", 2, "is no site", where="elsewhere"),
    Mistake("runs", 5, "relengq db upgrade", where="elsewhere"),
    Mistake("worker default", 5, "relengq db upgrade", where="fresh"),
    Mistake("beat", 5, "relengq db upgrade", where="fresh"),
    Mistake("run gated -i gates=x", 5, "relengq db upgrade", where="fresh"),
    Mistake("--site /no/such/directory runs", 2, "does not exist"),
    _with("RELENGQ_LEASE_SECONDS", "soon", "runs", 2, "setting 'lease_seconds'"),
    _with("RELENGQ_TIME_ZONE", "Europe/Nowhere", "runs", 2, "there is no time zone 'Europe/Nowhere'"),
    _with("RELENGQ_DATABASE_URL", "a database", "runs", 2, "is no URL of a database"),
    _with("RELENGQ_DATABASE_URL", "mysql://db/relengq", "runs", 2, "relengq knows sqlite and postgresql"),
    _with("RELENGQ_DATABASE_URL", "postgresql+psycopg://127.0.0.1:1/x", "runs", 5, "is not available"),
    _with("RELENGQ_DATABASE_URL", "sqlite:///../garbage.db", "runs", 5, "file is not a database"),
    _with("RELENGQ_DATABASE_URL", "sqlite:///../garbage.db", "db upgrade", 5, "file is not a database"),
    _with("RELENGQ_DATABASE_URL", "sqlite:////proc/no/such/x.db", "db upgrade", 5, "No such file or directory"),
    _with("RELENGQ_BROKER_URL", "kafka://broker", "run decide", 2, "it begins with one of redis://"),
    _with("RELENGQ_ADMINS", "[]", "run closed", 4, "it needs group nobody-is-in-this-group"),
    _with("RELENGQ_ADMINS", "[]", "approve RUNNING", 4, "it needs group leads"),
]


@dataclass
class Told:
    """How a mistake was answered."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Place:
    """Where mistakes are made."""

    directory: Path
    words: Mapping[str, str]

    def make(self, mistake: Mistake) -> Told:
        """Call the command line in a child of this process, which has everything imported: that costs little."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if not child:
                self._call(mistake, out.fileno(), err.fileno())
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            texts = [os.pread(file.fileno(), 1 << 20, 0).decode() for file in (out, err)]
        return Told(code, *texts)

    def _call(self, mistake: Mistake, out: int, err: int) -> NoReturn:
        code = 99
        try:
            os.chdir(self.directory / mistake.where)
            os.environ.update({"RELENGQ_BROKER_URL": NOWHERE, "NO_COLOR": "1", **mistake.environment})
            for number, source in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
                os.dup2(source, number)
            sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
            code = main([self.words.get(word, word) for word in mistake.line.split()])
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("mistakes")
    with system(directory, FILES, NOWHERE) as made:
        words = _runs(made)
        made.installation.database.close()
        made.write(BROKEN)
        _beside(made, directory)
        yield Place(directory, words)


def _runs(made: System) -> dict[str, str]:
    """Runs that mistakes are made with: one that waits, one that is over."""
    bench = Bench(made.site, made.site / ".relengq", str(made.installation.database.url))
    waiting, over = bench.start("decide"), bench.start("decide")
    control.cancel(bench.installation, over, who="tester")
    bench.close()
    return {"RUNNING": waiting, "OVER": over, "AMBIGUOUS": waiting[0]}


def _beside(made: System, directory: Path) -> None:
    """What lies beside the site: a directory that is no site, a site without a database, and useless files."""
    (directory / "elsewhere").mkdir()
    System(directory / "fresh", made.broker_url).write(PLAIN)
    (directory / "garbage.db").write_bytes(b"this is no database" * 1000)
    (directory / "broken-inputs.yml").write_text("count: [1\n")
    (directory / "broken-inputs.json").write_text('{"count": 1')
    (directory / "list.yml").write_text("- count\n")
    (directory / "large.yml").write_text(f"text: {'x' * 10_000_000}\n")
    (directory / "many.yml").write_text("".join(f"input{number}: 1\n" for number in range(10_000)))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # by pytest -n
@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_answered_in_one_line(place: Place, mistake: Mistake) -> None:
    told = place.make(mistake)
    assert told.code == mistake.code, told
    assert mistake.says.lower() in told.err.lower()
    assert told.err.startswith("relengq: ")
    assert told.err.count("\n") == 1
    assert len(told.err) < 3000
    assert "Traceback" not in told.err + told.out
    assert told.out == ""


def test_check_tells_all_faults_at_once(tmp_path: Path) -> None:
    with system(tmp_path, FILES, NOWHERE) as made:
        made.write(BROKEN)
        told = made.shell.run("check", code=1).stdout
        for place in ("broken.yml:2:", "unread.yml:", "bomb.yml:", "workers/broken.yml:1:", "beat/broken.yml:1:"):
            assert place in told
        assert "did you mean 'playbook'?" in told
        assert "did you mean 'gated'?" in told
        assert "beat/broken.yml:2:" in told, "a cron entry that never fires"


def test_looking_makes_nothing(tmp_path: Path) -> None:
    here = System(tmp_path, NOWHERE)
    here.shell.run("runs", code=5)
    assert list(tmp_path.iterdir()) == []


def test_a_verb_group_alone_shows_its_help(tmp_path: Path) -> None:
    told = System(tmp_path, "").shell.run("db", code=2).stderr
    assert "Usage: relengq db" in told
    assert "  upgrade  Make or change" in told
