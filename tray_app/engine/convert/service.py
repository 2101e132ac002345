"""The engine's side of conversion: what makes models out of models and weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .conversions import Conversions
from .making import Making, clear_left
from .quantizing import Quantizing
from .sharding import Sharding

if TYPE_CHECKING:
    from tray_app.engine.core import Engine


class ConvertService:
    """One for the engine; its parts take commands from any thread."""

    def __init__(self, engine: Engine) -> None:
        """Touches no disk."""
        self._engine = engine
        making = Making(engine)
        self.quantizing = Quantizing(engine, making)
        self.sharding = Sharding(engine, making)
        self.conversions = Conversions(engine, making, self.quantizing)

    def start(self) -> None:
        """Remove what a killed engine left; go on with its conversions, unless only asked once."""
        clear_left(self._engine.home.run)
        if self._engine.mode != "once":
            self.conversions.resume()
