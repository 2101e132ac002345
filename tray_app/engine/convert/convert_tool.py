"""llama.cpp's conversion scripts, as the runtime's own tree has them (b11434)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tray_app.engine import gguf
from tray_app.engine.downloads.values import safe_name
from tray_app.engine.errors import ConversionFailed, RuntimeMissing
from tray_app.engine.jobs import JobContext
from tray_app.engine.runtime.compile import CONVERSION_FOLDER
from tray_app.engine.values import Runtime

from . import without_code
from .making import Making, threads

OUTPUTS = ("auto", "f32", "f16", "bf16", "q8_0")
SCRIPT, LORA_SCRIPT = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"
# tqdm's line: "Writing:  53%|█████     | 24.2M/45.6M [00:01<00:01, 20.1Mbyte/s]"
_WRITING = re.compile(r"Writing:.*?\|\s*([\d.]+)([kMGT]?)/([\d.]+)([kMGT]?)")
_SCALE = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def tree_of(runtime: Runtime) -> Path:
    """The conversion scripts beside a runtime. Raises RuntimeMissing."""
    tree = runtime.server_path.parent / CONVERSION_FOLDER
    if not (tree / SCRIPT).is_file():
        raise RuntimeMissing(
            f"{runtime.id} came without its conversion scripts.",
            "Build llama.cpp from source on the Runtimes page: that brings them.",
        )
    return tree


def bytes_written(line: str) -> tuple[int, int] | None:
    """(bytes written, of how many) of a line of its progress, drawn over or not."""
    steps = list(_WRITING.finditer(line))
    if not steps:
        return None
    done, whole = (round(float(steps[-1][i]) * _SCALE[steps[-1][i + 1]]) for i in (1, 3))
    return done, whole


@dataclass(frozen=True, slots=True)
class ConvertTool:
    """The scripts of one tree, run by one interpreter. Everything blocks for minutes.

    Raises ConversionFailed, NotEnoughDisk, Cancelled, OSError.
    """

    making: Making
    tree: Path
    python: Path

    def model(
        self, weights: Path, output: str, folder: Path, name: str, context: JobContext
    ) -> Path:
        """Convert to `folder`/`name`.F16.gguf, or whatever type `output` comes to."""
        made = folder / safe_name(f"{name}.{output.upper()}.gguf")
        words = (str(weights), "--outfile", str(made), "--outtype", output)
        self._run(SCRIPT, words, made, f"Converting {name}", context)
        if output != "auto":
            return made
        label = gguf.read_details(made).quantization
        return made.rename(made.with_name(safe_name(f"{name}.{label or 'AUTO'}.gguf")))

    def projector(self, weights: Path, folder: Path, name: str, context: JobContext) -> Path:
        """Convert what a model sees with, to `folder`/mmproj-`name`-F16.gguf."""
        made = folder / safe_name(f"mmproj-{name}-F16.gguf")
        words = (str(weights), "--mmproj", "--outfile", str(made), "--outtype", "f16")
        self._run(SCRIPT, words, made, f"Converting the projector of {name}", context)
        if made.is_file():
            return made
        # The script puts "mmproj-" before names of its own making.
        found = sorted(folder.glob("mmproj-*.gguf"))
        if not found:
            raise ConversionFailed("The converter made no projector.", "See the job's log.")
        return found[0].rename(made)

    def adapter(
        self, weights: Path, base: Path, output: str, made: Path, context: JobContext
    ) -> Path:
        """Convert a LoRA adapter; `base` is a folder with its base model's configuration."""
        words = (str(weights), "--base", str(base), "--outfile", str(made), "--outtype", output)
        self._run(LORA_SCRIPT, words, made, f"Converting {made.stem}", context)
        if not made.is_file():
            raise ConversionFailed("The converter made no adapter.", "See the job's log.")
        return made

    def _run(
        self, script: str, words: tuple[str, ...], made: Path, what: str, context: JobContext
    ) -> None:
        def tell(line: str) -> None:
            if found := bytes_written(line):
                context.progress(*found, "bytes", "Writing the tensors")

        context.progress(0, None, "steps", "Reading the model")
        env = {
            "PYTHONPATH": str(self.tree / "gguf-py"),
            "PYTHONNOUSERSITE": "1",
            "OMP_NUM_THREADS": str(threads()),
            # It asks no hub: what it needs is here.
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            **without_code.environment(made.parent),
        }
        argv = (str(self.python), str(self.tree / script), *words)
        self.making.run(argv, made, what, context, tell, env=env)
