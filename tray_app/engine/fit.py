"""How a model fits this machine: asked of llama.cpp once, then remembered.

Fitting anew at each load would double the time of a cold load.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import memory
from .errors import EngineError
from .launch import Placement
from .runtime.probe import ask
from .runtime.shelf import tool_of
from .state import StateDb
from .values import Model, Runtime

log = logging.getLogger(__name__)

MIB = 1 << 20
FIT_TIMEOUT_S = 60.0  # 0.08 s for a 98 MB model, 1 s for a 253 MB one; the file is only mapped
KEPT = 1000
# Estimates for when the tool cannot be asked. Compute buffers grow with the vocabulary:
# 109 MiB were measured for SmolLM2's 49,152 tokens.
COMPUTE_BYTES = 300 * MIB
KV_BYTES_PER_TOKEN = 128 * 1024  # Llama 3 8B at F16; used when the header does not tell

# "-c 8192 -ngl -1", then placement where there is a GPU (tools/fit-params/fit-params.cpp).
_ARGUMENTS = re.compile(r'-c (\d+) -ngl (-?\d+)(?: -ts ([\d,]+))?(?: -ot "([^"]*)")?')
_MEMORY = re.compile(r"(\S+) (\d+) (\d+) (\d+) ?")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS fit_cache (
    key TEXT PRIMARY KEY, model_path TEXT NOT NULL, used_at REAL NOT NULL, result TEXT NOT NULL)
"""


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """What one device holds."""

    device: str  # "CUDA0", ...; "Host" for main memory
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.compute_bytes


@dataclass(frozen=True, slots=True)
class FitResult:
    """The placement to load a model with, so that llama-server need not fit by itself."""

    context_length: int  # tokens
    gpu_layers: int | None  # None: as many as llama.cpp takes by default
    extra_args: tuple[str, ...]  # tensor split and overrides
    memory: tuple[MemoryPart, ...]
    measured: bool  # False: an estimate from the header
    problem: str = ""  # why it is only an estimate

    @property
    def memory_bytes(self) -> int:
        """All devices together."""
        return sum(part.total_bytes for part in self.memory)

    @property
    def host_bytes(self) -> int:
        """Main memory only."""
        return sum(part.total_bytes for part in self.memory if part.device == "Host")


