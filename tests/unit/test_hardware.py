"""Hardware: recorded machines read exactly; hostile tools give nothing, never an exception."""

from __future__ import annotations

import dataclasses
import os
import random
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.fixtures.hardware.machine import Machine, machine, names
from tray_app.engine.hardware import amd, nvidia, pci, vulkan, windows
from tray_app.engine.hardware.reading import change_mark, hardware_key, read_hardware
from tray_app.engine.hardware.seen import Seen, clean, memory, merge, number, pci_address
from tray_app.engine.hardware.system import OUTPUT_LIMIT_BYTES, System
from tray_app.engine.runtime.values import Gpu, Hardware

LLVMPIPE = Gpu("llvmpipe (LLVM 15.0.7, 256 bits)", "software", driver="Mesa 23.2.1 (LLVM 15.0.7)")
LLVMPIPE_HERE = Gpu(
    "llvmpipe (LLVM 15.0.6, 256 bits)", "software", driver="Mesa 22.3.6 (LLVM 15.0.6)"
)

# What stands in each recording, read by eye. What is not named is not known (None, False, ()).
EXPECTED: dict[str, dict[str, object]] = {
    "linux-arc-a770": {
        "arch": "x86_64",
        "cpu_name": "AMD Ryzen 5 5600X 6-Core Processor",
        "cpu_cores": 2,
        "cpu_threads": 4,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2",
        "memory_bytes": 33560518656,
        "vulkan": "1.3.275",
        "level_zero": True,
        "opencl": True,
        "gpus": (
            Gpu(
                "Intel(R) Arc(tm) A770 Graphics (DG2)",
                "intel",
                memory_bytes=17071865856,
                integrated=False,
                driver="Mesa 24.0.9",
                bus_id="0000:03:00.0",
                vulkan=True,
            ),
            LLVMPIPE,
        ),
    },
    "linux-arc-b580-xe": {
        "arch": "x86_64",
        "cpu_name": "Intel(R) Core(TM) i5-14600K",
        "cpu_cores": 2,
        "cpu_threads": 4,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2 avx_vnni",
        "memory_bytes": 33560518656,
        "vulkan": "1",
        "level_zero": True,
        "gpus": (
            Gpu(
                "Intel GPU (8086:e20b)",
                "intel",
                memory_bytes=12884901888,
                integrated=False,
                bus_id="0000:03:00.0",
                vulkan=False,
            ),
            Gpu(
                "Intel GPU (8086:a780)",
                "intel",
                integrated=True,
                bus_id="0000:00:02.0",
                vulkan=False,
            ),
        ),
    },
    "linux-dgx-spark": {
        "arch": "arm64",
        "cpu_cores": 4,
        "cpu_threads": 4,
        "cpu_features": "dotprod fp16_vector_arithmetic sve matmul_int8 sve2",
        "memory_bytes": 130663165952,
        "cuda": "13.3",
        "vulkan": "1.4.341",
        "gpus": (
            Gpu(
                "NVIDIA GB10",
                "nvidia",
                memory_bytes=130663165952,
                integrated=True,
                driver="610.57.04",
                compute_capability="12.1",
                bus_id="000f:01:00.0",
                vulkan=True,
            ),
        ),
    },
    "linux-jetson-orin": {
        "arch": "arm64",
        "cpu_cores": 4,
        "cpu_threads": 4,
        "cpu_features": "dotprod fp16_vector_arithmetic",
        "memory_bytes": 7989600256,
        "cuda": "12.6",
        "vulkan": "1.3.204",
        "gpus": (
            Gpu(
                "Orin (nvgpu)",
                "nvidia",
                memory_bytes=7989600256,
                integrated=True,
                driver="540.4.0",
                compute_capability="8.7",
                vulkan=True,
            ),
        ),
    },
    "linux-jetson-xavier": {
        "arch": "arm64",
        "cpu_cores": 4,
        "cpu_threads": 4,
        "cpu_features": "fp16_vector_arithmetic",
        "memory_bytes": 32687521792,
        "gpus": (
            Gpu(
                "Jetson AGX Xavier",
                "nvidia",
                memory_bytes=32687521792,
                integrated=True,
                driver="L4T 35.4.1",
            ),
        ),
    },
    "linux-laptop-rtx3070-intel": {
        "arch": "x86_64",
        "cpu_name": "12th Gen Intel(R) Core(TM) i7-12700H",
        "cpu_cores": 2,
        "cpu_threads": 4,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2 avx_vnni",
        "memory_bytes": 33399406592,
        "cuda": "12.0",
        "vulkan": "1.3.275",
        "level_zero": True,
        "gpus": (
            Gpu(
                "NVIDIA GeForce RTX 3070 Laptop GPU",
                "nvidia",
                memory_bytes=8589934592,
                integrated=False,
                driver="525.60.11",
                compute_capability="8.6",
                bus_id="0000:01:00.0",
                vulkan=True,
            ),
            Gpu(
                "Intel(R) Iris(R) Xe Graphics (ADL GT2)",
                "intel",
                memory_bytes=25049554944,
                integrated=True,
                driver="Mesa 23.2.1",
                bus_id="0000:00:02.0",
                vulkan=True,
            ),
            LLVMPIPE,
        ),
    },
    "linux-llvmpipe-vm": {
        "arch": "x86_64",
        "cpu_name": "AMD EPYC",
        "cpu_cores": 2,
        "cpu_threads": 2,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2 avx_vnni avx512"
        " avx512_vbmi avx512_vnni avx512_bf16",
        "memory_bytes": 25276518400,
        "vulkan": "1.3.239",
        "gpus": (LLVMPIPE_HERE,),
    },
    "linux-mixed-rtx3090-rx6600-vfio": {
        "arch": "x86_64",
        "cpu_name": "AMD EPYC 7302 16-Core Processor",
        "cpu_cores": 2,
        "cpu_threads": 4,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2",
        "memory_bytes": 270151680000,
        "cuda": "12.8",
        "vulkan": "1",
        "problems": ("AMD GPU (1002:73ff) is given to a virtual machine (vfio-pci).",),
        "gpus": (
            Gpu(
                "NVIDIA GeForce RTX 3090",
                "nvidia",
                memory_bytes=25769803776,
                integrated=False,
                driver="570.133.07",
                compute_capability="8.6",
                bus_id="0000:41:00.0",
            ),
            Gpu(
                "NVIDIA GeForce RTX 3090",
                "nvidia",
                memory_bytes=25769803776,
                integrated=False,
                driver="570.133.07",
                compute_capability="8.6",
                bus_id="0000:42:00.0",
            ),
        ),
    },
    "linux-rtx2060-driver-broken": {
        "arch": "x86_64",
        "cpu_name": "Intel(R) Core(TM) i5-9600K CPU @ 3.70GHz",
        "cpu_cores": 2,
        "cpu_threads": 4,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2",
        "memory_bytes": 16692441088,
        "vulkan": "1.3.275",
        "problems": (
            "nvidia-smi shows no GPU: NVIDIA-SMI has failed because it couldn't communicate"
            " with the NVIDIA driver.",
            "NVIDIA GPU (10de:1f08): driver not loaded.",
        ),
        "gpus": (
            Gpu(
                "NVIDIA GPU (10de:1f08)",
                "nvidia",
                integrated=False,
                bus_id="0000:01:00.0",
                vulkan=False,
            ),
            Gpu(
                "Intel(R) UHD Graphics 630 (CFL GT2)",
                "intel",
                memory_bytes=12519038976,
                integrated=True,
                driver="Mesa 22.3.6",
                bus_id="0000:00:02.0",
                vulkan=True,
            ),
            LLVMPIPE,
        ),
    },
    "linux-rtx3060-nouveau": {
        "arch": "x86_64",
        "cpu_name": "AMD Ryzen 5 5600X 6-Core Processor",
        "cpu_cores": 2,
        "cpu_threads": 4,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2",
        "memory_bytes": 16692441088,
        "vulkan": "1.3.275",
        "problems": ("NVIDIA GeForce RTX 3060: driver not loaded (nouveau runs it).",),
        "gpus": (
            Gpu(
                "NVIDIA GeForce RTX 3060",
                "nvidia",
                integrated=False,
                bus_id="0000:0a:00.0",
                vulkan=False,
            ),
            LLVMPIPE,
        ),
    },
    "linux-rtx4090": {
        "arch": "x86_64",
        "cpu_name": "AMD Ryzen 9 7950X 16-Core Processor",
        "cpu_cores": 2,
        "cpu_threads": 4,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2 avx512 avx512_vbmi avx512_vnni avx512_bf16",
        "memory_bytes": 67181809664,
        "cuda": "12.4",
        "vulkan": "1.3.275",
        "gpus": (
            Gpu(
                "NVIDIA GeForce RTX 4090",
                "nvidia",
                memory_bytes=25757220864,
                integrated=False,
                driver="550.54.14",
                compute_capability="8.9",
                bus_id="0000:01:00.0",
                vulkan=True,
            ),
            LLVMPIPE,
        ),
    },
    "linux-rx7900xtx-raphael": {
        "arch": "x86_64",
        "cpu_name": "AMD Ryzen 9 7950X 16-Core Processor",
        "cpu_cores": 2,
        "cpu_threads": 4,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2 avx512 avx512_vnni",
        "memory_bytes": 67181809664,
        "rocm": "6.2.0",
        "vulkan": "1.3.275",
        "kfd": True,
        "gpus": (
            Gpu(
                "AMD Radeon RX 7900 XTX",
                "amd",
                memory_bytes=25753026560,
                integrated=False,
                driver="Mesa 24.2.4",
                gfx_target="gfx1100",
                bus_id="0000:03:00.0",
                vulkan=True,
            ),
            Gpu(
                "AMD Radeon Graphics",
                "amd",
                memory_bytes=34127773696,
                integrated=True,
                driver="Mesa 24.2.4",
                gfx_target="gfx1036",
                bus_id="0000:19:00.0",
                vulkan=True,
            ),
            LLVMPIPE,
        ),
    },
    "linux-ryzen-5600g": {
        "arch": "x86_64",
        "cpu_name": "AMD Ryzen 5 5600G with Radeon Graphics",
        "cpu_cores": 2,
        "cpu_threads": 4,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2",
        "memory_bytes": 16079667200,
        "vulkan": "1.3.239",
        "kfd": True,
        "gpus": (
            Gpu(
                "AMD Radeon Graphics",
                "amd",
                memory_bytes=8576704512,
                integrated=True,
                gfx_target="gfx90c",
                bus_id="0000:06:00.0",
            ),
        ),
    },
    "linux-steam-deck": {
        "arch": "x86_64",
        "cpu_name": "AMD Custom APU 0405",
        "cpu_cores": 2,
        "cpu_threads": 4,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2",
        "memory_bytes": 15481438208,
        "vulkan": "1.3.287",
        "kfd": True,
        "gpus": (
            Gpu(
                "AMD Custom GPU 0405",
                "amd",
                memory_bytes=9663676416,
                integrated=True,
                driver="Mesa 24.2.4",
                gfx_target="gfx1033",
                bus_id="0000:04:00.0",
                vulkan=True,
            ),
            LLVMPIPE,
        ),
    },
    "linux-strix-halo": {
        "arch": "x86_64",
        "cpu_name": "AMD RYZEN AI MAX+ 395 w/ Radeon 8060S",
        "cpu_cores": 2,
        "cpu_threads": 4,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2 avx_vnni avx512"
        " avx512_vbmi avx512_vnni avx512_bf16",
        "memory_bytes": 134217728000,
        "vulkan": "1.4.309",
        "kfd": False,
        "gpus": (
            Gpu(
                "AMD Radeon Graphics",
                "amd",
                memory_bytes=129385889792,
                integrated=True,
                driver="Mesa 25.0.7",
                gfx_target="gfx1151",
                bus_id="0000:c5:00.0",
                vulkan=True,
            ),
            LLVMPIPE,
        ),
    },
    "linux-tesla-k80": {
        "arch": "x86_64",
        "cpu_name": "Intel(R) Xeon(R) CPU E5-2680 v3 @ 2.50GHz",
        "cpu_cores": 2,
        "cpu_threads": 4,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2",
        "memory_bytes": 135080169472,
        "cuda": "11.4",
        "gpus": (
            Gpu(
                "Tesla K80",
                "nvidia",
                memory_bytes=11996758016,
                integrated=False,
                driver="470.161.03",
                bus_id="0000:84:00.0",
            ),
            Gpu(
                "Tesla K80",
                "nvidia",
                memory_bytes=11996758016,
                integrated=False,
                driver="470.161.03",
                bus_id="0000:85:00.0",
            ),
        ),
    },
    "linux-wsl-rtx3060": {
        "arch": "x86_64",
        "cpu_name": "Intel(R) Core(TM) i7-11800H @ 2.30GHz",
        "cpu_cores": 2,
        "cpu_threads": 4,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2 avx512 avx512_vbmi avx512_vnni",
        "memory_bytes": 16655998976,
        "cuda": "12.3",
        "vulkan": "1.3.275",
        "gpus": (
            Gpu(
                "NVIDIA GeForce RTX 3060 Laptop GPU",
                "nvidia",
                memory_bytes=6442450944,
                integrated=False,
                driver="546.80",
                compute_capability="8.6",
                bus_id="0000:01:00.0",
                vulkan=True,
            ),
            Gpu(
                "Intel(R) UHD Graphics",
                "intel",
                memory_bytes=8327999488,
                integrated=True,
                vulkan=True,
            ),
            LLVMPIPE,
        ),
    },
    "mac-intel-2019": {
        "arch": "x86_64",
        "cpu_name": "Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz",
        "cpu_cores": 6,
        "cpu_threads": 12,
        "cpu_features": "sse42 avx f16c fma avx2 bmi2",
        "memory_bytes": 17179869184,
        "gpus": (
            Gpu("AMD Radeon Pro 5300M", "amd", memory_bytes=4294967296, integrated=False),
            Gpu("Intel UHD Graphics 630", "intel", memory_bytes=1610612736, integrated=True),
        ),
    },
    "mac-m1": {
        "arch": "arm64",
        "cpu_name": "Apple M1",
        "cpu_cores": 8,
        "cpu_threads": 8,
        "cpu_features": "dotprod fp16_vector_arithmetic",
        "memory_bytes": 8589934592,
        "gpus": (Gpu("Apple M1", "apple", integrated=True),),
    },
    "mac-m3-pro-translated": {
        "arch": "arm64",
        "cpu_name": "Apple M3 Pro",
        "cpu_cores": 12,
        "cpu_threads": 12,
        "cpu_features": "dotprod fp16_vector_arithmetic matmul_int8",
        "memory_bytes": 38654705664,
        "gpus": (Gpu("Apple M3 Pro", "apple", memory_bytes=34359738368, integrated=True),),
    },
    "windows-arc-b580": {
        "arch": "x86_64",
        "cpu_name": "AMD Ryzen 5 5600X 6-Core Processor",
        "cpu_cores": 6,
        "cpu_threads": 12,
        "cpu_features": "sse42 avx avx2",
        "memory_bytes": 34213609472,
        "vulkan": "1.4.309",
        "level_zero": True,
        "opencl": True,
        "gpus": (
            Gpu(
                "Intel(R) Arc(TM) B580 Graphics",
                "intel",
                memory_bytes=12884901888,
                integrated=False,
                driver="32.0.101.6739",
                vulkan=True,
            ),
        ),
    },
    "windows-gtx1650-basic-driver": {
        "arch": "x86_64",
        "cpu_name": "Intel(R) Core(TM) i5-10400F CPU @ 2.90GHz",
        "cpu_cores": 6,
        "cpu_threads": 12,
        "cpu_features": "sse42 avx avx2",
        "memory_bytes": 17103462400,
        "problems": ("NVIDIA GPU (10de:1f82): driver not loaded.",),
        "gpus": (Gpu("NVIDIA GPU (10de:1f82)", "nvidia", integrated=False),),
    },
    "windows-rtx4060-laptop-intel": {
        "arch": "x86_64",
        "cpu_name": "13th Gen Intel(R) Core(TM) i7-13700H",
        "cpu_cores": 14,
        "cpu_threads": 20,
        "cpu_features": "sse42 avx avx2",
        "memory_bytes": 16849174528,
        "cuda": "12.4",
        "vulkan": "1.3.283",
        "gpus": (
            Gpu(
                "NVIDIA GeForce RTX 4060 Laptop GPU",
                "nvidia",
                memory_bytes=8585740288,
                integrated=False,
                driver="551.86",
                compute_capability="8.9",
                bus_id="0000:01:00.0",
                vulkan=True,
            ),
            Gpu(
                "Intel(R) UHD Graphics",
                "intel",
                memory_bytes=8424587264,
                integrated=True,
                driver="31.0.101.4502",
                vulkan=True,
            ),
        ),
    },
    "windows-rx7800xt-raphael": {
        "arch": "x86_64",
        "cpu_name": "AMD Ryzen 7 7800X3D 8-Core Processor",
        "cpu_cores": 8,
        "cpu_threads": 16,
        "cpu_features": "sse42 avx avx2 avx512",
        "memory_bytes": 33442197504,
        "rocm": "6",
        "vulkan": "1.3.283.0",
        "opencl": True,
        "gpus": (
            Gpu(
                "AMD Radeon RX 7800 XT",
                "amd",
                memory_bytes=17179869184,
                integrated=False,
                driver="32.0.12019.1028",
                gfx_target="gfx1101",
            ),
            Gpu("AMD Radeon(TM) Graphics", "amd", integrated=True, driver="32.0.12019.1028"),
        ),
    },
    "windows-snapdragon-x": {
        "arch": "arm64",
        "cpu_name": "Snapdragon(R) X Elite - X1E84100 - Qualcomm(R) Oryon(TM) CPU",
        "cpu_cores": 12,
        "cpu_threads": 12,
        "cpu_features": "dotprod",
        "memory_bytes": 16749174784,
        "vulkan": "1.3.275.0",
        "opencl": True,
        "gpus": (
            Gpu(
                "Snapdragon(R) X Elite - X1E84100 - Qualcomm(R) Adreno(TM) GPU",
                "qualcomm",
                integrated=True,
                driver="31.0.68.0",
            ),
        ),
    },
}


