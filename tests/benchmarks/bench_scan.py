"""How long a library scan takes, and how much it holds up an asyncio loop beside it.

    python -m tests.benchmarks.bench_scan [MODEL.gguf] [--files 1000]

Makes that many files, each with the real header and the full size but no data on disk, in
publisher/repo folders. Each line names its baseline: the same run's plain os.walk + stat.
Every figure is the best of several runs, with the page cache warm.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests import parts
from tray_app.engine.gguf_cache import MetadataCache
from tray_app.engine.library import Library
from tray_app.engine.scan_worker import Reading, ScanWorker

HEADER_BYTES = 2 << 20
RUNS = 5
WAIT_S = 300.0
TICK_S = 0.001


class NoReader:
    """Leaves all details unread: the first level alone is measured."""

    def read(self, path: str) -> Reading:
        raise OSError("details are not wanted")

    def stop(self) -> int | None:
        return None

    def close(self) -> None:
        """Nothing runs."""


def make_files(root: Path, model: Path, count: int) -> None:
    with model.open("rb") as file:
        header = file.read(HEADER_BYTES)
    size = model.stat().st_size
    for number in range(count):
        repo = root / f"publisher{number % 20}" / f"repo{number // 4}-GGUF"
        repo.mkdir(parents=True, exist_ok=True)
        with (repo / f"repo{number // 4}-v{number}.Q4_1.gguf").open("wb") as file:
            file.write(header)
            file.truncate(size)


def plain_walk(root: Path) -> int:
    seen = 0
    for folder, _, names in os.walk(root):
        for name in names:
            os.stat(os.path.join(folder, name))
            seen += 1
    return seen


def best(action: Callable[[], object], runs: int = RUNS) -> float:
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return min(times)


def first_list(root: Path, db: Path) -> float:
    """Seconds from `rescan` until every model is listed, in a library that has just started."""
    cache = MetadataCache(db)
    listed = threading.Event()

    def note() -> None:
        if library.models():
            listed.set()

    library = Library([root], cache, note, reader=NoReader())
    with library:
        started = time.perf_counter()
        library.rescan()
        assert listed.wait(WAIT_S)
        took_s = time.perf_counter() - started
        library.wait(WAIT_S)
    cache.close()
    return took_s


def cold(root: Path, folder: Path) -> float:
    times = []
    for number in range(RUNS):
        times.append(first_list(root, folder / f"cold{number}.db"))
    return min(times)


def warm(root: Path, folder: Path) -> float:
    db = folder / "warm.db"
    first_list(root, db)
    return min(first_list(root, db) for _ in range(RUNS))


def again(root: Path, folder: Path) -> tuple[float, float]:
    """(a rescan, a poll) of a library that runs and in which nothing has changed."""
    cache = MetadataCache(folder / "warm.db")
    with Library([root], cache, lambda: None, reader=NoReader()) as library:

        def rescan() -> None:
            library.rescan()
            assert library.wait(WAIT_S)

        rescan()
        result = best(rescan), best(library.changed)
    cache.close()
    return result


def details(root: Path, folder: Path) -> tuple[float, list[float]]:
    """(seconds until all details are read, lags of a loop beside it) from an empty cache."""
    cache = MetadataCache(folder / "details.db")
    with Library([root], cache, lambda: None, reader=ScanWorker()) as library:

        def work() -> None:
            library.rescan()
            assert library.wait(WAIT_S)

        result = loop_lags(work)
        assert all(model.details_known for model in library.models())
    cache.close()
    return result


def loop_lags(work: Callable[[], object]) -> tuple[float, list[float]]:
    """Run `work` in a thread; (its seconds, how late each 1 ms tick of the loop came)."""

    async def watch() -> tuple[float, list[float]]:
        lags = []
        started = time.perf_counter()
        task = asyncio.create_task(asyncio.to_thread(work))
        while not task.done():
            before = time.perf_counter()
            await asyncio.sleep(TICK_S)
            lags.append(time.perf_counter() - before - TICK_S)
        await task
        return time.perf_counter() - started, lags

    return asyncio.run(watch())


def in_ms(lags: list[float]) -> str:
    ordered = sorted(lags)
    middle, late = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    return (
        f"median {middle * 1e3:.2f} ms, 99 % {late * 1e3:.2f} ms, worst {ordered[-1] * 1e3:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--files", type=int, default=1000)
    options = parser.parse_args()
    logging.disable()  # the library says that NoReader starts no process
    model = options.model or parts.smollm2()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        root = folder / "models"
        make_files(root, model, options.files)
        base = best(lambda: plain_walk(root))
        print(f"{options.files} files with the header of {model.name}")
        print(f"baseline, os.walk + stat     {base * 1e3:8.1f} ms")
        for name, took_s in (
            ("scan, cache empty", cold(root, folder)),
            ("scan, cache filled", warm(root, folder)),
            *zip(("rescan, nothing changed", "changed()"), again(root, folder), strict=True),
        ):
            print(f"{name:28} {took_s * 1e3:8.1f} ms  {took_s / base:6.1f} x baseline")
        _, quiet = loop_lags(lambda: time.sleep(2))
        print(f"loop lag, nothing beside it  {in_ms(quiet)}")
        _, lags = loop_lags(lambda: [first_list(root, folder / f"l{n}.db") for n in range(8)])
        print(f"loop lag during scans        {in_ms(lags)}")
        took_s, lags = details(root, folder)
        each_ms = took_s / options.files * 1e3
        print(f"details of all files         {took_s:8.1f} s   {each_ms:.1f} ms each")
        print(f"loop lag during details      {in_ms(lags)}")


if __name__ == "__main__":
    main()
