"""Quantizations of one GGUF file: importance matrix, each type made and proven, compared.

What users ask of a model of their library and the last part of a conversion are the same work.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tray_app.engine import gguf
from tray_app.engine.downloads import origins
from tray_app.engine.errors import BadRequest, ConversionFailed
from tray_app.engine.jobs import JobContext
from tray_app.engine.values import Runtime

from . import imatrix_tool, quantize_tool
from .making import Making, threads
from .quality import Measured, note_quality
from .values import Options

TOOL = "llama-quantize"


@dataclass(frozen=True, slots=True)
class Source:
    """What is quantized, and where the results go."""

    path: Path  # its first file
    label: str | None  # "F16"
    shard_count: int
    embedding: bool
    stem: str  # of the results' names
    folder: Path  # of the results
    projector: Path | None = None


class Quantizer:
    """One source and one way; its steps are for the job that runs them. Blocks everywhere."""

    def __init__(self, making: Making, runtime: Runtime, source: Source, options: Options) -> None:
        """Raises BadRequest for options that cannot be, RuntimeMissing without the tools."""
        self.source = source
        self._making, self._runtime, self._options = making, runtime, options
        self._tool = making.tool_of(runtime, TOOL)
        self._overrides = quantize_tool.override_words(options.overrides)
        self._text: Path | None = None
        self._matrix: Path | None = None
        if options.imatrix or options.measure:
            if source.embedding:
                raise BadRequest(
                    "An embedding model writes no text: it has neither an importance matrix nor"
                    " a perplexity.",
                    "Quantize it without them.",
                )
            making.tool_of(runtime, imatrix_tool.TOOL)
        if options.imatrix:
            self._text = imatrix_tool.text_of(options.imatrix)
            self._matrix = Path(options.imatrix).expanduser()
            if self._text is not None:
                name = imatrix_tool.name_of(source.stem, self._text)
                self._matrix = source.folder / name
        self._measured: dict[int, float] | None = None

    @property
    def computes(self) -> bool:
        """Whether an importance matrix has to be computed first."""
        matrix = self._matrix
        return self._text is not None and matrix is not None and not matrix.is_file()

    def words(self) -> tuple[str, ...]:
        """The options for the tool; the matrix once it is there."""
        matrix = self._matrix if self._matrix and self._matrix.is_file() else None
        return (*(("--imatrix", str(matrix)) if matrix else ()), *self._overrides)

    def look(self, label: str) -> quantize_tool.Foreseen:
        """What a type would come to; it tells a problem where it cannot be made."""
        return quantize_tool.foresee(self._tool, self.source.path, label, self.words())

    def foresee(self, label: str) -> quantize_tool.Foreseen:
        """What a type will come to. Raises BadRequest where the tool refuses it."""
        seen = self.look(label)
        if "imatrix" in seen.problem and self._matrix is not None:
            raise BadRequest(
                f"{self._matrix.name} is no importance matrix that llama-quantize can read.",
                "Have one computed, or name a text to compute it from.",
            )
        if seen.problem:
            remedy = "Change the overrides." if self._overrides else "Choose another type."
            raise BadRequest(f"llama-quantize refuses {label}: {seen.problem}", remedy)
        return seen

    def place(self, label: str) -> Path:
        """Where the result of a type goes."""
        return self.source.folder / f"{self.source.stem}.{label}.gguf"

    def made_so(self, note: Mapping[str, Any]) -> bool:
        """Whether a result that its note tells of was made with these options."""
        return all(note.get(key) == value for key, value in self._how().items())

    # -- the steps

    def step(self, key: str, context: JobContext) -> list[Path]:
        """One of `quantize_steps`; the files that it is done with."""
        kind, _, label = key.partition(":")
        if kind == "q":
            return [self.make(label, context)]
        if kind == "m":
            self.measure(label, context)
            return []
        self.compute_matrix(context)
        return [self._matrix] if self._matrix else []

    def compute_matrix(self, context: JobContext) -> None:
        """Compute the importance matrix, unless it is there."""
        if not self.computes or self._text is None or self._matrix is None:
            return
        tool = self._making.tool_of(self._runtime, imatrix_tool.TOOL)
        with self._making.staging() as staging:
            made = staging / self._matrix.name
            imatrix_tool.compute(self._making, tool, self.source.path, self._text, made, context)
            self._matrix.parent.mkdir(parents=True, exist_ok=True)
            os.replace(made, self._matrix)

    def make(self, label: str, context: JobContext) -> Path:
        """Make and prove one type, and put it into the library's folder.

        Raises ConversionFailed, NotEnoughDisk, Cancelled, OSError.
        """
        source, target = self.source, self.place(label)
        if target.exists():
            raise ConversionFailed(f"{target.name} is there.", "Delete it first.")
        if self._matrix is not None and not self._matrix.is_file():
            raise ConversionFailed(f"{self._matrix.name} is gone.", "Start anew: it is made again.")
        tensors = None
        if source.shard_count == 1:
            tensors = gguf.read_details(source.path).tensor_count
        seen = quantize_tool.foresee(self._tool, source.path, label, self.words())
        self._making.check_disk(seen.size_bytes or source.path.stat().st_size)
        with self._making.staging() as staging:
            made = staging / target.name
            began = time.monotonic()
            self._run(label, made, context)
            took_s = time.monotonic() - began
            self._making.prove(
                made,
                self._runtime,
                context,
                tensors=tensors,
                embedding=source.embedding,
                projector=source.projector,
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            self._note(target)  # first: a file there is never without
            os.replace(made, target)
        self._making.rates.quantized(source.path.stat().st_size, took_s)
        return target

    def measure(self, label: str, context: JobContext) -> None:
        """Compare a made type with its source on a short text, and write it down."""
        tool = self._making.tool_of(self._runtime, imatrix_tool.TOOL)
        with self._making.staging() as staging:
            scratch = staging / "measured.gguf"

            def ask(path: Path, what: str) -> dict[int, float]:
                making = self._making
                return imatrix_tool.perplexity(making, tool, path, scratch, what, context)

            name = self.source.label or "the original"
            if self._measured is None:
                self._measured = ask(self.source.path, f"Perplexity of {name}")
            found = ask(self.place(label), f"Perplexity of {label}")
        own, reference = imatrix_tool.at_same_chunk(found, self._measured)
        note_quality(self.place(label), Measured(own, reference, name))

    # -- inside

    def _run(self, label: str, made: Path, context: JobContext) -> None:
        what = f"Quantizing to {label}"

        def tell(line: str) -> None:
            if found := quantize_tool.tensors_done(line):
                context.progress(*found, "tensors", what)

        words = (str(self._tool), "--allow-requantize", *self.words())
        words += (str(self.source.path), str(made), label, str(threads()))
        self._making.run(words, made, what, context, tell)

    def _note(self, target: Path) -> None:
        facts = dict(origins.read(self.source.path) or {})
        for key in ("quality", "imatrix", "overrides"):  # those of the source are its own
            facts.pop(key, None)
        made = {"made_from": self.source.label or self.source.path.name, "at": time.time()}
        how = {key: value for key, value in self._how().items() if value is not None}
        origins.write(target, {"hub": "quantized", **facts, **made, **how})

    def _how(self) -> dict[str, str | None]:
        """The options as they stand in a note."""
        overrides = ", ".join(each.strip() for each in self._options.overrides)
        return {
            "imatrix": self._matrix.name if self._matrix else None,
            "overrides": overrides or None,
        }


def free_bytes(making: Making) -> int:
    """On the disk of the models."""
    return shutil.disk_usage(making.engine.home.models).free


def quantize_steps(labels: Sequence[str], options: Options) -> list[tuple[str, str]]:
    """(key, words) of all steps, in order; keys are for `Quantizer.step`. Raises BadRequest."""
    steps = []
    if labels and options.imatrix and imatrix_tool.text_of(options.imatrix) is not None:
        steps.append(("imatrix", "Importance matrix"))
    steps += [(f"q:{label}", f"Quantize to {label}") for label in labels]
    if options.measure:
        steps += [(f"m:{label}", f"Perplexity of {label}") for label in labels]
    return steps
