"""One conversion from original weights to models in the library, step by step.

Each step is done when its files are there as it left them; a run goes on at the first that is
not. What a step makes is moved into place when it is whole and proven.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tray_app.engine import gguf
from tray_app.engine.downloads import kept_plan, origins
from tray_app.engine.downloads.values import safe_name
from tray_app.engine.errors import BadRequest, ConversionFailed
from tray_app.engine.formats.inspect import inspect
from tray_app.engine.formats.values import Action, Report
from tray_app.engine.jobs import JobContext
from tray_app.engine.values import ModelKind, Runtime

from . import adapters, fetching
from .convert_tool import ConvertTool, tree_of
from .environment import Environment
from .making import Making
from .quantizer import Quantizer, Source, quantize_steps
from .record import Record, Records, marks, unchanged
from .without_code import without_code

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

AUTO = ("F32", "F16", "BF16")  # what "auto" may come to
Do = Callable[[JobContext], "list[Path]"]  # gives the files that a step is done with


ADAPTER = "-lora"  # behind the name


class Pipeline:
    """One run of one record, on a job's thread."""

    def __init__(
        self,
        engine: Engine,
        making: Making,
        environment: Environment,
        records: Records,
        record: Record,
    ) -> None:
        self._engine, self._making = engine, making
        self._environment, self._records, self._record = environment, records, record
        self._work = records.folder(record.id)
        self._name = record.wish.name
        self._target = engine.home.models / record.owner / self._name
        self._runtime: Runtime
        self._quantizer: Quantizer | None = None

    def run(self, context: JobContext) -> None:
        """Do what is left. Raises what a step raises; the record then tells where it stopped."""
        self._runtime = self._engine.runtime.require(None)
        tree_of(self._runtime)
        record = self._record
        record.starts += 1
        record.error = None
        self._records.save(record)
        with self._making.turn(context):
            for number, (key, _) in enumerate(steps_of(record)):
                if unchanged(record.done.get(key)) is not None:
                    continue
                context.check()
                context.enter(number)
                record.done[key] = marks(self._step(key)(context))
                record.starts = 0
                self._records.save(record)
            self._finish()

    # -- the steps

    def _step(self, key: str) -> Do:
        lora = self._record.lora
        steps: dict[str, Do] = {
            "download": self._download,
            "converter": self._converter,
            "base": self._base,
            "convert": self._adapter if lora else self._convert,
            "projector": self._projector,
            "check": self._check_adapter if lora else self._check,
        }
        return steps.get(key) or (lambda context: self._quantize(key, context))

    def _quantize(self, key: str, context: JobContext) -> list[Path]:
        if self._quantizer is None:
            self._quantizer = self._made_quantizer()
        if key.startswith("q:"):
            target = self._quantizer.place(key[2:])
            note = origins.read(target) or {}
            if target.is_file() and self._is_ours(note) and self._quantizer.made_so(note):
                return [target]  # by an earlier run of the same weights
        made = self._quantizer.step(key, context)
        self._engine.library.rescan()
        return made

    def _is_ours(self, note: Mapping[str, Any]) -> bool:
        """Whether a note beside a model tells of these very weights."""
        return note.get("mark") == self._record.mark

    def _download(self, context: JobContext) -> list[Path]:
        plan = kept_plan.from_memo(self._record.plan or {})
        if plan is None:
            raise ConversionFailed("What was to be fetched is not known any more.", "Start anew.")
        service = self._engine.downloads
        return fetching.fetch_all(service, service.revived(plan), self._originals, context)

    def _converter(self, context: JobContext) -> list[Path]:
        with self._environment.held(context) as python:
            return [python]

    def _convert(self, context: JobContext) -> list[Path]:
        report = self._report(Action.CONVERT)
        wish = self._record.wish
        made = self._existing_full()
        if made is not None:
            return [made]
        self._making.check_disk(_size_of(report, wish.output))
        folder = self._fresh("full")
        began = time.monotonic()
        with self._environment.held(context) as python:
            tool = ConvertTool(self._making, tree_of(self._runtime), python)
            made = tool.model(self._data, wish.output, folder, self._name, context)
        self._making.rates.converted(made.stat().st_size, time.monotonic() - began)
        return [made]

    def _existing_full(self) -> Path | None:
        """The same weights were converted before, and their GGUF was kept."""
        output = self._record.wish.output
        for path in sorted(self._target.glob(f"{self._name}.*.gguf")):
            note = origins.read(path) or {}
            same = self._is_ours(note) and note.get("output") == output
            if same and "made_from" not in note:
                return path
        return None

    def _projector(self, context: JobContext) -> list[Path]:
        folder = self._fresh("projector")
        with self._environment.held(context) as python:
            tool = ConvertTool(self._making, tree_of(self._runtime), python)
            return [tool.projector(self._data, folder, self._name, context)]

    def _check(self, context: JobContext) -> list[Path]:
        """Prove the GGUF, and give it to the library if it is to stay."""
        record, wish = self._record, self._record.wish
        full = _only(unchanged(record.done.get("convert")))
        projector = _first(unchanged(record.done.get("projector")))
        embedding = gguf.read_details(full).kind is ModelKind.EMBEDDING
        self._making.prove(full, self._runtime, context, embedding=embedding, projector=projector)
        self._target.mkdir(parents=True, exist_ok=True)
        if projector is not None:
            shutil.copyfile(projector, self._target / f".{projector.name}.part")
            os.replace(self._target / f".{projector.name}.part", self._target / projector.name)
        stays = wish.keep_full or not wish.types
        if stays and full.parent != self._target:
            full = self._place(full)
            self._engine.library.rescan()
        elif not stays:
            self._note(full)
        return [full]

    def _place(self, made: Path) -> Path:
        """Move a proven file to where it stays, its note first: a file there is never without."""
        placed = self._target / made.name
        check_free(self._engine.home.models, self._record)
        self._note(placed)
        os.replace(made, placed)
        self._record.done["convert"] = marks([placed])
        return placed

    def _note(self, model: Path) -> None:
        record, plan = self._record, kept_plan.from_memo(self._record.plan or {})
        facts = dict(plan.origin) if plan else {"hub": "converted"}
        facts |= {"reference": record.wish.source, "mark": record.mark}
        facts |= {"output": record.wish.output, "runtime": self._runtime.id}
        origins.write(model, {**facts, "converted": True, "at": time.time()})

    # -- adapters

    def _base(self, context: JobContext) -> list[Path]:
        wish, folder = self._record.wish, self._fresh("base")
        return adapters.fetch_base(self._engine.downloads, self._weights, wish.base, folder)

    def _adapter(self, context: JobContext) -> list[Path]:
        self._report(Action.CONVERT_LORA)
        base = _only(unchanged(self._record.done.get("base"))).parent
        output = self._record.wish.output
        label = "F16" if output == "auto" else output.upper()
        made = self._fresh("full") / safe_name(f"{self._name}{ADAPTER}.{label}.gguf")
        with self._environment.held(context) as python:
            tool = ConvertTool(self._making, tree_of(self._runtime), python)
            kind = "f16" if output == "auto" else output
            base = without_code(base, self._work / "base-data")
            return [tool.adapter(self._data, base, kind, made, context)]

    def _check_adapter(self, context: JobContext) -> list[Path]:
        made = _only(unchanged(self._record.done.get("convert")))
        base = _only(unchanged(self._record.done.get("base"))).parent
        adapters.check(self._engine, self._making, self._runtime, made, base, context)
        self._target.mkdir(parents=True, exist_ok=True)
        return [self._place(made)]

    # -- inside

    @property
    def _originals(self) -> Path:
        return self._work / "originals"

    @property
    def _data(self) -> Path:
        """The weights as the converter gets them: it would run code that lies beside them."""
        return without_code(self._weights, self._work / "data")

    @property
    def _weights(self) -> Path:
        """The folder with the original weights."""
        return self._originals if self._record.plan is not None else Path(self._record.wish.source)

    def _report(self, action: Action) -> Report:
        """Look at what is here now. Raises ConversionFailed when it is not what was planned."""
        report = inspect(self._weights)
        if action not in report.actions:
            raise ConversionFailed(report.problem or report.title, report.remedy)
        return report

    def _fresh(self, name: str) -> Path:
        """An empty folder of ours."""
        folder = self._work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _made_quantizer(self) -> Quantizer:
        full = _only(unchanged(self._record.done.get("check")))
        header = gguf.read_details(full)
        source = Source(
            full,
            header.quantization,
            1,
            header.kind is ModelKind.EMBEDDING,
            self._name,
            self._target,
            _first(unchanged(self._record.done.get("projector"))),
        )
        return Quantizer(self._making, self._runtime, source, self._record.wish.options)

    def _finish(self) -> None:
        """Keep what is to stay, delete the rest."""
        plan = kept_plan.from_memo(self._record.plan or {})
        if plan is not None and self._record.wish.keep_originals:
            fetching.keep(plan, self._originals, self._engine.home.models)
        self._records.remove(self._record.id)
        self._engine.library.rescan()


