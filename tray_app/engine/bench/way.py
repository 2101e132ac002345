"""Room for a measurement: idle models leave memory where they have to, and come back."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from tray_app.engine.errors import EngineError, NotEnoughMemory
from tray_app.engine.jobs import JobContext
from tray_app.engine.values import Model, Runtime

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

LOOK_S = 0.05
GONE_S = 60.0  # conversations are kept first; a child that will not end is killed long before


def clear(
    engine: Engine,
    context: JobContext,
    model: Model,
    runtime: Runtime,
    needed_bytes: int,
    sent_away: list[str],
) -> None:
    """Make room for `needed_bytes`; whoever left is added to `sent_away`. Blocks while they end.

    With a GPU all idle models leave: a driver that finds its memory full may go on in main memory,
    and then measures that. Otherwise only as many as have to. Nothing is cut, nothing pinned
    leaves. Raises NotEnoughMemory, Cancelled.
    """
    while True:
        memory = engine.memory_now()
        free = memory.budget_bytes - memory.models_bytes
        fits = needed_bytes <= free
        if fits and runtime.backend == "cpu":
            return
        left: str | None = engine.on_loop(_send_one_away(engine))
        if left is not None:
            sent_away.append(left)
            context.progress(0, None, "steps", f"{left} leaves memory for a while")
            _await_gone(engine, context, left)
        elif fits:
            return
        else:
            raise NotEnoughMemory(
                f"Measuring {model.id} takes {needed_bytes / 1e9:.1f} GB and"
                f" {max(0, free) / 1e9:.1f} GB are free for models.",
                "Unload or unpin models, close other programs, or measure a smaller model.",
            )


async def _send_one_away(engine: Engine) -> str | None:
    """The model that is idle longest begins to leave, the active one last; None: nobody can."""
    idle = engine.residency.idle_times()
    active = engine.active.model_id
    for model_id in sorted(idle, key=lambda each: (each == active, -idle[each])):
        if engine.residency.retire(model_id, 0.0):
            return model_id
    return None


def _await_gone(engine: Engine, context: JobContext, model_id: str) -> None:
    deadline = time.monotonic() + GONE_S
    while time.monotonic() < deadline:
        status = engine.residency.statuses().get(model_id)
        if status is None or status.pid is None:
            return
        context.cancel.wait(LOOK_S)
        context.check()


def bring_back(engine: Engine, model_ids: list[str]) -> None:
    """Begin to load those that left, in the order of their going. Never raises."""
    for model_id in dict.fromkeys(model_ids):
        if engine.closing:
            return
        with contextlib.suppress(EngineError):  # it comes with its next request
            engine.on_loop(_load(engine, model_id))


async def _load(engine: Engine, model_id: str) -> None:
    engine.backend.start_load(model_id)
