"""Another runtime under models that run: nothing is cut, nobody forgotten, failures fall back."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.engine_kit import BROKEN, CRASH, Rig, on_loop, turns, until
from tray_app.engine.errors import ErrorView
from tray_app.engine.values import ModelState, Offload

UNLOADED, WAITING, LOADING, READY, STOPPING, BACKOFF, FAILED = ModelState
SMALL = {name: 10 for name in "abcd"}


@on_loop
async def test_an_answer_goes_on_and_the_next_one_comes_from_the_new_runtime() -> None:
    async with Rig(SMALL) as rig:
        rig.active = "a"
        old = await rig.residency.acquire("a")
        rig.runtime = "b2-cpu"
        rig.residency.renew("a")
        later = await rig.waiting("a")
        await turns()
        assert (rig.state("a"), rig.status("a").in_flight, rig.loads) == (READY, 1, ["a"])
        assert rig.status("a").runtime_id == "b1-cpu"
        old.release()
        lease = await later
        assert rig.status("a").runtime_id == "b2-cpu"
        lease.release()


@on_loop
async def test_an_idle_active_model_comes_over_by_itself() -> None:
    async with Rig(SMALL) as rig:
        rig.active = "a"
        await rig.residency.load("a")
        rig.runtime = "b2-cpu"
        rig.residency.renew("a")
        await until(lambda: rig.status("a").runtime_id == "b2-cpu")
        assert rig.loads == ["a", "a"]


@on_loop
async def test_a_pinned_model_comes_over_and_another_only_leaves() -> None:
    async with Rig(SMALL) as rig:
        rig.pinned = {"b"}
        for name in "bc":
            await rig.residency.load(name)
        rig.runtime = "b2-cpu"
        for name in "bcd":
            rig.residency.renew(name)  # d was never there
        await until(lambda: rig.status("b").runtime_id == "b2-cpu")
        await rig.state_is("c", UNLOADED)
        await rig.residency.load("c")
        assert rig.status("c").runtime_id == "b2-cpu"
        assert rig.state("d") is UNLOADED


@on_loop
async def test_a_model_that_is_just_loading_is_loaded_anew_for_those_who_wait() -> None:
    async with Rig(SMALL) as rig:
        rig.slow = {"a"}
        waiter = await rig.waiting("a")
        await rig.state_is("a", LOADING)
        rig.slow, rig.runtime = set(), "b2-cpu"
        rig.residency.renew("a")
        (await waiter).release()
        assert rig.status("a").runtime_id == "b2-cpu"


@on_loop
async def test_a_renewal_that_is_called_twice_happens_once() -> None:
    async with Rig(SMALL) as rig:
        rig.active = "a"
        lease = await rig.residency.acquire("a")
        rig.residency.renew("a")
        rig.residency.renew("a")
        lease.release()
        await until(lambda: len(rig.loads) == 2)
        await rig.state_is("a", READY)
        await turns()
        assert rig.loads == ["a", "a"]


@on_loop
async def test_an_unload_during_a_renewal_ends_unloaded() -> None:
    async with Rig(SMALL) as rig:
        rig.active = "a"
        lease = await rig.residency.acquire("a")
        rig.residency.renew("a")
        unload = asyncio.ensure_future(rig.residency.unload("a"))
        await turns()
        lease.release()
        await unload
        await turns()
        assert (rig.state("a"), rig.loads) == (UNLOADED, ["a"])


class Trial:
    """A trial as the runtime service runs it: the first death puts the older runtime back."""

    def __init__(self) -> None:
        self.rig: Rig | None = None
        self.asked: list[tuple[str, str, str]] = []

    def __call__(self, model_id: str, runtime_id: str, error: ErrorView) -> bool:
        assert self.rig is not None
        self.asked.append((model_id, runtime_id, error.code))
        if runtime_id != "b2-cpu":
            return False
        self.rig.runtime = "b1-cpu"
        return True


@pytest.mark.parametrize("fault", [CRASH, BROKEN])
def test_who_waits_for_a_model_that_the_new_runtime_cannot_load_is_served_by_the_old(
    fault: object,
) -> None:
    @on_loop
    async def run() -> None:
        trial = Trial()
        async with Rig(SMALL, second_chance=trial) as rig:
            trial.rig, rig.runtime, rig.slow = rig, "b2-cpu", {"a"}
            waiter = await rig.waiting("a")
            await rig.state_is("a", LOADING)
            rig.slow = set()
            rig.child("a").die(fault)  # type: ignore[arg-type]
            lease = await waiter
            assert rig.status("a").runtime_id == "b1-cpu"
            assert rig.status("a").error is None
            lease.release()
            rig.child("a").die(fault)  # type: ignore[arg-type]
            await until(lambda: len(trial.asked) == 2)
            assert rig.loads == ["a", "a"]

    run()


@on_loop
async def test_the_active_model_comes_back_on_the_old_runtime_without_anyone_asking() -> None:
    trial = Trial()
    async with Rig(SMALL, second_chance=trial) as rig:
        trial.rig, rig.runtime, rig.active = rig, "b2-cpu", "a"
        await rig.residency.load("a")
        rig.child("a").die()
        await until(lambda: rig.status("a").runtime_id == "b1-cpu" and rig.state("a") is READY)
        assert trial.asked == [("a", "b2-cpu", "crashed")]


@on_loop
async def test_what_a_load_said_about_the_gpu_stands_in_the_status() -> None:
    async with Rig(SMALL) as rig:
        await rig.residency.load("a")
        await turns()
        assert rig.status("a").offload is None
        rig.offloaded = (20, 29)
        await rig.residency.load("b")
        await until(lambda: rig.status("b").offload is not None)
        assert rig.status("b").offload == Offload(None, 20, 29)
        await rig.residency.unload("b")
        assert rig.status("b").offload is None
