"""What a switch costs: the other model asked for, until its first token.

    python -m tests.benchmarks.bench_switch [--rounds 7]

Cold, memory for one model only: against llama-server's own router, which may hold one model, and
against the naive way: end one llama-server, start the next, look at its /health once a second.
Warm, both resident: through the gateway against the model's own socket.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests import parts  # noqa: E402 (a script finds the tree first)
from tests.benchmarks.kit import Address, Row, alternately, connection, first_token_s, table  # noqa: E402
from tests.e2e import kit  # noqa: E402

FIRST = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF:Q4_1"
SECOND = "second-herd/SmolLM2-135M-Small-GGUF:Q2_K"
ONE_MODEL_BYTES = 400_000_000  # one of them is estimated at about 0.3 GB
COLD_RATIO_GOAL = 0.60
WARM_RATIO_GOAL = 1.2


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with (
        kit.temporary_home(memory_budget_bytes=ONE_MODEL_BYTES) as (home, environ),
        kit.running_engine(home, environ) as client,
        router("router, defaults") as defaults,
        router("router, fit off", "fit = off", "ctx-size = 4096") as fit_off,
        naive() as kill_and_start,
    ):
        ours = other_model(client.snapshot()["gateway"]["port"], FIRST, SECOND)
        ways = (ours, other_model(defaults, "first", "second"))
        ways += (other_model(fit_off, "first", "second"), kill_and_start)
        for way in ways:
            way()  # the first load of each reads the disk, and ours measures the fit once
            way()
        cold = alternately(rounds, *ways)
        assert len(kit.child_pids(client)) == 1, "both models fitted: that was no cold switch"
    with (
        kit.temporary_home() as (home, environ),
        kit.running_engine(home, environ) as client,
    ):
        warm = measure_warm(client, rounds * 10)
    rows = [
        Row(
            "cold switch",
            cold[0],
            "s",
            None,
            "llama-server router, defaults",
            cold[1],
            COLD_RATIO_GOAL,
        ),
        Row("cold switch", cold[0], "s", None, "llama-server router, fit off", cold[2]),
        Row("cold switch", cold[0], "s", None, "kill, start, look each second", cold[3]),
        Row(
            "warm switch", warm[0], "s", None, "the model asked directly", warm[1], WARM_RATIO_GOAL
        ),
    ]
    hop = [1000 * (a - b) for a, b in zip(*warm, strict=True)]
    rows.append(Row("what a warm switch adds, pairwise", hop, "ms"))
    table("Switching models, request to first token", rows)
    return 0


def other_model(address: Address, *names: str) -> Callable[[], float]:
    """A way to measure: each call asks for the model that the last one did not."""
    turn = itertools.cycle(names)
    return lambda: first_token_s(address, next(turn))


def measure_warm(client: kit.Client, rounds: int) -> list[list[float]]:
    """Both models resident: the gateway and the child in turn, the models in turn."""
    sockets = {}
    for model_id in (FIRST, SECOND):
        client.call("load_model", model_id=model_id)
        pid = kit.wait_ready(client, model_id)["pid"]
        words = psutil.Process(pid).cmdline()
        sockets[model_id] = words[words.index("--host") + 1]
    port = client.snapshot()["gateway"]["port"]
    through, direct = itertools.cycle((FIRST, SECOND)), itertools.cycle((FIRST, SECOND))

    def ask_directly() -> float:
        model_id = next(direct)
        return first_token_s(sockets[model_id], model_id)

    ways = (lambda: first_token_s(port, next(through)), ask_directly)
    for way in (*ways, *ways):
        way()
    return alternately(rounds, *ways)


@contextmanager
def router(name: str, *defaults: str) -> Iterator[int]:
    """llama-server's own router over the same two files, at most one loaded; its port."""
    port = kit.free_port()
    with tempfile.TemporaryDirectory(prefix="lw-router-") as folder:
        preset = Path(folder) / "models.ini"
        lines = ["version = 1", "", "[*]", *defaults, ""]
        for section, path in (("first", parts.smollm2()), ("second", parts.smollm2_q2())):
            lines += [f"[{section}]", f"model = {path}", ""]
        preset.write_text("\n".join(lines), encoding="utf-8")
        words = [str(parts.llama_server()), "--models-preset", str(preset), "--models-max", "1"]
        words += ["--host", "127.0.0.1", "--port", str(port), "--offline"]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            kit.wait_for(lambda: _healthy(port), name)
            yield port
        finally:
            kit.end(process)


@contextmanager
def naive() -> Iterator[Callable[[], float]]:
    """A way to measure: the running llama-server is ended and one of the other model started."""
    files = itertools.cycle((parts.smollm2(), parts.smollm2_q2()))
    running: list[subprocess.Popen[bytes]] = []
    second = threading.Event()  # never set: a pause
    port = kit.free_port()

    def switch() -> float:
        began = time.perf_counter()
        while running:
            kit.end(running.pop())
        words = [str(parts.llama_server()), "-m", str(next(files)), "-c", "4096", "--offline"]
        words += ["--host", "127.0.0.1", "--port", str(port)]
        quiet = subprocess.DEVNULL
        running.append(subprocess.Popen(words, stdout=quiet, stderr=quiet))
        while not _healthy(port):
            assert running[0].poll() is None, "llama-server ended"
            second.wait(1.0)
        ready_s = time.perf_counter() - began
        return ready_s + first_token_s(port, "any")

    try:
        yield switch
    finally:
        while running:
            kit.end(running.pop())


def _healthy(port: int) -> bool:
    link = connection(port, 2.0)
    try:
        link.request("GET", "/health")
        return link.getresponse().status == 200
    except OSError:
        return False
    finally:
        link.close()


if __name__ == "__main__":
    sys.exit(main())
