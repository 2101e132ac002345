"""Where downloaded models are from: one small JSON file beside each model, which moves with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tray_app.engine.home import write_atomically

SUFFIX = ".origin.json"
MAX_BYTES = 64 << 10


def note_path(model: Path) -> Path:
    """The note of a model's first file: "x.gguf" has "x.gguf.origin.json"."""
    return model.with_name(model.name + SUFFIX)


def write(model: Path, facts: Mapping[str, Any]) -> None:
    """Write down the origin of a model. Raises OSError."""
    text = json.dumps(dict(facts), indent=2, ensure_ascii=False, sort_keys=True)
    write_atomically(note_path(model), text.encode("utf-8") + b"\n")


def read(model: Path) -> dict[str, Any] | None:
    """What is known of a model's origin; None when nothing is, or the note cannot be read."""
    try:
        with open(note_path(model), "rb") as note:
            data = note.read(MAX_BYTES + 1)
        facts = json.loads(data) if len(data) <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None
