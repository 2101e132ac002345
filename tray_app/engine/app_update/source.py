"""Asks the place where releases are published: two small files, over HTTPS or from this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from http.client import HTTPException

from tray_app.engine.errors import DownloadFailed
from tray_app.engine.fetch import open_url, why_not, without_credentials
from tray_app.engine.runtime.feed_rows import is_trusted

from .manifest import MAX_MANIFEST_BYTES, Manifest, read_manifest
from .trust import verify

MAX_SIGNATURE_BYTES = 1024
WAIT_S = 6.0  # for the connection, and for each piece
WHOLE_S = 9.0  # for each of the two
REMEDY = "Check the connection and the proxy settings, then look again."


def ask(url: str, keys: Sequence[str]) -> Manifest:
    """The manifest at `url`, its signature (at `url` + ".sig") checked. Blocks 30 s at most.

    Nothing is sent but the request itself: no version, no name of this computer.
    Raises DownloadFailed when nobody answers, AppUpdateRefused when the answer is not to be used.
    """
    data = _get(url, MAX_MANIFEST_BYTES)
    verify(data, _get(f"{url}.sig", MAX_SIGNATURE_BYTES), keys)  # before a byte of it is read
    return read_manifest(data, url)


def _get(url: str, limit: int) -> bytes:
    shown = without_credentials(url)
    if not is_trusted(url):
        raise _failed(shown, "it is no https address")
    deadline = time.monotonic() + WHOLE_S
    try:
        with open_url(url, {}, WAIT_S) as response:
            if not is_trusted(response.url or url):
                raise _failed(shown, "it leads to an address that is not https")
            parts: list[bytes] = []
            size = 0
            while chunk := response.read1(16 * 1024):
                parts.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise _failed(shown, f"it sent more than {limit:,} bytes")
                if time.monotonic() > deadline:
                    raise _failed(shown, f"it took longer than {WHOLE_S:.0f} s")
            return b"".join(parts)
    except (OSError, HTTPException, ValueError) as exc:
        raise _failed(shown, why_not(exc)) from exc


def _failed(shown: str, reason: str) -> DownloadFailed:
    return DownloadFailed(f"{shown} could not be asked for new versions: {reason}.", REMEDY)
