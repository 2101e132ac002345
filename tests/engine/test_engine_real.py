"""The whole product without its window: a real engine process, its command line, its gateway."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w

from tests import parts
from tests.product import command
from tests.unit.engine_kit import wait_until
from tray_app.client import ALREADY_RUNNING, Client, ClientError
from tray_app.engine.process_tree import is_running

ROOT = Path(__file__).resolve().parents[2]
FIRST = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF:Q4_1"
SECOND = "second-herd/SmolLM2-135M-Small-GGUF:Q2_K"
START_S = 30.0


class Product:
    """One home and the engine processes started on it."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.port = home, port
        self.started: list[subprocess.Popen[str]] = []

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A verb of the command line, to its end."""
        return subprocess.run(
            command(*words),
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=90,
            check=False,
        )

    def json(self, *words: str, status: int = 0) -> Any:
        done = self.run(*words, "--json")
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout)

    def start(self, mode: str = "serve", *more: str) -> Client:
        """An engine process of our own, answering."""
        process = subprocess.Popen(
            command("engine", "--mode", mode, *more),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.started.append(process)
        wait_until(lambda: self._mine(process) or process.poll() is not None, START_S)
        return Client.connect(self.home)

    def _mine(self, process: subprocess.Popen[str]) -> bool:
        with contextlib.suppress(ClientError):
            return Client.connect(self.home).engine_pid == process.pid
        return False

    def ended(self, process: subprocess.Popen[str], timeout_s: float = 30.0) -> int:
        status = process.wait(timeout_s)
        assert process.stderr is not None
        assert process.stderr.read() == ""
        process.stderr.close()
        return status

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        """One request to the gateway."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = None if body is None else json.dumps(body)
            connection.request("GET" if body is None else "POST", path, data)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def chat(self, model: str = "default", tokens: int = 4) -> tuple[int, Any]:
        asked = [{"role": "user", "content": "Say hello."}]
        return self.ask(
            "/v1/chat/completions", {"model": model, "messages": asked, "max_tokens": tokens}
        )


def status_of(client: Client, model_id: str) -> dict[str, Any]:
    rows = client.snapshot()["statuses"]
    return next((row for row in rows if row["model_id"] == model_id), {"state": "unloaded"})


@contextlib.contextmanager
def running_product(home: Path, port: int) -> Iterator[Product]:
    """A product for the length of a block; its engine is ended by its own command."""
    made = Product(home, port)
    yield made
    with contextlib.suppress(ClientError):
        client = Client.connect(home)
        client.call("shutdown")
        for process in made.started:
            process.wait(20)
        wait_until(lambda: not is_running(client.engine_pid))
    for process in made.started:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
    _end_latecomers(home)


