"""What the gateway asks of the engine, on the engine's loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from . import gguf, idleness, routes
from .collector import Collector
from .errors import EngineError, ModelNotFound, ModelUnavailable
from .events import RequestFinished
from .measures import Measures, ModelDetails, Running
from .resident import Lease
from .values import Model, ModelState, ModelStatus, RequestRecord, to_json

if TYPE_CHECKING:
    from .core import Engine


# The settings that decide how a model answers, by the names that requests use too.
ANSWERING = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "max_tokens")


class Backend:
    """The gateway's side of the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._collector = Collector(engine)
        self.tally = self._collector.tally
        self._loads: set[asyncio.Task[None]] = set()

    def start_load(self, model_id: str) -> None:
        """Begin to bring a model up; its outcome shows in its status."""
        task = asyncio.get_running_loop().create_task(self._load(model_id))
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    async def _load(self, model_id: str) -> None:
        with contextlib.suppress(EngineError):
            await self._engine.residency.load(model_id)

    def resolve(self, name: str | None) -> str:
        """The model id for a name. Raises ModelNotFound, NoActiveModel, ModelUnavailable."""
        engine = self._engine
        found = routes.resolve(
            name, engine.library.models(), engine.settings.aliases, engine.active.model_id
        )
        return found.id

    async def acquire(self, model_id: str, counts: bool = True) -> Lease:
        """Wait until the model is ready. Raises EngineError; cancelling leaves the queue.

        Without `counts` it stays as idle as it was.
        """
        return await self._engine.residency.acquire(model_id, counts)

    def status(self, model_id: str) -> ModelStatus:
        """What the model does now."""
        return self._engine.residency.statuses().get(model_id, ModelStatus(model_id))

    def model_list(self) -> list[dict[str, Any]]:
        """The rows of `/v1/models`."""
        engine = self._engine
        return routes.model_rows(
            engine.library.models(),
            engine.residency.statuses(),
            engine.settings.aliases,
            engine.active.model_id,
        )

    def health(self) -> dict[str, Any]:
        """`status` is "ok" as llama-server's is; the rest is ours."""
        statuses = self._engine.residency.statuses()
        return {
            "status": "ok",
            "active_model": self._engine.active.model_id,
            "models": {s.model_id: to_json(s.state) for s in statuses.values()},
        }

    async def measures(self) -> Measures:
        """What `/metrics` tells, the children's own figures included; no model is used by it."""
        return await self._collector.measures()

    def library(self) -> tuple[Model, ...]:
        """The library."""
        return self._engine.library.models()

    def running(self) -> tuple[Running, ...]:
        """The models in memory, and when they will leave it if nobody asks them."""
        engine, now = self._engine, time.time()
        idle = engine.residency.idle_times()
        by_id = {model.id: model for model in self.library()}
        found = []
        for status in engine.residency.statuses().values():
            model = by_id.get(status.model_id)
            if model is None or status.state is not ModelState.READY:
                continue
            own = engine.store.for_model(model.id)
            limit_s = idleness.limit_s(model.id, engine.settings.server, own)
            idle_s = idle.get(model.id, 0.0)
            leaves_at = None if limit_s is None else now + max(0.0, limit_s - idle_s)
            found.append(Running(model, status, leaves_at))
        return tuple(found)

    async def details(self, model_id: str) -> ModelDetails:
        """What the model's file says of it. Raises EngineError."""
        engine = self._engine
        model = next((m for m in self.library() if m.id == model_id), None)
        if model is None:
            raise ModelNotFound(f"There is no model “{model_id}”.", "See /v1/models.")
        try:
            header, template = await asyncio.to_thread(gguf.read_values, model.path)
        except OSError as error:
            raise ModelUnavailable(
                f"{model.path} cannot be read: {error}.", "Check its drive and its owner."
            ) from error
        own = engine.store.for_model(model_id)
        named = {key: getattr(own, key) for key in ANSWERING}
        answering = {key: value for key, value in named.items() if value is not None}
        return ModelDetails(model, header, template, answering)

    def retire(self, model_id: str) -> None:
        """Let a model that nobody uses leave memory now; a pinned one stays."""
        self._engine.residency.retire(model_id, 0.0)

    def record(self, record: RequestRecord) -> None:
        """Remember an answered request."""
        self.tally.answered(record)
        self._engine.history.add(record)
        self._engine.publish(RequestFinished(record))
        # Its counts come last: an answer that tells them was not broken off.
        if record.status < 400 and (record.generated_tokens or record.prompt_tokens):
            self._engine.second_chances.answered(record.model_id)
