"""When to ask for newer releases of llama.cpp, what to say of them, and when to install by itself.

llama.cpp is released several times a day; nobody wants to hear of each. A newer release is shown
on the page whenever it is known, but told (tray, notice) at most once in a week.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

from tray_app.engine.state import StateDb

from .values import Prebuilt, Release, Runtime, Update

log = logging.getLogger(__name__)

CHECK_S = 24 * 3600.0
RETRY_S = 3600.0  # after a check that failed
TELL_S = 7 * 24 * 3600.0
IDLE_S = 300.0  # without a request, before something is installed by itself
MODES = ("off", "notify", "auto")
_KEY = "runtime_updates"


@dataclass(frozen=True, slots=True)
class _Memory:
    """What survives a restart. Times are Unix seconds."""

    checked_at: float = 0.0
    failed: bool = False
    told_build: int = 0
    told_at: float = 0.0
    skipped_build: int = 0
    failed_build: int = 0  # its installation by itself failed, or was rolled back


class Updates:
    """Thread-safe by being called from one thread at a time; blocks for small transactions."""

    def __init__(self, db: StateDb, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock
        self._memory = _recall(db)

    @property
    def ever_checked(self) -> bool:
        """Whether the feed was asked before, in this run or an earlier one."""
        return self._memory.checked_at > 0

    def due(self, mode: str) -> bool:
        """Whether to ask the feed now."""
        memory = self._memory
        pause_s = RETRY_S if memory.failed else CHECK_S
        since = self._clock() - memory.checked_at
        return mode != "off" and not 0 <= since < pause_s

    def checked(self, *, failed: bool) -> None:
        """The feed was asked."""
        self._keep(checked_at=self._clock(), failed=failed)

    def consider(
        self,
        active: Runtime | None,
        offers: list[tuple[Release, Prebuilt]],
        mode: str,
    ) -> Update | None:
        """The newest offer beyond the active runtime, unless it was skipped.

        `offers` are releases with what of them fits the active backend, newest first.
        """
        if active is None or active.build is None or mode == "off":
            return None
        newer = [o for o in offers if o[0].build > max(active.build, self._memory.skipped_build)]
        if not newer:
            return None
        release, prebuilt = max(newer, key=lambda offer: offer[0].build)
        if self._clock() - self._memory.told_at >= TELL_S:
            self._keep(told_build=release.build, told_at=self._clock())
        return Update(
            build=release.build,
            tag=release.tag,
            backend=prebuilt.backend,
            published_at=release.published_at,
            notes=release.notes,
            url=release.url,
            size_bytes=prebuilt.size_bytes,
            told=active.build < self._memory.told_build <= release.build,
        )

    def skip(self, build: int) -> None:
        """Say no more of releases up to this one."""
        self._keep(skipped_build=max(build, self._memory.skipped_build))

    def failed_by_itself(self, build: int) -> None:
        """An installation nobody asked for came to nothing: it is not tried again."""
        self._keep(failed_build=build)

    def may_install(
        self, update: Update, mode: str, *, idle_s: float, busy: bool, metered: bool | None
    ) -> bool:
        """Whether the update is to be installed now without being asked for.

        `metered` None (not known) counts as not metered.
        """
        wanted = mode == "auto" and update.build > self._memory.failed_build
        return wanted and not busy and idle_s >= IDLE_S and not metered

    def _keep(self, **changes: float | int | bool) -> None:
        self._memory = dataclasses.replace(self._memory, **changes)  # type: ignore[arg-type]
        try:
            self._db.remember({_KEY: json.dumps(dataclasses.asdict(self._memory))})
        except sqlite3.Error as exc:  # asked once more after a restart
            log.warning("the last update check could not be saved: %s", exc)


def _recall(db: StateDb) -> _Memory:
    try:
        row = json.loads(db.recall(_KEY) or "{}")
        kinds = {name: type(value) for name, value in dataclasses.asdict(_Memory()).items()}
        return _Memory(**{k: kinds[k](v) for k, v in row.items() if k in kinds})
    except (ValueError, TypeError, AttributeError):
        return _Memory()
