"""The size budget of the frozen build: what is over and what nobody counted is told."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

PACKAGING = Path(__file__).parents[2] / "packaging"


@pytest.fixture(scope="module")
def size_budget() -> ModuleType:
    spec = importlib.util.spec_from_file_location("size_budget", PACKAGING / "size_budget.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_too_large_or_unknown_is_named(size_budget: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(3_000_000))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.so").write_bytes(b"x")
    components = {"A": {"mb": 2, "files": ["a"]}}
    lines, wrong = size_budget.judge(tmp_path, {"total_mb": 9, "components": components})
    assert lines[0].split() == ["A", "3.0", "of", "2.0", "MB"]
    assert wrong == ["A is over its limit", "b/c.so belongs to no component"]
    lines, wrong = size_budget.judge(tmp_path, {"total_mb": 2})
    assert wrong == ["all is over its limit"]


def test_every_system_that_is_built_for_has_a_budget(size_budget: ModuleType) -> None:
    budget = tomllib.loads(size_budget.BUDGET.read_text("utf-8"))
    assert {"linux", "darwin", "win32"} == set(budget)
    limits = [row["mb"] for row in budget["linux"]["components"].values()]
    assert sum(limits) >= budget["linux"]["total_mb"]
    assert sys.platform in budget
