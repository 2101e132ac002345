"""Who must leave memory so that one more model fits, and whether it can fit at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import eviction
from .errors import NotEnoughMemory
from .resident import Plan, Resident
from .values import ModelState


def decide(
    model_id: str,
    plan: Plan,
    others: Sequence[Resident],
    budget_bytes: int,
    is_active: Callable[[str], bool],
    now_s: float,
) -> tuple[eviction.Decision, bool]:
    """What makes room beside `others`, and whether one that is ending already must be awaited.

    `others` are those that hold memory now; `now_s` is monotonic. Raises NotEnoughMemory.
    """
    held = [other for other in others if other.state is not ModelState.STOPPING]
    decision = eviction.make_room(
        plan.memory_bytes,
        budget_bytes,
        [
            eviction.Resident(
                model_id=other.model_id,
                memory_bytes=other.memory_bytes,
                busy=other.in_flight > 0,
                pinned=_stays(other),
                active=is_active(other.model_id),
                idle_s=now_s - other.used_at,
                load_s=other.load_s or 0.0,
            )
            for other in held
        ],
    )
    if not decision.fits:
        raise _too_large(model_id, plan.memory_bytes, budget_bytes, held)
    in_all = plan.memory_bytes + sum(other.memory_bytes for other in others)
    return decision, in_all > budget_bytes and len(held) < len(others)


def _stays(resident: Resident) -> bool:
    return resident.pinned and not resident.dismissed


def _too_large(
    model_id: str, need_bytes: int, budget_bytes: int, held: Sequence[Resident]
) -> NotEnoughMemory:
    pinned = ", ".join(other.model_id for other in held if _stays(other))
    need, budget = need_bytes / 1e9, budget_bytes / 1e9
    return NotEnoughMemory(
        f"{model_id} needs {need:.1f} GB and models may hold {budget:.1f} GB"
        + (f", part of it pinned by {pinned}." if pinned else "."),
        "Choose a smaller context length or quantization, or close other programs.",
    )
