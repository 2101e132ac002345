"""The residency over real processes that misbehave: each is a small Python script.

What llama-swap's tests of its process machinery prove (its list, paraphrased), and where it is
proven here. P: test_process, R: test_residency, RR: test_residency_runtimes, I: test_idleness,
S: test_gateway_streams, real: tests/engine; without a letter: this file.

start and stop ................... test_a_model_comes_up_answers_and_ends_and_each_step_is_told
run, stop, ensure are idempotent . test_what_is_asked_for_twice_happens_once,
                                   P test_many_threads_may_stop_one_child
ensure during a stop ............. test_a_request_while_a_slow_child_ends_gets_the_next_one,
                                   R test_a_request_during_the_stop_brings_the_model_back
a stop cancels a start ........... test_an_unload_ends_a_load_that_would_never_end,
                                   P test_stop_during_start_leaves_no_process
the parent ends during a start ... test_the_engines_end_ends_a_load_that_would_never_end
the caller gives up in a start ... test_who_gives_up_during_a_load_leaves_no_request_behind
a forked grandchild is reaped .... test_a_grandchild_that_ignores_sigterm_ends_with_its_model,
                                   P test_a_double_forked_grandchild_ends_with_the_first_process
a stop honours a long grace ...... test_a_child_that_needs_time_to_end_gets_it
SIGTERM ignored .................. test_a_child_that_ignores_sigterm_is_killed_after_its_grace
idle time: stops, starts anew .... I test_the_time_runs_from_the_end_of_the_last_request
idle time: zero disables ......... I test_the_time_is_the_models_own_or_the_servers
idle time: looks do not count .... I test_looking_is_not_using (websockets are not passed on)
state events are told ............ test_a_model_comes_up_answers_and_ends_and_each_step_is_told
run and stop at the same time .... test_loads_and_unloads_from_everywhere_leave_nothing_behind
upstream panics in mid-stream .... test_a_crash_in_mid_answer_is_told_and_the_next_is_answered,
                                   real test_a_killed_child_is_started_again
an error fails all waiters ....... test_all_who_wait_hear_why_it_died_while_loading
a death while loading ............ test_a_child_that_dies_once_while_loading_is_tried_again
ready check times out ............ test_a_load_that_hangs_is_given_up_and_others_go_on
floods its output ................ test_a_child_that_floods_its_log_comes_up_and_its_reason_is_found
queue: join what runs ............ R test_the_first_request_loads_and_later_ones_share
queue: no swap while serving ..... R test_a_busy_model_finishes_before_it_leaves
queue: disjoint side by side ..... R test_models_that_fit_together_stay_together (loads are in turn)
queue: overlapping not ........... R test_loads_happen_in_the_order_of_asking
queue: a drain promotes many ..... test_all_who_wait_for_a_drain_are_served_by_one_child
queue: client gone, count right .. R test_a_cancel_in_the_same_breath_as_the_grant_gives_the_…,
                                   S test_a_client_that_leaves_while_it_waits_leaves_the_queue
queue: an unload drops it ........ R test_unload_while_it_loads_ends_the_load
queue: limits .................... R test_the_queue_has_a_limit_of_its_own_for_each_model
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_kit import Client, FakeBackend, chat
from tests.unit.engine_kit import error_of, on_loop, until
from tray_app.engine import llama_server, residency
from tray_app.engine.child_registry import ChildRegistry
from tray_app.engine.home import Home
from tray_app.engine.llama_server import ServerChild, free_endpoint
from tray_app.engine.process_tree import is_running
from tray_app.engine.residency import Residency
from tray_app.engine.resident import Dismissed, Lease, Plan
from tray_app.engine.values import ModelState, ModelStatus
from tray_app.gateway import Gateway

pytestmark = pytest.mark.skipif(os.name == "nt", reason="unix sockets and signals")

UNLOADED, WAITING, LOADING, READY, STOPPING, BACKOFF, FAILED = ModelState

# A llama-server of sorts: `/health`, and one answer for everything else. It takes its
# misbehaviour as words, and `gate=PATH` waits for that file.
RESPONDER = r"""
import os, select, signal, socket, subprocess, sys
path, *words = sys.argv[1:]
options = dict(word.partition("=")[::2] for word in words)

def say(text):
    os.write(2, text.encode() + b"\n")

def leave(*_):
    say("ending")
    select.select([], [], [], float(options["slow-end"]))
    os._exit(7)

if "ignores-sigterm" in options:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "slow-end" in options:
    signal.signal(signal.SIGTERM, leave)
