"""How models fit is measured in the background after they arrive, so that no load waits for it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from .errors import EngineError
from .values import Model

if TYPE_CHECKING:
    from .core import Engine

log = logging.getLogger(__name__)

MOST_MODELS = 200  # the newest; of others it is measured at their first load


class FitAhead:
    """`look` is called again and again, on the engine's loop; it measures one model at most."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen: set[tuple[object, ...]] = set()  # failed ones too: their load tries again

    async def look(self) -> None:
        """Measure the next model that is not measured yet, while nobody is answered."""
        engine = self._engine
        if engine.mode == "once" or engine.library.scanning or not engine.runtime.ready:
            return
        if engine.bench.measuring:  # it would be measured, too
            return
        if any(s.in_flight or s.waiting for s in engine.residency.statuses().values()):
            return
        if not self._gpu_is_free():
            return
        await asyncio.to_thread(self._measure_one)

    def _gpu_is_free(self) -> bool:
        """Whether a fit finds all of the GPU, if there is one: what is measured is remembered."""
        active = self._engine.runtime.status().active
        if active is None or active.backend == "cpu":
            return True
        return all(s.pid is None for s in self._engine.residency.statuses().values())

    def _measure_one(self) -> None:
        models = [m for m in self._engine.library.models() if m.available and m.details_known]
        models.sort(key=lambda model: -model.modified_at)
        active = self._engine.runtime.status().active
        for model in models[:MOST_MODELS]:
            own = self._engine.settings.models.get(model.id)
            context = self._engine.settings.server.context_length
            mark = (model.id, model.modified_at, active and active.id, str(own), context)
            if mark not in self._seen:
                self._seen.add(mark)
                self._measure(model)
                return

    def _measure(self, model: Model) -> None:
        engine = self._engine
        try:
            settings = engine.store.for_model(model.id)
            engine.runtime.place(model, settings, engine.runtime.require(settings.runtime))
        except (EngineError, OSError) as error:  # its load says so where it can be read
            log.info("not measured: %s", error, extra={"model": model.id})
