"""Transfers over TLS with the user's own CA, directly and through a proxy's tunnel."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.file_server import FileServer, file_server, redirect, stall_after
from tray_app.engine.downloads.retry import RetryPolicy, Unreachable
from tray_app.engine.downloads.transfer import discard, fetch
from tray_app.engine.downloads.values import Remote
from tray_app.engine.errors import Cancelled, DownloadFailed
from tray_app.engine.fetch import CA_VARIABLES

MIB = 1 << 20
BODY = random.Random(6).randbytes(40 * MIB)
SHA = hashlib.sha256(BODY).hexdigest()
QUICK = RetryPolicy(attempts=2, first_pause_s=0.01, stall_s=10)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that is its own CA, with its key."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    names = ("-subj", "/CN=loopback", "-addext", "subjectAltName=IP:127.0.0.1")
    made = ("-keyout", "-", "-out", "-", "-days", "2")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *made, *names)
    path.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    return path


@pytest.fixture
def server(certificate: Path) -> Iterator[FileServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with file_server(context) as serving:
        serving.put("/f.bin", BODY)
        yield serving


@pytest.fixture(autouse=True)
def _trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))


def remote(server: FileServer) -> Remote:
    return Remote(server.url("/f.bin"), "f.bin", len(BODY), SHA)


def test_the_users_own_ca_is_believed_and_no_other(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert (tmp_path / "f.bin").read_bytes() == BODY
    (tmp_path / "f.bin").unlink()
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(Unreachable, match="certificate verify failed"):
        fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
    assert os.listdir(tmp_path) == []


def test_a_cancel_reaches_a_connection_that_stalls_within_tls(
    server: FileServer, tmp_path: Path
) -> None:
    server.always = stall_after(2 * MIB)
    cancel, set_at = threading.Event(), [0.0]

    def stop(done: int, total: int | None) -> None:
        set_at[0] = set_at[0] or time.monotonic()
        cancel.set()

    with pytest.raises(Cancelled):
        fetch(remote(server), tmp_path / "f.bin", progress=stop, cancel=cancel, policy=QUICK)
    assert time.monotonic() - set_at[0] < 0.2
    discard(tmp_path / "f.bin")
    assert os.listdir(tmp_path) == []


def test_https_does_not_lead_to_http(server: FileServer, tmp_path: Path) -> None:
    with file_server() as plain:
        plain.put("/f.bin", BODY)
        server.always = redirect(plain.url("/f.bin"))
        with pytest.raises(DownloadFailed, match="not https"):
            fetch(remote(server), tmp_path / "f.bin", policy=QUICK)
        assert plain.seen == []


class Tunnel(socketserver.BaseRequestHandler):
    """CONNECT to whatever is asked for, always to one server."""

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.request.recv(4096)
        self.server.heads.append(head.decode())  # type: ignore[attr-defined]
        where = self.server.where  # type: ignore[attr-defined]
        with socket.create_connection(where) as onward, contextlib.suppress(OSError):
            self.request.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=self.copy, args=(onward, self.request), daemon=True)
            back.start()
            self.copy(self.request, onward)
            back.join()

    @staticmethod
    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


class Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, where: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.where = where
        self.heads: list[str] = []


def test_a_proxy_is_a_tunnel_and_gets_its_own_password_only(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(("127.0.0.1", server.server_address[1])) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("no_proxy", "")
        address = f"http://me:pw@127.0.0.1:{proxy.server_address[1]}"
        monkeypatch.setenv("https_proxy", address)
        private = Remote(
            server.url("/f.bin"), "f.bin", len(BODY), SHA, {"Authorization": "Bearer abc"}
        )
        fetch(private, tmp_path / "f.bin", policy=QUICK)
        server.end()
        proxy.shutdown()
        thread.join()
    assert (tmp_path / "f.bin").read_bytes() == BODY
    assert proxy.heads
    assert all("Proxy-Authorization: Basic bWU6cHc=" in head for head in proxy.heads)
    assert not any("Bearer" in head for head in proxy.heads)
    assert {request.headers["authorization"] for request in server.seen} == {"Bearer abc"}
    assert not any("proxy-authorization" in request.headers for request in server.seen)
