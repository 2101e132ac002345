"""What the gateway asks of the engine, on the engine's loop."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from . import routes
from .collector import Collector
from .errors import EngineError
from .events import RequestFinished
from .measures import Measures
from .resident import Lease
from .values import ModelStatus, RequestRecord, to_json

if TYPE_CHECKING:
    from .core import Engine


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

    def record(self, record: RequestRecord) -> None:
        """Remember an answered request."""
        self.tally.answered(record)
        self._engine.history.add(record)
        self._engine.publish(RequestFinished(record))
        # Its counts come last: an answer that tells them was not broken off.
        if record.status < 400 and (record.generated_tokens or record.prompt_tokens):
            self._engine.runtime.answered(record.model_id)
