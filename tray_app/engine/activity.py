"""The active model: what `default` and the tray's tick mean, and how a switch goes."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING

from .errors import EngineError, ErrorView
from .events import ActiveModelChanged
from .resident import Dismissed
from .values import Model, ModelState

if TYPE_CHECKING:
    from .core import Engine

log = logging.getLogger(__name__)

RECENT_KEPT = 12
_ACTIVE, _RECENT = "active_model", "recent_models"


class Active:
    """Which model is active; the choice and the recent ones survive restarts.

    The pointer moves at once, so that the first request after a click goes to the new model;
    if that cannot be loaded, the pointer goes back to the model before, and says why.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.model_id = engine.db.recall(_ACTIVE)
        self.recent: tuple[str, ...] = tuple(json.loads(engine.db.recall(_RECENT) or "[]"))
        self.failure: tuple[str, ErrorView] | None = None
        self._trying: str | None = None  # chosen, and not seen to come up yet
        self._before: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsaved = False
        self._saving: asyncio.Task[None] | None = None

    async def switch(self, model_id: str, now: bool = False) -> None:
        """Make a model active and start bringing it up; on the loop, returns at once."""
        self.failure = None
        if self.model_id != self._trying:  # a choice that never came up is none to go back to
            self._before = self.model_id
        self._trying = model_id
        self._point_to(model_id)
        self._follow(self._bring_up(model_id, self._before))
        # Its wish is made in this turn of the loop: nobody sees an old failure after a switch.
        await asyncio.sleep(0)
        if now:
            self._engine.residency.hurry(model_id)

    def bring_back(self) -> None:
        """At the start: load what the settings say should be there. On the loop."""
        wish = self._engine.settings.server.start_with
        if wish not in ("nothing", "last"):
            self._point_to(wish)
        if self._engine.mode != "once":
            chosen = self.model_id if wish != "nothing" else None
            self._follow(self._bring_up_when_possible(chosen, self._engine.settings.server.preload))

    async def close(self) -> None:
        """Follow no load any more; the choice is on the disk when this returns."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._saving is not None:
            await self._saving

    def library_changed(self, models: Sequence[Model]) -> None:
        """The first and only model becomes the active one, so that a new user need not choose."""
        usable = [model.id for model in models if model.available]
        if self.model_id is None and len(usable) == 1:
            self._engine.loop.call_soon_threadsafe(self._adopt, usable[0])

    def _adopt(self, model_id: str) -> None:
        if self.model_id is None:
            self._point_to(model_id)

    def _point_to(self, model_id: str) -> None:
        recent = (model_id, *(other for other in self.recent if other != model_id))
        changed = model_id != self.model_id
        self.model_id, self.recent = model_id, recent[:RECENT_KEPT]
        self._unsaved = True
        if self._saving is None or self._saving.done():
            self._saving = asyncio.get_running_loop().create_task(self._save())
        if changed:
            self._engine.publish(ActiveModelChanged(model_id))
        self._engine.notices_changed()

    async def _save(self) -> None:
        """In a thread, because the database may be busy; always the last choice."""
        while self._unsaved:
            self._unsaved = False
            values = {_ACTIVE: self.model_id, _RECENT: json.dumps(self.recent)}
            try:
                await asyncio.to_thread(self._engine.db.remember, values)
            except (sqlite3.Error, UnicodeError) as error:  # it only does not survive a restart
                log.error("the active model could not be saved: %s", error)

    def _follow(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_up(self, model_id: str, previous: str | None) -> None:
        try:
            await self._engine.residency.load(model_id)
            if self._trying == model_id:
                self._trying = None
        except Dismissed:
            return  # unloaded by someone, or the engine ends: the choice stands
        except EngineError as error:
            log.warning("switch failed: %s", error.message, extra={"model": model_id})
            if self.model_id != model_id:
                return  # another choice was made meanwhile: it is the one that counts
            if previous is None or previous == model_id:
                self._engine.notices_changed()
                return
            self.failure = (model_id, error.view())  # first: who sees the pointer sees why
            self._point_to(previous)
            self._engine.notices_changed()
            status = self._engine.residency.statuses().get(previous)
            if status is None or status.state in (ModelState.UNLOADED, ModelState.STOPPING):
                await self._bring_up(previous, None)

    async def _bring_up_when_possible(self, chosen: str | None, more: Sequence[str]) -> None:
        """After a start the library may still be scanned and the runtime be searched for."""
        if chosen is None and not more:
            return
        await asyncio.to_thread(self._engine.library.wait, 30.0)
        await self._engine.runtime.settled()
        if not self._engine.runtime.ready:
            return
        if chosen is not None and self.model_id == chosen:
            await self._bring_up(chosen, None)
        for model_id in more:  # after the chosen one: it is the one that is waited for
            self._engine.backend.start_load(model_id)
