"""The faces' side of the control API: calls, snapshots, events; and starting the engine.

Kept light, because an idle tray holds it: nothing but the standard library is imported.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .self_command import lasting_command, self_command, source_root

CALL_TIMEOUT_S = 30.0
START_TIMEOUT_S = 20.0
ALREADY_RUNNING = 4  # exit status of an engine process that found another of the same home
EVENT_TIMEOUT_S = 40.0  # the engine sends a comment each 15 s


class ClientError(Exception):
    """The engine's answer was an error, or there was none (code `engine_unreachable`)."""

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.remedy = code, message, remedy


@dataclass(frozen=True, slots=True)
class Address:
    """Where a running engine is, from `runtime.json`."""

    pid: int
    port: int
    token: str
    version: str


def home_path(home: Path | None = None) -> Path:
    """The home folder: the given one, `LLAMA_WRANGLER_HOME`, or `~/.llama-wrangler`."""
    if home is not None:
        return home
    given = os.environ.get("LLAMA_WRANGLER_HOME")
    return Path(given).expanduser().absolute() if given else Path.home() / ".llama-wrangler"


def read_address(home: Path) -> Address | None:
    """The running engine's address; None when there is no readable one."""
    try:
        row = json.loads((home / "runtime.json").read_text("utf-8"))
        return Address(
            int(row["pid"]), int(row["control_port"]), str(row["token"]), str(row["version"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _unreachable(home: Path) -> ClientError:
    return ClientError(
        "engine_unreachable",
        "Llama Wrangler's engine is not running.",
        f"Start it with `llama-wrangler` or `llama-wrangler serve` (home: {home}).",
    )


class Client:
    """One face's connection. Each call opens its own socket, so threads may share a client."""

    def __init__(self, address: Address, home: Path) -> None:
        self._address = address
        self._home = home

    @classmethod
    def connect(cls, home: Path | None = None) -> Client:
        """The running engine. Raises ClientError when there is none or it does not answer."""
        path = home_path(home)
        address = read_address(path)
        if address is None:
            raise _unreachable(path)
        client = cls(address, path)
        client._request("GET", "/api/ping", None, 5.0)
        return client

    @property
    def engine_pid(self) -> int:
        return self._address.pid

    @property
    def engine_version(self) -> str:
        return self._address.version

    @property
    def page_url(self) -> str:
        """The page's address; opened with a ticket it needs no token."""
        return f"http://127.0.0.1:{self._address.port}"

    def call(self, name: str, /, **args: Any) -> Any:
        """Run a command. Raises ClientError. Blocks until it answers, at most 30 s."""
        return self._request("POST", "/api/call", {"name": name, "args": args}, CALL_TIMEOUT_S)

    def snapshot(self) -> dict[str, Any]:
        """The engine's whole state as plain JSON types."""
        value = self._request("GET", "/api/snapshot", None, CALL_TIMEOUT_S)
        return dict(value)

    def events(self, after: int | None = None) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Yield `(seq, event name, data)`; `(seq, "Ping", {})` in silence; ends with the engine.

        Raises ClientError when the engine refuses, for example because too many listen.
        """
        path = "/api/events" if after is None else f"/api/events?after={after}"
        connection = self._connection(EVENT_TIMEOUT_S)
        try:
            connection.request("GET", path, headers=self._headers())
            response = connection.getresponse()
            if response.status == 200:
                yield from _parse_events(response)
            else:
                self._value(response)
        except (OSError, http.client.HTTPException, ValueError):
            return
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._address.port, timeout=timeout_s)

    def _headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._address.token}",
            "Content-Type": "application/json",
        }

    def _request(self, method: str, path: str, body: Any, timeout_s: float) -> Any:
        connection = self._connection(timeout_s)
        try:
            data = None if body is None else json.dumps(body).encode("utf-8")
            connection.request(method, path, data, self._headers())
            return self._value(connection.getresponse())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _unreachable(self._home) from error
        finally:
            connection.close()

    def _value(self, response: http.client.HTTPResponse) -> Any:
        """What the envelope holds. Raises ClientError; ValueError when it is not ours."""
        envelope = json.loads(response.read())
        if not isinstance(envelope, dict):
            raise ValueError("another program answers on this port")
        if not envelope.get("ok"):
            said = envelope.get("error") or {}
            raise ClientError(
                str(said.get("code", "engine")),
                str(said.get("message", f"the engine answered {response.status}")),
                str(said.get("remedy", "")),
            )
        return envelope.get("value")


def _parse_events(response: http.client.HTTPResponse) -> Iterator[tuple[int, str, dict[str, Any]]]:
    seq, name, data = 0, "", ""
    while True:
        raw = response.readline(4_000_000)
        if not raw:
            return
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line.startswith(":"):
            yield seq, "Ping", {}
        elif line.startswith("id:"):
            seq = int(line[3:])
        elif line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data = line[5:].strip()
        elif not line and name:
            yield seq, name, json.loads(data or "{}")
            name = data = ""


def start_engine(home: Path, mode: str) -> subprocess.Popen[bytes]:
    """Start an engine process of its own session; it outlives us. Raises OSError."""
    environment = {**os.environ, "LLAMA_WRANGLER_HOME": str(home)}
    flags: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        flags = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.DETACHED_PROCESS}
    # An AppImage's mount goes with the face that started it: the engine needs one of its own.
    again = lasting_command() if os.environ.get("APPIMAGE") else self_command()
    return subprocess.Popen(
        [*again, "engine", "--mode", mode],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=source_root(),
        **flags,
    )


def ensure_engine(home: Path | None = None, mode: str = "tray") -> Client:
    """The running engine, started when there is none. Blocks up to 20 s. Raises ClientError.

    `mode`: "tray" ends a minute after its last face, "once" likewise and loads no model at the
    start, "serve" stays until it is told to stop. A running "once" engine takes over the mode.
    """
    path = home_path(home)
    deadline = time.monotonic() + START_TIMEOUT_S
    process: subprocess.Popen[bytes] | None = None
    while True:
        try:
            client = Client.connect(path)
        except ClientError as error:
            ended = None if process is None else process.poll()
            if ended == ALREADY_RUNNING:  # another face's engine starts or ends: look again
                process, ended = None, None
                time.sleep(0.2)
            if ended is not None or time.monotonic() > deadline:
                raise _not_started(path, ended) from error
            if process is None:
                process = start_engine(path, mode)
            time.sleep(0.02)
        else:
            if process is None and mode != "once":
                with contextlib.suppress(ClientError):  # an older version's engine
                    client.call("keep_running", mode=mode)
            return client


def _not_started(home: Path, status: int | None) -> ClientError:
    return ClientError(
        "engine_failed",
        "Llama Wrangler's engine did not start"
        + ("." if status is None else f" (exit status {status})."),
        f"Its log is {home / 'logs' / 'engine.log'}; try `llama-wrangler serve`.",
    )
