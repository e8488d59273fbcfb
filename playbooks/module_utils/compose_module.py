# SPDX-License-Identifier: GPL-3.0-or-later
"""What the compose modules have in common: one way in and one way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.compose_layout import GOOD, Compose, ComposeFault, write


def run(options: dict, action: Callable[[AnsibleModule], dict], complaint: str, *, note: str = "") -> None:
    """Run a module's action and exit: its result, or one sentence that begins with the complaint.

    With a ``note`` (the name of a stage) the sentence is kept in the compose too, until the stage of that architecture
    succeeds: later stages leave the architecture out, and the report says why.

    In check mode a compose that a step before would have begun is not there; then there is nothing to compare with, and
    the action would change something.
    """
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    path = module.params.get("path")
    if module.check_mode and path and not Path(path, "COMPOSE_ID").exists():
        module.exit_json(changed=True, msg=f"{path} is not begun: all of it would be made")
    sentence = ""
    try:
        result = action(module)
    except (ComposeFault, ValueError, OSError) as fault:
        sentence = f"{complaint.format(**module.params)}: {fault}"
    if note and not module.check_mode:
        _keep(path, module.params["arch"], note, sentence)
    if sentence:
        module.fail_json(msg=sentence)
    module.exit_json(**result)


def _keep(path: str, arch: str, stage: str, sentence: str) -> None:
    try:
        compose = Compose(path)
        kept = compose.failure(arch, stage)
        if compose.status in GOOD:
            return
        if sentence:
            write(kept, sentence + "\n")
        else:
            kept.unlink(missing_ok=True)
    except (ComposeFault, OSError):
        # The stage's own fault is the one to show.
        return
