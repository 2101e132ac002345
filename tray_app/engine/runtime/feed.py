"""The release feed: which llama.cpp releases there are. Asked rarely, remembered on the disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tray_app.engine.errors import DownloadFailed, ErrorView, RuntimeMissing
from tray_app.engine.home import write_atomically

from .feed_rows import read_release, to_row
from .values import Release

if TYPE_CHECKING:
    from .feed_request import Answer

log = logging.getLogger(__name__)

DEFAULT_FEED = "https://api.github.com/repos/ggml-org/llama.cpp"
VARIABLE = "LLAMA_WRANGLER_FEED"
PAGE_SIZE = 30  # a week of releases, about 2 MB
FORMAT = 1
MAX_CACHE_BYTES = 16 << 20
LONGEST_BLOCK_S = 24 * 3600.0  # GitHub's limit is renewed each hour; a wrong clock is not believed
REMEDY = "Check the connection and the proxy settings and retry, or build it from source."


@dataclass(frozen=True, slots=True)
class FeedState:
    """What is known of the feed. `releases`: the newest first."""

    releases: tuple[Release, ...] = ()
    checked_at: float | None = None  # when the feed last told them, or that nothing changed
    error: ErrorView | None = None  # why the last question got no answer


@dataclass(frozen=True, slots=True)
class _Known:
    """What is kept between two questions, and between two runs."""

    releases: tuple[Release, ...] = ()
    checked_at: float | None = None
    etag: str = ""
    blocked_until: float = 0.0


class Feed:
    """One feed in the form of GitHub's REST API. Thread-safe; holds no lock while it waits."""

    def __init__(
        self,
        url: str | None,
        cache: Path,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`url`: the setting. `LLAMA_WRANGLER_FEED` overrides it. Touches no disk."""
        self.url = (environ.get(VARIABLE) or url or DEFAULT_FEED).rstrip("/")
        name = hashlib.sha256(self.url.encode("utf-8", "replace")).hexdigest()[:12]
        self._file = cache / f"releases-{name}.json"
        self._clock = clock
        self._known: _Known | None = None  # replaced, never changed
        self._error: ErrorView | None = None

    def known(self) -> FeedState:
        """What was told last, by this run or an earlier one. Asks nobody."""
        known = self._remembered()
        return FeedState(known.releases, known.checked_at, self._error)

    def releases(self, max_age_s: float) -> FeedState:
        """The releases, asked for anew when the last answer is older than `max_age_s`.

        Blocks for 15 s at most (one question). Raises nothing: a feed that does not answer
        leaves the last known releases, with an error.
        """
        known = self._remembered()
        age = self._age(known)
        if age is not None and age < max_age_s:
            return FeedState(known.releases, known.checked_at, self._error)
        try:
            known = self._ask_for_list(known)
            self._error = None
        except DownloadFailed as exc:
            log.info("the release feed did not answer: %s", exc)
            self._error = exc.view()
            known = self._remembered()
        return FeedState(known.releases, known.checked_at, self._error)

    def release(self, build: int) -> Release:
        """The release of one build, from what is known or asked for by its tag.

        Blocks as `releases`. Raises RuntimeMissing when there is none, DownloadFailed when
        the feed does not answer.
        """
        known = self._remembered()
        for release in known.releases:
            if release.build == build and release.assets:
                return release
        answer = self._ask(f"/releases/tags/b{build}", "")
        if answer.status == 404:
            raise RuntimeMissing(
                f"The release feed has no release b{build}.",
                "Choose another release, or build it from source.",
            )
        found = read_release(self._json(answer))
        if found is None or found.build != build:
            raise self._failed(f"it does not describe release b{build}")
        return found

    def _age(self, known: _Known) -> float | None:
        """Seconds since the last answer; None without one, or when the clock went back."""
        if known.checked_at is None:
            return None
        age = self._clock() - known.checked_at
        return age if age >= 0 else None

    def _ask_for_list(self, known: _Known) -> _Known:
        """Raises DownloadFailed."""
        etag = known.etag if known.releases else ""
        answer = self._ask(f"/releases?per_page={PAGE_SIZE}", etag)
        blocked = self._remembered().blocked_until
        now = self._clock()
        if answer.status == 304:
            fresh = dataclasses.replace(known, checked_at=now, blocked_until=blocked)
        else:
            releases = self._read_list(self._json(answer))
            fresh = _Known(releases, now, answer.headers.get("etag", "")[:200], blocked)
        self._remember(fresh)
        return fresh

    def _read_list(self, rows: Any) -> tuple[Release, ...]:
        if not isinstance(rows, list):
            raise self._failed("it is not a list of releases")
        by_build: dict[int, Release] = {}
        for row in rows[:100]:
            release = read_release(row)
            if release is not None:
                by_build.setdefault(release.build, release)
        if not by_build:
            raise self._failed("it lists no release of llama.cpp")
        return tuple(by_build[build] for build in sorted(by_build, reverse=True))

    def _ask(self, path: str, etag: str) -> Answer:
        """The answer to a GET, its status 200, 304 or 404. Raises DownloadFailed."""
        from .feed_request import FeedUnreachable, ask  # urllib and its kin: only for this

        known = self._remembered()
        now = self._clock()
        if now < known.blocked_until <= now + LONGEST_BLOCK_S:
            raise _limited(known.blocked_until)
        try:
            answer = ask(self.url + path, etag)
        except FeedUnreachable as exc:
            raise self._failed(str(exc)) from exc
        until = blocked_until(answer.status, answer.headers, now)
        if until is not None:
            self._remember(dataclasses.replace(known, blocked_until=until))
        if answer.status in (403, 429) and until is not None:
            raise _limited(until)
        if answer.status not in (200, 304, 404) or (answer.status == 404 and "/tags/" not in path):
            raise self._failed(f"it said {answer.status}")
        return answer

    def _json(self, answer: Answer) -> Any:
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError) as exc:
            raise self._failed("it is no JSON") from exc

    def _failed(self, reason: str) -> DownloadFailed:
        from tray_app.engine.fetch import without_credentials

        address = without_credentials(self.url)
        return DownloadFailed(f"The release feed {address} cannot be used: {reason}.", REMEDY)

    def _remembered(self) -> _Known:
        if self._known is None:
            self._known = _read_cache(self._file, self.url)
        return self._known

    def _remember(self, known: _Known) -> None:
        self._known = known
        row = {
            "format": FORMAT,
            "url": self.url,
            "checked_at": known.checked_at,
            "etag": known.etag,
            "blocked_until": known.blocked_until,
            "releases": [to_row(release) for release in known.releases],
        }
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps(row).encode())
        except OSError as exc:  # then the next run asks again
            log.info("the releases were not kept: %s", exc)


def blocked_until(status: int, headers: Mapping[str, str], now: float) -> float | None:
    """When the feed may be asked again, by its rate limit headers; None: at once.

    GitHub's rules ("Rate limits for the REST API"): `retry-after` in seconds; else
    `x-ratelimit-reset` (UTC seconds) when `x-ratelimit-remaining` is 0; else wait a minute.
    """
    refused = status in (403, 429)
    after = headers.get("retry-after", "").strip()
    if refused and after.isdigit():
        return now + min(float(after), LONGEST_BLOCK_S)
    reset = headers.get("x-ratelimit-reset", "").strip()
    if headers.get("x-ratelimit-remaining", "").strip() == "0" and re.fullmatch(r"\d{1,12}", reset):
        # By the server's own clock, so that a wrong one here does not matter.
        wait = float(reset) - (_date(headers.get("date", "")) or now)
        return now + min(max(wait, 1.0), LONGEST_BLOCK_S)
    return now + 60.0 if status == 429 else None


def _date(text: str) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return None


def _limited(until: float) -> DownloadFailed:
    clock = time.strftime("%H:%M", time.localtime(until))
    return DownloadFailed(
        f"The release feed answers no more requests from this address until {clock}.",
        f"Retry after {clock}, or build it from source.",
    )


def _read_cache(path: Path, url: str) -> _Known:
    """What an earlier run kept; nothing where that is not there, or broken."""
    try:
        if path.stat().st_size > MAX_CACHE_BYTES:
            return _Known()
        row = json.loads(path.read_bytes())
        if row["format"] != FORMAT or row["url"] != url:
            return _Known()
        releases = [read_release(each) for each in row["releases"]]
        checked_at, blocked = row["checked_at"], float(row["blocked_until"])
        return _Known(
            tuple(release for release in releases if release is not None),
            None if checked_at is None or not math.isfinite(checked_at) else float(checked_at),
            str(row["etag"])[:200],
            blocked if math.isfinite(blocked) else 0.0,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _Known()
