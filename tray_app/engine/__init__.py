"""The engine: everything Llama Wrangler does, without a face.

Three doors: commands (`Engine.call`), `Engine.snapshot()` and `Engine.events`. What stands in
`__all__` is the whole public surface; nothing outside imports the modules in here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import (
    AlreadyRunning,
    EngineError,
    ErrorView,
    ModelNotFound,
    NoActiveModel,
    PortTaken,
    SettingsInvalid,
)
from .events import EngineStopping, Event, EventStream
from .home import Home, cache_folder, write_atomically
from .logs import start_logging
from .values import (
    GatewayState,
    GatewayStatus,
    ModelState,
    ModelStatus,
    RequestRecord,
    Snapshot,
    to_json,
)

if TYPE_CHECKING:
    from .core import Engine

__all__ = [
    "AlreadyRunning",
    "Engine",
    "EngineError",
    "EngineStopping",
    "ErrorView",
    "Event",
    "EventStream",
    "GatewayState",
    "GatewayStatus",
    "Home",
    "ModelNotFound",
    "ModelState",
    "ModelStatus",
    "NoActiveModel",
    "PortTaken",
    "RequestRecord",
    "SettingsInvalid",
    "Snapshot",
    "cache_folder",
    "start_logging",
    "to_json",
    "write_atomically",
]


def __getattr__(name: str) -> Any:
    """`Engine` on first use: the scan worker runs in this package and needs none of it."""
    if name == "Engine":
        from .core import Engine

        return Engine
    raise AttributeError(name)
