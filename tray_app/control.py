"""The control API: commands, snapshot, events and the page, for this user's own faces only.

Loopback, a random port, a token of this run; every request must carry the token (or the
session cookie a one-time ticket gave), a loopback Host, and no foreign Origin.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import mimetypes
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bottle
import waitress.server
import waitress.wasyncore

from .engine import Engine, EngineError, EngineStopping, to_json
from .faces import Faces

log = logging.getLogger(__name__)

WEB = Path(__file__).resolve().parent / "web"
THREADS = 12
STREAMS = 8  # event streams hold a thread each; four stay free for commands
MAX_BODY = 1 << 20
HEARTBEAT_S = 15.0
GONE_S = 1.0  # a stream whose listener has gone frees its thread this soon
STOP_S = 2.0
TICKETS_KEPT = 16  # unused ones; the oldest lapse
COOKIE = "llama_wrangler_session"

# pywebview's bridge needs `unsafe-eval` (its api.js uses `new Function`); a browser does not.
_POLICY = (
    "default-src 'none'; script-src 'self'{eval}; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self' http://127.0.0.1:* http://localhost:*; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Control:
    """Serves the control API on its own threads from `start` to `stop`."""

    def __init__(
        self, engine: Engine, faces: Faces, token: str, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self._engine = engine
        self._faces = faces
        self.token = token
        self._heartbeat_s = heartbeat_s
        self._session = secrets.token_urlsafe(32)
        self._tickets: deque[str] = deque(maxlen=TICKETS_KEPT)
        self._lock = threading.Lock()
        self._server: Any = None
        self.port = 0

    def start(self) -> int:
        """Listen on a free loopback port; returns it. Raises OSError."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", 0))
        self._server = waitress.server.create_server(
            self._app(),
            sockets=[sock],
            threads=THREADS,
            max_request_body_size=MAX_BODY,
            clear_untrusted_proxy_headers=True,
            ident=None,
        )
        self.port = sock.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, name="control", daemon=True)
        self._thread.start()
        return self.port

    def stop(self) -> None:
        """Stop listening and end the threads. Blocks for the commands that still run, 2 s at most.

        Event streams end by `EngineStopping`, which is published before.
        """
        if self._server is None:
            return
        server, self._server = self._server, None
        server.task_dispatcher.shutdown(timeout=STOP_S)
        # On its own thread: sockets that another thread closes under `select` are trouble.
        # A worker that ends may wake that thread before this does; it has closed all then, the
        # trigger included.
        with contextlib.suppress(OSError):
            server.trigger.pull_trigger(lambda: waitress.wasyncore.close_all(server._map))
        self._thread.join(STOP_S)

    def mint_ticket(self) -> str:
        """A ticket that opens the page once, for a window or browser of this user."""
        ticket = secrets.token_urlsafe(24)
        with self._lock:
            self._tickets.append(ticket)
        return ticket

    def _app(self) -> bottle.Bottle:
        app = bottle.Bottle()
        app.add_hook("before_request", self._guard)
        app.add_hook("after_request", _common_headers)
        app.route("/api/ping", "GET", lambda: _reply(_ok(True)))
        app.route("/api/call", "POST", self._call)
        app.route("/api/snapshot", "GET", lambda: self._answer("snapshot", {}))
        app.route("/api/events", "GET", self._events)
        app.route("/enter", "GET", self._enter)
        app.route("/", "GET", lambda: _file("index.html"))
        app.route("/web/<name:path>", "GET", _file)
        for code in (400, 403, 404, 405, 413, 500):
            app.error_handler[code] = _error_page
        return app

    def _guard(self) -> None:
        """Runs before every route: who asks, and from where."""
        request = bottle.request
        host = _header("Host")
        if host not in (f"127.0.0.1:{self.port}", f"localhost:{self.port}"):
            raise _refusal(403, "bad_host", "This address is not served here.")
        origin = _header("Origin", None)
        if origin is not None and origin != f"http://{host}":
            raise _refusal(403, "bad_origin", "Another page may not use the control API.")
        if request.path == "/enter" or self._known(request):
            return
        raise _refusal(401, "unauthorized", "The control API needs this run's token.")

    def _known(self, request: Any) -> bool:
        given = str(_header("Authorization"))
        cookie = str(request.get_cookie(COOKIE) or "")
        return hmac.compare_digest(
            given.encode(), f"Bearer {self.token}".encode()
        ) or hmac.compare_digest(cookie.encode(), self._session.encode())

    def _enter(self) -> Any:
        ticket = bottle.request.query.get("ticket", "")
        with self._lock:
            fresh = ticket in self._tickets
            if fresh:
                self._tickets.remove(ticket)
        if not fresh:
            raise _refusal(403, "bad_ticket", "This link was used already; open the window again.")
        face = bottle.request.query.get("face", "browser")
        reply = bottle.HTTPResponse(status=303, headers={"Location": "/"})
        reply.set_cookie(COOKIE, self._session, httponly=True, samesite="strict", path="/")
        reply.set_cookie(
            "face", face if face == "window" else "browser", samesite="strict", path="/"
        )
        return reply

    def _call(self) -> Any:
        try:
            # Not `request.body`: bottle copies what waitress holds already, and leaves it open.
            row = json.loads(bottle.request.environ["wsgi.input"].read(MAX_BODY))
            name, args = row["name"], row.get("args") or {}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise _refusal(400, "bad_request", "A call is {name, args} in JSON.") from None
        if name == "mint_ticket":
            return _reply(_ok({"ticket": self.mint_ticket()}))
        return self._answer(name, args)

    def _answer(self, name: Any, args: Any) -> Any:
        try:
            self._faces.touch()
            return _reply(_ok(self._engine.call(name, args)))
        except EngineError as error:
            return _reply({"ok": False, "error": to_json(error.view())})
        except Exception:  # barrier: a face gets a word, the log gets the traceback
            log.exception("command failed", extra={"command": str(name)})
            return _reply(_failure("internal", f"“{name}” failed inside.", "The log has details."))

    def _events(self) -> Any:
        given = bottle.request.query.get("after", "")
        # "From now" is this moment, not when the first event is waited for.
        known = given.isdecimal() and len(given) < 19
        after = int(given) if known else self._engine.events.seq
        if not self._faces.enter(STREAMS):
            raise _refusal(503, "too_many_faces", "Too many windows are open.")
        bottle.response.content_type = "text/event-stream"
        bottle.response.set_header("Cache-Control", "no-store")
        channel = bottle.request.environ["waitress.client_disconnected"].__self__
        return self._stream(after, lambda: _gone(channel.socket))

    def _stream(self, after: int, gone: Callable[[], bool]) -> Iterator[bytes]:
        look_s = min(GONE_S, self._heartbeat_s)
        silent_s = 0.0
        try:
            yield b": hello\n\n"
            for seq, event in self._engine.events.listen(after, look_s):
                if gone():
                    return
                if event is None:
                    silent_s += look_s
                    if silent_s >= self._heartbeat_s:
                        silent_s = 0.0
                        yield b": ping\n\n"
                    continue
                silent_s = 0.0
                data = json.dumps(to_json(event), separators=(",", ":"))
                yield f"id: {seq}\nevent: {type(event).__name__}\ndata: {data}\n\n".encode()
                if isinstance(event, EngineStopping):
                    return
        finally:
            self._faces.leave()


