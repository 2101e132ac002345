"""What is tried before a model that died by itself counts as failed: a new fit, another runtime."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from typing import TYPE_CHECKING

from .errors import EngineError, ErrorView

if TYPE_CHECKING:
    from .core import Engine

log = logging.getLogger(__name__)

TOO_LITTLE_MEMORY = "not_enough_memory"


class SecondChances:
    """On the engine's loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._refitted: set[str] = set()  # since their last answer

    def take(self, model_id: str, runtime_id: str, error: ErrorView) -> bool:
        """Whether there is reason to load the model once more, at once."""
        if error.code == TOO_LITTLE_MEMORY and self._refit(model_id):
            return True
        return self._engine.runtime.second_chance(model_id, runtime_id, error)

    def answered(self, model_id: str) -> None:
        """A model has answered a request: it fits, and its runtime works."""
        self._refitted.discard(model_id)
        self._engine.runtime.answered(model_id)

    def _refit(self, model_id: str) -> bool:
        """Measure anew before the next load: what was measured once may have been in an emptier
        memory. Once only, or a model too large would be loaded for ever.
        """
        if model_id in self._refitted:
            return False
        with contextlib.suppress(EngineError, sqlite3.Error):
            forgotten = self._engine.runtime.forget_fits(self._engine.library.get(model_id))
            self._refitted.add(model_id)
            if forgotten:
                log.info("it is fitted anew: memory was short", extra={"model": model_id})
            return forgotten
        return False
