# SPDX-License-Identifier: GPL-3.0-or-later
"""``parked``: messages that could not be used: look at them, replay them, drop them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import click
from rich.text import Text

from relengq import access
from relengq.bus.schemas import Schemas
from relengq.cli.options import one_line
from relengq.cli.parameters import json_option
from relengq.cli.screen import bold, dim, print_json, state
from relengq.cli.setup import Setup, pass_setup
from relengq.documents import Json
from relengq.engine import parking
from relengq.engine.parking import Parked, ParkedLine, Replayed
from relengq.errors import MessageFault, UsageFault, did_you_mean
from relengq.runs.lookup import HIDDEN
from relengq.workflows import Access

_BODY_CHARACTERS = 100_000
_ALL = 1_000_000


@click.group("parked", invoke_without_command=True)
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that were replayed or dropped, and by whom.")
@click.option("-w", "--workflow", metavar="NAME", help="Messages for this workflow.")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=30, show_default=True, help="At most so many.")
@json_option
@click.pass_context
@pass_setup
def parked_command(
    setup: Setup, context: click.Context, *, everything: bool, workflow: str | None, limit: int, as_json: bool
) -> None:
    """List messages that could not be used; look at one, replay or drop them.

    A message is parked when it should have started a workflow and could not: a
    condition or an input could not be made of it, the inputs do not fit, its
    body is not what its schema says, or too many runs are unfinished. Repair
    what was wrong, then replay it. Without a verb after it: the list, newest
    first.

    \b
    Example:     relengq parked
                 relengq parked show 7
                 relengq parked replay 7
    """
    if context.invoked_subcommand is not None:
        if everything or workflow is not None or as_json:
            raise UsageFault(f"Options of '{context.invoked_subcommand}' stand behind it.")
        return
    with setup.installation.database.read() as session:
        found = parking.listed(session, everything=everything, workflow=workflow, limit=limit)
    found = [_hidden(setup, line) for line in found]
    if as_json:
        print_json(found)
        return
    rows = [_row(setup, line, everything=everything) for line in found]
    columns = ("ID", "WHEN", "WORKFLOW", "TOPIC", *(("WHAT BECAME OF IT",) if everything else ()), "REASON")
    setup.screen.table(columns, rows, empty=_empty(setup, workflow), cut_last=True)


def _row(setup: Setup, line: ParkedLine, *, everything: bool) -> tuple[str | Text, ...]:
    became = (_became(setup, line),) if everything else ()
    return str(line.id), setup.screen.moment(line.parked_at), line.workflow, line.topic, *became, one_line(line.reason)


def _became(setup: Setup, line: ParkedLine) -> str:
    if line.resolution is None:
        return "parked"
    run = f" as run {line.run_id}" if line.run_id else ""
    return f"{line.resolution}{run} by {line.resolved_by} at {setup.screen.moment(line.resolved_at)}"


def _empty(setup: Setup, workflow: str | None) -> str:
    known = setup.installation.site.files
    if workflow is not None and workflow not in known:
        hint = did_you_mean(workflow, known)
        return f"None, and there is no workflow '{workflow}'{f': {hint}' if hint else '.'}"
    return f"No message is parked{f' for {workflow}' if workflow else ''}."


@parked_command.command("show")
@click.argument("number", metavar="ID", type=click.IntRange(1))
@json_option
@pass_setup
def show(setup: Setup, number: int, as_json: bool) -> None:
    """Show a parked message: why it is parked, its headers and its body.

    \b
    Example:     relengq parked show 7
    Exit codes:  3 there is none of that id, 4 you may not read logs of its workflow
    """
    with setup.installation.database.read() as session:
        found = parking.show(session, number)
    workflow = found.line.workflow
    access.require(setup.person, setup.settings, _access(setup, workflow).logs, f"read logs of workflow {workflow}")
    body = _body(found)
    text = found.message.raw.decode(errors="replace")
    if as_json:
        given = {"body": body, "text": None if body is not None else text}
        print_json({**vars(found.line), "headers": found.message.headers, **given})
    else:
        _print(setup, found, text if body is None else json.dumps(body, indent=2, ensure_ascii=False))


def _body(found: Parked) -> dict[str, Json] | None:
    """The body, when it is what a body should be."""
    try:
        return None if found.cut else found.message.body
    except MessageFault:
        return None


def _print(setup: Setup, found: Parked, body: str) -> None:
    screen, line = setup.screen, found.line
    screen.line(bold(f"Parked message {line.id}"), f"  {_became(setup, line)}")
    sent = found.message.sent_at
    facts = [
        ("workflow", line.workflow), ("topic", line.topic), ("message", line.message_id),
        ("sent", screen.moment(sent) if sent else "it does not say"), ("parked", screen.moment(line.parked_at)),
        ("reason", line.reason),
    ]  # fmt: skip
    facts += [
        ("" if at else "headers", f"{key}: {_short(value)}")
        for at, (key, value) in enumerate(found.message.headers.items())
    ]
    for title, value in facts:
        screen.line(dim(f"  {title:9} "), one_line(value))
    screen.line()
    screen.block(body[:_BODY_CHARACTERS])
    if len(body) > _BODY_CHARACTERS:
        screen.line(dim(f"… {len(body) - _BODY_CHARACTERS} more characters; --json has all of it"))
    if line.resolution is None:
        screen.line()
        screen.line(f"When it is repaired: relengq parked replay {line.id}; else: relengq parked drop {line.id}")


def _short(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _access(setup: Setup, name: str) -> Access:
    """Who may do what with a workflow, be its file faulty; one that is gone is the admins' alone."""
    site = setup.installation.site
    if name in site.workflows:
        return site.workflows[name].access
    document = site.files[name].document if name in site.files else None
    said = document.data.get("access", {}) if document and isinstance(document.data, dict) else None
    try:
        return Access.model_validate(said)
    except ValueError:
        return Access(launch=[], logs=[])


