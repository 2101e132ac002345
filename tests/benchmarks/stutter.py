"""Whether a stream stutters while its process scans a library and downloads: for `bench_gateway`.

The gateway runs in front of a child that sends an event every 2 ms, in a process that scans 1,000
files with an empty cache and brings a file at the speed of a gigabit line, hashing it, as an
engine does. Each answer through the gateway has a twin that is asked for directly at the same
moment: what the machine does to both is no stutter of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests import parts
from tests.benchmarks.bench_scan import make_files
from tests.benchmarks.bench_transfer import make_file
from tests.benchmarks.stream_reader import ask
from tests.gateway_kit import FakeBackend
from tray_app.engine.downloads.limiter import Limiter
from tray_app.engine.downloads.transfer import fetch
from tray_app.engine.downloads.values import Remote
from tray_app.engine.gguf_cache import MetadataCache
from tray_app.engine.library import Library
from tray_app.engine.scan_worker import ScanWorker
from tray_app.gateway import Gateway

GOAL_MS = 10.0
FILES = 1000
FILE_MIB = 1024
GIGABIT = 118_000_000  # bytes a second that a gigabit line brings


async def serve_busy(folder: Path, socket_path: str) -> None:
    """The process: its gateway's port on a line; then a line for each line it gets: work done."""
    sys.setswitchinterval(0.001)  # as the engine's process does
    logging.disable()
    gateway = Gateway(FakeBackend(socket_path), port=0)
    await gateway.start()
    print(gateway.port, flush=True)
    number = 0
    while await asyncio.to_thread(sys.stdin.readline):
        number += 1
        began = time.perf_counter()
        await asyncio.gather(
            asyncio.to_thread(scan, folder, number), asyncio.to_thread(download, folder, number)
        )
        print(f"{time.perf_counter() - began:.1f}", flush=True)


def scan(folder: Path, number: int) -> None:
    """Every file listed and its header read, from nothing."""
    cache = MetadataCache(folder / f"{number}.db")
    with Library([folder / "models"], cache, lambda: None, reader=ScanWorker()) as library:
        library.rescan()
        assert library.wait(300)
        assert len(library.models()) == FILES
    cache.close()


def download(folder: Path, number: int) -> None:
    """One file, checked and durable."""
    url, sha256 = (folder / "remote").read_text().split()
    target = folder / f"{number}.bin"
    fetch(Remote(url, "f", FILE_MIB << 20, sha256), target, limit=Limiter(GIGABIT))
    target.unlink()


# --- the client ---------------------------------------------------------------------------


@contextlib.contextmanager
def busy(folder: Path, socket_path: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process and its gateway's port."""
    argv = (sys.executable, "-m", "tests.benchmarks.stutter", str(folder), socket_path)
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as child:
        try:
            assert child.stdout is not None
            yield child, int(child.stdout.readline())
        finally:
            child.kill()


@contextlib.contextmanager
def remote(folder: Path) -> Iterator[None]:
    """A file server in a process of its own; `folder/remote` says what it has."""
    source = folder / "source"
    sha256 = make_file(source, FILE_MIB)
    argv = (sys.executable, "-m", "tests.file_server", str(source))
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as child:
        try:
            assert child.stdout is not None
            (folder / "remote").write_text(f"{child.stdout.readline().strip()} {sha256}")
            yield
        finally:
            child.kill()


async def gaps(port: int, script: str, until: asyncio.Future[str]) -> dict[str, list[float]]:
    """Milliseconds between arrivals, of streams asked for in pairs until `until` is done."""
    found: dict[str, list[float]] = {"direct": [], "through": []}
    while True:
        pair = await asyncio.gather(ask(script, "/paced", {}), ask(port, "/paced", {}))
        for name, run in zip(found, pair, strict=True):
            found[name] += [
                1e3 * (b - a) for a, b in zip(run.arrivals, run.arrivals[1:], strict=False)
            ]
        if until.done():
            return found


def at(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


async def measure(script: str) -> None:
    """Print the gaps in a stream, in a quiet process and in a busy one."""
    with tempfile.TemporaryDirectory(prefix="lw") as name:
        folder = Path(name)
        make_files(folder / "models", parts.smollm2(), FILES)
        with remote(folder), busy(folder, script) as (child, port):
            assert child.stdin is not None
            assert child.stdout is not None
            loop = asyncio.get_running_loop()
            quiet = loop.create_future()
            loop.call_later(8, quiet.set_result, "")
            before = await gaps(port, script, quiet)
            child.stdin.write("work\n")
            child.stdin.flush()
            working = asyncio.ensure_future(asyncio.to_thread(child.stdout.readline))
            during = await gaps(port, script, working)
            took_s = (await working).strip()
    print(
        f"gaps between events sent every 2 ms; {FILES} files scanned and {FILE_MIB} MiB brought "
        f"in {took_s} s"
    )
    for title, found in (("nothing else", before), ("scan + download", during)):
        for way, values in found.items():
            print(
                f"  {title:16} {way:8} median {at(values, 0.5):6.2f} ms, 99 % "
                f"{at(values, 0.99):6.2f} ms, worst {max(values):6.1f} ms ({len(values):,} gaps)"
            )
    added = at(during["through"], 0.99) - at(during["direct"], 0.99)
    verdict = "met" if added <= GOAL_MS else "MISSED"
    print(
        f"  the gateway adds {added:+.2f} ms at 99 % (goal +{GOAL_MS:.0f} ms: {verdict})",
        flush=True,
    )


if __name__ == "__main__":
    os.environ["no_proxy"] = "127.0.0.1"
    asyncio.run(serve_busy(Path(sys.argv[1]), sys.argv[2]))
