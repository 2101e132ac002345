"""Which models are in memory, who may use them, and who waits: one thread of control.

Everything here runs on one event loop. Loads happen one after the other in the order they
were first wished for; a model in use is never stopped by another's wish; requests that
arrive for a model that is being drained queue behind the wish that drains it, so that two
models asked for in turns cannot starve each other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass

from . import eviction
from .errors import EngineError, ErrorView, ModelFailed, NotEnoughMemory, QueueFull
from .llama_server import ServerChild
from .resident import Resident, Wish
from .values import ModelState, ModelStatus

log = logging.getLogger(__name__)

BACKOFF_S = (0.5, 1.0, 2.0, 4.0)  # pauses between restarts; after the last it has failed
CRASH_WINDOW_S = 120.0  # deaths further apart than this are not a loop


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model would be started; `start` makes the child. Memory in bytes, context in tokens."""

    memory_bytes: int
    context_length: int
    pinned: bool
    start: Callable[[], ServerChild]


class Lease:
    """The right to send one request to a ready model; `release` it exactly when done."""

    def __init__(self, resident: Resident, child: ServerChild, wait_s: float, residency: Residency):
        self.model_id = resident.model_id
        path = child.endpoint.socket_path
        self.socket_path = str(path) if path else None
        self.host_port = ("127.0.0.1", child.endpoint.port) if child.endpoint.port else None
        self.wait_s = wait_s
        self.died = child.died
        self._resident: Resident | None = resident
        self._residency = residency

    def release(self) -> None:
        """Give it back; more calls do nothing."""
        resident, self._resident = self._resident, None
        if resident is not None:
            self._residency.released(resident)


