"""One bounded GET to the release feed, over HTTPS or to this machine itself."""

from __future__ import annotations

import time
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from tray_app.engine.fetch import open_url, why_not

from .feed_rows import is_trusted

MAX_BODY_BYTES = 8 << 20  # 30 releases are about 2 MB
WAIT_S = 6.0  # for the connection, and for each piece
WHOLE_S = 9.0  # for all of it
HEADERS = {
    "Accept": "application/vnd.github+json",
    "X-GitHub-Api-Version": "2022-11-28",
}


class FeedUnreachable(Exception):
    """There is no answer that could be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. The names of the headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(url: str, etag: str = "") -> Answer:
    """GET `url`, only-if-changed when `etag` is known. Blocks for WHOLE_S + WAIT_S at most.

    Raises FeedUnreachable. No token is sent: what the feed tells is public, and a token in the
    environment is meant for something else.
    """
    if not is_trusted(url):
        raise FeedUnreachable("it is not an https address")
    headers = {**HEADERS, **({"If-None-Match": etag} if etag else {})}
    deadline = time.monotonic() + WHOLE_S
    try:
        with _open(url, headers) as response:
            if not is_trusted(response.url or url):
                raise FeedUnreachable("it leads to an address that is not https")
            fields = {key.lower(): value for key, value in response.headers.items()}
            status = response.status or 200
            return Answer(status, fields, _read(response, deadline) if status == 200 else b"")
    except (OSError, HTTPException, ValueError) as exc:
        raise FeedUnreachable(why_not(exc)) from exc


def _open(url: str, headers: Mapping[str, str]) -> Any:
    try:
        return open_url(url, headers, WAIT_S)
    except urllib.error.HTTPError as exc:
        return exc  # a response like any other: 304 is one of them


def _read(response: Any, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := response.read1(64 * 1024):
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise FeedUnreachable(f"it sent more than {MAX_BODY_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise FeedUnreachable(f"it took longer than {WHOLE_S:.0f} s")
        parts.append(chunk)
    expected = response.headers.get("Content-Length", "")
    if expected.isdigit() and int(expected) != size:
        raise FeedUnreachable(f"the connection closed at {size:,} of {int(expected):,} bytes")
    return b"".join(parts)
