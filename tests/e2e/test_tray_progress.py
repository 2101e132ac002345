"""A menu that a user holds open while a download moves on: real tray, real panel protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dbus_fast import Variant

from tests.e2e.sni_host import MENU, Entry, private_session, wait_until
from tests.e2e.test_tray_menu import run, tray
from tests.tray_kit import StandInEngine, download, model, snapshot, stand_in_engine
from tray_app.engine.downloads.values import DownloadState

pytest.importorskip("gi", reason="PyGObject is not installed")

STEPS = range(0, 100, 4)


@pytest.fixture
def environ(home: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    with private_session() as session:
        yield session | {
            "LLAMA_WRANGLER_HOME": str(home),
            "LLAMA_WRANGLER_CACHE": str(tmp_path / "cache"),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
        }


def show(engine: StandInEngine, percent: int) -> None:
    """A download of a gigabyte is so far, at a speed that changes each time."""
    row = download(
        DownloadState.RUNNING, done_bytes=percent * 10**7, rate_bytes_s=1e6 * (1 + percent)
    )
    engine.show(snapshot(model("Alpha"), downloads=(row,)))


def ids(entry: Entry) -> list[int]:
    return [entry.id, *(number for child in entry.children for number in ids(child))]


def test_a_click_in_a_menu_that_was_opened_before_the_progress_still_counts(
    environ: dict[str, str], home: Path
) -> None:
    async def test() -> None:
        with stand_in_engine(home) as engine:
            show(engine, 0)
            async with tray(environ) as (host, _):
                opened = await host.wait_menu(lambda m: m.find("Downloads — 0 %*"), "the download")
                await wait_until(engine.listeners, "the tray to listen")
                for percent in STEPS:
                    show(engine, percent)
                    row = f"Woolly Q4_K_M — {percent} % · {1 + percent} MB/s"
                    menu = await host.wait_menu(lambda m, r=row: m.find("Downloads*", r), row)
                    assert ids(menu) == ids(opened)
                pause = opened.find("Downloads*", "Pause all")
                assert pause is not None
                address = (await host.properties())["Menu"]
                click = (pause.id, "clicked", Variant("i", 0), 0)
                await host._call(address, MENU, "Event", "isvu", *click)
                await wait_until(lambda: ("pause_downloads", {}) in engine.calls, "the pause")
                assert await host.title() == (
                    "Llama Wrangler: No model chosen · downloading, 96 %, less than a minute left"
                )

    run(test)