class Residency:
    """The resident set. `plan` may block (it runs in a thread); `budget` gets the pids held."""

    def __init__(
        self,
        plan: Callable[[str], Plan],
        budget: Callable[[list[int]], int],
        publish: Callable[[ModelStatus], None],
        max_queue: Callable[[], int] = lambda: 64,
        is_active: Callable[[str], bool] = lambda _: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._budget = budget
        self._publish = publish
        self._max_queue = max_queue
        self._is_active = is_active
        self._clock = clock
        self._residents: dict[str, Resident] = {}
        self._line: list[Resident] = []  # wished for and not up, in the order of asking
        self._wake = asyncio.Event()  # something changed that the loader may wait for
        self._statuses: Mapping[str, ModelStatus] = {}
        self._impatient: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loader = self._spawn(self._load_in_turn())
        self._closing = False

    # -- what faces and gateway read

    def statuses(self) -> Mapping[str, ModelStatus]:
        """The status of every model touched so far; a fresh mapping each change, any thread."""
        return self._statuses

    def held_bytes(self) -> int:
        """Estimated bytes that resident models hold."""
        return sum(r.memory_bytes for r in self._residents.values() if r.occupies)

    def command(self, model_id: str) -> tuple[str, ...] | None:
        """The argument vector that runs the model now; None when it is not up. Any thread."""
        resident = self._residents.get(model_id)
        child = resident.child if resident is not None else None
        return child.process.spec.argv if child is not None else None

    # -- asking for models

    async def acquire(self, model_id: str) -> Lease:
        """Wait until the model is ready and take a place in it.

        Raises QueueFull, NotEnoughMemory, ModelFailed and what planning raises. Cancelling the
        wait leaves the queue.
        """
        started = self._clock()
        resident = self._resident(model_id)
        if resident.serving and resident.child is not None:
            child = resident.child
            resident.in_flight += 1
        elif len(resident.wishes) >= self._max_queue():
            raise QueueFull(
                f"{model_id} already has {len(resident.wishes)} requests waiting.",
                "Send it again in a moment.",
            )
        else:
            child = await self._wait_for(resident, request=True)
        resident.last_used_at = time.time()
        self._changed(resident)
        return Lease(resident, child, self._clock() - started, self)

    async def load(self, model_id: str) -> None:
        """Bring a model up and return when it is ready. Raises as `acquire`."""
        resident = self._resident(model_id)
        if not resident.serving:
            await self._wait_for(resident, request=False)

    def released(self, resident: Resident) -> None:
        """A lease ended; called by `Lease.release`."""
        resident.in_flight -= 1
        resident.used_at = self._clock()
        resident.last_used_at = time.time()
        self._changed(resident)
        self._wake.set()
        if resident.leaving and resident.in_flight == 0:
            self._spawn(self._stop(resident))

    # -- letting models go

    async def unload(self, model_id: str, now: bool = False) -> None:
        """Stop a model once it has answered what it is answering, or at once with `now`."""
        resident = self._residents.get(model_id)
        if resident is None:
            return
        resident.drop_wishes(ModelFailed(f"{model_id} was unloaded.", "Send the request again."))
        if resident in self._line:
            self._line.remove(resident)
            self._wake.set()
        if resident.state in (ModelState.BACKOFF, ModelState.FAILED, ModelState.WAITING):
            resident.retry_at = resident.error = None
            resident.move(ModelState.UNLOADED)
        elif resident.occupies:
            resident.leaving = True
            if now or resident.in_flight == 0:
                await self._stop(resident)
            self._changed(resident)

    def hurry(self, model_id: str) -> None:
        """ "Switch now": the wish for `model_id` cuts the models in its way, busy as they are."""
        self._impatient.add(model_id)
        self._wake.set()

    def set_pinned(self, model_id: str, pinned: bool) -> None:
        """Keep a resident model from leaving, or let it."""
        self._resident(model_id).pinned = pinned
        self._wake.set()

    async def close(self, grace_s: float = 5.0) -> None:
        """End every child; no load starts after this."""
        self._closing = True
        self._loader.cancel()
        gone = ModelFailed("The engine is stopping.", "Start Llama Wrangler again.")
        for resident in self._residents.values():
            resident.drop_wishes(gone)
        children = [r.child for r in self._residents.values() if r.child is not None]
        await asyncio.gather(*(child.stop(grace_s) for child in children), return_exceptions=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- inside

    def _resident(self, model_id: str) -> Resident:
        if model_id not in self._residents:
            self._residents[model_id] = Resident(model_id, self._changed)
        return self._residents[model_id]

    def _changed(self, resident: Resident) -> None:
        status = resident.status()
        if self._statuses.get(resident.model_id) != status:
            self._statuses = {**self._statuses, resident.model_id: status}
            self._publish(status)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a residency task failed", exc_info=task.exception())

    async def _wait_for(self, resident: Resident, *, request: bool) -> ServerChild:
        wish = Wish(asyncio.get_running_loop().create_future(), request)
        resident.wishes.append(wish)
        if resident not in self._line and resident.state is not ModelState.LOADING:
            self._line.append(resident)
            self._wake.set()
        self._changed(resident)
        try:
            return await wish.granted
        except asyncio.CancelledError:
            if wish in resident.wishes:
                resident.wishes.remove(wish)
            elif request and not wish.granted.cancelled() and wish.granted.exception() is None:
                self.released(resident)  # granted in the same breath: give the place back
            self._withdraw(resident)
            raise

    def _withdraw(self, resident: Resident) -> None:
        """The last one waiting left: no load is started for nobody."""
        if not resident.wishes and resident in self._line:
            self._line.remove(resident)
            if resident.state is ModelState.WAITING:
                resident.move(ModelState.UNLOADED)
        self._changed(resident)
        self._wake.set()

    def _grant(self, resident: Resident) -> None:
        """Hand a ready model to everyone who waits for it."""
        while resident.wishes and resident.child is not None:
            wish = resident.wishes.popleft()
            if not wish.granted.done():
                resident.in_flight += wish.request
                wish.granted.set_result(resident.child)
        self._changed(resident)

    def _give_up(self, resident: Resident, error: EngineError) -> None:
        resident.error = error.view()
        resident.retry_at = None
        if resident in self._line:
            self._line.remove(resident)
        resident.drop_wishes(error)
        resident.move(ModelState.FAILED)
        self._changed(resident)

    async def _load_in_turn(self) -> None:
        while True:
            resident = self._next_in_line()
            if resident is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                await self._bring_up(resident)
            except EngineError as error:
                log.warning("load failed: %s", error.message, extra={"model": resident.model_id})
                self._give_up(resident, error)
            except Exception as error:  # barrier: one bad load must not end all loading
                log.exception("load failed", extra={"model": resident.model_id})
                self._give_up(resident, ModelFailed(f"Loading failed: {error}", "See the log."))

    def _next_in_line(self) -> Resident | None:
        """The first wish that can be worked on; one in back-off lets others by."""
        for resident in self._line:
            if resident.state is not ModelState.BACKOFF or (resident.retry_at or 0) <= time.time():
                return resident
        return None

    async def _bring_up(self, resident: Resident) -> None:
        while resident.state in (ModelState.READY, ModelState.STOPPING):
            if resident.serving:  # the drain was called off, or it came up by another way
                self._line.remove(resident)
                self._grant(resident)
                return
            await self._next_change()
        plan = await asyncio.to_thread(self._plan, resident.model_id)
        resident.pinned = plan.pinned
        if not await self._room_for(resident, plan) or resident not in self._line:
            return
        self._line.remove(resident)
        resident.memory_bytes, resident.context_length = plan.memory_bytes, plan.context_length
        resident.leaving, resident.error, resident.retry_at = False, None, None
        started = self._clock()
        resident.child = plan.start()
        resident.move(ModelState.LOADING)
        self._spawn(self._watch(resident, resident.child))
        if await resident.child.wait_ready() and resident.state is ModelState.LOADING:
            resident.load_s = self._clock() - started
            resident.used_at, resident.loaded_at = self._clock(), time.time()
            resident.move(ModelState.READY)
            self._grant(resident)

    async def _next_change(self) -> None:
        self._wake.clear()
        await self._wake.wait()

    async def _room_for(self, resident: Resident, plan: Plan) -> bool:
        """Wait until the plan fits, sending others away. False when the wish was withdrawn."""
        drained: set[str] = set()
        try:
            while True:
                decision, stopping = self._decide(resident, plan)
                cut = decision.drain if resident.model_id in self._impatient else ()
                for model_id in (*decision.leave_now, *cut):
                    self._residents[model_id].leaving = True
                    self._spawn(self._stop(self._residents[model_id]))
                for model_id in decision.drain:
                    self._residents[model_id].leaving = True
                    drained.add(model_id)
                if not (decision.leave_now or decision.drain or stopping):
                    return True
                if resident.state is not ModelState.WAITING:
                    resident.move(ModelState.WAITING)
                await self._next_change()
                if resident not in self._line:
                    return False
        finally:
            self._impatient.discard(resident.model_id)
            for model_id in drained:
                self._stay(self._residents[model_id])

    def _decide(self, resident: Resident, plan: Plan) -> tuple[eviction.Decision, bool]:
        """Who must leave, and whether one that is leaving already must be waited for."""
        others = [r for r in self._residents.values() if r is not resident and r.occupies]
        held = [r for r in others if r.state is not ModelState.STOPPING]
        now = self._clock()
        budget = self._budget([r.child.pid for r in others if r.child is not None])
        decision = eviction.make_room(
            plan.memory_bytes,
            budget,
            [
                eviction.Resident(
                    r.model_id, r.memory_bytes, r.in_flight > 0, r.pinned,
                    self._is_active(r.model_id), now - r.used_at, r.load_s or 0.1,
                )
                for r in held
            ],
        )  # fmt: skip
        if not decision.fits:
            pinned = [r.model_id for r in held if r.pinned]
            raise NotEnoughMemory(
                f"{resident.model_id} needs {plan.memory_bytes / 1e9:.1f} GB and models may hold"
                f" {budget / 1e9:.1f} GB"
                + (f", part of it pinned by {', '.join(pinned)}." if pinned else "."),
                "Choose a smaller context length or quantization, or close other programs.",
            )
        stopping = plan.memory_bytes + sum(r.memory_bytes for r in others) > budget
        return decision, stopping and len(held) < len(others)

    def _stay(self, resident: Resident) -> None:
        """The drain was not needed in the end: serve what queued meanwhile."""
        if resident.leaving and resident.state is ModelState.READY:
            resident.leaving = False
            if resident in self._line:
                self._line.remove(resident)
            self._grant(resident)

    async def _stop(self, resident: Resident) -> None:
        if resident.child is None or resident.state not in (ModelState.READY, ModelState.LOADING):
            return
        resident.move(ModelState.STOPPING)
        await resident.child.stop()

    async def _watch(self, resident: Resident, child: ServerChild) -> None:
        """Follow one child to its end, and decide what comes after."""
        ended = await child.ended
        resident.child, resident.leaving = None, False
        if ended.fault is None or resident.state is ModelState.STOPPING or self._closing:
            resident.error = None
            if resident.state in (ModelState.READY, ModelState.LOADING):
                resident.move(ModelState.STOPPING)
            resident.move(ModelState.UNLOADED)
        else:
            self._crashed(resident, ended.fault.error, ended.fault.permanent)
        self._wake.set()

    def _crashed(self, resident: Resident, error: ErrorView, permanent: bool) -> None:
        log.error("llama-server ended: %s", error.message, extra={"model": resident.model_id})
        now = self._clock()
        resident.deaths.append(now)
        recent = sum(1 for death in resident.deaths if now - death < CRASH_WINDOW_S)
        wanted = bool(resident.wishes) or self._is_active(resident.model_id)
        if permanent or recent > len(BACKOFF_S):
            failure = ModelFailed(error.message, error.remedy)
            failure.code = error.code
            resident.move(ModelState.BACKOFF)
            self._give_up(resident, failure)
        elif wanted:
            pause = BACKOFF_S[recent - 1]
            resident.error, resident.retry_at = error, time.time() + pause
            resident.move(ModelState.BACKOFF)
            if resident not in self._line:
                self._line.append(resident)
            asyncio.get_running_loop().call_later(pause + 0.01, self._wake.set)
        else:
            resident.error = error
            resident.move(ModelState.BACKOFF)
            resident.move(ModelState.UNLOADED)
