"""The engine: composes the services and is their three doors, commands, snapshot and events.

Residency and gateway live on the event loop that `start` runs on; commands and `snapshot` may
be called from any other thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import memory, pools, summary
from .activity import Active
from .app_update.service import AppUpdates
from .backend import Backend
from .bench.service import Bench
from .child_registry import ChildRegistry
from .commands import Commands
from .conversations import Conversations
from .convert.service import ConvertService
from .downloads.service import DownloadService
from .errors import EngineError, EngineUnreachable, ErrorView, SettingsInvalid
from .events import (
    EngineStopping,
    Event,
    EventStream,
    GatewayChanged,
    LibraryChanged,
    ModelChanged,
    NoticesChanged,
)
from .gguf_cache import MetadataCache
from .history import RequestHistory
from .home import Home
from .jobs import JobRunner
from .keys import ApiKeys
from .library import Library
from .planner import Planner
from .residency import Residency
from .rounds import Rounds
from .runtime.service import RuntimeService
from .second_chances import SecondChances
from .settings import ServerSettings, Settings, SettingsStore, plain_table
from .sharing import LOOPBACK, listen_host, shown_host
from .standing import standing
from .state import StateDb
from .tls import Certificate, certificate_of
from .values import (
    GatewayState,
    GatewayStatus,
    Memory,
    ModelState,
    ModelStatus,
    Notice,
    Snapshot,
)

log = logging.getLogger(__name__)

COMMAND_TIMEOUT_S = 25.0
JOBS_SHOWN = 20


class Engine:
    """One engine of one home folder. Make it and `start` it on the event loop."""

    def __init__(self, home: Home, mode: str, version: str) -> None:
        """Opens settings and database. Raises OSError."""
        self.home = home
        self.mode = mode
        self.version = version
        self.events = EventStream()
        self.on_shutdown: Callable[[], object] = lambda: None
        self.db = StateDb(home.state_db)
        self.store = SettingsStore(home.settings, home.user_models)
        self.registry = ChildRegistry(home.children_file)
        self.keys = ApiKeys(home.path / "keys.json")
        self.conversations = Conversations(
            home.path / "conversations", lambda: self.settings.server.conversations_bytes
        )
        self.jobs = JobRunner(self.db, self.publish)
        self.history = RequestHistory(self.db)
        self.runtime = RuntimeService(self)
        self.library = Library(
            self.library_folders(),
            MetadataCache(home.state_db),
            self._library_changed,
            home=home.models,
        )
        self.downloads = DownloadService(self)
        self.convert = ConvertService(self)
        self.bench = Bench(self)
        self.app_update = AppUpdates(self)
        self.active = Active(self)
        self.planner = Planner(self)
        self.backend = Backend(self)
        self.second_chances = SecondChances(self)
        self.gateway = GatewayStatus()
        self.tls: Certificate | None = None
        self.tls_error: ErrorView | None = None
        self.closing = False
        self._commands = Commands(self)
        self.started_at = time.time()
        self._notices: tuple[Notice, ...] = ()
        self._last_states: dict[str, ModelState] = {}
        self._server_changed = asyncio.Event()
        self._rounds = Rounds(self)
        self._renewals: set[asyncio.Task[None]] = set()
        self.residency: Residency
        self.loop: asyncio.AbstractEventLoop

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.store.current

    def library_folders(self) -> list[Path]:
        """The home's own models folder first, then the user's."""
        extra = [Path(folder).expanduser() for folder in self.settings.library.folders]
        return [self.home.models, *extra]

    # -- life

    async def start(self) -> None:
        """End what a killed engine left behind, then scan, find a runtime, bring the model back."""
        self.loop = asyncio.get_running_loop()
        for orphan in await asyncio.to_thread(self.registry.end_orphans):
            log.warning("ended an orphan", extra={"kind": orphan.kind, "pids": str(orphan.pids)})
        await asyncio.to_thread(self.conversations.tidy)
        for socket_file in self.home.socket_folder().glob("*.sock"):
            socket_file.unlink(missing_ok=True)
        self.residency = Residency(
            self.planner.plan,
            self._budget,
            self._model_changed,
            max_queue=lambda: self.settings.server.max_queue,
            is_active=lambda model_id: model_id == self.active.model_id,
            second_chance=self.second_chances.take,
        )
        self.library.rescan()
        self.runtime.start()
        self.downloads.start()
        self.convert.start()
        self._rounds.start()
        self.active.bring_back()

    def busy(self) -> bool:
        """Whether a request is answered or waits, or a job runs: not the moment to end unasked.

        Blocks for a look into the database.
        """
        statuses = self.residency.statuses().values()
        if any(s.in_flight or s.waiting for s in statuses):
            return True
        try:
            return self.downloads.busy() or any(j.state.in_progress for j in self.jobs.list(1))
        except sqlite3.Error:  # a full disk is no reason to end, either
            return True

    def keep_running(self, mode: str) -> None:
        """An engine that was started for one question stays for `mode`; on the loop.

        "tray" also brings the model back, as a start of the tray does.
        """
        if self.mode == "once":
            self.mode = mode
            self.runtime.start()  # now it may build one, too
            self.convert.start()
            if mode == "tray":
                self.active.bring_back()

    def announce_stop(self) -> None:
        """Tell the faces that the engine ends now; commands are refused from here on."""
        self.closing = True
        self.publish(EngineStopping())

    async def close(self) -> None:
        """End jobs, children and threads. Safe after a failed start."""
        self.closing = True
        await self._rounds.stop()
        await self.active.close()
        await asyncio.to_thread(self.downloads.close)
        await asyncio.to_thread(self.jobs.close)
        await asyncio.to_thread(self.runtime.close)
        if hasattr(self, "residency"):
            await self.residency.close()
        await asyncio.to_thread(self.library.close)
        await asyncio.to_thread(self.history.close)
        self.db.close()

    # -- the three doors

    def call(self, name: str, args: Mapping[str, Any]) -> Any:
        """Run the command `name`; its value has a JSON form. Not to be called on the loop.

        Raises EngineError: unknown names and wrong arguments are BadRequest.
        """
        return self._commands.run(name, args)

    def snapshot(self) -> Snapshot:
        """Everything at this moment. Cheap enough for each event; any thread but the loop's."""
        seq = self.events.seq
        models = self.library.models()
        statuses = self.residency.statuses()
        active_id = self.active.model_id
        active = next((model for model in models if model.id == active_id), None)
        runtime = self.runtime.status()
        gateway = replace(self.gateway, requests_total=self.history.total)
        speed = self.backend.tally.lately(active_id, time.time())
        return Snapshot(
            seq=seq,
            version=self.version,
            pid=os.getpid(),
            started_at=self.started_at,
            home=self.home.path,
            mode=self.mode,
            server_state=summary.server_state(active_id, statuses, gateway, runtime),
            status_text=summary.status_text(active, models, statuses, gateway, runtime, speed),
            active_model_id=active_id,
            recent_model_ids=self.active.recent,
            gateway=gateway,
            runtime=runtime,
            models=models,
            statuses=tuple(s for s in statuses.values() if summary.worth_telling(s)),
            folders=self.library.folders(),
            left_out=self.library.left_out(),
            scanning=self.library.scanning,
            jobs=self.jobs.list(JOBS_SHOWN),
            downloads=self.downloads.queue.list(),
            memory=self.memory_now(),
            notices=self._current_notices(),
            settings=self.settings_table(),
            last_request=self.history.last,
            app_update=self.app_update.status,
        )

    def settings_table(self) -> dict[str, Any]:
        """The settings as plain types, keys that are None included."""
        return dict(plain_table(self.settings))

    def publish(self, event: Event) -> None:
        """Put an event on the stream; any thread."""
        self.events.publish(event)

    # -- what the parts of the engine use

    def on_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the engine's loop from another thread and return its result.

        Raises what it raises, and EngineError when it takes long or the engine ends meanwhile.
        """
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(COMMAND_TIMEOUT_S)
        except concurrent.futures.CancelledError:
            raise EngineUnreachable("The engine ended meanwhile.", "Start it again.") from None
        except TimeoutError as error:
            raise EngineError(
                f"This takes longer than {COMMAND_TIMEOUT_S:.0f} s.",
                "It goes on by itself; look again in a moment.",
            ) from error

    def set_gateway(
        self, status: GatewayStatus, state: GatewayState, error: ErrorView | None
    ) -> None:
        """The daemon opened the gateway, or could not."""
        host = shown_host(status.host)
        host = f"[{host}]" if ":" in host else host
        base_url = f"http://{host}:{status.port}/v1"
        keyed = self.keys.required
        fresh = replace(status, state=state, base_url=base_url, error=error, key_required=keyed)
        if fresh != self.gateway:
            self.gateway = fresh
            self.publish(GatewayChanged(fresh))
            self.notices_changed()

    def take_server_settings(self) -> ServerSettings:
        """The settings to listen by; `server_settings_changed` waits for later ones. On the loop.

        In this order no change is missed, however long opening the port takes.
        """
        self._server_changed.clear()
        server = self.settings.server
        host = listen_host(server.host, self.keys.required)
        self.tls_error = None
        try:
            self.tls = certificate_of(server.tls_certificate, server.tls_key, self.tls)
        except SettingsInvalid as error:  # nothing goes over the network that was to be secret
            self.tls, self.tls_error, host = None, error.view(), LOOPBACK
        return replace(server, host=host)

    async def server_settings_changed(self) -> None:
        """Wait until host or port were set anew since they were taken; on the loop."""
        await self._server_changed.wait()

    def note_server_settings(self) -> None:
        """Host or port were changed; any thread."""
        self.loop.call_soon_threadsafe(self._server_changed.set)

    def runtime_changed(self, first: bool = False) -> None:
        """Another runtime is active: models come over once they are idle; any thread.

        With the `first` one, what could not be loaded at the start can be now.
        """
        if first:
            self.loop.call_soon_threadsafe(self.active.bring_back)
        else:
            self.loop.call_soon_threadsafe(self._start_renewal)

    def _start_renewal(self) -> None:
        task = self.loop.create_task(self._renew_models())
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)

    async def _renew_models(self) -> None:
        for model_id in await asyncio.to_thread(self._on_other_runtimes):
            self.residency.renew(model_id)

    def _on_other_runtimes(self) -> list[str]:
        """Models in memory whose next load would be on another runtime."""
        active = self.runtime.status().active
        found = []
        for status in self.residency.statuses().values():
            with contextlib.suppress(EngineError):
                wanted = self.store.for_model(status.model_id).runtime or (active and active.id)
                if status.pid is not None and status.runtime_id != wanted:
                    found.append(status.model_id)
        return found

    def notices_changed(self) -> None:
        """Tell the faces soon if the standing lines are others than before; any thread.

        The loop alone compares and tells, so that an older list never comes after a newer one.
        """
        if hasattr(self, "residency"):
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                self.loop.call_soon_threadsafe(self._tell_notices)

    def _tell_notices(self) -> None:
        notices = self._current_notices()
        if notices != self._notices:
            self._notices = notices
            self.publish(NoticesChanged(notices))

    def _current_notices(self) -> tuple[Notice, ...]:
        return summary.notices(
            self.gateway,
            self.runtime.status(),
            self.active.failure,
            self.residency.statuses().get(self.active.model_id or ""),
            standing(self),
        )

    def _model_changed(self, status: ModelStatus) -> None:
        self.publish(ModelChanged(status))
        self.backend.tally.changed(status)
        if status.state is not self._last_states.get(status.model_id):
            self._last_states[status.model_id] = status.state
            self.notices_changed()

    def _library_changed(self) -> None:
        models = self.library.models()
        self.publish(LibraryChanged(len(models), self.library.scanning))
        self.active.library_changed(models)

    def _budget(self, child_pids: list[int]) -> dict[str, int]:
        """Bytes by pool (pools.py)."""
        active = self.runtime.status().active
        lines = active.devices if active is not None else ()
        on_gpus = pools.gpu_budgets(lines, self.runtime.machine.hardware)
        wished = self.settings.server.memory_budget_bytes
        if wished is not None:
            return {pools.ALL: wished, **on_gpus}
        total, available = memory.total_and_available()
        held = memory.held_by(child_pids)
        return {pools.HOST: memory.automatic_budget(total, available, held), **on_gpus}

    def memory_now(self) -> Memory:
        """Main memory, and the models' part of all. Reads /proc: not on the loop."""
        pids = [s.pid for s in self.residency.statuses().values() if s.pid is not None]
        total, available = memory.total_and_available()
        budget = pools.in_all(self._budget(pids))
        return Memory(total, available, budget, self.residency.held_bytes())
