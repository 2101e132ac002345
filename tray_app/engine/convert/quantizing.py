"""A model of the library made into other quantizations: foreseen, made, checked, listed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tray_app.engine import gguf, naming, routes
from tray_app.engine.downloads.quantizations import explain
from tray_app.engine.downloads.values import safe_name
from tray_app.engine.errors import BadRequest
from tray_app.engine.jobs import JobContext
from tray_app.engine.values import Job, Model, Runtime

from . import quantize_tool
from .making import Making
from .values import Target, Targets

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

KIND, TOOL = "quantize_model", "llama-quantize"
MOST_TARGETS = 8  # of one job
FULL = frozenset({"F32", "F16", "BF16"})


class Quantizing:
    """Commands come from any thread; the work is a job."""

    def __init__(self, engine: Engine, making: Making) -> None:
        self._engine = engine
        self._making = making
        self._offered: dict[Path, tuple[str, ...]] = {}

    def targets(self, name: str) -> Targets:
        """What a model can be made into, with the sizes. Blocks for a second (30 dry runs).

        Raises ModelNotFound, ModelUnavailable, RuntimeMissing.
        """
        model, (_, tool) = self._model(name), self._making.tool(TOOL)
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
        model, (runtime, tool) = self._model(name), self._making.tool(TOOL)
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
        tensors = gguf.read_details(model.path).tensor_count if model.shard_count == 1 else None
        sizes = [quantize_tool.foresee(tool, model.path, label).size_bytes for label in labels]
        self._making.check_disk(sum(size or model.size_bytes for size in sizes))
        for number, label in enumerate(labels):
            context.check()
            target = self._place(model, label)
            with self._making.staging() as folder:
                made = folder / target.name
                self._quantize(model, label, made, tool, context, (number, len(labels)))
                self._making.prove(made, tensors, model, runtime, context)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(made, target)
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
        what = f"Quantizing to {label}"

        def tell(line: str) -> None:
            if found := quantize_tool.tensors_done(line):
                done, total = found
                context.progress(number * total + done, total * count, "tensors", what)

        # Half of the cores: answers and the desktop go on meanwhile.
        threads = max(1, (os.cpu_count() or 2) // 2)
        words = (str(tool), "--allow-requantize", str(model.path), str(made), label, str(threads))
        self._making.run(words, made, what, context, tell)

    # -- what there is

    def _model(self, name: str) -> Model:
        engine = self._engine
        models = engine.library.models()
        return routes.resolve(name, models, engine.settings.aliases, engine.active.model_id)

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
        name = naming.parse_file_name(model.path.name)
        file_name = safe_name(f"{name.stem or name.whole_stem}.{label}.gguf")
        return self._making.folder_for(model) / file_name


def _warning(model: Model) -> str:
    if model.quantization is None or model.quantization.upper() in FULL:
        return ""
    return (
        f"It is {model.quantization} already: quantizing it again costs more quality than making"
        " the same from its original weights."
    )
