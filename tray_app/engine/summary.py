"""What the whole comes to: one state word, one sentence and the standing notices. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .errors import ErrorView
from .runtime.notices import runtime_notices
from .values import (
    GatewayState,
    GatewayStatus,
    Model,
    ModelState,
    ModelStatus,
    Notice,
    RuntimeState,
    RuntimeStatus,
    ServerState,
)

_STARTING = (ModelState.WAITING, ModelState.LOADING, ModelState.BACKOFF)


def server_state(
    active_id: str | None,
    statuses: Mapping[str, ModelStatus],
    gateway: GatewayStatus,
    runtime: RuntimeStatus,
) -> ServerState:
    """The word the tray icon shows."""
    if gateway.state is GatewayState.BLOCKED or runtime.state is RuntimeState.FAILED:
        return ServerState.ERROR
    if any(status.in_flight for status in statuses.values()):
        return ServerState.BUSY
    active = statuses.get(active_id or "")
    if active is not None and active.state is ModelState.FAILED:
        return ServerState.ERROR
    states = {status.state for status in statuses.values()}
    if runtime.state is RuntimeState.BUILDING or states & set(_STARTING):
        return ServerState.STARTING
    return ServerState.READY if ModelState.READY in states else ServerState.STOPPED


def status_text(
    active: Model | None,
    models: Sequence[Model],
    statuses: Mapping[str, ModelStatus],
    gateway: GatewayStatus,
    runtime: RuntimeStatus,
    tokens_per_s: float | None = None,
) -> str:
    """One plain sentence for the tray's first line.

    `tokens_per_s` is how fast the active model's last answer was: what an answer that is still
    written does, only its end tells.
    """
    if gateway.state is GatewayState.BLOCKED and gateway.error:
        return gateway.error.message
    if runtime.active is None:
        return {
            RuntimeState.SEARCHING: "Looking for llama.cpp…",
            RuntimeState.BUILDING: "Installing llama.cpp for this machine…",
            RuntimeState.FAILED: "llama.cpp could not be installed",
        }.get(runtime.state, "llama.cpp is not installed yet")
    if not models:
        return "No models yet"
    if active is None:
        return "No model chosen"
    return _active_text(label(active, models), active, statuses, tokens_per_s)


def label(model: Model, models: Sequence[Model]) -> str:
    """A model's name, with its quantization when another model has the same name."""
    alike = sum(1 for other in models if other.name == model.name)
    return f"{model.name} {model.quantization}" if alike > 1 and model.quantization else model.name


def _active_text(
    name: str,
    active: Model,
    statuses: Mapping[str, ModelStatus],
    tokens_per_s: float | None,
) -> str:
    status = statuses.get(active.id, ModelStatus(active.id))
    running = sum(s.in_flight for s in statuses.values())
    if status.state is ModelState.WAITING:
        if not running:
            return f"Making room for {name}…"
        return f"Switching to {name} when idle ({count(running, 'request')})"
    if status.state is ModelState.LOADING:
        return f"Loading {name}…"
    if status.state is ModelState.BACKOFF:
        return f"{name} ended; starting it again…"
    if status.state is ModelState.FAILED and status.error:
        return f"{name} failed: {status.error.message}"
    if running:
        if status.in_flight != running:
            return f"Models: answering {count(running, 'request')}"
        lately = f", lately {_speed(tokens_per_s)} tokens/s" if tokens_per_s else ""
        return f"{name}: answering {count(running, 'request')}{lately}"
    if status.state is ModelState.READY:
        return f"{name} is ready"
    if status.state is ModelState.STOPPING:
        return f"Unloading {name}…"
    return f"{name} loads on the first request"


def _speed(tokens_per_s: float) -> str:
    return f"{tokens_per_s:.0f}" if tokens_per_s >= 10 else f"{tokens_per_s:.1f}"


def count(number: int, noun: str) -> str:
    """ "1 request", "2 requests"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def notices(
    gateway: GatewayStatus,
    runtime: RuntimeStatus,
    switch_failure: tuple[str, ErrorView] | None,
    active: ModelStatus | None,
    standing: Iterable[Notice],
) -> tuple[Notice, ...]:
    """Everything that is wrong now, each with what to do about it."""
    found = list(standing)
    if gateway.error is not None:
        found.append(_from_error(gateway.error, "error"))
    found.extend(runtime_notices(runtime, active))
    if switch_failure is not None:
        model_id, error = switch_failure
        message = f"{model_id} could not be loaded: {error.message}"
        found.append(Notice("switch_failed", "error", message, error.remedy))
    elif active is not None and active.state is ModelState.FAILED and active.error is not None:
        message = f"{active.model_id} failed: {active.error.message}"
        found.append(Notice("model_failed", "error", message, active.error.remedy))
    return tuple(found)


def _from_error(error: ErrorView, level: str) -> Notice:
    return Notice(error.code, level, error.message, error.remedy)


def worth_telling(status: ModelStatus) -> bool:
    """Whether faces want to see a model's status: one never touched has nothing to say."""
    return (
        status.state is not ModelState.UNLOADED
        or status.waiting > 0
        or status.error is not None
        or status.last_used_at is not None
    )
