"""Models that nobody uses leave memory: after a time, or when other programs need it.

The time runs from the end of the last request. Looking (health, slots, metrics) is not using.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import memory
from .errors import EngineError
from .settings import ModelSettings, ServerSettings
from .values import ModelStatus

if TYPE_CHECKING:
    from .core import Engine

log = logging.getLogger(__name__)

PRESSED_LOOKS = 3  # this many looks in a row, so that a short peak sends nobody away
PRESSED_IDLE_S = 10.0  # and only whom nobody has just used


def limit_s(model_id: str, server: ServerSettings, own: ModelSettings) -> float | None:
    """How long a model may be idle in memory, in seconds; None: for ever."""
    if own.pinned or model_id == server.rest_model:
        return None
    if own.never_keep:
        return 0.0
    wished = server.idle_unload_s if own.idle_unload_s is None else own.idle_unload_s
    return float(wished) or None


def least_missed(
    idle: Mapping[str, float], statuses: Mapping[str, ModelStatus], active_id: str | None
) -> list[str]:
    """Who may go under pressure, in order: cheap to bring back first, the active one last."""

    def order(model_id: str) -> tuple[bool, float]:
        load_s = statuses[model_id].load_s or 0.0
        return model_id == active_id, -idle[model_id] / max(load_s, 0.1)

    return sorted((m for m, idle_s in idle.items() if idle_s >= PRESSED_IDLE_S), key=order)


@dataclass(slots=True)
class _Memory:
    """What was seen in the last looks."""

    pressed: int = 0  # looks in a row
    emptied: bool = False  # by idleness: now the rest model may come


class Idleness:
    """`look` is called about once a second, on the engine's loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen = _Memory()

    async def look(self) -> None:
        """Let those leave whose time is over."""
        residency = self._engine.residency
        idle = residency.idle_times()
        if idle:
            limits, pressed = await asyncio.to_thread(self._rules, list(idle))
            for model_id, limit in limits.items():
                # Looked at again in the same breath: a request may have come meanwhile.
                if limit is not None and residency.retire(model_id, limit):
                    log.info("unloaded after %g s of idleness", limit, extra={"model": model_id})
                    self._seen.emptied = True
            self._seen.pressed = self._seen.pressed + 1 if pressed else 0
            if self._seen.pressed >= PRESSED_LOOKS:
                self._yield(idle, limits)
        elif self._seen.emptied:
            self._bring_rest_model()

    def _rules(self, idle: list[str]) -> tuple[dict[str, float | None], bool]:
        """The limits, and whether memory is short. Blocks: reads the user's overlay."""
        engine = self._engine
        server = engine.settings.server
        limits: dict[str, float | None] = {}
        for model_id in idle:
            limits[model_id] = None
            with contextlib.suppress(EngineError):  # a bad overlay unloads nothing
                limits[model_id] = limit_s(model_id, server, engine.store.for_model(model_id))
        total, available = memory.total_and_available()
        short = available < memory.reserve_bytes(total) // 2
        return limits, short and server.yield_memory

    def _yield(self, idle: Mapping[str, float], limits: Mapping[str, float | None]) -> None:
        """One at a time: the next look sees whether that was enough."""
        residency = self._engine.residency
        active_id = self._engine.active.model_id
        for model_id in least_missed(idle, residency.statuses(), active_id):
            if residency.retire(model_id, PRESSED_IDLE_S):
                log.info("unloaded: memory is short", extra={"model": model_id})
                self._seen.pressed = 0
                return

    def _bring_rest_model(self) -> None:
        engine = self._engine
        if any(status.pid is not None for status in engine.residency.statuses().values()):
            return  # one is still leaving, or comes
        self._seen.emptied = False
        wished = engine.settings.server.rest_model
        if wished is not None:
            engine.backend.start_load(wished)
