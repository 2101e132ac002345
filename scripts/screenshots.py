"""Draws the pictures of the documentation from the running app, with real models.

    python -m scripts.screenshots docs/images          # what the documentation shows
    python -m scripts.screenshots --all FOLDER         # each page in each look, to look at

The pages are the real page in a headless browser; the tray's menu is the real tray's, drawn by
the library that desktops draw it with (gir1.2-dbusmenu-gtk3-0.4).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Error

from tests import parts
from tests.e2e import kit
from tests.e2e.sni_host import TrayHost, private_session
from tray_app.client import Client

WIDE, SMALL = (1200, 800), (480, 720)
LIMIT_BYTES = 150_000
FIRST = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF:Q4_1"
SECOND = "second-herd/SmolLM2-135M-Small-GGUF:Q2_K"
FIRST_NAME = "SmolLM2-135M-Instruct"
# A picture shows what a user's machine would show, not where this one has its folders.
USUAL = """([home, program, port]) => {
  const usual = (text) => text
    .replaceAll(home, '/home/you/.llama-wrangler')
    .replaceAll(program, '/home/you/.llama-wrangler/runtimes/b11434-cpu/llama-server')
    .replaceAll(`:${port}`, ':7070');
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = usual(texts.currentNode.data);
  for (const field of document.querySelectorAll('input')) {
    if (field.value === String(port)) field.value = '7070';
  }
}"""

Prepare = Callable[[Any, Client], None]


@dataclass(frozen=True)
class Shot:
    """One picture: a page of a home in one look. `prepare` brings the page to its state."""

    name: str
    page: str
    theme: str
    prepare: Prepare
    size: tuple[int, int] = WIDE


def _models(page: Any, client: Client) -> None:
    page.get_by_role("listitem").filter(has_text=FIRST_NAME).get_by_text("Ready").wait_for()


def _details(page: Any, client: Client) -> None:
    page.get_by_role("button", name=f"Details of {FIRST_NAME}").click()
    page.get_by_label("command line", exact=True).wait_for()


def _server(page: Any, client: Client) -> None:
    page.get_by_role("region", name="Speed and use by model").locator("table").wait_for()
    page.get_by_role("region", name="Last requests").locator("table").wait_for()


def _chat(page: Any, client: Client) -> None:
    message = page.get_by_label("Message", exact=True)
    message.fill(kit.SHORT_PROMPT)
    message.press("Enter")
    page.locator("article[aria-busy=false] .measured").wait_for(timeout=60_000)
    page.locator(".model-line").get_by_text("Ready").wait_for()


def _runtimes(page: Any, client: Client) -> None:
    page.get_by_role("heading", name="This computer", exact=True).wait_for()
    page.get_by_text("Proven").first.wait_for()
    page.get_by_text("Looking for downloads").wait_for(state="detached")


def _connect(page: Any, client: Client) -> None:
    page.get_by_role("tab", name="Python", exact=True).click()
    page.get_by_role("button", name="Test now").click()
    page.get_by_text("It works").wait_for(timeout=60_000)


def _settings(page: Any, client: Client) -> None:
    page.get_by_role("heading", name="Folders").wait_for()


def _empty(page: Any, client: Client) -> None:
    page.get_by_text("Your first model in three steps").wait_for()


def _building(page: Any, client: Client) -> None:
    page.locator(".build progress[value]").wait_for(timeout=120_000)
    page.get_by_label("Log build").locator(".log-line").nth(6).wait_for(timeout=120_000)


def _failure(page: Any, client: Client) -> None:
    page.get_by_role("button", name="Try again").first.wait_for(timeout=60_000)
    page.get_by_role("button", name=f"Details of {FIRST_NAME}").click()
    page.get_by_role("complementary", name=FIRST_NAME).get_by_role("alert").wait_for()


HERD = (
    Shot("models", "models", "light", _models),
    Shot("models-dark", "models", "dark", _models),
    Shot("model-details", "models", "light", _details),
    Shot("server-dark", "server", "dark", _server),
    Shot("chat", "chat", "light", _chat),
    Shot("chat-small", "chat", "dark", _chat, SMALL),
    Shot("runtimes", "runtimes", "light", _runtimes),
    Shot("connect", "connect", "light", _connect),
    Shot("settings", "settings", "light", _settings),
)
EMPTY = (Shot("first-model", "models", "light", _empty),)
BUILDING = (Shot("building", "runtimes", "dark", _building),)
FAILURE = (Shot("failure", "models", "light", _failure),)


def every_look(shots: tuple[Shot, ...]) -> tuple[Shot, ...]:
    """Each state of `shots` in light and dark, wide and small."""
    states = {shot.prepare: shot for shot in reversed(shots)}.values()
    return tuple(
        Shot(f"{shot.prepare.__name__[1:]}-{theme}-{size[0]}", shot.page, theme, shot.prepare, size)
        for shot in reversed(states)
        for theme in ("light", "dark")
        for size in (WIDE, SMALL)
    )


def main() -> int:
    """Draw all pictures; 1 when one could not be had."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true", help="each page in each look")
    parser.add_argument("--only", default="", help="the pictures of this set: " + ", ".join(SETS))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for name, draw in SETS.items():
        if options.only in ("", name):
            try:
                draw(options.folder, every_look if options.all else tuple)
            except (parts.PartMissing, AssertionError, OSError, ValueError, Error) as error:
                # The other pictures are wanted all the same.
                failed = True
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    total = sum(path.stat().st_size for path in options.folder.glob("*.png"))
    print(f"{total / 1000:.0f} kB in all")
    return 1 if failed else 0


