"""Measuring how fast a model is here: one at a time, and answers always go first.

A measurement begins when nobody is answered, nothing loads and no other job runs. What comes
meanwhile ends it at once, and it begins anew; a load first ends it, so that it finds the memory.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tray_app.engine import launch, routes
from tray_app.engine.errors import BadRequest, BenchFailed, RuntimeMissing
from tray_app.engine.jobs import JobContext
from tray_app.engine.launch import Placement
from tray_app.engine.process import ChildProcess, LaunchSpec
from tray_app.engine.runtime.shelf import tool_of
from tray_app.engine.settings import ModelSettings
from tray_app.engine.values import Job, Model, ModelKind, Runtime

from . import bench_tool, quiet, way
from .bench_tool import TOOL
from .compare import by_model
from .record import BenchRecord
from .values import BenchHistory, BenchRun, BenchRunning, BenchWish, Measured

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

KIND = "bench_model"
MOST_TRIES = 5  # a measurement that is interrupted again and again is given up
POLL_S = 0.05
JOBS_LOOK_S = 1.0
SILENT_S = 1800.0  # without a line: one run of 512 tokens, at 0.3 tokens/s
LEAST_CONTEXT = 512  # tokens, for the fit


@dataclass(frozen=True, slots=True)
class _Task:
    """What is measured, as it was when it was asked for."""

    model: Model
    settings: ModelSettings
    runtime: Runtime
    tool: Path
    wish: BenchWish


class Bench:
    """From any thread; one for the engine."""

    def __init__(self, engine: Engine, silent_s: float = SILENT_S) -> None:
        """Raises sqlite3.Error."""
        self._engine = engine
        self._silent_s = silent_s
        self._record = BenchRecord(engine.db)
        self._lock = threading.Lock()
        self._running: BenchRunning | None = None
        self._spawning = threading.Lock()  # between it and a load that asks for the way
        self._child: ChildProcess | None = None
        self._waved_at = float("-inf")  # monotonic: when a load last asked for the way

    def start(self, name: str, wish: BenchWish, runtime_id: str | None = None) -> Job:
        """Begin to measure a model with its settings, on its runtime or on another one.

        Raises ModelNotFound, ModelUnavailable, RuntimeMissing, SettingsInvalid and BadRequest.
        """
        engine = self._engine
        model = routes.resolve(
            name, engine.library.models(), engine.settings.aliases, engine.active.model_id
        )
        settings = engine.store.for_model(model.id)
        runtime = engine.runtime.require(runtime_id or settings.runtime)
        tool = tool_of(runtime, TOOL)
        if tool is None:
            raise RuntimeMissing(
                f"{runtime.id} has no {TOOL}, which measures speed.",
                "Install or build another llama.cpp on the Runtimes page.",
            )
        if model.kind is ModelKind.EMBEDDING:  # it writes nothing
            wish = replace(wish, generated_tokens=0)
        bench_tool.check(model, wish)

        def work(context: JobContext) -> None:
            self._measure(context, _Task(model, settings, runtime, tool, wish))

        with self._lock:
            if running := self._in_progress():
                raise BadRequest(
                    f"The speed of {running.model_id} is being measured.",
                    "Wait for its end, or cancel it: two at once would slow each other down.",
                )
            title = f"Measuring the speed of {model.name[:80]}"
            log_path = engine.home.logs / "bench.log"
            job = engine.jobs.submit(KIND, title, work, log_path)
            self._running = BenchRunning(job.id, model.id)
        return job

    def history(self, model_id: str | None = None) -> BenchHistory:
        """What is kept, of a model (by id) or of all. Blocks for 15 ms with a full table."""
        runs = self._record.runs(model_id)
        with self._lock:
            running = self._in_progress()
        return BenchHistory(runs, by_model(runs), running)

    @property
    def measuring(self) -> bool:
        """Whether the tool runs at this moment."""
        return self._child is not None

    def make_way(self) -> None:
        """A model is about to be loaded: end the tool and wait until it is gone (0.1 s).

        Its job goes on by itself later.
        """
        with self._spawning:
            self._waved_at, child = time.monotonic(), self._child
        if child is not None:
            with contextlib.suppress(TimeoutError):  # it hangs in the kernel: load all the same
                child.stop(grace_s=0)

    # -- the job

    def _in_progress(self) -> BenchRunning | None:
        running = self._running
        if running is not None and not self._engine.jobs.get(running.job_id).state.in_progress:
            running = self._running = None
        return running

    def _measure(self, context: JobContext, task: _Task) -> None:
        engine = self._engine
        sent_away: list[str] = []
        try:
            for _ in range(MOST_TRIES):
                busy_percent = quiet.wait(engine, context, lambda: self._waved_at)
                quiet_at = time.monotonic()
                context.progress(0, None, "steps", "Working out how it fits")
                placement = engine.runtime.place(task.model, task.settings, task.runtime)
                needed = self._needed_bytes(task, placement)
                way.clear(engine, context, task.model, task.runtime, needed, sent_away)
                argv = bench_tool.arguments(
                    task.tool, task.model, task.settings, placement, task.wish
                )
                in_memory = quiet.in_memory(engine)
                measured = self._run(context, argv, task.wish, quiet_at)
                if measured is not None:
                    self._record.add(_kept(task, measured, in_memory, busy_percent))
                    return
        finally:
            way.bring_back(engine, sent_away)
        raise BenchFailed(
            f"It was interrupted {MOST_TRIES} times: the models were in use.",
            "Measure again when nobody asks them anything.",
        )

    def _needed_bytes(self, task: _Task, placement: Placement) -> int:
        """What the tool will take: it makes a context of its longest test alone."""
        tokens = max(task.wish.prompt_tokens, task.wish.generated_tokens, LEAST_CONTEXT)
        own = task.settings.gpu_layers
        layers = own if own is not None else placement.gpu_layers
        small = replace(task.settings, context_length=tokens, gpu_layers=layers)
        return self._engine.runtime.place(task.model, small, task.runtime).memory_bytes

    def _run(
        self, context: JobContext, argv: tuple[str, ...], wish: BenchWish, quiet_at: float
    ) -> Measured | None:
        """One run of the tool; None when something came in its way since `quiet_at`.

        Raises BenchFailed, Cancelled, OSError.
        """
        context.progress(0, None, "runs", "Loading the model")
        context.log(launch.command_text(argv))
        answered = self._engine.history.total
        output = bench_tool.Output(
            wish, lambda done, total, step: context.progress(done, total, "runs", step)
        )
        spec = LaunchSpec(argv, launch.environment(os.environ), log_path=context.log_path)
        with self._spawning:
            if self._waved_at >= quiet_at:
                return None
            child = self._child = ChildProcess(
                spec,
                on_line=output.take,
                registry=self._engine.registry,
                kind="bench",
                marker=argv[2],
            )
        try:
            with child:
                status = self._watch(context, child, output)
        finally:
            self._child = None
        if status is None or self._waved_at >= quiet_at or self._engine.history.total != answered:
            context.log("It was interrupted: answers go first.")
            return None
        return output.result(status)

    def _watch(
        self, context: JobContext, child: ChildProcess, output: bench_tool.Output
    ) -> int | None:
        """Follow the tool to its end; None when it was ended because somebody needs the machine."""
        seen, told_at = -1, time.monotonic()
        looked_at = told_at
        while (status := child.wait(POLL_S)) is None:
            context.check()
            now = time.monotonic()
            jobs_too = now - looked_at >= JOBS_LOOK_S
            looked_at = now if jobs_too else looked_at
            if quiet.in_the_way(self._engine, context.job_id, jobs_too=jobs_too):
                child.stop(grace_s=0)
                return None
            if output.lines != seen:
                seen, told_at = output.lines, now
            elif now - told_at > self._silent_s:
                raise BenchFailed(
                    f"llama-bench told nothing for {self._silent_s / 60:.0f} minutes.",
                    "Measure with fewer tokens, or choose a smaller model.",
                )
        return status


def _kept(
    task: _Task, measured: Measured, in_memory: tuple[str, ...], busy_percent: float | None
) -> BenchRun:
    runtime, wish = task.runtime, task.wish
    on_gpu = runtime.backend != "cpu" and measured.settings.gpu_layers != 0
    return BenchRun(
        id=0,
        model_id=task.model.id,
        model_size_bytes=task.model.size_bytes,
        measured_at=time.time(),
        runtime_id=runtime.id,
        backend=runtime.backend,
        build=measured.build or runtime.build,
        device=measured.gpu if on_gpu and measured.gpu else measured.cpu,
        prompt_tokens=wish.prompt_tokens,
        generated_tokens=wish.generated_tokens,
        repetitions=wish.repetitions,
        prompt=measured.prompt,
        generation=measured.generation,
        settings=measured.settings,
        in_memory=in_memory,
        left_out=bench_tool.left_out(task.settings),
        busy_percent=busy_percent,
    )
