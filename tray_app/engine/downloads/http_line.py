"""One keep-alive connection to one server after another, through proxies and the user's CAs."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import string
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any

from tray_app.engine.fetch import USER_AGENT, open_url, tls_context, why_not

from .retry import GivenUp, TryAgain

CONNECT_S = 15.0
MAX_DRAIN_BYTES = 64 * 1024  # of an unwanted body, to keep its connection


class Reply:
    """A response whose body is read into buffers. Header names are in lower case."""

    def __init__(self, response: Any, url: str, status: int) -> None:
        self.url = url
        self.status = status
        self.headers = {key.lower(): value for key, value in response.headers.items()}
        self._response = response
        length = response.length if isinstance(response, HTTPResponse) else None
        self.length: int | None = length  # of the body; None when it ends with the connection
        self._left = length
        self._begun = False

    def read_into(self, view: memoryview) -> int:
        """Bytes read, as soon as there are some; 0 at the end. Raises TryAgain."""
        try:
            if self._left is None:
                data = self._response.read1(len(view))
                view[: len(data)] = data
                return len(data)
            if self._left == 0:
                return 0
            # What came with the head is in the reader's buffer. A larger read would add to it
            # by one more recv, and lose it if that one times out.
            most = self._left if self._begun else min(self._left, io.DEFAULT_BUFFER_SIZE)
            self._begun = True
            count: int = self._response.fp.readinto1(view[:most])
        except (OSError, HTTPException, ValueError, AttributeError) as exc:
            raise TryAgain(why_not(exc)) from exc
        self._left -= count
        return count

    @property
    def at_end(self) -> bool:
        """Whether all that was promised has been read."""
        return self._left == 0

    def close(self) -> None:
        """Let it go; its connection can be used again if the body was read."""
        with contextlib.suppress(OSError, HTTPException, ValueError):
            self._response.close()


@dataclass(frozen=True, slots=True)
class _Route:
    """How a server is reached. Equal routes share a connection."""

    secure: bool  # TLS to `host`
    host: str
    port: int | None
    tunnel: tuple[str, int | None] | None = None  # the server, behind a proxy
    proxy_secret: str | None = None
    whole_url: bool = False  # a proxy is asked for the whole address


class Line:
    """A connection that one thread uses and any thread may cut."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._route: _Route | None = None
        self._connection: HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._reply: Reply | None = None
        self._cut = threading.Event()

    def get(self, url: str, headers: Mapping[str, str]) -> Reply:
        """The response to a GET, redirects as they are. Blocks; raises TryAgain, GivenUp."""
        self._finish_reply()
        try:
            if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
                self._reply = _opened(url, headers, self._stall_s)
            else:
                self._reply = self._ask(url, headers)
        except (OSError, HTTPException, ValueError) as exc:
            self.close()
            raise TryAgain(why_not(exc)) from exc
        return self._reply

    def cut(self) -> None:
        """Wake whoever reads: the connection is over. From any thread; never blocks."""
        self._cut.set()
        if self._socket is not None:
            # Not SSLSocket.shutdown, which takes the TLS state from the thread that reads.
            with contextlib.suppress(OSError, ValueError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next `get` opens another."""
        if self._reply is not None:
            self._reply.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()
        self._reply = self._socket = None

    def _finish_reply(self) -> None:
        """Read a short rest, so that the connection can go on; else close it."""
        reply, self._reply = self._reply, None
        if reply is None:
            return
        if reply.length is not None and reply.length <= MAX_DRAIN_BYTES:
            rest = memoryview(bytearray(MAX_DRAIN_BYTES))
            with contextlib.suppress(TryAgain):
                while reply.read_into(rest):
                    pass
        reply.close()
        if not reply.at_end:
            self.close()

    def _ask(self, url: str, headers: Mapping[str, str]) -> Reply:
        parts = urllib.parse.urlsplit(url)
        route = _route_to(parts)
        if route != self._route:
            self.close()
        self._route = route
        used_before = self._connection is not None and self._connection.sock is not None
        try:
            return self._send(parts, route, headers)
        except (OSError, HTTPException):
            self.close()
            if not used_before or self._cut.is_set():
                raise
        return self._send(parts, route, headers)  # the server had closed it meanwhile

    def _send(
        self, parts: urllib.parse.SplitResult, route: _Route, headers: Mapping[str, str]
    ) -> Reply:
        connection = self._connected(route)
        path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        if not path.startswith("/"):
            path = f"/{path}"  # an address of a host and a query
        target = f"{parts.scheme}://{parts.netloc}{path}" if route.whole_url else path
        own = {"Proxy-Authorization": route.proxy_secret} if route.proxy_secret else {}
        if route.tunnel:
            own = {}  # it was for the CONNECT
        connection.request("GET", target, headers={"User-Agent": USER_AGENT, **headers, **own})
        response = connection.getresponse()
        return Reply(response, parts.geturl(), response.status)

    def _connected(self, route: _Route) -> HTTPConnection:
        if self._connection is not None and self._connection.sock is not None:
            return self._connection
        wait_s = min(CONNECT_S, self._stall_s)
        if route.secure:
            context = tls_context()
            connection: HTTPConnection = HTTPSConnection(
                route.host, route.port, timeout=wait_s, context=context
            )
        else:
            connection = HTTPConnection(route.host, route.port, timeout=wait_s)
        if route.tunnel:
            secret = {"Proxy-Authorization": route.proxy_secret} if route.proxy_secret else {}
            connection.set_tunnel(*route.tunnel, headers=secret)
        self._connection = connection
        connection.connect()
        self._socket = connection.sock
        if self._cut.is_set():
            raise OSError("not wanted any more")
        connection.sock.settimeout(self._stall_s)
        return connection


def plain_url(url: str) -> str:
    """`url` as it goes over the wire: without user and password, odd characters quoted."""
    parts = urllib.parse.urlsplit(url)
    path, query = (
        urllib.parse.quote(each, safe=string.punctuation) for each in (parts.path, parts.query)
    )
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, path=path, query=query, fragment="").geturl()


def _route_to(parts: urllib.parse.SplitResult) -> _Route:
    """Through the proxy that urllib would take. Raises GivenUp, ValueError."""
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return _Route(secure, host, port)
    way = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if way.scheme not in ("http", "https"):
        raise GivenUp(f"a {way.scheme} proxy is set, and only http proxies can be used")
    secret = None
    if way.username:
        pair = urllib.parse.unquote(f"{way.username}:{way.password or ''}")
        secret = f"Basic {base64.b64encode(pair.encode()).decode()}"
    hop, hop_port = way.hostname or "", way.port or (443 if way.scheme == "https" else 80)
    if secure:
        return _Route(True, hop, hop_port, (host, port or 443), secret)
    return _Route(way.scheme == "https", hop, hop_port, None, secret, whole_url=True)


def _opened(url: str, headers: Mapping[str, str], stall_s: float) -> Reply:
    """Addresses of other kinds (file:), as urllib opens them."""
    try:
        response = open_url(url, headers, stall_s)
    except urllib.error.HTTPError as exc:
        response = exc
    return Reply(response, url, response.status or 200)