Choose = Callable[[tuple[Shot, ...]], tuple[Shot, ...]]


def draw_herd(folder: Path, choose: Choose) -> None:
    """A library of two models, one in use."""
    with kit.temporary_home() as (path, environ), kit.running_engine(path, environ) as client:
        # Greedy: the picture shows the same answer each time, and a small model's best one.
        client.call("change_model_settings", model_id=FIRST, changes=kit.GREEDY)
        client.call("switch_model", model_id=SECOND)
        kit.wait_ready(client, SECOND)
        client.call("switch_model", model_id=FIRST)
        kit.wait_ready(client, FIRST)
        kit.complete(client, "A llama is", tokens=8)
        draw(choose(HERD), folder, client, environ)


def draw_empty(folder: Path, choose: Choose) -> None:
    """What a new user sees."""
    with (
        kit.temporary_home(models=False) as (path, environ),
        kit.running_engine(path, environ) as client,
    ):
        draw(choose(EMPTY), folder, client, environ)


def draw_building(folder: Path, choose: Choose) -> None:
    """A llama.cpp build under way; it is cancelled when it has its picture."""
    with kit.temporary_home(models=False, runtime=False) as (path, environ):
        environ["PATH"] = without_llama_server(environ["PATH"])
        environ.pop("LLAMA_WRANGLER_LLAMA_SERVER", None)
        with kit.running_engine(path, environ) as client:
            job_id = client.call("build_runtime")["job_id"]
            draw(choose(BUILDING), folder, client, environ)
            client.call("cancel_job", job_id=job_id)


def draw_failure(folder: Path, choose: Choose) -> None:
    """A model that cannot start, because of an argument that llama-server does not know."""
    with kit.temporary_home() as (path, environ):
        kit.write_settings(path, models={FIRST: {"extra_args": ["--no-such-option"]}})
        with kit.running_engine(path, environ) as client:
            client.call("switch_model", model_id=SECOND)
            kit.wait_ready(client, SECOND)
            client.call("switch_model", model_id=FIRST)
            draw(choose(FAILURE), folder, client, environ)


def draw_tray_menu(folder: Path, choose: Choose) -> None:
    """The real tray's menu, below its icon."""
    with kit.temporary_home() as (path, environ), private_session() as session:
        shown = {**environ, **session, **{k: environ[k] for k in OWN}}
        asyncio.run(_draw_tray_menu(path, shown, folder / "tray-menu.png"))


