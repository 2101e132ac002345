"""One verified file over HTTP: resumed, retried, checked by its sha256, then renamed."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import errno
import hashlib
import logging
import os
import queue
import random
import shutil
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

from .checksum import file_sha256
from .errors import Cancelled, DownloadFailed, NotEnoughDisk

log = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
DISK_MARGIN_BYTES = 64 * 1024 * 1024
RETRY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
REMEDY = "Check the connection and the proxy settings, then retry."
CA_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file whose content is known by its hash before it is fetched."""

    url: str
    filename: str
    sha256: str
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again. An attempt that got bytes does not count."""

    attempts: int = 6
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    stall_s: float = 30.0  # without a byte

    def pause_s(self, failures: int, asked_s: float | None) -> float:
        """Doubling with jitter, or what the server asked for, within bounds."""
        if asked_s is not None:
            return min(max(asked_s, 0.0), self.longest_pause_s)
        longest: float = min(self.first_pause_s * 2.0 ** (failures - 1), self.longest_pause_s)
        return longest * random.uniform(0.5, 1.0)


class _TryAgain(Exception):
    """This attempt failed in a way that may pass."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


def fetch_file(
    remote: RemoteFile,
    target: Path,
    *,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    cancel: threading.Event | None = None,
    policy: RetryPolicy | None = None,
    remedy: str = REMEDY,
) -> Path:
    """Bring `remote` to `target` and return it; a right file already there is kept.

    Bytes go to `target` + ".part", which a later call resumes. Blocks; `cancel` ends it
    within 0.1 s by Cancelled. Raises DownloadFailed (with `remedy`), NotEnoughDisk, OSError.
    """
    cancel = cancel or threading.Event()
    if target.is_file() and file_sha256(target) == remote.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    transfer = _Transfer(remote, part, progress, cancel, policy or RetryPolicy(), remedy)
    try:
        resumed = transfer.run()
        if not transfer.matches() and resumed:
            log.warning("the resumed file is wrong, fetching all of it", extra={"file": str(part)})
            part.unlink()
            transfer.run()
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(target.parent, remote.size_bytes) from exc
        raise
    if not transfer.matches():
        part.unlink()
        raise DownloadFailed(
            f"{remote.filename} arrived with the wrong content (its sha256 should be"
            f" {remote.sha256[:12]}…).",
            f"Something in between may change it. {remedy}",
        )
    os.replace(part, target)
    return target


