"""What all makers of models share: a hidden folder, a tool to run, a proof before use."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tray_app.engine import gguf, naming
from tray_app.engine.downloads.imports import STAGING
from tray_app.engine.errors import (
    ConversionFailed,
    EngineError,
    NotEnoughDisk,
    RuntimeMissing,
)
from tray_app.engine.jobs import JobContext
from tray_app.engine.process import ChildProcess, LaunchSpec, exit_text
from tray_app.engine.runtime.proof_load import Trial, Tried, try_load
from tray_app.engine.runtime.shelf import tool_of
from tray_app.engine.values import Model, Runtime

from .rates import Rates

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

POLL_S = 0.1
TRIAL = "check-"  # folders with links to what is tried
LOAD_S = 600.0  # a model of 100 GB on a slow disk
DISK_MARGIN_BYTES = 256 << 20
_FAULT = re.compile(
    r"(?:\berror\b|^\w+(?:Error|Exception)\b|failed to|No space left)", re.IGNORECASE
)
# What stands in a tool's words, and what helps.
_REMEDIES = {
    "importance matrix": "It needs an importance matrix; choose another type, or have one made.",
    "pre-tokenizer was not recognized": "This llama.cpp does not know its tokenizer; a newer may.",
    "is not supported": "A newer llama.cpp may convert it: see the Runtimes page.",
    "MemoryError": "Close other programs: it needs more memory than there is.",
}


def threads() -> int:
    """Half of the cores: answers and the desktop go on meanwhile."""
    return max(1, (os.cpu_count() or 2) // 2)


def clear_left(run: Path) -> None:
    """Remove what a killed engine left of a trial below the home's `run` folder."""
    for folder in run.glob(f"{TRIAL}*"):
        shutil.rmtree(folder, ignore_errors=True)


class Making:
    """From any thread; one for the engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.rates = Rates(engine.db)
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def turn(self, context: JobContext) -> Iterator[None]:
        """One at a time: each of these tools takes much of the machine. Raises Cancelled."""
        while not self._turn.acquire(timeout=POLL_S):
            context.check()
            context.progress(0, None, "steps", "Waiting for another conversion to end")
        try:
            yield
        finally:
            self._turn.release()

    def tool(self, name: str) -> tuple[Runtime, Path]:
        """The active runtime and one of its tools. Raises RuntimeMissing."""
        runtime = self.engine.runtime.require(None)
        return runtime, self.tool_of(runtime, name)

    def tool_of(self, runtime: Runtime, name: str) -> Path:
        """A tool of a runtime. Raises RuntimeMissing."""
        tool = tool_of(runtime, name)
        if tool is None:
            raise RuntimeMissing(
                f"{runtime.id} has no {name}.", "Install or build another llama.cpp."
            )
        return tool

    def folder_for(self, model: Model) -> Path:
        """Beside a model of the home's own folder, else in a folder of its name there."""
        models = self.engine.home.models
        with contextlib.suppress(ValueError):
            if len(model.path.relative_to(models).parts) > 2:
                return model.path.parent
        name = naming.parse_file_name(model.path.name)
        return models / "local" / (name.stem or name.whole_stem)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A hidden folder in the models folder; gone afterwards, with what is left in it."""
        folder = self.engine.home.models / f"{STAGING}{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def check_disk(self, needed_bytes: int) -> None:
        """Raises NotEnoughDisk before anything is written."""
        models = self.engine.home.models
        needed, free = needed_bytes + DISK_MARGIN_BYTES, shutil.disk_usage(models).free
        if free < needed:
            raise NotEnoughDisk(
                f"{needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free.",
                f"Free some space on the disk of {models}.",
            )

    def run(
        self,
        argv: tuple[str, ...],
        marker: Path,
        what: str,
        context: JobContext,
        on_line: Callable[[str], object] = lambda line: None,
        on_poll: Callable[[], object] = lambda: None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Run a tool to its end. Blocks; `on_poll` comes ten times a second.

        Raises ConversionFailed, NotEnoughDisk, Cancelled, OSError.
        """
        faults: list[str] = []

        def read(line: str) -> None:
            on_line(line)
            if _FAULT.search(line) and len(faults) < 20:
                faults.append(line.strip()[:300])

        spec = LaunchSpec(argv, env=env or {}, log_path=context.log_path)
        with ChildProcess(
            spec, on_line=read, registry=self.engine.registry, kind="convert", marker=str(marker)
        ) as child:
            while (status := child.wait(POLL_S)) is None:
                context.check()
                on_poll()
        if status != 0:
            raise _failure(what, status, faults)

    def prove(
        self,
        made: Path,
        runtime: Runtime,
        context: JobContext,
        *,
        tensors: int | None = None,
        embedding: bool = False,
        projector: Path | None = None,
        adapters: tuple[Path, ...] = (),
    ) -> None:
        """Nothing enters the library that is not whole, loads and answers.

        `tensors` is how many there have to be. With `projector` and `adapters` it is loaded
        together with these. Blocks for a load. Raises ConversionFailed.
        """
        context.progress(0, None, "steps", f"Checking {made.name}: its header, a load, an answer")
        try:
            header = gguf.read_details(made)
        except EngineError as error:
            raise ConversionFailed(f"{made.name} is broken: {error.message}") from error
        if tensors is not None and header.tensor_count != tensors:
            raise ConversionFailed(
                f"{made.name} has {header.tensor_count} of {tensors} tensors.",
                "The job's log has the details.",
            )
        tried = self._try(made, runtime, context, embedding, projector, adapters)
        if tried.load_s is None or not tried.worked:
            why = "it gave no answer"
            if tried.fault:
                why = tried.fault.message
            elif tried.answer and not tried.worked:
                why = f"it answered {tried.answer[:200]!r}"
            raise ConversionFailed(
                f"{made.name} does not work: {why}", "The job's log has the details."
            )

    def _try(
        self,
        made: Path,
        runtime: Runtime,
        context: JobContext,
        embedding: bool,
        projector: Path | None,
        adapters: tuple[Path, ...],
    ) -> Tried:
        # The socket of the trial lies beside the model, and its path has to be short.
        folder = self.engine.home.run / f"{TRIAL}{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        more = ("--mmproj", str(projector)) if projector else ()
        for number, path in enumerate(adapters):  # llama-server splits `--lora` at commas
            link = folder / f"adapter-{number}.gguf"
            link.symlink_to(path)
            more = (*more, "--lora", str(link))
        try:
            for path in _parts(made):  # all shards, under the names that belong together
                (folder / path.name).symlink_to(path)
            return try_load(
                runtime.server_path,
                folder / made.name,
                0,
                time.monotonic() + LOAD_S,
                self.engine.registry,
                context.check,
                context.log_path,
                Trial(embedding, more),
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _parts(made: Path) -> list[Path]:
    """The file, or all shards of its model."""
    name = naming.parse_file_name(made.name)
    if name.shard_count == 1:
        return [made]
    found = ((path, naming.parse_file_name(path.name)) for path in made.parent.iterdir())
    key = (name.whole_stem, name.shard_count)
    return [path for path, each in found if (each.whole_stem, each.shard_count) == key]


def _failure(what: str, status: int, faults: list[str]) -> EngineError:
    if any("No space left" in fault for fault in faults):
        return NotEnoughDisk("The disk filled up.", "Free some space, then retry.")
    why = faults[-1] if faults else exit_text(status)
    told = (remedy for part, remedy in _REMEDIES.items() if any(part in each for each in faults))
    remedy = next(told, "The job's log has the details.")
    return ConversionFailed(f"{what} failed: {why}", remedy)
