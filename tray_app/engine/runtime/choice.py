"""Which llama.cpp is in use: searched for, chosen, tried on the user's model, rolled back.

The choice survives restarts. Nothing becomes active that has not proved itself.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from tray_app.engine.errors import EngineError, ErrorView, RuntimeMissing
from tray_app.engine.events import Event, RuntimeChanged
from tray_app.engine.state import StateDb

from .shelf import VARIABLE, Candidate, Shelf
from .values import Rejected, RolledBack, Runtime, RuntimeState, RuntimeStatus

log = logging.getLogger(__name__)

CHOICE, PREVIOUS, TRIAL = "runtime_choice", "runtime_previous", "runtime_trial"

_RESTING = frozenset({RuntimeState.READY, RuntimeState.MISSING, RuntimeState.FAILED})
ALLOWED: dict[RuntimeState, frozenset[RuntimeState]] = {
    RuntimeState.SEARCHING: _RESTING,
    RuntimeState.BUILDING: _RESTING | {RuntimeState.SEARCHING},
    RuntimeState.MISSING: frozenset({*RuntimeState}),
    RuntimeState.FAILED: frozenset({*RuntimeState}),
    RuntimeState.READY: frozenset({RuntimeState.READY, RuntimeState.SEARCHING}),
}


class Runtimes:
    """The one place that knows the active runtime. Thread-safe; searches take turns."""

    def __init__(
        self,
        shelf: Shelf,
        db: StateDb,
        publish: Callable[[Event], object],
        *,
        server_path: Callable[[], str | None] = lambda: None,
        rank: Callable[[str], int] = lambda backend: 0,
        restore: Callable[[], bool] = lambda: False,
    ) -> None:
        """`server_path` is the setting, `rank` orders backends (lowest first), `restore` may
        bring one of ours back from the cache. Touches no disk."""
        self.shelf = shelf
        self._db = db
        self._publish = publish
        self._server_path = server_path
        self._rank = rank
        self._restore = restore
        self._turn = threading.Lock()  # held by the one search
        self._lock = threading.Lock()
        self._previous: Runtime | None = None
        self._status = RuntimeStatus(RuntimeState.MISSING)

    # -- what others read

    def status(self) -> RuntimeStatus:
        """What is active and what is being done. Never blocks."""
        with self._lock:
            return self._status

    def require(self, runtime_id: str | None = None) -> Runtime:
        """The active runtime, or the one with this id. Raises RuntimeMissing."""
        status = self.status()
        if runtime_id is not None:
            return self._pinned(runtime_id, status)
        if status.active is not None:
            return status.active
        if status.error is not None:
            raise RuntimeMissing(status.error.message, status.error.remedy)
        words = {
            RuntimeState.SEARCHING: "llama.cpp is still being looked for.",
            RuntimeState.BUILDING: "llama.cpp is still being installed.",
        }
        raise RuntimeMissing(
            words.get(status.state, "There is no llama.cpp on this machine yet."),
            "Wait for it." if status.state in words else "Install it, or choose a llama-server.",
        )

    def _pinned(self, runtime_id: str, status: RuntimeStatus) -> Runtime:
        for runtime in status.installed:
            if runtime.id == runtime_id:
                if runtime.proof is not None and runtime.proof.ok:
                    return runtime
                return self.shelf.examine(self.shelf.locate(runtime.server_path))
        if status.active is not None and status.active.id == runtime_id:
            return status.active
        raise RuntimeMissing(
            f"This model is pinned to the runtime {runtime_id}, which is not installed.",
            "Choose another runtime in the model's settings, or install that one again.",
        )

    # -- searching

    def find(self) -> RuntimeStatus:
        """Search and activate the first good runtime. Blocks (0.1 s for each one, and a proof)."""
        with self._turn:
            self._become(state=RuntimeState.SEARCHING)
            try:
                return self._search()
            except BaseException:
                if self.status().state is RuntimeState.SEARCHING:  # never left hanging there
                    self._settle(self.status().active, None, ())
                raise

    def take_stock(self) -> RuntimeStatus:
        """Look at every other llama.cpp of this machine, too. Blocks (0.1 s for each new one)."""
        installed: dict[Path, Runtime] = {}
        rejected = {r.path: r for r in self.status().rejected if r.path.is_file()}
        shelf = self.shelf
        active = self.status().active
        for candidate in (*shelf.ours(), *shelf.adopted(), *shelf.found()):
            try:
                installed.setdefault(candidate.path, shelf.describe(candidate))
            except (EngineError, OSError) as exc:
                rejected.setdefault(candidate.path, Rejected(candidate.path, str(exc)))
        if active is not None:
            installed[active.server_path] = active
        ranked = sorted(installed.values(), key=lambda r: (-(r.build or 0), self._rank(r.backend)))
        path = self._db.recall(PREVIOUS)
        self._previous = next((r for r in ranked if str(r.server_path) == path), None)
        return self._become(
            installed=tuple(ranked),
            rejected=tuple(r for p, r in rejected.items() if p not in installed),
            previous_id=self._previous.id if self._previous else None,
        )

    def _search(self) -> RuntimeStatus:
        rejected: list[Rejected] = []
        chosen, passed_over = self._db.recall(CHOICE), ""
        for candidate in self._candidates():
            try:
                runtime = self.shelf.examine(candidate)
            except (EngineError, OSError) as exc:
                log.info("a llama-server was rejected: %s", exc)
                rejected.append(Rejected(candidate.path, str(exc)))
                if candidate.demanded:
                    return self._settle(None, _demanded_view(candidate, exc), rejected)
                if str(candidate.path) == chosen:
                    passed_over = str(exc)
                continue
            if passed_over:  # it stays the choice: a driver that is gone may come back
                return self._settle(runtime, _instead_view(runtime, passed_over), rejected)
            if not candidate.demanded:
                self._remember({CHOICE: str(runtime.server_path)})
            return self._settle(runtime, None, rejected)
        error = None
        if rejected:
            error = RuntimeMissing(
                f"No usable llama.cpp was found. {rejected[0].reason}",
                "Install one here, or choose a newer llama-server.",
            ).view()
        return self._settle(None, error, rejected)

    def _candidates(self) -> Iterator[Candidate]:
        """In order of preference; the later ones are only looked for when needed."""
        shelf = self.shelf
        if by_variable := shelf.by_variable():
            yield by_variable
        if named := self._server_path():
            path = Path(named).expanduser()
            with contextlib.suppress(RuntimeMissing):
                path = shelf.locate(path).path
            yield Candidate(path, "settings", demanded=True)
        ours = shelf.ours()
        chosen = self._db.recall(CHOICE)
        everything = (*ours, *shelf.adopted(), *shelf.found())
        yield from (c for c in everything if str(c.path) == chosen)
        if not ours and self._restore():
            ours = shelf.ours()
        yield from sorted(
            (c for c in ours if str(c.path) != chosen),
            key=lambda c: self._rank(c.manifest.backend if c.manifest else ""),
        )
        yield from (c for c in (*shelf.adopted(), *shelf.found()) if str(c.path) != chosen)

    def _settle(
        self, runtime: Runtime | None, error: ErrorView | None, rejected: list[Rejected] | tuple[()]
    ) -> RuntimeStatus:
        """A search has ended."""
        state = RuntimeState.READY
        if runtime is None:
            state = RuntimeState.MISSING if error is None else RuntimeState.FAILED
        trial = runtime is not None and self._db.recall(TRIAL) == str(runtime.server_path)
        return self._become(
            state=state, active=runtime, error=error, rejected=tuple(rejected), on_trial=trial
        )

    # -- choosing

    def activate(self, runtime: Runtime, *, on_trial: bool) -> RuntimeStatus:
        """Make a proved runtime the one that the next loads use. Raises sqlite3.Error."""
        if runtime.proof is None or not runtime.proof.ok:
            raise AssertionError(f"{runtime.id} has not proved itself")
        with self._lock:
            before = self._status.active
        if before is not None and before.server_path != runtime.server_path:
            self._previous = before
        previous = self._previous
        trial = on_trial and previous is not None and before is not None and before != runtime
        self._db.remember(
            {
                CHOICE: str(runtime.server_path),
                PREVIOUS: str(previous.server_path) if previous else None,
                TRIAL: str(runtime.server_path) if trial else None,
            }
        )
        return self._become(
            state=RuntimeState.READY,
            active=runtime,
            error=None,
            previous_id=previous.id if previous else None,
            on_trial=trial,
            rolled_back=None,
            installed=_with(self.status().installed, runtime),
        )

    @property
    def previous(self) -> Runtime | None:
        """What was active before."""
        return self._previous

    def trial_passed(self) -> None:
        """The runtime on trial has answered with the user's model; `save` keeps that."""
        self._become(on_trial=False)

    def roll_back(self, model_id: str, error: ErrorView) -> Runtime | None:
        """Put the previous runtime back because this one failed on a model of the user's.

        Never blocks; `save` keeps it. None when nothing is on trial.
        """
        status, back = self.status(), self._previous
        if not status.on_trial or status.active is None or back is None:
            return None
        log.error("runtime %s rolled back: %s", status.active.id, error.message)
        failed = status.active
        self._previous = None
        self._become(
            active=back,
            previous_id=None,
            on_trial=False,
            rolled_back=RolledBack(failed.id, model_id, error, back.id, time.time()),
        )
        return back

    def save(self) -> None:
        """Write the choice down. Blocks for a small transaction; a full disk only loses it."""
        status = self.status()
        previous = self._previous
        self._remember(
            {
                CHOICE: str(status.active.server_path) if status.active else None,
                PREVIOUS: str(previous.server_path) if previous else None,
                TRIAL: str(status.active.server_path)
                if status.active and status.on_trial
                else None,
            }
        )

    def note(self, **changes: object) -> RuntimeStatus:
        """Set fields of the status that others know: job_id, hardware, ladder, update …"""
        return self._become(**changes)

    # -- inside

    def _remember(self, values: dict[str, str | None]) -> None:
        try:
            self._db.remember(values)
        except sqlite3.Error as exc:
            log.error("the choice of a runtime could not be saved: %s", exc)

    def _become(self, **changes: object) -> RuntimeStatus:
        """The only place where the status changes, and where that is told."""
        with self._lock:
            before = self._status
            after = replace(before, **changes)  # type: ignore[arg-type]
            if after.state is not before.state and after.state not in ALLOWED[before.state]:
                raise RuntimeError(f"a runtime cannot go from {before.state} to {after.state}")
            if after != before:
                self._status = after
                self._publish(RuntimeChanged(after))
            return after


def _with(installed: tuple[Runtime, ...], runtime: Runtime) -> tuple[Runtime, ...]:
    others = [r for r in installed if r.server_path != runtime.server_path]
    return tuple(sorted([*others, runtime], key=lambda r: -(r.build or 0)))


def _instead_view(runtime: Runtime, reason: str) -> ErrorView:
    return RuntimeMissing(
        f"The runtime you chose cannot be used now, so {runtime.id} is used. {reason}",
        "Set that right and look again, or choose another on the Runtimes page.",
    ).view()


def _demanded_view(candidate: Candidate, exc: Exception) -> ErrorView:
    where = f"variable {VARIABLE}" if candidate.origin == "environment" else "settings"
    return RuntimeMissing(
        f"The llama-server named in the {where} cannot be used. {exc}",
        "Correct that path, or clear it to let one be found.",
    ).view()
