"""Which architectures the converter of a llama.cpp tree knows, read from its source.

Nothing of it is imported or run: `conversion/__init__.py` holds two plain dictionaries
(b11434), older trees register their classes in one file.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

MAX_SOURCE_BYTES = 4 << 20
_REGISTERED = re.compile(r"@(?:Model|ModelBase)\.register\(([^)]*)\)")
_NAME = re.compile(r"[\"']([A-Za-z0-9_.]+)[\"']")


@dataclass(frozen=True, slots=True)
class Known:
    """What the converter can read."""

    text: frozenset[str]  # config.json's `architectures`
    vision: frozenset[str]  # those whose projector it makes, too

    def knows(self, architecture: str) -> bool:
        """Whether a model of that architecture can be converted."""
        return architecture in self.text or architecture in self.vision


def known_architectures(tree: Path) -> Known | None:
    """What the tree at `tree` converts; None when there is no converter in it."""
    text = _read(tree / "conversion" / "__init__.py")
    if text is not None:
        maps = _dictionaries(text)
        if "TEXT_MODEL_MAP" in maps:
            vision = maps.get("MMPROJ_MODEL_MAP", frozenset())
            return Known(maps["TEXT_MODEL_MAP"], vision)
    text = _read(tree / "convert_hf_to_gguf.py")
    if text is None:
        return None
    names = {n for found in _REGISTERED.findall(text) for n in _NAME.findall(found)}
    return Known(frozenset(names), frozenset()) if names else None


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_SOURCE_BYTES).decode("utf-8", "replace")
    except OSError:
        return None


def _dictionaries(source: str) -> dict[str, frozenset[str]]:
    """The keys of each dictionary that a module defines at its top."""
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    found = {}
    for node in module.body:
        target: ast.expr | None = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(target, ast.Name) and isinstance(value, ast.Dict):
            keys = [key.value for key in value.keys if isinstance(key, ast.Constant)]
            found[target.id] = frozenset(key for key in keys if isinstance(key, str))
    return found
