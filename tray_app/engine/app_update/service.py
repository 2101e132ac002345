"""Newer versions of the app: known, fetched, tried, and used when nothing runs.

Never forced: without the user's word or the setting "auto" nothing is downloaded, and nothing is
replaced while anybody is answered. What a package manager installed is left to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tray_app.app_versions import Choice, read_choice, write_choice
from tray_app.engine.errors import (
    AppUpdateFailed,
    AppUpdateRefused,
    BadRequest,
    DownloadFailed,
    EngineError,
)
from tray_app.engine.events import AppUpdateChanged
from tray_app.engine.jobs import JobContext
from tray_app.engine.values import Job

from . import trust
from .kind import Installation, installation
from .manifest import Manifest, check_fresh
from .memory import Memory
from .places import Place, place_of
from .trial import start_trial
from .values import ALLOWED, AppUpdateState, AppUpdateStatus, TakenBack

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

log = logging.getLogger(__name__)

NOWHERE = "There is no place where new versions are asked for."
NOWHERE_REMEDY = "Name one in the settings (app.manifest_url), or get them where you got this one."


def _ask(url: str) -> Manifest:
    from .source import ask  # urllib and its kin: once a day

    return ask(url, trust.PUBLIC_KEYS)


def _metered() -> bool | None:
    from tray_app.engine.network import metered

    return metered()


class AppUpdates:
    """One engine's; any thread but the loop's."""

    def __init__(
        self,
        engine: Engine,
        *,
        installed: Callable[[], Installation] = installation,
        ask: Callable[[str], Manifest] = _ask,
        metered: Callable[[], bool | None] = _metered,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._ask = ask
        self._metered = metered
        self._clock = clock
        self._lock = threading.RLock()  # guards the status and the memory; held for no I/O but db's
        self._memory = Memory(engine.db, clock)
        self._installed = installed()
        self._place: Place | None = place_of(self._installed) if self._installed.ours else None
        found = self._installed
        self._status = AppUpdateStatus(
            kind=found.kind.value,
            installed_as=found.words,
            how=found.how,
            asks=bool(self._url),
            checked_at=self._memory.checked_at,
        )
        self._looked = False
        self._show = False  # a window is to open with the version that waits
        self._leaving = ""  # the version that this engine makes room for
        self._trial: subprocess.Popen[bytes] | None = None  # which outlives us

    @property
    def status(self) -> AppUpdateStatus:
        """How it stands. Cheap."""
        return self._status

    @property
    def leaving(self) -> bool:
        """The engine ends to make room for a new version: answers are to be ended first."""
        return bool(self._leaving)

    # -- what faces ask for

    def check(self) -> AppUpdateStatus:
        """Ask now. Blocks 30 s at most. Raises DownloadFailed, AppUpdateRefused."""
        if not self._url:
            raise AppUpdateRefused(NOWHERE, NOWHERE_REMEDY)
        with self._lock:
            self._memory.unskip()
        self._check()
        if self._status.error is not None:
            error = EngineError(self._status.error.message, self._status.error.remedy)
            error.code = self._status.error.code
            raise error
        return self._status

    def fetch(self, unasked: bool = False) -> Job:
        """Start to bring the newer version, or join the job that does. Raises AppUpdateRefused."""
        from . import fetching

        with self._lock:
            status = self._status
            if status.job_id is not None:
                return self._engine.jobs.get(status.job_id)
            offer, place = self._memory.offer(self._engine.version), self._place
            if offer is None:
                raise AppUpdateRefused("No newer version is known.", "Look for one first.")
            if place is None:
                name = self._installed.words
                raise AppUpdateRefused(f"This copy is {name}.", self._installed.how)
            if offer.file is None:
                what = f"Version {offer.version} has no file for {self._installed.platform}"
                raise AppUpdateRefused(f"{what} as {self._installed.words}.", offer.notes_url)
            if status.state is not AppUpdateState.AVAILABLE:
                raise AppUpdateRefused(f"Version {offer.version} is here already.", "Use it.")
            version, file = offer.version, offer.file
            self._move(AppUpdateState.FETCHING, error=None)

            def work(context: JobContext) -> None:
                with self._following(version, unasked):
                    registry = self._engine.registry
                    fetching.bring(context, place, version, file, registry, visible=not unasked)

            try:
                job = self._engine.jobs.submit(
                    fetching.KIND,
                    f"Getting Llama Wrangler {version}",
                    work,
                    self._engine.home.logs / "app-update.log",
                    fetching.STEPS,
                    dropped=lambda: self._move(AppUpdateState.AVAILABLE, job_id=None),
                )
            except BaseException:
                self._move(AppUpdateState.AVAILABLE)
                raise
            if self._status.state is AppUpdateState.FETCHING:  # it may have ended by now
                self._note(job_id=job.id)
            return job

    def apply(self, show: bool) -> bool:
        """Use the version that is ready: True at once, False as soon as nothing runs.

        `show`: a window opens with it. Raises AppUpdateRefused when there is none.
        """
        with self._lock:
            if self._status.state is AppUpdateState.APPLYING:
                return True
            if self._status.state is not AppUpdateState.READY:
                raise AppUpdateRefused("No newer version is ready to be used.", "Get it first.")
            if self._engine.busy():
                self._show = show
                self._note(waiting=True)
                return False
            self._leave(show)
            return True

    def skip(self, version: str) -> None:
        """Say no more of a version, or of its having been taken back. Raises BadRequest."""
        with self._lock:
            if self._status.state in (AppUpdateState.FETCHING, AppUpdateState.APPLYING):
                raise BadRequest("It is being fetched or put to use.", "Cancel that first.")
            self._memory.skip(version)
            taken_back = self._status.taken_back
            if taken_back is not None and taken_back.version == version:
                self._forget_taken_back()
            self._reconsider()

    # -- by itself

    def look(self) -> None:
        """Called every few seconds: confirm, check, fetch and apply, each when it is time."""
        if not self._looked:
            self._looked = True
            with self._lock:
                self._settle()
                self._reconsider()
        mode = self._engine.settings.app.updates
        if self._engine.mode == "once" or self.leaving:
            return
        with self._lock:
            self._reconsider()
            due = mode != "off" and bool(self._url) and self._memory.due(self._url)
        if due:
            self._check()
        state = self._status.state
        if self._status.waiting and state is AppUpdateState.READY:
            self.apply(self._show)
        elif mode == "auto" and state in (AppUpdateState.AVAILABLE, AppUpdateState.READY):
            self._go_on_unasked()

    def change_versions(self) -> list[str]:
        """The engine has ended in good order: a new version is used from now on.

        Returns what this process is to become; nothing where another starts the new version.
        """
        if self._place is None:
            return []
        if not self._looked:  # the user has quit it at once: it had come up all the same
            self._confirm(self._place)
        if not self._leaving:
            return []
        try:
            self._place.switch(self._leaving, self._engine.version, self._clock())
        except OSError as error:  # a full disk: what was in use starts again
            log.error("the versions could not be changed: %s", error)
        return [str(self._installed.program), "serve"] if self._engine.mode == "serve" else []

    # -- inside

    @property
    def _url(self) -> str:
        return self._engine.settings.app.manifest_url or trust.MANIFEST_URL

    def _check(self) -> None:
        url, own = self._url, self._engine.version
        try:
            manifest = self._ask(url)
            with self._lock:
                check_fresh(manifest, self._clock(), self._memory.seen_at)
                file = manifest.file_for(self._installed.platform, self._installed.form)
                self._memory.told(url, manifest, file)
        except (DownloadFailed, AppUpdateRefused) as exc:
            log.info("no word of new versions: %s", exc)
            with self._lock:
                self._memory.failed(url)
                self._note(error=exc.view(), checked_at=self._memory.checked_at)
            return
        log.info("the newest version is %s, this is %s", manifest.version, own)
        with self._lock:
            self._note(error=None, checked_at=self._memory.checked_at)
            self._reconsider()

    def _reconsider(self) -> None:
        """Bring the state in line with what is known; whatever is under way goes on."""
        state = self._status.state
        if state in (AppUpdateState.FETCHING, AppUpdateState.APPLYING):
            return
        asks, off = bool(self._url), self._engine.settings.app.updates == "off"
        offer = None if off or not asks else self._memory.offer(self._engine.version)
        release = offer.release() if offer else None
        here = offer is not None and self._is_here(offer.version)
        wanted = (
            AppUpdateState.NONE
            if offer is None
            else AppUpdateState.READY
            if here
            else AppUpdateState.AVAILABLE
        )
        other = release != self._status.release
        if wanted is not state or other or asks is not self._status.asks:
            waiting = self._status.waiting and not other and here
            self._move(wanted, release=release, waiting=waiting, asks=asks)

    def _is_here(self, version: str) -> bool:
        place = self._place
        return place is not None and self._memory.is_ready(version) and place.staged(version)

    @contextlib.contextmanager
    def _following(self, version: str, unasked: bool) -> Iterator[None]:
        """The states around the work of a job."""
        state, error = AppUpdateState.AVAILABLE, None
        try:
            yield
            state = AppUpdateState.READY
            with self._lock:
                self._memory.ready(version)
        except AppUpdateFailed as exc:
            error = exc.view()
            with self._lock:
                self._memory.unfit(version)
            raise
        except EngineError as exc:
            error = exc.view()
            raise
        finally:
            if unasked and self._engine.closing:  # cut short by a quit: gone on with
                with self._lock:
                    self._memory.tried("")
            self._move(state, error=error, job_id=None)
            with self._lock:
                self._reconsider()

    def _go_on_unasked(self) -> None:
        engine, offer = self._engine, self._memory.offer(self._engine.version)
        if offer is None or offer.file is None or self._place is None:
            return
        last = engine.history.last
        since = max(last.started_at + last.duration_s if last else 0.0, engine.started_at)
        idle_s = self._clock() - since
        with self._lock:
            if not self._memory.may_try(offer.version, idle_s=idle_s, busy=engine.busy()):
                return
        if self._status.state is AppUpdateState.READY:
            self.apply(show=False)
        elif self._memory.may_fetch(offer.version) and not self._metered():
            # Not known counts as not metered.
            log.info("getting version %s by itself", offer.version)
            with self._lock:
                self._memory.tried(offer.version)
            self.fetch(unasked=True)

    def _settle(self) -> None:
        """This version has come up: say so to who watches, and look at what was before."""
        place, own = self._place, self._engine.version
        if place is None:
            return
        choice = self._confirm(place)
        try:
            offer = self._memory.offer(own)
            ready = {offer.version} if offer is not None else set()
            place.tidy(frozenset({own, choice.current, choice.previous, *ready}))
        except OSError as error:  # they cost some space
            log.warning("old versions could not be removed: %s", error)
        if choice.failed and choice.failed != own:
            self._memory.unfit(choice.failed)
            reason = choice.reason or "It did not come up."
            self._note(taken_back=TakenBack(choice.failed, own, reason))

    def _confirm(self, place: Place) -> Choice:
        choice = read_choice(place.copy.pointer)
        if choice.current != self._engine.version or choice.confirmed:
            return choice
        choice = dataclasses.replace(choice, confirmed=True)
        try:
            write_choice(place.copy.pointer, choice)
            log.info("version %s has come up", choice.current)
        except OSError as error:  # who watches will take back a version that works: said loudly
            log.error("that this version has come up could not be kept: %s", error)
        return choice

    def _forget_taken_back(self) -> None:
        assert self._place is not None
        pointer = self._place.copy.pointer
        try:
            kept = read_choice(pointer)
            write_choice(pointer, dataclasses.replace(kept, failed="", reason=""))
        except OSError as error:  # it is told again after a restart
            log.warning("that a version was taken back could not be forgotten: %s", error)
        self._note(taken_back=None)

    def _leave(self, show: bool) -> None:
        """End the engine for the version that is ready; one that outlives it sees to the rest."""
        assert self._place is not None
        assert self._status.release is not None
        version = self._status.release.version
        self._move(AppUpdateState.APPLYING, waiting=False, taken_back=None)
        try:
            self._trial = start_trial(
                self._place.copy, version, self._engine.home.path, self._engine.mode, show
            )
        except OSError as error:
            self._move(AppUpdateState.READY)
            raise AppUpdateFailed(
                f"Version {version} could not be put to use: {error.strerror or error}.",
                "This version goes on. Try again.",
            ) from error
        log.info("making room for version %s", version)
        self._leaving = version
        self._engine.on_shutdown()

    def _move(self, state: AppUpdateState, **changes: Any) -> None:
        """The only place where the state changes."""
        with self._lock:
            before = self._status.state
            if state is not before and state not in ALLOWED[before]:
                raise RuntimeError(f"an update cannot go from {before} to {state}")
            self._note(state=state, **changes)

    def _note(self, **changes: Any) -> None:
        with self._lock:
            fresh = dataclasses.replace(self._status, **changes)
            if fresh == self._status:
                return
            self._status = fresh
            self._engine.publish(AppUpdateChanged(fresh))
        self._engine.notices_changed()
