"""The commands about updates of the app; part of the engine's one table (`engine.commands`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tray_app.app_versions import version_key
from tray_app.engine.errors import BadRequest

from .values import AppUpdateStatus

if TYPE_CHECKING:
    from tray_app.engine.core import Engine


class AppUpdateCommands:
    """Public methods are commands. The check may take 30 s."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def app_update_status(self) -> AppUpdateStatus:
        """How it stands with newer versions; nobody is asked."""
        return self._engine.app_update.status

    def check_app_update(self) -> AppUpdateStatus:
        """Ask for newer versions now."""
        return self._engine.app_update.check()

    def fetch_app_update(self) -> dict[str, str]:
        """Start to bring the newer version, and to try it."""
        return {"job_id": self._engine.app_update.fetch().id}

    def apply_app_update(self, show: bool = False) -> dict[str, bool]:
        """Use the version that is ready: now, or as soon as nothing runs."""
        return {"applied": self._engine.app_update.apply(show)}

    def skip_app_update(self, version: str) -> AppUpdateStatus:
        """Say no more of this version."""
        if version_key(version) is None:
            raise BadRequest(f"{version[:40]!r} is no version.", "Give one as 1.2.3.")
        self._engine.app_update.skip(version)
        return self._engine.app_update.status
