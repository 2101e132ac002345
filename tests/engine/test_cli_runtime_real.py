"""`llama-wrangler runtime …` against a real engine, a real llama.cpp and a feed on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import shutil
import signal
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_engine_real import ROOT, SECOND, Product, product
from tests.product import command
from tests.runtime_kit import scripted_server
from tests.unit.engine_kit import wait_until
from tray_app.engine.runtime.probe import probe

__all__ = ["product"]  # a fixture
START_S = 30.0


class ReleaseFeed:
    """One release in the form of GitHub's API, with an archive of a real build.

    `stall` holds a download back after its first half, until `go_on` is set.
    """

    def __init__(self, folder: Path, build: int) -> None:
        self.go_on = threading.Event()
        self.stalled = threading.Event()
        self.stall = False
        self.build = build
        name = f"llama-b{build}-bin-ubuntu-x64.tar.gz"
        self._archive = folder / name
        feed = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                """No access log among the test's output."""

            def do_GET(self) -> None:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    feed._answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/repos/ggml-org/llama.cpp"

    def pack(self, runtime: Path) -> None:
        """Make the archive, as upstream lays it out: all in one folder."""
        with tarfile.open(self._archive, "w:gz", compresslevel=1) as tar:
            for path in sorted(runtime.iterdir()):
                if path.name != "manifest.json":
                    tar.add(path, f"llama-b{self.build}/{path.name}")

    def __enter__(self) -> ReleaseFeed:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def _row(self) -> dict[str, Any]:
        data = self._archive.read_bytes()
        return {
            "tag_name": f"b{self.build}",
            "published_at": "2026-11-20T10:00:00Z",
            "body": "## What is new\nIt is faster.",
            "html_url": f"{self.url}/releases/tag/b{self.build}",
            "draft": False,
            "prerelease": True,
            "assets": [
                {
                    "name": self._archive.name,
                    "state": "uploaded",
                    "size": len(data),
                    "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
                    "browser_download_url": f"{self.url}/files/{self._archive.name}",
                }
            ],
        }

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        if path.endswith(f"/releases/tags/b{self.build}"):
            self._send(handler, json.dumps(self._row()).encode())
        elif path.endswith("/releases"):
            self._send(handler, json.dumps([self._row()]).encode())
        elif path.endswith(self._archive.name):
            self._send(handler, self._archive.read_bytes(), slowly=self.stall)
        else:
            handler.send_error(404)

    def _send(self, handler: BaseHTTPRequestHandler, data: bytes, slowly: bool = False) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.send_header("Content-Type", "application/octet-stream")
        handler.end_headers()
        half = len(data) // 2
        handler.wfile.write(data[:half])
        if slowly:
            handler.wfile.flush()
            self.stalled.set()
            self.go_on.wait(60)
        handler.wfile.write(data[half:])


@pytest.fixture
def built(llama_server: Path) -> Path:
    """The folder of a real build that can be copied as a whole."""
    if not (llama_server.parent / "manifest.json").is_file():
        pytest.skip("the llama.cpp of this session is not one that we built")
    return llama_server.parent


