"""What this machine computes with, read once; a mark that changes when it has to be read anew."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tray_app.engine.values import Hardware

from . import amd, apple, intel, pci, windows
from .cpu import Cpu, read_linux_cpu, read_mac_cpu, read_windows_cpu
from .nvidia import cuda_of, read_nvidia, read_proc
from .seen import Found, Seen, merge, ordered, plain_name
from .seen import version as dotted
from .system import System
from .vulkan import read_heaps, read_vulkan, with_vulkan, without_driver

# What a new driver or card changes, by system: files whose content counts, and files whose
# presence counts, with their content where they are the kernel's and their time where they are a
# disk's (the kernel makes its own anew at each boot).
MARK_TEXTS = {
    "linux": (
        "/proc/sys/kernel/osrelease",
        "/proc/driver/nvidia/version",
        "/sys/module/amdgpu/version",
        "/sys/module/xe/version",
    ),
    "darwin": ("/System/Library/CoreServices/SystemVersion.plist",),
    "windows": (),
}
MARK_PATTERNS = {
    "linux": (
        "/sys/class/drm/renderD*/device/uevent",
        "/proc/driver/nvidia/gpus/*",
        "/dev/dxg",
        "/opt/rocm/.info/version",
        "/usr/lib/wsl/lib/nvidia-smi",
        "/usr/share/vulkan/icd.d/*.json",
        "/etc/vulkan/icd.d/*.json",
        "/etc/OpenCL/vendors/*.icd",
    ),
    "darwin": (),
    "windows": (
        r"C:\Windows\System32\nvml.dll",
        r"C:\Windows\System32\nvidia-smi.exe",
        r"C:\Windows\System32\amdhip64*.dll",
        r"C:\Windows\System32\vulkan-1.dll",
        r"C:\Windows\System32\OpenCL.dll",
        r"C:\Windows\System32\DriverStore\FileRepository\iigd*",
    ),
}


def read_hardware(system: System | None = None) -> Hardware:
    """Everything about this machine that matters for llama.cpp. Never raises.

    Blocks for 0.1 s on Linux without a GPU and about 1 s elsewhere; a tool that hangs costs its
    limit of 10 s (20 s for PowerShell), once, because all are asked side by side.
    """
    system = system or System()
    read = {"linux": _linux, "windows": _windows, "darwin": _mac}.get(system.platform, _linux)
    return replace(read(system), read_at=time.time())


def change_mark(system: System | None = None) -> str:
    """A text that differs when a driver or GPU came, went or was updated. Takes about 1 ms."""
    system = system or System()
    parts = [system.platform]
    parts += [(system.read(path) or "").strip() for path in MARK_TEXTS.get(system.platform, ())]
    for pattern in MARK_PATTERNS.get(system.platform, ()):
        for path in system.glob(pattern):
            kernels = path.startswith(("/sys/", "/proc/", "/dev/"))
            parts.append(f"{path} {system.read(path) if kernels else system.stamp(path)}")
    parts.append(f"kfd {system.writable('/dev/kfd')}" if system.exists("/dev/kfd") else "no kfd")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def hardware_key(hardware: Hardware) -> str:
    """A name for machines on which a runtime behaves alike: 16 hex digits.

    It holds GPUs with driver and memory, the versions of the compute stacks and the CPU's
    features; not when it was read, what could not be read, nor how much memory is fitted.
    """
    values = dataclasses.asdict(hardware)
    for name in ("read_at", "problems", "memory_bytes", "cpu_name", "cpu_cores", "cpu_threads"):
        del values[name]
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _linux(system: System) -> Hardware:
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="hardware") as pool:
        asked = pool.submit(read_nvidia, system)
        vulkan = read_vulkan(system)
        cpu = read_linux_cpu(system)
        targets = amd.read_targets(system)
        nvidia = asked.result()
    bus = []
    for seen in pci.pci_gpus(system):
        if seen.gpu.vendor == "amd":
            bus.append(amd.read_amd(system, seen, targets))
        elif seen.gpu.vendor == "intel":
            bus.append(intel.read_intel(system, seen))
        else:
            bus.append(read_proc(system, seen))
    seen_all = _with_vulkan(system, merge(nvidia.gpus, bus), vulkan)
    named = [_linux_details(system, seen, cpu) for seen in seen_all]
    used = [seen for seen in named if seen.kernel_driver != "vfio-pci"]
    problems = (*nvidia.problems, *vulkan.problems, *_driver_problems(named))
    driver = next((s.gpu.driver for s in used if s.gpu.vendor == "nvidia" and s.gpu.driver), None)
    return _hardware(
        system,
        cpu,
        used,
        problems,
        cuda=nvidia.version or cuda_of(driver),
        vulkan=vulkan.version,
        kfd=system.writable("/dev/kfd") if system.exists("/dev/kfd") else None,
    )


def _windows(system: System) -> Hardware:
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="hardware") as pool:
        asked_nvidia = pool.submit(read_nvidia, system)
        asked_vulkan = pool.submit(read_vulkan, system)
        told = windows.read_windows(system)
        nvidia, vulkan = asked_nvidia.result(), asked_vulkan.result()
    adapters = windows.windows_gpus(told)
    seen_all = _with_vulkan(system, merge(nvidia.gpus, adapters.gpus), vulkan)
    named = [_named(system, seen) for seen in seen_all]
    problems = (*adapters.problems, *nvidia.problems, *vulkan.problems, *_driver_problems(named))
    loader = vulkan.version
    if loader == "1":  # only its major version is known without vulkaninfo
        loader = dotted(told.get("vulkan")) or loader
    return _hardware(
        system,
        read_windows_cpu(system, told),
        named,
        problems,
        cuda=nvidia.version or adapters.version,
        vulkan=loader,
    )


def _mac(system: System) -> Hardware:
    sysctl = apple.read_sysctl(system)
    displays = apple.read_displays(system, sysctl)
    hardware = Hardware(system="darwin", arch=system.machine)
    if sysctl.get("hw.optional.arm64") == "1":  # a Python for Intel Macs runs translated
        hardware = replace(hardware, arch="arm64")
    cpu = read_mac_cpu(sysctl)
    return replace(
        hardware,
        cpu_name=cpu.name,
        cpu_cores=cpu.cores,
        cpu_threads=cpu.threads,
        cpu_features=cpu.features,
        memory_bytes=cpu.memory_bytes,
        gpus=ordered(seen.gpu for seen in displays.gpus),
        problems=displays.problems,
    )


def _hardware(
    system: System,
    cpu: Cpu,
    gpus: Sequence[Seen],
    problems: Sequence[str],
    *,
    cuda: str | None,
    vulkan: str | None,
    kfd: bool | None = None,
) -> Hardware:
    return Hardware(
        system=system.platform,
        arch=system.machine,
        cpu_name=cpu.name,
        cpu_cores=cpu.cores,
        cpu_threads=cpu.threads,
        cpu_features=cpu.features,
        memory_bytes=cpu.memory_bytes,
        gpus=ordered(seen.gpu for seen in gpus),
        cuda=cuda,
        rocm=amd.rocm_version(system),
        vulkan=vulkan,
        level_zero=intel.has_level_zero(system),
        opencl=intel.has_opencl(system),
        kfd=kfd,
        problems=tuple(dict.fromkeys(problems)),
    )


def _with_vulkan(system: System, seen_all: Sequence[Seen], vulkan: Found) -> list[Seen]:
    """All GPUs, with Vulkan's view of them, and memory from Vulkan where nobody else tells it."""
    absent = without_driver(system, vulkan)
    merged = [with_vulkan(seen, vulkan, absent) for seen in merge(seen_all, vulkan.gpus)]
    if all(seen.gpu.memory_bytes or not seen.gpu.vulkan for seen in merged):
        return merged
    heaps = read_heaps(system)
    return [
        replace(seen, gpu=replace(seen.gpu, memory_bytes=heaps.get(plain_name(seen.gpu.name))))
        if seen.gpu.vulkan and seen.gpu.memory_bytes is None
        else seen
        for seen in merged
    ]


