"""Bounded questions to a registry of the OCI protocol, as Docker's and Ollama's are one.

Tokens are asked for anonymously. Loaded only when somebody pulls: it imports urllib.request.
"""

from __future__ import annotations

import functools
import hashlib
import json
import queue
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from typing import IO, Any

from tray_app.engine.errors import DownloadFailed, EngineError, NotFound
from tray_app.engine.fetch import USER_AGENT, tls_context, why_not
from tray_app.engine.runtime.feed_rows import is_trusted

from .values import Remote

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_ERROR_BYTES = 8 << 10
MAX_TOKEN_BYTES = 64 << 10
WAIT_S = 15.0  # for the connection, and for each piece
WHOLE_S = 60.0  # for all that one plan asks; a manifest and its small layers are 10 KB
REMEDY = "Check the connection and the proxy settings, then retry."

_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header can carry


@dataclass(frozen=True, slots=True)
class _Answer:
    """A response. The names of the headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Unusable(Exception):
    """There is no answer that could be used; the text says why."""


class Registry:
    """One repository of one registry, for one plan. Used by one thread."""

    def __init__(self, base: str, repository: str, *, whole_s: float = WHOLE_S) -> None:
        """`base`: "https://registry.ollama.ai"; `repository`: "library/llama3". Asks nobody."""
        self.host = urllib.parse.urlsplit(base).netloc
        self._root = f"{base}/v2/{repository}"
        self._local = is_trusted(f"http://{self.host}")
        self._whole_s = whole_s
        self._deadline: float | None = None
        self._token = ""

    def manifest(self, tag: str) -> bytes:
        """The manifest of a tag. Blocks for WHOLE_S at most.

        The type of the answer is not looked at: registry.ollama.ai sends text/plain
        (ollama issue 6470). Without Accept, docker-registry 2.8 answers 400.
        Raises NotFound, DownloadFailed.
        """
        url = f"{self._root}/manifests/{tag}"
        return self._get(url, MAX_MANIFEST_BYTES, {"Accept": MANIFEST_TYPE}).body

    def blob(self, digest: str, limit: int) -> bytes:
        """A small blob, its sha256 checked. Blocks for WHOLE_S at most.

        `digest`: "sha256:…". Raises NotFound, DownloadFailed.
        """
        body = self._get(self.blob_url(digest), limit, {}).body
        if hashlib.sha256(body).hexdigest() != digest.removeprefix("sha256:"):
            raise self._failed("a part of the model's description has another sha256 than named")
        return body

    def blob_url(self, digest: str) -> str:
        """Where the blob is; the registry may redirect from there to a signed address."""
        return f"{self._root}/blobs/{digest}"

    def remote(self, digest: str, size_bytes: int, filename: str) -> Remote:
        """The blob as a file to fetch, with the token that this registry wanted so far."""
        url, sha256 = self.blob_url(digest), digest.removeprefix("sha256:")
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        plain = Remote(url, filename, size_bytes, sha256)
        return Remote(url, filename, size_bytes, sha256, headers, functools.partial(renewed, plain))

    def open_door(self, digest: str) -> None:
        """Get the token that a blob wants, if it wants one. Raises as `blob`."""
        self._get(self.blob_url(digest), 0, {"Range": "bytes=0-0"})

    # -- questions

    def _get(self, url: str, limit: int, headers: Mapping[str, str]) -> _Answer:
        """The answer to a GET, once more with a token when the registry asks for one."""
        try:
            answer = self._exchange(url, limit, headers)
            if answer.status == 401 and self._ask_for_token(answer):
                answer = self._exchange(url, limit, headers)
        except _Unusable as exc:
            raise self._failed(str(exc)) from exc
        if answer.status not in (200, 206):
            raise self._refused(answer, "a part" if "/blobs/" in url else "the model or tag")
        return answer

    def _ask_for_token(self, answer: _Answer) -> bool:
        """Whether an anonymous token could be had, as the answer's challenge tells."""
        challenge = answer.headers.get("www-authenticate", "")[:4096]
        fields = dict(_PARAMETER.findall(challenge))
        realm = fields.get("realm", "")
        if not challenge.lower().startswith("bearer ") or not realm:
            return False
        self._token = ""
        asked = {key: fields[key] for key in ("service", "scope") if key in fields}
        joint = "&" if "?" in realm else "?"
        url = f"{realm}{joint}{urllib.parse.urlencode(asked)}"
        told = self._exchange(url, MAX_TOKEN_BYTES, {"Accept": "application/json"})
        if told.status != 200:
            return False
        row = read_json(told.body)
        token = (row.get("token") or row.get("access_token")) if isinstance(row, dict) else None
        if isinstance(token, str) and _TOKEN.fullmatch(token):
            self._token = token
        return bool(self._token)

    def _exchange(self, url: str, limit: int, headers: Mapping[str, str]) -> _Answer:
        """One GET, on a thread: one that drips its headers for ever is left behind."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._whole_s
        deadline = self._deadline
        told: queue.Queue[_Answer | Exception] = queue.Queue()
        asking = (url, limit, dict(headers), self._token_for(url), deadline, told.put)
        threading.Thread(target=self._ask, args=asking, name="registry", daemon=True).start()
        try:
            outcome = told.get(timeout=max(deadline - time.monotonic(), 0.01))
        except queue.Empty:
            raise _Unusable(f"it took longer than {self._whole_s:.0f} s") from None
        if isinstance(outcome, _Answer):
            return outcome
        if isinstance(outcome, _Unusable):
            raise outcome
        raise _Unusable(why_not(outcome)) from outcome

    def _ask(
        self,
        url: str,
        limit: int,
        headers: dict[str, str],
        token: str,
        deadline: float,
        tell: Callable[[_Answer | Exception], None],
    ) -> None:
        try:
            with self._open(url, headers, token) as response:
                tell(_read_answer(response, limit, deadline))
        except (OSError, HTTPException, ValueError, _Unusable) as exc:
            tell(exc)

    def _open(self, url: str, headers: dict[str, str], token: str) -> Any:
        if not self._may_ask(url):
            raise _Unusable("it leads to an address that is not https")
        common = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        request = urllib.request.Request(url, headers={**common, **headers})
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        https = urllib.request.HTTPSHandler(context=tls_context())
        opener = urllib.request.build_opener(https, _Redirects(self._may_ask))
        try:
            return opener.open(request, timeout=WAIT_S)
        except urllib.error.HTTPError as exc:
            return exc  # a response like any other, with its status and headers

    def _may_ask(self, url: str) -> bool:
        """Only https, so that nobody in between can change what is told.

        A registry on this machine may name addresses on this machine; any other may not.
        """
        return is_trusted(url) and (self._local or url.lower().startswith("https:"))

    def _token_for(self, url: str) -> str:
        return self._token if url.startswith(f"{self._root}/") else ""

    # -- what went wrong

    def _refused(self, answer: _Answer, wanted: str) -> EngineError:
        said = _server_words(answer)
        if answer.status == 404:
            return NotFound(
                f"{self.host} does not have {wanted} that was asked for.{said}",
                "Check the name and the tag.",
            )
        if answer.status in (401, 403):
            return DownloadFailed(
                f"{self.host} wants a sign-in for this: it is private, or not there.{said}",
                "Check the name. Models that need a sign-in cannot be fetched from a registry;"
                " many are on Hugging Face too.",
            )
        return self._failed(f"it answered {answer.status}", said)

    def _failed(self, reason: str, said: str = "") -> DownloadFailed:
        return DownloadFailed(f"{self.host} could not be used: {reason}.{said}", REMEDY)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to allowed addresses; the token goes along to none of them."""

    def __init__(self, may_ask: Callable[[str], bool]) -> None:
        self._may_ask = may_ask

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not self._may_ask(newurl):
            fp.close()
            raise _Unusable("it leads to an address that is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def renewed(remote: Remote) -> Remote:
    """`remote`, made by a Registry, with a fresh token where its registry wants one.

    All it needs is in the address, so it serves for one that was kept over a restart too.
    Blocks for WHOLE_S at most. Raises NotFound, DownloadFailed.
    """
    root, _, digest = remote.url.rpartition("/blobs/")
    base, _, repository = root.partition("/v2/")
    registry = Registry(base, repository)
    registry.open_door(digest)
    return registry.remote(digest, remote.size_bytes or 0, remote.filename)


def read_json(data: bytes) -> Any:
    """JSON from the net; None when it is none. Nothing a registry sends is only `null`."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):  # also: no UTF-8, a number of 5,000 digits
        return None


def _read_answer(response: Any, limit: int, deadline: float) -> _Answer:
    fields: dict[str, str] = {}
    for key, value in response.headers.items():
        before = fields.get(key.lower())
        fields[key.lower()] = f"{before}, {value}" if before else value
    status = response.status or 200
    if status >= 300:
        return _Answer(status, fields, response.read1(MAX_ERROR_BYTES))
    return _Answer(status, fields, _read_body(response, limit, deadline) if limit else b"")


def _read_body(response: Any, limit: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := response.read1(64 * 1024):
        size += len(chunk)
        if size > limit:
            raise _Unusable(f"it sent more than {limit:,} bytes")
        if time.monotonic() > deadline:
            raise _Unusable("it was too slow")
        parts.append(chunk)
    expected = response.headers.get("Content-Length", "")
    if expected.isdigit() and int(expected) != size:
        raise _Unusable(f"the connection closed at {size:,} of {int(expected):,} bytes")
    return b"".join(parts)


def _server_words(answer: _Answer) -> str:
    """What the registry says about an error, for a sentence's end: " It says: …"."""
    row = read_json(answer.body)
    said = row.get("error") if isinstance(row, dict) else None
    listed = row.get("errors") if isinstance(row, dict) else None
    if isinstance(listed, list) and listed and isinstance(listed[0], dict):
        said = listed[0].get("message")
    if not isinstance(said, str) or not said.strip():
        return ""
    plain = "".join(char if char.isprintable() else " " for char in said[:200]).strip()
    return f" It says: {plain.rstrip('.')}."
