"""Which models are in memory, who may use them, and who waits: one thread of control.

Everything here runs on one event loop. Loads happen one after the other in the order they
were first wished for; a model in use is never stopped by another's wish, unless that is
hurried; requests that arrive for a model that is being drained queue behind the wish that
drains it, so that two models asked for in turns cannot starve each other.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine, Mapping

from . import eviction
from .errors import EngineError, ErrorView, QueueFull
from .line import Line
from .llama_server import STOP_GRACE_S, ServerChild
from .resident import Dismissed, Lease, Plan, Resident, Wish, end, ending, not_started
from .resident_set import ResidentSet
from .restarts import BACKOFF_S, Restarts
from .room import decide
from .values import ModelState, ModelStatus, Offload

log = logging.getLogger(__name__)

CUT_GRACE_S = 0.3  # for a child that is cut; an idle one has ended in 0.2 s
QUIT_SAVE_S = 5.0  # a session that ends waits about so long for its programs


class Residency:
    """The resident set. `plan` may block (it runs in a thread); `budget` gets the pids held.

    `second_chance(model_id, runtime_id, error)` may put another runtime in the place of one that
    a model died on, and says whether it did: then the model is loaded anew at once.
    """

    def __init__(
        self,
        plan: Callable[[str], Plan],
        budget: Callable[[list[int]], Mapping[str, int]],
        publish: Callable[[ModelStatus], None],
        max_queue: Callable[[], int] = lambda: 64,
        is_active: Callable[[str], bool] = lambda _: False,
        second_chance: Callable[[str, str, ErrorView], bool] = lambda *_: False,
        clock: Callable[[], float] = time.monotonic,
        pauses_s: tuple[float, ...] = BACKOFF_S,
    ) -> None:
        self._plan = plan
        self._budget = budget
        self._max_queue = max_queue
        self._is_active = is_active
        self._clock = clock
        self._residents = ResidentSet(publish)
        # What faces and gateway read; any thread.
        self.statuses, self.held_bytes = self._residents.statuses, self._residents.held_bytes
        self.command = self._residents.command
        self.endpoint = self._residents.endpoint
        self._wake = asyncio.Event()  # something changed that the loader may wait for
        self._line = Line(self._wake.set)
        self._restarts = Restarts(
            self._line, is_active, second_chance, self._give_up, clock, pauses_s
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._loader = self._spawn(self._load_in_turn())
        self._closing = False

    # -- asking for models

    async def acquire(self, model_id: str, counts: bool = True) -> Lease:
        """Wait until the model is ready and take a place in it.

        Without `counts` it is only looked at, and stays as idle as it was.
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
        if counts:
            resident.last_used_at = time.time()
        self._residents.changed(resident)
        give_back = functools.partial(self._released, counts=counts)
        return Lease(resident, child, self._clock() - started, give_back)

    async def load(self, model_id: str) -> None:
        """Bring a model up and return when it is ready. Raises as `acquire`."""
        resident = self._resident(model_id)
        if not resident.serving:
            await self._wait_for(resident, request=False)

    def hurry(self, model_id: str) -> None:
        """ "Switch now": the wish for `model_id` goes first and cuts the models in its way.

        Holds for the wish that is there or comes next, until it is ready, fails or is withdrawn.
        """
        resident = self._resident(model_id)
        if resident.serving:
            return
        self._line.hurry(resident)
        for other in self._residents:
            if other.state is ModelState.LOADING and other is not resident and not other.pinned:
                self._stop(other)  # whoever waits for it keeps waiting: it comes again
        self._wake.set()

    # -- letting models go

    async def unload(self, model_id: str, now: bool = False) -> None:
        """Stop a model once it has answered what it is answering, or at once with `now`."""
        resident = self._residents.get(model_id)
        if resident is None:
            return
        resident.drop_wishes(Dismissed(f"{model_id} was unloaded.", "Send the request again."))
        self._line.leave(resident)
        resident.hurried = False
        if resident.occupies:
            resident.leaving = resident.dismissed = True
            if now or resident.in_flight == 0 or resident.state is ModelState.LOADING:
                self._stop(resident)
            if resident.stopping is not None:
                await asyncio.wait([resident.stopping])
        else:
            resident.error = None
            resident.move(ModelState.UNLOADED)
        self._residents.changed(resident)

    def renew(self, model_id: str) -> None:
        """End the model's child once it has answered; the next wish plans it anew.

        Who waits keeps waiting. A model that should be there (active, pinned) comes back by
        itself.
        """
        resident = self._residents.get(model_id)
        if resident is None or not resident.occupies:
            return
        if resident.wishes or resident.pinned or self._is_active(model_id):
            self._line.come_back(resident)
        resident.leaving = resident.dismissed = True
        if resident.in_flight == 0 or resident.state is ModelState.LOADING:
            self._stop(resident)
        self._residents.changed(resident)

    def idle_times(self) -> dict[str, float]:
        """Seconds since their last use ended, of the models that are up and used by nobody."""
        now = self._clock()
        return {r.model_id: now - r.used_at for r in self._residents if r.unused}

    def retire(self, model_id: str, idle_s: float) -> bool:
        """Stop a model that has been idle this long, unless pinned; whether it is stopped now."""
        resident = self._residents.get(model_id)
        if resident is None or not resident.unused or resident.pinned:
            return False
        if self._clock() - resident.used_at < idle_s:
            return False
        self._stop(resident)
        return True

    def set_pinned(self, model_id: str, pinned: bool) -> None:
        """Keep a resident model from leaving, or let it."""
        resident = self._residents.get(model_id)
        if resident is not None:  # the plan of the next load tells it anyway
            resident.pinned = pinned
            self._wake.set()

    async def close(self, grace_s: float = 5.0) -> None:
        """End every child and everyone's wait; nothing is loaded after this."""
        self._closing = True
        self._loader.cancel()
        for resident in self._residents:
            resident.drop_wishes(ending())
            self._line.leave(resident)
            if not resident.occupies:
                resident.move(ModelState.UNLOADED)
        ends = [
            end(r.child, r.conversation if r.unused else None, grace_s, QUIT_SAVE_S)
            for r in self._residents
            if r.child is not None
        ]
        await asyncio.gather(*ends, return_exceptions=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- inside

    def _resident(self, model_id: str) -> Resident:
        if self._closing:
            raise ending()
        return self._residents[model_id]

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
        if resident.state is ModelState.FAILED:  # asked again, so tried again
            resident.error = None
            resident.move(ModelState.UNLOADED)
        self._line.join(resident)
        self._residents.changed(resident)
        try:
            return await wish.granted
        except asyncio.CancelledError:
            if wish in resident.wishes:
                resident.wishes.remove(wish)
            elif request and not wish.granted.cancelled() and wish.granted.exception() is None:
                self._released(resident)  # granted in the same breath: give the place back
            self._withdraw(resident)
            raise

    def _released(self, resident: Resident, counts: bool = True) -> None:
        """A lease ended."""
        resident.in_flight -= 1
        if counts:
            resident.used_at, resident.last_used_at = self._clock(), time.time()
        if resident.leaving and resident.in_flight == 0:
            self._stop(resident)
        self._residents.changed(resident)
        self._wake.set()

    def _withdraw(self, resident: Resident) -> None:
        """The last one waiting left: no load is started for nobody."""
        restarting = resident.state is ModelState.BACKOFF and self._is_active(resident.model_id)
        if not resident.wishes and not restarting:
            self._line.leave(resident)
            resident.hurried = False
            if resident.state in (ModelState.WAITING, ModelState.BACKOFF):
                resident.move(ModelState.UNLOADED)
        self._residents.changed(resident)

    def _grant(self, resident: Resident) -> None:
        """Hand a ready model to everyone who waits for it."""
        resident.leaving = resident.hurried = False
        while resident.wishes and resident.child is not None:
            wish = resident.wishes.popleft()
            if not wish.granted.done():
                resident.in_flight += wish.request
                wish.granted.set_result(resident.child)
        self._residents.changed(resident)

    def _give_up(self, resident: Resident, error: EngineError) -> None:
        self._line.leave(resident)
        resident.hurried, resident.error = False, error.view()
        resident.drop_wishes(error)
        resident.move(ModelState.FAILED)
        self._residents.changed(resident)

    # -- the loader

    async def _load_in_turn(self) -> None:
        while True:
            resident = self._line.first()
            if resident is None:
                await self._next_change()
                continue
            try:
                await self._bring_up(resident)
            except EngineError as error:
                log.warning("load failed: %s", error.message, extra={"model": resident.model_id})
                self._load_failed(resident, error)
            except Exception as error:  # barrier: one bad load must not end all loading
                log.exception("load failed", extra={"model": resident.model_id})
                self._load_failed(resident, not_started(resident.model_id, error))

    def _load_failed(self, resident: Resident, error: EngineError) -> None:
        if resident.state is ModelState.LOADING:
            resident.drop_wishes(error)
            self._stop(resident)
        elif resident in self._line:  # else it was withdrawn meanwhile
            self._give_up(resident, error)

    async def _next_change(self) -> None:
        self._wake.clear()
        await self._wake.wait()

    async def _bring_up(self, resident: Resident) -> None:
        if resident.state is ModelState.READY:  # what drained it was called off
            self._stay(resident)
            return
        make: Callable[[], Plan] | None = functools.partial(self._plan, resident.model_id)
        while make is not None:  # the first plan may only make room to measure in
            plan = await asyncio.to_thread(make)
            if self._line.first() is not resident or not await self._room_for(resident, plan):
                return
            make = plan.measure
        started = self._clock()
        child = plan.start()
        self._line.leave(resident)
        resident.child, resident.error = child, None
        resident.take(plan)
        resident.move(ModelState.LOADING)
        self._spawn(self._watch(resident, child))
        ready = await child.wait_ready()
        if ready and plan.conversation is not None:
            await plan.conversation.restore(child.endpoint)
        if ready and resident.state is ModelState.LOADING:
            resident.load_s = self._clock() - started
            resident.used_at, resident.loaded_at = self._clock(), time.time()
            resident.move(ModelState.READY)
            self._grant(resident)
            self._spawn(self._note_offload(resident, child, plan))

    async def _note_offload(self, resident: Resident, child: ServerChild, plan: Plan) -> None:
        """What the load said about the GPU; after the waiting ones have their model."""
        found = await child.offload()
        if found is not None and resident.child is child:
            resident.offload = Offload(plan.gpu_layers, *found)
            self._residents.changed(resident)

    async def _room_for(self, resident: Resident, plan: Plan) -> bool:
        """Wait until the plan fits, sending others away. False when another wish goes first."""
        drained: set[Resident] = set()
        try:
            while True:
                decision, stopping = self._decide(resident, plan)
                self._clear(decision, resident.hurried, drained)
                if not (decision.leave_now or decision.drain or stopping):
                    return True
                resident.move(ModelState.WAITING)
                await self._next_change()
                if self._line.first() is not resident:  # withdrawn, or another is hurried
                    return False
        finally:
            for other in drained:
                self._stay(other)

    def _clear(self, decision: eviction.Decision, hurried: bool, drained: set[Resident]) -> None:
        """Send away what the decision names, and let those stay that it names no longer."""
        draining = {self._residents[model_id] for model_id in decision.drain}
        for model_id in decision.leave_now:
            self._stop(self._residents[model_id])
        for other in drained - draining:
            drained.discard(other)
            self._stay(other)
        for other in draining:
            if hurried:
                self._stop(other)
            elif not other.leaving:
                other.leaving = True
                drained.add(other)

    def _decide(self, resident: Resident, plan: Plan) -> tuple[eviction.Decision, bool]:
        others = [r for r in self._residents if r is not resident and r.occupies]
        budget = self._budget([r.child.pid for r in others if r.child is not None])
        return decide(resident.model_id, plan, others, budget, self._is_active, self._clock())

    def _stay(self, resident: Resident) -> None:
        """The drain was not needed in the end: serve what queued meanwhile."""
        if resident.state is ModelState.READY and not resident.dismissed:
            self._line.leave(resident)
            self._grant(resident)

    # -- the end of a child

    def _stop(self, resident: Resident) -> None:
        """Begin to end its child. From here on, in the same breath, nobody gets a place in it."""
        if resident.child is not None and resident.state in (ModelState.READY, ModelState.LOADING):
            # While it answers, llama-server ends only with its connections: do not wait for those.
            idle = resident.state is ModelState.READY and resident.in_flight == 0
            resident.move(ModelState.STOPPING)
            kept = resident.conversation if idle else None
            grace_s = STOP_GRACE_S if idle else CUT_GRACE_S
            resident.stopping = self._spawn(end(resident.child, kept, grace_s))

    async def _watch(self, resident: Resident, child: ServerChild) -> None:
        """Follow one child to its end, and decide what comes after."""
        ended = await child.ended
        asked_to = resident.state is ModelState.STOPPING or resident.dismissed or self._closing
        resident.child = resident.stopping = None
        resident.leaving = resident.dismissed = False
        if ended.fault is None or asked_to:
            resident.error = None
            resident.move(ModelState.UNLOADED)
        else:
            self._restarts.died(resident, ended.fault.error, ended.fault.permanent)
        if resident.wishes:
            self._line.join(resident)
        else:
            resident.hurried = False
        self._wake.set()
