"""A model of the library made into other quantizations: foreseen, made, checked, listed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tray_app.engine import gguf, naming, routes
from tray_app.engine.downloads.imports import STAGING
from tray_app.engine.downloads.quantizations import explain
from tray_app.engine.downloads.values import safe_name
from tray_app.engine.errors import (
    BadRequest,
    ConversionFailed,
    EngineError,
    NotEnoughDisk,
    RuntimeMissing,
)
from tray_app.engine.jobs import JobContext
from tray_app.engine.runtime.proof_load import try_load
from tray_app.engine.runtime.shelf import tool_of
from tray_app.engine.values import Job, Model, ModelKind, Runtime

from . import quantize_tool
from .values import Target, Targets

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

KIND = "quantize_model"
MOST_TARGETS = 8  # of one job
LOAD_S = 600.0  # a model of 100 GB on a slow disk
DISK_MARGIN_BYTES = 256 << 20
FULL = frozenset({"F32", "F16", "BF16"})


class Quantizing:
    """Commands come from any thread; the work is a job."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._offered: dict[Path, tuple[str, ...]] = {}

    def targets(self, name: str) -> Targets:
        """What a model can be made into, with the sizes. Blocks for a second (30 dry runs).

        Raises ModelNotFound, ModelUnavailable, RuntimeMissing.
        """
        model, (_, tool) = self._model(name), self._tool()
        targets = tuple(self._target(tool, model, label) for label in self._types(tool))
        return Targets(
            model.id,
            model.quantization,
            model.size_bytes,
            _warning(model),
            shutil.disk_usage(self._engine.home.models).free,
            tuple(sorted(targets, key=lambda each: -(each.size_bytes or 0))),
        )

    def start(self, name: str, labels: Iterable[str]) -> Job:
        """Begin to make the model into `labels`. Raises as `targets`, and BadRequest."""
        model, (runtime, tool) = self._model(name), self._tool()
        known, wished = self._types(tool), list(dict.fromkeys(labels))
        unknown = [str(label) for label in wished if label not in known]
        if not wished or unknown:
            what = f"There is no type {unknown[0][:40]}." if unknown else "No type is named."
            raise BadRequest(what, f"Known: {', '.join(known)}.")
        if len(wished) > MOST_TARGETS:
            raise BadRequest(f"{len(wished)} types at once are too many.", "Take up to eight.")
        for label in wished:
            if self._place(model, label).exists():
                raise BadRequest(f"{self._place(model, label).name} is there.", "Delete it first.")

        def work(context: JobContext) -> None:
            self._work(model, wished, runtime, tool, context)

        title = f"Quantizing {model.name[:80]} to {', '.join(wished)}"
        return self._engine.jobs.submit(KIND, title, work, self._engine.home.logs / "quantize.log")

    # -- the job

    def _work(
        self, model: Model, labels: list[str], runtime: Runtime, tool: Path, context: JobContext
    ) -> None:
        source = gguf.read_details(model.path)
        self._check_disk(model, labels, tool)
        for number, label in enumerate(labels):
            context.check()
            staging = self._engine.home.models / f"{STAGING}{secrets.token_hex(4)}"
            staging.mkdir(parents=True)
            try:
                made = staging / self._place(model, label).name
                self._quantize(model, label, made, tool, context, (number, len(labels)))
                self._check(made, source, model, runtime, context, label)
                target = self._place(model, label)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(made, target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            self._engine.library.rescan()

    def _quantize(
        self,
        model: Model,
        label: str,
        made: Path,
        tool: Path,
        context: JobContext,
        place: tuple[int, int],
    ) -> None:
        number, count = place

        def tell(done: int, total: int) -> None:
            whole = total * count
            context.progress(number * total + done, whole, "tensors", f"Quantizing to {label}")

        # Half of the cores: answers and the desktop go on meanwhile.
        threads = max(1, (os.cpu_count() or 2) // 2)
        registry = self._engine.registry
        quantize_tool.run(tool, model.path, made, label, threads, registry, context, tell)

    def _check(
        self,
        made: Path,
        source: gguf.Header,
        model: Model,
        runtime: Runtime,
        context: JobContext,
        label: str,
    ) -> None:
        """Nothing enters the library that does not load and answer. Raises ConversionFailed."""
        context.progress(0, None, "steps", f"Checking {label}: its header, a load, an answer")
        try:
            header = gguf.read_details(made)
        except EngineError as error:
            raise ConversionFailed(f"{made.name} is broken: {error.message}") from error
        if model.shard_count == 1 and header.tensor_count != source.tensor_count:
            raise ConversionFailed(
                f"{made.name} has {header.tensor_count} of {source.tensor_count} tensors.",
                "The job's log has the details.",
            )
        # The socket of the trial lies beside the model, and its path has to be short.
        link = self._engine.home.run / f"check-{secrets.token_hex(4)}.gguf"
        link.symlink_to(made)
        try:
            tried = try_load(
                runtime.server_path,
                link,
                0,
                time.monotonic() + LOAD_S,
                self._engine.registry,
                context.check,
                context.log_path,
            )
        finally:
            link.unlink(missing_ok=True)
        embedding = model.kind is ModelKind.EMBEDDING  # it loads, and completes nothing
        if tried.load_s is None or not (tried.answer or embedding):
            why = tried.fault.message if tried.fault else "it gave no answer"
            raise ConversionFailed(f"{label} does not work: {why}", "Choose another type.")

    def _check_disk(self, model: Model, labels: list[str], tool: Path) -> None:
        """Raises NotEnoughDisk before anything is written."""
        sizes = [quantize_tool.foresee(tool, model.path, label).size_bytes for label in labels]
        needed = sum(size or model.size_bytes for size in sizes) + DISK_MARGIN_BYTES
        free = shutil.disk_usage(self._engine.home.models).free
        if free < needed:
            raise NotEnoughDisk(
                f"{needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free.",
                f"Free some space on the disk of {self._engine.home.models}.",
            )

    # -- what there is

    def _model(self, name: str) -> Model:
        engine = self._engine
        models = engine.library.models()
        return routes.resolve(name, models, engine.settings.aliases, engine.active.model_id)

    def _tool(self) -> tuple[Runtime, Path]:
        runtime = self._engine.runtime.require(None)
        tool = tool_of(runtime, "llama-quantize")
        if tool is None:
            raise RuntimeMissing(
                f"{runtime.id} has no llama-quantize.", "Install or build another llama.cpp."
            )
        return runtime, tool

    def _types(self, tool: Path) -> tuple[str, ...]:
        if not self._offered.get(tool):
            self._offered[tool] = quantize_tool.offered(tool)
        return self._offered[tool]

    def _target(self, tool: Path, model: Model, label: str) -> Target:
        seen = quantize_tool.foresee(tool, model.path, label)
        place = self._place(model, label)
        there = next((m.id for m in self._engine.library.models() if m.path == place), None)
        return Target(
            label, explain(label), seen.size_bytes, seen.fallbacks, seen.needs_imatrix, there
        )

    def _place(self, model: Model, label: str) -> Path:
        """Beside a model of the home's own folder, else in a folder of its name there."""
        models = self._engine.home.models
        name = naming.parse_file_name(model.path.name)
        stem = name.stem or name.whole_stem
        folder = models / "local" / stem
        with contextlib.suppress(ValueError):
            if len(model.path.relative_to(models).parts) > 2:
                folder = model.path.parent
        return folder / safe_name(f"{stem}.{label}.gguf")


def _warning(model: Model) -> str:
    if model.quantization is None or model.quantization.upper() in FULL:
        return ""
    return (
        f"It is {model.quantization} already: quantizing it again costs more quality than making"
        " the same from its original weights."
    )
