"""A model's folder without the program code in it, because llama.cpp's converter would run that.

It reads tokenizers with transformers' `trust_remote_code=True` (conversion/base.py, b11434): a
class named by `auto_map` in a configuration is imported from a .py file beside it, or from another
repository in Hugging Face's cache. Neither is ever wanted for data that is only to be converted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from tray_app.engine.errors import ConversionFailed
from tray_app.engine.formats.code import CODE_SUFFIXES, code_in, files_in

NAMES_CODE = "auto_map"
MOST_JSON_BYTES = 64 << 20  # larger ones (merges, indexes) name no classes


def without_code(weights: Path, view: Path) -> Path:
    """`weights` itself where it holds no code, else `view` with links to all of the rest.

    Raises ConversionFailed where nothing can be linked, OSError.
    """
    if not weights.is_dir():
        return weights
    rewritten = {path: text for path in files_in(weights) if (text := _tamed(path)) is not None}
    if not rewritten and not code_in(weights):
        return weights
    shutil.rmtree(view, ignore_errors=True)
    view.mkdir(parents=True)
    for path in files_in(weights):
        target = view / path.relative_to(weights)
        if path.suffix.lower() in CODE_SUFFIXES:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path in rewritten:
            target.write_text(rewritten[path], encoding="utf-8")
        else:
            _link(path, target)
    return view


def environment(view: Path) -> dict[str, str]:
    """Keeps the converter from code that lies in the user's cache of Hugging Face."""
    return {"HF_HOME": str(view.with_name("hf-home")), "HF_HUB_DISABLE_TELEMETRY": "1"}


def _tamed(path: Path) -> str | None:
    """A configuration without the classes it names; None when it names none."""
    if path.suffix != ".json" or path.stat().st_size > MOST_JSON_BYTES:
        return None
    try:
        text = path.read_text(encoding="utf-8")
        if NAMES_CODE not in text:
            return None
        value: Any = json.loads(text)
    except (ValueError, RecursionError):  # the converter says what is wrong with it
        return None
    return json.dumps(_stripped(value), ensure_ascii=False)


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stripped(inner) for key, inner in value.items() if key != NAMES_CODE}
    return [_stripped(inner) for inner in value] if isinstance(value, list) else value


def _link(path: Path, target: Path) -> None:
    """Windows lets few users make symbolic links; hard links need the same drive."""
    for link in (os.symlink, os.link):
        with contextlib.suppress(OSError):
            link(path.resolve(), target)
            return
    raise ConversionFailed(
        f"{path.parent} holds program code, which is not run, and its data cannot be linked to.",
        "Remove the .py files from that folder, or move it to the drive of the home folder.",
    )