async def _draw_tray_menu(path: Path, environ: dict[str, str], target: Path) -> None:
    async with TrayHost.on(environ) as host:
        words = kit.app("tray", "--hidden")
        tray = await asyncio.create_subprocess_exec(*words, cwd=kit.ROOT, env=environ)
        try:
            await host.wait_item()
            client = await asyncio.to_thread(kit.connected, path)
            await host.wait_menu(lambda menu: menu.find("SmolLM2*"), "the models")
            await asyncio.to_thread(client.call, "switch_model", model_id=FIRST)
            await host.wait_menu(lambda menu: menu.find(f"{FIRST_NAME} — loaded"), "the model")
            values = await host.properties()
            menu = [host.service, values["Menu"], values["IconName"]]
            await asyncio.to_thread(_draw_panel, environ, menu, path / "screen.png", target)
        finally:
            tray.terminate()  # it says goodbye on the bus, which has to be served meanwhile
            await tray.wait()


def _draw_panel(environ: Mapping[str, str], menu: list[str], screen: Path, target: Path) -> None:
    words = [sys.executable, "-m", "scripts.panel", *menu]
    panel = subprocess.Popen(words, cwd=kit.ROOT, env=environ, stderr=subprocess.DEVNULL)
    try:
        image = settled_screen(environ, screen)
        save(image.crop(image.getbbox()), target)
    finally:
        kit.end(panel)


def settled_screen(environ: Mapping[str, str], path: Path) -> Any:
    """The screen once an open menu has stopped to change it."""
    last: list[Any] = [None]

    def ask() -> Any:
        image = kit.screenshot(environ, path)
        box = image.getbbox()
        same = last[0] is not None and image.tobytes() == last[0].tobytes()
        last[0] = image
        return image if same and box is not None and box[3] > 200 else None

    return kit.wait_for(ask, "the open menu")


SETS: dict[str, Callable[[Path, Choose], None]] = {
    "herd": draw_herd,
    "empty": draw_empty,
    "building": draw_building,
    "failure": draw_failure,
    "tray-menu": draw_tray_menu,
}
OWN = ("LLAMA_WRANGLER_HOME", "LLAMA_WRANGLER_CACHE")


def without_llama_server(search_path: str) -> str:
    """A PATH on which no llama-server is found."""
    folders = search_path.split(os.pathsep)
    return os.pathsep.join(f for f in folders if not (Path(f) / "llama-server").exists())


def draw(shots: tuple[Shot, ...], folder: Path, client: Client, environ: Mapping[str, str]) -> None:
    """Take the pictures of one engine; the looks of one state share a page."""
    with kit.browser(environ) as browser:
        for prepare in dict.fromkeys(shot.prepare for shot in shots):
            looks = [shot for shot in shots if shot.prepare is prepare]
            page = browser.new_page(reduced_motion="reduce")
            with contextlib.closing(page):
                show(page, looks[0])
                kit.enter(page, client, looks[0].page)
                prepare(page, client)
                page.evaluate(USUAL, own_words(client))
                for look in looks:
                    show(page, look)
                    with Image.open(io.BytesIO(page.screenshot())) as image:
                        save(image.convert("RGB"), folder / f"{look.name}.png")


def own_words(client: Client) -> list[Any]:
    """The home, the llama-server and the port of this run."""
    snapshot = client.snapshot()
    runtime = snapshot["runtime"]["active"] or {"server_path": snapshot["home"]}
    return [snapshot["home"], runtime["server_path"], snapshot["gateway"]["port"]]


def show(page: Any, shot: Shot) -> None:
    """Give a page the size and the theme of a picture."""
    page.set_viewport_size(dict(zip(("width", "height"), shot.size, strict=True)))
    page.emulate_media(color_scheme=shot.theme)


def save(image: Any, path: Path) -> None:
    """Write a PNG of few colours. Raises ValueError when it is too large for the repository."""
    image.quantize(192, dither=0).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {image.width} x {image.height}, {size / 1000:.0f} kB")
    if size > LIMIT_BYTES:
        raise ValueError(f"{path} has {size} bytes, the limit is {LIMIT_BYTES}")


if __name__ == "__main__":
    sys.exit(main())