@pytest.mark.parametrize("name", names())
def test_a_recorded_machine_is_read_exactly(name: str) -> None:
    expected = dict(EXPECTED[name])
    features = str(expected.pop("cpu_features"))
    system = name.partition("-")[0].replace("mac", "darwin")
    if system != "darwin":
        expected = {"level_zero": False, "opencl": False, **expected}
    before = time.time()
    hardware = read_hardware(machine(name))
    assert before <= hardware.read_at <= time.time()
    assert dataclasses.replace(hardware, read_at=0.0) == Hardware(
        system=system,
        cpu_features=tuple(features.split()),
        **expected,  # type: ignore[arg-type]
    )


def test_every_recording_has_expectations_and_says_where_its_format_is_known_from() -> None:
    assert set(EXPECTED) == set(names())
    folder = Path(__file__).parents[1] / "fixtures" / "hardware"
    for name in names():
        first = (folder / f"{name}.txt").read_text().splitlines()[0]
        assert "not read by us" in first or "Recorded by us" in first, name


def test_a_gpu_that_several_tools_show_is_one_gpu() -> None:
    hardware = read_hardware(machine("linux-rx7900xtx-raphael"))
    # Bus, KFD, RADV and AMDVLK all show the card.
    assert [gpu.name for gpu in hardware.gpus].count("AMD Radeon RX 7900 XTX") == 1


