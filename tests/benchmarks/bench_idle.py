"""What the idle product costs: memory and CPU of the tray and of the engine, nothing loaded.

    LLAMA_WRANGLER_BENCH_IDLE_S=60 python -m tests.benchmarks.bench_idle

Memory is PSS in MB (1e6 bytes): shared pages count by their share, so it is less where other
Pythons run; RSS, which counts them whole, is printed too. Beside them, in the same minutes: a
bare Python, a bare pystray icon, and llama-server's own router.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.bench_switch import router  # noqa: E402 (a script finds the tree first)
from tests.benchmarks.kit import Row, table  # noqa: E402
from tests.e2e import kit  # noqa: E402
from tests.e2e.sni_host import TrayHost, private_session  # noqa: E402

PSS_GOAL_MB = 45.0
CPU_GOAL_PERCENT = 0.2
SETTLE_S = 8.0  # start-up work, its last event, and the first look at the folders
SAMPLES = 6
BARE_PYTHON = "import threading; threading.Event().wait()"
BARE_ICON = """
from PIL import Image
import pystray
pystray.Icon("bare", Image.new("RGB", (32, 32)), "bare", pystray.Menu(
    pystray.MenuItem("one", lambda: None))).run()
"""


def main() -> int:
    """Measure and print; takes `LLAMA_WRANGLER_BENCH_IDLE_S` seconds and a little."""
    seconds = float(os.environ.get("LLAMA_WRANGLER_BENCH_IDLE_S", "60"))
    with kit.temporary_home() as (home, environ), private_session() as session:
        own = {name: environ[name] for name in ("LLAMA_WRANGLER_HOME", "LLAMA_WRANGLER_CACHE")}
        asyncio.run(measure(home, {**session, **own}, seconds))
    return 0


async def measure(home: Path, environ: dict[str, str], seconds: float) -> None:
    """The product and what it is compared with, idle together."""
    async with TrayHost.on(environ) as host:
        with ExitStack() as stack:
            bare = stack.enter_context(python(BARE_PYTHON, environ))
            icon = stack.enter_context(python(BARE_ICON, {**environ, "GDK_GL": "disable"}))
            port = stack.enter_context(router("llama-server's router"))
            await host.wait_item()
            words = kit.app("tray", "--hidden")
            tray = await asyncio.create_subprocess_exec(*words, cwd=kit.ROOT, env=environ)
            try:
                await host.wait_item(2)
                await host.wait_menu(lambda menu: menu.find("SmolLM2*"), "the models")
                client = await asyncio.to_thread(kit.connected, home)
                await asyncio.sleep(SETTLE_S)
                watched = {
                    "tray": psutil.Process(tray.pid),
                    "engine": psutil.Process(client.engine_pid),
                    "bare Python": psutil.Process(bare.pid),
                    "bare pystray icon": psutil.Process(icon.pid),
                    "llama-server router": _listener(port),
                }
                report(*await watch(watched, seconds), seconds)
            finally:
                tray.terminate()  # it says goodbye on the bus, which has to be served meanwhile
                await tray.wait()
                icon.kill()


class python:
    """A Python that runs a few lines until the end of the block."""

    def __init__(self, code: str, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", code], env=dict(environ))

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self._process

    def __exit__(self, *_: object) -> None:
        kit.end(self._process)


def _listener(port: int) -> psutil.Process:
    for child in psutil.Process().children():
        if str(port) in child.cmdline():
            return child
    raise LookupError(f"nothing was started on port {port}")


async def watch(
    processes: Mapping[str, psutil.Process], seconds: float
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """PSS in MB, sampled, and CPU in percent of one core, of each process."""
    memory: dict[str, list[float]] = {name: [] for name in processes}
    before = {name: sum(p.cpu_times()[:2]) for name, p in processes.items()}
    began = time.monotonic()
    for _ in range(SAMPLES):
        await asyncio.sleep(seconds / SAMPLES)
        for name, process in processes.items():
            info = process.memory_full_info()
            memory[name].append(info.pss / 1e6)
            memory.setdefault(f"{name} RSS", []).append(info.rss / 1e6)
    took_s = time.monotonic() - began
    used = {name: sum(p.cpu_times()[:2]) - before[name] for name, p in processes.items()}
    return memory, {name: 100 * spent / took_s for name, spent in used.items()}


def report(memory: dict[str, list[float]], cpu: dict[str, float], seconds: float) -> None:
    """Print both tables' rows."""
    rows = []
    for name, base in (("tray", "bare pystray icon"), ("engine", "llama-server router")):
        rows.append(Row(f"{name}: PSS", memory[name], "MB", PSS_GOAL_MB, base, memory[base]))
        rows.append(
            Row(f"{name}: PSS", memory[name], "MB", None, "bare Python", memory["bare Python"])
        )
        rows.append(Row(f"{name}: RSS", memory[f"{name} RSS"], "MB"))
    for name in ("tray", "engine", "bare pystray icon", "llama-server router"):
        goal = CPU_GOAL_PERCENT if name in ("tray", "engine") else None
        rows.append(Row(f"{name}: CPU over {seconds:.0f} s", [cpu[name]], "%", goal))
    table("Idle, no model loaded, no window", rows)


if __name__ == "__main__":
    sys.exit(main())
