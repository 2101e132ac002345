"""Which resident models leave when another needs their memory: a pure decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .pools import missing


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory as the decision sees it."""

    model_id: str
    holds: Mapping[str, int]  # bytes by pool
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


def make_room(
    need: Mapping[str, int], budget: Mapping[str, int], residents: Iterable[Resident]
) -> Decision:
    """How `need` can fit into the budget beside the residents; all in bytes by pool.

    Idle models leave before busy ones, the active model last of its kind, pinned ones never, and
    nobody who holds nothing where room is missing. `fits` is False when even all of that is not
    enough; then nothing should leave.
    """
    models = list(residents)
    # A pool of which nothing is needed may be overdrawn: the new one makes that no worse.
    wanted = {pool: bound for pool, bound in budget.items() if need.get(pool, 0)}
    order = sorted(
        (model for model in models if not model.pinned),
        key=lambda model: (model.busy, model.active, -uselessness(model)),
    )
    chosen: list[Resident] = []
    staying = {model.model_id: model.holds for model in models}
    lacking = missing([need, *staying.values()], wanted)
    for model in order:
        if not lacking:
            break
        if any(model.holds.get(pool, 0) for pool in lacking):
            chosen.append(model)
            del staying[model.model_id]
            lacking = missing([need, *staying.values()], wanted)
    if lacking:
        return Decision(fits=False)
    return Decision(
        fits=True,
        leave_now=tuple(model.model_id for model in chosen if not model.busy),
        drain=tuple(model.model_id for model in chosen if model.busy),
    )