def test_two_equal_cards_stay_two() -> None:
    card = Gpu("NVIDIA GeForce RTX 3090", "nvidia")
    told = (Seen(card), Seen(card))
    bus = tuple(
        Seen(Gpu("", "nvidia", bus_id=f"0000:{bus}:00.0"), device_id=0x2204) for bus in (41, 42)
    )
    vulkan = tuple(Seen(dataclasses.replace(card, vulkan=True), device_id=0x2204) for _ in range(2))
    merged = merge(merge(bus, vulkan), told)
    assert [(seen.gpu.name, seen.gpu.bus_id, seen.gpu.vulkan) for seen in merged] == [
        (card.name, "0000:41:00.0", True),
        (card.name, "0000:42:00.0", True),
    ]


def test_gpus_of_other_addresses_or_device_ids_are_never_one() -> None:
    one = Seen(Gpu("Card", "amd", bus_id="0000:01:00.0"), device_id=1)
    other = Seen(Gpu("Card", "amd", bus_id="0000:02:00.0"), device_id=1)
    third = Seen(Gpu("Card", "amd"), device_id=2)
    assert len(merge([one], [third])) == 2
    assert [seen.gpu.bus_id for seen in merge([other], [one])] == ["0000:02:00.0"]


def test_a_name_with_commas_is_read_whole() -> None:
    rtx = machine(
        "linux-rtx4090", {"RTX 4090, 8.9": "RTX 4090, D, 24 GB, 8.9", "GeForce RTX 4090\n": "X\n"}
    )
    found = nvidia.read_nvidia(rtx).gpus[0].gpu
    assert found.name == "NVIDIA GeForce RTX 4090, D, 24 GB"
    assert (found.compute_capability, found.bus_id) == ("8.9", "0000:01:00.0")


