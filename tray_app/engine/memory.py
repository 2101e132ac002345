"""Main memory: what there is, what others hold, and what resident models may hold together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil

GIB = 1 << 30


def total_and_available() -> tuple[int, int]:
    """(total, available) bytes of this machine, or of the container that bounds it."""
    machine = psutil.virtual_memory()
    total, available = int(machine.total), int(machine.available)
    limit, used = _cgroup_limit()
    if limit is not None and limit < total:
        return limit, max(0, min(available, limit - used))
    return total, available


def _cgroup_limit(root: Path = Path("/sys/fs/cgroup")) -> tuple[int | None, int]:
    """cgroup v2's own limit and use less page cache (kernel docs, cgroup-v2, memory.max)."""
    try:
        text = (root / "memory.max").read_text().strip()
        if text == "max":
            return None, 0
        used = int((root / "memory.current").read_text())
        for line in (root / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                used -= int(line.split()[1])
        return int(text), max(0, used)
    except (OSError, ValueError):
        return None, 0


def held_by(pids: Iterable[int]) -> int:
    """Bytes that these processes hold besides file pages: mapped weights count as available."""
    held = 0
    for pid in pids:
        try:
            memory = psutil.Process(pid).memory_info()
        except psutil.Error:
            continue
        held += max(0, int(memory.rss) - int(getattr(memory, "shared", 0)))
    return held


def reserve_bytes(total: int) -> int:
    """What is always left to the desktop: a tenth of memory, between 1 and 4 GiB."""
    return min(max(total // 10, GIB), 4 * GIB)


def automatic_budget(total: int, available: int, held_by_models: int) -> int:
    """What models may hold: memory less the reserve and less what all other programs hold."""
    others = max(0, total - available - held_by_models)
    return max(0, total - reserve_bytes(total) - others)
