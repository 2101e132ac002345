"""The part of the tray menu about downloads: how far they are, and pausing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .menu_items import NAME_LENGTH, SEPARATOR, Item, Kind, clean, open_window

Json = Mapping[str, Any]

MENU_DOWNLOADS = 8
UNFINISHED = ("queued", "running", "paused", "waiting")
_STEP_LENGTH = 32


def unfinished(downloads: Sequence[Json]) -> list[Json]:
    """Those that may still bring something, in their order."""
    return [each for each in downloads if each["state"] in UNFINISHED]


def overall(downloads: Sequence[Json]) -> str:
    """How far all unfinished downloads are together: "43 %, 2 min left", "paused"."""
    states = {each["state"] for each in downloads}
    if states == {"paused"}:
        return "paused"
    if states <= {"paused", "waiting"}:
        return "waiting for the network"
    if "running" not in states:
        return "queued"
    # A hub is asked for sizes when a download's turn comes: what waits has none before.
    later = [each for each in downloads if each["state"] == "queued" and not each["total_bytes"]]
    moving = [
        each for each in downloads if each["state"] in ("running", "queued") and each not in later
    ]
    done, total = sum(each["done_bytes"] for each in moving), _total(moving)
    rate = sum(each["rate_bytes_s"] or 0 for each in moving)
    share = _share(done, total)
    parts = ["running" if share is None else f"{share} %"]
    if later:
        parts.append(f"{len(later)} more queued")
    elif total is not None and rate > 0:
        parts.append(f"{_minutes(max(0, total - done) / rate)} left")
    return ", ".join(parts)


def download_items(downloads: Sequence[Json], *, models: bool) -> tuple[Item, ...]:
    """A submenu while something is unfinished, else the way to get a model; and what failed.

    `models`: whether there are any; without one the menu says so in a line of its own.
    """
    open_ones = unfinished(downloads)
    if not open_ones:
        get = (open_window("Get a model…", page="discover"),) if models else ()
        return (*_failed(downloads), *get)
    children = [_row(each) for each in open_ones[:MENU_DOWNLOADS]]
    if len(open_ones) > MENU_DOWNLOADS:
        more = f"{len(open_ones) - MENU_DOWNLOADS} more in the window…"
        children.append(open_window(more, page="downloads"))
    children.append(SEPARATOR)
    states = [each["state"] for each in open_ones]
    if any(state != "paused" for state in states):
        children.append(Item(Kind.ACTION, "Pause all", "pause_downloads"))
    if any(state in ("paused", "waiting") for state in states):
        children.append(Item(Kind.ACTION, "Resume all", "resume_downloads"))
    children.append(open_window("Open downloads…", page="downloads"))
    label = f"Downloads — {overall(open_ones)}"
    return (Item(Kind.SUBMENU, label, children=tuple(children)), *_failed(downloads))


def _failed(downloads: Sequence[Json]) -> tuple[Item, ...]:
    """One line, until they are tried again or taken off the list; the page says why."""
    failed = [each for each in downloads if each["state"] == "failed"]
    if not failed:
        return ()
    name = clean(failed[0]["title"], NAME_LENGTH)
    what = f"{name} was not downloaded" if len(failed) == 1 else f"{len(failed)} downloads failed"
    return (open_window(f"⚠ {what}…", page="downloads"),)


def _row(download: Json) -> Item:
    label = f"{clean(download['title'], NAME_LENGTH)} — {_words(download)}"
    return open_window(label, page="downloads")


def _words(download: Json) -> str:
    state = download["state"]
    share = _share(download["done_bytes"], download["total_bytes"])
    percent = "" if share is None else f"{share} %"
    if state == "waiting":
        return "waiting for the network"
    if state in ("queued", "paused"):
        return f"{state}, {percent}" if share else state
    rate = download["rate_bytes_s"]
    speed = _speed(rate) if rate else ""
    return " · ".join(part for part in (percent, speed) if part) or (
        clean(download["step"], _STEP_LENGTH) or "running"
    )


def _speed(rate_bytes_s: float) -> str:
    """As coarse as is still of use: each change of the text is sent to the panel."""
    if rate_bytes_s >= 1e6:
        return f"{rate_bytes_s / 1e6:.0f} MB/s"
    return f"{rate_bytes_s / 1e6:.1f} MB/s" if rate_bytes_s >= 5e4 else ""


def _share(done: int, total: int | None) -> int | None:
    """Whole percent, 100 only once it is all there."""
    return min(100, 100 * done // total) if total else None


def _total(downloads: Sequence[Json]) -> int | None:
    totals = [each["total_bytes"] for each in downloads]
    return None if None in totals else sum(totals)


def _minutes(seconds: float) -> str:
    if seconds < 60:
        return "less than a minute"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.0f} h"
