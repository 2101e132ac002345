"""The engine's side of downloads: queues references, and has each planned and brought home."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Collection
from typing import TYPE_CHECKING

from tray_app.engine import memory, secrets
from tray_app.engine.settings import DownloadSettings
from tray_app.engine.values import Model

from . import connectivity, kept_plan
from .badge import Machine, machine_of, weights_budget
from .bring import Bringer, discard
from .discover import Discover
from .imports import Importer
from .limiter import Limiter
from .queue import DownloadQueue
from .references import canonical, parse
from .values import (
    Download,
    DownloadState,
    Hub,
    Plan,
    PlannedFile,
    Preview,
    PreviewFile,
    Reference,
    Remote,
    safe_name,
)

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

    from .huggingface import HuggingFace

log = logging.getLogger(__name__)


class DownloadService:
    """Commands come from any thread; each download works on one of the queue's."""

    def __init__(self, engine: Engine) -> None:
        """Touches the database only. Raises OSError."""
        self.engine = engine
        self.limiter = Limiter(self.settings.limit_bytes_s)
        self._hubs = threading.Lock()
        self._hub: tuple[str | None, HuggingFace] | None = None
        bringer = Bringer(self)
        self.queue = DownloadQueue(
            engine.db,
            bringer.bring,
            engine.publish,
            concurrent=lambda: self.settings.concurrent,
            local=self._is_local,
            discard=lambda download, kept: discard(engine.home.models, kept),
        )
        self.discover = Discover(
            self.hub,
            self.machine,
            engine.library.models,
            lambda: engine.settings.server.context_length,
        )
        self.importer = Importer(
            engine.jobs,
            engine.home.models,
            engine.library.rescan,
            lambda: [folder.path for folder in engine.library.folders()],
        )

    @property
    def settings(self) -> DownloadSettings:
        """The settings in force."""
        return self.engine.settings.downloads

    def start(self) -> None:
        """Go on where the last engine ended. Blocks for removing what a killed one left."""
        self.importer.clear_left()
        self.queue.start()

    def close(self) -> None:
        """End what runs, to go on with the next engine. Blocks for 15 s at most."""
        if not self.queue.close():
            log.warning("a download did not end in time")

    def settings_changed(self, keys: Collection[str]) -> None:
        """Take over what was set anew."""
        if any(key.startswith("downloads") for key in keys):
            self.limiter.set(self.settings.limit_bytes_s)

    def busy(self) -> bool:
        """Whether something is being fetched or waits for its turn."""
        busy = (DownloadState.RUNNING, DownloadState.QUEUED)
        return any(each.state in busy for each in self.queue.list())

    # -- what users ask for

    def pull(self, text: str) -> Download:
        """Queue what the user named, or join the download of the same.

        One that is done already is looked at again: what a name stands for may have changed, and
        files may be gone; what is here and right is not fetched again. Raises BadRequest.
        """
        reference = canonical(parse(text))
        for download in self.queue.list():
            if download.reference == reference and download.state is DownloadState.DONE:
                self.queue.remove(download.id)
        return self.queue.add(reference)

    def preview(self, text: str) -> Preview:
        """What a reference comes to, asked of its hub now. Blocks for seconds.

        Raises BadRequest, NotFound, DownloadFailed.
        """
        reference = parse(text)
        plan = self.plan(reference)
        models = self.engine.home.models
        return Preview(
            canonical(reference),
            plan.title,
            reference.hub,
            plan.origin.get("page"),
            tuple(PreviewFile(f.path, f.remote.size_bytes, f.role) for f in plan.files),
            plan.total_bytes,
            shutil.disk_usage(models).free,
            plan.origin.get("license"),
            plan.warnings,
            self.discover.badge_for(plan),
            self._model_of(plan),
        )

    def _model_of(self, plan: Plan) -> str | None:
        """The library's model, when the plan's files are here in the same size."""
        here: dict[str, Model] = {str(m.path): m for m in self.engine.library.models()}
        first = next(file for file in plan.files if file.role == "model")
        path = self.engine.home.models.joinpath(*kept_plan.local_parts(first))
        model = here.get(str(path))
        sizes = [f.remote.size_bytes for f in plan.files if f.role in ("model", "shard")]
        if model is None or None in sizes:
            return None
        return model.id if model.size_bytes == sum(size or 0 for size in sizes) else None

    # -- the hubs

    def hub(self) -> HuggingFace:
        """The one Hugging Face of this engine: it remembers answers and what limits were told."""
        from .huggingface import HuggingFace

        with self._hubs:
            endpoint = self.settings.hub_endpoint
            if self._hub is None or self._hub[0] != endpoint:
                self._hub = endpoint, HuggingFace(endpoint, self._token, os.environ)
            return self._hub[1]

    def _token(self) -> str | None:
        return secrets.hub_token(self.settings.token_stored)

    def plan(self, reference: Reference) -> Plan:
        """Ask the hub what a reference comes to. Blocks. Raises as `preview`."""
        if reference.hub is Hub.OLLAMA:
            from . import ollama

            return ollama.plan(reference)
        if reference.hub is Hub.HUGGINGFACE:
            return self.hub().plan(reference, weights_budget(self.machine()))
        name = safe_name(reference.file or reference.name.rpartition("/")[2])
        folder = safe_name(name[: -len(".gguf")] or name)
        file = PlannedFile(f"downloads/{folder}/{name}", Remote(reference.name, name))
        return Plan(reference.text, name, (file,), {"hub": "url", "page": reference.name})

    def revived(self, plan: Plan) -> Plan:
        """A plan that was kept over a restart, able to fetch again. Blocks for Ollama's tokens."""
        hub = plan.origin.get("hub")
        if hub == Hub.HUGGINGFACE:
            return kept_plan.with_remotes(plan, self.hub().revived)
        if hub == Hub.OLLAMA:
            from .oci_request import renewed

            return kept_plan.with_remotes(plan, renewed)
        return plan

    # -- this machine

    def machine(self) -> Machine:
        """What the machine has for models."""
        status = self.engine.runtime.status()
        return machine_of(status.hardware, status.active, memory.total_and_available())

    def _is_local(self, reference: str) -> bool:
        """Whether it can be had without a network: its server, or the mirror, runs here."""
        endpoint = self.settings.hub_endpoint or os.environ.get("HF_ENDPOINT", "")
        return connectivity.is_local(reference) or connectivity.is_local(endpoint)
