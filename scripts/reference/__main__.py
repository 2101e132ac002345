"""Writes what is generated from the code; `--check` only says whether it is up to date.

A page with words of ours holds its generated part between two comments.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from . import command_line, completions, control_api, man_page, settings

ROOT = Path(__file__).resolve().parents[2]
# Files that are generated as a whole.
WHOLE: dict[str, Callable[[], str]] = {
    "packaging/linux/llama-wrangler.1": man_page.text,
    "packaging/completions/llama-wrangler.bash": completions.bash,
    "packaging/completions/_llama-wrangler": completions.zsh,
    "packaging/completions/llama-wrangler.fish": completions.fish,
}
# Pages, with the parts of them that are.
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "docs/cli.md": {"verbs": command_line.text},
    "docs/control-api.md": {
        "commands": control_api.commands,
        "events": control_api.events,
        "values": control_api.values,
    },
    "docs/settings.md": {"settings": settings.text},
}


def main(words: list[str]) -> int:
    """0 when all is written, or is as it should be; 1 when `--check` finds something old."""
    if words not in ([], ["--check"]):
        print("usage: python -m scripts.reference [--check]", file=sys.stderr)
        return 2
    fresh = {name: make() for name, make in WHOLE.items()}
    fresh |= {name: _filled(name, parts) for name, parts in PARTS.items()}
    old = [name for name, text in fresh.items() if _read(name) != text]
    if words:
        for name in old:
            print(f"{name} is out of date: run `python -m scripts.reference`", file=sys.stderr)
        return 1 if old else 0
    for name in old:
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(fresh[name], encoding="utf-8")
        print(f"wrote {name}")
    return 0


def _read(name: str) -> str:
    path = ROOT / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _filled(name: str, parts: dict[str, Callable[[], str]]) -> str:
    text = _read(name)
    for part, make in parts.items():
        first, last = f"<!-- generated: {part} -->", f"<!-- end: {part} -->"
        pattern = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise SystemExit(f"{name} does not hold {first} … {last} once")
        block = f"{first}\n\n{make().strip()}\n\n{last}"
        text = pattern.sub(lambda _, block=block: block, text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