def steps_of(record: Record) -> list[tuple[str, str]]:
    """(key, words) of all steps of a conversion, in order."""
    wish = record.wish
    steps = [("converter", "Get the converter ready")]
    if record.plan is not None:
        steps.insert(0, ("download", "Download the original weights"))
    if record.lora:
        steps.append(("base", "Look at its base model"))
    steps.append(("convert", "Convert to GGUF"))
    if record.vision:
        steps.append(("projector", "Convert the projector"))
    steps.append(("check", "Check it: header, load, answer"))
    return [*steps, *quantize_steps(wish.types, wish.options)]


def check_free(models: Path, record: Record) -> None:
    """Refuse where a result would take the place of a model made of something else.

    Raises BadRequest. Folders are often called the same: "model", "checkpoint-500".
    """
    wish = record.wish
    full = AUTO if wish.output == "auto" else (wish.output.upper(),)
    labels = {*wish.types, *(full if wish.keep_full or not wish.types else ())}
    stem = wish.name + (ADAPTER if record.lora else "")
    for label in sorted(labels):
        path = models / record.owner / wish.name / f"{stem}.{label}.gguf"
        if path.is_file() and (origins.read(path) or {}).get("mark") != record.mark:
            raise BadRequest(
                f"{path.name} is there, and made of something else.",
                "Give the new one another name, or delete that first.",
            )


def _only(paths: list[Path] | None) -> Path:
    if not paths:
        raise ConversionFailed("A file of an earlier step is gone.", "Continue: it is made again.")
    return paths[0]


def _first(paths: list[Path] | None) -> Path | None:
    return paths[0] if paths else None


def _size_of(report: Report, output: str) -> int:
    """What a conversion needs on the disk."""
    if report.tensors is None:
        return report.size_bytes
    return report.tensors.parameters * (4 if output == "f32" else 2)
