"""The commands about conversion; part of the engine's one table (`engine.commands`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .converting import Converting
from .making import Making
from .quantizing import Quantizing
from .sharding import Sharding
from .values import Targets

if TYPE_CHECKING:
    from tray_app.engine.core import Engine


class ConvertCommands:
    """Public methods are commands."""

    def __init__(self, engine: Engine) -> None:
        making = Making(engine)
        self._quantizing = Quantizing(engine, making)
        self._sharding = Sharding(engine, making)
        self._converting = Converting(engine, making)

    def convert_model(self, path: str, output: str = "auto", name: str = "") -> dict[str, str]:
        """Start converting a folder of original weights to GGUF."""
        return {"job_id": self._converting.start(path, output, name).id}

    def quantize_targets(self, model_id: str) -> Targets:
        """What a model can be made into here, with the size of each."""
        return self._quantizing.targets(model_id)

    def quantize_model(self, model_id: str, types: list[str]) -> dict[str, str]:
        """Start making a model into other quantizations."""
        return {"job_id": self._quantizing.start(model_id, types).id}

    def split_model(self, model_id: str, shard_bytes: int) -> dict[str, str]:
        """Start cutting a model into shards; the whole file stays."""
        return {"job_id": self._sharding.split(model_id, shard_bytes).id}

    def verify_model(self, model_id: str) -> dict[str, str]:
        """Start checking a model: its header, a load, an answer."""
        return {"job_id": self._sharding.verify(model_id).id}

    def merge_model(self, model_id: str) -> dict[str, str]:
        """Start making one file of a model's shards; they stay."""
        return {"job_id": self._sharding.merge(model_id).id}
