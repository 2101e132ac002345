"""What faces are told of updates of the app."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tray_app.engine.errors import ErrorView


class AppUpdateState(StrEnum):
    """How far a newer version is."""

    NONE = "none"  # nothing newer is known
    AVAILABLE = "available"
    FETCHING = "fetching"  # brought, checked and tried, by a job
    READY = "ready"  # its own test has passed; it waits for its moment
    APPLYING = "applying"  # the engine ends, and the new version starts


ALLOWED: dict[AppUpdateState, frozenset[AppUpdateState]] = {
    # What was fetched by an earlier engine is READY at once.
    AppUpdateState.NONE: frozenset({AppUpdateState.AVAILABLE, AppUpdateState.READY}),
    AppUpdateState.AVAILABLE: frozenset(
        {AppUpdateState.NONE, AppUpdateState.FETCHING, AppUpdateState.READY}
    ),
    AppUpdateState.FETCHING: frozenset({AppUpdateState.AVAILABLE, AppUpdateState.READY}),
    AppUpdateState.READY: frozenset(
        # Another release may come out before this one is used.
        {AppUpdateState.NONE, AppUpdateState.AVAILABLE, AppUpdateState.APPLYING}
    ),
    AppUpdateState.APPLYING: frozenset({AppUpdateState.READY}),
}


@dataclass(frozen=True, slots=True)
class AppRelease:
    """A newer version. `size_bytes` is None where nothing of it is for this kind of copy."""

    version: str
    released_at: float
    notes_url: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class TakenBack:
    """A version that did not come up, and the one that is used again."""

    version: str
    back_to: str
    reason: str


@dataclass(frozen=True, slots=True)
class AppUpdateStatus:
    """All about updates of the app. Times in Unix seconds."""

    state: AppUpdateState = AppUpdateState.NONE
    kind: str = ""  # how this copy was installed, a `Kind`
    installed_as: str = ""  # in words
    how: str = ""  # to update it, where that is not for the app; else empty
    release: AppRelease | None = None
    asks: bool = False  # there is a place to ask
    checked_at: float | None = None
    error: ErrorView | None = None  # of the last check, fetch or start
    job_id: str | None = None
    waiting: bool = False  # it is to be used as soon as nothing runs
    taken_back: TakenBack | None = None
