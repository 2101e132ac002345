"""Original weights made into GGUF by the converter of a llama.cpp tree, in its own environment."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tray_app.engine import gguf
from tray_app.engine.downloads import origins
from tray_app.engine.downloads.values import safe_name
from tray_app.engine.errors import BadRequest, ConversionFailed, RuntimeMissing
from tray_app.engine.formats.inspect import inspect
from tray_app.engine.formats.values import Action, Report
from tray_app.engine.jobs import JobContext
from tray_app.engine.runtime.compile import CONVERSION_FOLDER
from tray_app.engine.values import Job, Model, ModelKind, Runtime

from .environment import Environment
from .making import Making

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

KIND = "convert_model"
OUTPUTS = ("auto", "f32", "f16", "bf16", "q8_0")
SCRIPT = "convert_hf_to_gguf.py"
# tqdm's line: "Writing:  53%|█████     | 24.2M/45.6M [00:01<00:01, 20.1Mbyte/s]" (b11434)
_WRITING = re.compile(r"Writing:.*?\|\s*([\d.]+)([kMGT]?)/([\d.]+)([kMGT]?)")
_SCALE = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be made of a folder."""

    report: Report
    output: str
    name: str


class Converting:
    """Commands come from any thread; the work is a job."""

    def __init__(self, engine: Engine, making: Making) -> None:
        self._engine = engine
        self._making = making
        self.environment = Environment(engine.home.path / "converter", engine.registry)

    def start(self, path: str, output: str = "auto", name: str = "") -> Job:
        """Begin to convert the folder at `path`. Raises BadRequest, RuntimeMissing."""
        if output not in OUTPUTS:
            raise BadRequest(f"There is no output {output[:40]!r}.", f"Use: {', '.join(OUTPUTS)}.")
        folder = Path(path)
        report = inspect(folder)
        if Action.CONVERT not in report.actions:
            raise BadRequest(report.problem or report.title, report.remedy)
        wish = Wish(report, output, safe_name(name or folder.name))
        runtime, tree = self._tree()

        def work(context: JobContext) -> None:
            self._work(wish, runtime, tree, context)

        log_path = self._engine.home.logs / "convert.log"
        return self._engine.jobs.submit(KIND, f"Converting {wish.name[:80]}", work, log_path)

    def _tree(self) -> tuple[Runtime, Path]:
        runtime = self._engine.runtime.require(None)
        tree = runtime.server_path.parent / CONVERSION_FOLDER
        if not (tree / SCRIPT).is_file():
            raise RuntimeMissing(
                f"{runtime.id} came without its conversion scripts.",
                "Build llama.cpp from source on the Runtimes page: that brings them.",
            )
        return runtime, tree

    def _work(self, wish: Wish, runtime: Runtime, tree: Path, context: JobContext) -> None:
        self._making.check_disk(_size_of(wish))
        python = self.environment.make(context)
        with self._making.staging() as staging:
            made = staging / safe_name(f"{wish.name}.{wish.output.upper()}.gguf")
            self._convert(wish, python, tree, made, context)
            if wish.output == "auto":
                made = _labelled(made, wish.name)
            model = _as_model(made, wish)
            self._making.prove(made, None, model, runtime, context)
            folder = self._engine.home.models / "local" / wish.name
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / made.name
            os.replace(made, target)
        facts = {"hub": "converted", "reference": str(wish.report.path), "at": time.time()}
        origins.write(target, {**facts, "runtime": runtime.id})
        self._engine.library.rescan()

    def _convert(
        self, wish: Wish, python: Path, tree: Path, made: Path, context: JobContext
    ) -> None:
        words = (str(python), str(tree / SCRIPT), str(wish.report.path), "--outfile", str(made))

        def tell(line: str) -> None:
            steps = list(_WRITING.finditer(line))  # several, of a line that was drawn over
            if steps:
                done, whole = (
                    round(float(steps[-1][i]) * _SCALE[steps[-1][i + 1]]) for i in (1, 3)
                )
                context.progress(done, whole, "bytes", "Writing the tensors")

        context.progress(0, None, "steps", "Reading the model")
        self._making.run(
            (*words, "--outtype", wish.output),
            made,
            f"Converting {wish.name}",
            context,
            tell,
            env={"PYTHONPATH": str(tree / "gguf-py"), "PYTHONNOUSERSITE": "1"},
        )
        if not made.is_file():
            raise ConversionFailed("The converter made no file.", "The job's log has the details.")


def _size_of(wish: Wish) -> int:
    tensors = wish.report.tensors
    if tensors is None:
        return wish.report.size_bytes
    return tensors.parameters * (4 if wish.output == "f32" else 2)


def _labelled(made: Path, name: str) -> Path:
    """A file of "auto" gets the type that it has in its name."""
    label = gguf.read_details(made).quantization
    return made.rename(made.with_name(safe_name(f"{name}.{label or 'AUTO'}.gguf")))


def _as_model(made: Path, wish: Wish) -> Model:
    header = gguf.read_details(made)
    return Model(
        id=wish.name,
        name=wish.name,
        publisher=None,
        path=made,
        folder=made.parent,
        size_bytes=made.stat().st_size,
        shard_count=1,
        modified_at=0.0,
        kind=header.kind if header.kind is not ModelKind.UNKNOWN else ModelKind.COMPLETION,
    )
