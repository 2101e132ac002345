"""How fast a verified, durable transfer is, beside clients that do less.

    python -m tests.benchmarks.bench_transfer [--mib 2048] [--folder DIR]

One file on loopback, served by a process of its own. Each line says its baseline: `dd` with
fsync on the same disk is what a durable client can reach at most; curl, aria2c and
huggingface_hub neither hash nor sync. Then 8 connections of 20 MiB/s each.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.file_server import file_server
from tray_app.engine.downloads.transfer import fetch
from tray_app.engine.downloads.values import Remote

MIB = 1 << 20
PER_CONNECTION = 20 * MIB

HUB = """
import sys
from huggingface_hub.file_download import http_get
with open(sys.argv[2], "wb") as file:
    http_get(sys.argv[1], file)
"""


@dataclass(frozen=True)
class Run:
    """One client's figures."""

    name: str
    seconds: float
    cpu_s: float
    mib: int

    @property
    def rate(self) -> float:
        return self.mib * MIB / 1e6 / self.seconds

    def line(self, baseline: Run | None = None) -> str:
        cpu = self.cpu_s / (self.mib * MIB / 1e9)
        beside = f"  {self.rate / baseline.rate:5.2f} x {baseline.name}" if baseline else ""
        took = f"{self.seconds:7.2f} s {self.rate:8.0f} MB/s {cpu:5.2f} cpu s/GB"
        return f"{self.name:28} {took}{beside}"


def make_file(path: Path, mib: int) -> str:
    block, digest = random.Random(1).randbytes(MIB), hashlib.sha256()
    with path.open("wb") as file:
        for number in range(mib):
            data = number.to_bytes(8, "big") + block[8:]
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def timed(name: str, mib: int, target: Path, work: Callable[[], object]) -> Run:
    """Measure `work`, children's processor time included; what it made is deleted."""
    subprocess.run(["sync"], check=True)
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(
        a.ru_utime + a.ru_stime - b.ru_utime - b.ru_stime
        for a, b in zip(after, before, strict=True)
    )
    assert target.stat().st_size == mib * MIB, name
    target.unlink()
    return Run(name, seconds, cpu, mib)


def others(url: str, target: Path, source: Path) -> dict[str, list[str]]:
    """Clients to measure beside ours, those that are here."""
    found = {
        "dd conv=fsync": [
            "dd",
            f"if={source}",
            f"of={target}",
            "bs=1M",
            "conv=fsync",
            "status=none",
        ]
    }
    if shutil.which("curl"):
        found["curl -o"] = ["curl", "--noproxy", "*", "-s", "-o", str(target), url]
    if shutil.which("aria2c"):
        split = ["-x4", "-s4", "-k4M", "--file-allocation=none", "--no-proxy=*"]
        found["aria2c -x4"] = [
            "aria2c",
            "-q",
            *split,
            "-d",
            str(target.parent),
            "-o",
            target.name,
            url,
        ]
    found["huggingface_hub http_get"] = [sys.executable, "-c", HUB, url, str(target)]
    return found


def full_speed(folder: Path, mib: int) -> None:
    source, target = folder / "source", folder / "target"
    sha256 = make_file(source, mib)
    command = [sys.executable, "-m", "tests.file_server", str(source)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        url = server.stdout.readline().strip()
        baselines: dict[str, Run] = {}
        for name, argv in others(url, target, source).items():
            baselines[name] = timed(
                name, mib, target, lambda argv=argv: subprocess.run(argv, check=True)
            )
            print(baselines[name].line())
        remote = Remote(url, "f", mib * MIB, sha256)
        for count in (1, 4, 8):
            run = timed(
                f"ours, {count} (sha256, durable)",
                mib,
                target,
                lambda n=count: fetch(remote, target, connections=n),
            )
            for baseline in baselines.values():
                print(run.line(baseline))
        # Once more, because the first client of a run finds a colder disk than the last one.
        again = others(url, target, source)["dd conv=fsync"]
        last = timed("dd conv=fsync, again", mib, target, lambda: subprocess.run(again, check=True))
        print(last.line(baselines["dd conv=fsync"]))
        server.stdin.close()


def throttled(folder: Path, mib: int) -> None:
    block = random.Random(2).randbytes(MIB)
    body = b"".join(number.to_bytes(8, "big") + block[8:] for number in range(mib))
    sha256, target = hashlib.sha256(body).hexdigest(), folder / "target"
    with file_server() as server:
        server.put("/f", body)
        server.bytes_per_s = PER_CONNECTION
        remote = Remote(server.url("/f"), "f", len(body), sha256)
        one = Run("one at its limit", len(body) / PER_CONNECTION, 0.0, mib)
        for count in (1, 4, 8):
            print(
                timed(
                    f"ours, {count} x 20 MiB/s",
                    mib,
                    target,
                    lambda n=count: fetch(remote, target, connections=n),
                ).line(one)
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    given = parser.parse_args()
    os.environ["no_proxy"] = "127.0.0.1"
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        full_speed(Path(folder), given.mib)
        throttled(Path(folder), max(256, given.mib // 4))


if __name__ == "__main__":
    main()
