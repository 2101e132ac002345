"""What the engine looks after by itself, again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from .fit_ahead import FitAhead
from .idleness import Idleness
from .logs import cut_large_logs

if TYPE_CHECKING:
    from .core import Engine

log = logging.getLogger(__name__)

FOLDERS_S = 5.0  # folders are looked at and large logs are cut this often
IDLE_S = 1.0
FIT_S = 2.0


class Rounds:
    """Runs from `start` to `stop`, on the engine's loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._idleness = Idleness(engine)
        self._fit_ahead = FitAhead(engine)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; on the loop, once the residency is there."""
        for every_s, look in (
            (FOLDERS_S, self._look_around),
            (IDLE_S, self._idleness.look),
            (FIT_S, self._fit_ahead.look),
        ):
            self._tasks.append(asyncio.create_task(_again(every_s, look)))

    async def stop(self) -> None:
        """End; a look that is under way in a thread ends by itself."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look_around(self) -> None:
        await asyncio.to_thread(self._look)

    def _look(self) -> None:
        engine = self._engine
        if engine.library.changed():
            engine.library.rescan()
        cut_large_logs(list(engine.home.logs.glob("model-*.log")))
        engine.runtime.look_around(time.monotonic())
        if engine.tls is not None:
            engine.tls.renew()
        engine.app_update.look()


async def _again(every_s: float, look: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(every_s)
        try:
            await look()
        except Exception:  # barrier: one odd folder must not end the looking
            log.exception("a look around failed")
