"""What the gateway costs: a llama-server asked directly and through it, in alternation.

    python -m tests.benchmarks.bench_gateway [scripted|stutter|llama] [--rounds 15]

And whether a stream stutters while its process scans and downloads.
Gateway, scripted upstream and llama-server are processes of their own; the client is one raw
asyncio client for both ways. Ratios are medians over rounds; the order changes every round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests import parts
from tests.benchmarks import stutter
from tests.benchmarks.kit import Address
from tests.benchmarks.stream_reader import Run, ask
from tests.gateway_kit import SSE_HEAD, FakeBackend, as_chunk, read_request
from tray_app.engine import launch
from tray_app.gateway import Gateway

EVENT = as_chunk(
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" word"}}],'
    b'"created":1790000000,"id":"chatcmpl-x","model":"m","object":"chat.completion.chunk"}\n\n'
)
BURST = 50_000
PACED = 1_000
PACE_S = 0.002
TOKENS = 60
STREAMS = (1, 8, 32)
RATIO_GOAL = 0.98
FIRST_TOKEN_GOAL_MS = 1.0
CPU_GOAL_MS = 0.15  # for each chunk


# --- the processes ------------------------------------------------------------------------


async def serve_gateway(socket_path: str) -> None:
    gateway = Gateway(FakeBackend(socket_path), port=0)
    await gateway.start()
    print(gateway.port, flush=True)
    await asyncio.Event().wait()


async def serve_script(socket_path: str) -> None:
    """/first: one event. /burst: as fast as it goes. /paced: one event every 2 ms."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = await read_request(reader)
        writer.write(SSE_HEAD)
        with contextlib.suppress(ConnectionError):
            if seen.target == "/first":
                writer.write(EVENT)
            for n in range({"/burst": BURST, "/paced": PACED}.get(seen.target, 0)):
                writer.write(EVENT)
                if seen.target == "/paced":
                    await asyncio.sleep(PACE_S)
                elif n % 16 == 0:
                    await writer.drain()
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        writer.close()

    await asyncio.start_unix_server(answer, socket_path)
    print("up", flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def process(
    *argv: str, talks: bool = True, env: Mapping[str, str] | None = None
) -> Iterator[tuple[psutil.Process, str]]:
    """A child and its first line."""
    out = subprocess.PIPE if talks else subprocess.DEVNULL
    child = subprocess.Popen(argv, stdout=out, stderr=subprocess.DEVNULL, text=True, env=env)
    try:
        line = child.stdout.readline() if child.stdout else ""
        yield psutil.Process(child.pid), line.strip()
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


def own(
    role: str, socket_path: str
) -> contextlib.AbstractContextManager[tuple[psutil.Process, str]]:
    return process(sys.executable, "-m", "tests.benchmarks.bench_gateway", role, socket_path)


@contextlib.asynccontextmanager
async def llama(server: Path, model: Path, socket_path: str, threads: int) -> AsyncIterator[None]:
    most = str(max(STREAMS))
    argv = [str(server), "-m", str(model), "--host", socket_path, "-c", "16384", "-np", most]
    # As the product starts it: with OpenMP's default of 300,000 looks before an idle thread
    # sleeps, whatever else runs on its core costs the model dearly, a gateway or a client.
    environ = {**os.environ, **launch.environment(os.environ)}
    with process(*argv, "-t", str(threads), "-fit", "off", talks=False, env=environ):
        for _ in range(600):
            with contextlib.suppress(OSError, ConnectionError):
                run = await ask(socket_path, "/v1/chat/completions", chat(1))
                if run.chunks:
                    break
            await asyncio.sleep(0.1)
        yield


def chat(tokens: int) -> dict[str, object]:
    message = {"role": "user", "content": "Write a long story about a llama."}
    return {"messages": [message], "max_tokens": tokens, "ignore_eos": True, "temperature": 0}


# --- the measurements ---------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """One number per round, asked directly and through the gateway right after each other."""

    direct: tuple[float, ...]
    gateway: tuple[float, ...]

    @property
    def medians(self) -> tuple[float, float]:
        return statistics.median(self.direct), statistics.median(self.gateway)

    @property
    def added(self) -> float:
        """The median of each round's difference."""
        return statistics.median(g - d for d, g in zip(self.direct, self.gateway, strict=True))

    @property
    def ratio(self) -> float:
        """The median of each round's ratio: what else the machine does cancels out."""
        return statistics.median(g / d for d, g in zip(self.direct, self.gateway, strict=True))


async def alternate(
    rounds: int, direct: Address, gateway: Address, measure: Callable[[Address], Awaitable[float]]
) -> Pairs:
    """Measure both ways in turn, in another order every round."""
    seen: dict[Address, list[float]] = {direct: [], gateway: []}
    for n in range(rounds):
        for address in (direct, gateway) if n % 2 else (gateway, direct):
            seen[address].append(await measure(address))
    return Pairs(tuple(seen[direct]), tuple(seen[gateway]))


async def streams(address: Address, count: int, path: str, body: dict[str, object]) -> list[Run]:
    return list(await asyncio.gather(*(ask(address, path, body) for _ in range(count))))


async def compare(
    title: str,
    rounds: int,
    direct: str,
    gateway: int,
    body: dict[str, object],
    first: str,
    rest: tuple[str, ...],
    gateway_process: psutil.Process,
) -> None:
    """First token, and rate with 1 and 8 streams, of one upstream."""

    async def first_s(address: Address) -> float:
        return (await ask(address, first, {**body, "max_tokens": 1})).first_s

    await alternate(3, direct, gateway, first_s)
    found = await alternate(rounds * 15, direct, gateway, first_s)
    before, through = (seconds * 1e3 for seconds in found.medians)
    print(
        f"{title}: first token {before:.2f} ms direct, {through:.2f} ms through the gateway: "
        f"{found.added * 1e3:+.2f} ms {met(found.added * 1e3 <= FIRST_TOKEN_GOAL_MS)}"
    )
    for path in rest:
        for count in STREAMS if path != "/burst" else STREAMS[:2]:  # 32 of them take minutes
            cpu, chunks = 0.0, 0

            async def rate(address: Address, path: str = path, count: int = count) -> float:
                nonlocal cpu, chunks
                fewer = (
                    {**body, "max_tokens": TOKENS if count < 32 else TOKENS // 2} if body else body
                )
                before = sum(gateway_process.cpu_times()[:2])
                start = time.perf_counter()
                runs = await streams(address, count, path, fewer)
                wall = time.perf_counter() - start
                if address == gateway:
                    cpu += sum(gateway_process.cpu_times()[:2]) - before
                    chunks += sum(run.chunks for run in runs)
                return sum(run.chunks for run in runs) / wall

            found = await alternate(rounds, direct, gateway, rate)
            cpu_ms = cpu / chunks * 1e3
            print(
                f"{title}: {path} x{count}: {found.medians[0]:,.0f} chunks/s direct, "
                f"{found.medians[1]:,.0f} through: ratio {found.ratio:.3f} "
                f"{met(found.ratio >= RATIO_GOAL)}; gateway CPU {cpu_ms:.3f} ms a chunk "
                f"{met(cpu_ms <= CPU_GOAL_MS)}",
                flush=True,
            )


def met(goal: bool) -> str:
    return "(met)" if goal else "(MISSED)"


async def scripted(rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="lw") as folder:
        script = f"{folder}/s.sock"
        with own("script", script), own("gateway", script) as (gateway, port):
            idle = gateway.memory_info().rss
            await compare(
                "scripted", rounds, script, int(port), {}, "/first", ("/paced", "/burst"), gateway
            )
            grown = gateway.memory_info().rss
            print(f"gateway process: {idle / 2**20:.1f} MiB idle, {grown / 2**20:.1f} MiB after")


async def stuttering() -> None:
    with tempfile.TemporaryDirectory(prefix="lw") as folder, own("script", f"{folder}/s.sock"):
        await stutter.measure(f"{folder}/s.sock")


async def real(rounds: int, threads: int) -> None:
    with tempfile.TemporaryDirectory(prefix="lw") as folder:
        socket_path = f"{folder}/m.sock"
        async with llama(parts.llama_server(), parts.smollm2(), socket_path, threads):
            with own("gateway", socket_path) as (gateway, port):
                path = "/v1/chat/completions"
                args = (rounds, socket_path, int(port), chat(TOKENS), path, (path,), gateway)
                await compare("llama-server", *args)


ROLES = ("all", "scripted", "stutter", "llama", "gateway", "script")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", choices=ROLES, default="all")
    parser.add_argument("socket", nargs="?", default="")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="llama-server's")
    args = parser.parse_args()
    if args.role == "gateway":
        asyncio.run(serve_gateway(args.socket))
    elif args.role == "script":
        asyncio.run(serve_script(args.socket))
    if args.role in ("all", "scripted"):
        asyncio.run(scripted(args.rounds))
    if args.role in ("all", "stutter"):
        asyncio.run(stuttering())
    if args.role in ("all", "llama"):
        asyncio.run(real(args.rounds, args.threads))


if __name__ == "__main__":
    main()
