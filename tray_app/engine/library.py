"""The models on this computer: any number of folders, scanned on request, never written to.

One thread of its own scans and then has whole headers read by the scan worker, one file at a
time. Everything else only looks at the last finished state, under a short lock.
"""

from __future__ import annotations

import difflib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from .errors import ModelNotFound
from .gguf_cache import MetadataCache, Row
from .library_files import Pacer, SeenFile
from .library_models import ScannedFile, assemble
from .library_scan import ScanResult, has_changed, is_below, scan
from .scan_worker import Reading, ScanWorker
from .values import Folder, FolderState, LeftOut, Model

# While details arrive, changes are told this often at most, or a tenth of the time is spent
# on telling them if the library is so large that it takes longer.
TELL_EVERY_S = 0.25
TELL_SHARE = 10
CLOSE_MATCHES = 3

log = logging.getLogger(__name__)


class HeaderReader(Protocol):
    """What reads whole headers: `ScanWorker`."""

    def read(self, path: str) -> Reading: ...
    def stop(self) -> int | None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Shown:
    """The finished state that readers see."""

    models: tuple[Model, ...] = ()
    folders: tuple[Folder, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    by_id: dict[str, Model] = field(default_factory=dict)


class Library:
    """Scans `folders` and keeps what they hold.

    `on_change` is called without arguments on the library's thread after each change that
    readers can see; it must return fast. `home` is the folder that downloads go to: it is
    laid out as publisher/repo/file. Nothing is read before the first `rescan`.
    """

    def __init__(
        self,
        folders: Iterable[Path],
        cache: MetadataCache,
        on_change: Callable[[], None],
        *,
        home: Path | None = None,
        reader: HeaderReader | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._on_change = on_change
        self._home = None if home is None else os.path.abspath(home)
        self._sure_roots = frozenset({self._home} if self._home else ())
        self._pause = Pacer()
        self._reader: HeaderReader = reader if reader is not None else ScanWorker()
        self._clock = clock
        self._condition = threading.Condition()
        self._roots = _absolute(folders)
        self._shown = _Shown(folders=self._folder_values(self._roots, {}, ()))
        self._scan_wanted = False
        self._busy = False
        self._scanning = False
        self._closed = False
        self._listed = threading.Event()  # the first scan is over
        self._thread: threading.Thread | None = None
        # The fields below belong to the library's thread.
        self._rows: dict[str, Row] | None = None
        self._result = ScanResult()
        self._pending: deque[SeenFile] = deque()
        self._unsaved: dict[str, Row] = {}
        self._untold = True  # readers do not see all that is known
        self._told_at = 0.0
        self._tell_every_s = TELL_EVERY_S
        self._watched: dict[str, int | None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Readers: any thread, no waiting.

    def models(self) -> tuple[Model, ...]:
        """Every model, by name. Those of a missing drive are there with `available` False."""
        return self._shown.models

    def folders(self) -> tuple[Folder, ...]:
        """The library folders in the order given."""
        return self._shown.folders

    def left_out(self) -> tuple[LeftOut, ...]:
        """The files that are not listed, each with its reason."""
        return self._shown.left_out

    @property
    def scanning(self) -> bool:
        """Whether a scan runs or waits. Reading further details does not count."""
        with self._condition:
            return self._scanning or self._scan_wanted

    def get(self, model_id: str) -> Model:
        """The model `model_id`. Raises ModelNotFound, with the closest ids in the remedy."""
        shown = self._shown
        model = shown.by_id.get(model_id)
        if model is None:
            raise ModelNotFound(
                f"There is no model {model_id!r} in the library ({len(shown.models)} models).",
                _suggestion(model_id, list(shown.by_id)),
            )
        return model

    def changed(self) -> bool:
        """Whether the folders look different from the last scan, so that a rescan is due.

        Costs one `stat` for each folder. Blocks while a drive wakes up: not for the event loop.
        """
        return has_changed(self._watched)

    # Commands: any thread, return at once.

    def rescan(self) -> None:
        """Scan all folders soon. Requests made during a scan become one more scan."""
        with self._condition:
            if self._closed:
                return
            self._scan_wanted = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="library", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def set_folders(self, folders: Iterable[Path]) -> None:
        """Use these folders from now on, and scan them."""
        with self._condition:
            self._roots = _absolute(folders)
        self.rescan()

    def wait(self, timeout_s: float) -> bool:
        """Block until nothing is left to scan or read, or `timeout_s` is over (then False)."""
        with self._condition:
            return self._condition.wait_for(
                lambda: self._closed or not (self._scan_wanted or self._busy), timeout_s
            )

    def listed(self, timeout_s: float) -> bool:
        """Block until the first scan has shown what is there, or `timeout_s` is over."""
        return self._listed.wait(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """End the thread and the scan worker. Blocks for `timeout_s` at most."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._reader.close()
        if self._thread is not None:
            self._thread.join(timeout_s)

    # The library's thread.

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._scan_wanted and not self._pending:
                    self._busy = False
                    self._condition.notify_all()
                self._condition.wait_for(lambda: self._closed or self._scan_wanted or self._pending)
                if self._closed:
                    break
                self._busy = True
                self._scanning, self._scan_wanted = self._scan_wanted, False
                roots = self._roots
            try:
                if self._scanning:
                    self._scan(roots)
                else:
                    self._read_next()
            except Exception:  # the thread's barrier: one bad round must not end all scans
                log.exception("library round failed")
                self._pending.clear()
                self._scanning = False
            self._listed.set()
        self._listed.set()
        self._save()

    def _scan(self, roots: tuple[str, ...]) -> None:
        if self._rows is None:
            self._rows = self._cache.load(self._pause)
        started = self._clock()
        self._on_change()  # `scanning` is true now
        before = self._result
        self._result = scan(roots, self._rows, self._pause)
        self._untold = self._untold or not self._result.looks_like(before)
        self._watched = dict(self._result.watched)
        self._unsaved.update((row.path, row) for row in self._result.fresh)
        self._pending = deque(file for file in self._result.files if self._lacks_details(file))
        with self._condition:
            self._scanning = False
        if self._untold:
            self._tell()
        else:
            self._on_change()  # `scanning` is false again
        log.info(
            "scanned %d folders: %d files, %d headers read, %d to read further, %.0f ms",
            len(roots),
            len(self._result.files),
            len(self._result.fresh),
            len(self._pending),
            (self._clock() - started) * 1000,
        )

    def _lacks_details(self, file: SeenFile) -> bool:
        assert self._rows is not None
        row = self._rows[file.path]
        return (
            file.available
            and row.problem is None
            and row.header is not None
            and not row.header.details
        )

    def _read_next(self) -> None:
        """Have one more header read whole; tell readers now and then, and at the end."""
        assert self._rows is not None
        file = self._pending.popleft()
        try:
            reading = self._reader.read(file.path)
        except OSError as exc:  # no process could be started: the summaries have to do
            log.warning("scan worker: %s", exc)
            self._pending.clear()
            self._tell()
            return
        row = self._rows[file.path]
        self._rows[file.path] = replace(
            row,
            header=reading.header or row.header,
            problem=reading.problem,
            keep=reading.keep,
        )
        self._unsaved[file.path] = self._rows[file.path]
        self._untold = True
        if reading.problem:
            self._watched = {**self._watched, file.path: file.key.mtime_ns}
        if not self._pending:
            self._reader.stop()
        if not self._pending or self._clock() - self._told_at > self._tell_every_s:
            self._tell()

    def _tell(self) -> None:
        """Make what is known the state that readers see, save it, and say so."""
        assert self._rows is not None
        started = self._clock()
        rows = self._rows
        files = []
        for file in self._result.files:
            row = rows[file.path]
            files.append(ScannedFile(file, row.header, row.problem, row.model_id))
        assembly = assemble(files, self._sure_roots, self._pause)
        for model in assembly.models:
            self._remember_id(str(model.path), model.id)
        skipped = [LeftOut(Path(path), why) for path, why in self._result.left_out.items()]
        left_out = sorted((*assembly.left_out, *skipped), key=lambda row: str(row.path))
        self._shown = _Shown(
            assembly.models,
            self._folder_values(self._result.folders, self._result.folders, assembly.models),
            tuple(left_out),
            {model.id: model for model in assembly.models},
        )
        self._save()
        self._untold = False
        self._on_change()
        self._told_at = self._clock()
        self._tell_every_s = max(TELL_EVERY_S, TELL_SHARE * (self._told_at - started))

    def _remember_id(self, path: str, model_id: str) -> None:
        assert self._rows is not None
        row = self._rows[path]
        if row.model_id != model_id:
            self._rows[path] = self._unsaved[path] = replace(row, model_id=model_id)

    def _save(self) -> None:
        self._cache.store(self._unsaved.values(), self._result.gone, self._pause)
        self._unsaved = {}
        self._result.gone = []

    def _folder_values(
        self, roots: Iterable[str], states: dict[str, FolderState], models: Sequence[Model]
    ) -> tuple[Folder, ...]:
        paths = [str(model.path) for model in models]
        return tuple(
            Folder(
                Path(root),
                states.get(root, FolderState.OK),
                sum(is_below(path, root) for path in paths),
                root == self._home,
            )
            for root in roots
        )


def _absolute(folders: Iterable[Path]) -> tuple[str, ...]:
    """Absolute paths without repeats; links in them are kept, as the user wrote them."""
    return tuple(dict.fromkeys(os.path.abspath(folder.expanduser()) for folder in folders))


def _suggestion(model_id: str, known: list[str]) -> str:
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(model_id.lower(), lower, CLOSE_MATCHES, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(lower[name] for name in close)}?"
    return "Rescan the library, or add the folder that holds it."
