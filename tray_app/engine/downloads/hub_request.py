"""Bounded, remembered questions to the Hugging Face Hub or a mirror of it, and its refusals.

Loaded only when somebody asks a hub: it imports urllib.request.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from tray_app.engine.errors import BadRequest, DownloadFailed
from tray_app.engine.fetch import USER_AGENT, tls_context, why_not
from tray_app.engine.runtime.feed_rows import is_trusted

from .hub_refusal import Refusal, Wanted, is_pause, refusal
from .retry import RETRY_STATUSES, RetryPolicy, Unreachable, retry_after_s

log = logging.getLogger(__name__)

DEFAULT_ENDPOINT = "https://huggingface.co"
MAX_ANSWER_BYTES = 8 << 20  # 1,000 rows of a tree are 0.4 MB
MAX_ERROR_BYTES = 8 << 10
MAX_REDIRECTS = 5  # a renamed repository takes one
KEEP_S = 300.0  # the Hub counts questions in windows of five minutes
MAX_KEPT_BYTES = 8 << 20
WAIT_S = 15.0  # for the connection, and for each piece
WHOLE_S = 60.0  # for one question
POLICY = RetryPolicy(attempts=3, first_pause_s=0.5)
REMEDY = "Check the connection and the proxy settings, then retry."
REDIRECTS = frozenset({301, 302, 303, 307, 308})

_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header can carry
_NEXT = re.compile(r'<([^<>]*)>\s*;[^,<]*\brel="?next\b')
_RESET_S = re.compile(r"\bt=(\d{1,6})\b")


@dataclass(frozen=True, slots=True)
class Page:
    """An answer: one JSON value, and where the rest of a list is."""

    value: Any
    next: str | None = None  # path and query below the endpoint


@dataclass(frozen=True, slots=True)
class _Answer:
    """A response. The names of the headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer as it came: read again it costs milliseconds, taken apart ten times the memory."""

    since: float
    body: bytes
    next: str | None


class _Failed(Exception):
    """There is no answer that could be used; the text says why."""


class HubRequests:
    """Asks one endpoint. From any thread."""

    def __init__(
        self,
        endpoint: str | None,
        token: Callable[[], str | None],
        environ: Mapping[str, str],
        *,
        policy: RetryPolicy = POLICY,
        whole_s: float = WHOLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`endpoint`, else HF_ENDPOINT, else huggingface.co; `token()`, else HF_TOKEN.

        Asks nobody. Raises BadRequest for an endpoint that cannot be used.
        """
        given = endpoint or environ.get("HF_ENDPOINT", "").strip() or DEFAULT_ENDPOINT
        self.endpoint = given.rstrip("/")
        parts = urllib.parse.urlsplit(self.endpoint) if is_trusted(self.endpoint) else None
        if parts is None or "@" in parts.netloc or parts.query or parts.fragment:
            raise BadRequest(
                "The address of the Hub (HF_ENDPOINT or the setting) cannot be used: it has to"
                " begin with https:// (http:// only for this computer) and to hold no password.",
                f"Correct it, or leave it empty for {DEFAULT_ENDPOINT}.",
            )
        self._host = parts.netloc
        self._local = parts.scheme == "http"
        self._token, self._environ = token, environ
        self._policy, self._whole_s, self._clock = policy, whole_s, clock
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._quiet_until = 0.0  # the Hub asked for a pause
        self._lock = threading.Lock()

    def secrets(self) -> dict[str, str]:
        """The header that signs in; empty without a token. Raises BadRequest."""
        token = (self._token() or self._environ.get("HF_TOKEN") or "").strip()
        if token and not _TOKEN.fullmatch(token):
            raise BadRequest(
                "The Hugging Face token (HF_TOKEN or the setting) holds characters that none has.",
                "Copy it again from https://huggingface.co/settings/tokens.",
            )
        return {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str, wanted: Wanted) -> Page:
        """The JSON at `path` below the endpoint; one that is younger than KEEP_S is not asked anew.

        Blocks for WHOLE_S and a few attempts at most.
        Raises NotFound, BadRequest, DownloadFailed (Unreachable for what may pass).
        """
        key = (path, self.secrets().get("Authorization", ""))
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and self._clock() - kept.since < KEEP_S:
            return Page(json.loads(kept.body), kept.next)
        answer = self._answer("GET", path, wanted)
        try:
            value = json.loads(answer.body)
        except (ValueError, RecursionError) as exc:  # also: no UTF-8, a number of 5,000 digits
            raise self._failed("what it sent is not JSON") from exc
        following = self._next(answer.headers.get("link", ""))
        self._keep(key, _Kept(self._clock(), answer.body, following))
        return Page(value, following)

    def get_text(self, path: str, wanted: Wanted, most_bytes: int) -> tuple[bytes, bool]:
        """(the first `most_bytes` of the file at `path`, whether there is more of it).

        Asked anew each time. Blocks and raises as `get`.
        """
        body = self._answer("GET", path, wanted, most_bytes).body
        return body[:most_bytes], len(body) > most_bytes

    def check_access(self, path: str, wanted: Wanted) -> None:
        """Whether a file may be fetched, by one HEAD. Blocks and raises as `get`."""
        self._answer("HEAD", path, wanted)

    # -- remembering

    def _keep(self, key: tuple[str, str], answer: _Kept) -> None:
        with self._lock:
            before = self._kept.pop(key, None)
            self._kept_bytes += len(answer.body) - (len(before.body) if before else 0)
            self._kept[key] = answer
            while self._kept_bytes > MAX_KEPT_BYTES:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1].body)

    def _next(self, link: str) -> str | None:
        """Where the list goes on; a mirror passes the Hub's own address on, so only its path."""
        found = _NEXT.search(link[:4096])
        if found is None:
            return None
        own = found[1].removeprefix(self.endpoint)
        parts = urllib.parse.urlsplit(own)
        path = parts._replace(scheme="", netloc="", fragment="").geturl()
        return path if path.startswith("/api/") else None

    # -- asking

    def _answer(
        self, method: str, path: str, wanted: Wanted, most_bytes: int | None = None
    ) -> _Answer:
        """`most_bytes`: of a text, of which the rest is left; None: JSON, which is read whole."""
        failures = 0
        while True:
            self._respect_pause(wanted)
            try:
                answer = self._follow(method, f"{self.endpoint}{path}", most_bytes)
            except _Failed as exc:
                failures += 1
                if failures >= self._policy.attempts:
                    raise Unreachable(f"{self._host} could not be asked: {exc}.", REMEDY) from exc
            else:
                if answer.status < 400:
                    return answer
                failures += 1
                passing = answer.status in RETRY_STATUSES and not is_pause(answer.status)
                if not passing or failures >= self._policy.attempts:
                    raise self._refused(answer, wanted)
            threading.Event().wait(self._policy.pause_s(failures, None))

    def _follow(self, method: str, path: str, most_bytes: int | None) -> _Answer:
        """Redirects of JSON are followed; a HEAD's say that the file may be had."""
        url = path
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._exchange(method, url, most_bytes)
            where = answer.headers.get("location")
            if answer.status not in REDIRECTS or not where:
                return answer
            followed = urllib.parse.urljoin(url, where)
            if method == "HEAD" and not self._is_own(followed):
                return _Answer(200, answer.headers, b"")
            if not is_trusted(followed) or (followed.startswith("http:") and not self._local):
                raise self._failed("it leads to an address that is not https")
            url = followed
        raise self._failed(f"it leads on and on ({MAX_REDIRECTS} redirects)")

    def _is_own(self, url: str) -> bool:
        parts, own = urllib.parse.urlsplit(url), urllib.parse.urlsplit(self.endpoint)
        return (parts.scheme, parts.netloc.lower()) == (own.scheme, own.netloc.lower())

    def _exchange(self, method: str, url: str, most_bytes: int | None) -> _Answer:
        """One question, on a thread: one that drips its headers for ever is left behind."""
        deadline = time.monotonic() + self._whole_s
        accepted = "application/json" if most_bytes is None else "text/*, */*"
        headers = {"Accept": accepted, "Accept-Encoding": "identity"}
        if self._is_own(url):
            headers |= self.secrets()
        told: queue.Queue[_Answer | Exception] = queue.Queue()
        asking = (method, url, headers, deadline, most_bytes, told.put)
        threading.Thread(target=_ask, args=asking, name="hub", daemon=True).start()
        try:
            outcome = told.get(timeout=self._whole_s)
        except queue.Empty:
            raise _Failed(f"it took longer than {self._whole_s:.0f} s") from None
        if isinstance(outcome, _Answer):
            return outcome
        why = outcome if isinstance(outcome, _Failed) else why_not(outcome)
        raise _Failed(str(why)) from outcome

    # -- what went wrong

    def _respect_pause(self, wanted: Wanted) -> None:
        left_s = self._quiet_until - self._clock()
        if left_s > 0:
            raise refusal(self._said(429, {}, wanted, left_s))

    def _refused(self, answer: _Answer, wanted: Wanted) -> Exception:
        left_s = None
        if is_pause(answer.status):
            reset = _RESET_S.search(answer.headers.get("ratelimit", "")[:400])
            asked_s = retry_after_s(answer.headers)
            left_s = asked_s if asked_s is not None else float(reset[1]) if reset else None
            longest_s = self._policy.longest_asked_s
            left_s = min(max(left_s or self._policy.longest_pause_s, 0.0), longest_s)
            self._quiet_until = self._clock() + left_s
            log.warning("the hub asks for a pause of %.0f s", left_s, extra={"host": self._host})
        return refusal(self._said(answer.status, answer.headers, wanted, left_s, answer.body))

    def _said(
        self,
        status: int,
        headers: Mapping[str, str],
        wanted: Wanted,
        wait_s: float | None,
        body: bytes = b"",
    ) -> Refusal:
        signed = bool(self.secrets())
        return Refusal(status, headers, body, self.endpoint, signed, wanted, wait_s)

    def _failed(self, reason: str) -> DownloadFailed:
        return DownloadFailed(f"{self._host} could not be used: {reason}.", REMEDY)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Whoever asks decides about them: a header would go along to any address."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _ask(
    method: str,
    url: str,
    headers: Mapping[str, str],
    deadline: float,
    most_bytes: int | None,
    tell: Callable[[_Answer | Exception], None],
) -> None:
    request = urllib.request.Request(
        url, headers={"User-Agent": USER_AGENT, **headers}, method=method
    )
    try:
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if request.type == "https":
            handlers.append(urllib.request.HTTPSHandler(context=tls_context()))
        with _opened(urllib.request.build_opener(*handlers), request) as response:
            fields = {key.lower(): value for key, value in response.headers.items()}
            status = response.status or 200
            if method == "HEAD":
                body = b""
            elif status >= 300:
                body = response.read1(MAX_ERROR_BYTES)
            else:
                body = _read_body(response, deadline, most_bytes)
            tell(_Answer(status, fields, body))
    except (OSError, HTTPException, ValueError, _Failed) as exc:
        tell(exc)


def _opened(opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> Any:
    try:
        return opener.open(request, timeout=WAIT_S)
    except urllib.error.HTTPError as exc:
        return exc  # a response like any other, with its status and headers


def _read_body(response: Any, deadline: float, most_bytes: int | None) -> bytes:
    """All of it; of a text longer than `most_bytes` a little more than these."""
    parts: list[bytes] = []
    size = 0
    while chunk := response.read1(64 * 1024):
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise _Failed(f"it sent more than {MAX_ANSWER_BYTES:,} bytes")
        if time.monotonic() > deadline:
            raise _Failed("it was too slow")
        parts.append(chunk)
        if most_bytes is not None and size > most_bytes:
            return b"".join(parts)
    expected = response.headers.get("Content-Length", "")
    if expected.isdigit() and int(expected) != size:
        raise _Failed(f"the connection closed at {size:,} of {int(expected):,} bytes")
    return b"".join(parts)
