"""The commands about measured speed; part of the engine's one table (`engine.commands`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tray_app.engine import routes
from tray_app.engine.errors import ModelNotFound

from .values import BenchHistory, BenchWish

if TYPE_CHECKING:
    from tray_app.engine.core import Engine


class BenchCommands:
    """Public methods are commands."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def bench_model(
        self,
        model_id: str,
        prompt_tokens: int = 512,
        generated_tokens: int = 128,
        repetitions: int = 3,
        runtime_id: str | None = None,
    ) -> dict[str, str]:
        """Start measuring how fast a model reads and writes, on its runtime or on another."""
        wish = BenchWish(prompt_tokens, generated_tokens, repetitions)
        return {"job_id": self._engine.bench.start(model_id, wish, runtime_id).id}

    def bench_history(self, model_id: str | None = None) -> BenchHistory:
        """The kept measurements of one model or of all, and how the newest compare.

        A model that left the library is found by its id, too.
        """
        if model_id is None:
            return self._engine.bench.history()
        engine = self._engine
        try:
            model_id = routes.find(
                model_id, engine.library.models(), engine.settings.aliases, engine.active.model_id
            ).id
        except ModelNotFound:
            found = engine.bench.history(model_id)
            if not found.runs:
                raise
            return found
        return engine.bench.history(model_id)
