"""What the engine counts and sees of its models, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # values.py passes these on
    from .values import Memory, Model, ModelStatus


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


@dataclass(frozen=True, slots=True)
class UsageBucket:
    """One hour or one day of a model's use; those without a request are not listed."""

    start_at: float
    requests: int
    generated_tokens: int
    tokens_per_s: float | None


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What one model did in a span of time. Speeds are tokens by the time they took."""

    model_id: str
    requests: int
    failed: int  # answered with an error; a client that left is none
    last_at: float
    prompt_tokens: int
    cached_tokens: int  # of the prompt tokens
    generated_tokens: int
    longest_tokens: int | None  # prompt and answer together: the most context that was used
    tokens_per_s: float | None
    prompt_tokens_per_s: float | None
    first_token_median_s: float | None
    first_token_p95_s: float | None
    buckets: tuple[UsageBucket, ...]  # oldest first


@dataclass(frozen=True, slots=True)
class Usage:
    """Use of all models, or of one, from the kept requests."""

    from_at: float
    until_at: float
    bucket_s: int  # an hour, or a day (which is an hour longer or shorter twice a year)
    kept_from_at: float | None  # the oldest request that is still known; None: there is none
    models: tuple[ModelUsage, ...]  # most used first


@dataclass(frozen=True, slots=True)
class Slot:
    """One place of a running llama-server: a request is worked on in it, or its rest is kept."""

    id: int
    busy: bool
    context_length: int  # tokens it may hold
    context_used: int  # tokens it holds


@dataclass(frozen=True, slots=True)
class Running:
    """A model in memory."""

    model: Model
    status: ModelStatus
    leaves_at: float | None  # when it is idle until then; None: it stays


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """What a model's own file says of it, and how it is set to answer."""

    model: Model
    header: Mapping[str, Any]  # GGUF keys; of long lists nothing, of texts the beginning
    chat_template: str
    answering: Mapping[str, float | int | str]  # "temperature": 0.7; what is set, only
