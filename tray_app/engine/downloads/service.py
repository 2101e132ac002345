"""The engine's side of downloads: takes references, has them planned and fetched, fills the library."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tray_app.engine.errors import BadRequest, EngineError, ErrorView, NotEnoughDisk
from tray_app.engine.settings import DownloadSettings

from .queue import DownloadQueue, Reporter
from .references import parse
from .values import Download, DownloadState, Hub, Plan, PlannedFile, Reference, Remote, safe_name

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

    from .limiter import Limiter

log = logging.getLogger(__name__)

ORIGINS = "origins.json"
SCAN_WAIT_S = 30.0  # a scan after a download takes milliseconds; a huge library seconds


class DownloadService:
    """Commands come from any thread; each download works on one of the queue's."""

    def __init__(self, engine: Engine) -> None:
        """Touches the database only."""
        self._engine = engine
        self._limit: Limiter | None = None
        self._origins = threading.Lock()
        self.queue = DownloadQueue(
            engine.db,
            self._work,
            engine.publish,
            concurrent=lambda: self.settings.concurrent,
            discard=self._discard,
        )

    @property
    def settings(self) -> DownloadSettings:
        """The settings in force."""
        return self._engine.settings.downloads

    def pull(self, text: str) -> Download:
        """Queue what the user named, or join the download of the same. Raises BadRequest."""
        reference = parse(text)
        return self.queue.add(reference.text, title=_title(reference))

    def preview(self, text: str) -> Plan:
        """What a reference comes to, asked of its hub now. Blocks for seconds.

        Raises BadRequest, NotFound, DownloadFailed.
        """
        return self._plan(parse(text))

    # -- one download, on a thread of the queue

    def _work(self, download: Download, reporter: Reporter) -> str | None:
        reporter.progress(download.done_bytes, download.total_bytes, step="Asking the hub")
        plan = _plan_from(reporter.kept) or self._plan(parse(download.reference))
        reporter.keep(_kept(plan))
        reporter.planned(plan.title, plan.total_bytes, plan.warnings)
        base = 0
        for number, file in enumerate(plan.files, 1):
            reporter.check()
            step = f"File {number} of {len(plan.files)}" if len(plan.files) > 1 else "Downloading"
            base += self._fetch(file, base, plan.total_bytes, step, reporter)
        reporter.progress(base, plan.total_bytes, step="Adding to the library")
        first = self._target(plan.files[0])
        self._note_origin(plan)
        self._hand_over(first, plan)
        return str(first)

    def _plan(self, reference: Reference) -> Plan:
        """Ask the hub. Each is imported when it is wanted: an idle engine needs neither."""
        if reference.hub is Hub.OLLAMA:
            from . import ollama

            return ollama.plan(reference)
        if reference.hub is Hub.HUGGINGFACE:
            from .huggingface import HuggingFace
            from .token import hub_token

            hub = HuggingFace(self.settings.hub_endpoint, hub_token, os.environ)
            return hub.plan(reference, self._engine.memory_for_models())
        name = safe_name(reference.file or reference.name.rpartition("/")[2])
        file = PlannedFile(f"downloads/{name.removesuffix('.gguf')}/{name}", Remote(reference.name, name))
        return Plan(reference.text, name, (file,), {"hub": "url", "page": reference.name})

    def _fetch(
        self, file: PlannedFile, base: int, total: int | None, step: str, reporter: Reporter
    ) -> int:
        """Bring one file; its size."""
        from .transfer import fetch

        target = self._target(file)

        def progress(done: int, _: int | None) -> None:
            reporter.progress(base + done, total, step=step)

        fetch(
            file.remote,
            target,
            connections=self.settings.connections,
            limit=self._limiter(),
            progress=progress,
            cancel=reporter.cancel,
        )
        return target.stat().st_size

    def _target(self, file: PlannedFile) -> Path:
        parts = [safe_name(part) for part in file.path.split("/")]
        return self._engine.home.models.joinpath(*parts)
