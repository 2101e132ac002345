"""The commands about use: what was asked of the models, and what they hold right now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from . import routes
from .child_question import ask_child
from .measures import Slot, Usage
from .memory_view import ModelMemory, model_memory

if TYPE_CHECKING:
    from .core import Engine

MOST_SLOTS = 256


class UsageCommands:
    """Part of the command table."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def usage(self, model_id: str | None = None, days: int = 1) -> Usage:
        """Totals, speeds and a course by the hour or day, of one model or of all.

        A model that left the library is found by its id, too.
        """
        return self._engine.history.usage(model_id, days)

    def model_memory(self, model_id: str, changes: dict[str, Any] | None = None) -> ModelMemory:
        """What a model takes, part by part, with its settings or with `changes` to them."""
        engine = self._engine
        model = routes.find(
            model_id, engine.library.models(), engine.settings.aliases, engine.active.model_id
        )
        return model_memory(engine, model, changes or {})

    def slots(self, model_id: str) -> tuple[Slot, ...]:
        """What a model in memory works on; none when it is not up or does not answer in time.

        Nobody's use: the model's idle time goes on.
        """
        endpoint = self._engine.residency.endpoint(model_id)
        if endpoint is None:
            return ()
        body = self._engine.on_loop(ask_child(endpoint, "/slots"))
        return () if body is None else slots_in(body)


def slots_in(body: bytes) -> tuple[Slot, ...]:
    """llama-server's `/slots`, of which nothing but numbers goes on: it may hold prompts."""
    try:
        rows = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(rows, list):
        return ()
    return tuple(_slot(row) for row in rows[:MOST_SLOTS] if isinstance(row, dict))


def _slot(row: dict[str, Any]) -> Slot:
    """b11434 counts the generated tokens into `n_prompt_tokens`; others tell the prompt alone.

    The parts (evaluated, cached, generated) come to the same in both, but are gone when the
    slot rests, while its tokens still are there.
    """
    following = row.get("next_token")
    if isinstance(following, list):  # older ones: an object
        following = following[0] if following else {}
    generated = _count(following, "n_decoded")
    parts = _count(row, "n_prompt_tokens_processed") + _count(row, "n_prompt_tokens_cache")
    return Slot(
        id=_count(row, "id"),
        busy=row.get("is_processing") is True,
        context_length=_count(row, "n_ctx"),
        context_used=max(_count(row, "n_prompt_tokens"), parts + generated),
    )


def _count(row: Any, key: str) -> int:
    value = row.get(key) if isinstance(row, dict) else None
    return max(0, value) if isinstance(value, int) and not isinstance(value, bool) else 0