@pytest.mark.parametrize(
    "word", ["[N/A]", "N/A", "[Not Supported]", "[Unknown Error]", "-3", "9e9"]
)
def test_a_value_that_nvidia_smi_does_not_have_is_none(word: str) -> None:
    replaced = {"8.9, 550.54.14, 24564, 00000000:01:00.0": f"{word}, {word}, {word}, {word}"}
    found = nvidia.read_nvidia(machine("linux-rtx4090", replaced))
    gpu = found.gpus[0].gpu
    assert gpu.name == "NVIDIA GeForce RTX 4090"
    assert (gpu.compute_capability, gpu.driver, gpu.memory_bytes, gpu.bus_id) == (None,) * 4
    assert found.version == "12.4"


def test_a_tool_that_hangs_is_named_and_the_rest_is_read() -> None:
    hung = machine("linux-rtx4090", {"## run nvidia-smi --query": "## hang nvidia-smi --query"})
    hardware = read_hardware(hung)
    assert hardware.problems == ("nvidia-smi did not answer within 10 s.",)
    # The kernel module still tells its version, the bus and Vulkan the rest.
    gpu = hardware.gpus[0]
    assert (gpu.name, gpu.driver, gpu.bus_id) == (
        "NVIDIA GeForce RTX 4090",
        "550.54.14",
        "0000:01:00.0",
    )
    assert hardware.cuda == "12.4"  # by NVIDIA's table
    assert gpu.compute_capability is None


