"""One model's place in the resident set: its state, its child, who uses it and who waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import ErrorView
from .llama_server import ServerChild
from .values import ModelState, ModelStatus

ALLOWED: dict[ModelState, frozenset[ModelState]] = {
    ModelState.UNLOADED: frozenset({ModelState.WAITING, ModelState.LOADING, ModelState.FAILED}),
    ModelState.WAITING: frozenset({ModelState.LOADING, ModelState.UNLOADED, ModelState.FAILED}),
    ModelState.LOADING: frozenset(
        {ModelState.READY, ModelState.STOPPING, ModelState.BACKOFF, ModelState.FAILED}
    ),
    ModelState.READY: frozenset({ModelState.STOPPING, ModelState.BACKOFF, ModelState.UNLOADED}),
    ModelState.STOPPING: frozenset({ModelState.UNLOADED}),
    ModelState.BACKOFF: frozenset(
        {ModelState.LOADING, ModelState.WAITING, ModelState.UNLOADED, ModelState.FAILED}
    ),
    ModelState.FAILED: frozenset({ModelState.WAITING, ModelState.LOADING, ModelState.UNLOADED}),
}


@dataclass(slots=True)
class Wish:
    """Someone who waits for the model: a request, or (`request` False) a switch or load command."""

    granted: asyncio.Future[ServerChild]
    request: bool


@dataclass(slots=True)
class Resident:
    """Mutable; owned by the residency and touched on the event loop alone."""

    model_id: str
    on_change: Callable[[Resident], None]
    state: ModelState = ModelState.UNLOADED
    child: ServerChild | None = None
    in_flight: int = 0
    wishes: deque[Wish] = field(default_factory=deque)
    leaving: bool = False  # stops as soon as nobody uses it; later requests queue again
    pinned: bool = False
    used_at: float = 0.0  # monotonic, for the eviction
    memory_bytes: int = 0
    context_length: int | None = None
    load_s: float | None = None
    loaded_at: float | None = None
    last_used_at: float | None = None
    retry_at: float | None = None
    error: ErrorView | None = None
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=16))

    def move(self, state: ModelState) -> None:
        """The one way to another state; an impossible move is a defect and raises."""
        if state is self.state:
            return
        if state not in ALLOWED[self.state]:
            raise AssertionError(f"{self.model_id}: {self.state} cannot become {state}")
        self.state = state
        self.on_change(self)

    @property
    def occupies(self) -> bool:
        """Whether it holds memory now."""
        return self.state in (ModelState.LOADING, ModelState.READY, ModelState.STOPPING)

    @property
    def serving(self) -> bool:
        """Whether a request may go to it at once."""
        return self.state is ModelState.READY and not self.leaving

    def drop_wishes(self, error: BaseException) -> None:
        """Tell everyone who waits that it will not come."""
        while self.wishes:
            wish = self.wishes.popleft()
            if not wish.granted.done():
                wish.granted.set_exception(error)
                wish.granted.exception()  # a command's wish may have no listener left

    def status(self) -> ModelStatus:
        """The frozen view for faces."""
        up = self.child is not None and self.occupies
        return ModelStatus(
            model_id=self.model_id,
            state=self.state,
            in_flight=self.in_flight,
            waiting=sum(1 for wish in self.wishes if wish.request),
            pid=self.child.pid if up and self.child else None,
            loaded_at=self.loaded_at if up else None,
            last_used_at=self.last_used_at,
            load_s=self.load_s,
            memory_bytes=self.memory_bytes if self.occupies else None,
            context_length=self.context_length if up else None,
            retry_at=self.retry_at,
            error=self.error,
        )