def _linux_details(system: System, seen: Seen, cpu: Cpu) -> Seen:
    """What only the merged view allows to say."""
    seen = _named(system, seen)
    if seen.gpu.vendor == "amd":
        return amd.with_lent_memory(system, seen)
    if seen.gpu.vendor == "nvidia" and seen.gpu.integrated and seen.gpu.driver:
        # Unified memory: CUDA's total is the machine's own (ggml-cuda reads /proc/meminfo too).
        return replace(seen, gpu=replace(seen.gpu, memory_bytes=cpu.memory_bytes))
    return seen


def _named(system: System, seen: Seen) -> Seen:
    if seen.gpu.name:
        return seen
    name = pci.pci_name(system, seen.gpu.vendor, seen.device_id)
    return replace(seen, gpu=replace(seen.gpu, name=name))


def _driver_problems(seen_all: Sequence[Seen]) -> list[str]:
    problems = []
    for seen in seen_all:
        name = seen.gpu.name
        if seen.kernel_driver == "vfio-pci":
            problems.append(f"{name} is given to a virtual machine (vfio-pci).")
        elif seen.gpu.vendor == "nvidia" and seen.gpu.driver is None:
            if seen.kernel_driver in (None, "nvidia"):
                problems.append(f"{name}: driver not loaded.")
            else:
                problems.append(f"{name}: driver not loaded ({seen.kernel_driver} runs it).")
    return problems