class Fits:
    """Fits by (model file, runtime, hardware, wishes), kept in state.db. Thread-safe."""

    def __init__(
        self,
        db: StateDb,
        *,
        clock: Callable[[], float] = time.time,
        timeout_s: float = FIT_TIMEOUT_S,
    ) -> None:
        self._db = db
        self._clock = clock
        self._timeout_s = timeout_s
        with db.transaction() as connection:
            connection.execute(_SCHEMA)

    def fit(
        self,
        model: Model,
        runtime: Runtime,
        context_length: int,
        gpu_layers: int | None = None,
        arguments: Sequence[str] = (),
    ) -> FitResult:
        """How to load `model` with `context_length` tokens.

        `arguments` are those of llama-server's that change what memory is needed (KV cache type,
        flash attention, batch): the tool takes them by the same names.

        Blocks: 1 ms when known, else twice the run of llama-fit-params (0.2 s for SmolLM2).
        Never raises for a model or tool that fails: the result then is an estimate that
        names the problem, and is not remembered.
        """
        key = _key(model, runtime, context_length, gpu_layers, arguments)
        known = self._recall(key) if key else None
        if known is not None:
            return known
        tool = tool_of(runtime, "llama-fit-params")
        if key is None or tool is None:
            reason = "its file is missing" if key is None else "this build has no llama-fit-params"
            return estimate(model, context_length, gpu_layers, problem=reason)
        try:
            result = self._measure(tool, model, context_length, gpu_layers, arguments)
        except (EngineError, ValueError) as exc:
            log.warning("a model could not be fitted: %s", exc, extra={"model_id": model.id})
            return estimate(model, context_length, gpu_layers, problem=str(exc))
        self._remember(key, model, result)
        return result

    def known(
        self,
        model: Model,
        runtime: Runtime,
        context_length: int,
        gpu_layers: int | None = None,
        arguments: Sequence[str] = (),
    ) -> FitResult | None:
        """What `fit` measured before; None where it would have to measure. About 1 ms."""
        key = _key(model, runtime, context_length, gpu_layers, arguments)
        return self._recall(key) if key else None

    def forget(self, model: Model) -> bool:
        """Drop all fits of a model, so that the next `fit` asks anew; whether there were any.

        Raises sqlite3.Error.
        """
        with self._db.transaction() as db:
            done = db.execute("DELETE FROM fit_cache WHERE model_path = ?", (str(model.path),))
            return done.rowcount > 0

    def _measure(
        self,
        tool: Path,
        model: Model,
        context_length: int,
        gpu_layers: int | None,
        arguments: Sequence[str],
    ) -> FitResult:
        wish = ("-m", str(model.path), "-c", str(context_length), *arguments)
        if gpu_layers is None:
            context_length, gpu_layers, placement = parse_arguments(
                ask(tool, wish, self._timeout_s)
            )
        else:  # the tool refuses to fit what the user has set; its memory is still told
            placement = ()
        layers = ("-ngl", str(gpu_layers)) if gpu_layers is not None else ()
        context = ("-c", str(context_length))
        final = ("-m", str(model.path), *context, *layers, *placement, *arguments)
        parts = parse_memory(ask(tool, (*final, "-fitp", "on"), self._timeout_s))
        return FitResult(context_length, gpu_layers, placement, parts, measured=True)

    def _recall(self, key: str) -> FitResult | None:
        with self._db.transaction() as db:
            row = db.execute("SELECT result FROM fit_cache WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            db.execute("UPDATE fit_cache SET used_at = ? WHERE key = ?", (self._clock(), key))
        try:
            return _from_row(row[0])
        except (ValueError, TypeError, KeyError):
            return None  # written by another version: measured anew

    def _remember(self, key: str, model: Model, result: FitResult) -> None:
        text = json.dumps(dataclasses.asdict(result))
        try:
            with self._db.transaction() as db:
                db.execute(
                    "INSERT OR REPLACE INTO fit_cache VALUES (?, ?, ?, ?)",
                    (key, str(model.path), self._clock(), text),
                )
                db.execute(
                    "DELETE FROM fit_cache WHERE key NOT IN"
                    " (SELECT key FROM fit_cache ORDER BY used_at DESC LIMIT ?)",
                    (KEPT,),
                )
        except sqlite3.Error as exc:  # a full disk: it is measured again next time
            log.warning("a fit could not be saved: %s", exc)


def placement_of(fit: FitResult) -> Placement:
    """How to launch by a fit."""
    sizes: dict[str, int] = {}
    for part in fit.memory:
        if part.device != "Host":
            sizes[part.device] = sizes.get(part.device, 0) + part.total_bytes
    words = (fit.context_length, fit.gpu_layers, fit.extra_args, fit.memory_bytes)
    return Placement(*words, on_devices=sizes)


def estimate(
    model: Model, context_length: int, gpu_layers: int | None = None, problem: str = ""
) -> FitResult:
    """From header values alone: weights + KV cache + a fixed compute buffer. Never blocks."""
    per_token = model.kv_bytes_per_token
    kv_cache = (KV_BYTES_PER_TOKEN if per_token is None else per_token) * context_length
    part = MemoryPart("Host", model.size_bytes, kv_cache, COMPUTE_BYTES)
    return FitResult(context_length, gpu_layers, (), (part,), measured=False, problem=problem)


def parse_arguments(output: str) -> tuple[int, int | None, tuple[str, ...]]:
    """(context in tokens, GPU layers, further arguments) that fitting printed.

    Raises ValueError when no line is exactly that.
    """
    for line in output.splitlines():
        if found := _ARGUMENTS.fullmatch(line.strip()):
            context, layers, split, overrides = found.groups()
            extra = (*(("-ts", split) if split else ()), *(("-ot", overrides) if overrides else ()))
            if not 0 < int(context) < 1 << 32:
                break
            return int(context), int(layers) if int(layers) >= 0 else None, extra
    raise ValueError("llama-fit-params printed no arguments")


def parse_memory(output: str) -> tuple[MemoryPart, ...]:
    """The parts that `-fitp on` printed, in MiB there; its last line is main memory.

    Raises ValueError when there is none.
    """
    rows = [found.groups() for line in output.splitlines() if (found := _MEMORY.fullmatch(line))]
    if not rows or rows[-1][0] != "Host":
        raise ValueError("llama-fit-params printed no memory")
    # It rounds down to whole MiB: one more is never too little.
    return tuple(
        MemoryPart(name, *((int(mib) + 1) * MIB if int(mib) else 0 for mib in numbers))
        for name, *numbers in rows
    )


def _key(
    model: Model,
    runtime: Runtime,
    context_length: int,
    gpu_layers: int | None,
    arguments: Sequence[str],
) -> str | None:
    """Names everything the answer depends on; None when the file is not there."""
    try:
        status = model.path.stat()
    except OSError:
        return None
    parts = [str(model.path), status.st_size, status.st_mtime_ns, model.size_bytes, runtime.id]
    parts += [str(runtime.server_path), context_length, gpu_layers, hardware_signature(runtime)]
    parts += arguments
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def hardware_signature(runtime: Runtime) -> str:
    """Devices with their sizes, main memory and cores; not what happens to be free."""
    devices = [re.sub(r",?\s*\d+ MiB free", "", device) for device in runtime.devices]
    total = memory.total_and_available()[0]
    return json.dumps([devices, total, os.cpu_count()])


def _from_row(text: str) -> FitResult:
    row = json.loads(text)
    row["memory"] = tuple(MemoryPart(**part) for part in row["memory"])
    row["extra_args"] = tuple(row["extra_args"])
    return FitResult(**row)
