"""The command about formats; part of the engine's one table (`engine.commands`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tray_app.engine.errors import BadRequest
from tray_app.engine.runtime.compile import CONVERSION_FOLDER

from .bounded import whole_path
from .converter import Known, known_architectures
from .inspect import inspect
from .values import Report

if TYPE_CHECKING:
    from tray_app.engine.core import Engine


class FormatCommands:
    """Public methods are commands."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def inspect_model(self, path: str) -> Report:
        """What a file or folder of this computer is, and what can be done with it."""
        place = whole_path(path)
        if place is None:
            raise BadRequest(f"{path[:200]!r} is no whole path.", "Give it from the root on.")
        return inspect(place, self._known())

    def _known(self) -> Known | None:
        """What the converter beside the active runtime reads; None: there is none beside it."""
        active = self._engine.runtime.status().active
        if active is None:
            return None
        return known_architectures(active.server_path.parent / CONVERSION_FOLDER)
