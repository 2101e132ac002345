"""The engine's side of llama.cpp: finds it at the start, builds it as a job, fits models to it."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

from tray_app.engine.events import Event, RuntimeChanged
from tray_app.engine.fit import Fits
from tray_app.engine.home import cache_folder
from tray_app.engine.jobs import JobContext
from tray_app.engine.launch import Placement, context_wished
from tray_app.engine.settings import ModelSettings
from tray_app.engine.values import Job, Model, Runtime, RuntimeState, RuntimeStatus

from .choice import VARIABLE, Runtimes

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

BUILD_JOB = "build_runtime"
BUILD_LOG = "build-runtime.log"
SEARCH_S = 30.0  # each candidate is asked for at most a few seconds


class RuntimeService:
    """Commands come from any thread; searches run on one of their own, builds as jobs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._fits = Fits(engine.db)
        self._lock = threading.Lock()
        self._searched = threading.Event()
        self.runtimes = Runtimes(
            engine.home.runtimes,
            cache_folder(),
            self._publish,
            server_path=lambda: engine.settings.runtime.server_path,
            registry=engine.registry,
        )

    def start(self) -> None:
        """Search in the background; build when nothing is found and the settings allow it.

        An engine that only answers one command of the CLI does not start a ten-minute build.
        """
        threading.Thread(target=self._first_search, name="find-runtime", daemon=True).start()

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

    def require(self) -> Runtime:
        """The active runtime, after the first search. Blocks for it. Raises RuntimeMissing."""
        self._searched.wait(SEARCH_S)
        return self.runtimes.require()

    def place(self, model: Model, settings: ModelSettings, runtime: Runtime) -> Placement:
        """How the model fits: from the cache, or measured now (0.1 to 2 s). Blocks."""
        wished = context_wished(settings, model)
        fit = self._fits.fit(model, runtime, wished, settings.gpu_layers)
        return Placement(
            context_length=fit.context_length,
            gpu_layers=fit.gpu_layers,
            extra_args=fit.extra_args,
            memory_bytes=fit.memory_bytes,
        )

    def find(self) -> RuntimeStatus:
        """Search again. Blocks for about 0.1 s a candidate."""
        return self.runtimes.find()

    def build(self) -> Job:
        """Start building, or join the build that runs."""
        with self._lock:
            for job in self._engine.jobs.list():
                if job.kind == BUILD_JOB and job.state.in_progress:
                    return job
            return self._engine.jobs.submit(
                BUILD_JOB,
                "Building llama.cpp for this machine",
                self._build,
                self._engine.home.logs / BUILD_LOG,
            )

    def _first_search(self) -> None:
        try:
            found = self.runtimes.find()
        finally:
            self._searched.set()
        self._engine.notices_changed()
        settings = self._engine.settings.runtime
        named = settings.server_path is not None or VARIABLE in os.environ
        wanted = settings.auto_build and not named and self._engine.mode != "once"
        if found.active is None and wanted:
            self.build()

    def _build(self, context: JobContext) -> None:
        self.runtimes.build_job(context)
        self._engine.runtime_arrived()

    def _publish(self, event: Event) -> None:
        self._engine.publish(event)
        if isinstance(event, RuntimeChanged):
            self._engine.notices_changed()
