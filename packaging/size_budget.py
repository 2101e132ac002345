"""Weighs a one-folder build against packaging/size_budget.toml: `size_budget.py FOLDER`.

Prints a table of components; exit status 1 when one is over its limit or a file has none.
"""

from __future__ import annotations

import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

BUDGET = Path(__file__).with_name("size_budget.toml")
MB = 1_000_000


def weigh(folder: Path, budget: dict[str, Any]) -> tuple[dict[str, int], list[str]]:
    """Bytes of each component of `folder`, and the files that belong to none."""
    components: dict[str, Any] = budget.get("components", {})
    sizes = dict.fromkeys(components, 0)
    unknown: list[str] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        name = path.relative_to(folder).as_posix()
        for component, row in components.items():
            if any(fnmatch(name, pattern) for pattern in row["files"]):
                sizes[component] += path.stat().st_size
                break
        else:
            unknown.append(name)
    return sizes, unknown


def judge(folder: Path, budget: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The table, and what is wrong."""
    sizes, unknown = weigh(folder, budget)
    components: dict[str, Any] = budget.get("components", {})
    if not components:  # only the whole has a limit here
        unknown = []
    paths = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    total = sum(p.stat().st_size for p in paths)
    rows = [(name, sizes[name], float(row["mb"])) for name, row in components.items()]
    rows.append(("all", total, float(budget["total_mb"])))
    lines = [f"{name:<30} {size / MB:6.1f} of {limit:5.1f} MB" for name, size, limit in rows]
    wrong = [f"{name} is over its limit" for name, size, limit in rows if size > limit * MB]
    return lines, wrong + [f"{name} belongs to no component" for name in unknown]


def main(words: list[str]) -> int:
    """Weigh the folder named on the command line."""
    lines, wrong = judge(Path(words[0]), tomllib.loads(BUDGET.read_text("utf-8"))[sys.platform])
    print("\n".join(lines))
    for problem in wrong[:20]:
        print(f"size budget: {problem}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
