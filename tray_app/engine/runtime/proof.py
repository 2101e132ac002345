"""A runtime is tried before it is used: what it is, what it sees, and whether it computes rightly.

A runtime that fails is a result, not an exception: `Proof.error` says why in plain words.
`Proofs` keeps what came out for as long as program, GPUs and drivers stay the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tray_app.engine.child_registry import ChildRegistry
from tray_app.engine.errors import EngineError, ErrorView, RuntimeRejected
from tray_app.engine.state import StateDb
from tray_app.engine.values import Gpu, Hardware, Proof

from .libraries import in_words, missing_libraries, where_from
from .offload import read_offload
from .probe import Probe, probe
from .proof_devices import HIDING, Compared, compare_devices
from .proof_load import Tried, try_load
from .proof_model import ANSWER, PROMPT, write_proof_model
from .values import backend_name

log = logging.getLogger(__name__)

# A CUDA build compiles its kernels for a GPU newer than it is at the first start, which takes
# minutes in bad cases. A CPU build takes 0.1 s, Vulkan on a software renderer 0.5 to 0.9 s.
TIMEOUT_S = 120.0
KEPT = 200
LEFT_AFTER_S = 3600.0
_PREFIX = "proof-"
VERSION = 1  # of what is proven: a change makes every kept proof be made anew
MAX_SOCKET_PATH_BYTES = 100  # 108 on Linux, 104 on macOS, with its final zero

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runtime_proofs (
    key TEXT PRIMARY KEY, server TEXT NOT NULL, proved_at REAL NOT NULL, result TEXT NOT NULL)
"""


@dataclass(slots=True)
class _Findings:
    """What is known so far; an error found later does not lose it."""

    devices: tuple[str, ...] = ()
    offload: tuple[int, int] | None = None
    load_s: float | None = None
    warnings: list[str] = field(default_factory=list)
    missing: tuple[str, ...] = ()


def prove(
    server: Path,
    backend: str | None,
    hardware: Hardware | None,
    folder: Path,
    *,
    registry: ChildRegistry | None = None,
    promised: tuple[Gpu, ...] | None = None,
    timeout_s: float = TIMEOUT_S,
    check: Callable[[], None] = lambda: None,
    log_path: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.time,
) -> Proof:
    """Ask `server` what it is, hold its devices against the hardware, and let it answer.

    `backend` None: what the build itself says. `promised` are the GPUs it has to list; None: by
    the ladder for `hardware`. A new 0700 folder below `folder` holds model and socket meanwhile.
    Blocks for 0.1 s with a CPU build, at most `timeout_s` and a few seconds to end its children;
    none is left. `check` is called every 50 ms and may raise Cancelled. The load's output goes to
    `log_path` too. A bad runtime is no exception; raises OSError when `folder` cannot be used.
    """
    found, error = _Findings(), None
    deadline = time.monotonic() + timeout_s
    try:
        known = _ask(server, deadline, registry, check, found)
        backend = backend or known.backend
        if backend != "cpu":
            gpus = _promised(hardware, backend) if promised is None else promised
            _take(compare_devices(server, backend, known.devices, gpus, environ), found)
        gpu_layers = 0 if backend == "cpu" else 99
        private = _private_folder(folder)
        try:
            model = write_proof_model(private / "proof.gguf")
            tried = try_load(server, model, gpu_layers, deadline, registry, check, log_path)
        finally:
            shutil.rmtree(private, ignore_errors=True)
        _judge(server, backend, tried, timeout_s, found)
    except EngineError as exc:
        error = ErrorView(RuntimeRejected.code, exc.message, exc.remedy)
    actual, total = found.offload or (None, None)
    return Proof(
        ok=error is None,
        proved_at=clock(),
        devices=found.devices,
        layers_on_gpu=actual,
        layers=total,
        load_s=found.load_s,
        error=error,
        warnings=tuple(found.warnings),
        missing_libraries=found.missing,
    )


def _ask(
    server: Path,
    deadline: float,
    registry: ChildRegistry | None,
    check: Callable[[], None],
    found: _Findings,
) -> Probe:
    try:
        known = probe(server, deadline - time.monotonic(), registry, check)
    except EngineError:
        # The loader names only the first that is missing.
        found.missing = missing_libraries(server)
        if not found.missing:
            raise
        raise RuntimeRejected(
            f"{server} cannot start: {in_words(found.missing)}.", where_from(found.missing)
        ) from None
    found.devices = known.devices
    if known.lacking:
        number = f" (build {known.build})" if known.build else ""
        raise RuntimeRejected(
            f"{server} is too old{number}: it lacks {', '.join(known.lacking)}.",
            "Update it, or install a newer runtime.",
        )
    return known


def _promised(hardware: Hardware | None, backend: str) -> tuple[Gpu, ...]:
    if hardware is None:
        return ()
    from . import ladder

    return ladder.promised(hardware, backend)


def _take(compared: Compared, found: _Findings) -> None:
    found.warnings += compared.warnings
    found.missing = compared.missing
    if compared.error is not None:
        raise compared.error


