"""A model of the library made into other quantizations: foreseen, made, checked, listed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tray_app.engine import naming, routes
from tray_app.engine.downloads.quantizations import explain
from tray_app.engine.downloads.values import safe_name
from tray_app.engine.errors import BadRequest
from tray_app.engine.jobs import JobContext
from tray_app.engine.values import Job, Model, ModelKind, Runtime

from . import quantize_tool
from .making import Making
from .quality import read_quality
from .quantizer import TOOL, Quantizer, Source, free_bytes, quantize_steps
from .values import Options, Quality, Target, Targets

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

KIND = "quantize_model"
MOST_TARGETS = 8  # of one job
FULL = frozenset({"F32", "F16", "BF16"})


class Quantizing:
    """Commands come from any thread; the work is a job."""

    def __init__(self, engine: Engine, making: Making) -> None:
        self._engine = engine
        self._making = making
        self._offered: dict[Path, tuple[quantize_tool.Offered, ...]] = {}

    def targets(self, name: str) -> Targets:
        """What a model can be made into, with the sizes. Blocks for a second (30 dry runs).

        Raises ModelNotFound, ModelUnavailable, RuntimeMissing.
        """
        model, (runtime, _) = self._model(name), self._making.tool(TOOL)
        quantizer = self._quantizer(model, runtime, Options())
        found = [self._target(quantizer, each) for each in self.types(runtime)]
        targets = [each for each in found if each is not None]
        return Targets(
            model.id,
            model.quantization,
            model.size_bytes,
            _warning(model),
            free_bytes(self._making),
            tuple(sorted(targets, key=lambda each: -(each.size_bytes or 0))),
        )

    def start(self, name: str, labels: Iterable[str], options: Options) -> Job:
        """Begin to make the model into `labels`. Raises as `targets`, and BadRequest."""
        model, (runtime, _) = self._model(name), self._making.tool(TOOL)
        wished = self.checked(labels, runtime)
        if not wished:
            raise BadRequest("No type is named.", self._known(runtime))
        quantizer = self._quantizer(model, runtime, options)
        for label in wished:
            if quantizer.place(label).exists():
                raise BadRequest(f"{quantizer.place(label).name} is there.", "Delete it first.")
        seen = [quantizer.foresee(label) for label in wished]
        lacking = [label for label, each in zip(wished, seen, strict=True) if each.needs_imatrix]
        if lacking and not options.imatrix:
            raise BadRequest(
                f"{lacking[0]} needs an importance matrix.", "Have one computed, or name one."
            )
        needed = sum(each.size_bytes or model.size_bytes for each in seen)
        steps = quantize_steps(wished, options)

        def work(context: JobContext) -> None:
            self._making.check_disk(needed)
            with self._making.turn(context):
                for number, (key, _) in enumerate(steps):
                    context.check()
                    context.enter(number)
                    quantizer.step(key, context)
                    self._engine.library.rescan()

        title = f"Quantizing {model.name[:80]} to {', '.join(wished)}"
        log_path = self._engine.home.logs / "quantize.log"
        words = [each for _, each in steps]
        return self._engine.jobs.submit(KIND, title, work, log_path, words)

    def quality(self, name: str) -> Quality | None:
        """What was measured of a model. Raises as `targets`."""
        return read_quality(self._model(name).path)

    def types(self, runtime: Runtime) -> tuple[quantize_tool.Offered, ...]:
        """What the tool of a runtime makes. Blocks for 0.02 s at first. Raises RuntimeMissing."""
        tool = self._making.tool_of(runtime, TOOL)
        if not self._offered.get(tool):
            self._offered[tool] = quantize_tool.offered(tool)
        return self._offered[tool]

    def checked(self, labels: Iterable[str], runtime: Runtime) -> list[str]:
        """Types as wished, each once. Raises BadRequest for one that there is not."""
        known = {each.label for each in self.types(runtime)}
        wished = list(dict.fromkeys(str(label) for label in labels))
        unknown = [label for label in wished if label not in known]
        if unknown:
            raise BadRequest(f"There is no type {unknown[0][:40]}.", self._known(runtime))
        if len(wished) > MOST_TARGETS:
            raise BadRequest(f"{len(wished)} types at once are too many.", "Take up to eight.")
        return wished

    # -- what there is

    def _known(self, runtime: Runtime) -> str:
        return f"Known: {', '.join(each.label for each in self.types(runtime))}."

    def _model(self, name: str) -> Model:
        engine = self._engine
        models = engine.library.models()
        return routes.resolve(name, models, engine.settings.aliases, engine.active.model_id)

    def _quantizer(self, model: Model, runtime: Runtime, options: Options) -> Quantizer:
        name = naming.parse_file_name(model.path.name)
        source = Source(
            model.path,
            model.quantization,
            model.shard_count,
            model.kind is ModelKind.EMBEDDING,
            safe_name(name.stem or name.whole_stem),
            self._making.folder_for(model),
            model.mmproj_path,
        )
        return Quantizer(self._making, runtime, source, options)

    def _target(self, quantizer: Quantizer, offered: quantize_tool.Offered) -> Target | None:
        """None for a type that cannot be made of it: rows that divide into no block of it."""
        seen, label = quantizer.look(offered.label), offered.label
        if seen.problem and not seen.needs_imatrix:
            return None
        place = quantizer.place(label)
        there = next((m.id for m in self._engine.library.models() if m.path == place), None)
        bits = offered.bits_per_weight
        return Target(
            label, explain(label), seen.size_bytes, bits, seen.fallbacks, seen.needs_imatrix, there
        )


def _warning(model: Model) -> str:
    if model.quantization is None or model.quantization.upper() in FULL:
        return ""
    return (
        f"It is {model.quantization} already: quantizing it again costs more quality than making"
        " the same from its original weights."
    )
