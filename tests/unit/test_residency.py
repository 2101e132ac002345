"""Who is in memory and who waits, with scripted children instead of llama-server."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.unit.engine_kit import BROKEN, CRASH, Rig, error_of, on_loop, turns, until
from tray_app.engine.errors import ModelFailed, NotEnoughMemory, QueueFull, RuntimeMissing
from tray_app.engine.resident import ALLOWED, Dismissed, Lease
from tray_app.engine.values import ModelState

UNLOADED, WAITING, LOADING, READY, STOPPING, BACKOFF, FAILED = ModelState


# -- loading and sharing


@on_loop
async def test_the_first_request_loads_and_later_ones_share() -> None:
    async with Rig() as rig:
        first = await rig.residency.acquire("a")
        second = await rig.residency.acquire("a")
        assert rig.loads == ["a"]
        assert rig.status("a").in_flight == 2
        first.release()
        first.release()
        assert rig.status("a").in_flight == 1
        second.release()
        assert rig.status("a").in_flight == 0
        assert rig.state("a") is READY


@on_loop
async def test_models_that_fit_together_stay_together() -> None:
    async with Rig({"a": 40, "b": 40}) as rig:
        await rig.residency.load("a")
        await rig.residency.load("b")
        assert rig.state("a") is rig.state("b") is READY
        assert rig.residency.held_bytes() == 80
        assert rig.residency.command("a") == ("llama-server", "a")
        assert rig.residency.command("never") is None


@on_loop
async def test_loads_happen_in_the_order_of_asking() -> None:
    async with Rig({name: 10 for name in "abcd"}) as rig:
        rig.slow = {"d"}
        asked = [await rig.waiting(name) for name in "dbca"]
        await rig.state_is("d", LOADING)
        assert rig.loads == ["d"]
        rig.child("d").come_up()
        for lease in await asyncio.gather(*asked):
            lease.release()
        assert rig.loads == list("dbca")


@on_loop
async def test_an_idle_model_leaves_for_another() -> None:
    async with Rig() as rig:
        (await rig.residency.acquire("a")).release()
        (await rig.residency.acquire("b")).release()
        assert rig.state("a") is UNLOADED
        assert rig.state("b") is READY


@on_loop
async def test_a_busy_model_finishes_before_it_leaves() -> None:
    async with Rig() as rig:
        busy = await rig.residency.acquire("a")
        other = await rig.waiting("b")
        await rig.state_is("b", WAITING)
        await turns()
        assert rig.child("a").stops == 0
        busy.release()
        (await other).release()
        assert rig.loads == ["a", "b"]


@on_loop
async def test_requests_for_a_draining_model_queue_behind_the_wish_that_drains_it() -> None:
    async with Rig() as rig:
        busy = await rig.residency.acquire("a")
        other = await rig.waiting("b")
        await rig.state_is("b", WAITING)
        late = await rig.waiting("a")
        assert rig.status("a").in_flight == 1
        busy.release()
        got = await other
        assert not late.done()
        got.release()
        (await late).release()
        assert rig.loads == ["a", "b", "a"]


@on_loop
async def test_two_models_asked_for_in_turns_do_not_starve_each_other() -> None:
    async with Rig() as rig:
        switches = 0
        served = ""

        async def greedy(name: str) -> None:
            nonlocal served, switches
            while switches < 6:  # each would go on for ever
                lease = await rig.residency.acquire(name)
                switches += served not in ("", name)
                served = name
                await turns(3)
                lease.release()

        await asyncio.gather(*(greedy(name) for name in "ababab"))
        assert rig.loads[:7] == list("abababa")


@on_loop
async def test_the_queue_has_a_limit_of_its_own_for_each_model() -> None:
    async with Rig(max_queue=lambda: 2) as rig:
        rig.slow = {"a"}
        waiting = [await rig.waiting("a"), rig.ask("a")]
        await until(lambda: rig.status("a").waiting == 2)
        error = await error_of(rig.residency.acquire("a"))
        assert isinstance(error, QueueFull)
        assert "2 requests waiting" in error.message
        rig.child("a").come_up()
        for lease in await asyncio.gather(*waiting):
            lease.release()


# -- leaving the queue


@on_loop
async def test_a_cancelled_waiter_leaves_the_queue_and_the_drained_model_serves_on() -> None:
    async with Rig() as rig:
        busy = await rig.residency.acquire("a")
        other = await rig.waiting("b")
        await rig.state_is("b", WAITING)
        late = await rig.waiting("a")
        other.cancel()
        (await late).release()
        assert rig.state("b") is UNLOADED
        assert rig.loads == ["a"]
        busy.release()
        await turns()
        assert rig.state("a") is READY


@on_loop
async def test_a_cancel_in_the_same_breath_as_the_grant_gives_the_place_back() -> None:
    async with Rig() as rig:
        rig.slow = {"a"}
        task = await rig.waiting("a")
        await rig.state_is("a", LOADING)
        rig.on_told = lambda status: task.cancel() if status.in_flight else None
        rig.child("a").come_up()
        await until(task.done)
        assert task.cancelled()
        assert rig.status("a").in_flight == 0
        assert rig.state("a") is READY


@on_loop
async def test_a_release_and_a_withdrawal_in_one_breath_never_stop_a_model_in_use() -> None:
    async with Rig() as rig:
        busy = await rig.residency.acquire("a")
        other = await rig.waiting("b")
        await rig.state_is("b", WAITING)
        late = await rig.waiting("a")
        other.cancel()
        busy.release()
        lease = await late
        assert not lease.died.done()
        assert rig.status("a").in_flight == 1
        await turns()
        assert not lease.died.done()
        lease.release()


@on_loop
async def test_nobody_left_to_wait_means_no_load() -> None:
    async with Rig() as rig:
        rig.planning.clear()
        task = await rig.waiting("a")
        await until(lambda: rig.planned == ["a"])
        task.cancel()
        await until(task.done)
        rig.planning.set()
        await rig.residency.load("b")
        assert rig.loads == ["b"]
        assert rig.state("a") is UNLOADED


@on_loop
async def test_a_wish_that_is_withdrawn_while_it_is_planned_sends_nobody_away() -> None:
    async with Rig() as rig:
        await rig.residency.load("a")
        rig.planning.clear()
        task = await rig.waiting("b")
        await until(lambda: "b" in rig.planned)
        task.cancel()
        await until(task.done)
        rig.planning.set()
        await turns()
        assert rig.state("a") is READY
        assert rig.child("a").stops == 0


@on_loop
async def test_a_failure_of_a_plan_that_nobody_waits_for_any_more_is_not_shown() -> None:
    async with Rig() as rig:
        rig.errors["a"] = RuntimeMissing("No llama.cpp.", "Build it.")
        rig.planning.clear()
        task = await rig.waiting("a")
        await until(lambda: rig.planned == ["a"])
        await rig.residency.unload("a")
        assert isinstance(await error_of(task), Dismissed)
        rig.planning.set()
        await rig.residency.load("b")
        assert rig.state("a") is UNLOADED
        assert rig.status("a").error is None


# -- pins and memory


@on_loop
async def test_a_pinned_model_never_leaves_for_another() -> None:
    async with Rig() as rig:
        rig.pinned = {"a"}
        await rig.residency.load("a")
        error = await error_of(rig.residency.acquire("b"))
        assert isinstance(error, NotEnoughMemory)
        assert "part of it pinned by a." in error.message
        assert rig.state("a") is READY
        assert rig.state("b") is FAILED


@on_loop
async def test_a_model_pinned_while_it_drains_stays() -> None:
    async with Rig() as rig:
        busy = await rig.residency.acquire("a")
        other = await rig.waiting("b")
        await rig.state_is("b", WAITING)
        late = await rig.waiting("a")
        rig.residency.set_pinned("a", True)
        assert isinstance(await error_of(other), NotEnoughMemory)
        (await late).release()
        busy.release()
        await turns()
        assert rig.state("a") is READY
        assert rig.child("a").stops == 0


@on_loop
async def test_a_pin_released_lets_the_model_leave() -> None:
    async with Rig() as rig:
        rig.pinned = {"a"}
        await rig.residency.load("a")
        rig.residency.set_pinned("a", False)
        rig.residency.set_pinned("never seen", True)
        await rig.residency.load("b")
        assert rig.state("a") is UNLOADED


@on_loop
async def test_a_model_larger_than_everything_says_both_numbers() -> None:
    async with Rig({"a": 7_000_000_000}) as rig:
        rig.budget = 4_000_000_000
        error = await error_of(rig.residency.acquire("a"))
        assert error.message == "a needs 7.0 GB and models may hold 4.0 GB."
        assert "smaller context" in error.remedy


@on_loop
async def test_only_as_many_leave_as_are_needed_and_the_active_one_last() -> None:
    async with Rig({"a": 40, "b": 40, "c": 40}) as rig:
        rig.active = "a"
        await rig.residency.load("a")
        rig.now = 5
        await rig.residency.load("b")
        rig.now = 10
        await rig.residency.load("c")
        assert (rig.state("a"), rig.state("b"), rig.state("c")) == (READY, UNLOADED, READY)


@on_loop
async def test_a_model_that_is_still_ending_is_waited_for() -> None:
    async with Rig() as rig:
        rig.hanging = {"a"}
        await rig.residency.load("a")
        task = await rig.waiting("b")
        await rig.state_is("a", STOPPING)
        await turns()
        assert rig.loads == ["a"]
        rig.child("a").die(None)
        (await task).release()
        assert rig.loads == ["a", "b"]


@on_loop
async def test_a_model_that_hangs_at_its_stop_blocks_only_what_needs_its_memory() -> None:
    async with Rig({"a": 60, "b": 60, "c": 30}) as rig:
        rig.hanging = {"a"}
        await rig.residency.load("a")
        stopping = asyncio.create_task(rig.residency.unload("a"))
        await rig.state_is("a", STOPPING)
        again = await rig.waiting("a")
        await asyncio.wait_for(rig.residency.load("c"), 5)
        assert rig.state("c") is READY
        rig.hanging = set()
        rig.child("a").die(None)
        (await again).release()
        await stopping


# -- unloading


@on_loop
async def test_unload_waits_for_a_busy_model_and_takes_no_more_in() -> None:
    async with Rig() as rig:
        busy = await rig.residency.acquire("a")
        await rig.residency.unload("a")
        assert rig.state("a") is READY
        late = await rig.waiting("a")
        busy.release()
        (await late).release()
        assert rig.loads == ["a", "a"]


@on_loop
async def test_a_withdrawn_wish_of_another_does_not_call_off_an_unload() -> None:
    async with Rig() as rig:
        busy = await rig.residency.acquire("a")
        other = await rig.waiting("b")
        await rig.state_is("b", WAITING)
        await rig.residency.unload("a")
        other.cancel()
        await turns()
        busy.release()
        await rig.state_is("a", UNLOADED)


@on_loop
async def test_a_busy_model_that_was_told_to_leave_holds_nobody_else_up() -> None:
    async with Rig({"a": 40, "b": 40}) as rig:
        busy = await rig.residency.acquire("a")
        await rig.residency.unload("a")
        late = await rig.waiting("a")
        await asyncio.wait_for(rig.residency.load("b"), 5)
        assert not late.done()
        busy.release()
        (await late).release()


@on_loop
async def test_unload_now_cuts_what_is_being_answered() -> None:
    async with Rig() as rig:
        busy = await rig.residency.acquire("a")
        await rig.residency.unload("a", now=True)
        assert (await busy.died).code == "model_stopped"
        busy.release()
        assert rig.state("a") is UNLOADED
        assert rig.status("a").in_flight == 0


@on_loop
async def test_unload_of_an_idle_model_returns_when_it_is_gone() -> None:
    async with Rig() as rig:
        await rig.residency.load("a")
        await rig.residency.unload("a")
        assert rig.state("a") is UNLOADED
        await rig.residency.unload("a")
        await rig.residency.unload("never")


@on_loop
async def test_unload_while_it_loads_ends_the_load() -> None:
    async with Rig() as rig:
        rig.slow = {"a"}
        task = await rig.waiting("a")
        await rig.state_is("a", LOADING)
        await rig.residency.unload("a")
        error = await error_of(task)
        assert error.message == "a was unloaded."
        assert rig.state("a") is UNLOADED
        await asyncio.wait_for(rig.residency.load("b"), 5)


@on_loop
async def test_unload_while_it_waits_for_memory_lets_the_others_be() -> None:
    async with Rig() as rig:
        busy = await rig.residency.acquire("a")
        task = await rig.waiting("b")
        await rig.state_is("b", WAITING)
        await rig.residency.unload("b")
        assert isinstance(await error_of(task), Dismissed)
        assert rig.state("b") is UNLOADED
        busy.release()
        await turns()
        assert rig.state("a") is READY


@on_loop
async def test_unload_in_the_pause_after_a_crash_means_no_restart() -> None:
    async with Rig(pauses_s=(0.01,)) as rig:
        rig.active = "a"
        await rig.residency.load("a")
        rig.child("a").die()
        await rig.state_is("a", BACKOFF)
        await rig.residency.unload("a")
        assert (rig.state("a"), rig.status("a").retry_at) == (UNLOADED, None)
        loop = asyncio.get_running_loop()
        past = asyncio.Event()
        loop.call_later(0.03, past.set)
        await past.wait()
        assert rig.loads == ["a"]


@on_loop
async def test_a_request_during_the_stop_brings_the_model_back() -> None:
    async with Rig() as rig:
        rig.hanging = {"a"}
        await rig.residency.load("a")
        stopping = asyncio.create_task(rig.residency.unload("a"))
        await rig.state_is("a", STOPPING)
        task = await rig.waiting("a")
        rig.child("a").die(None)
        await stopping
        (await task).release()
        assert rig.loads == ["a", "a"]


# -- deaths


@on_loop
async def test_a_crash_under_waiters_pauses_and_starts_again() -> None:
    async with Rig() as rig:
        rig.slow = {"a"}
        task = await rig.waiting("a")
        await rig.state_is("a", LOADING)
        rig.slow = set()
        rig.child("a").die()
        (await task).release()
        states = [status.state for status in rig.told if status.model_id == "a"]
        assert BACKOFF in states
        assert next(s for s in rig.told if s.retry_at).error == CRASH.error
        assert rig.status("a").error is None
        assert rig.loads == ["a", "a"]


@on_loop
async def test_a_crash_while_serving_tells_the_lease_and_the_active_model_comes_back() -> None:
    async with Rig() as rig:
        rig.active = "a"
        lease = await rig.residency.acquire("a")
        rig.child("a").die()
        assert (await lease.died).code == "crashed"
        lease.release()
        await until(lambda: len(rig.loads) == 2)
        await rig.state_is("a", READY)
        assert rig.status("a").in_flight == 0


@on_loop
async def test_a_crash_of_a_model_that_nobody_wants_leaves_it_unloaded_and_says_why() -> None:
    async with Rig() as rig:
        await rig.residency.load("a")
        rig.child("a").die()
        await rig.state_is("a", UNLOADED)
        assert rig.status("a").error == CRASH.error


@on_loop
async def test_a_crash_loop_ends_with_the_reason() -> None:
    async with Rig() as rig:
        rig.slow = {"a"}
        task = await rig.waiting("a")
        for number in range(1, 6):
            await until(lambda number=number: len(rig.loads) == number)
            rig.child("a").die()
        error = await error_of(task)
        assert error.message == CRASH.error.message
        assert rig.state("a") is FAILED
        assert rig.status("a").error == CRASH.error
        assert rig.loads == ["a"] * 5


@on_loop
async def test_deaths_far_apart_are_no_loop() -> None:
    async with Rig() as rig:
        rig.active = "a"
        await rig.residency.load("a")
        for number in range(2, 10):
            rig.now += 1000
            rig.child("a").die()
            await until(lambda number=number: len(rig.loads) == number)
            await rig.state_is("a", READY)


@on_loop
async def test_a_permanent_fault_is_not_tried_again() -> None:
    async with Rig() as rig:
        rig.slow = {"a"}
        task = await rig.waiting("a")
        await rig.state_is("a", LOADING)
        rig.child("a").die(BROKEN)
        error = await error_of(task)
        assert (error.code, error.remedy) == ("bad_gguf", "Download it again.")
        assert rig.loads == ["a"]
        assert BACKOFF not in [status.state for status in rig.told]


@on_loop
async def test_a_failed_model_that_is_asked_for_again_is_tried_again() -> None:
    async with Rig() as rig:
        rig.errors["a"] = RuntimeMissing("No llama.cpp.", "Build it.")
        assert (await error_of(rig.residency.acquire("a"))).code == "runtime_missing"
        assert rig.state("a") is FAILED
        del rig.errors["a"]
        rig.planning.clear()
        task = await rig.waiting("a")
        assert (rig.state("a"), rig.status("a").error) == (UNLOADED, None)
        rig.planning.set()
        (await task).release()
        assert rig.state("a") is READY


@on_loop
async def test_a_program_that_cannot_be_started_fails_its_model_and_no_other() -> None:
    async with Rig() as rig:
        rig.errors["a"] = FileNotFoundError("there is no program llama-server")
        error = await error_of(rig.residency.acquire("a"))
        assert isinstance(error, ModelFailed)
        assert "there is no program llama-server" in error.message
        await asyncio.wait_for(rig.residency.load("b"), 5)


@on_loop
async def test_the_restart_of_the_active_model_outlives_a_request_that_gives_up() -> None:
    async with Rig(pauses_s=(0.02,)) as rig:
        rig.active = "a"
        await rig.residency.load("a")
        rig.child("a").die()
        await rig.state_is("a", BACKOFF)
        task = await rig.waiting("a")
        task.cancel()
        await until(lambda: rig.loads == ["a", "a"])


@on_loop
async def test_a_pause_whose_last_waiter_leaves_ends_unloaded() -> None:
    async with Rig(pauses_s=(30.0,)) as rig:
        rig.slow = {"a"}
        task = await rig.waiting("a")
        await rig.state_is("a", LOADING)
        rig.child("a").die()
        await rig.state_is("a", BACKOFF)
        task.cancel()
        await rig.state_is("a", UNLOADED)
        assert rig.status("a").retry_at is None


@on_loop
async def test_a_model_in_its_pause_lets_others_by() -> None:
    async with Rig({"a": 40, "b": 40}, pauses_s=(30.0,)) as rig:
        rig.slow = {"a"}
        task = await rig.waiting("a")
        await rig.state_is("a", LOADING)
        rig.child("a").die()
        await rig.state_is("a", BACKOFF)
        await asyncio.wait_for(rig.residency.load("b"), 5)
        task.cancel()


# -- switch now


@on_loop
async def test_hurry_before_the_plan_cuts_the_busy_model() -> None:
    async with Rig() as rig:
        busy = await rig.residency.acquire("a")
        rig.residency.hurry("b")
        await asyncio.wait_for(rig.residency.load("b"), 5)
        assert busy.died.done()
        busy.release()


@on_loop
async def test_hurry_while_it_waits_cuts_the_busy_model() -> None:
    async with Rig() as rig:
        busy = await rig.residency.acquire("a")
        task = await rig.waiting("b")
        await rig.state_is("b", WAITING)
        rig.residency.hurry("b")
        lease = await task
        assert busy.died.done()
        busy.release()
        lease.release()


@on_loop
async def test_a_hurried_wish_goes_before_those_that_wait_politely() -> None:
    async with Rig() as rig:
        busy = await rig.residency.acquire("a")
        polite = await rig.waiting("b")
        await rig.state_is("b", WAITING)
        hurried = await rig.waiting("c")
        rig.residency.hurry("c")
        lease = await hurried
        busy.release()
        lease.release()
        (await polite).release()
        assert rig.loads == ["a", "c", "b"]


@on_loop
async def test_hurry_does_not_wait_for_another_load_that_nobody_hurried() -> None:
    async with Rig() as rig:
        rig.slow = {"a"}
        stuck = await rig.waiting("a")
        await rig.state_is("a", LOADING)
        rig.residency.hurry("b")
        await asyncio.wait_for(rig.residency.load("b"), 5)
        rig.slow = set()
        (await stuck).release()
        assert rig.loads == ["a", "b", "a"]


@on_loop
async def test_hurry_for_a_model_that_is_there_is_forgotten() -> None:
    async with Rig() as rig:
        await rig.residency.load("a")
        rig.residency.hurry("a")
        await rig.residency.load("b")
        busy = await rig.residency.acquire("b")
        polite = await rig.waiting("a")
        await rig.state_is("a", WAITING)
        await turns()
        assert not busy.died.done()
        busy.release()
        (await polite).release()


@on_loop
async def test_hurry_for_a_model_that_drains_keeps_it() -> None:
    async with Rig() as rig:
        busy = await rig.residency.acquire("a")
        other = await rig.waiting("b")
        await rig.state_is("b", WAITING)
        back = await rig.waiting("a")
        rig.residency.hurry("a")
        (await back).release()
        assert rig.loads == ["a"]
        busy.release()
        (await other).release()


# -- the end


@on_loop
async def test_close_ends_everything_in_flight() -> None:
    rig = Rig({"a": 40, "b": 40, "c": 40, "d": 10, "e": 10}, pauses_s=(30.0,))
    rig.active = "d"
    served = await rig.residency.acquire("a")
    await rig.residency.load("d")
    rig.child("d").die()
    await rig.state_is("d", BACKOFF)
    busy = await rig.residency.acquire("b")
    rig.slow = {"e"}
    loading = await rig.waiting("e")
    await rig.state_is("e", LOADING)
    waiting = [await rig.waiting("c"), await rig.waiting("d")]
    await rig.residency.close()
    for task in (loading, *waiting):
        assert (await error_of(task)).message == "The engine is stopping."
    assert served.died.done()
    assert busy.died.done()
    served.release()
    busy.release()
    assert {rig.state(name) for name in "abcde"} == {UNLOADED}
    assert isinstance(await error_of(rig.residency.acquire("a")), Dismissed)
    assert isinstance(await error_of(rig.residency.load("a")), Dismissed)
    await rig.residency.unload("a")
    assert rig.loads.count("a") == 1


@on_loop
async def test_close_while_a_plan_is_made_starts_nothing() -> None:
    rig = Rig()
    rig.planning.clear()
    task = await rig.waiting("a")
    await until(lambda: rig.planned == ["a"])
    closing = asyncio.create_task(rig.residency.close())
    await turns()
    rig.planning.set()
    await closing
    assert isinstance(await error_of(task), Dismissed)
    assert rig.loads == []


@on_loop
async def test_an_impossible_move_is_a_defect() -> None:
    async with Rig() as rig:
        await rig.residency.load("a")
        resident = rig.residency._residents["a"]
        with pytest.raises(AssertionError, match="cannot become"):
            resident.move(WAITING)
    assert set(ALLOWED) == set(ModelState)


# -- everything at once


class Soak:
    """Random steps over four models; what must always hold is checked after each."""

    def __init__(self, rig: Rig, seed: int, polite: bool) -> None:
        self.rig = rig
        self.polite = polite  # nobody says "switch now"
        self.random = random.Random(seed)
        self.tasks: list[asyncio.Task[Lease]] = []
        self.leases: list[Lease] = []
        self.cut: set[object] = set()  # children that may be stopped in use

    def check(self) -> None:
        rig = self.rig
        assert rig.residency.held_bytes() <= rig.budget
        for resident in rig.residency._residents:
            assert resident.in_flight >= 0
            child = resident.child
            in_use = sum(lease.died is getattr(child, "died", None) for lease in self.leases)
            if resident.state is STOPPING and self.polite and child not in self.cut:
                assert in_use == 0, f"{resident.model_id} is stopped in use"
            assert resident.in_flight >= in_use

    def collect(self) -> None:
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            if not task.cancelled() and task.exception() is None:
                self.leases.append(task.result())

    async def step(self) -> None:
        rig, name = self.rig, self.random.choice("abcd")
        match self.random.randrange(13):
            case 0 | 1 | 2 | 3:
                self.tasks.append(rig.ask(name))
            case 4 | 5 | 6 if self.leases:
                self.leases.pop(self.random.randrange(len(self.leases))).release()
            case 7 if self.tasks:
                self.random.choice(self.tasks).cancel()
            case 8:
                await rig.residency.unload(name)
            case 9 if name in rig.children:
                self.cut.add(rig.child(name))
                await rig.residency.unload(name, now=True)
            case 10 if name in rig.children:
                rig.child(name).die()
            case 12:
                rig.residency.renew(name)
            case 11 if not self.polite:
                rig.residency.hurry(name)
                self.tasks.append(rig.ask(name))
        if self.random.random() < 0.5:
            await turns(self.random.randrange(6))


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_lost_in_hundreds_of_random_steps(seed: int) -> None:
    @on_loop
    async def soak() -> None:
        async with Rig({"a": 60, "b": 50, "c": 30, "d": 40}, pauses_s=(0.0005,) * 4) as rig:
            rig.active = "c"
            run = Soak(rig, seed, polite=seed < 5)
            for _ in range(400):
                await run.step()
                run.collect()
                run.check()
            deadline = asyncio.get_running_loop().time() + 5
            while run.tasks:  # whoever still waits is served once all others are done
                run.collect()
                run.check()
                while run.leases:
                    run.leases.pop().release()
                assert asyncio.get_running_loop().time() < deadline, "a waiter was forgotten"
                await asyncio.sleep(0.0005)
            await until(lambda: not rig.residency._line._waiting)

    soak()


@on_loop
async def test_a_first_fit_to_a_gpu_finds_it_empty_where_that_can_be() -> None:
    """The first plan makes room, the second is measured then and is what is loaded."""
    async with Rig({"a": 40, "b": 40}) as rig:
        rig.first_fits = {"b": 100}
        await rig.residency.load("a")
        await rig.residency.load("b")
        assert rig.state("a") is UNLOADED
        assert rig.planned == ["a", "b"]
        await rig.residency.load("a")  # measured now: both fit
        assert rig.state("b") is READY


@on_loop
async def test_a_first_fit_is_made_beside_what_is_pinned() -> None:
    async with Rig({"a": 40, "b": 40}) as rig:
        rig.pinned, rig.first_fits = {"a"}, {"b": 100}
        await rig.residency.load("a")
        await rig.residency.load("b")
        assert rig.state("a") is READY
        assert rig.state("b") is READY