def open_url(url: str, headers: Mapping[str, str], timeout_s: float) -> Any:
    """An open response for `url`, through the system's proxies and the user's own CA bundle.

    A user and password in `url` go into a header that no redirect carries on. Raises OSError
    (urllib's errors are such) or HTTPException.
    """
    parts = urllib.parse.urlsplit(url)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(plain, headers={"User-Agent": "llama-wrangler", **headers})
    if parts.username:
        pair = f"{parts.username}:{parts.password or ''}"
        secret = base64.b64encode(urllib.parse.unquote(pair).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    handlers: list[urllib.request.BaseHandler] = []
    if parts.scheme == "https":
        handlers.append(urllib.request.HTTPSHandler(context=_tls_context()))
    return urllib.request.build_opener(*handlers).open(request, timeout=timeout_s)


def without_credentials(url: str) -> str:
    """`url` as it may be shown: no user, no password, no query."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _tls_context() -> ssl.SSLContext:
    bundle = next((os.environ[name] for name in CA_VARIABLES if os.environ.get(name)), None)
    if bundle is None and ssl.get_default_verify_paths().cafile is None:
        with contextlib.suppress(ImportError):  # python.org's macOS builds come without CAs
            import certifi

            bundle = certifi.where()
    if bundle is not None and Path(bundle).is_dir():
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle)  # None: system store, SSL_CERT_FILE


class _Transfer:
    """The attempts to fill one part file."""

    def __init__(
        self,
        remote: RemoteFile,
        part: Path,
        progress: Callable[[int, int | None], None],
        cancel: threading.Event,
        policy: RetryPolicy,
        remedy: str,
    ) -> None:
        self._remote = remote
        self._part = part
        self._progress = progress
        self._cancel = cancel
        self._policy = policy
        self._remedy = remedy
        self._etag: str | None = None
        self._hash = hashlib.sha256()
        self._done = 0

    def matches(self) -> bool:
        return self._hash.hexdigest() == self._remote.sha256

    def run(self) -> bool:
        """Attempts until the file is whole; whether it began with bytes found on disk."""
        failures = 0
        with self._part.open("ab") as file:
            self._take_stock()
            found = self._done > 0
            while not self._is_whole():
                before = self._done
                try:
                    self._attempt(file)
                    break
                except _TryAgain as exc:
                    failures = 1 if self._done > before else failures + 1
                    if failures >= self._policy.attempts:
                        raise self._failed(f"{failures} attempts failed: {exc}") from exc
                    log.info("download interrupted: %s", exc)
                    if self._cancel.wait(self._policy.pause_s(failures, exc.after_s)):
                        raise Cancelled from None
            file.flush()
            os.fsync(file.fileno())
        return found

    def _is_whole(self) -> bool:
        size = self._remote.size_bytes
        return self.matches() if size is None else self._done == size

    def _take_stock(self) -> None:
        """Hash what an earlier run left; start over if that is more than the file."""
        self._hash, self._done = hashlib.sha256(), 0
        size = self._part.stat().st_size
        if self._remote.size_bytes is not None and size > self._remote.size_bytes:
            os.truncate(self._part, 0)
        with self._part.open("rb") as file:
            while chunk := file.read(1 << 20):
                self._hash.update(chunk)
                self._done += len(chunk)

    def _start_over(self, file: IO[bytes]) -> None:
        file.truncate(0)
        self._hash, self._done = hashlib.sha256(), 0

    def _attempt(self, file: IO[bytes]) -> None:
        self._check_disk()
        stream = _Stream(self._remote.url, self._headers(), self._policy.stall_s)
        try:
            self._accept(stream.wait_for_head(self._cancel), file)
            while chunk := stream.next(self._cancel):
                file.write(chunk)
                self._hash.update(chunk)
                self._done += len(chunk)
                size = self._remote.size_bytes
                if size is not None and self._done > size:
                    self._start_over(file)
                    raise _TryAgain(f"the server sent more than {size:,} bytes")
                self._progress(self._done, size)
        finally:
            stream.abandon()
            file.flush()
        if not self._is_whole() and self._remote.size_bytes is not None:
            raise _TryAgain(f"the connection closed at {self._done:,} bytes")

    def _headers(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}  # a Range of a compressed body means nothing
        if self._done:
            headers["Range"] = f"bytes={self._done}-"
            if self._etag:
                headers["If-Range"] = self._etag
        return headers

    def _accept(self, head: _Head, file: IO[bytes]) -> None:
        """Look at status and headers before any byte is written."""
        if head.status == 206:
            if not head.headers.get("content-range", "").startswith(f"bytes {self._done}-"):
                self._start_over(file)
                raise _TryAgain("the server sent another range than asked for")
        elif head.status == 200:
            self._start_over(file)  # the server knows no ranges, or the file has changed
        elif head.status == 416:
            self._start_over(file)
            raise _TryAgain("the server has no such range")
        elif head.status in RETRY_STATUSES:
            raise _TryAgain(f"the server said {head.status}", _retry_after(head.headers))
        else:
            raise self._failed(f"the server said {head.status}")
        etag = head.headers.get("etag", "")
        self._etag = etag if etag and not etag.startswith("W/") else None

    def _check_disk(self) -> None:
        size = self._remote.size_bytes
        if size is None:
            return
        free = shutil.disk_usage(self._part.parent).free
        if free < size - self._done + DISK_MARGIN_BYTES:
            raise _no_space(self._part.parent, size - self._done)

    def _failed(self, reason: str) -> DownloadFailed:
        address = without_credentials(self._remote.url)
        return DownloadFailed(
            f"{self._remote.filename} could not be downloaded: {reason} ({address}).",
            self._remedy,
        )


@dataclass(frozen=True, slots=True)
class _Head:
    status: int
    headers: Mapping[str, str]


class _Stream:
    """A response read on a thread of its own, so that a stall cannot hold a cancel up."""

    def __init__(self, url: str, headers: Mapping[str, str], stall_s: float) -> None:
        self._items: queue.Queue[_Head | bytes | Exception] = queue.Queue(maxsize=8)
        self._stall_s = stall_s
        self._abandoned = threading.Event()
        thread = threading.Thread(target=self._run, args=(url, headers), name="fetch", daemon=True)
        thread.start()

    def wait_for_head(self, cancel: threading.Event) -> _Head:
        item = self._get(cancel)
        assert isinstance(item, _Head)
        return item

    def next(self, cancel: threading.Event) -> bytes:
        """The next bytes; empty at the end of the body."""
        item = self._get(cancel)
        assert isinstance(item, bytes)
        return item

    def abandon(self) -> None:
        """Nobody reads on: the thread closes the response and ends, at the latest at a stall."""
        self._abandoned.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._items.get_nowait()

    def _get(self, cancel: threading.Event) -> _Head | bytes:
        deadline = time.monotonic() + self._stall_s
        while True:
            if cancel.is_set():
                raise Cancelled
            try:
                item = self._items.get(timeout=0.1)
            except queue.Empty:
                if time.monotonic() > deadline:
                    raise _TryAgain(f"nothing came for {self._stall_s:.0f} s") from None
                continue
            if isinstance(item, Exception):
                raise _TryAgain(why_not(item)) from item
            return item

    def _run(self, url: str, headers: Mapping[str, str]) -> None:
        try:
            with self._open(url, headers) as response:
                fields = {key.lower(): value for key, value in response.headers.items()}
                self._put(_Head(response.status or 200, fields))
                while not self._abandoned.is_set():
                    chunk = response.read1(CHUNK_BYTES)
                    self._put(chunk)
                    if not chunk:
                        return
        except (OSError, HTTPException, ValueError) as exc:
            self._put(exc)

    def _open(self, url: str, headers: Mapping[str, str]) -> Any:
        try:
            return open_url(url, headers, self._stall_s)
        except urllib.error.HTTPError as exc:
            return exc  # a response like any other, with its status and headers

    def _put(self, item: _Head | bytes | Exception) -> None:
        while not self._abandoned.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=0.5)
                return


def why_not(exc: Exception) -> str:
    """Why a server could not be asked, in plain words."""
    if isinstance(exc, urllib.error.HTTPError):
        return f"it answered {exc.code}"
    cause = exc.reason if isinstance(exc, urllib.error.URLError) else exc
    if isinstance(cause, socket.gaierror):
        return "its name could not be found (is this computer online?)"
    if isinstance(cause, ConnectionRefusedError):
        return "nothing answers there (connection refused)"
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    return str(cause) or type(cause).__name__


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds; it comes as seconds or as a date (RFC 9110, 10.2.3)."""
    text = headers.get("retry-after", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError):
        return None


def _no_space(folder: Path, needed: int | None) -> NotEnoughDisk:
    free = shutil.disk_usage(folder).free
    wanted = f"{needed / 1e6:.0f} MB are needed and " if needed else ""
    return NotEnoughDisk(
        f"The disk is too full for this download: {wanted}{free / 1e6:.0f} MB are free.",
        f"Free some space on the disk of {folder}, then retry.",
    )