def test_vulkaninfo_that_hangs_is_named() -> None:
    text = "## run vulkaninfo --summary"
    hung = machine("linux-steam-deck", {text: "## hang vulkaninfo --summary"})
    hardware = read_hardware(hung)
    assert hardware.problems == ("vulkaninfo did not answer within 10 s.",)
    assert hardware.gpus[0].vulkan is None


def test_a_driver_in_a_container_without_its_device_files_is_not_usable() -> None:
    text = "\n## path /dev/nvidiactl"
    container = machine("linux-rtx4090", {text: "", "## run nvidia-smi": "## file /unused"})
    hardware = read_hardware(container)
    assert hardware.cuda is None
    assert hardware.problems == ("NVIDIA GeForce RTX 4090: driver not loaded.",)


def test_what_powershell_does_not_tell_is_a_problem_not_a_value() -> None:
    for output in ("", "\ufeff", "null", "[]", "{", "[" * 100_000, '{"gpus": 3, "cpu": "x"}'):
        hardware = read_hardware(Machine(f"\n## platform windows\n## run powershell\n{output}"))
        assert hardware.gpus == ()
        assert (hardware.cpu_name, hardware.memory_bytes) == (None, None)
    silent = read_hardware(Machine("\n## platform windows"))
    assert silent.problems == ("PowerShell did not tell the display adapters.",)


