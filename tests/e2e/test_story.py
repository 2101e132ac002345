"""The whole story on a private desktop: tray, engine, window, models and an OpenAI client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e import kit
from tests.e2e.sni_host import Entry, TrayHost, wait_until
from tray_app.client import Client

pytest.importorskip("gi", reason="PyGObject is not installed")
openai = pytest.importorskip("openai")

FIRST = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF:Q4_1"
SECOND = "second-herd/SmolLM2-135M-Small-GGUF:Q2_K"
FIRST_NAME, SECOND_NAME = "SmolLM2-135M-Instruct", "SmolLM2-135M-Small"
TRAY_ENDS_S = 30.0


@dataclass
class Desk:
    """A home with two models, and a desktop to run the tray on."""

    home: Path
    port: int
    environ: dict[str, str]

    def client(self) -> Client:
        """A client of the engine that runs now."""
        return kit.connected(self.home)

    async def answer(self) -> str:
        """Chat through the gateway as any OpenAI program does; returns which model answered."""
        base_url = f"http://127.0.0.1:{self.port}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
            reply = await client.chat.completions.create(
                model="default",
                messages=[{"role": "user", "content": "Say hello."}],
                max_tokens=4,
            )
            assert reply.choices[0].message.content
            return str(reply.model)


@pytest.fixture
def desk(two_models_home: Path, free_port: int, display: dict[str, str]) -> Desk:
    kit.write_settings(two_models_home, server={"port": free_port, "context_length": 2048})
    return Desk(two_models_home, free_port, display)


@asynccontextmanager
async def tray(
    desk: Desk, host: TrayHost, *words: str
) -> AsyncIterator[tuple[psutil.Process, Client]]:
    """The tray process and its engine, the menu showing both models."""
    count = len(host.items) + 1
    process = await asyncio.create_subprocess_exec(
        *kit.app("tray", *words), cwd=kit.ROOT, env=desk.environ
    )
    try:
        await host.wait_item(count, 20)
        await host.wait_menu(lambda m: row(m, FIRST_NAME) and row(m, SECOND_NAME), "the models")
        client = await asyncio.to_thread(desk.client)
        yield psutil.Process(process.pid), client
        if kit.gone(process.pid):  # the test killed it
            await process.wait()
        else:
            await host.click("Quit")
            assert await asyncio.wait_for(process.wait(), TRAY_ENDS_S) == 0
            await wait_until(lambda: kit.gone(client.engine_pid), "the engine to end")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def row(menu: Entry, name: str) -> Entry | None:
    """The line of a model: the one with a tick, whatever state its label tells."""
    for entry in menu.children:
        if entry.radio and (entry.label == name or entry.label.startswith(f"{name} — ")):
            return entry
    return None


async def choose(host: TrayHost, name: str) -> None:
    """Click on a model in the menu."""
    entry = row(await host.menu(), name)
    assert entry is not None
    await host.click(entry.label)


def ready(name: str) -> Callable[[Entry], bool]:
    """Whether the menu shows a model ticked and loaded."""

    def accept(menu: Entry) -> bool:
        entry = row(menu, name)
        return entry is not None and entry.checked is True and entry.label.endswith("— loaded")

    return accept


def window_of(process: psutil.Process) -> psutil.Process | None:
    """The window process of a tray, if it has one."""
    for child in process.children():
        with contextlib.suppress(psutil.Error):  # it ended a moment ago
            if "window" in child.cmdline():
                return child
    return None


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 100)

    asyncio.run(bounded())


def test_the_tray_switches_what_answers_as_default(desk: Desk) -> None:
    async def test() -> None:
        async with TrayHost.on(desk.environ) as host, tray(desk, host) as (process, client):
            await choose(host, FIRST_NAME)
            await host.wait_menu(ready(FIRST_NAME), "the first model ticked and loaded", 40)
            assert await desk.answer() == FIRST
            await choose(host, SECOND_NAME)
            # Asked at once: the request waits for the model that was just chosen.
            await wait_until(lambda: client.snapshot()["active_model_id"] == SECOND, "the choice")
            assert await desk.answer() == SECOND
            await host.wait_menu(ready(SECOND_NAME), "the second model ticked and loaded", 40)
            await host.wait_menu(lambda m: m.find(f"{SECOND_NAME} is ready"), "the state")
            assert await host.title() == f"Llama Wrangler: {SECOND_NAME} is ready"
            await choose(host, FIRST_NAME)
            await host.wait_menu(ready(FIRST_NAME), "the tick back at the first")
            assert await desk.answer() == FIRST
            assert process.is_running()

    run(test)


def test_a_second_start_shows_the_window_of_the_first(desk: Desk) -> None:
    async def test() -> None:
        async with TrayHost.on(desk.environ) as host, tray(desk, host) as (process, client):
            first = await asyncio.to_thread(kit.wait_window, desk.environ)
            window = window_of(process)
            assert window is not None
            assert await second_start(desk) == 0
            assert window_of(process) == window  # the one that is open came to the front
            assert kit.windows(desk.environ) == [first]
            await asyncio.to_thread(end_by_signal, window)
            # It may be there again by itself: who asked a dying window for it means a new one.
            assert await second_start(desk) == 0
            await wait_until(
                lambda: window_of(process) not in (None, window), "a new window of the first tray"
            )
            await asyncio.to_thread(kit.wait_window, desk.environ)
            assert len(host.items) == 1
            assert kit.connected(desk.home).engine_pid == client.engine_pid

    run(test)


async def second_start(desk: Desk) -> int:
    """Start the program again; returns its exit code."""
    process = await asyncio.create_subprocess_exec(*kit.app(), cwd=kit.ROOT, env=desk.environ)
    return await asyncio.wait_for(process.wait(), 20)


def end_by_signal(process: psutil.Process, number: int = signal.SIGTERM) -> None:
    """Signal a process and wait for its end; the tray reaps it."""
    process.send_signal(number)
    kit.wait_for(lambda: kit.gone(process.pid), f"process {process.pid} to end")


async def make_state(host: TrayHost, client: Client) -> None:
    """A choice and a setting of the user, that nothing may lose."""
    await choose(host, SECOND_NAME)
    await host.wait_menu(ready(SECOND_NAME), "the second model", 40)
    changes = {"context_length": 1024}
    await call(client, "change_model_settings", model_id=FIRST, changes=changes)
    await call(client, "change_settings", changes={"ui.theme": "dark"})


async def assert_state(desk: Desk, client: Client) -> None:
    """What `make_state` made is there, and the chosen model answers."""
    snapshot = await asyncio.to_thread(client.snapshot)
    assert snapshot["active_model_id"] == SECOND
    assert snapshot["settings"]["models"][FIRST]["context_length"] == 1024
    assert snapshot["settings"]["ui"]["theme"] == "dark"
    assert [n["code"] for n in snapshot["notices"] if n["code"].endswith("broken")] == []
    assert await desk.answer() == SECOND


async def call(client: Client, name: str, **args: Any) -> Any:
    """A command, while the bus goes on being served."""
    return await asyncio.to_thread(lambda: client.call(name, **args))


def test_a_killed_tray_takes_its_window_and_leaves_the_server(desk: Desk) -> None:
    async def test() -> None:
        async with TrayHost.on(desk.environ) as host:
            async with tray(desk, host) as (process, client):
                await make_state(host, client)
                await wait_until(lambda: window_of(process) is not None, "the window")
                window = window_of(process)
                assert window is not None
                process.kill()
                await wait_until(lambda: kit.gone(window.pid), "the window to end")
                assert await desk.answer() == SECOND
                await wait_until(lambda: kit.gone(process.pid), "the tray to be gone")
            async with tray(desk, host, "--hidden") as (_, again):
                assert again.engine_pid == client.engine_pid
                await assert_state(desk, again)
            assert kit.gone(client.engine_pid)

    run(test)


def test_a_killed_window_is_opened_again_from_the_menu(desk: Desk) -> None:
    async def test() -> None:
        async with TrayHost.on(desk.environ) as host, tray(desk, host) as (process, client):
            await make_state(host, client)
            await wait_until(lambda: window_of(process) is not None, "the window")
            window = window_of(process)
            assert window is not None
            pages = await asyncio.to_thread(lambda: window.children(recursive=True))
            window.kill()
            await wait_until(lambda: window_of(process) is None, "the window to be reaped")
            await wait_until(lambda: all(kit.gone(page.pid) for page in pages), "its web engine")
            await assert_state(desk, client)
            await host.click("Open window")
            await wait_until(lambda: window_of(process) is not None, "the next window")
            await asyncio.to_thread(kit.wait_window, desk.environ)

    run(test)


def test_a_killed_engine_takes_its_models_and_comes_back_with_the_choice(desk: Desk) -> None:
    async def test() -> None:
        async with TrayHost.on(desk.environ) as host, tray(desk, host) as (process, client):
            await make_state(host, client)
            models = kit.child_pids(client)
            assert models
            os.kill(client.engine_pid, signal.SIGKILL)
            await wait_until(lambda: all(map(kit.gone, models)), "the models to end")
            again = await asyncio.to_thread(another_engine, desk, client.engine_pid)
            await host.wait_menu(ready(SECOND_NAME), "the model brought back", 40)
            await assert_state(desk, again)
            assert process.is_running()
        assert kit.gone(again.engine_pid)

    run(test)


def another_engine(desk: Desk, before: int) -> Client:
    """A client of the engine that came after the one with pid `before`."""

    def ask() -> Client | None:
        client = desk.client()
        return client if client.engine_pid != before else None

    return kit.wait_for(ask, "the next engine")


def test_a_killed_model_is_started_again(desk: Desk) -> None:
    async def test() -> None:
        async with TrayHost.on(desk.environ) as host, tray(desk, host, "--hidden") as (_, client):
            await make_state(host, client)
            before = kit.status_of(client, SECOND)["pid"]
            os.kill(before, signal.SIGKILL)
            # Only a request of the moment before the engine has seen it is lost, with a reason.
            await wait_until(lambda: kit.status_of(client, SECOND)["pid"] != before, "its end")
            await assert_state(desk, client)
            assert kit.status_of(client, SECOND)["pid"] != before
            await host.wait_menu(ready(SECOND_NAME), "the model back", 40)

    run(test)


def test_everything_killed_at_once_leaves_nothing_and_starts_clean(desk: Desk) -> None:
    async def test() -> None:
        async with TrayHost.on(desk.environ) as host:
            async with tray(desk, host) as (process, client):
                await make_state(host, client)
                await wait_until(lambda: window_of(process) is not None, "the window")
                window = window_of(process)
                assert window is not None
                models = kit.child_pids(client)
                for pid in (client.engine_pid, window.pid, process.pid):
                    os.kill(pid, signal.SIGKILL)
                dead = [client.engine_pid, window.pid, process.pid, *models]
                await wait_until(lambda: all(map(kit.gone, dead)), "all processes to end")
            async with tray(desk, host, "--hidden") as (_, again):
                await host.wait_menu(ready(SECOND_NAME), "the model brought back", 40)
                await assert_state(desk, again)

    run(test)
