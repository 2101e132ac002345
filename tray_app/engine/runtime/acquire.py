"""The jobs that bring a runtime: install a prebuilt one, build one, try one. One at a time.

Each ends with a proved runtime, activated if that was wished. A backend that does not come
about makes room for the next one down the ladder, and says why.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tray_app.engine.errors import (
    DownloadFailed,
    EngineError,
    RuntimeBuildFailed,
    RuntimeMissing,
    RuntimeRejected,
)
from tray_app.engine.jobs import JobContext
from tray_app.engine.values import Job

from . import store
from .build import Parts, build_best
from .recipe import Recipe, recipe_for
from .store import SERVER
from .values import Proof, Release, Runtime, RuntimeState, backend_name

if TYPE_CHECKING:
    from .service import RuntimeService

BUILD, INSTALL, PROVE = "build_runtime", "install_runtime", "prove_runtime"
_NEXT_RUNG = (RuntimeMissing, RuntimeRejected, RuntimeBuildFailed, DownloadFailed)


class Acquisition:
    """Submits the jobs; any thread."""

    def __init__(self, service: RuntimeService) -> None:
        self._service = service
        self._engine = service.engine
        self._submitting = threading.Lock()
        self._turn = threading.Lock()  # one job changes the runtimes folder at a time

    # -- starting

    def install(
        self,
        backend: str | None,
        build: int | None,
        activate: bool,
        from_source: bool = True,
    ) -> Job:
        """Start installing, from a release where one fits, else (`from_source`) building it."""
        title = "Installing llama.cpp" + _detail(backend, build)
        return self._submit(
            INSTALL,
            title,
            lambda context: self._install(context, backend, build, activate, from_source),
        )

    def build(self, backend: str | None, build: int | None, portable: bool, activate: bool) -> Job:
        """Start building from source."""
        title = "Building llama.cpp" + _detail(backend, build)
        return self._submit(
            BUILD, title, lambda context: self._build(context, backend, build, portable, activate)
        )

    def prove(self, path: Path, name: str, adopt: bool, on_trial: bool) -> Job:
        """Start trying the llama-server at `path`, and use it when it proves itself."""

        def work(context: JobContext) -> None:
            context.progress(0, None, "steps", f"Trying {name}")
            self._service.use_proved(path, adopt=adopt, on_trial=on_trial, context=context)

        return self._engine.jobs.submit(PROVE, f"Trying {name}", work, self._log(PROVE))

    def clear_left(self) -> None:
        """Remove what a killed engine left half made. Blocks for the deletion (1 s a GB)."""
        if self._turn.acquire(blocking=False):
            try:
                store.clear_staging(self._engine.home.runtimes)
            finally:
                self._turn.release()

    def _submit(self, kind: str, title: str, work: Callable[[JobContext], None]) -> Job:
        """Start a job, or join the one that does the same."""
        with self._submitting:
            for job in self._engine.jobs.list():
                if job.kind == kind and job.title == title and job.state.in_progress:
                    return job
            return self._engine.jobs.submit(
                kind, title, lambda c: self._work(c, work), self._log(kind)
            )

    def _log(self, kind: str) -> Path:
        return self._engine.home.logs / f"{kind.replace('_', '-')}.log"

    # -- working

    def _work(self, context: JobContext, work: Callable[[JobContext], None]) -> None:
        with self._alone(context):
            runtimes = self._service.runtimes
            if runtimes.status().active is None:
                runtimes.note(state=RuntimeState.BUILDING, job_id=context.job_id, error=None)
            else:
                runtimes.note(job_id=context.job_id)
            try:
                work(context)
            except EngineError as exc:
                self._failed(exc)
                raise
            finally:
                runtimes.note(job_id=None)
                if runtimes.status().state is RuntimeState.BUILDING:  # cancelled, or broke off
                    self._service.find()
                else:
                    runtimes.take_stock()

    def _failed(self, exc: EngineError) -> None:
        runtimes = self._service.runtimes
        if runtimes.status().state is RuntimeState.BUILDING:
            self._service.find()
            if runtimes.status().active is None:
                runtimes.note(state=RuntimeState.FAILED, error=exc.view())

    @contextlib.contextmanager
    def _alone(self, context: JobContext) -> Iterator[None]:
        """Wait for another job's end; a cancel ends the wait."""
        if not self._turn.acquire(blocking=False):
            context.progress(0, None, "steps", "Waiting for another installation")
            while not self._turn.acquire(timeout=0.2):
                context.check()
        try:
            yield
        finally:
            self._turn.release()

    def _install(
        self,
        context: JobContext,
        backend: str | None,
        build: int | None,
        activate: bool,
        from_source: bool,
    ) -> None:
        skipped: list[str] = []
        backends = [backend] if backend else self._service.backends()
        releases = self._releases(context, build, skipped)
        for each in backends if releases else ():
            try:
                folder = self._install_one(context, releases, each)
            except _NEXT_RUNG as exc:
                self._skip(context, skipped, each, exc)
                continue
            self._arrived(folder, activate, skipped)
            return
        if not from_source:
            raise RuntimeMissing(" ".join(skipped), "Install or build it on the Runtimes page.")
        context.progress(0, None, "steps", "No prebuilt llama.cpp fits: building from source")
        self._build(context, backend, build, False, activate, skipped)

    def _releases(
        self, context: JobContext, build: int | None, skipped: list[str]
    ) -> tuple[Release, ...]:
        """What may be installed; nothing when the feed does not tell."""
        context.progress(0, None, "steps", "Asking for releases")
        try:
            return self._service.offers.releases(build)
        except _NEXT_RUNG as exc:
            context.log(f"{exc.message} {exc.remedy}")
            skipped.append(exc.message)
            return ()

    def _install_one(
        self, context: JobContext, releases: tuple[Release, ...], backend: str
    ) -> Path:
        from .assets import latest, pick
        from .install import install_prebuilt  # the transfer: only for an installation

        machine = self._service.machine
        assert machine.hardware is not None
        found = latest(releases, machine.hardware, machine.rungs, backend)
        if found is None:  # pick says what the newest has instead
            newest = max(releases, key=lambda release: release.build)
            found = newest, pick(newest, machine.hardware, machine.rungs, backend)
        release, prebuilt = found
        home, cache = self._engine.home, self._service.cache
        return install_prebuilt(
            release, prebuilt, home.runtimes, cache, context, self._prover(context)
        )

    def _build(
        self,
        context: JobContext,
        backend: str | None,
        build: int | None,
        portable: bool,
        activate: bool,
        skipped: list[str] | None = None,
    ) -> None:
        machine = self._service.machine
        assert machine.hardware is not None
        hardware = machine.hardware

        def recipe_of(each: str) -> Recipe:
            return recipe_for(each, hardware, build=build, portable=portable)

        built = build_best(
            [backend] if backend else self._service.backends(),
            recipe_of,
            self._engine.home.runtimes,
            self._service.cache,
            context,
            Parts(prove=self._prover(context), registry=self._engine.registry),
        )
        told = [f"{backend_name(s.backend)}: {s.error.message}" for s in built.skipped]
        self._arrived(built.folder, activate, [*(skipped or []), *told])

    def _prover(self, context: JobContext) -> Callable[[Path, str], Proof]:
        def prove(server: Path, backend: str) -> Proof:
            return self._service.prove(server, backend, fresh=True, context=context)

        return prove

    def _skip(
        self, context: JobContext, skipped: list[str], backend: str, exc: EngineError
    ) -> None:
        line = f"{backend_name(backend)}: {exc.message}"
        skipped.append(line)
        context.log(f"{line} {exc.remedy}".rstrip())
        context.progress(0, None, "steps", f"{backend_name(backend)} did not work out")

    def _arrived(self, folder: Path, activate: bool, skipped: list[str]) -> Runtime | None:
        """It is in place and proved: use it, if that was wished or there is no other."""
        runtimes = self._service.runtimes
        demanded = runtimes.shelf.by_variable() is not None  # the user's own word counts
        if (activate and not demanded) or runtimes.status().active is None:
            self._service.runtimes.note(stepped_down=tuple(skipped))
            return self._service.use_proved(folder / SERVER)
        return None


def _detail(backend: str | None, build: int | None) -> str:
    words = [f" b{build}"] if build else []
    words += [f" for {backend_name(backend)}"] if backend else []
    return "".join(words)
