"""The memories that models share, from what llama.cpp and the system's tools say of GPUs."""

from __future__ import annotations

import pytest

from tray_app.engine import pools
from tray_app.engine.runtime.values import Gpu, Hardware

GIB = 1 << 30
H100 = "CUDA0: NVIDIA H100 80GB HBM3 (81079 MiB, 80561 MiB free)"
ARC = "Vulkan0: Intel(R) Arc(tm) A770 Graphics (DG2) (16288 MiB, 15000 MiB free)"
UHD = "Vulkan1: Intel(R) UHD Graphics 770 (ADL-S GT1) (23000 MiB, 20000 MiB free)"
SOFTWARE = "Vulkan0: llvmpipe (LLVM 15.0.6, 256 bits) (24000 MiB, 24000 MiB free)"
METAL = "MTL0: Apple M2 Pro (21845 MiB, 21845 MiB free)"
MACHINE = Hardware(
    "linux",
    "x86_64",
    gpus=(Gpu("Arc A770 Graphics", "intel"), Gpu("UHD Graphics 770", "intel", integrated=True)),
)


def test_a_gpu_keeps_a_reserve_of_its_own_memory() -> None:
    assert pools.gpu_budgets([H100], None) == {"CUDA0": (81079 - 1024) << 20}
    small = "CUDA0: NVIDIA GeForce MX450 (2048 MiB, 1900 MiB free)"
    assert pools.gpu_budgets([small], None) == {"CUDA0": (2048 - 256) << 20}


@pytest.mark.parametrize("line", [SOFTWARE, METAL])
def test_what_shares_main_memory_has_no_pool_of_its_own(line: str) -> None:
    assert pools.gpu_budgets([line], None) == {}


def test_an_integrated_gpu_is_known_from_the_machine() -> None:
    assert list(pools.gpu_budgets([ARC, UHD], MACHINE)) == ["Vulkan0"]
    assert list(pools.gpu_budgets([ARC, UHD], None)) == ["Vulkan0", "Vulkan1"]


def test_lines_of_another_form_are_passed_over() -> None:
    assert pools.devices_in(["", "CUDA0", "CUDA0: x (1 GiB)", "Available devices:"]) == []


def test_a_models_amount_is_split_between_main_memory_and_gpus() -> None:
    assert pools.needs(10, {"CUDA0": 7}) == {pools.ALL: 10, pools.HOST: 3, "CUDA0": 7}
    assert pools.needs(10, {}) == {pools.ALL: 10, pools.HOST: 10}
    assert pools.needs(5, {"CUDA0": 7})[pools.HOST] == 0


def test_only_overdrawn_pools_are_missing() -> None:
    held = [{"Host": 3, "CUDA0": 9}, {"Host": 4}]
    assert pools.missing(held, {"Host": 8, "CUDA0": 5, "CUDA1": 1}) == {"CUDA0": 4}
    assert pools.missing(held, {}) == {}


def test_what_is_shown_is_the_users_bound_or_all_pools() -> None:
    assert pools.in_all({"Host": 8, "CUDA0": 5}) == 13
    assert pools.in_all({pools.ALL: 6, "CUDA0": 5}) == 6
