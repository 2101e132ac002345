"""Aids for the engine's unit tests: scripted children, and a residency to plug them into."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tray_app.engine.core import Engine
from tray_app.engine.errors import EngineError, ErrorView
from tray_app.engine.faults import Fault
from tray_app.engine.home import Home
from tray_app.engine.launch import Endpoint
from tray_app.engine.llama_server import Ended, ServerChild
from tray_app.engine.residency import Residency
from tray_app.engine.resident import Lease, Plan
from tray_app.engine.values import Model, ModelState, ModelStatus

PATIENCE_S = 15.0
CRASH = Fault(ErrorView("crashed", "llama-server crashed (SIGSEGV).", "Open its log."), False)
BROKEN = Fault(ErrorView("bad_gguf", "The model file is damaged.", "Download it again."), True)


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test; afterwards no task of it may be left."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def body() -> None:
            async with asyncio.timeout(30):
                await test(*args, **kwargs)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks were left behind: {left}"

        asyncio.run(body())

    return run


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Let the loop run until `condition` holds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while not condition():
        assert loop.time() < deadline, f"it did not come to be: {what or condition}"
        await asyncio.sleep(0.0005)


async def turns(count: int = 20) -> None:
    """Let everything that is ready run, several rounds of it."""
    for _ in range(count):
        await asyncio.sleep(0)


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """The same for a test without a loop."""
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come to be")


class ScriptedChild:
    """A child that does what the test says; `stop` ends it unless it `hangs`."""

    numbers = iter(range(1000, 10**9))

    def __init__(self, model_id: str, *, ready: bool = True, hangs: bool = False) -> None:
        self.model_id = model_id
        self.endpoint = Endpoint(socket_path=Path(f"/nowhere/{model_id}.sock"))
        self.pid = next(self.numbers)
        self.process = SimpleNamespace(spec=SimpleNamespace(argv=("llama-server", model_id)))
        loop = asyncio.get_running_loop()
        self.died: asyncio.Future[ErrorView] = loop.create_future()
        self.ended: asyncio.Future[Ended] = loop.create_future()
        self.hangs = hangs
        self.stops = 0
        self.offloaded: tuple[int, int] | None = None
        self._ready = asyncio.Event()
        if ready:
            self._ready.set()

    def come_up(self) -> None:
        self._ready.set()

    def die(self, fault: Fault | None = CRASH) -> None:
        if not self.ended.done():
            self.ended.set_result(Ended(fault))
            stopped = ErrorView("model_stopped", "The model was unloaded.")
            self.died.set_result(fault.error if fault else stopped)

    async def wait_ready(self) -> bool:
        ready = asyncio.ensure_future(self._ready.wait())
        try:
            await asyncio.wait([ready, self.ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        return not self.ended.done()

    async def offload(self) -> tuple[int, int] | None:
        return self.offloaded

    async def stop(self, grace_s: float = 5.0) -> None:
        self.stops += 1
        await asyncio.sleep(0)  # the real one asks in a thread
        if not self.hangs:
            self.die(None)
        await asyncio.wait([self.ended], timeout=PATIENCE_S)


class Rig:
    """A residency over scripted children. Sizes are bytes by model; the budget is 100."""

    def __init__(self, sizes: dict[str, int] | None = None, **options: Any) -> None:
        self.sizes = sizes or {"a": 60, "b": 60, "c": 60, "d": 60}
        self.budget = 100
        self.pinned: set[str] = set()
        self.errors: dict[str, Exception] = {}  # raised by planning
        self.first_fits: dict[str, int] = {}  # the room that is made before it is measured
        self.slow: set[str] = set()  # children that come up when told to
        self.hanging: set[str] = set()
        self.active: str | None = None
        self.runtime = "b1-cpu"  # what is planned with
        self.offloaded: tuple[int, int] | None = None
        self.planning = threading.Event()  # cleared: planning waits
        self.planning.set()
        self.planned: list[str] = []
        self.children: dict[str, list[ScriptedChild]] = {}
        self.loads: list[str] = []
        self.told: list[ModelStatus] = []
        self.on_told: Callable[[ModelStatus], object] = lambda _: None
        self.now = 0.0
        self.residency = Residency(
            self._plan,
            lambda _: {"Host": self.budget},
            self._tell,
            is_active=lambda model_id: model_id == self.active,
            clock=lambda: self.now,
            **{"pauses_s": (0.001, 0.001, 0.001, 0.001), **options},
        )

    async def __aenter__(self) -> Rig:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.planning.set()
        for children in self.children.values():
            for child in children:
                child.hangs = False
        await self.residency.close()
        assert all(c.ended.done() for children in self.children.values() for c in children)
        assert all(status.in_flight >= 0 for status in self.told)

    def _tell(self, status: ModelStatus) -> None:
        self.told.append(status)
        self.on_told(status)

    def _plan(self, model_id: str) -> Plan:
        self.planned.append(model_id)
        assert self.planning.wait(PATIENCE_S)
        if model_id in self.errors:
            raise self.errors[model_id]

        def start() -> ServerChild:
            child = ScriptedChild(
                model_id, ready=model_id not in self.slow, hangs=model_id in self.hanging
            )
            child.offloaded = self.offloaded
            self.children.setdefault(model_id, []).append(child)
            self.loads.append(model_id)
            return cast(ServerChild, child)

        pinned = model_id in self.pinned
        plan = Plan(self.sizes[model_id], 2048, pinned, start, self.runtime, None)
        wide = self.first_fits.pop(model_id, None)
        return plan if wide is None else replace(plan, memory_bytes=wide, measure=lambda: plan)

    def child(self, model_id: str) -> ScriptedChild:
        return self.children[model_id][-1]

    def status(self, model_id: str) -> ModelStatus:
        return self.residency.statuses().get(model_id, ModelStatus(model_id))

    def state(self, model_id: str) -> ModelState:
        return self.status(model_id).state

    def ask(self, model_id: str) -> asyncio.Task[Lease]:
        return asyncio.get_running_loop().create_task(self.residency.acquire(model_id))

    async def waiting(self, model_id: str) -> asyncio.Task[Lease]:
        """A request that has joined the queue."""
        task = self.ask(model_id)
        await until(lambda: self.status(model_id).waiting > 0 or task.done(), f"{model_id} waits")
        return task

    async def state_is(self, model_id: str, state: ModelState) -> None:
        await until(lambda: self.state(model_id) is state, f"{model_id} is {state}")


async def error_of(work: Awaitable[object]) -> EngineError:
    """The error that `work` ends with."""
    try:
        await asyncio.wait_for(asyncio.ensure_future(work), PATIENCE_S)
    except EngineError as error:
        return error
    raise AssertionError("it went well")


def model(model_id: str = "org/first:Q4", **fields: Any) -> Model:
    """A library model; its name is the middle of its id."""
    name = model_id.rsplit("/", 1)[-1].rsplit(":", 1)[0]
    values: dict[str, Any] = {
        "id": model_id,
        "name": name,
        "publisher": "org",
        "path": Path(f"/models/{name}.gguf"),
        "folder": Path("/models"),
        "size_bytes": 1000,
        "shard_count": 1,
        "modified_at": 1.0,
        "quantization": model_id.partition(":")[2] or None,
        **fields,
    }
    return Model(**values)


@contextlib.contextmanager
def running_engine(path: Path, mode: str = "serve") -> Iterator[Engine]:
    """A whole engine on a loop in a thread, closed afterwards. It builds no runtime."""
    home = Home(path)
    home.create()
    if not home.settings.exists():
        home.settings.write_text("version = 1\n[runtime]\nauto_build = false\n")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def on_its_loop(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    async def make() -> Engine:
        return Engine(home, mode, "0.0.test")

    engine = on_its_loop(make())
    try:
        on_its_loop(engine.start())
        yield engine
    finally:
        engine.announce_stop()
        on_its_loop(engine.close())
        on_its_loop(loop.shutdown_default_executor())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
