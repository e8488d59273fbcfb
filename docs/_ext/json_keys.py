# SPDX-License-Identifier: GPL-3.0-or-later
"""What the keys of printed JSON mean, where the code's own docstring does not say."""

from __future__ import annotations

from rst import attribute_docs

TYPES = {
    r"tuple\[(\w+), \.\.\.\]": r"list: \1", r"list\[(\w+)\]": r"list: \1", r"dict\[.*?\]": "mapping",
    r"\bstr\b": "text", r"\bint\b": "whole number", r"\bfloat\b": "number", r"\bbool\b": "true or false",
    r"\bdatetime\b": "time", r" \| None\b": " or null", r"\bRunLine\b": "a run", r"\bFired\b": "a due time",
    r"\bSchedule\b": "keys of the file", r"\bStepLine\b": "steps",
    r"\bWaits\b": "what it waits for", r"\bFailure\b": "failed tasks", r"\bPlannedStep\b": "planned steps",
    r"\b\w+State\b": "state", r"list: a run": "list: runs", r"list: text": "list: texts",
}  # fmt: skip
"""Python's types in words; applied in this order."""

_MEANINGS = {
    "action": "What was done; of a task: the module.",
    "after": "The state after it, if it changed one.",
    "allow_failure": "Whether the run goes on when it fails.",
    "at": "When; of something waited for: until when, or not before.",
    "attempts": "How many tries there were.",
    "before": "The state before it, if it changed one.",
    "changed": "Whether it changed something.",
    "column": "From 1.",
    "created_at": "When it was started by its trigger.",
    "deadline": "When the workflow's timeout ends it.",
    "dirty": "Whether the site had changes that were not committed.",
    "due_at": "When it was due.",
    "duration": "In seconds.",
    "failures": "Tasks that failed in the last attempt, at most five.",
    "file": "Relative to the site.",
    "final": "Whether it is a step of finally.",
    "finished_at": "When it ended.",
    "group": "Its concurrency group.",
    "held": "Whether a person put it on hold.",
    "hint": "What to do next, or the nearest valid name.",
    "host": "The host: the worker's, or for a task the one that it ran on.",
    "id": "Its id.",
    "inputs": "Its inputs; secret ones are masked.",
    "instance": "The matrix instance's label; empty without a matrix.",
    "item": "The item of a loop.",
    "kind": "playbook, approval or wait_for.",
    "kept_from": "The run whose result was kept instead of playing it.",
    "label": "Its name as people see it, with the instance.",
    "last": "The newest due time that was dealt with.",
    "last_run_state": "The state of the run that it started.",
    "level": "ok, warn or bad.",
    "line": "From 1.",
    "message": "What went wrong, in a sentence.",
    "name": "The step's name.",
    "note": "What a person wrote, or why it happened.",
    "number": "From 1 within its step.",
    "origin": "The run that it repeats.",
    "origin_from": "From where it repeats it: a step, failed, or null for all of it.",
    "outcome": "started, skipped, missed or refused.",
    "outputs": "What was handed on; of a run: its result.",
    "play": "The play.",
    "queue": "The queue that it went to.",
    "reason": "Why it waits, or why it ended as it did.",
    "reruns": "Runs that repeat it.",
    "return_code": "Of ansible-playbook.",
    "revision": "The commit of the site that it plays; null when the site is not in git.",
    "run": "The run.",
    "run_id": "The run, if there is one.",
    "schedule": "The schedule's name, or the keys of its file.",
    "started": "When it began.",
    "started_at": "When a worker first took it.",
    "state": "Its state.",
    "stats": "What Ansible counted on each host.",
    "status": "ok, changed, failed, unreachable, skipped, ignored or rescued.",
    "step": "The step's name.",
    "step_state": "The state of its step.",
    "steps": "The steps in order.",
    "subject": "What was looked at.",
    "task": "The task.",
    "task_host": "The host on which it is just now.",
    "todo": "What to do about it.",
    "trigger": "message, schedule or person.",
    "trigger_detail": "What the trigger brought: the due time, the message.",
    "usual": "Seconds that it usually takes: the median of up to 20 runs that succeeded.",
    "waits": "What a queued or waiting step waits for.",
    "who": "Who or what did it.",
    "worker": "The Celery worker.",
    "workflow": "The workflow.",
}


def meaning(module: str, name: str, key: str) -> str:
    """The code's own word on a key, else ours. Raises KeyError for a key that nobody has explained."""
    return attribute_docs(module).get((name, key)) or _MEANINGS[key]