def test_adapter_ram_at_its_cap_is_no_memory_size() -> None:
    replaced = {'"HardwareInformation.qwMemorySize":12884901888': '"x":1'}
    system = machine("windows-arc-b580", replaced)
    found = windows.windows_gpus(windows.read_windows(system))
    assert found.gpus[0].gpu.memory_bytes is None


def test_a_missing_json_is_no_gpu_of_an_intel_mac_but_one_of_apple_silicon() -> None:
    replaced = {'"SPDisplaysDataType" :': '"Other" :'}
    assert read_hardware(machine("mac-intel-2019", replaced)).gpus == ()
    apple = read_hardware(machine("mac-m1", replaced))
    assert apple.gpus == (Gpu("Apple M1", "apple", integrated=True),)
    assert apple.problems == ("system_profiler shows no GPU.",)


def hostile_outputs() -> list[str]:
    noise = random.Random(7)
    binary = bytes(noise.randrange(256) for _ in range(4000)).decode("utf-8", errors="replace")
    columns = f"\0\x1b[31m, 9.9, {'9' * 400}, {'9' * 30}, -1"
    number_rows = "\n".join(f"{n}, GPU-0, {columns}" for n in range(300))
    return [
        "",
        "\0" * 1000,
        binary,
        "9" * 1_000_000,
        "GPU0:\n" * 100_000,
        "GPU0:\n\tdeviceName = \ufffd\ufffd\n\tvendorID = 0x" + "f" * 500,
        "GPU0:\n\tdeviceName = x\n\tvendorID = -1\n\tapiVersion = " + "1." * 9000,
        number_rows,
        "a,b,c,d,e,f,g,h,i\n" * 1000,
        "{" * 50_000,
        '{"SPDisplaysDataType": [[], 3, {"sppci_model": 5, "spdisplays_vram": "99999999 GB"}]}',
        "hw.memsize: -5\nhw.physicalcpu: 1e9\nmachdep.cpu.brand_string: \x07\x07",
        "MemTotal: 99999999999999999999999 kB\nprocessor\t: 0\nmodel name\t: \ufffd",
        "DRIVER=\0\nPCI_CLASS=30000\nPCI_ID=10DE:2684\nPCI_SLOT_NAME=../../../etc",
        "simd_count 1\ngfx_target_version 99999999999\nlocation_id -4\nvendor_id 4098",
    ]


class Hostile(Machine):
    """Every tool is there, and every tool and file says the same nonsense."""

    def __init__(self, platform: str, said: str) -> None:
        super().__init__("")
        self.platform, self.said = platform, said

    def find(self, program: str) -> str | None:
        return f"/usr/bin/{program}"

    def run(self, argv: object, timeout_s: float) -> str | None:
        return self.said[:OUTPUT_LIMIT_BYTES]

    def read(self, path: str) -> str | None:
        return self.said

    def glob(self, pattern: str) -> list[str]:
        return [pattern.replace("*", str(n)) for n in range(3)]

    def library(self, name: str) -> bool:
        return True


@pytest.mark.parametrize("platform", ["linux", "windows", "darwin"])
@pytest.mark.parametrize("at", range(len(hostile_outputs())))
def test_hostile_output_gives_no_values_and_no_exception(platform: str, at: int) -> None:
    system = Hostile(platform, hostile_outputs()[at])
    hardware = read_hardware(system)
    assert hardware.memory_bytes is None
    assert hardware.cuda is None
    for gpu in hardware.gpus:
        assert gpu.memory_bytes is None or gpu.memory_bytes < 1 << 47
        assert gpu.name.isprintable()
        assert len(gpu.name) <= 120
    assert all(problem.isprintable() for problem in hardware.problems)
    assert len(change_mark(system)) == len(hardware_key(hardware)) == 16


