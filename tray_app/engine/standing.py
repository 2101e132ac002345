"""What stays to be told as long as it is so: broken files, and sharing that does not happen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .app_update.notices import app_update_notices
from .sharing import listen_host
from .values import Notice

if TYPE_CHECKING:
    from .core import Engine


def standing(engine: Engine) -> list[Notice]:
    """The notices about the engine itself, as they hold now."""
    found = []
    if engine.store.broken is not None:
        kept, why = engine.store.broken
        message = f"settings.toml could not be read: {why.rstrip('.')}. The defaults hold."
        found.append(Notice("settings_broken", "warning", message, f"It is kept as {kept}."))
    wished = engine.settings.server.host
    if listen_host(wished, engine.keys.required) != wished:
        message = f"Nothing is shared on the network: server.host is {wished}, without a key."
        remedy = "Switch on “Share on my network” on the Server page: it makes a key."
        found.append(Notice("not_shared", "warning", message, remedy))
    if engine.tls_error is not None:
        message = f"Nothing is shared on the network. {engine.tls_error.message}"
        found.append(Notice("tls_broken", "warning", message, engine.tls_error.remedy))
    if engine.store.overlay_error is not None:
        message = engine.store.overlay_error
        found.append(Notice("overlay_broken", "warning", message, "Correct that file."))
    if engine.db.broken_copy is not None:
        message = "The state database was damaged and begun anew."
        remedy = f"It is kept as {engine.db.broken_copy}; no model or setting is lost."
        found.append(Notice("state_broken", "warning", message, remedy))
    return [*found, *app_update_notices(engine.app_update.status)]
