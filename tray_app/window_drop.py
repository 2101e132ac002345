"""Files dropped on the window: the page never learns their paths, so its process tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MOST = 50  # paths of one drop
EVENT = "llama-wrangler:drop"


def follow_drops(window: Any) -> None:
    """Tell the page the paths of what is dropped on it, after each load of it."""

    def on_drop(event: Mapping[str, Any]) -> None:
        window.run_js(script(paths_of(event)))

    def on_loaded() -> None:
        window.dom.document.events.drop += on_drop

    window.events.loaded += on_loaded


def paths_of(event: Mapping[str, Any]) -> list[str]:
    """The paths in a drop as pywebview tells it (`pywebviewFullPath`, 6.2)."""
    files = (event.get("dataTransfer") or {}).get("files") or []
    paths = [file.get("pywebviewFullPath") for file in files if isinstance(file, Mapping)]
    return [str(path) for path in paths if path][:MOST]


def script(paths: list[str]) -> str:
    """What tells the page; JSON in ASCII is safe inside a script."""
    detail = json.dumps({"detail": {"paths": paths}})
    return f"dispatchEvent(new CustomEvent({json.dumps(EVENT)}, {detail}))"
