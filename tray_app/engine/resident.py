"""One model's place in the resident set: its state, its child, who uses it and who waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .conversations import Conversation
from .errors import ErrorView, ModelFailed
from .llama_server import ServerChild
from .pools import needs
from .values import ModelState, ModelStatus, Offload

CRASH_WINDOW_S = 120.0  # deaths further apart than this are not a loop

_AFTER_A_CHILD = frozenset({ModelState.BACKOFF, ModelState.UNLOADED, ModelState.FAILED})
ALLOWED: dict[ModelState, frozenset[ModelState]] = {
    ModelState.UNLOADED: frozenset({ModelState.WAITING, ModelState.LOADING, ModelState.FAILED}),
    ModelState.WAITING: frozenset({ModelState.LOADING, ModelState.UNLOADED, ModelState.FAILED}),
    ModelState.LOADING: _AFTER_A_CHILD | {ModelState.READY, ModelState.STOPPING},
    ModelState.READY: _AFTER_A_CHILD | {ModelState.STOPPING},
    ModelState.STOPPING: frozenset({ModelState.UNLOADED}),
    ModelState.BACKOFF: frozenset(
        {ModelState.LOADING, ModelState.WAITING, ModelState.UNLOADED, ModelState.FAILED}
    ),
    ModelState.FAILED: frozenset({ModelState.WAITING, ModelState.LOADING, ModelState.UNLOADED}),
}


class Dismissed(ModelFailed):
    """The model was unloaded, or the engine ends: whoever waited for it is told; it did not fail.

    The code is the one that a request in flight gets when its child is stopped.
    """

    code = "model_stopped"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model would be started; `start` makes the child. Memory in bytes, context in tokens."""

    memory_bytes: int
    context_length: int
    pinned: bool
    start: Callable[[], ServerChild]
    runtime_id: str = ""
    gpu_layers: int | None = None  # asked for; None: as many as there is room for
    conversation: Conversation | None = None  # what is kept of it while it is not in memory
    on_gpus: Mapping[str, int] = field(default_factory=dict)  # the part in GPUs' own memory
    # Only makes room: then this measures, in memory as empty as it can be, and is the real plan.
    measure: Callable[[], Plan] | None = None

    @property
    def needs(self) -> Mapping[str, int]:
        """Bytes by pool."""
        return needs(self.memory_bytes, self.on_gpus)


@dataclass(slots=True, eq=False)
class Wish:
    """Someone who waits for the model: a request, or (`request` False) a switch or load command."""

    granted: asyncio.Future[ServerChild]
    request: bool


class Lease:
    """The right to send one request to a ready model; `release` it exactly when done."""

    def __init__(
        self, resident: Resident, child: ServerChild, wait_s: float, give_back: GiveBack
    ) -> None:
        self.model_id = resident.model_id
        path = child.endpoint.socket_path
        self.socket_path = str(path) if path else None
        self.headers = child.endpoint.headers
        self.host_port = ("127.0.0.1", child.endpoint.port) if child.endpoint.port else None
        self.wait_s = wait_s
        self.died = child.died
        self._resident: Resident | None = resident
        self._give_back = give_back

    def release(self) -> None:
        """Give it back; more calls do nothing."""
        resident, self._resident = self._resident, None
        if resident is not None:
            self._give_back(resident)


@dataclass(slots=True, eq=False)
class Resident:
    """Mutable; owned by the residency and touched on the event loop alone."""

    model_id: str
    on_change: Callable[[Resident], None]
    state: ModelState = ModelState.UNLOADED
    child: ServerChild | None = None
    in_flight: int = 0
    wishes: deque[Wish] = field(default_factory=deque)
    leaving: bool = False  # stops as soon as nobody uses it; later requests queue again
    dismissed: bool = False  # leaving by command: what another wish called off stays, this not
    hurried: bool = False  # its wish may cut the answers in its way
    pinned: bool = False
    used_at: float = 0.0  # monotonic, for the eviction
    memory_bytes: int = 0
    holds: Mapping[str, int] = field(default_factory=dict)  # the same by pool
    context_length: int | None = None
    runtime_id: str = ""  # what its child runs on, or ran on last
    offload: Offload | None = None
    conversation: Conversation | None = None
    load_s: float | None = None
    loaded_at: float | None = None
    last_used_at: float | None = None
    retry_at: float | None = None  # Unix time, for showing
    retry: asyncio.TimerHandle | None = None
    stopping: asyncio.Task[None] | None = None
    error: ErrorView | None = None
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=16))  # monotonic

    def move(self, state: ModelState) -> None:
        """The one way to another state; an impossible move is a defect and raises."""
        if state is self.state:
            return
        if state not in ALLOWED[self.state]:
            raise AssertionError(f"{self.model_id}: {self.state} cannot become {state}")
        if self.retry is not None:
            self.retry.cancel()
        self.retry_at = self.retry = None
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

    @property
    def unused(self) -> bool:
        """Whether it is up and nobody uses it or waits for it."""
        return self.serving and not self.in_flight and not self.wishes

    @property
    def workable(self) -> bool:
        """Whether its wish can be worked on now; one that is still ending lets others by."""
        ending = self.state is ModelState.READY and self.dismissed
        return not ending and self.state is not ModelState.STOPPING

    def take(self, plan: Plan) -> None:
        """A child is started by this plan."""
        self.pinned, self.runtime_id, self.offload = plan.pinned, plan.runtime_id, None
        self.memory_bytes, self.context_length = plan.memory_bytes, plan.context_length
        self.holds = plan.needs
        self.conversation = plan.conversation

    def note_death(self, now_s: float) -> int:
        """Count a death that nobody asked for; how many there were lately, this one included."""
        self.deaths.append(now_s)
        return sum(1 for death in self.deaths if now_s - death < CRASH_WINDOW_S)

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
            runtime_id=self.runtime_id or None if up else None,
            offload=self.offload if up else None,
            retry_at=self.retry_at,
            error=self.error,
        )


GiveBack = Callable[[Resident], None]


def ending() -> Dismissed:
    """Whoever still waits when the engine ends is told this."""
    return Dismissed("The engine is stopping.", "Start Llama Wrangler again.")


def not_started(model_id: str, error: Exception) -> ModelFailed:
    """A child could not even be started."""
    return ModelFailed(f"{model_id} could not be started: {error}.", "The engine's log says more.")


async def end(
    child: ServerChild, kept: Conversation | None, grace_s: float, save_s: float | None = None
) -> None:
    """Stop a child; what it holds of conversations is kept first, in at most `save_s` seconds."""
    if kept is not None and not child.ended.done():
        with contextlib.suppress(TimeoutError):  # what was kept before stays
            async with asyncio.timeout(save_s):
                await kept.save(child.endpoint)
    await child.stop(grace_s)
