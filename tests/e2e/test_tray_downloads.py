"""A download in the tray: real tray, real engine, real clicks, a loopback Hub."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import parts
from tests.e2e import kit
from tests.e2e.sni_host import private_session, wait_until
from tests.e2e.test_tray_menu import ended, run, tray
from tests.hub_server import HubServer, hub_server
from tray_app.client import Client
from tray_app.link_handler import ENTRY

pytest.importorskip("gi", reason="PyGObject is not installed")

REPO = "herders/SmolLM2-GGUF"
SLOW_BYTES_S = 4_000_000


@pytest.fixture
def hub(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        server.put(REPO, {parts.SMOLLM2_FILE: smollm2})
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture
def environ(home: Path, hub: HubServer, free_port: int) -> Iterator[dict[str, str]]:
    kit.write_settings(
        home,
        server={"port": free_port, "start_with": "nothing"},
        runtime={"auto_build": False},
        downloads={"limit_bytes_s": SLOW_BYTES_S},
    )
    with private_session() as session:
        yield session | {"LLAMA_WRANGLER_HOME": str(home), "HF_ENDPOINT": hub.url}


def state_of(client: Client) -> str:
    rows: list[dict[str, Any]] = client.snapshot()["downloads"]
    return str(rows[0]["state"]) if rows else "none"


def test_a_download_is_watched_paused_and_told_of_in_the_tray(
    environ: dict[str, str], home: Path
) -> None:
    async def test() -> None:
        async with tray(environ) as (host, process):
            await host.wait_menu(lambda m: m.find("Add your first model*"), "the way to a model")
            client = Client.connect(home)
            client.call("pull", reference=REPO)
            await host.wait_menu(lambda m: m.find("Downloads*", "SmolLM2-GGUF*"), "the download")
            await host.wait_menu(lambda m: "%" in m.find("Downloads*").label, "how far it is")
            await host.click("Downloads*", "Pause all")
            await wait_until(lambda: state_of(client) == "paused", "the pause", 20)
            await host.wait_menu(lambda m: m.find("Downloads — paused"), "that it is paused")
            assert "downloading" not in await host.title()
            client.call("change_settings", changes={"downloads.limit_bytes_s": None})
            await host.click("Downloads*", "Resume all")
            await wait_until(lambda: state_of(client) == "done", "the end", 60)
            await host.wait_menu(lambda m: m.find("SmolLM2*"), "the model")
            await wait_until(lambda: host.notifications.shown, "a message", 20)
            summaries = [summary for summary, _ in host.notifications.shown]
            assert [line for line in summaries if line.endswith("is ready")], summaries
            await host.wait_menu(lambda m: m.find("Get a model…"), "the way to another")
            await host.click("Quit")
            assert await ended(process) == 0

    run(test)


def test_a_link_brings_the_window_with_its_question(environ: dict[str, str], home: Path) -> None:
    async def test() -> None:
        async with tray(environ) as (host, process):
            await host.wait_menu(lambda m: m.find("Add your first model*"), "the engine")
            link = kit.app("open", f"llama-wrangler://pull/{REPO}")
            asked = await asyncio.create_subprocess_exec(*link, env=environ)
            assert await asyncio.wait_for(asked.wait(), 20) == 0
            await wait_until(lambda: kit.window_processes(home), "the window", 20)
            (window,) = kit.window_processes(home)
            words = window.cmdline()
            assert words[words.index("--page") + 1] == "discover"
            assert words[words.index("--reference") + 1] == REPO
            assert Client.connect(home).snapshot()["downloads"] == []  # it only asks
            await host.click("Quit")
            assert await ended(process) == 0

    run(test)


def test_the_tray_opens_links_from_its_first_start_on(environ: dict[str, str]) -> None:
    async def test() -> None:
        async with tray(environ) as (host, process):
            entry = Path(environ["HOME"]) / ".local" / "share" / "applications" / ENTRY
            await wait_until(entry.is_file, "the entry for links", 20)
            assert "%u" in entry.read_text()
            apps = Path(environ["XDG_CONFIG_HOME"]) / "mimeapps.list"
            await wait_until(apps.is_file, "the default for links", 20)
            await host.click("Quit")
            assert await ended(process) == 0

    run(test)
