"""The engine's side of llama.cpp: finds it, has it installed or built, watches it, fits models."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sqlite3
import threading
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from tray_app.engine.errors import (
    BadRequest,
    Cancelled,
    EngineError,
    ErrorView,
    NotFound,
    RuntimeMissing,
)
from tray_app.engine.events import Event, RuntimeChanged, SettingsChanged
from tray_app.engine.fit import FitResult, Fits, placement_of
from tray_app.engine.home import cache_folder
from tray_app.engine.jobs import JobContext
from tray_app.engine.launch import Placement, computing_arguments, context_wished
from tray_app.engine.settings import ModelSettings, RuntimeSettings
from tray_app.engine.values import Job, Model

from .acquire import Acquisition
from .build import Parts
from .choice import Runtimes
from .find import restore_ours
from .machine import Machine
from .offers import Offers
from .proof import Proofs
from .shelf import Shelf
from .values import Hardware, Proof, Runtime, RuntimeState, RuntimeStatus

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

log = logging.getLogger(__name__)

SEARCH_S = 60.0  # each candidate is asked for at most a few seconds, a GPU's first proof takes more
CLOSE_S = 10.0  # a search that reads a slow driver
LOOK_S = 60.0  # drivers and updates are looked at this often
# Deaths that say nothing about the runtime a model ran on.
_NOT_ITS_FAULT = frozenset({"killed", "model_unavailable", "model_stopped"})


class RuntimeService:
    """Commands come from any thread; searches run on one of their own, the rest as jobs."""

    def __init__(self, engine: Engine) -> None:
        """Touches the database only."""
        self.engine = engine
        self.cache = cache_folder()
        self.machine = Machine(engine.db)
        self._proofs = Proofs(engine.db, engine.home.run, engine.registry)
        self._fits = Fits(engine.db)
        self._searched = threading.Event()
        self._stocked = threading.Event()  # all there are have been looked at
        self._looked_s = 0.0
        self._asking = threading.Lock()
        self._threads: list[threading.Thread] = []
        shelf = Shelf(engine.home.runtimes, engine.db, self.prove, self._known_proof)
        self.runtimes = Runtimes(
            shelf,
            engine.db,
            self._publish,
            server_path=lambda: self.settings.server_path,
            rank=lambda backend: self.machine.rank(backend, self.settings.backend),
            restore=lambda: restore_ours(engine.home, Parts(registry=engine.registry)),
        )
        self.offers = Offers(self)
        self.acquisition = Acquisition(self)

    @property
    def settings(self) -> RuntimeSettings:
        """The settings in force."""
        return self.engine.settings.runtime

    def start(self) -> None:
        """Search in the background; get one when nothing is found and the settings allow it.

        An engine that only answers one command of the CLI does not start a ten-minute build.
        """
        thread = threading.Thread(target=self._first_search, name="find-runtime", daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    def close(self) -> None:
        """Wait for searches to end; with `engine.closing` set they soon do. Blocks."""
        for thread in self._threads:
            thread.join(CLOSE_S)

    # -- what others read

    def status(self) -> RuntimeStatus:
        """What is active and what is being done; searching until the first search has ended."""
        status = self.runtimes.status()
        if status.state is RuntimeState.MISSING and not self._searched.is_set():
            return RuntimeStatus(RuntimeState.SEARCHING)
        return status

    @property
    def ready(self) -> bool:
        """Whether a model could be loaded now."""
        return self.runtimes.status().active is not None

    async def settled(self) -> None:
        """Wait until the first search has ended."""
        await asyncio.to_thread(self._searched.wait, SEARCH_S)

    def require(self, runtime_id: str | None = None) -> Runtime:
        """The active runtime or the one with this id, after the first search. Blocks for it.

        Raises RuntimeMissing.
        """
        (self._searched if runtime_id is None else self._stocked).wait(SEARCH_S)
        return self.runtimes.require(runtime_id)

    def place(self, model: Model, settings: ModelSettings, runtime: Runtime) -> Placement:
        """How the model fits: from the cache, or measured now (0.1 to 2 s). Blocks."""
        wished, arguments = context_wished(settings, model), computing_arguments(settings)
        fit = self._fits.fit(model, runtime, wished, settings.gpu_layers, arguments)
        return placement_of(fit)

    def known_fit(
        self, model: Model, settings: ModelSettings, runtime: Runtime
    ) -> FitResult | None:
        """The fit of these settings, where it has been measured."""
        wished, arguments = context_wished(settings, model), computing_arguments(settings)
        return self._fits.known(model, runtime, wished, settings.gpu_layers, arguments)

    def backends(self) -> list[str]:
        """What to try here, best first."""
        return self.machine.usable(self.settings.backend)

    # -- searching

    def find(self) -> RuntimeStatus:
        """Search again, and look at all others too. Blocks for about 0.1 s a candidate."""
        self._search()
        return self.runtimes.take_stock()

    def _search(self) -> None:
        if self.machine.hardware is None and not self.machine.recall():
            self.machine.read()
        self._check_open()
        before = self.runtimes.status().active
        self.runtimes.note(hardware=self.machine.hardware, ladder=self.machine.rungs)
        after = self.runtimes.find().active
        if before is not None and after is not None and before.id != after.id:
            self.engine.runtime_changed()

    def settings_changed(self, keys: Collection[str]) -> None:
        """Some settings were changed; any thread. Blocks for a search if that is needed."""
        if {"runtime", "runtime.server_path"} & set(keys):
            self.find()
        elif "runtime.backend" in keys:
            self._prefer_wished()
        if {"runtime", "runtime.updates", "runtime.feed_url"} & set(keys):
            with contextlib.suppress(EngineError, OSError):
                self.offers.known()

    def _prefer_wished(self) -> None:
        """Go over to the best installed runtime of the backend that the user picked."""
        status = self.runtimes.status()
        first = self.backends()[0]
        better = [r for r in status.installed if r.backend == first]
        if better and status.active is not None and status.active.backend != first:
            best = better[0]
            self.acquisition.prove(best.server_path, best.id, adopt=False, on_trial=True)

    def read_hardware(self) -> Hardware | None:
        """Read the hardware anew, and prove the runtime again if it is another. Blocks (1 s)."""
        if self.machine.read():
            self.find()
        self.runtimes.note(hardware=self.machine.hardware, ladder=self.machine.rungs)
        return self.machine.hardware

    def _first_search(self) -> None:
        try:
            with contextlib.suppress(Cancelled):  # the engine ends already
                self._search_and_get()
        except Exception:  # barrier: nobody may wait for a search that broke off
            log.exception("the search for llama.cpp broke off")
        finally:
            self._searched.set()
            self._stocked.set()

    def _search_and_get(self) -> None:
        try:
            self._search()
        finally:
            self._searched.set()  # models may load; a slow stranger on PATH is looked at after
        self.runtimes.take_stock()
        self._stocked.set()
        self.engine.notices_changed()
        self.acquisition.clear_left()
        status = self.runtimes.status()
        wanted = self.settings.auto_build and self.engine.mode != "once"
        demanded = self.settings.server_path or self.runtimes.shelf.by_variable()
        if status.active is None and wanted and not demanded:
            self.acquisition.install(None, None, True)
        self._check_open()
        with contextlib.suppress(EngineError, OSError):
            if self.machine.stale:  # what was taken from an earlier run may be old
                self.read_hardware()
            self.offers.known()

    def look_around(self, now_s: float) -> None:
        """Called every few seconds: drivers are watched and updates asked for. Blocks for 5 ms,
        or for a reading (1 s) when a driver changed."""
        if not self._searched.is_set() or now_s - self._looked_s < LOOK_S:
            return
        first, self._looked_s = self._looked_s == 0.0, now_s
        if self.machine.changed():
            log.info("a driver or GPU changed")
            self.read_hardware()
        if not first and not self._asking.locked():  # the first minute belongs to the models
            threading.Thread(target=self._look_for_updates, name="updates", daemon=True).start()

    def _look_for_updates(self) -> None:
        """On a thread that nobody waits for: the feed may take 15 s to be found silent."""
        with self._asking, contextlib.suppress(EngineError, OSError, sqlite3.Error):
            self.offers.look()

    # -- proving

    def prove(
        self, server: Path, backend: str, fresh: bool = False, context: JobContext | None = None
    ) -> Proof:
        """The proof of a runtime on this machine, made now unless it is known. Blocks.

        A job's `context` may cancel it, and gets the output of the trial in its log.
        """
        machine = self.machine
        return self._proofs.prove(
            server,
            backend,
            machine.hardware,
            machine.key,
            fresh=fresh,
            check=context.check if context else self._check_open,
            log_path=context.log_path if context else None,
        )

    def _check_open(self) -> None:
        if self.engine.closing:
            raise Cancelled

    def _known_proof(self, server: Path, backend: str) -> Proof | None:
        return self._proofs.known(server, backend, self.machine.key)

    # -- choosing

    def use(self, name: str) -> Job:
        """Start trying a runtime, by id or path, and use it when it is good.

        Raises BadRequest, RuntimeMissing.
        """
        path, adopt = self._named(name)
        return self.acquisition.prove(path, name, adopt=adopt, on_trial=True)

    def roll_back(self) -> Job:
        """Start going back to the runtime that was active before. Raises NotFound."""
        previous = self.runtimes.previous
        if previous is None:
            raise NotFound("There is no earlier runtime to go back to.", "Choose one of the list.")
        return self.acquisition.prove(
            previous.server_path, previous.id, adopt=False, on_trial=False
        )

    def use_proved(
        self,
        path: Path,
        *,
        adopt: bool = False,
        on_trial: bool = True,
        context: JobContext | None = None,
    ) -> Runtime:
        """Prove the llama-server at `path` and make it the active one. Blocks.

        A proof that failed before is made again. Running answers go on; each model comes over
        once it has nothing to answer. Raises RuntimeMissing, RuntimeRejected.
        """
        shelf = self.runtimes.shelf
        candidate = shelf.locate(path)
        described = shelf.describe(candidate)
        if described.proof is None or not described.proof.ok:
            self.prove(path, described.backend, fresh=True, context=context)
        runtime = shelf.examine(candidate)
        if context is not None:
            context.check()
        if adopt:
            shelf.adopt(path)
        before = self.runtimes.status().active
        if before is not None and before.origin == "settings":
            shelf.adopt(before.server_path)  # the setting goes: the way back to it stays
        if self.settings.server_path is not None:  # the later word of the user counts
            self.engine.store.change({"runtime.server_path": None})
            self.engine.publish(SettingsChanged(("runtime.server_path",)))
        self.runtimes.activate(runtime, on_trial=on_trial)
        self.engine.runtime_changed(first=before is None)
        with contextlib.suppress(EngineError, OSError):
            self.offers.known()
        return runtime

    def remove(self, runtime_id: str) -> int:
        """Take a runtime away; the bytes that became free. One of the user's is only forgotten.

        Raises BadRequest when it is in use, NotFound, OSError.
        """
        status = self.runtimes.status()
        runtime = next((r for r in status.installed if r.id == runtime_id), None)
        if runtime is None:
            raise NotFound(f"There is no runtime {runtime_id}.", "Look at the list of runtimes.")
        self._refuse_if_used(runtime, status)
        self._proofs.forget(runtime.server_path)
        if runtime.origin == "adopted":
            self.runtimes.shelf.abandon(runtime.server_path)
        elif runtime.ours:
            gone = runtime.server_path.parent.with_name(f".old-{runtime.id}")
            runtime.server_path.parent.rename(gone)  # at once: no half of it is ever found
            shutil.rmtree(gone, ignore_errors=True)
        else:
            raise BadRequest(
                f"{runtime_id} was not installed by Llama Wrangler.",
                "Remove it the way it was installed.",
            )
        self.runtimes.take_stock()
        return runtime.size_bytes or 0 if runtime.ours else 0

    def _refuse_if_used(self, runtime: Runtime, status: RuntimeStatus) -> None:
        if status.active is not None and status.active.server_path == runtime.server_path:
            raise BadRequest(f"{runtime.id} is in use.", "Use another runtime first.")
        pinned = [m for m, s in self.engine.settings.models.items() if s.runtime == runtime.id]
        if pinned:
            raise BadRequest(
                f"{runtime.id} is what {pinned[0]} is pinned to.",
                "Choose another runtime in that model's settings first.",
            )
        running = self.engine.residency.statuses().values()
        if any(s.runtime_id == runtime.id and s.pid is not None for s in running):
            raise BadRequest(f"A model still runs on {runtime.id}.", "Unload it first.")

    def _named(self, name: str) -> tuple[Path, bool]:
        """(path of the llama-server, whether it is one to adopt)."""
        if self.runtimes.shelf.by_variable() is not None:
            raise BadRequest(
                "The llama-server to use is named in the environment.",
                "Start Llama Wrangler without that variable to choose another.",
            )
        for runtime in self.runtimes.status().installed:
            if runtime.id == name:
                return runtime.server_path, False
        if "/" not in name and "\\" not in name:
            raise RuntimeMissing(
                f"There is no runtime {name}.", "Look at the list of runtimes, or give a path."
            )
        candidate = self.runtimes.shelf.locate(Path(name))
        return candidate.path, candidate.origin == "adopted"

    # -- what models tell about their runtime; on the loop

    def forget_fits(self, model: Model) -> bool:
        """Have the model measured anew at its next load; whether it was before."""
        return self._fits.forget(model)

    def second_chance(self, model_id: str, runtime_id: str, error: ErrorView) -> bool:
        """Whether the runtime a model died on was on trial and has made room for the one before."""
        active = self.runtimes.status().active
        if active is None or active.id != runtime_id or error.code in _NOT_ITS_FAULT:
            return False
        if self.runtimes.roll_back(model_id, error) is None:
            return False
        self._save_soon()
        self.engine.runtime_changed()
        return True

    def answered(self, model_id: str) -> None:
        """A model has answered a request: the runtime it did it on has passed its trial."""
        status = self.runtimes.status()
        if status.on_trial and status.active is not None:
            resident = self.engine.residency.statuses().get(model_id)
            if resident is not None and resident.runtime_id == status.active.id:
                self.runtimes.trial_passed()
                self._save_soon()

    def _save_soon(self) -> None:
        threading.Thread(target=self.runtimes.save, name="save-runtime", daemon=True).start()

    def _publish(self, event: Event) -> None:
        self.engine.publish(event)
        if isinstance(event, RuntimeChanged):
            self.engine.notices_changed()
