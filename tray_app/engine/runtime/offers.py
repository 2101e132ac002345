"""What could be had: releases with what of them fits this machine, source builds, updates."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tray_app.engine.errors import EngineError, ErrorView, RuntimeMissing

from .updates import Updates
from .values import Prebuilt, Release, Rung, Update

if TYPE_CHECKING:
    from .feed import Feed, FeedState
    from .service import RuntimeService

log = logging.getLogger(__name__)

SHOWN_S = 6 * 3600.0  # a page shows releases this old without asking again
RELEASES_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Choice:
    """One runtime that a release offers here."""

    backend: str
    variant: str
    size_bytes: int
    usable: bool
    reason: str
    runtime_id: str
    installed: bool


@dataclass(frozen=True, slots=True)
class ReleaseOffer:
    """A release, and what of it fits this system."""

    tag: str
    build: int
    published_at: float | None
    notes: str
    url: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Buildable:
    """Whether a backend can be built here, and what is missing for it."""

    backend: str
    usable: bool
    reason: str
    missing: tuple[str, ...] = ()
    install_command: str = ""


@dataclass(frozen=True, slots=True)
class Available:
    """Everything that could be had."""

    checked_at: float | None
    error: ErrorView | None
    releases: tuple[ReleaseOffer, ...]
    buildable: tuple[Buildable, ...]
    source_build: int  # what a build from source makes when no other is asked for


class Offers:
    """Asks the feed; any thread."""

    def __init__(self, service: RuntimeService) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._feed: Feed | None = None
        self._feed_url: str | None = None
        self.updates = Updates(service.engine.db)

    def available(self, refresh: bool) -> Available:
        """Releases and builds for this machine. Blocks: the feed may take 15 s to be asked."""
        from .recipe import LLAMA_CPP_B11434

        state = self._ask(0 if refresh else SHOWN_S)
        if refresh:
            self._note(state)
        return Available(
            state.checked_at,
            state.error,
            tuple(self._offer(release) for release in state.releases[:RELEASES_SHOWN]),
            self._buildable(),
            LLAMA_CPP_B11434.build,
        )

    def releases(self, build: int | None) -> tuple[Release, ...]:
        """What an installation may take: that of a build, else all that are known.

        Blocks. Raises RuntimeMissing or DownloadFailed when there is none.
        """
        if build is not None:
            return (self._current_feed().release(build),)
        state = self._ask(SHOWN_S)
        if not state.releases:
            error = state.error
            raise RuntimeMissing(
                error.message if error else "The feed tells no release.",
                error.remedy if error else "Build it from source.",
            )
        return state.releases

    # -- updates

    def check(self) -> Update | None:
        """Ask now, and say what is newer than the active runtime. Blocks up to 15 s.

        Raises DownloadFailed when the feed does not answer.
        """
        state = self._ask(0)
        self._note(state)
        if state.error is not None:
            error = RuntimeMissing(state.error.message, state.error.remedy)
            error.code = state.error.code
            raise error
        return self._service.runtimes.status().update

    def skip(self, build: int) -> None:
        """Say no more of this update."""
        self.updates.skip(build)
        self._service.runtimes.note(update=None)
        self._service.engine.notices_changed()

    def look(self) -> None:
        """Called now and then: check when it is time, install by itself where that is wished."""
        mode = self._service.settings.updates
        if self._service.engine.mode == "once":
            return
        if self.updates.due(mode):
            self._note(self._ask(0))
        elif mode == "off" and self._service.runtimes.status().update is not None:
            self._service.runtimes.note(update=None)
        update = self._service.runtimes.status().update
        if update is not None and mode == "auto":
            self._install_if_idle(update)

    def known(self) -> None:
        """Say again what an earlier check found; asks nobody."""
        if not self.updates.ever_checked or self._service.settings.updates == "off":
            return
        self._note(self._current_feed().known(), asked=False)

    def _install_if_idle(self, update: Update) -> None:
        from tray_app.engine.network import metered

        engine, active = self._service.engine, self._service.runtimes.status().active
        if active is None or active.origin in ("settings", "environment"):
            return  # the user named it: nothing takes its place unasked
        last = engine.history.last
        since = max(last.started_at + last.duration_s if last else 0.0, engine.started_at)
        idle_s, busy = time.time() - since, engine.busy()
        if not self.updates.may_install(update, "auto", idle_s=idle_s, busy=busy, metered=None):
            return  # before the link is asked about, which starts a process
        if self.updates.may_install(update, "auto", idle_s=idle_s, busy=busy, metered=metered()):
            log.info("installing llama.cpp b%d by itself", update.build)
            self.updates.failed_by_itself(update.build)  # once; success makes it the active one
            self._service.acquisition.install(update.backend, update.build, True, from_source=False)

    def _note(self, state: FeedState, asked: bool = True) -> None:
        if self._service.engine.closing:
            return
        if asked:
            self.updates.checked(failed=state.error is not None)
        active = self._service.runtimes.status().active
        offers: list[tuple[Release, Prebuilt]] = []
        for release in state.releases if active else ():
            best = self._prebuilts(release)
            offers += [(release, p) for p in best if active and p.backend == active.backend]
        update = self.updates.consider(active, offers, self._service.settings.updates)
        self._service.runtimes.note(update=update)
        self._service.engine.notices_changed()

    # -- inside

    def _ask(self, max_age_s: float) -> FeedState:
        return self._current_feed().releases(max_age_s)

    def _current_feed(self) -> Feed:
        from .feed import Feed

        url = self._service.settings.feed_url
        with self._lock:
            if self._feed is None or url != self._feed_url:
                self._feed, self._feed_url = Feed(url, self._service.cache), url
            return self._feed

    def _prebuilts(self, release: Release) -> tuple[Prebuilt, ...]:
        from .assets import prebuilts

        machine = self._service.machine
        if machine.hardware is None:
            return ()
        return prebuilts(release, machine.hardware, machine.rungs)

    def _offer(self, release: Release) -> ReleaseOffer:
        status = self._service.runtimes.status()
        ids = {runtime.id for runtime in status.installed}
        rungs = {rung.backend: rung for rung in self._service.machine.rungs}
        choices = []
        for prebuilt in self._prebuilts(release):
            rung = rungs.get(prebuilt.backend, Rung(prebuilt.backend, False, "Not known here."))
            runtime_id = f"b{release.build}-{prebuilt.backend}-release"
            choices.append(
                Choice(
                    prebuilt.backend,
                    prebuilt.variant,
                    prebuilt.size_bytes,
                    rung.usable,
                    rung.reason,
                    runtime_id,
                    runtime_id in ids,
                )
            )
        return ReleaseOffer(
            release.tag,
            release.build,
            release.published_at,
            release.notes,
            release.url,
            tuple(choices),
        )

    def _buildable(self) -> tuple[Buildable, ...]:
        from .recipe import recipe_for
        from .toolchain import missing_for

        found, hardware = [], self._service.machine.hardware
        for rung in self._service.machine.rungs:
            try:
                missing = missing_for(rung.backend, recipe_for(rung.backend, hardware).wanted)
            except EngineError as exc:
                found.append(Buildable(rung.backend, False, exc.message))
                continue
            if missing is None:
                found.append(Buildable(rung.backend, True, "Everything it needs is here."))
            else:
                found.append(
                    Buildable(rung.backend, False, missing.message, missing.needs, missing.command)
                )
        return tuple(found)
