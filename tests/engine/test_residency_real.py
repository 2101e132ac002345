"""The resident set with real llama-servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.unit.engine_kit import error_of, on_loop
from tray_app.engine.child_registry import ChildRegistry
from tray_app.engine.home import Home
from tray_app.engine.launch import Placement, arguments
from tray_app.engine.llama_server import ServerChild, free_endpoint
from tray_app.engine.residency import Residency
from tray_app.engine.resident import Lease, Plan
from tray_app.engine.settings import ModelSettings
from tray_app.engine.values import Model, ModelState, ModelStatus, Runtime

READY_S = 60.0


@dataclass
class Set:
    """A residency of real children in `home`; sizes and contexts are the test's to say."""

    home: Home
    runtime: Runtime
    paths: dict[str, Path]
    sizes: dict[str, int] = field(default_factory=dict)
    contexts: dict[str, int] = field(default_factory=dict)
    extra: dict[str, tuple[str, ...]] = field(default_factory=dict)
    budget: int = 1000
    active: str | None = None
    told: list[ModelStatus] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = ChildRegistry(self.home.children_file)
        self.residency = Residency(
            self._plan,
            lambda _: {"Host": self.budget},
            self.told.append,
            is_active=lambda model_id: model_id == self.active,
            pauses_s=(0.05, 0.1),
        )

    def _plan(self, model_id: str) -> Plan:
        path = self.paths[model_id]
        model = Model(
            model_id, model_id, None, path, path.parent, path.stat().st_size, 1, 0.0
        )  # fmt: skip
        placement = Placement(self.contexts.get(model_id, 512))
        settings = ModelSettings(extra_args=self.extra.get(model_id, ()))

        def start() -> ServerChild:
            endpoint = free_endpoint(self.home.run)
            argv = arguments(
                model, settings, self.runtime, placement, endpoint, self.home.run, 64
            )  # fmt: skip
            return ServerChild(argv, endpoint, self.home.logs / f"{model_id}.log", self.registry)

        return Plan(self.sizes.get(model_id, 10), placement.context_length, False, start)

    def status(self, model_id: str) -> ModelStatus:
        return self.residency.statuses().get(model_id, ModelStatus(model_id))

    async def acquire(self, model_id: str, counts: bool = True) -> Lease:
        async with asyncio.timeout(READY_S):
            return await self.residency.acquire(model_id, counts)

    async def state_is(self, model_id: str, state: ModelState) -> None:
        async with asyncio.timeout(READY_S):
            while self.status(model_id).state is not state:
                await asyncio.sleep(0.005)

    def pid(self, model_id: str) -> int:
        pid = self.status(model_id).pid
        assert pid is not None
        return pid


@pytest.fixture
def runtime(llama_server: Path) -> Runtime:
    return Runtime("b-cpu", None, "cpu", llama_server, "test", "")


@contextlib.asynccontextmanager
async def real(home: Path, runtime: Runtime, **paths: Path) -> AsyncIterator[Set]:
    place = Home(home)
    place.create()
    made = Set(place, runtime, paths)
    try:
        yield made
    finally:
        pids = [record.pid for record in made.registry.records()]
        await made.residency.close()
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert made.registry.records() == ()
        assert list(place.run.glob("*.sock")) == []


