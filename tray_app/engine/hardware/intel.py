"""Intel GPUs on Linux, and the runtimes that SYCL and OpenCL need on any system."""

from __future__ import annotations

from dataclasses import replace

from .seen import Seen, memory
from .system import System

# Intel's own graphics is device 2 of bus 0 in every processor that has it; cards are elsewhere.
OWN_GRAPHICS = "0000:00:02."


def read_intel(system: System, seen: Seen) -> Seen:
    """A GPU from the bus with its kind and, where the kernel tells it, its memory.

    xe has one file a tile; i915 one a card, in Intel's out-of-tree driver only.
    """
    address = seen.gpu.bus_id or ""
    folder = f"/sys/bus/pci/devices/{address}"
    files = system.glob(f"{folder}/tile*/physical_vram_size_bytes")
    files = files or system.glob(f"{folder}/drm/card*/lmem_total_bytes")
    sizes = [size for path in files if (size := memory(system.read(path)))]
    own = address.startswith(OWN_GRAPHICS)
    gpu = replace(seen.gpu, integrated=own, memory_bytes=sum(sizes) or None)
    return replace(seen, gpu=gpu)


def has_level_zero(system: System) -> bool:
    """Whether Intel's Level Zero driver is there: the loader alone computes nothing."""
    if system.platform == "windows":
        # The display driver brings it; newer ones leave it in the driver store.
        folder = system.environ.get("SYSTEMROOT", r"C:\Windows") + r"\System32\DriverStore"
        stored = system.glob(folder + r"\FileRepository\iigd*\ze_intel_gpu64.dll")
        return system.library("ze_intel_gpu64.dll") or bool(stored)
    return system.library("libze_intel_gpu.so.1")


def has_opencl(system: System) -> bool:
    """Whether there is an OpenCL loader and, where drivers are listed in files, a driver."""
    if system.platform == "windows":
        return system.library("OpenCL.dll")
    drivers = system.glob("/etc/OpenCL/vendors/*.icd")
    return system.library("libOpenCL.so.1") and bool(drivers)