def _end_latecomers(home: Path) -> None:
    """An engine that a verb started and that was slower than another's comes up now."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get("LLAMA_WRANGLER_HOME") == str(home)
            if ours and "engine" in process.cmdline():
                process.terminate()
                process.wait(20)


@pytest.fixture
def product(two_models_home: Path, free_port: int) -> Iterator[Product]:
    path = two_models_home / "settings.toml"
    table = tomllib.loads(path.read_text())
    table["server"] = {"port": free_port, "context_length": 512}
    path.write_text(tomli_w.dumps(table))
    with running_product(two_models_home, free_port) as made:
        yield made


def test_the_command_line_runs_everything(product: Product) -> None:
    assert product.run("status").returncode == 3
    assert product.json("status", status=3) == {"state": "stopped", "running": False}
    assert product.run("stop").returncode == 3

    rows = product.json("list")
    assert {row["id"] for row in rows} == {FIRST, SECOND}
    assert all(row["state"] == "unloaded" and row["details_known"] for row in rows)
    assert [row["active"] for row in rows] == [False, False]

    used = product.json("use", "SmolLM2-135M-Small")
    assert (used["model"], used["model_state"], used["running"]) == (SECOND, "ready", True)
    assert used["loaded"] == [SECOND]
    assert is_running(used["pid"])
    assert used["context_length"] == 512
    assert used["port"] == product.port
    status, answer = product.chat()
    assert status == 200
    assert answer["usage"]["completion_tokens"] > 0
    status, rows = product.ask("/v1/models")
    assert [row["id"] for row in rows["data"]] == ["default", FIRST, SECOND]

    row = product.json("status")
    assert (row["state"], row["requests_total"], row["gateway"]) == ("ready", 1, "listening")
    assert row["notices"] == []
    assert "SmolLM2-135M-Small is ready" in product.run("status").stdout
    assert product.json("unload")["loaded"] == []
    assert product.run("use", "no-such-model").returncode == 1
    logs = {log["name"] for log in product.json("logs", "--list")}
    assert "engine.log" in logs
    assert any(name.startswith("model-second-herd") for name in logs)
    assert "engine started" in product.run("logs").stdout

    stopped = product.run("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "Stopped.\n")
    assert not is_running(used["engine_pid"])
    assert not (product.home / "runtime.json").exists()
    assert product.run("status").returncode == 3


def test_a_bad_model_puts_the_previous_one_back(product: Product, smollm2_q2: Path) -> None:
    bad = parts.place(smollm2_q2, product.home / "models" / "bad" / "Broken-GGUF" / "x.gguf")
    bad.unlink()
    data = smollm2_q2.read_bytes()
    bad.write_bytes(data)
    client = product.start()
    product.json("use", FIRST)
    broken = next(row["id"] for row in product.json("list") if row["id"].startswith("bad/"))
    with bad.open("r+b") as file:  # listed as whole; cut when it is to be loaded
        file.truncate(len(data) // 4)
    done = product.run("use", broken)
    assert done.returncode == 1
    assert f"{broken} could not be loaded: " in done.stderr
    assert "damaged" in done.stderr
    wait_until(lambda: client.snapshot()["active_model_id"] == FIRST)
    snapshot = client.snapshot()
    assert "switch_failed" in [notice["code"] for notice in snapshot["notices"]]
    assert product.chat()[0] == 200
    assert product.json("use", FIRST)["notices"] == []


def test_two_bad_models_in_a_row_end_at_the_last_one_that_worked(
    product: Product, smollm2_q2: Path
) -> None:
    half = smollm2_q2.stat().st_size // 4
    names = ("worse", "worst")
    for name in names:
        path = product.home / "models" / name / f"{name}-GGUF" / f"{name}.gguf"
        path.parent.mkdir(parents=True)
        path.write_bytes(smollm2_q2.read_bytes())
    client = product.start()
    product.json("use", FIRST)
    bad = [row["id"] for row in product.json("list") if row["id"].startswith(names)]
    for name in names:
        with (product.home / "models" / name / f"{name}-GGUF" / f"{name}.gguf").open("r+b") as file:
            file.truncate(half)
    for model_id in bad:
        client.call("switch_model", model_id=model_id)
    wait_until(lambda: client.snapshot()["active_model_id"] == FIRST)
    assert product.chat()[0] == 200


def test_a_port_that_another_holds_is_named_and_taken_when_it_is_free(product: Product) -> None:
    with socket.create_server(("127.0.0.1", product.port)):
        client = product.start()

        def blocked() -> bool:
            return bool(client.snapshot()["gateway"]["state"] == "blocked")

        wait_until(blocked)
        gateway = client.snapshot()["gateway"]
        assert gateway["error"]["code"] == "port_taken"
        assert f"Port {product.port} is in use by" in gateway["error"]["message"]
        assert f"(pid {os.getpid()})" in gateway["error"]["message"]
        assert client.snapshot()["server_state"] == "error"
    wait_until(lambda: not blocked())
    assert product.ask("/health")[1]["status"] == "ok"


def test_another_port_in_the_settings_moves_the_gateway(product: Product) -> None:
    client = product.start()
    wait_until(lambda: client.snapshot()["gateway"]["state"] == "listening")
    old = product.port
    with socket.create_server(("127.0.0.1", 0)) as spare:
        product.port = spare.getsockname()[1]
    client.call("change_settings", changes={"server.port": product.port})
    wait_until(lambda: client.snapshot()["gateway"]["port"] == product.port)
    wait_until(lambda: client.snapshot()["gateway"]["state"] == "listening")
    assert product.ask("/health")[0] == 200
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", old), timeout=5)


def test_a_killed_engine_leaves_nothing_and_the_next_one_goes_on(product: Product) -> None:
    client = product.start()
    used = product.json("use", SECOND)
    os.kill(client.engine_pid, signal.SIGKILL)
    product.started.pop().communicate(timeout=10)
    wait_until(lambda: not is_running(used["pid"]))
    assert product.run("status").returncode == 3

    client = product.start()  # brings the last model back by itself
    wait_until(lambda: status_of(client, SECOND)["state"] == "ready", START_S)
    snapshot = client.snapshot()
    assert snapshot["active_model_id"] == SECOND
    assert snapshot["notices"] == []
    assert product.chat()[0] == 200
    assert len(list((product.home / "run").glob("*.sock"))) == 1


def test_an_orphan_of_a_killed_engine_is_ended_at_the_next_start(product: Product) -> None:
    client = product.start()
    client.call("switch_model", model_id=FIRST)
    wait_until(lambda: status_of(client, FIRST)["state"] == "ready", START_S)
    # As on a system that ties no child to its parent: the record stays, the child lives on.
    record = json.loads((product.home / "run" / "children.json").read_text())
    pid = status_of(client, FIRST)["pid"]
    child = psutil.Process(pid)
    with subprocess.Popen(
        child.cmdline(), env=child.environ(), start_new_session=True, stderr=subprocess.DEVNULL
    ) as orphan:
        os.kill(client.engine_pid, signal.SIGKILL)
        product.started.pop().communicate(timeout=10)
        (product.home / "run" / "children.json").write_text(
            json.dumps([{**row, "pid": orphan.pid} for row in record])
        )
        product.start("once")
        assert orphan.wait(20) != 0


def test_a_second_engine_is_refused(product: Product) -> None:
    client = product.start()
    second = product.run("serve")
    assert second.returncode == ALREADY_RUNNING
    assert f"An engine is running in {product.home} already." in second.stderr
    assert Client.connect(product.home).engine_pid == client.engine_pid


def test_verbs_at_the_same_time_share_one_engine(product: Product) -> None:
    words = command("list", "--json")
    running = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True)
        for _ in range(3)
    ]
    for process in running:
        said, wrong = process.communicate(timeout=60)
        assert (process.returncode, wrong) == (0, "")
        assert len(json.loads(said)) == 2


def test_an_engine_for_one_question_ends_after_its_last_face(product: Product) -> None:
    client = product.start("once", "--alone-s", "0.5")
    process = product.started[0]
    with contextlib.closing(client.events()) as listening:  # type: ignore[type-var]
        next(listening)
        assert client.snapshot()["mode"] == "once"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
    assert product.ended(process) == 0
    assert not (product.home / "runtime.json").exists()


def test_an_engine_that_is_kept_does_not_end_by_itself(product: Product) -> None:
    client = product.start("once", "--alone-s", "0.2")
    with contextlib.suppress(ClientError):
        client.call("keep_running", mode="serve")
    process = product.started[0]
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    assert client.snapshot()["mode"] == "serve"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_engine_and_models(product: Product, number: signal.Signals) -> None:
    client = product.start()
    used = product.json("use", FIRST, "--no-wait")
    assert used["model"] == FIRST
    wait_until(lambda: status_of(client, FIRST)["state"] in ("loading", "ready"), START_S)
    pid = status_of(client, FIRST)["pid"]
    os.kill(client.engine_pid, number)
    assert product.ended(product.started[0]) == 0
    assert not is_running(pid)


def test_switch_now_and_politely_with_room_for_one(product: Product) -> None:
    client = product.start()
    client.call("change_settings", changes={"server.memory_budget_bytes": 300_000_000})
    product.json("use", FIRST)
    connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=60)
    body = {"prompt": "Once", "n_predict": 400, "stream": True, "ignore_eos": True}
    connection.request("POST", "/completion", json.dumps(body))
    response = connection.getresponse()
    assert response.readline().startswith(b"data:")
    client.call("switch_model", model_id=SECOND)
    wait_until(lambda: status_of(client, SECOND)["state"] == "waiting")
    assert "when idle (1 request)" in client.snapshot()["status_text"]
    client.call("switch_model", model_id=SECOND, now=True)
    wait_until(lambda: status_of(client, SECOND)["state"] == "ready", START_S)
    with contextlib.suppress(http.client.HTTPException, OSError):
        assert b"[DONE]" not in response.read()
    connection.close()
    assert status_of(client, FIRST)["state"] == "unloaded"
    wait_until(lambda: status_of(client, FIRST).get("in_flight", 0) == 0)


def test_an_idle_engine_costs_next_to_nothing(product: Product) -> None:
    client = product.start()
    product.json("use", FIRST)
    process = psutil.Process(client.engine_pid)

    def used_s() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    with contextlib.closing(client.events()) as listening:  # type: ignore[type-var]
        next(listening)
        before = used_s()
        with pytest.raises(subprocess.TimeoutExpired):
            product.started[0].wait(6)
        assert (used_s() - before) / 6 < 0.01, "more than 1 % of a core"


def test_who_asks_as_soon_as_the_port_opens_finds_the_models(product: Product) -> None:
    product.start()  # its first scan may still run; commands wait for it, and so does the port
    client = Client.connect(product.home)
    assert client.call("model_settings", model_id=SECOND)["own"]["threads"] is None

    def answered() -> int:
        with contextlib.suppress(ConnectionError):
            return product.ask(f"/v1/models/{SECOND}")[0]
        return 0

    wait_until(lambda: answered() != 0)
    assert answered() == 200
