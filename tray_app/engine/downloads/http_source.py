"""Where a file comes from: its address, its redirects, who sees the token, what a reply means."""

from __future__ import annotations

import base64
import re
import string
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tray_app.engine.errors import Cancelled
from tray_app.engine.fetch import without_credentials

from .http_line import Line, Reply, plain_url
from .retry import RETRY_STATUSES, Changed, GivenUp, TryAgain, retry_after_s
from .values import Remote

REDIRECTS = frozenset({301, 302, 303, 307, 308})
EXPIRED = frozenset({401, 403, 404, 410})
MAX_REDIRECTS = 8
MAX_RENEWALS = 3  # in a row, without a byte between them
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_STATED_SHA256 = re.compile(r'(?:W/)?"?(?:sha256:)?([0-9a-f]{64})"?')


@dataclass(frozen=True, slots=True)
class Opened:
    """A body that may be read: it begins at `start` of the file."""

    reply: Reply
    start: int
    total_bytes: int | None


class Source:
    """One remote file, asked by several connections. The first one resolves its redirects."""

    def __init__(self, remote: Remote, validator: str | None = None) -> None:
        """`validator` is what an earlier run saw. No request is made here."""
        self.remote = remote
        self.validator = validator  # strong ETag, or else the date of the last change
        self.changed = False  # it had another version in between
        self.knows_ranges: bool | None = None  # None: not known yet
        self._turn = threading.Condition()
        self._resolving = False  # one connection finds the address, the others wait
        self._settled = False
        self._renewing = threading.Lock()
        self._direct: str | None = None
        self._renewals = 0

    @property
    def shown(self) -> str:
        """The address without what must not be shown."""
        try:
            return without_credentials(self.remote.url)
        except ValueError:
            return "a broken address"

    def open(
        self, line: Line, start: int, stop: int | None, size: int | None, ended: threading.Event
    ) -> Opened:
        """Ask for bytes from `start` up to `stop` (None: the end) of a file of `size` bytes.

        What comes may begin at 0: then the server sends the whole file. Blocks. Raises
        TryAgain, Changed, GivenUp, Cancelled, and what `remote.renew` raises.
        """
        while True:
            try:
                reply = self._answer(line, self._headers(start, stop), ended)
            except ValueError as exc:
                raise GivenUp("its address is broken") from exc
            if reply is not None:
                return self._accepted(reply, start, size)

    def forget_version(self) -> None:
        """Start over: whatever the server has now is the file."""
        self.validator = None

    def delivered(self) -> None:
        """A byte came: the address is good."""
        self._renewals = 0

    def _headers(self, start: int, stop: int | None) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}  # a Range of a compressed body means nothing
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
            if self.validator and self.remote.sha256 is None:
                headers["If-Range"] = self.validator
        return headers

    # -- addresses

    def _answer(
        self, line: Line, headers: Mapping[str, str], ended: threading.Event
    ) -> Reply | None:
        """A final answer, or None when the address had expired and there is another one now."""
        mine = self._begin(ended)
        try:
            url = self._direct or self.remote.url
            reply = self._follow(line, url, headers)
            if reply.status in EXPIRED and self._another_address(url):
                return None
            if reply.status in (200, 206):
                self._direct = reply.url if plain_url(self.remote.url) != reply.url else None
                self._settled = True
            return reply
        finally:
            if mine:
                with self._turn:
                    self._resolving = False
                    self._turn.notify_all()

    def _begin(self, ended: threading.Event) -> bool:
        """Wait while another connection finds the address; True when this one is to find it."""
        with self._turn:
            while self._resolving:
                if ended.is_set():
                    raise Cancelled
                self._turn.wait(0.1)
            if self._settled:
                return False
            self._resolving = True
            return True

    def _follow(self, line: Line, url: str, headers: Mapping[str, str]) -> Reply:
        for _ in range(MAX_REDIRECTS):
            reply = line.get(plain_url(url), {**headers, **self._secrets(url)})
            where = reply.headers.get("location")
            if reply.status not in REDIRECTS or not where:
                return reply
            followed = _joined(reply.url, where)
            was, now = (urllib.parse.urlsplit(each).scheme for each in (reply.url, followed))
            if now != "https" and now != was:
                raise GivenUp("it leads to an address that is not https")
            url = followed
        raise GivenUp(f"it leads on and on ({MAX_REDIRECTS} redirects)")

    def _secrets(self, url: str) -> dict[str, str]:
        """What only the origin of the file's own address may see."""
        if _origin(url) != _origin(self.remote.url):
            return {}
        headers = dict(self.remote.headers)
        parts = urllib.parse.urlsplit(self.remote.url)
        if parts.username:
            pair = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return headers

    def _another_address(self, refused: str) -> bool:
        """Whether there is another address than `refused` to try."""
        with self._renewing:
            if refused != (self._direct or self.remote.url):
                return True  # another connection found it meanwhile
            if self._renewals >= MAX_RENEWALS:
                return False
            if self._direct is not None:
                self._direct = None  # a signed address lives for minutes: ask the hub's own again
            elif self.remote.renew is not None:
                self.remote = self._renewed(self.remote.renew())
            else:
                return False
            self._renewals += 1
            self._settled = False
            return True

    def _renewed(self, remote: Remote) -> Remote:
        for name in ("sha256", "size_bytes"):
            old, new = getattr(self.remote, name), getattr(remote, name)
            if None not in (old, new) and old != new:
                raise GivenUp("the hub has another file by this name now")
        return replace(remote, renew=remote.renew or self.remote.renew)

    # -- what a reply means

    def _accepted(self, reply: Reply, start: int, size: int | None) -> Opened:
        if reply.status not in (200, 206):
            raise self._refusal(reply)
        coding = reply.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise GivenUp(f"the server only sends it compressed ({coding})")
        self._check_hash(reply)
        if reply.status == 206:
            begins, total = _content_range(reply)
            if begins != start:
                raise TryAgain("the server sent another range than asked for")
        else:
            begins, total = 0, reply.length
        self._check_size(reply, total, size)
        self._check_version(reply)
        return Opened(reply, begins, total)

    def _refusal(self, reply: Reply) -> Exception:
        if reply.status == 416:
            return Changed("the server has no such range")
        reason = f"the server said {reply.status}"
        if reply.status in RETRY_STATUSES:
            crowded = reply.status in (429, 503)
            return TryAgain(reason, retry_after_s(reply.headers), crowded)
        return GivenUp(reason)

    def _check_hash(self, reply: Reply) -> None:
        """A registry names a blob's sha256 in its ETag or digest."""
        for name in ("docker-content-digest", "etag"):
            stated = _STATED_SHA256.fullmatch(reply.headers.get(name, ""))
            named = stated is not None and "sha256:" in reply.headers[name]
            if named and stated and self.remote.sha256 not in (None, stated[1]):
                raise GivenUp(f"the server has another file now (sha256 {stated[1][:12]}…)")

    def _check_size(self, reply: Reply, total: int | None, size: int | None) -> None:
        if None in (total, size) or total == size:
            return
        told = f"the server has {total:,} bytes of it, not {size:,}"
        page = reply.headers.get("content-type", "").startswith("text/html")
        if reply.status == 200 and (page or self.remote.size_bytes is not None):
            raise TryAgain(told)  # a page to sign in, an error page: what we have is good
        raise Changed(told)

    def _check_version(self, reply: Reply) -> None:
        """For a file without a hash; where there is one, it decides alone.

        Servers behind one name give one file several ETags.
        """
        etag = reply.headers.get("etag", "").strip()
        date = reply.headers.get("last-modified", "").strip()
        seen = etag if etag and not etag.startswith("W/") else date or None
        if self.validator is None:
            self.validator = seen
        elif seen is not None and seen != self.validator and seen[0] == self.validator[0]:
            self.changed = True
            if self.remote.sha256 is None:
                raise Changed("its ETag is another one now")


def _content_range(reply: Reply) -> tuple[int, int | None]:
    """Where a 206 begins and how large the file is. Raises TryAgain."""
    found = _RANGE.fullmatch(reply.headers.get("content-range", "").strip())
    if found is None:
        raise TryAgain("the server sent a range without saying which")
    return int(found[1]), None if found[3] == "*" else int(found[3])


def _joined(url: str, where: str) -> str:
    """Where a redirect leads. Raises GivenUp."""
    # http.client reads headers as Latin-1; the bytes are what counts.
    plain = urllib.parse.quote(where, safe=string.punctuation, encoding="iso-8859-1")
    try:
        joined = urllib.parse.urljoin(url, plain)
        _origin(joined)
    except ValueError as exc:
        raise GivenUp("it leads to a broken address") from exc
    return joined


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    ports = {"http": 80, "https": 443}
    return parts.scheme, parts.hostname, parts.port or ports.get(parts.scheme)
