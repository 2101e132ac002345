"""The ladder: which backends a machine can use, in order, each with its one reason."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.fixtures.hardware.machine import FOLDER, machine, names
from tray_app.engine.hardware.reading import read_hardware
from tray_app.engine.runtime.ladder import best, ladder, promised
from tray_app.engine.runtime.values import Gpu, Hardware

RTX = Gpu("RTX", "nvidia", driver="550.1", compute_capability="8.9", integrated=False, vulkan=True)
RADEON = Gpu("Radeon", "amd", gfx_target="gfx1100", integrated=False, vulkan=True)
LINUX = Hardware("linux", "x86_64", vulkan="1.3.275")

# Of each recorded machine: the best backend, why the usable ones above the CPU are usable, why the
# others are not. Read by eye.
EXPECTED = json.loads((FOLDER / "ladders.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", names())
def test_a_recorded_machines_ladder_is_exact(name: str) -> None:
    rungs = ladder(read_hardware(machine(name)))
    assert EXPECTED[name] == {
        "best": best(rungs),
        "usable": {r.backend: r.reason for r in rungs if r.usable and r.backend != "cpu"},
        "unusable": {r.backend: r.reason for r in rungs if not r.usable},
    }


def test_every_recording_has_a_ladder() -> None:
    assert set(EXPECTED) == set(names())


@pytest.mark.parametrize("name", names())
def test_a_ladder_has_the_systems_backends_in_order_and_plain_reasons(name: str) -> None:
    hardware = read_hardware(machine(name))
    rungs = ladder(hardware)
    order = ("cuda", "rocm", "vulkan", "sycl", "opencl", "cpu")
    assert tuple(r.backend for r in rungs) == (("metal", "cpu") if name[:3] == "mac" else order)
    assert rungs[-1].usable
    for rung in rungs:
        assert rung.reason.endswith(".")
        assert "None" not in rung.reason
        # What a rung would use is what its runtime must list.
        told = tuple(gpu.name for gpu in promised(hardware, rung.backend))
        assert told == rung.gpus
        assert bool(told) == (rung.usable and rung.backend != "cpu")


def test_two_cards_of_one_kind_are_both_promised() -> None:
    hardware = read_hardware(machine("linux-mixed-rtx3090-rx6600-vfio"))
    assert [gpu.bus_id for gpu in promised(hardware, "cuda")] == ["0000:41:00.0", "0000:42:00.0"]


def test_a_processors_graphics_are_not_promised_beside_a_card() -> None:
    laptop = read_hardware(machine("linux-laptop-rtx3070-intel"))
    assert [g.vendor for g in promised(laptop, "vulkan")] == ["nvidia"]
    assert [g.vendor for g in promised(laptop, "sycl")] == ["intel"]
    two = read_hardware(machine("linux-rx7900xtx-raphael"))
    assert [g.gfx_target for g in promised(two, "rocm")] == ["gfx1100"]


def test_nothing_is_promised_of_what_is_not_there() -> None:
    mac = read_hardware(machine("mac-m1"))
    for backend in ("cpu", "cuda", "vulkan", "nonsense", ""):
        assert promised(mac, backend) == ()
    assert promised(replace(LINUX, gpus=(RTX,)), "metal") == ()


def reason(hardware: Hardware, backend: str) -> tuple[bool, str]:
    rung = next(rung for rung in ladder(hardware) if rung.backend == backend)
    return rung.usable, rung.reason


def test_cuda_needs_a_capability_that_llama_cpp_is_built_for() -> None:
    old = replace(RTX, name="GTX 680", compute_capability="3.0")
    told = reason(replace(LINUX, gpus=(old,), cuda="11.4"), "cuda")
    assert told == (False, "GTX 680 has compute capability 3.0; llama.cpp needs 5.0 or newer.")
    maxwell = replace(RTX, compute_capability="5.0")
    both = replace(LINUX, gpus=(maxwell, old), cuda="12.4")
    assert [gpu.name for gpu in promised(both, "cuda")] == ["RTX"]
    blackwell = replace(LINUX, gpus=(replace(RTX, compute_capability="12.0"),), cuda="13.0")
    assert reason(blackwell, "cuda")[0]


def test_cuda_without_a_known_version_is_still_usable() -> None:
    told = reason(replace(LINUX, gpus=(RTX,)), "cuda")
    assert told == (True, "RTX with driver 550.1 runs CUDA of an unknown version.")


def test_a_tegra_that_tells_no_driver_but_cuda_is_usable() -> None:
    orin = replace(RTX, name="Orin (nvgpu)", driver=None, integrated=True)
    told = reason(replace(LINUX, gpus=(orin,), cuda="12.2"), "cuda")
    assert told == (True, "Orin (nvgpu) runs CUDA up to 12.2.")


@pytest.mark.parametrize(
    ("changes", "usable", "words"),
    [
        ({"kfd": None}, False, "/dev/kfd is missing"),
        ({"kfd": False}, False, "join the group render"),
        ({"rocm": None}, False, "ROCm is not installed; Radeon could use it."),
        ({"gpus": (replace(RADEON, gfx_target=None),)}, False, "is not known"),
        ({"gpus": (replace(RADEON, gfx_target="gfx803"),)}, False, "ROCm for gfx803"),
        ({}, True, "Radeon (gfx1100) with ROCm 6.2.0."),
    ],
)
def test_rocm_says_which_of_its_needs_is_missing(
    changes: dict[str, object], usable: bool, words: str
) -> None:
    ready = replace(LINUX, gpus=(RADEON,), rocm="6.2.0", kfd=True)
    told = reason(replace(ready, **changes), "rocm")  # type: ignore[arg-type]
    assert told[0] is usable
    assert words in told[1]


def test_vulkan_needs_a_loader_of_1_2_and_a_driver() -> None:
    ready = replace(LINUX, gpus=(RTX,))
    assert reason(ready, "vulkan") == (True, "RTX with Vulkan 1.3.275.")
    assert reason(replace(ready, vulkan="1.1.70"), "vulkan") == (
        False,
        "The Vulkan loader is 1.1.70; llama.cpp needs 1.2 or newer.",
    )
    assert not reason(replace(ready, vulkan=None), "vulkan")[0]
    undriven = replace(ready, gpus=(replace(RTX, vulkan=False),))
    assert reason(undriven, "vulkan")[1] == (
        "No Vulkan driver shows RTX: install its Vulkan driver."
    )


def test_mixed_vendors_keep_the_order_of_backends() -> None:
    both = replace(LINUX, gpus=(RTX, RADEON), cuda="12.4", rocm="6.2.0", kfd=True)
    rungs = ladder(both)
    assert [rung.backend for rung in rungs if rung.usable] == ["cuda", "rocm", "vulkan", "cpu"]
    assert rungs[2].gpus == ("RTX", "Radeon")
    assert best(rungs) == "cuda"
    # Without NVIDIA's driver, the AMD card is next.
    driverless = replace(both, gpus=(replace(RTX, driver=None), RADEON), cuda=None)
    assert best(ladder(driverless)) == "rocm"


def test_a_machine_of_which_nothing_is_known_uses_the_cpu() -> None:
    assert best(ladder(Hardware("linux", "riscv64"))) == "cpu"
    assert best(ladder(Hardware("darwin", "x86_64"))) == "cpu"
    assert best(()) == "cpu"
