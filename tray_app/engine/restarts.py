"""After a child that died by itself: another runtime, a pause and a restart, or a failure."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from .errors import EngineError, ErrorView, ModelFailed
from .line import Line
from .resident import Resident
from .values import ModelState

log = logging.getLogger(__name__)

BACKOFF_S = (0.5, 1.0, 2.0, 4.0)  # pauses between restarts; after the last it has failed


class Restarts:
    """On the residency's loop. `second_chance` as there; `give_up` ends the model's wishes."""

    def __init__(
        self,
        line: Line,
        is_active: Callable[[str], bool],
        second_chance: Callable[[str, str, ErrorView], bool],
        give_up: Callable[[Resident, EngineError], None],
        clock: Callable[[], float],
        pauses_s: tuple[float, ...] = BACKOFF_S,
    ) -> None:
        self._line = line
        self._is_active = is_active
        self._second_chance = second_chance
        self._give_up = give_up
        self._clock = clock
        self._pauses_s = pauses_s

    def died(self, resident: Resident, error: ErrorView, permanent: bool) -> None:
        """Nobody asked for this end. A `permanent` reason would come again at once."""
        log.error("llama-server ended: %s", error.message, extra={"model": resident.model_id})
        if self._second_chance(resident.model_id, resident.runtime_id, error):
            resident.move(ModelState.UNLOADED)
            if self._wanted(resident):
                self._line.join(resident)
            return
        recent = resident.note_death(self._clock())
        if permanent or recent > len(self._pauses_s):
            failure = ModelFailed(error.message, error.remedy)
            failure.code = error.code
            self._give_up(resident, failure)
            return
        resident.error = error
        if not self._wanted(resident):
            resident.move(ModelState.UNLOADED)
            return
        pause_s = self._pauses_s[recent - 1]
        resident.move(ModelState.BACKOFF)
        resident.retry_at = time.time() + pause_s
        loop = asyncio.get_running_loop()
        resident.retry = loop.call_later(pause_s, self._try_again, resident)
        resident.on_change(resident)

    def _try_again(self, resident: Resident) -> None:
        """The pause is over; nobody may want it any more."""
        resident.retry = None
        if self._wanted(resident):
            self._line.come_back(resident)
        else:
            resident.move(ModelState.UNLOADED)

    def _wanted(self, resident: Resident) -> bool:
        return bool(resident.wishes) or self._is_active(resident.model_id)
