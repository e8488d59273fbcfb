# SPDX-License-Identifier: GPL-3.0-or-later
"""How the tests are spread over the processes of ``pytest -n``: file by file, so that few servers are started."""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController


class Spread(LoadFileScheduling):
    """Whole files, in the order in which pytest collects them: long ones first, unit tests last.

    Those that need RabbitMQ, which takes its time to start, go to the first process as long as the others
    have something else to do.
    """

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _assign_work_unit(self, node: WorkerController) -> None:
        first = node is next(iter(self.assigned_work))
        fitting = (file for file in self.workqueue if self._needs_rabbitmq(file) is first)
        self.workqueue.move_to_end(next(fitting, next(iter(self.workqueue))), last=False)
        super()._assign_work_unit(node)

    def _needs_rabbitmq(self, file: str) -> bool:
        return "mark.rabbitmq" in (Path(self.config.rootpath) / file).read_text(encoding="utf-8")
