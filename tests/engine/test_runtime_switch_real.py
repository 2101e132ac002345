"""Another real llama.cpp under real models: nothing is cut, and what fails goes back by itself."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import threading
import tomllib
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w

from tests.engine.test_engine_real import FIRST, Product, product, status_of
from tests.unit.engine_kit import wait_until
from tray_app.client import Client, ClientError

__all__ = ["product"]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stand-ins are shell scripts")


@pytest.fixture
def client(product: Product) -> Client:
    """An engine that found its runtime by itself, with the first model loaded."""
    path = product.home / "settings.toml"
    table = tomllib.loads(path.read_text())
    del table["runtime"]["server_path"]
    table["runtime"]["updates"] = "off"
    path.write_text(tomli_w.dumps(table))
    client = product.start()
    wait_until(lambda: client.snapshot()["runtime"]["state"] not in ("searching", "missing"))
    client.call("switch_model", model_id=FIRST)
    wait_until(lambda: status_of(client, FIRST)["state"] == "ready")
    return client


def copy_of(llama_server: Path, folder: Path) -> Path:
    """A second build: the same programs in another place."""
    shutil.copytree(llama_server.parent, folder, symlinks=True)
    return folder / llama_server.name


def wrapper(llama_server: Path, folder: Path, script: str) -> Path:
    """A build whose llama-server is `script` with $REAL for the real one."""
    folder.mkdir()
    for tool in llama_server.parent.iterdir():
        if tool.name != llama_server.name:
            (folder / tool.name).symlink_to(tool)
    server = folder / llama_server.name
    server.write_text(f'#!/bin/sh\nREAL="{llama_server}"\n{script}\n')
    server.chmod(0o755)
    return server


def finish(client: Client, started: dict[str, Any]) -> dict[str, Any]:
    """The job, once it has ended."""

    def job() -> dict[str, Any]:
        jobs: list[dict[str, Any]] = client.snapshot()["jobs"]
        return next(j for j in jobs if j["id"] == started["job_id"])

    wait_until(lambda: job()["state"] not in ("queued", "running"), 60)
    return job()


def runtime_of(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.snapshot()["runtime"]
    return found


class Stream(threading.Thread):
    """A streamed answer, read to its end."""

    def __init__(self, port: int, tokens: int) -> None:
        super().__init__()
        self.port, self.tokens = port, tokens
        self.chunks: list[str] = []
        self.running = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        body = {
            "model": "default",
            "stream": True,
            "max_tokens": self.tokens,
            "ignore_eos": True,
            "messages": [{"role": "user", "content": "Count."}],
        }
        with contextlib.closing(connection):
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            for line in connection.getresponse():
                if line.startswith(b"data: "):
                    self.chunks.append(line[6:].decode().strip())
                    self.running.set()

    @property
    def complete(self) -> bool:
        reasons = [
            json.loads(c)["choices"][0]["finish_reason"] for c in self.chunks[:-1] if c != ""
        ]
        return self.chunks[-1] == "[DONE]" and "length" in reasons


def program_of(client: Client) -> Path:
    return Path(psutil.Process(status_of(client, FIRST)["pid"]).exe())


def test_a_switch_cuts_no_answer_and_the_next_one_comes_from_the_new_runtime(
    product: Product, client: Client, llama_server: Path, tmp_path: Path
) -> None:
    first = runtime_of(client)["active"]
    assert first["proof"]["ok"]
    assert first["origin"] == "built"
    other = copy_of(llama_server, tmp_path / "other")
    stream = Stream(product.port, 300)
    stream.start()
    assert stream.running.wait(30)
    job = finish(client, client.call("use_runtime", name=str(other)))
    assert job["state"] == "done", job
    runtime = runtime_of(client)
    assert (runtime["active"]["server_path"], runtime["active"]["origin"]) == (
        str(other),
        "adopted",
    )
    assert (runtime["previous_id"], runtime["on_trial"]) == (first["id"], True)
    busy = status_of(client, FIRST)
    assert stream.is_alive(), "the switch was quicker than the answer"
    assert busy["runtime_id"] == first["id"]
    stream.join(120)
    assert stream.complete, stream.chunks[-3:]
    assert product.chat()[0] == 200
    assert program_of(client) == other
    assert not runtime_of(client)["on_trial"], "it has answered"
    assert {r["id"] for r in runtime_of(client)["installed"]} >= {
        first["id"],
        runtime["active"]["id"],
    }

    stream = Stream(product.port, 200)
    stream.start()
    assert stream.running.wait(30)
    assert finish(client, client.call("roll_back_runtime"))["state"] == "done"
    stream.join(120)
    assert stream.complete
    wait_until(lambda: status_of(client, FIRST)["runtime_id"] == first["id"])
    assert runtime_of(client)["previous_id"] == runtime["active"]["id"]

    assert client.call("remove_runtime", runtime_id=runtime["active"]["id"]) == {"freed_bytes": 0}
    assert other.is_file(), "what is the user's own is only forgotten"
    with pytest.raises(ClientError, match="in use"):
        client.call("remove_runtime", runtime_id=first["id"])


def test_a_runtime_that_fails_on_the_users_model_is_rolled_back_and_nobody_notices(
    product: Product, client: Client, llama_server: Path, tmp_path: Path
) -> None:
    first = runtime_of(client)["active"]["id"]
    script = 'case "$*" in *SmolLM2*) echo "GGML_ASSERT(legs == 4) failed"; exit 134;; esac\n'
    bad = wrapper(llama_server, tmp_path / "bad", script + 'exec "$REAL" "$@"')
    assert finish(client, client.call("use_runtime", name=str(bad)))["state"] == "done"
    assert product.chat()[0] == 200, "who asks meanwhile waits, and is answered"
    wait_until(lambda: runtime_of(client)["rolled_back"] is not None)
    runtime = runtime_of(client)
    assert runtime["active"]["id"] == first
    assert runtime["rolled_back"]["model_id"] == FIRST
    assert "GGML_ASSERT(legs == 4)" in runtime["rolled_back"]["error"]["message"]
    assert "runtime_rolled_back" in [n["code"] for n in client.snapshot()["notices"]]
    assert client.snapshot()["active_model_id"] == FIRST


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ('case "$*" in *--model*) kill -SEGV $$;; esac\nexec "$REAL" "$@"', "SIGSEGV"),
        ("echo 'libgomp.so.1: cannot open shared object file' >&2; exit 127", "libgomp.so.1"),
        ("exit 0", "not a llama-server"),
    ],
)
def test_what_does_not_prove_itself_is_named_and_never_used(
    product: Product, client: Client, llama_server: Path, tmp_path: Path, script: str, why: str
) -> None:
    before = runtime_of(client)["active"]["id"]
    bad = wrapper(llama_server, tmp_path / "bad", script)
    job = finish(client, client.call("use_runtime", name=str(bad.parent)))
    assert job["state"] == "failed"
    assert why in job["error"]["message"]
    assert runtime_of(client)["active"]["id"] == before
    assert status_of(client, FIRST)["state"] == "ready"


def test_a_model_can_be_pinned_to_a_runtime_of_its_own(
    product: Product, client: Client, llama_server: Path, tmp_path: Path
) -> None:
    other = copy_of(llama_server, tmp_path / "other")
    first = runtime_of(client)["active"]["id"]
    finish(client, client.call("use_runtime", name=str(other)))
    second = runtime_of(client)["active"]["id"]
    finish(client, client.call("use_runtime", name=first))
    client.call("change_model_settings", model_id=FIRST, changes={"runtime": second})
    wait_until(lambda: status_of(client, FIRST).get("runtime_id") == second)
    assert product.chat()[0] == 200
    assert program_of(client) == other
    with pytest.raises(ClientError, match="pinned"):
        client.call("remove_runtime", runtime_id=second)
    client.call("change_model_settings", model_id=FIRST, changes={"runtime": None})
    wait_until(lambda: status_of(client, FIRST).get("runtime_id") == first)


def test_a_choice_survives_a_killed_engine(
    product: Product, client: Client, llama_server: Path, tmp_path: Path
) -> None:
    other = copy_of(llama_server, tmp_path / "other")
    finish(client, client.call("use_runtime", name=str(other)))
    chosen = runtime_of(client)["active"]["id"]
    process = product.started[0]
    process.kill()
    process.wait()
    again = product.start()
    wait_until(lambda: runtime_of(again)["active"] is not None)
    assert runtime_of(again)["active"]["id"] == chosen
    wait_until(lambda: runtime_of(again)["previous_id"] is not None)


def test_without_a_feed_a_runtime_is_built_from_source_and_the_reason_told(
    product: Product, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.call("change_settings", changes={"runtime.feed_url": "http://127.0.0.1:9/none"})
    found = client.call("available_runtimes", refresh=True)
    assert found["releases"] == []
    assert found["error"]["message"]
    assert any(each["backend"] == "cpu" and each["usable"] for each in found["buildable"])
    job = finish(client, client.call("install_runtime"))
    assert job["state"] == "done", job
    assert any(found["error"]["message"] in line for line in runtime_of(client)["stepped_down"])


def test_an_engine_killed_in_mid_build_leaves_no_compiler_and_the_next_one_clears_up(
    home: Path, product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path(os.environ.get("LLAMA_WRANGLER_CACHE", Path.home() / ".cache" / "llama-wrangler"))
    cache = home / "cache"
    cache.mkdir()
    (cache / "sources").symlink_to(real / "sources")  # but no finished runtime: it is compiled
    monkeypatch.setenv("LLAMA_WRANGLER_CACHE", str(cache))
    client = product.start()
    wait_until(lambda: client.snapshot()["runtime"]["state"] == "ready")
    client.call("build_runtime", portable=True, activate=False)

    def compilers() -> list[int]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if any(str(home) in word for word in process.info["cmdline"] or ()):
                found += [process.pid] if "ninja" in str(process.info["cmdline"]) else []
        return found

    wait_until(lambda: compilers(), 60)
    assert list((home / "runtimes").glob(".staging-*"))
    product.started[0].kill()
    product.started[0].wait()
    wait_until(lambda: not compilers())
    again = product.start()
    wait_until(lambda: not list((home / "runtimes").glob(".staging-*")))
    assert [job["state"] for job in again.snapshot()["jobs"]] == ["interrupted"]
