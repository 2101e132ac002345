"""Who must leave memory so that one more model fits, and whether it can fit at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from . import eviction, pools
from .errors import NotEnoughMemory
from .resident import Plan, Resident
from .values import ModelState


def decide(
    model_id: str,
    plan: Plan,
    others: Sequence[Resident],
    budget: Mapping[str, int],
    is_active: Callable[[str], bool],
    now_s: float,
) -> tuple[eviction.Decision, bool]:
    """What makes room beside `others`, and whether one that is ending already must be awaited.

    `others` are those that hold memory now; `budget` is in bytes by pool, `now_s` monotonic.
    A plan that only clears the way for a measurement takes what room can be had; for others
    raises NotEnoughMemory.
    """
    held = [other for other in others if other.state is not ModelState.STOPPING]
    seen = [
        eviction.Resident(
            model_id=other.model_id,
            holds=other.holds,
            busy=other.in_flight > 0,
            pinned=_stays(other),
            active=is_active(other.model_id),
            idle_s=now_s - other.used_at,
            load_s=other.load_s or 0.0,
        )
        for other in held
    ]
    decision = eviction.make_room(plan.needs, budget, seen)
    if not decision.fits:
        if plan.measure is not None:
            return eviction.Decision(fits=True), False
        raise _too_large(model_id, plan.needs, budget, held)
    together = [plan.needs, *(other.holds for other in others)]
    wanted = {pool: bound for pool, bound in budget.items() if plan.needs.get(pool)}
    return decision, len(held) < len(others) and bool(pools.missing(together, wanted))


def _stays(resident: Resident) -> bool:
    return resident.pinned and not resident.dismissed


def _too_large(
    model_id: str, need: Mapping[str, int], budget: Mapping[str, int], held: Sequence[Resident]
) -> NotEnoughMemory:
    """Names the pool that is too small, and who is pinned in it."""
    pinned = [other for other in held if _stays(other)]
    left = pools.missing([need, *(other.holds for other in pinned)], budget)
    pool = max(left, key=lambda each: left[each], default=pools.HOST)
    names = ", ".join(other.model_id for other in pinned if other.holds.get(pool))
    where = "" if pool in (pools.HOST, pools.ALL) else f" on {pool}"
    size, bound = need.get(pool, 0) / 1e9, budget.get(pool, 0) / 1e9
    return NotEnoughMemory(
        f"{model_id} needs {size:.1f} GB{where} and models may hold {bound:.1f} GB"
        + (f", part of it pinned by {names}." if names else "."),
        "Choose a smaller context length or quantization, or close other programs.",
    )
