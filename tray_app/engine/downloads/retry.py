"""When a transfer tries again, and what a server says about it."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tray_app.engine.errors import DownloadFailed

RETRY_STATUSES = frozenset({408, 425, 429, *range(500, 600)}) - {501, 505}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again. An attempt that got bytes does not count."""

    attempts: int = 6
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    stall_s: float = 30.0  # without a byte
    longest_asked_s: float = 300.0  # Hugging Face counts requests in windows of five minutes

    def pause_s(self, failures: int, asked_s: float | None) -> float:
        """Doubling with jitter, or what the server asked for, within bounds."""
        if asked_s is not None:
            return min(max(asked_s, 0.0), self.longest_asked_s)
        doubled = self.first_pause_s * 2.0 ** min(failures - 1, 30)
        return float(min(doubled, self.longest_pause_s) * random.uniform(0.5, 1.0))


class Unreachable(DownloadFailed):
    """Every attempt failed in a way that may pass: what came is kept, and a later call goes on."""


class TryAgain(Exception):
    """This attempt failed in a way that may pass."""

    def __init__(self, reason: str, after_s: float | None = None, crowded: bool = False) -> None:
        super().__init__(reason)
        self.after_s = after_s
        self.crowded = crowded  # the server wants fewer requests


class Changed(Exception):
    """The server has another file now than when the transfer began; the text says how it shows."""


class GivenUp(Exception):
    """No attempt will help; the text says why."""


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds; it comes as seconds or as a date (RFC 9110, 10.2.3)."""
    import email.utils

    text = headers.get("retry-after", "").strip()
    if text.isdecimal() and text.isascii():
        return float(text[:9])
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