if "grandchild" in options:
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    say(f"grandchild {subprocess.Popen([sys.executable, '-c', script]).pid}")
if "floods" in options:
    for _ in range(2000):
        os.write(2, b"x" * 4095 + b"\n")
if "says" in options:
    say(options["says"])
    sys.exit(1)
if "dies-once" in options and not os.path.exists(options["dies-once"]):
    open(options["dies-once"], "w").close()
    os.abort()
if "deaf" in options:
    signal.pause()
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen(64)
kept = []
while True:
    link, _ = server.accept()
    if "mute" in options:
        kept.append(link)
        continue
    asked = link.recv(65536)
    if asked.startswith(b"GET /health"):
        ready = "never-ready" not in options and os.path.exists(options.get("gate", "/"))
        status = b"200 OK" if ready else b"503 Loading"
        link.sendall(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status)
    elif "crashes" in options and not os.path.exists(options["crashes"]):
        link.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                     b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
        open(options["crashes"], "w").close()
        os.abort()
    else:
        link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")
    link.close()
"""


class Machinery:
    """A residency of such children in `home`. Sizes are 60 of 100 unless a test says otherwise."""

    def __init__(self, home: Path) -> None:
        self.home = Home(home)
        self.home.create()
        self.registry = ChildRegistry(self.home.children_file)
        self.words: dict[str, tuple[str, ...]] = {}
        self.sizes: dict[str, int] = {}
        self.stalled_s = 60.0
        self.active: str | None = None
        self.started: list[tuple[str, ServerChild]] = []
        self.told: list[ModelStatus] = []
        self.residency = Residency(
            self._plan,
            lambda _: {"Host": 100},
            self.told.append,
            is_active=lambda model_id: model_id == self.active,
            pauses_s=(0.01,) * 4,
        )

    def _plan(self, model_id: str) -> Plan:
        def start() -> ServerChild:
            endpoint = free_endpoint(self.home.run)
            script = (sys.executable, "-I", "-S", "-c", RESPONDER, str(endpoint.socket_path))
            child = ServerChild(
                (*script, *self.words.get(model_id, ())),
                endpoint,
                self.log_path(model_id),
                self.registry,
                stalled_s=self.stalled_s,
            )
            self.started.append((model_id, child))
            return child

        return Plan(self.sizes.get(model_id, 60), 512, False, start)

    def log_path(self, model_id: str) -> Path:
        return self.home.logs / f"{model_id}.log"

    def child(self, model_id: str) -> ServerChild:
        return [child for name, child in self.started if name == model_id][-1]

    def status(self, model_id: str) -> ModelStatus:
        return self.residency.statuses().get(model_id, ModelStatus(model_id))

    async def state_is(self, model_id: str, state: ModelState) -> None:
        await until(lambda: self.status(model_id).state is state, f"{model_id} is {state}")

    async def acquire(self, model_id: str) -> Lease:
        async with asyncio.timeout(20):
            return await self.residency.acquire(model_id)

    async def waiting(self, model_id: str, count: int = 1) -> list[asyncio.Task[Lease]]:
        """So many requests that stand in the queue."""
        tasks = [asyncio.create_task(self.acquire(model_id)) for _ in range(count)]
        await until(lambda: self.status(model_id).waiting == count, f"{model_id} is waited for")
        return tasks


@contextlib.asynccontextmanager
async def machinery(home: Path) -> AsyncIterator[Machinery]:
    """Whatever a test did: nothing of it runs, is written down or lies about afterwards."""
    made = Machinery(home)
    try:
        yield made
    finally:
        await made.residency.close(grace_s=0.2)
    assert not any(is_running(child.pid) for _, child in made.started)
    assert made.registry.records() == ()
    assert list(made.home.run.glob("*.sock")) == []


# -- up and down


@on_loop
async def test_a_model_comes_up_answers_and_ends_and_each_step_is_told(home: Path) -> None:
    async with machinery(home) as made:
        lease = await made.acquire("a")
        pid = made.status("a").pid
        assert pid == made.child("a").pid
        assert await answer_of(lease) == b"fine"
        lease.release()
        await made.residency.unload("a")
        states = [status.state for status in made.told]
        changes = [s for n, s in enumerate(states) if n == 0 or s is not states[n - 1]]
        assert changes == [UNLOADED, LOADING, READY, STOPPING, UNLOADED]
        assert not is_running(pid)


@on_loop
async def test_what_is_asked_for_twice_happens_once(home: Path) -> None:
    async with machinery(home) as made:
        await asyncio.gather(*(made.residency.load("a") for _ in range(3)))
        await made.residency.load("a")
        assert len(made.started) == 1
        await asyncio.gather(*(made.residency.unload("a") for _ in range(3)))
        await made.residency.unload("a", now=True)
        assert made.status("a").state is UNLOADED
        assert len(made.started) == 1


@on_loop
async def test_a_request_while_a_slow_child_ends_gets_the_next_one(home: Path) -> None:
    async with machinery(home) as made:
        made.words["a"] = ("slow-end=0.3",)
        await made.residency.load("a")
        first = made.child("a")
        stopping = asyncio.create_task(made.residency.unload("a"))
        await made.state_is("a", STOPPING)
        (asking,) = await made.waiting("a")
        assert is_running(first.pid)
        lease = await asking
        assert not is_running(first.pid)
        assert await answer_of(lease) == b"fine"
        lease.release()
        await stopping


@on_loop
async def test_all_who_wait_for_a_drain_are_served_by_one_child(home: Path) -> None:
    async with machinery(home) as made:
        busy = await made.acquire("a")
        asking = await made.waiting("b", 5)
        await made.state_is("b", WAITING)
        busy.release()
        leases = await asyncio.gather(*asking)
        assert {lease.socket_path for lease in leases} == {leases[0].socket_path}
        assert [name for name, _ in made.started] == ["a", "b"]
        assert made.status("b").in_flight == 5
        for lease in leases:
            lease.release()


# -- ends that take their time


@on_loop
async def test_a_child_that_needs_time_to_end_gets_it(home: Path) -> None:
    async with machinery(home) as made:
        made.words["a"] = ("slow-end=0.3",)
        await made.residency.load("a")
        await made.residency.unload("a")
        assert made.child("a").process.poll() == 7, "its own exit code: it was not killed"


@on_loop
async def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "STOP_GRACE_S", 0.2)
    async with machinery(home) as made:
        made.words["a"] = ("ignores-sigterm",)
        await made.residency.load("a")
        began = time.monotonic()
        await made.residency.load("b")  # memory for one: a has to end first
        assert time.monotonic() - began >= 0.2
        assert made.child("a").process.poll() == -signal.SIGKILL
        assert (made.status("a").state, made.status("a").error) == (UNLOADED, None)


@on_loop
async def test_a_grandchild_that_ignores_sigterm_ends_with_its_model(home: Path) -> None:
    async with machinery(home) as made:
        made.words["a"] = made.words["b"] = ("grandchild",)
        made.sizes = {"a": 40, "b": 40}
        grandchildren = {}
        for name in "ab":
            await made.residency.load(name)
            grandchildren[name] = int(made.log_path(name).read_text().split()[-1])
        assert all(map(is_running, grandchildren.values()))
        await made.residency.unload("a")
        assert not is_running(grandchildren["a"])
        await made.residency.close()
        assert not is_running(grandchildren["b"])


# -- loads that go wrong


@on_loop
async def test_an_unload_ends_a_load_that_would_never_end(home: Path) -> None:
    async with machinery(home) as made:
        made.words["a"] = ("deaf", "ignores-sigterm")
        (asking,) = await made.waiting("a")
        await made.state_is("a", LOADING)
        await made.residency.unload("a")
        assert isinstance(await error_of(asking), Dismissed)
        assert not is_running(made.child("a").pid)
        await made.residency.load("b")


@on_loop
async def test_the_engines_end_ends_a_load_that_would_never_end(home: Path) -> None:
    async with machinery(home) as made:
        made.words["a"] = ("deaf", "ignores-sigterm")
        (asking,) = await made.waiting("a")
        await made.state_is("a", LOADING)
        await made.residency.close(grace_s=0.1)
        assert (await error_of(asking)).message == "The engine is stopping."
        assert not is_running(made.child("a").pid)


@on_loop
async def test_who_gives_up_during_a_load_leaves_no_request_behind(home: Path) -> None:
    async with machinery(home) as made:
        gate = home / "gate"
        made.words["a"] = (f"gate={gate}",)
        (asking,) = await made.waiting("a")
        await made.state_is("a", LOADING)
        asking.cancel()
        await asyncio.wait([asking])
        gate.touch()
        await made.state_is("a", READY)  # so far along, it may as well be there
        assert (made.status("a").in_flight, made.status("a").waiting) == (0, 0)
        await made.residency.load("b")  # and it leaves for others as any idle one
        assert made.status("a").state is UNLOADED


@pytest.mark.parametrize("way", ["deaf", "mute", "never-ready"])
@on_loop
async def test_a_load_that_hangs_is_given_up_and_others_go_on(
    home: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(llama_server, "LEAST_POLL_S", 0.1)
    monkeypatch.setattr(llama_server, "HEALTH_S", 0.1)
    async with machinery(home) as made:
        made.words["a"], made.stalled_s = (way, "ignores-sigterm"), 1.0
        asking = await made.waiting("a", 2)
        (other,) = await made.waiting("b")
        for task in asking:
            error = await error_of(task)
            assert error.code == "load_stalled"
            assert "did nothing for 1 seconds" in error.message
        assert made.status("a").state is FAILED
        (await other).release()
        assert [name for name, _ in made.started] == ["a", "b"], "it would hang again"


@on_loop
async def test_all_who_wait_hear_why_it_died_while_loading(home: Path) -> None:
    async with machinery(home) as made:
        made.words["a"] = ("says=error: invalid argument: --no-such-thing",)
        asking = await made.waiting("a", 4)
        for task in asking:
            error = await error_of(task)
            assert (error.code, "--no-such-thing" in error.message) == ("bad_argument", True)
        assert made.status("a").state is FAILED
        assert len(made.started) == 1, "a reason that stays is not tried again"


@on_loop
async def test_a_child_that_dies_once_while_loading_is_tried_again(home: Path) -> None:
    async with machinery(home) as made:
        made.words["a"] = (f"dies-once={home / 'died'}",)
        asking = await made.waiting("a", 3)
        for task in asking:
            (await task).release()
        assert len(made.started) == 2
        assert BACKOFF in [status.state for status in made.told]


@on_loop
async def test_a_child_that_floods_its_log_comes_up_and_its_reason_is_found(home: Path) -> None:
    async with machinery(home) as made:
        made.words["a"] = ("floods",)
        (await made.acquire("a")).release()
        assert made.log_path("a").stat().st_size >= 8_000_000
        made.words["b"] = ("floods", "says=E llama_model_load: invalid magic characters")
        assert (await error_of(made.acquire("b"))).code == "bad_gguf"


# -- everything at once


@on_loop
async def test_a_crash_in_mid_answer_is_told_and_the_next_is_answered(home: Path) -> None:
    async with machinery(home) as made:
        made.active, made.words["a"] = "a", (f"crashes={home / 'crashed'}",)
        gateway = Gateway(Front(made), host="127.0.0.1", port=0)
        await gateway.start()
        client = await Client.connect(gateway.port)
        try:
            client.send(chat(stream=True))
            got = await client.answer()
            assert got.complete
            first, error, _ = got.body.split(b"\n\n")
            assert first == b"data: 1"
            assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "crashed"
            client.send(chat())
            assert (await client.answer()).body == b"fine"
            assert made.status("a").in_flight == 0
        finally:
            client.close()
            await gateway.stop(0.2)


@pytest.mark.parametrize("seed", range(3))
@on_loop
async def test_loads_and_unloads_from_everywhere_leave_nothing_behind(
    home: Path, seed: int
) -> None:
    pick = random.Random(seed)
    async with machinery(home) as made:
        made.words["b"] = ("grandchild",)
        made.words["c"] = ("slow-end=0.05",)

        async def use(name: str) -> None:
            lease = await made.acquire(name)
            try:
                for _ in range(pick.randrange(4)):
                    await asyncio.sleep(0.01)
            finally:
                lease.release()

        async def do(name: str) -> None:
            match pick.randrange(5):
                case 0:
                    await made.residency.unload(name)
                case 1:
                    await made.residency.unload(name, now=True)
                case 2:
                    made.residency.hurry(name)
                    await use(name)
                case 3:
                    await made.residency.load(name)
                case _:
                    await use(name)

        async def several() -> None:
            for _ in range(8):
                with contextlib.suppress(Dismissed):
                    await do(pick.choice("abc"))

        await asyncio.gather(*(several() for _ in range(5)))
        for name in "abc":
            await made.residency.unload(name)
            status = made.status(name)
            assert (status.in_flight, status.waiting, status.state) == (0, 0, UNLOADED)
        assert not any(is_running(child.pid) for _, child in made.started)


class Front(FakeBackend):
    """The gateway's side, with this residency for its models."""

    def __init__(self, made: Machinery) -> None:
        super().__init__(socket_path="", active="a")
        self._made = made

    async def acquire(self, model_id: str, counts: bool = True) -> Any:
        return await self._made.residency.acquire(model_id, counts)

    def status(self, model_id: str) -> ModelStatus:
        return self._made.status(model_id)


async def answer_of(lease: Lease) -> bytes:
    """The body of a real answer through the lease's socket."""
    assert lease.socket_path is not None
    reader, writer = await asyncio.open_unix_connection(lease.socket_path)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return (await reader.read()).rpartition(b"\r\n\r\n")[2]
    finally:
        writer.close()