def _header(name: str, default: str | None = "") -> str | None:
    """A request header as Latin-1; bottle's own reading fails on bytes that are no UTF-8."""
    value: str | None = bottle.request.environ.get(f"HTTP_{name.upper()}", default)
    return value


def _gone(sock: socket.socket) -> bool:
    """Whether the other end has hung up; waitress itself sees that only when it writes.

    Its `channel_request_lookahead` would see it too, but resets a connection that is refused
    for a large body before the refusal is read.
    """
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _ok(value: Any) -> dict[str, Any]:
    return {"ok": True, "value": to_json(value)}


def _failure(code: str, message: str, remedy: str = "") -> dict[str, Any]:
    return {"ok": False, "error": {"code": code, "message": message, "remedy": remedy}}


def _reply(envelope: dict[str, Any], status: int = 200) -> Any:
    body = json.dumps(envelope, separators=(",", ":")).encode("utf-8")
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return bottle.HTTPResponse(body, status, headers)


def _refusal(status: int, code: str, message: str) -> Any:
    reply = _reply(_failure(code, message), status)
    _harden(reply)
    return reply


def _error_page(error: Any) -> str:
    """bottle's own pages hold HTML with the request in it; ours hold JSON."""
    bottle.response.content_type = "application/json"
    code = {404: "not_found", 500: "internal"}.get(error.status_code, "bad_request")
    return json.dumps(_failure(code, f"The control API answered {error.status}."))


def _file(name: str) -> Any:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    # The Windows registry may call .js something else, and modules then do not load.
    kind = {".js": "text/javascript", ".mjs": "text/javascript"}.get(Path(name).suffix, kind)
    return bottle.static_file(
        name, root=str(WEB), mimetype=kind, headers={"Cache-Control": "no-cache"}
    )


def _common_headers() -> None:
    _harden(bottle.response)


def _harden(response: Any) -> None:
    window = bottle.request.get_cookie("face") == "window"
    policy = _POLICY.format(eval=" 'unsafe-eval'" if window else "")
    response.set_header("Content-Security-Policy", policy)
    response.set_header("X-Content-Type-Options", "nosniff")
    response.set_header("Referrer-Policy", "no-referrer")
    response.set_header("Cross-Origin-Opener-Policy", "same-origin")
