"""Models as they are: cut into shards, merged from them, checked (`llama-gguf-split`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tray_app.engine import naming, routes
from tray_app.engine.downloads.values import safe_name
from tray_app.engine.errors import BadRequest, ConversionFailed
from tray_app.engine.jobs import JobContext
from tray_app.engine.values import Job, Model, ModelKind, Runtime

from .making import Making

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

SPLIT, MERGE, VERIFY = "split_model", "merge_model", "verify_model"
TOOL = "llama-gguf-split"
LEAST_SHARD_BYTES, MOST_SHARD_BYTES = 1_000_000, 1 << 44
MB = 1_000_000


class Sharding:
    """Commands come from any thread; the work is a job."""

    def __init__(self, engine: Engine, making: Making) -> None:
        self._engine = engine
        self._making = making

    def split(self, name: str, shard_bytes: int) -> Job:
        """Begin to cut a model into shards of at most `shard_bytes`; the whole file stays.

        Raises ModelNotFound, RuntimeMissing, BadRequest.
        """
        model, (runtime, tool) = self._model(name), self._making.tool(TOOL)
        if model.shard_count > 1:
            raise BadRequest(f"{model.name} has {model.shard_count} shards.", "Merge it first.")
        if not LEAST_SHARD_BYTES <= shard_bytes <= MOST_SHARD_BYTES:
            raise BadRequest(f"Shards of {shard_bytes} bytes cannot be made.", "Take 1 MB or more.")
        if shard_bytes >= model.size_bytes:
            raise BadRequest("It fits one shard of that size.", "Take a smaller size.")

        def work(context: JobContext) -> None:
            self._split(model, shard_bytes, runtime, tool, context)

        log_path = self._engine.home.logs / "shards.log"
        return self._engine.jobs.submit(SPLIT, f"Splitting {model.name[:80]}", work, log_path)

    def merge(self, name: str) -> Job:
        """Begin to make one file of a model's shards; they stay. Raises as `split`."""
        model, (runtime, tool) = self._model(name), self._making.tool(TOOL)
        if model.shard_count == 1:
            raise BadRequest(f"{model.name} is one file already.")
        target = self._merged(model)
        if target.exists():
            raise BadRequest(f"{target.name} is there.", "Delete it first.")

        def work(context: JobContext) -> None:
            self._merge(model, target, runtime, tool, context)

        log_path = self._engine.home.logs / "shards.log"
        return self._engine.jobs.submit(MERGE, f"Merging {model.name[:80]}", work, log_path)

    def verify(self, name: str) -> Job:
        """Begin to check a model as it is; nothing is changed. Raises as `split`."""
        model, runtime = self._model(name), self._engine.runtime.require(None)

        def work(context: JobContext) -> None:
            self._prove(model.path, model, runtime, context)

        log_path = self._engine.home.logs / "shards.log"
        return self._engine.jobs.submit(VERIFY, f"Checking {model.name[:80]}", work, log_path)

    def _split(
        self, model: Model, shard_bytes: int, runtime: Runtime, tool: Path, context: JobContext
    ) -> None:
        making, folder = self._making, self._making.folder_for(model)
        making.check_disk(model.size_bytes)
        with making.staging() as staging:
            prefix = staging / safe_name(naming.parse_file_name(model.path.name).whole_stem)
            size = f"{max(1, shard_bytes // MB)}M"
            words = (str(tool), "--split", "--split-max-size", size, str(model.path), str(prefix))
            self._run(words, staging, model, "Splitting", context)
            shards = sorted(staging.iterdir())
            if not shards:
                raise ConversionFailed("No shard was made.", "The job's log has the details.")
            clash = next((path.name for path in shards if (folder / path.name).exists()), None)
            if clash is not None:
                raise BadRequest(f"{clash} is there.", "Delete it first.")
            self._prove(shards[0], model, runtime, context)
            folder.mkdir(parents=True, exist_ok=True)
            for path in reversed(shards):  # with the first one the model is whole
                os.replace(path, folder / path.name)
        self._engine.library.rescan()

    def _merge(
        self, model: Model, target: Path, runtime: Runtime, tool: Path, context: JobContext
    ) -> None:
        self._making.check_disk(model.size_bytes)
        with self._making.staging() as staging:
            made = staging / target.name
            words = (str(tool), "--merge", str(model.path), str(made))
            self._run(words, staging, model, "Merging", context)
            self._prove(made, model, runtime, context)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(made, target)
        self._engine.library.rescan()

    def _run(
        self, words: tuple[str, ...], staging: Path, model: Model, what: str, context: JobContext
    ) -> None:
        """Run the tool; what lies in `staging` tells how far it is."""

        def look() -> None:
            done = sum(path.stat().st_size for path in staging.iterdir())
            context.progress(min(done, model.size_bytes), model.size_bytes, "bytes", what)

        self._making.run(words, staging, what, context, on_poll=look)

    def _prove(self, made: Path, model: Model, runtime: Runtime, context: JobContext) -> None:
        embedding = model.kind is ModelKind.EMBEDDING
        self._making.prove(made, runtime, context, embedding=embedding)

    def _merged(self, model: Model) -> Path:
        name = naming.parse_file_name(model.path.name)
        return self._making.folder_for(model) / safe_name(f"{name.whole_stem}.gguf")

    def _model(self, name: str) -> Model:
        engine = self._engine
        models = engine.library.models()
        return routes.resolve(name, models, engine.settings.aliases, engine.active.model_id)
