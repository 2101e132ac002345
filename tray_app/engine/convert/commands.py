"""The commands about conversion; part of the engine's one table (`engine.commands`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .quantizing import Quantizing
from .values import Targets

if TYPE_CHECKING:
    from tray_app.engine.core import Engine


class ConvertCommands:
    """Public methods are commands."""

    def __init__(self, engine: Engine) -> None:
        self._quantizing = Quantizing(engine)

    def quantize_targets(self, model_id: str) -> Targets:
        """What a model can be made into here, with the size of each."""
        return self._quantizing.targets(model_id)

    def quantize_model(self, model_id: str, types: list[str]) -> dict[str, str]:
        """Start making a model into other quantizations."""
        return {"job_id": self._quantizing.start(model_id, types).id}
