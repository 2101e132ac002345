"""Counts since the engine's start, by model: of requests, tokens, times and loads."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate

from .measures import Histogram, ModelCounts
from .values import ModelState, ModelStatus, RequestRecord

# Few, because every model has each of them: from one cached answer to a long text on a slow CPU.
DURATION_BOUNDS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
LATELY_S = 600.0  # a speed that is older says little about now
FIRST_TOKEN_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _Times:
    """A histogram that is being filled."""

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self._bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds_s, seconds)] += 1
        self._sum_s += seconds

    def read(self) -> Histogram:
        at_most = tuple(accumulate(self._counts))
        return Histogram(self._bounds_s, at_most[:-1], at_most[-1], self._sum_s)


@dataclass(slots=True)
class _Counted:
    requests: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    generated_tokens: int = 0
    wait_s: float = 0.0
    duration: _Times = field(default_factory=lambda: _Times(DURATION_BOUNDS_S))
    first_token: _Times = field(default_factory=lambda: _Times(FIRST_TOKEN_BOUNDS_S))
    loads: int = 0
    load_s: float = 0.0
    loaded_at: float | None = None  # of the load counted last
    speed: tuple[float, float] | None = None  # (Unix time, tokens/s) of the last that told one


class Tally:
    """Changed on the event loop alone: by the gateway's records and the residency's changes.

    It grows by the models that were asked for, as the resident set does.
    """

    def __init__(self) -> None:
        self._models: dict[str, _Counted] = {}

    def answered(self, record: RequestRecord) -> None:
        """Count a request."""
        counted = self._of(record.model_id)
        counted.requests[f"{record.status // 100}xx"] += 1
        counted.prompt_tokens += record.prompt_tokens or 0
        counted.generated_tokens += record.generated_tokens or 0
        counted.wait_s += record.wait_s
        counted.duration.add(record.duration_s)
        if record.tokens_per_s:
            counted.speed = (record.started_at + record.duration_s, record.tokens_per_s)
        # Without tokens (a list of slots, a refusal) the first byte is no token.
        if record.first_token_s is not None and record.generated_tokens:
            counted.first_token.add(record.first_token_s)

    def changed(self, status: ModelStatus) -> None:
        """Count a load when it is done: each one has its own time of completion."""
        if status.state is not ModelState.READY or status.loaded_at is None:
            return
        counted = self._of(status.model_id)
        if counted.loaded_at != status.loaded_at:
            counted.loaded_at = status.loaded_at
            counted.loads += 1
            counted.load_s += status.load_s or 0.0

    def lately(self, model_id: str | None, now: float) -> float | None:
        """Tokens/s of the model's last answer, if that is not long ago; any thread."""
        counted = self._models.get(model_id or "")
        if counted is None or counted.speed is None or now - counted.speed[0] > LATELY_S:
            return None
        return counted.speed[1]

    def read(self) -> tuple[ModelCounts, ...]:
        """The counts of every model that has any."""
        return tuple(
            ModelCounts(
                model_id=model_id,
                requests=tuple(sorted(counted.requests.items())),
                prompt_tokens=counted.prompt_tokens,
                generated_tokens=counted.generated_tokens,
                wait_s=counted.wait_s,
                duration=counted.duration.read(),
                first_token=counted.first_token.read(),
                loads=counted.loads,
                load_s=counted.load_s,
            )
            for model_id, counted in self._models.items()
        )

    def _of(self, model_id: str) -> _Counted:
        if model_id not in self._models:
            self._models[model_id] = _Counted()
        return self._models[model_id]
