"""The originals of a conversion fetched, and kept where the next one finds them."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from tray_app.engine.downloads import kept_plan
from tray_app.engine.downloads.bring import allocated_bytes
from tray_app.engine.downloads.service import DownloadService
from tray_app.engine.downloads.values import Plan, PlannedFile
from tray_app.engine.errors import NotEnoughDisk
from tray_app.engine.jobs import JobContext

DISK_MARGIN_BYTES = 256 << 20


def inner_parts(file: PlannedFile) -> tuple[str, ...]:
    """The folders and name of a file below its repository. Raises BadRequest."""
    return kept_plan.local_parts(file)[3:]  # originals/org/repo/…


def fetch_all(
    service: DownloadService, plan: Plan, folder: Path, context: JobContext
) -> list[Path]:
    """Bring all files of a plan below `folder`; what is there and right stays. Blocks.

    Raises DownloadFailed, NotEnoughDisk, Cancelled, OSError; a later call goes on.
    """
    from tray_app.engine.downloads.transfer import fetch

    models = service.engine.home.models
    targets = [(file, folder.joinpath(*inner_parts(file))) for file in plan.files]
    folder.mkdir(parents=True, exist_ok=True)
    for file, target in targets:
        _take_kept(models.joinpath(*kept_plan.local_parts(file)), file, target)
    _check_disk(targets, folder)
    base, total = 0, plan.total_bytes
    for number, (file, target) in enumerate(targets, 1):
        context.check()
        step = f"File {number} of {len(targets)}: {target.name}"

        def progress(done: int, _: int | None, base: int = base, step: str = step) -> None:
            context.progress(base + done, total, "bytes", step)

        fetch(
            file.remote,
            target,
            connections=service.settings.connections,
            limit=service.limiter,
            progress=progress,
            cancel=context.cancel,
        )
        base += target.stat().st_size
    return [target for _, target in targets]


def keep(plan: Plan, folder: Path, models: Path) -> None:
    """Move the originals to where they stay: models/originals/org/repo. Raises OSError."""
    for file in plan.files:
        source = folder.joinpath(*inner_parts(file))
        target = models.joinpath(*kept_plan.local_parts(file))
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)


def _take_kept(kept: Path, file: PlannedFile, target: Path) -> None:
    """What an earlier conversion kept comes in without a download; its hash is checked then."""
    if target.exists() or not kept.is_file() or kept.stat().st_size != file.remote.size_bytes:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # then it is fetched
        os.link(kept, target)


def _check_disk(targets: list[tuple[PlannedFile, Path]], folder: Path) -> None:
    missing = 0
    for file, target in targets:
        part = target.with_name(target.name + ".part")
        here = max(allocated_bytes(target), allocated_bytes(part))
        missing += max(0, (file.remote.size_bytes or 0) - here)
    free = shutil.disk_usage(folder).free
    if missing and free < missing + DISK_MARGIN_BYTES:
        raise NotEnoughDisk(
            f"The disk is too full for the original weights: {missing / 1e9:.2f} GB are missing and"
            f" {free / 1e9:.2f} GB are free.",
            f"Free some space on the disk of {folder.parent.parent}, then continue.",
        )