def _readable(setup: Setup, workflow: str) -> bool:
    return access.allowed(setup.person, setup.settings, _access(setup, workflow).logs)


def _chosen(
    setup: Setup, numbers: Sequence[int], workflow: str | None, what: str, *, everything: bool
) -> list[ParkedLine]:
    """The messages that are meant, oldest first, if the person may launch all of their workflows."""
    if bool(numbers) == everything or (workflow is not None and not everything):
        raise UsageFault("Give either ids or --all, and --workflow only with --all.", hint="See 'relengq parked'.")
    with setup.installation.database.read() as session:
        if everything:
            found = parking.listed(session, workflow=workflow, limit=_ALL)[::-1]
        else:
            found = [parking.show(session, number).line for number in sorted(set(numbers))]
    for name in sorted({line.workflow for line in found}):
        access.require(
            setup.person, setup.settings, _access(setup, name).launch, f"{what} messages for workflow {name}"
        )
    return found


@parked_command.command("replay")
@click.argument("numbers", metavar="[ID]...", nargs=-1, type=click.IntRange(1))
@click.option("-a", "--all", "everything", is_flag=True, help="All that are parked, oldest first.")
@click.option("-w", "--workflow", metavar="NAME", help="With --all: those for this workflow.")
@json_option
@pass_setup
def replay(setup: Setup, numbers: tuple[int, ...], everything: bool, workflow: str | None, as_json: bool) -> int:
    """Take parked messages again, with the site as it is now.

    What can be used starts its run, unless the run is there already; what
    still cannot stays parked, with the reason that there is now.

    \b
    Example:     relengq parked replay 7
                 relengq parked replay --all --workflow container-base
    Exit codes:  1 something stays parked, 3 there is none of that id, 4 it is
                 parked no more, or you may not start its workflow
    """
    found = _chosen(setup, numbers, workflow, "replay", everything=everything)
    validate, done = Schemas().validate, []
    for line in found:
        replayed = parking.replay(setup.installation, line.id, setup.person.name, validate)
        done.append(replayed)
        if not as_json:
            setup.screen.line(f"{line.id}: ", *_replayed(setup, replayed))
    if as_json:
        print_json([{**vars(_hidden(setup, each.line)), "fresh": each.fresh} for each in done])
    elif not found:
        setup.screen.line(_empty(setup, workflow))
    return 1 if any(each.line.resolution is None for each in done) else 0


def _replayed(setup: Setup, replayed: Replayed) -> Iterator[str | Text]:
    line = replayed.line
    if line.resolution is None:
        yield state("parked")
        yield f" as before: {one_line(_hidden(setup, line).reason)}"
    else:
        yield Text(f"{'started' if replayed.fresh else 'had started'} run {line.run_id}", style="green")
        yield f" of {line.workflow}"


@parked_command.command("drop")
@click.argument("numbers", metavar="[ID]...", nargs=-1, type=click.IntRange(1))
@click.option("-a", "--all", "everything", is_flag=True, help="All of a workflow; asks first on a terminal.")
@click.option("-w", "--workflow", metavar="NAME", help="With --all, and needed there: the workflow.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_setup
def drop(
    setup: Setup, *, numbers: tuple[int, ...], everything: bool, workflow: str | None, yes: bool, as_json: bool
) -> None:
    """Settle parked messages for which nothing is to be done.

    They stay in the list of 'relengq parked --all', with who dropped them.

    \b
    Example:     relengq parked drop 7 8
                 relengq parked drop --all --workflow container-base
    Exit codes:  3 there is none of that id, 4 it is parked no more, or you may
                 not start its workflow
    """
    if everything and workflow is None:
        raise UsageFault("--all needs --workflow.", hint="See 'relengq parked drop --help'.")
    found = _chosen(setup, numbers, workflow, "drop", everything=everything)
    if everything and found and not yes and sys.stdin.isatty():
        click.confirm(f"Drop {_messages(len(found))} for {workflow}?", abort=True, err=True)
    done = [parking.drop(setup.installation, line.id, setup.person.name) for line in found]
    if as_json:
        print_json([_hidden(setup, line) for line in done])
    elif not done:
        setup.screen.line(_empty(setup, workflow))
    else:
        setup.screen.line(f"{_messages(len(done))} dropped.")


def _messages(count: int) -> str:
    return f"{count} parked message{'' if count == 1 else 's'}"


def _hidden(setup: Setup, line: ParkedLine) -> ParkedLine:
    """The line as the person may see it: its reason may quote the message."""
    return line if _readable(setup, line.workflow) else replace(line, reason=HIDDEN)
