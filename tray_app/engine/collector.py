"""Gathers what `/metrics` tells: our own counts, and what each ready llama-server says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .child_question import ask_child
from .launch import Endpoint
from .measures import ChildFigures, Measures
from .tally import Tally
from .values import ModelState

if TYPE_CHECKING:
    from .core import Engine

SCRAPE_S = 1.0
# llama-server b11434 says 2.6 KB.
FIGURES_BYTES = 64 * 1024


class Collector:
    """On the event loop, which it never blocks."""

    def __init__(self, engine: Engine) -> None:
        self.tally = Tally()
        self._engine = engine
        self._gathering: asyncio.Task[Measures] | None = None

    async def measures(self) -> Measures:
        """Everything at this moment. Who asks while it is gathered gets the same answer.

        So many scrapers at once cost each child one question.
        """
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.get_running_loop().create_task(self._gather())
        return await asyncio.shield(self._gathering)

    async def _gather(self) -> Measures:
        engine = self._engine
        children = await asyncio.gather(
            *(self._figures(model_id, endpoint) for model_id, endpoint in self._ready())
        )
        memory = await asyncio.to_thread(engine.memory_now)
        active = engine.runtime.status().active
        return Measures(
            version=engine.version,
            runtime_id=active.id if active is not None else None,
            started_at=engine.started_at,
            memory=memory,
            statuses=tuple(engine.residency.statuses().values()),
            counts=self.tally.read(),
            children=tuple(children),
        )

    def _ready(self) -> list[tuple[str, Endpoint]]:
        residency = self._engine.residency
        return [
            (status.model_id, endpoint)
            for status in residency.statuses().values()
            if status.state is ModelState.READY
            and (endpoint := residency.endpoint(status.model_id)) is not None
        ]

    async def _figures(self, model_id: str, endpoint: Endpoint) -> ChildFigures:
        body = await ask_child(endpoint, "/metrics", SCRAPE_S, FIGURES_BYTES)
        text = None if body is None else body.decode("utf-8", "replace")
        return ChildFigures(model_id, text)
