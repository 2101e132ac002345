"""Who leaves memory: the pure decision."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tray_app.engine.eviction import Decision, Resident, uselessness
from tray_app.engine.eviction import make_room as decide
from tray_app.engine.pools import ALL, HOST


def resident(model_id: str, holds: int | dict[str, int] = 10, **fields: bool | float) -> Resident:
    values = {"busy": False, "pinned": False, "active": False, "idle_s": 1.0, "load_s": 1.0}
    return Resident(model_id, _pools(holds), **{**values, **fields})  # type: ignore[arg-type]


def make_room(
    need: int | dict[str, int], budget: int | dict[str, int], models: Sequence[Resident]
) -> Decision:
    return decide(_pools(need), _pools(budget), models)


def _pools(amount: int | dict[str, int]) -> dict[str, int]:
    return {HOST: amount} if isinstance(amount, int) else amount


def test_nobody_leaves_while_there_is_room() -> None:
    assert make_room(10, 30, [resident("a"), resident("b")]) == Decision(True)


def test_the_longest_idle_leaves_first_and_only_as_many_as_needed() -> None:
    models = [resident("young", idle_s=1), resident("old", idle_s=9), resident("mid", idle_s=5)]
    assert make_room(10, 30, models) == Decision(True, ("old",))
    assert make_room(20, 30, models) == Decision(True, ("old", "mid"))


def test_what_is_dear_to_load_stays_longer() -> None:
    models = [resident("dear", idle_s=60, load_s=60), resident("cheap", idle_s=10, load_s=0.2)]
    assert make_room(10, 20, models).leave_now == ("cheap",)
    assert uselessness(resident("x", load_s=0.0)) == uselessness(resident("x", load_s=0.1))


def test_the_active_one_leaves_after_the_other_idle_ones_and_before_busy_ones() -> None:
    models = [
        resident("active", active=True, idle_s=99),
        resident("idle"),
        resident("busy", busy=True),
    ]
    assert make_room(10, 30, models) == Decision(True, ("idle",))
    assert make_room(20, 30, models) == Decision(True, ("idle", "active"))
    assert make_room(30, 30, models) == Decision(True, ("idle", "active"), ("busy",))


def test_a_pinned_one_never_leaves_and_then_nobody_does() -> None:
    models = [resident("pinned", pinned=True), resident("idle")]
    assert make_room(20, 20, models) == Decision(False)
    assert make_room(10, 20, models) == Decision(True, ("idle",))


def test_whatever_comes_the_decision_keeps_its_promises() -> None:
    chance = random.Random(7)
    for _ in range(500):
        models = [
            resident(
                f"m{number}",
                chance.randrange(1, 50),
                busy=chance.random() < 0.4,
                pinned=chance.random() < 0.2,
                active=number == 0,
                idle_s=chance.random() * 100,
                load_s=chance.random() * 10,
            )
            for number in range(chance.randrange(6))
        ]
        need, budget = chance.randrange(1, 80), chance.randrange(1, 150)
        decision = make_room(need, budget, models)
        going = {*decision.leave_now, *decision.drain}
        by_id = {model.model_id: model for model in models}
        assert not any(by_id[model_id].pinned for model_id in going)
        assert not any(by_id[model_id].busy for model_id in decision.leave_now)
        assert all(by_id[model_id].busy for model_id in decision.drain)
        held = sum(model.holds[HOST] for model in models if model.model_id not in going)
        pinned = sum(model.holds[HOST] for model in models if model.pinned)
        assert decision.fits == (need + pinned <= budget)
        assert not decision.fits or need + held <= budget


def test_only_who_holds_something_where_room_is_missing_leaves() -> None:
    models = [
        resident("on the processor", {HOST: 8}, idle_s=99),
        resident("on the GPU", {HOST: 1, "CUDA0": 7}, idle_s=1),
    ]
    budget = {HOST: 10, "CUDA0": 8}
    assert make_room({HOST: 1, "CUDA0": 4}, budget, models) == Decision(True, ("on the GPU",))
    assert make_room({HOST: 3}, budget, models) == Decision(True, ("on the processor",))
    assert make_room({HOST: 1, "CUDA0": 1}, budget, models) == Decision(True)
    assert make_room({"CUDA0": 9}, budget, models) == Decision(False)


def test_a_model_larger_than_main_memory_fits_where_the_gpu_takes_it() -> None:
    assert make_room({HOST: 1, "CUDA0": 20}, {HOST: 8, "CUDA0": 22}, []) == Decision(True)


def test_an_overdrawn_pool_that_is_not_needed_sends_nobody_away() -> None:
    assert (
        make_room({HOST: 1}, {HOST: 9, "CUDA0": 5}, [resident("a", {"CUDA0": 7})]).leave_now == ()
    )


def test_a_bound_on_everything_counts_both() -> None:
    models = [resident("a", {ALL: 9, HOST: 2, "CUDA0": 7})]
    need = {ALL: 3, HOST: 3}
    assert make_room(need, {ALL: 12, "CUDA0": 8}, models) == Decision(True)
    assert make_room(need, {ALL: 11, "CUDA0": 8}, models) == Decision(True, ("a",))
