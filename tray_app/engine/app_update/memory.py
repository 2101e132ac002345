"""What is known of newer versions from one run to the next, and when to ask for them again."""

from __future__ import annotations

import dataclasses
import json
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tray_app.app_versions import is_newer
from tray_app.engine.state import StateDb

from .manifest import Manifest, ReleaseFile
from .values import AppRelease

log = logging.getLogger(__name__)

CHECK_S = 24 * 3600.0
RETRY_S = 3600.0  # after a check that failed
IDLE_S = 300.0  # without a request, before anything is done unasked
_KEY = "app_updates"


@dataclass(frozen=True, slots=True)
class Offer:
    """A newer version, and the file of it that is for this copy (None: there is none)."""

    version: str
    released_at: float
    expires_at: float
    notes_url: str
    file: ReleaseFile | None

    def release(self) -> AppRelease:
        """This offer as faces see it."""
        size = self.file.size_bytes if self.file else None
        return AppRelease(self.version, self.released_at, self.notes_url, size)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Times are Unix seconds, versions empty where there is none."""

    url: str = ""  # that was asked; another one is asked at once
    checked_at: float = 0.0
    failed: bool = False
    seen_at: float = 0.0  # when the newest release that was ever seen was made
    skipped: str = ""
    unfit: str = ""  # it failed its test or did not come up: not tried again unasked
    tried: str = ""  # it was fetched unasked
    tried_at: float = 0.0
    ready: str = ""  # its test has passed
    offer: Offer | None = None


class Memory:
    """Called under its owner's lock; blocks for small transactions."""

    def __init__(self, db: StateDb, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock
        self._kept = _recall(db)

    @property
    def checked_at(self) -> float | None:
        return self._kept.checked_at or None

    @property
    def seen_at(self) -> float:
        return self._kept.seen_at

    def due(self, url: str) -> bool:
        """Whether to ask now."""
        kept = self._kept
        since = self._clock() - kept.checked_at
        return url != kept.url or not 0 <= since < (RETRY_S if kept.failed else CHECK_S)

    def failed(self, url: str) -> None:
        """It was asked in vain; what was known before still holds."""
        self._keep(url=url, checked_at=self._clock(), failed=True)

    def told(self, url: str, manifest: Manifest, file: ReleaseFile | None) -> None:
        """It was told of `manifest`, in which `file` is for this copy."""
        offer = Offer(
            manifest.version, manifest.released_at, manifest.expires_at, manifest.notes_url, file
        )
        self._keep(
            url=url,
            checked_at=self._clock(),
            failed=False,
            seen_at=max(self._kept.seen_at, manifest.released_at),
            offer=offer,
        )

    def offer(self, own: str) -> Offer | None:
        """What is known to be newer than `own`, unless it was skipped or is out of date."""
        offer = self._kept.offer
        if offer is None or not is_newer(offer.version, own):
            return None
        skipped = offer.version == self._kept.skipped
        return None if skipped or self._clock() > offer.expires_at else offer

    def skip(self, version: str) -> None:
        """Say no more of this version."""
        self._keep(skipped=version)

    def unskip(self) -> None:
        """The user asks for what there is."""
        if self._kept.skipped:
            self._keep(skipped="")

    def unfit(self, version: str) -> None:
        """This version is not tried again unasked."""
        if version != self._kept.unfit:
            self._keep(unfit=version, ready="")

    def ready(self, version: str) -> None:
        """This version has passed its test here."""
        self._keep(ready=version, unfit="")

    def is_ready(self, version: str) -> bool:
        return version == self._kept.ready

    def tried(self, version: str) -> None:
        """This version is fetched unasked now; empty: that was cut short, and may begin anew."""
        self._keep(tried=version, tried_at=self._clock())

    def may_fetch(self, version: str) -> bool:
        """Whether it was not fetched unasked before, within a day: someone may have cancelled."""
        since = self._clock() - self._kept.tried_at
        return version != self._kept.tried or not 0 <= since < CHECK_S

    def may_try(self, version: str, *, idle_s: float, busy: bool) -> bool:
        """Whether something may be done about this version unasked, as far as is known here."""
        return version != self._kept.unfit and not busy and idle_s >= IDLE_S

    def _keep(self, **changes: Any) -> None:
        self._kept = dataclasses.replace(self._kept, **changes)
        try:
            self._db.remember({_KEY: json.dumps(dataclasses.asdict(self._kept))})
        except sqlite3.Error as exc:  # asked once more after a restart
            log.warning("what is known of updates could not be saved: %s", exc)


def _recall(db: StateDb) -> _Kept:
    try:
        row = json.loads(db.recall(_KEY) or "{}")
        offer = row.pop("offer", None)
        if offer is not None:
            file = offer.pop("file", None)
            offer = Offer(**offer, file=ReleaseFile(**file) if file else None)
        kinds = {name: type(value) for name, value in dataclasses.asdict(_Kept()).items()}
        known = {k: kinds[k](v) for k, v in row.items() if k in kinds}
        return _Kept(**known, offer=offer)
    except (ValueError, TypeError, AttributeError, KeyError):
        return _Kept()
