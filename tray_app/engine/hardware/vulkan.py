"""What the Vulkan loader shows: the GPUs with a Vulkan driver, and memory nobody else tells.

Format: `vulkaninfo --summary` and plain `vulkaninfo` of Vulkan-Tools, 1.2.162 to 1.4.356. Which
devices count is ggml-vulkan's rule (ggml_vk_instance_init): discrete and integrated ones.
"""

from __future__ import annotations

import re
from dataclasses import replace

from tray_app.engine.values import Gpu

from .seen import (
    PCI_VENDORS,
    Found,
    Seen,
    clean,
    memory,
    number,
    plain_name,
    version,
    version_key,
)
from .system import System

TIMEOUT_S = 10.0
NEEDED = (1, 2)  # ggml-vulkan refuses older loaders (b11434, VK_API_VERSION_1_2)
KINDS = {
    "PHYSICAL_DEVICE_TYPE_DISCRETE_GPU": False,
    "PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU": True,
}
# Not the vendor's own driver: its version says nothing about CUDA or ROCm.
FOREIGN_DRIVERS = ("DRIVER_ID_MESA_NVK", "DRIVER_ID_MESA_DOZEN", "DRIVER_ID_MESA_VENUS")
VALUE = re.compile(r"\s+([A-Za-z]+)\s*=\s*(.*)")
DEVICE = re.compile(r"\s*GPU[0-9]{1,3}:\s*")
LOADERS = {"windows": "vulkan-1.dll", "linux": "libvulkan.so.1"}


def read_vulkan(system: System) -> Found:
    """The devices of `vulkaninfo --summary` (0.04 s here) and the loader's version."""
    if system.find("vulkaninfo") is None:
        return Found(version=_loader_version(system))
    text = system.run(("vulkaninfo", "--summary"), TIMEOUT_S)
    if text is None:
        problem = f"vulkaninfo did not answer within {TIMEOUT_S:.0f} s."
        return Found(version=_loader_version(system), problems=(problem,))
    head = re.search(r"^Vulkan Instance Version: *([0-9.]+)", text, re.MULTILINE)
    loader = version(head.group(1)) if head else None
    seen: dict[str, Seen] = {}
    for values in _devices(text):
        device = _device(values)
        # Two drivers of one GPU share the UUID: ggml-vulkan takes one of them, and so do we.
        if device is not None:
            seen.setdefault(values.get("deviceUUID") or f"#{len(seen)}", device)
    problems = () if head or seen else ("vulkaninfo found no Vulkan driver.",)
    return Found(tuple(seen.values()), problems, loader or _loader_version(system), answered=True)


def read_heaps(system: System) -> dict[str, int]:
    """Plain device name to bytes of its largest own heap, from plain vulkaninfo (60 to 300 KB)."""
    text = system.run(("vulkaninfo",), TIMEOUT_S) or ""
    sizes: dict[str, int] = {}
    name, size = None, None
    for line in text.splitlines():
        if DEVICE.fullmatch(line):
            name = None
        elif found := VALUE.fullmatch(line):
            if found.group(1) == "deviceName":
                name = plain_name(_name(found.group(2)) or "")
            elif found.group(1) == "size":
                size = memory(found.group(2).split(" ")[0])
        elif line.strip() == "MEMORY_HEAP_DEVICE_LOCAL_BIT" and name and size:
            # AMD and NVIDIA show the part that the CPU reaches as a second, smaller heap.
            sizes[name] = max(size, sizes.get(name, 0))
    return sizes


def _devices(text: str) -> list[dict[str, str]]:
    devices: list[dict[str, str]] = []
    for line in text.splitlines():
        if DEVICE.fullmatch(line):
            devices.append({})
        elif devices and (found := VALUE.fullmatch(line)):
            devices[-1].setdefault(found.group(1), found.group(2).strip())
    return devices[:64]


def _device(values: dict[str, str]) -> Seen | None:
    name = _name(values.get("deviceName", ""))
    if name is None:
        return None
    code = number(values.get("vendorID", "").split(" ")[0], 0, 0xFFFF_FFFF)
    kind = values.get("deviceType")
    software = kind == "PHYSICAL_DEVICE_TYPE_CPU"
    vendor = "software" if software else PCI_VENDORS.get(code or 0, "unknown")
    foreign = values.get("driverID") in FOREIGN_DRIVERS
    recent = version_key(version(_api_version(values.get("apiVersion", "")))) >= NEEDED
    gpu = Gpu(
        name=name,
        vendor=vendor,
        integrated=KINDS.get(kind or ""),
        driver=None if foreign or vendor == "nvidia" else clean(values.get("driverInfo")),
        vulkan=recent if kind in KINDS else None,
    )
    device = number(values.get("deviceID", "").split(" ")[0], 0, 0xFFFF_FFFF)
    return Seen(gpu, device_id=None if software else device)


def _api_version(text: str) -> str:
    """ "1.3.230", also out of "4206828 (1.3.236)" of older tools."""
    found = re.search(r"\(([0-9.]+)\)", text)
    return found.group(1) if found else text


def _name(text: str) -> str | None:
    """The GPU's own name: Mesa adds its driver's, and wraps what Windows shows to WSL."""
    text = re.sub(r"^Microsoft Direct3D12 \((.*)\)$", r"\1", text.strip())
    return clean(re.sub(r" \(RADV [^()]*\)$", "", text))


def _loader_version(system: System) -> str | None:
    """Of a loader without vulkaninfo: from the library's file name; else its major version."""
    name = LOADERS.get(system.platform)
    if name is None or not system.library(name):
        return None
    files = system.glob("/usr/lib/*/libvulkan.so.1.*") + system.glob("/usr/lib*/libvulkan.so.1.*")
    found = [version(path.rpartition("libvulkan.so.")[2]) for path in files]
    return next((text for text in found if text), "1")


def without_driver(system: System, found: Found) -> frozenset[str]:
    """Linux without vulkaninfo: vendors for which no Vulkan driver is listed in the usual places.

    Empty where no place lists any, because drivers may then be elsewhere (NixOS, Flatpak).
    """
    if found.answered or system.platform != "linux":
        return frozenset()
    places = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")
    files = [path.rpartition("/")[2] for p in places for path in system.glob(f"{p}/*.json")]
    marks = {
        "nvidia": ("nvidia", "nouveau", "dzn"),
        "amd": ("radeon", "amd", "dzn"),
        "intel": ("intel", "dzn"),
    }
    absent = {
        vendor for vendor, words in marks.items() if not any(w in f for w in words for f in files)
    }
    return frozenset(absent) if files else frozenset()


def with_vulkan(seen: Seen, found: Found, absent: frozenset[str]) -> Seen:
    """A merged GPU with `vulkan` False where it is known that no Vulkan driver shows it."""
    if seen.gpu.vulkan is not None or not (found.answered or seen.gpu.vendor in absent):
        return seen
    shown = any(other.gpu.name == seen.gpu.name for other in found.gpus)
    return seen if shown else replace(seen, gpu=replace(seen.gpu, vulkan=False))
