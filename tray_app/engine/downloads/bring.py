"""One download from its reference to a model in the library; runs on a thread of the queue."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tray_app.engine import gguf
from tray_app.engine.errors import BadGguf, BadRequest, EngineError, NotEnoughDisk, NotFound
from tray_app.engine.events import SettingsChanged
from tray_app.engine.values import Model

from . import kept_plan, origins
from .adopt import take_alias, take_settings
from .queue import Reporter
from .references import parse
from .values import Download, Plan, PlannedFile

if TYPE_CHECKING:
    from .service import DownloadService

log = logging.getLogger(__name__)

LIBRARY_S = 30.0  # a scan takes milliseconds; a library of thousands, or a slow disk, seconds
LOOK_S = 0.2
DISK_MARGIN_BYTES = 64 << 20  # for the database, logs and maps of the transfer
# Projectors and adapters first: with its last shard the model is in the library, whole.
_ORDER = {"other": 0, "adapter": 1, "mmproj": 1}


class Bringer:
    """Does the work of the queue. From any thread."""

    def __init__(self, service: DownloadService) -> None:
        self._service = service
        self._engine = service.engine
        self._free = threading.Condition()
        self._claimed: set[Path] = set()  # targets that a running download brings

    def bring(self, download: Download, reporter: Reporter) -> str | None:
        """Plan, fetch, hand over; returns the path of the model's first file.

        Raises what makes it fail: EngineError, OSError; Cancelled when the queue ends it.
        """
        kept = reporter.kept
        plan = kept_plan.from_memo(kept)
        if plan is None:
            return self._bring(self._planned(download, reporter), {}, reporter)
        try:
            reporter.progress(download.done_bytes, step="Going on")
            return self._bring(self._service.revived(plan), _done_files(kept), reporter)
        except NotFound as error:  # what was planned is no longer there: what is, now?
            log.info("planned anew: %s", error, extra={"download": download.id})
            discard(self._engine.home.models, kept)
            return self._bring(self._planned(download, reporter), {}, reporter)

    def _planned(self, download: Download, reporter: Reporter) -> Plan:
        reporter.progress(download.done_bytes, step="Asking the hub")
        return self._service.plan(parse(download.reference))

    def _bring(self, plan: Plan, done: dict[str, Any], reporter: Reporter) -> str:
        memo = {**kept_plan.to_memo(plan), "done": done}
        reporter.keep(memo)
        reporter.planned(plan.title, plan.total_bytes, plan.warnings)
        targets = {file.path: self._target(file) for file in plan.files}
        with self._claim(set(targets.values()), reporter):
            self._check_disk(plan, targets)
            base = 0
            files = sorted(plan.files, key=lambda file: _ORDER.get(file.role, 2))
            for number, file in enumerate(files, 1):
                reporter.check()
                many = f"File {number} of {len(files)}" if len(files) > 1 else "Downloading"
                base += self._fetch(file, targets[file.path], base, plan, many, done, reporter)
                reporter.keep({**memo, "done": done})
            reporter.progress(base, plan.total_bytes or base, step="Adding to the library")
            first = targets[_first(plan).path]
            origins.write(first, {**plan.origin, "reference": plan.reference, "at": time.time()})
            warnings = self._hand_over(first, plan, reporter)
            if warnings:
                reporter.planned(plan.title, plan.total_bytes or base, (*plan.warnings, *warnings))
        return str(first)

    def _fetch(
        self,
        file: PlannedFile,
        target: Path,
        base: int,
        plan: Plan,
        step: str,
        done: dict[str, Any],
        reporter: Reporter,
    ) -> int:
        """Bring one file; its size in bytes. One that an earlier run has checked is trusted."""
        from .transfer import fetch

        mark = _mark(target)
        if mark is not None and done.get(file.path, [None])[0] == mark:
            return mark[0]
        service, before = self._service, target.exists()
        if before:
            reporter.progress(base, plan.total_bytes, step="Checking the file that is here")

        def progress(count: int, _: int | None) -> None:
            reporter.progress(base + count, plan.total_bytes, step=step)

        fetch(
            file.remote,
            target,
            connections=service.settings.connections,
            limit=service.limiter,
            progress=progress,
            cancel=reporter.cancel,
        )
        if file.remote.sha256 is None and file.role == "model":
            _check_gguf(target)
        mark = _mark(target)
        assert mark is not None
        done[file.path] = [mark, not before]
        return mark[0]

    def _target(self, file: PlannedFile) -> Path:
        return self._engine.home.models.joinpath(*kept_plan.local_parts(file))

    @contextlib.contextmanager
    def _claim(self, targets: set[Path], reporter: Reporter) -> Iterator[None]:
        """Have these files alone: another download may come to the same ones."""
        with self._free:
            while targets & self._claimed:
                reporter.check()
                reporter.progress(0, step="Waiting for the download of the same file")
                self._free.wait(LOOK_S)
            self._claimed |= targets
        try:
            yield
        finally:
            with self._free:
                self._claimed -= targets
                self._free.notify_all()

    def _check_disk(self, plan: Plan, targets: Mapping[str, Path]) -> None:
        """Before the first byte: a model of ten shards must not fail at the ninth.

        Raises NotEnoughDisk.
        """
        missing = 0
        for file in plan.files:
            size = file.remote.size_bytes or 0
            target = targets[file.path]
            part = target.with_name(target.name + ".part")
            missing += max(0, size - max(allocated_bytes(target), allocated_bytes(part)))
        free = shutil.disk_usage(self._engine.home.models).free
        if missing and free < missing + DISK_MARGIN_BYTES:
            raise NotEnoughDisk(
                f"The disk is too full for this download: {missing / 1e9:.2f} GB are missing and"
                f" {free / 1e9:.2f} GB are free.",
                f"Free some space on the disk of {self._engine.home.models}, then retry.",
            )

    # -- into the library

    def _hand_over(self, first: Path, plan: Plan, reporter: Reporter) -> list[str]:
        """Have the library list the model, and give it its settings; what is worth knowing."""
        library = self._engine.library
        library.rescan()
        deadline = time.monotonic() + LIBRARY_S
        model: Model | None = None
        while time.monotonic() < deadline:
            reporter.check()
            settled = library.wait(LOOK_S)
            model = next((m for m in library.models() if m.path == first), None)
            if settled or (model is not None and model.details_known):
                break
        if model is None:
            why = next((row.reason for row in library.left_out() if row.path == first), None)
            return [f"It is not in the library: {why}"] if why else []
        warnings = take_settings(self._engine.store, model, plan, self._engine.home.models)
        alias = take_alias(self._engine.store, model, plan)
        if plan.settings or alias:
            self._engine.publish(SettingsChanged((f"models.{model.id}", "aliases")))
        if plan.origin.get("template") and model.has_chat_template is False:
            warnings.append(
                "Its chat template is in Ollama's own form, which llama.cpp cannot use, and the"
                " GGUF has none: answers may be off."
            )
        return warnings


def discard(models: Path, kept: Mapping[str, Any]) -> None:
    """Delete what an unfinished download has left below `models`, finished shards included.

    Files that were there before it, or have changed since, stay. Blocks. Raises OSError,
    DownloadFailed while a transfer to one of them still runs.
    """
    from . import transfer

    plan = kept_plan.from_memo(kept)
    if plan is None:
        return
    done = _done_files(kept)
    for file in plan.files:
        try:
            target = models.joinpath(*kept_plan.local_parts(file))
        except BadRequest:  # no plan of ours
            continue
        transfer.discard(target)
        mark, ours = done.get(file.path, [None, False])
        if ours and _mark(target) == mark:
            target.unlink(missing_ok=True)
        for folder in target.parents:
            if folder == models or not folder.is_relative_to(models):
                break
            with contextlib.suppress(OSError):  # something else is in it
                folder.rmdir()


def _first(plan: Plan) -> PlannedFile:
    return next((file for file in plan.files if file.role == "model"), plan.files[0])


def _done_files(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Path below the models folder -> [[size, mtime_ns], whether we brought it]."""
    done = kept.get("done")
    if not isinstance(done, dict):
        return {}
    return {key: row for key, row in done.items() if isinstance(row, list) and len(row) == 2}


def _mark(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def allocated_bytes(path: Path) -> int:
    """Bytes that a file holds on the disk already; its size where the system does not tell."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return int(getattr(status, "st_blocks", 0)) * 512 or status.st_size


def _check_gguf(path: Path) -> None:
    """A file whose hash nobody knows has to be what its name says. Raises BadGguf, OSError."""
    try:
        gguf.read_details(path)
    except EngineError as error:
        path.unlink(missing_ok=True)
        raise BadGguf(
            f"What came from this address is no whole GGUF file: {error.message}",
            "Look at the address in a browser: it may lead to a page, or ask to sign in.",
        ) from error
