"""How long a user waits: for the icon, for the window, and for a second start's window.

    python -m tests.benchmarks.bench_start [--rounds 5]

The panel and the screen are private. "Icon" is the tray item registered with the panel;
"painted" is the first picture of the window with text in it, looked for every few milliseconds.
Beside them: a bare pystray icon, and a bare pywebview window with one line of text.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.bench_idle import BARE_ICON, python  # noqa: E402 (a script finds the tree first)
from tests.benchmarks.kit import Row, table  # noqa: E402
from tests.e2e import kit  # noqa: E402
from tests.e2e.sni_host import TrayHost, private_session  # noqa: E402

ICON_GOAL_S = 0.7
WINDOW_GOAL_S = 1.5
PATIENCE_S = 30.0
LOOK_S = 0.004
# The sidebar's corner: text and a picture, smoothed, make many colours; a bare ground one.
CORNER = (180, 180)
TEXT_COLOURS = 24
BARE_WINDOW = """
import webview
webview.create_window("bare", html="<body style='font:30px sans-serif'>Llama Wrangler<br>"
    "Models Server Chat Settings</body>", width=1080, height=760)
webview.start(private_mode=True)
"""


class Screen:
    """Looks at a corner of the private screen without starting a program for it."""

    def __init__(self, display: str) -> None:
        import gi

        gi.require_version("Gdk", "3.0")
        from gi.repository import Gdk

        self._gdk = Gdk
        opened = Gdk.Display.open(display)
        self._root = opened.get_default_screen().get_root_window()

    def painted(self) -> bool:
        """Whether the corner shows text."""
        from PIL import Image

        picture = self._gdk.pixbuf_get_from_window(self._root, 0, 0, *CORNER)
        mode = "RGBA" if picture.get_has_alpha() else "RGB"
        data = picture.get_pixels()
        image = Image.frombuffer(mode, CORNER, data, "raw", mode, picture.get_rowstride(), 1)
        colours = image.getcolors(CORNER[0] * CORNER[1])
        return colours is not None and len(colours) >= TEXT_COLOURS

    async def wait(self, painted: bool) -> None:
        """Wait until text is there, or is gone, while the bus goes on being served."""
        deadline = time.monotonic() + PATIENCE_S
        while self.painted() is not painted:
            assert time.monotonic() < deadline, f"waited for painted = {painted}"
            await asyncio.sleep(LOOK_S)


class Bench:
    """One desktop, one home, and what was measured on them."""

    def __init__(self, home: Path, environ: dict[str, str], host: TrayHost) -> None:
        self.home, self.environ, self.host = home, environ, host
        self.screen = Screen(environ["DISPLAY"])

    async def icon(self) -> float:
        """Start the tray; seconds to its icon."""
        count = len(self.host.items) + 1
        began = time.perf_counter()
        tray = await self._start("tray", "--hidden")
        try:
            await self._registered(count)
            return time.perf_counter() - began
        finally:
            await self._stop(tray)

    async def bare_icon(self) -> float:
        """The same for a bare pystray icon."""
        count = len(self.host.items) + 1
        began = time.perf_counter()
        with python(BARE_ICON, {**self.environ, "GDK_GL": "disable"}) as process:
            await self._registered(count)
            took_s = time.perf_counter() - began
            process.kill()
        return took_s

    async def cli(self) -> float:
        """`llama-wrangler --version`: what any verb costs before it begins."""
        began = time.perf_counter()
        await (await self._start("--version", stdout=subprocess.DEVNULL)).wait()
        return time.perf_counter() - began

    async def windows(self, rounds: int) -> tuple[list[float], list[float], list[float]]:
        """One tray: window by menu, window by a second start, and a bare window, in turn."""
        count = len(self.host.items) + 1
        tray = await self._start("tray", "--hidden")
        clicked: list[float] = []
        second: list[float] = []
        bare: list[float] = []
        try:
            await self._registered(count)
            await self.host.wait_menu(lambda m: m.find("SmolLM2*"), "the models")
            for _ in range(rounds):
                clicked.append(await self._window(lambda: self.host.click("Open window")))
                second.append(await self._window(self._second_start))
                bare.append(await self._bare_window())
        finally:
            await self._stop(tray)
        return clicked, second, bare

    async def _window(self, ask: Callable[[], Awaitable[Any]]) -> float:
        began = time.perf_counter()
        await ask()
        await self.screen.wait(True)
        took_s = time.perf_counter() - began
        for process in kit.window_processes(self.home):
            process.terminate()
        await self.screen.wait(False)
        return took_s

    async def _second_start(self) -> None:
        process = await self._start()
        assert await process.wait() == 0

    async def _bare_window(self) -> float:
        began = time.perf_counter()
        with python(BARE_WINDOW, self.environ) as process:
            await self.screen.wait(True)
            took_s = time.perf_counter() - began
            process.kill()
        await self.screen.wait(False)
        return took_s

    async def _registered(self, count: int) -> None:
        await self.host.wait_item(count, PATIENCE_S)

    async def _start(self, *words: str, **options: Any) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *kit.app(*words), cwd=kit.ROOT, env=self.environ, **options
        )

    async def _stop(self, tray: asyncio.subprocess.Process) -> None:
        tray.terminate()  # it says goodbye on the bus, which has to be served meanwhile
        await tray.wait()


async def measure(home: Path, environ: dict[str, str], rounds: int) -> None:
    """All of it on one desktop."""
    async with TrayHost.on(environ) as host:
        bench = Bench(home, environ, host)
        first = await bench.icon()
        await bench.bare_icon()
        icons: list[float] = []
        bare_icons: list[float] = []
        versions: list[float] = []
        for number in range(rounds):
            order = [(bench.icon, icons), (bench.bare_icon, bare_icons), (bench.cli, versions)]
            for way, found in order if number % 2 == 0 else reversed(order):
                found.append(await way())
        clicked, second, bare = await bench.windows(rounds)
    rows = [
        Row("start to icon", icons, "s", ICON_GOAL_S, "a bare pystray icon", bare_icons),
        Row("the very first start to icon", [first], "s"),
        Row("command line, before any verb", versions, "s"),
        Row("menu click to painted", clicked, "s", WINDOW_GOAL_S, "a bare window", bare),
        Row("second start to painted", second, "s", None, "a bare window", bare),
    ]
    table("Starting", rows)
    added_s = statistics.median(clicked) - statistics.median(bare)
    print(f"  of the window, ours beyond a bare one: {added_s:.3f} s")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with kit.temporary_home() as (home, environ), private_session() as session:
        own = {name: environ[name] for name in ("LLAMA_WRANGLER_HOME", "LLAMA_WRANGLER_CACHE")}
        asyncio.run(measure(home, {**session, **own}, rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
