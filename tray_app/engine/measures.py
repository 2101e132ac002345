"""What the engine counts and sees of its models, as frozen values: for `/metrics`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # values.py passes these on
    from .values import Memory, ModelStatus


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often a number of seconds was at most each bound, as Prometheus counts."""

    bounds_s: tuple[float, ...]
    at_most: tuple[int, ...]  # one for each bound, each one including those before it
    count: int
    sum_s: float


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """What was counted for one model since the engine started; it never goes down."""

    model_id: str
    requests: tuple[tuple[str, int], ...]  # by status class: ("2xx", 17)
    prompt_tokens: int
    generated_tokens: int
    wait_s: float  # all requests together, until the model was ready
    duration: Histogram
    first_token: Histogram
    loads: int
    load_s: float  # all loads together


@dataclass(frozen=True, slots=True)
class ChildFigures:
    """What one ready llama-server says of itself in Prometheus' text; None: it did not answer."""

    model_id: str
    text: str | None


@dataclass(frozen=True, slots=True)
class Measures:
    """Everything `/metrics` tells, at one moment."""

    version: str
    runtime_id: str | None
    started_at: float
    memory: Memory
    statuses: tuple[ModelStatus, ...]
    counts: tuple[ModelCounts, ...]
    children: tuple[ChildFigures, ...]