async def answers(lease: Lease) -> bytes:
    """The status line of a real request through the lease's socket."""
    assert lease.socket_path is not None
    reader, writer = await asyncio.open_unix_connection(lease.socket_path)
    body = b'{"prompt": "Hello", "n_predict": 4}'
    writer.write(
        b"POST /completion HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    try:
        reply = await reader.read()
    finally:
        writer.close()
    return reply.split(b"\r\n")[0]


@on_loop
async def _load_switch_and_return(home: Path, runtime: Runtime, first: Path, second: Path) -> None:
    async with real(home, runtime, a=first, b=second) as models:
        models.budget = 15  # one at a time
        lease = await models.acquire("a")
        assert await answers(lease) == b"HTTP/1.1 200 OK"
        first_pid = models.pid("a")
        waiting = asyncio.create_task(models.acquire("b"))
        await models.state_is("b", ModelState.WAITING)
        assert psutil.pid_exists(first_pid)
        lease.release()
        other = await waiting
        assert await answers(other) == b"HTTP/1.1 200 OK"
        assert not psutil.pid_exists(first_pid)
        assert models.status("a").state is ModelState.UNLOADED
        other.release()
        models.budget = 100  # both
        (await models.acquire("a")).release()
        assert models.status("b").state is ModelState.READY
        status = models.status("a")
        assert status.load_s is not None
        assert status.load_s > 0
        assert status.context_length == 512


def test_models_are_loaded_switched_and_kept_by_the_budget(
    home: Path, runtime: Runtime, smollm2: Path, smollm2_q2: Path
) -> None:
    _load_switch_and_return(home, runtime, smollm2, smollm2_q2)


@on_loop
async def _killed(home: Path, runtime: Runtime, path: Path) -> None:
    async with real(home, runtime, a=path) as models:
        models.active = "a"
        lease = await models.acquire("a")
        pid = models.pid("a")
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            died = await asyncio.shield(lease.died)
        assert died.code == "killed"
        lease.release()
        again = await models.acquire("a")
        assert models.pid("a") != pid
        assert await answers(again) == b"HTTP/1.1 200 OK"
        again.release()
        assert ModelState.BACKOFF in [status.state for status in models.told]
        assert models.status("a").in_flight == 0


def test_a_killed_child_is_started_again(home: Path, runtime: Runtime, smollm2_q2: Path) -> None:
    _killed(home, runtime, smollm2_q2)


@on_loop
async def _reasons(home: Path, runtime: Runtime, path: Path) -> None:
    cut = home / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:20_000_000])
    noise = home / "noise.gguf"
    noise.write_bytes(b"no model at all" * 1000)
    async with real(home, runtime, cut=cut, noise=noise, vast=path, odd=path) as models:
        models.contexts["vast"] = 16_000_000
        models.extra["odd"] = ("--no-such-thing",)
        for name in ("cut", "noise"):
            error = await error_of_load(models, name)
            assert error == ("bad_gguf", "The model file is damaged or incomplete.")
        code, message = await error_of_load(models, "vast")
        assert code == "not_enough_memory"
        assert message == "There was not enough memory to load it."
        code, message = await error_of_load(models, "odd")
        assert code == "bad_argument"
        assert "--no-such-thing" in message
        starts = [status.model_id for status in models.told if status.state is ModelState.LOADING]
        assert len(starts) == len(set(starts)), "a permanent fault was tried again"


async def error_of_load(models: Set, model_id: str) -> tuple[str, str]:
    task = asyncio.create_task(models.residency.acquire(model_id))
    await asyncio.wait([task], timeout=READY_S)
    error = await error_of(task)
    assert error.remedy
    assert models.status(model_id).state is ModelState.FAILED
    return error.code, error.message


def test_why_a_model_cannot_be_loaded_is_said_in_plain_words(
    home: Path, runtime: Runtime, smollm2_q2: Path
) -> None:
    _reasons(home, runtime, smollm2_q2)


@on_loop
async def _ended_in_the_middle(home: Path, runtime: Runtime, first: Path, second: Path) -> None:
    async with real(home, runtime, a=first, b=second) as models:
        lease = await models.acquire("a")
        loading = asyncio.create_task(models.acquire("b"))
        await models.state_is("b", ModelState.LOADING)
        pids = [models.pid("a"), models.pid("b")]
        await models.residency.close()
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert (await lease.died).code == "model_stopped"
        lease.release()
        assert (await error_of(loading)).message == "The engine is stopping."


def test_the_end_takes_everything_with_it(
    home: Path, runtime: Runtime, smollm2: Path, smollm2_q2: Path
) -> None:
    _ended_in_the_middle(home, runtime, smollm2, smollm2_q2)


@on_loop
async def _unload_now(home: Path, runtime: Runtime, path: Path) -> None:
    async with real(home, runtime, a=path) as models:
        lease = await models.acquire("a")
        await models.residency.unload("a", now=True)
        assert (await lease.died).code == "model_stopped"
        lease.release()
        assert models.status("a").state is ModelState.UNLOADED
        (await models.acquire("a")).release()


def test_unload_now_ends_a_busy_child(home: Path, runtime: Runtime, smollm2_q2: Path) -> None:
    _unload_now(home, runtime, smollm2_q2)