@pytest.mark.parametrize(
    ("code", "target"),
    [
        (110000, "gfx1100"),
        (110501, "gfx1151"),
        (90012, "gfx90c"),
        (90010, "gfx90a"),
        (90402, "gfx942"),
        (100306, "gfx1036"),
        (80003, "gfx803"),
        (120001, "gfx1201"),
        (0, None),
        (1, None),
        (991616, None),
        (None, None),
    ],
)
def test_a_kfd_version_becomes_llvms_name(code: int | None, target: str | None) -> None:
    assert amd.gfx_target(code) == target


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("AMD Radeon RX 7900 XTX", "gfx1100"),
        ("AMD Radeon RX 7700 XT", "gfx1101"),
        ("AMD Radeon RX 7600", "gfx1102"),
        ("AMD Radeon RX 6800S", "gfx1032"),
        ("AMD Radeon RX 6800M", "gfx1031"),
        ("AMD Radeon RX 6950 XT", "gfx1030"),
        ("AMD Radeon(TM) 8060S Graphics", "gfx1151"),
        ("AMD Radeon(TM) 780M", "gfx1103"),
        ("AMD Radeon(TM) 890M Graphics", "gfx1150"),
        ("AMD Radeon RX 9070 XT", "gfx1201"),
        ("AMD Radeon RX 480", None),
        ("AMD Radeon(TM) Graphics", None),
        ("AMD Radeon HD 7600M", None),
    ],
)
def test_a_products_name_tells_its_target_where_it_is_known(name: str, target: str | None) -> None:
    assert amd.target_of_name(name) == target


def test_the_cuda_of_a_driver_is_that_of_its_branch() -> None:
    drivers = ("551.86", "470.161.03", "535.129.03", "999.1", "390.77", None, "garbage")
    told = [nvidia.cuda_of(driver) for driver in drivers]
    assert told == ["12.4", "11.4", "12.2", "13.4", None, None, None]


def test_windows_driver_numbers_become_nvidias() -> None:
    assert windows.nvidia_version("31.0.15.5186") == "551.86"
    assert windows.nvidia_version("32.0.15.8115") == "581.15"
    assert windows.nvidia_version("1.2") is None
    assert windows.nvidia_version(None) is None


def test_names_of_the_bus_come_from_pci_ids() -> None:
    system = machine("linux-rtx3060-nouveau")
    assert pci.pci_name(system, "nvidia", 0x2684) == "NVIDIA GeForce RTX 4090"
    assert pci.pci_name(system, "intel", 0x46A6) == "Intel Iris Xe Graphics"
    # The same number of another vendor, and one that the file does not have.
    assert pci.pci_name(system, "amd", 0x2684) == "AMD GPU (1002:2684)"
    assert pci.pci_name(system, "unknown", 1) == "Unknown GPU"


def test_untrusted_words_are_read_strictly() -> None:
    assert clean(" A\tB\n\x1b[31m ") == "A B [31m"
    assert [clean(text) for text in ("", "  ", "--", "a\ufffd", None, 5)] == [None] * 6
    assert len(clean("x" * 10_000) or "") == 120
    assert [number(text, 0, 99) for text in ("7", " 7 ", "0x10", 7)] == [7, 7, 16, 7]
    bad = ("-7", "7.0", "1e1", "100", "٣", "", None, True, 7.0, [7], "0x" + "f" * 90)
    assert [number(text, 0, 99) for text in bad] == [None] * len(bad)
    assert memory("24564", 1 << 20) == 24564 << 20
    assert [memory(text) for text in ("0", "12", str(1 << 60))] == [None] * 3
    assert pci_address("00000000:41:00.0") == pci_address("0000:41:00.0") == "0000:41:00.0"
    assert pci_address("0000000F:01:00.0") == "000f:01:00.0"
    assert [pci_address(text) for text in ("", "1:2", "[N/A]", "0000:00:00.0", None)] == [None] * 5


def test_memory_heaps_are_read_from_plain_vulkaninfo() -> None:
    heaps = vulkan.read_heaps(machine("linux-laptop-rtx3070-intel"))
    assert heaps == {
        "iris xe graphics": 25049554944,
        "geforce rtx 3070 laptop gpu": 8589934592,  # not its 214 MiB window, not main memory
    }


@pytest.mark.parametrize(
    "change",
    [
        {"550.54.14  Thu": "570.86.10  Fri"},
        {"6.8.0-45-generic": "6.8.0-47-generic"},
        {"## path /dev/nvidiactl": "## path /dev/kfd"},
        {"## path /dev/nvidiactl": "## path /dev/dxg"},
        {"## path /dev/nvidiactl": "## file /usr/share/vulkan/icd.d/radeon_icd.json\n{}"},
        {"## path /dev/nvidiactl": "## file /sys/class/drm/renderD128/device/uevent\nPCI_ID=1"},
    ],
)
def test_the_mark_differs_when_a_driver_or_gpu_changed(change: dict[str, str]) -> None:
    before = change_mark(machine("linux-rtx4090"))
    assert change_mark(machine("linux-rtx4090")) == before
    assert change_mark(machine("linux-rtx4090", change)) != before