def _private_folder(folder: Path) -> Path:
    """A new 0700 folder, elsewhere when a socket below `folder` would have too long a path."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in folder.glob(f"{_PREFIX}*"):  # of an engine that was killed
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)
    fits = len(os.fsencode(folder)) + 30 <= MAX_SOCKET_PATH_BYTES
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder if fits or os.name == "nt" else None))


def _judge(server: Path, backend: str, tried: Tried, timeout_s: float, found: _Findings) -> None:
    """Raises RuntimeRejected when the load or its answer was not right."""
    name = backend_name(backend)
    found.load_s = tried.load_s
    found.offload = read_offload(tried.lines)
    if tried.timed_out:
        what = "did not load its proof model" if tried.load_s is None else "did not answer"
        raise RuntimeRejected(
            f"{server} {what} within {timeout_s:.0f} s.",
            f"Try it again, or choose another backend than {name}.",
        )
    if tried.fault is not None:
        doing = "loading its proof model" if tried.load_s is None else "answering"
        remedy = f"Choose another build, or another backend than {name}."
        if tried.fault.code == "not_enough_memory":
            remedy = "End what else uses the memory of the GPU, then try it again."
        if tried.fault.code == "missing_library":
            found.missing = missing_libraries(server)
            remedy = where_from(found.missing)
        raise RuntimeRejected(f"{server} failed while {doing}: {tried.fault.message}", remedy)
    if tried.answer is None:
        raise RuntimeRejected(
            f"{server} loaded its proof model and gave no answer.",
            f"Choose another build, or another backend than {name}.",
        )
    if tried.answer != ANSWER:
        raise RuntimeRejected(
            f"The {name} build computes wrong results: after “{PROMPT}” its proof model can only"
            f" say “{ANSWER}”, and it said “{tried.answer[:100]}”.",
            f"Update the GPU's driver, or choose another backend than {name}."
            if backend != "cpu"
            else "Build the runtime on this machine.",
        )
    if backend != "cpu":
        _judge_offload(name, found)


def _judge_offload(name: str, found: _Findings) -> None:
    if found.offload is None:
        found.warnings.append("Its log does not tell how many layers went to the GPU.")
        return
    actual, total = found.offload
    if actual == 0:
        raise RuntimeRejected(
            f"The {name} build put none of {total} layers on the GPU, although all were asked for.",
            f"Check the GPU's driver, or choose another backend than {name}.",
        )
    if actual < total:
        found.warnings.append(f"It put {actual} of {total} layers on the GPU.")


class Proofs:
    """Proofs by (program, its libraries, backend, hardware), kept in state.db. Thread-safe."""

    def __init__(
        self,
        db: StateDb,
        folder: Path,
        registry: ChildRegistry | None = None,
        clock: Callable[[], float] = time.time,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`folder` is where a proof has its private folder: a short path, for the socket's sake."""
        self._db = db
        self._folder = folder
        self._registry = registry
        self._clock = clock
        self._environ = environ
        with db.transaction() as connection:
            connection.execute(_SCHEMA)

    def known(self, server: Path, backend: str | None, hardware_key: str) -> Proof | None:
        """The kept proof, a failed one too. Takes 1 ms."""
        return self._recall(self._key(server, backend, hardware_key))

    def prove(
        self,
        server: Path,
        backend: str | None,
        hardware: Hardware | None,
        hardware_key: str,
        *,
        fresh: bool = False,
        check: Callable[[], None] = lambda: None,
        timeout_s: float = TIMEOUT_S,
        promised: tuple[Gpu, ...] | None = None,
        log_path: Path | None = None,
    ) -> Proof:
        """The kept proof, or a new one, as `prove`; with `fresh` always a new one.

        Raises OSError when the folder cannot be used.
        """
        key = self._key(server, backend, hardware_key)
        proof = None if fresh else self._recall(key)
        if proof is None:
            proof = prove(
                server,
                backend,
                hardware,
                self._folder,
                registry=self._registry,
                promised=promised,
                timeout_s=timeout_s,
                check=check,
                log_path=log_path,
                environ=self._environ,
                clock=self._clock,
            )
            if key is not None:
                self._remember(key, server, proof)
        return proof

    def forget(self, server: Path) -> None:
        """Drop what is kept of a program."""
        with self._db.transaction() as db:
            db.execute("DELETE FROM runtime_proofs WHERE server = ?", (str(server),))

    def _key(self, server: Path, backend: str | None, hardware_key: str) -> str | None:
        """Names all that a proof depends on; None when the program is not there."""
        try:
            parts = [_mark(server)]
            parts += sorted(_mark(path) for path in server.parent.iterdir() if _is_library(path))
        except OSError:
            return None
        names = [name for row in HIDING.values() for name in row]
        hiding = [self._environ.get(name) for name in names]
        whole = [VERSION, str(server), parts, backend, hardware_key, hiding]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()

    def _recall(self, key: str | None) -> Proof | None:
        with self._db.reading() as db:
            row = db.execute("SELECT result FROM runtime_proofs WHERE key = ?", (key,)).fetchone()
        try:
            return None if row is None else _from_row(row[0])
        except (ValueError, TypeError, KeyError):
            return None  # written by another version: made anew

    def _remember(self, key: str, server: Path, proof: Proof) -> None:
        row = (key, str(server), proof.proved_at, json.dumps(asdict(proof)))
        try:
            with self._db.transaction() as db:
                db.execute("INSERT OR REPLACE INTO runtime_proofs VALUES (?, ?, ?, ?)", row)
                db.execute(
                    "DELETE FROM runtime_proofs WHERE key NOT IN"
                    " (SELECT key FROM runtime_proofs ORDER BY proved_at DESC, rowid DESC LIMIT ?)",
                    (KEPT,),
                )
        except sqlite3.Error as exc:  # a full disk: it is proven again next time
            log.warning("a proof could not be saved: %s", exc)


def _is_library(path: Path) -> bool:
    return path.name.startswith(("libggml", "libllama", "ggml", "llama")) and any(
        suffix in path.name for suffix in (".so", ".dylib", ".dll")
    )


def _mark(path: Path) -> str:
    status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"


def _from_row(text: str) -> Proof:
    row: dict[str, Any] = json.loads(text)
    for name in ("devices", "warnings", "missing_libraries"):
        row[name] = tuple(row[name])
    row["error"] = None if row["error"] is None else ErrorView(**row["error"])
    return Proof(**row)
