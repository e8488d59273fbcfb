# SPDX-License-Identifier: GPL-3.0-or-later
"""``doctor``: what is wrong with the installation, and what to do."""

from __future__ import annotations

import click
from rich.text import Text

from relengq import doctor
from relengq.cli.options import clean
from relengq.cli.parameters import json_option
from relengq.cli.screen import dim, print_json, state
from relengq.cli.setup import Setup, pass_setup
from relengq.doctor import Level


@click.command("doctor")
@json_option
@pass_setup
def doctor_command(setup: Setup, as_json: bool) -> int:
    """Say what is wrong with the installation, and what to do.

    It looks at versions, the site, the disk, the database, the broker, the
    clock, workers, the secrets of their pools, queues and schedules.

    \b
    Example:     relengq doctor
    Exit codes:  0 nothing is bad, 1 something is
    """
    findings = []
    for finding in doctor.examine(setup.installation):
        findings.append(finding)
        if as_json:
            continue
        setup.screen.line(
            state(finding.level),
            " " * (5 - len(finding.level)),
            Text(clean(finding.subject), style="bold"),
            ": ",
            finding.message,
        )
        if finding.todo:
            setup.screen.line(dim(f"     → {finding.todo}"))
    bad = any(finding.level is Level.BAD for finding in findings)
    if as_json:
        print_json({"well": not bad, "findings": findings})
    return 1 if bad else 0