def test_the_mark_asks_no_tool() -> None:
    for name in names():
        system = machine(name)
        change_mark(system)
        assert system.asked == []


def test_the_key_holds_what_changes_a_runtimes_behaviour_and_nothing_else() -> None:
    hardware = read_hardware(machine("linux-rtx4090"))
    key = hardware_key(hardware)
    card = hardware.gpus[0]
    same = [
        {"read_at": 1.0},
        {"problems": ("x",)},
        {"memory_bytes": 1 << 40},
        {"cpu_name": "Other"},
    ]
    for change in same:
        assert hardware_key(dataclasses.replace(hardware, **change)) == key  # type: ignore[arg-type]
    other = [
        {"gpus": ()},
        {"gpus": (dataclasses.replace(card, driver="1.0"),)},
        {"gpus": (dataclasses.replace(card, memory_bytes=1 << 33),)},
        {"cuda": "12.8"},
        {"vulkan": None},
        {"rocm": "6.2"},
        {"cpu_features": ()},
    ]
    keys = {hardware_key(dataclasses.replace(hardware, **change)) for change in other}  # type: ignore[arg-type]
    assert len(keys) == len(other)
    assert key not in keys


def alive(pid: int) -> bool:
    """Whether it runs; a dead one that its parent has not taken note of is dead."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def script(folder: Path, text: str) -> str:
    path = folder / "tool"
    path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def here(tmp_path: Path) -> System:
    """The real System with a folder of our own tools on its PATH."""

    class Here(System):
        def find(self, program: str) -> str | None:
            path = tmp_path / program
            return str(path) if path.exists() else None

    return Here()


@pytest.mark.skipif(os.name != "posix", reason="the tool is a script")
def test_a_tools_output_is_taken_whatever_its_exit_status(here: System, tmp_path: Path) -> None:
    script(tmp_path, "print('Füße', sys.argv[1:], os.environ['LC_ALL']); sys.exit(9)")
    assert here.run(("tool", "a b", "$HOME"), 10.0) == "Füße ['a b', '$HOME'] C\n"
    assert here.run(("missing",), 10.0) is None


@pytest.mark.skipif(os.name != "posix", reason="the tool is a script")
def test_output_that_is_no_text_or_too_much_is_bounded(here: System, tmp_path: Path) -> None:
    script(tmp_path, "os.write(1, b'\\xff\\xfe ok')")
    assert here.run(("tool",), 10.0) == "\ufffd\ufffd ok"
    script(tmp_path, "while True: os.write(1, b'x' * 65536)")
    assert here.run(("tool",), 10.0) == "x" * OUTPUT_LIMIT_BYTES


@pytest.mark.skipif(os.name != "posix", reason="the tool is a script")
def test_a_tool_that_hangs_is_ended_with_its_children(here: System, tmp_path: Path) -> None:
    # The child keeps the pipe open after the tool itself is gone.
    script(
        tmp_path,
        "which = 1 if os.fork() else 2\n"
        "open(sys.argv[which], 'w').write(str(os.getpid()))\n"
        "time.sleep(600)",
    )
    pids = (tmp_path / "one", tmp_path / "two")
    began = time.monotonic()
    assert here.run(("tool", *map(str, pids)), 0.5) is None
    assert time.monotonic() - began < 5.0
    for file in pids:
        pid = int(file.read_text())
        while alive(pid) and time.monotonic() - began < 10.0:
            os.sched_yield()
        assert not alive(pid)
    assert not [t for t in threading.enumerate() if t.name == "hardware-tool"]


def test_a_library_is_found_without_loading_it(tmp_path: Path) -> None:
    (tmp_path / "libours.so.1").write_bytes(b"not a library")
    system = System(environ={"LD_LIBRARY_PATH": str(tmp_path), "PATH": str(tmp_path)})
    assert system.library("libours.so.1") is (system.platform == "linux")
    assert system.library("libno-such-thing.so.9") is False
    if sys.platform == "linux":
        assert System().library("libc.so.6")
        assert not System().library("bc.so.6")  # a part of a name is not a name


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    system = System()
    assert system.read(str(tmp_path)) is None
    assert system.read(str(tmp_path / "missing")) is None
    assert system.read("\0") is None
    assert system.stamp(str(tmp_path / "missing")) is None
    assert system.glob(str(tmp_path / "*")) == []
    (tmp_path / "large").write_bytes(b"a" * (5 << 20))
    assert len(system.read(str(tmp_path / "large")) or "") == 4 << 20
