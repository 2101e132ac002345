"""Which changes of the engine's state are worth a notification."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .menu import NAME_LENGTH, clean, names_of

Json = Mapping[str, Any]

# The user has looked elsewhere by then; a faster switch shows itself.
SLOW_SWITCH_S = 3.0
_BODY_LENGTH = 240


@dataclass(frozen=True, slots=True)
class Message:
    """One notification."""

    title: str
    body: str


class News:
    """Compares each snapshot with the one before; the first one is never news."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before: Json | None = None
        self._switch: tuple[str, float] | None = None  # the model waited for, and since when

    def forget(self) -> None:
        """Start over, as after a restart of the engine."""
        self._before, self._switch = None, None

    def of(self, snapshot: Json) -> list[Message]:
        """The messages for what `snapshot` brings."""
        before, self._before = self._before, snapshot
        switched = self._switched(snapshot)
        if before is None:
            return []
        return [*_failures(before, snapshot), *_builds(before, snapshot), *switched]

    def _switched(self, snapshot: Json) -> list[Message]:
        active = snapshot["active_model_id"]
        state = _states(snapshot).get(active, {}).get("state", "unloaded")
        if state in ("waiting", "loading"):
            if self._switch is None or self._switch[0] != active:
                self._switch = (active, self._clock())
            return []
        switch, self._switch = self._switch, None
        if switch is None or switch[0] != active or state != "ready":
            return []
        took_s = self._clock() - switch[1]
        if took_s <= SLOW_SWITCH_S:
            return []
        return [Message(f"{_name(snapshot, active)} is ready", f"It took {took_s:.0f} seconds.")]


def error_message(title: str, error: Json | None) -> Message:
    """A message for an error view: what happened and what to do."""
    error = error or {}
    parts = (clean(error.get(key) or "", _BODY_LENGTH) for key in ("message", "remedy"))
    return Message(title, "\n".join(part for part in parts if part))


def _failures(before: Json, snapshot: Json) -> list[Message]:
    old = _states(before)
    return [
        error_message(f"{_name(snapshot, model_id)} failed", status["error"])
        for model_id, status in _states(snapshot).items()
        if status["state"] == "failed" and old.get(model_id, {}).get("state") != "failed"
    ]


def _builds(before: Json, snapshot: Json) -> list[Message]:
    running = {
        job["id"]
        for job in before["jobs"]
        if job["kind"] == "build_runtime" and job["state"] in ("queued", "running")
    }
    messages = []
    for job in snapshot["jobs"]:
        if job["id"] not in running:
            continue
        if job["state"] == "done":
            messages.append(Message("llama.cpp is ready", "The build is finished."))
        elif job["state"] == "failed":
            messages.append(error_message("llama.cpp could not be built", job["error"]))
    return messages


def _states(snapshot: Json) -> dict[str, Json]:
    return {status["model_id"]: status for status in snapshot["statuses"]}


def _name(snapshot: Json, model_id: str) -> str:
    return names_of(snapshot["models"]).get(model_id) or clean(model_id, NAME_LENGTH)
