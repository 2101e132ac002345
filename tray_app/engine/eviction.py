"""Which resident models leave when another needs their memory: a pure decision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory as the decision sees it."""

    model_id: str
    memory_bytes: int
    busy: bool  # answering, or about to: it must finish first
    pinned: bool
    active: bool  # what `default` goes to
    idle_s: float
    load_s: float


@dataclass(frozen=True, slots=True)
class Decision:
    """`leave_now` are idle and go at once; `drain` are busy and go when they have answered."""

    fits: bool
    leave_now: tuple[str, ...] = ()
    drain: tuple[str, ...] = ()


def uselessness(model: Resident) -> float:
    """Idle time over the cost of loading again: what is cheap to bring back leaves first."""
    return model.idle_s / max(model.load_s, 0.1)


def make_room(need_bytes: int, budget_bytes: int, residents: Iterable[Resident]) -> Decision:
    """How `need_bytes` can fit into the budget beside the residents.

    Idle models leave before busy ones, the active model last of its kind, pinned ones never.
    `fits` is False when even all of that is not enough; then nothing should leave.
    """
    models = list(residents)
    missing = need_bytes + sum(model.memory_bytes for model in models) - budget_bytes
    if missing <= 0:
        return Decision(fits=True)
    order = sorted(
        (model for model in models if not model.pinned),
        key=lambda model: (model.busy, model.active, -uselessness(model)),
    )
    chosen: list[Resident] = []
    for model in order:
        if missing <= 0:
            break
        chosen.append(model)
        missing -= model.memory_bytes
    if missing > 0:
        return Decision(fits=False)
    return Decision(
        fits=True,
        leave_now=tuple(model.model_id for model in chosen if not model.busy),
        drain=tuple(model.model_id for model in chosen if model.busy),
    )