@pytest.fixture
def here(product: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Product:
    """A product with a cache of its own, and a feed that is down unless a test says else."""
    monkeypatch.setenv("LLAMA_WRANGLER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLAMA_WRANGLER_FEED", "http://127.0.0.1:9/repos/ggml-org/llama.cpp")
    monkeypatch.delenv("LLAMA_WRANGLER_LLAMA_SERVER", raising=False)
    return product


@pytest.fixture
def feed(
    here: Product, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ReleaseFeed]:
    build = probe(built / "llama-server").build
    assert build is not None
    with ReleaseFeed(tmp_path, build) as feed:
        feed.pack(built)
        monkeypatch.setenv("LLAMA_WRANGLER_FEED", feed.url)
        yield feed


def active(product: Product) -> str:
    return str(product.json("runtime", "list")["active"])


def test_what_is_there_is_listed_and_passes_the_doctor(here: Product) -> None:
    row = here.json("runtime", "list")
    assert (row["state"], row["error"], row["previous"]) == ("ready", None, None)
    (mine,) = [each for each in row["runtimes"] if each["active"]]
    assert (mine["id"], mine["origin"], mine["proof"]["ok"]) == (row["active"], "settings", True)
    said = here.run("runtime", "list")
    assert said.returncode == 0
    assert any(line.startswith(f"active  {mine['id']} ") for line in said.stdout.splitlines())
    checks = here.json("runtime", "doctor")
    assert {check["name"] for check in checks} >= {"runtime", "proof", "cpu"}


def test_the_machine_is_told_while_the_feed_is_down(here: Product) -> None:
    row = here.json("runtime", "available", "--refresh")
    assert row["hardware"]["memory_bytes"] > 1 << 28
    assert row["ladder"][-1]["backend"] == "cpu"
    assert row["ladder"][-1]["usable"] is True
    assert row["error"]["code"] == "download_failed"
    assert (row["releases"], row["checked_at"]) == ([], None)
    assert "cpu" in {each["backend"] for each in row["buildable"]}
    said = here.run("runtime", "available")
    assert said.returncode == 0
    assert said.stdout.startswith("CPU  ")
    done = here.run("runtime", "check")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("llama-wrangler: ")


def test_a_build_of_the_user_is_used_taken_back_and_forgotten(
    here: Product, built: Path, tmp_path: Path
) -> None:
    before = active(here)
    mine = tmp_path / "my build"
    shutil.copytree(built, mine)
    (mine / "manifest.json").unlink()
    used = here.json("runtime", "use", f"{mine}/")
    assert used["job"]["state"] == "done"
    row = used["runtime"]
    (adopted,) = [each for each in row["runtimes"] if each["active"]]
    assert adopted["server_path"] == str(mine / "llama-server")
    assert adopted["origin"] == "adopted"
    assert (row["previous"], row["on_trial"]) == (before, True)

    here.json("use", SECOND)
    assert here.chat()[0] == 200
    wait_until(lambda: not here.json("runtime", "list")["on_trial"])
    assert here.run("runtime", "remove", adopted["id"], "--yes").returncode == 1  # in use

    back = here.run("runtime", "rollback")
    assert back.returncode == 0, back.stderr
    assert f"In use now: {before} (cpu)." in back.stdout
    assert here.chat()[0] == 200
    here.run("unload")
    wait_until(lambda: here.json("status")["loaded"] == [])
    gone = here.run("runtime", "remove", adopted["id"])
    assert gone.returncode == 2  # no terminal to ask on
    assert here.json("runtime", "remove", adopted["id"], "--yes")["freed_bytes"] == 0
    assert adopted["id"] not in {e["id"] for e in here.json("runtime", "list")["runtimes"]}
    assert (mine / "llama-server").is_file()


def test_a_llama_server_that_cannot_load_a_model_is_named_and_not_used(
    here: Product, tmp_path: Path
) -> None:
    before = active(here)
    broken = scripted_server(tmp_path / "broken", build=11434)  # ends at once when it should serve
    done = here.run("runtime", "use", str(broken))
    assert done.returncode == 1, done.stdout
    message, remedy, *rest = done.stderr.splitlines()
    assert message.startswith("llama-wrangler: Trying ")
    assert remedy.startswith("  ")
    assert rest[-1] == f"  Its log: {here.home / 'logs' / 'prove-runtime.log'}"
    assert active(here) == before
    failed = here.json("runtime", "use", str(broken), status=1)
    assert failed["job"]["error"]["code"].startswith("runtime_")
    assert failed["runtime"]["active"] == before
    assert here.run("runtime", "use", "b1-nothing").returncode == 1


def test_a_release_is_shown_installed_used_and_removed(here: Product, feed: ReleaseFeed) -> None:
    before = active(here)
    row = here.json("runtime", "available", "--refresh")
    (release,) = row["releases"]
    (choice,) = [each for each in release["choices"] if each["backend"] == "cpu"]
    assert (release["build"], choice["installed"], row["error"]) == (feed.build, False, None)
    assert here.json("runtime", "check") is None  # the same build is in use

    done = here.run("runtime", "install", f"b{feed.build}", "--backend", "cpu", "--no-use")
    assert done.returncode == 0, done.stderr
    assert f"Installed: {choice['runtime_id']}" in done.stdout
    assert active(here) == before
    (row,) = here.json("runtime", "available")["releases"]
    assert [c["installed"] for c in row["choices"] if c["backend"] == "cpu"] == [True]

    used = here.json("runtime", "use", choice["runtime_id"])["runtime"]
    assert (used["active"], used["previous"]) == (choice["runtime_id"], before)
    (mine,) = [each for each in used["runtimes"] if each["active"]]
    assert (mine["origin"], mine["proof"]["ok"], mine["build"]) == ("downloaded", True, feed.build)
    here.json("use", SECOND)
    assert here.chat()[0] == 200
    here.run("unload")
    wait_until(lambda: here.json("status")["loaded"] == [])

    assert here.run("runtime", "rollback").returncode == 0
    freed = here.json("runtime", "remove", choice["runtime_id"], "--yes")["freed_bytes"]
    assert freed > 1 << 20
    assert not (here.home / "runtimes" / choice["runtime_id"]).exists()
    assert active(here) == before


def test_ctrl_c_on_a_terminal_cancels_the_job_and_leaves_nothing(
    here: Product, feed: ReleaseFeed
) -> None:
    here.start()
    before = active(here)
    feed.stall = True
    screen, terminal = pty.openpty()
    words = command("runtime", "install", "--backend", "cpu")
    with subprocess.Popen(
        words, stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL, cwd=ROOT
    ) as process:
        os.close(terminal)
        try:
            assert feed.stalled.wait(START_S)
            shown = read_until(screen, b"%")
            process.send_signal(signal.SIGINT)
            shown += read_until(screen, b"cancelled.")
            assert process.wait(START_S) == 130
        finally:
            process.kill()
            os.close(screen)
    assert b"\r" in shown
    assert b"\x1b" not in shown
    assert "Cancelling… (Ctrl+C again" in shown.decode()
    assert active(here) == before
    left = {path.name for path in (here.home / "runtimes").glob("*")}
    assert not any("release" in name for name in left), left


def read_until(fd: int, mark: bytes) -> bytes:
    """What comes from a pty until `mark` is in it; the test's timeout bounds the wait."""
    got = b""
    while mark not in got:
        got += os.read(fd, 4096)
    return got


def test_an_installation_goes_on_without_its_terminal_and_the_engine_waits_for_it(
    here: Product, feed: ReleaseFeed
) -> None:
    here.start("once", "--alone-s", "0.5")
    engine = here.started[0]
    feed.stall = True
    words = command("runtime", "install", "--backend", "cpu")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, cwd=ROOT) as process:
        assert feed.stalled.wait(START_S)
        process.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        engine.wait(1.5)  # nobody looks at it, but a job runs
    feed.go_on.set()
    assert here.ended(engine, 60.0) == 0
    assert active(here) == f"b{feed.build}-cpu-release"
