# SPDX-License-Identifier: GPL-3.0-or-later
"""The classes of the messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pika
from fedora_messaging import message

from relengq_messages import schemas

_HEADER_NAMES = 50
"""So many names of one kind become headers; a table of headers has to fit one frame of AMQP."""
_HEADER_BYTES = 200
"""A header's name has at most 255 bytes in AMQP, of which fedora-messaging takes some."""
_PERSON = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_NOBODY = ("relengq", "clock", "bus")
"""What stands for the program where a person's name could stand."""
_SEVERITIES = {"succeeded": message.INFO, "failed": message.ERROR, "cancelled": message.WARNING}


class RelengqMessage(message.Message):
    """What all messages of relengq have. Not sent itself."""

    def __init__(
        self,
        body: Mapping[str, Any] | None = None,
        headers: dict[str, str | int | bool] | None = None,
        topic: str | None = None,
        properties: pika.BasicProperties | None = None,
        severity: int | None = None,
    ) -> None:
        """Take the parts. Without ``severity``, what the body tells decides it."""
        super().__init__(body, headers, topic, properties, severity or self.severity_of(body or {}))

    @classmethod
    def severity_of(cls, body: Mapping[str, Any]) -> int:
        """The severity that a message with this body has. Never raises, whatever the body."""
        return message.INFO

    @property
    def app_name(self) -> str:
        """The application: relengq."""
        return "relengq"

    @property
    def app_icon(self) -> None:
        """None: relengq has no icon on the web."""
        return

    @property
    def url(self) -> str | None:
        """Where the run can be seen, if the installation has a console."""
        url: str | None = self.body["url"]
        return url

    @property
    def agent_name(self) -> str | None:
        """The person who started the run, or who stopped it; None when it was no person."""
        people = self.usernames
        return people[-1] if people else None

    @property
    def usernames(self) -> list[str]:
        """The person who started the run, and whoever stopped it."""
        started = self.body["who"] if self.body["trigger"]["kind"] == "person" else None
        people = (started, self.body.get("stopped_by"))
        return list(dict.fromkeys(str(name) for name in people if _is_person(name)))

    @property
    def groups(self) -> list[str]:
        """The groups whose members may start and cancel runs of the workflow."""
        return _for_headers(self.body["groups"])

    @property
    def packages(self) -> list[str]:
        """The packages that the run is about, where its inputs say so.

        That is what an input ``package`` or ``packages`` names, and the names in ``nvr`` or ``nvrs``.
        """
        inputs = self.body["inputs"]
        found = [*_texts(inputs.get("package")), *_texts(inputs.get("packages"))]
        for build in (*_texts(inputs.get("nvr")), *_texts(inputs.get("nvrs"))):
            name, *rest = build.rsplit("-", 2)
            if len(rest) == 2:
                found.append(name)
        return _for_headers(name for name in found if _PACKAGE.fullmatch(name))

    @property
    def workflow(self) -> str:
        """The workflow's name."""
        name: str = self.body["workflow"]
        return name

    @property
    def run_id(self) -> str:
        """The run's id."""
        run: str = self.body["run"]
        return run

    @property
    def inputs(self) -> dict[str, Any]:
        """The run's inputs, without the secret ones."""
        return dict(self.body["inputs"])

    @property
    def _run(self) -> str:
        return f"{self.workflow} ({self.run_id})"

    def __str__(self) -> str:
        """Some lines that tell what the message tells, for a mail."""
        lines = [self.summary, "", *(f"{name}: {value}" for name, value in self._details() if value)]
        return "\n".join(lines)

    def _details(self) -> Iterable[tuple[str, object]]:
        body, trigger = self.body, self.body["trigger"]
        about = trigger["message_id"] or trigger["schedule"]
        yield "Workflow", body["workflow"]
        yield "Run", body["run"]
        yield "Started by", f"{body['who']} ({trigger['kind']}{f' {about}' if about else ''})"
        yield "Repeats run", body["origin"]
        yield "Inputs", ", ".join(f"{name}={value}" for name, value in body["inputs"].items())
        yield "Revision", body["revision"] and body["revision"] + (" with changes" if body["dirty"] else "")
        yield "At", body["at"]
        yield "See", body["url"]


class RunStartedV1(RelengqMessage):
    """A run has begun."""

    topic = "relengq.run.started.v1"
    body_schema: ClassVar[dict[str, Any]] = schemas.RUN_STARTED_V1

    @property
    def summary(self) -> str:
        """One line."""
        return f"Run of {self._run} has begun"


