"""This very machine, with its real tools: the reading agrees with what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import psutil
import pytest

from tray_app.engine import network
from tray_app.engine.hardware.reading import change_mark, hardware_key, read_hardware
from tray_app.engine.runtime.ladder import best, ladder, promised

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's files")
vulkan = pytest.mark.skipif(shutil.which("vulkaninfo") is None, reason="vulkaninfo is not here")


def test_processor_and_memory_are_those_that_psutil_sees() -> None:
    hardware = read_hardware()
    assert hardware.cpu_threads == psutil.cpu_count()
    assert hardware.cpu_cores == psutil.cpu_count(logical=False)
    assert hardware.memory_bytes == psutil.virtual_memory().total


@linux
@vulkan
def test_the_gpus_that_vulkaninfo_names_are_there() -> None:
    done = subprocess.run(["vulkaninfo", "--summary"], capture_output=True, text=True, check=False)
    told = [line for line in done.stdout.splitlines() if "PHYSICAL_DEVICE_TYPE_" in line]
    hardware = read_hardware()
    software = [gpu for gpu in hardware.gpus if gpu.vendor == "software"]
    assert len(software) == sum("TYPE_CPU" in line for line in told)
    assert sum(gpu.vulkan is True for gpu in hardware.gpus) <= len(told) - len(software)
    assert f"Vulkan Instance Version: {hardware.vulkan}" in done.stdout


@linux
@vulkan
def test_a_software_device_promises_no_gpu() -> None:
    hardware = read_hardware()
    if any(gpu.vendor != "software" for gpu in hardware.gpus):
        pytest.skip("this machine has a GPU")
    rungs = ladder(hardware)
    assert best(rungs) == "cpu"
    assert [rung.backend for rung in rungs if rung.usable] == ["cpu"]
    assert promised(hardware, "vulkan") == ()


def test_reading_twice_gives_the_same_machine() -> None:
    assert hardware_key(read_hardware()) == hardware_key(read_hardware())
    assert change_mark() == change_mark()


def test_reading_is_quick_and_leaves_no_process() -> None:
    began = time.perf_counter()
    read_hardware()
    assert time.perf_counter() - began < 10.0
    assert psutil.Process(os.getpid()).children() == []


def test_the_mark_takes_less_than_5_ms() -> None:
    change_mark()
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        change_mark()
        taken.append(time.perf_counter() - began)
    assert min(taken) < 0.005


def test_whether_the_network_is_metered_is_told_or_not_known() -> None:
    assert network.metered() in (None, True, False)
