"""Requests to servers elsewhere, through the user's proxies and CAs; one verified file."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .downloads.retry import RetryPolicy

__all__ = [
    "RemoteFile",
    "RetryPolicy",
    "fetch_file",
    "open_url",
    "tls_context",
    "why_not",
    "without_credentials",
]

USER_AGENT = "llama-wrangler"
REMEDY = "Check the connection and the proxy settings, then retry."
CA_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file whose content is known by its hash before it is fetched."""

    url: str
    filename: str
    sha256: str
    size_bytes: int | None = None


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

    Blocks; what `downloads.transfer.fetch` tells about cancel, progress and errors holds here.
    """
    from .downloads.transfer import fetch  # which needs this module
    from .downloads.values import Remote

    return fetch(
        Remote(remote.url, remote.filename, remote.size_bytes, remote.sha256),
        target,
        progress=progress,
        cancel=cancel,
        policy=policy,
        remedy=remedy,
    )


def open_url(url: str, headers: Mapping[str, str], timeout_s: float) -> Any:
    """An open response for `url`, through the system's proxies and the user's own CA bundle.

    A user and password in `url` go into a header that no redirect carries on. Raises OSError
    (urllib's errors are such) or HTTPException.
    """
    parts = urllib.parse.urlsplit(url)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(plain, headers={"User-Agent": USER_AGENT, **headers})
    if parts.username:
        pair = f"{parts.username}:{parts.password or ''}"
        secret = base64.b64encode(urllib.parse.unquote(pair).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    handlers: list[urllib.request.BaseHandler] = []
    if parts.scheme == "https":
        handlers.append(urllib.request.HTTPSHandler(context=tls_context()))
    return urllib.request.build_opener(*handlers).open(request, timeout=timeout_s)


def without_credentials(url: str) -> str:
    """`url` as it may be shown: no user, no password, no query."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def tls_context() -> ssl.SSLContext:
    """Whom to believe: the user's own CA bundle, else the system's. Raises OSError."""
    bundle = next((os.environ[name] for name in CA_VARIABLES if os.environ.get(name)), None)
    if bundle is None and not _system_knows_authorities():
        with contextlib.suppress(ImportError):  # python.org's macOS builds come without CAs
            import certifi

            bundle = certifi.where()
    if bundle is not None and Path(bundle).is_dir():
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle)  # None: system store, SSL_CERT_FILE


def _system_knows_authorities() -> bool:
    paths = ssl.get_default_verify_paths()
    # Debian has a folder and no file. One that is empty belongs to no ca-certificates.
    folder = Path(paths.capath or os.devnull)
    return bool(paths.cafile) or any(folder.glob("*"))


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