class RunFinishedV1(RelengqMessage):
    """A run is over."""

    topic = "relengq.run.finished.v1"
    body_schema: ClassVar[dict[str, Any]] = schemas.RUN_FINISHED_V1

    @classmethod
    def severity_of(cls, body: Mapping[str, Any]) -> int:
        """Info when it succeeded, a warning when it was cancelled, else an error."""
        return _SEVERITIES.get(str(body.get("result")), message.ERROR)

    @property
    def summary(self) -> str:
        """One line."""
        ended = f"was {self.result}" if self.result == "cancelled" else self.result
        reason = self.body["reason"]
        return _line(f"Run of {self._run} {ended}" + (f": {reason}" if reason else ""))

    @property
    def result(self) -> str:
        """succeeded, failed or cancelled."""
        result: str = self.body["result"]
        return result

    @property
    def outputs(self) -> dict[str, Any]:
        """What the run results in."""
        return dict(self.body["outputs"])

    def _details(self) -> Iterable[tuple[str, object]]:
        yield from super()._details()
        step = self.body["failed_step"]
        if step:
            yield "Failed step", _label(step)
            yield "Message", step["message"]
        yield "Stopped by", self.body["stopped_by"]


class RunWaitingV1(RelengqMessage):
    """A run waits for a person's approval or for a message."""

    topic = "relengq.run.waiting.v1"
    body_schema: ClassVar[dict[str, Any]] = schemas.RUN_WAITING_V1

    @property
    def summary(self) -> str:
        """One line."""
        waits = self.body["waits_for"]
        what = f"message {waits['topic']}" if waits["topic"] else waits["kind"]
        whose = f" by {' or '.join(waits['groups'])}" if waits["groups"] else ""
        return _line(f"Run of {self._run} waits at {_label(self.body['step'])} for {what}{whose}")

    @property
    def groups(self) -> list[str]:
        """The groups whose members may decide, else those who may start a run."""
        return _for_headers(self.body["waits_for"]["groups"] or self.body["groups"])

    def _details(self) -> Iterable[tuple[str, object]]:
        yield from super()._details()
        yield "Waits for", self.body["waits_for"]["note"]
        yield "Until", self.body["waits_for"]["until"]


class StepFinishedV1(RelengqMessage):
    """A step of a run is over."""

    topic = "relengq.step.finished.v1"
    body_schema: ClassVar[dict[str, Any]] = schemas.STEP_FINISHED_V1

    @classmethod
    def severity_of(cls, body: Mapping[str, Any]) -> int:
        """As a run's; a failure that the run may survive is a warning."""
        step = body.get("step")
        if not isinstance(step, Mapping):
            return message.ERROR
        severity = _SEVERITIES.get(str(step.get("result")), message.ERROR)
        return min(severity, message.WARNING) if step.get("allowed_to_fail") is True else severity

    @property
    def summary(self) -> str:
        """One line."""
        step = self.body["step"]
        ended = f"was {self.result}" if self.result == "cancelled" else self.result
        told = f": {step['message']}" if step["message"] else ""
        return _line(f"Step {_label(step)} of {self._run} {ended}{told}")

    @property
    def result(self) -> str:
        """succeeded, failed or cancelled."""
        result: str = self.body["step"]["result"]
        return result

    @property
    def outputs(self) -> dict[str, Any]:
        """What the step has handed on."""
        return dict(self.body["outputs"])


def _label(step: Mapping[str, Any]) -> str:
    return f"{step['name']} [{step['instance']}]" if step["instance"] else f"{step['name']}"


def _line(text: str) -> str:
    """The text on one line of a bearable length."""
    flat = " ".join(text.split())
    return flat if len(flat) <= 200 else f"{flat[:199]}…"


def _is_person(name: object) -> bool:
    return isinstance(name, str) and name not in _NOBODY and len(name) <= 100 and bool(_PERSON.fullmatch(name))


def _texts(value: object) -> list[str]:
    """The texts that an input's value holds: itself, or those of a list."""
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _for_headers(names: Iterable[str]) -> list[str]:
    """Those names, each once, that can be part of a header's name, as fedora-messaging makes one of each."""
    fitting = (name for name in names if name.isprintable() and 0 < len(name.encode()) <= _HEADER_BYTES)
    return list(dict.fromkeys(fitting))[:_HEADER_NAMES]
