"""Which changes of the engine's state are worth a notification."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .cli_text import size
from .menu import NAME_LENGTH, clean, names_of
from .menu_runtime import runtime_name

Json = Mapping[str, Any]

# The user has looked elsewhere by then; a faster switch shows itself.
SLOW_SWITCH_S = 3.0
_BODY_LENGTH = 240
_IN_PROGRESS = ("queued", "running")
_FAILED_TITLES = {
    "build_runtime": "llama.cpp could not be built",
    "install_runtime": "llama.cpp could not be installed",
    "prove_runtime": "This llama.cpp cannot be used",
}


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
        # Kept over a restart of the engine: nobody wants to read these twice.
        self._fallbacks: set[tuple[str, str | None]] = set()  # models and runtimes told of
        self._updates: set[int] = set()  # builds told of

    def forget(self) -> None:
        """Start over, as after a restart of the engine."""
        self._before, self._switch = None, None

    def of(self, snapshot: Json) -> list[Message]:
        """The messages for what `snapshot` brings."""
        before, self._before = self._before, snapshot
        switched = self._switched(snapshot)
        here = [*self._fallen_back(snapshot), *self._update(snapshot)]
        if before is None:
            return []
        return [
            *_failures(before, snapshot),
            *_jobs(before, snapshot),
            *_downloads(before, snapshot),
            *_rolled_back(before, snapshot),
            *switched,
            *here,
        ]

    def _fallen_back(self, snapshot: Json) -> list[Message]:
        """The active model runs on the processor although there is a GPU, as the engine judges."""
        notice = next((n for n in snapshot["notices"] if n["code"] == "cpu_fallback"), None)
        active = snapshot["active_model_id"]
        status = _states(snapshot).get(active)
        if notice is None or status is None or status["state"] != "ready":
            return []
        pair = active, status["runtime_id"]
        if pair in self._fallbacks:
            return []
        self._fallbacks.add(pair)
        return [error_message(f"{_name(snapshot, active)} runs on the processor", notice)]

    def _update(self, snapshot: Json) -> list[Message]:
        update = snapshot["runtime"]["update"]
        if update is None or not update["told"] or update["build"] in self._updates:
            return []
        self._updates.add(update["build"])
        active = snapshot["runtime"]["active"]
        have = f"In use is {runtime_name(active)}. " if active else ""
        body = f"{have}The Runtimes page has its notes and installs it."
        return [Message(f"llama.cpp b{update['build']} is out", body)]

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


def _jobs(before: Json, snapshot: Json) -> list[Message]:
    """Builds, installations and tries of llama.cpp that have ended since."""
    ended = {job["id"] for job in before["jobs"] if job["state"] not in _IN_PROGRESS}
    messages = []
    for job in snapshot["jobs"]:
        if job["id"] in ended or job["kind"] not in _FAILED_TITLES:
            continue
        if job["state"] == "failed":
            messages.append(error_message(_FAILED_TITLES[job["kind"]], job["error"]))
        elif job["state"] == "done" and job["kind"] != "prove_runtime":  # the menu shows it
            messages.append(Message("llama.cpp is ready", _in_use(snapshot["runtime"])))
    return messages


def _downloads(before: Json, snapshot: Json) -> list[Message]:
    """Downloads that have ended since, well or not; a cancelled one is nobody's news."""
    old = {each["id"]: each["state"] for each in before["downloads"]}
    ended = [each for each in snapshot["downloads"] if old.get(each["id"]) != each["state"]]
    failed = [
        error_message(f"{clean(each['title'], NAME_LENGTH)} could not be downloaded", each["error"])
        for each in ended
        if each["state"] == "failed"
    ]
    done = [each for each in ended if each["state"] == "done"]
    if len(done) > 1:
        names = ", ".join(_title_of(each, snapshot) for each in done)
        return [Message(f"{len(done)} models are ready", clean(names, _BODY_LENGTH)), *failed]
    return [*(_ready(each, snapshot) for each in done), *failed]


def _ready(download: Json, snapshot: Json) -> Message:
    model = _model_of(download, snapshot)
    active = model is not None and model["id"] == snapshot["active_model_id"]
    how = "It is the active model now." if active else "Tick it in the tray menu to use it."
    return Message(
        f"{_title_of(download, snapshot)} is ready", f"{size(download['done_bytes'])}. {how}"
    )


def _model_of(download: Json, snapshot: Json) -> Json | None:
    path = download["model_path"]
    return next((model for model in snapshot["models"] if model["path"] == path), None)


def _title_of(download: Json, snapshot: Json) -> str:
    model = _model_of(download, snapshot)
    if model is None:
        return clean(download["title"], NAME_LENGTH)
    return names_of(snapshot["models"])[model["id"]]


def _in_use(runtime: Json) -> str:
    active = runtime["active"]
    return f"In use is {runtime_name(active)}." if active else "It is installed."


def _rolled_back(before: Json, snapshot: Json) -> list[Message]:
    rolled_back = snapshot["runtime"]["rolled_back"]
    if rolled_back is None or rolled_back == before["runtime"]["rolled_back"]:
        return []
    gone, back = (clean(rolled_back[key], NAME_LENGTH) for key in ("runtime_id", "back_to"))
    name = _name(snapshot, rolled_back["model_id"])
    reason = error_message("", rolled_back["error"]).body
    return [Message(f"Back to llama.cpp {back}", f"{gone} failed with {name}: {reason}")]


def _states(snapshot: Json) -> dict[str, Json]:
    return {status["model_id"]: status for status in snapshot["statuses"]}


def _name(snapshot: Json, model_id: str) -> str:
    return names_of(snapshot["models"]).get(model_id) or clean(model_id, NAME_LENGTH)
