"""How much memory models may hold."""

from __future__ import annotations

import os
from pathlib import Path

from tray_app.engine import memory

GIB = memory.GIB


def test_the_budget_leaves_the_desktop_and_other_programs_theirs() -> None:
    # 16 GiB, 10 available, models hold 2: others hold 4, 1.6 stay free.
    budget = memory.automatic_budget(16 * GIB, 10 * GIB, 2 * GIB)
    assert budget == 16 * GIB - (16 * GIB // 10) - 4 * GIB
    assert memory.automatic_budget(16 * GIB, 10 * GIB, 2 * GIB) == budget


def test_what_models_hold_themselves_does_not_shrink_the_budget() -> None:
    empty = memory.automatic_budget(16 * GIB, 12 * GIB, 0)
    loaded = memory.automatic_budget(16 * GIB, 7 * GIB, 5 * GIB)
    assert empty == loaded


def test_the_budget_is_never_negative() -> None:
    assert memory.automatic_budget(2 * GIB, 0, 0) == 0
    assert memory.automatic_budget(16 * GIB, 20 * GIB, 0) <= 16 * GIB


def test_the_reserve_has_bounds() -> None:
    assert memory.reserve_bytes(4 * GIB) == GIB
    assert memory.reserve_bytes(20 * GIB) == 2 * GIB
    assert memory.reserve_bytes(512 * GIB) == 4 * GIB


def test_a_container_bounds_the_machine(tmp_path: Path) -> None:
    def write(limit: str) -> None:
        (tmp_path / "memory.max").write_text(limit + "\n")

    write(str(8 * GIB))
    (tmp_path / "memory.current").write_text(f"{3 * GIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {GIB}\n")
    assert memory._cgroup_limit(tmp_path) == (8 * GIB, 2 * GIB)
    write("max")
    assert memory._cgroup_limit(tmp_path) == (None, 0)
    write("nonsense")
    assert memory._cgroup_limit(tmp_path) == (None, 0)
    assert memory._cgroup_limit(tmp_path / "missing") == (None, 0)


def test_this_machine_has_memory_and_we_hold_some() -> None:
    total, available = memory.total_and_available()
    assert 0 <= available <= total
    assert memory.held_by([os.getpid()]) > 1_000_000
    assert memory.held_by([2**22 + 1]) == 0
