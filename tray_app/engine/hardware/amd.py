"""AMD GPUs on Linux: the compute driver's topology (KFD) and amdgpu's files in sysfs.

Formats: the kernel's amdgpu documentation (mem_info_vram_total, mem_info_gtt_total,
product_name), kfd_topology.c (properties), libdrm's amdgpu.ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from .seen import Seen, clean, memory, number, version
from .system import System

NODES = "/sys/class/kfd/kfd/topology/nodes/*/properties"
NAME_FILES = ("/usr/share/libdrm/amdgpu.ids", "/opt/amdgpu/share/libdrm/amdgpu.ids")
# Targets that exist in processors with graphics only: "Processors" of LLVM's AMDGPU usage guide.
INTEGRATED_TARGETS = frozenset({
    "gfx902", "gfx909", "gfx90c", "gfx1013", "gfx1033", "gfx1035", "gfx1036", "gfx1037",
    "gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153",
})  # fmt: skip
# Products whose target no tool tells on Windows, by name; from the same guide and AMD's ROCm
# hardware tables. The first that matches counts.
TARGET_OF_NAME: tuple[tuple[str, str], ...] = (
    (r"RX 9070|AI PRO R9700", "gfx1201"),
    (r"RX 9060", "gfx1200"),
    (r"RX 7900|PRO W7[89]00", "gfx1100"),
    (r"RX 7[78]00(?!S)", "gfx1101"),
    (r"RX 76[05]0|RX 7700S", "gfx1102"),
    (r"RX 6[89][05]0(?![MS])|PRO W6800", "gfx1030"),
    (r"RX 67[05]0(?!S)|RX 68[05]0M", "gfx1031"),
    (r"RX 66[05]0|RX 6[78]00S", "gfx1032"),
    (r"RX 6[345]00", "gfx1034"),
    (r"RX 5[67]00", "gfx1010"),
    (r"RX 5[35]00", "gfx1012"),
    (r"\b80[456]0S\b", "gfx1151"),
    (r"\b8[89]0M\b", "gfx1150"),
    (r"\b8[46]0M\b", "gfx1152"),
    (r"\b7[468]0M\b", "gfx1103"),
    (r"\b6[68]0M\b", "gfx1035"),
)


def read_amd(system: System, seen: Seen, targets: Mapping[str, str]) -> Seen:
    """A GPU from the bus with what amdgpu and KFD tell; `targets` is `read_targets`'."""
    folder = f"/sys/bus/pci/devices/{seen.gpu.bus_id}"
    target = targets.get(seen.gpu.bus_id or "")
    gpu = replace(
        seen.gpu,
        name=clean(system.read(f"{folder}/product_name")) or _name(system, folder, seen) or "",
        memory_bytes=memory(system.read(f"{folder}/mem_info_vram_total")),
        integrated=target in INTEGRATED_TARGETS if target else None,
        gfx_target=target,
        driver=version(system.read("/sys/module/amdgpu/version")),  # DKMS ones only
    )
    return replace(seen, gpu=gpu)


def with_lent_memory(system: System, seen: Seen) -> Seen:
    """An integrated GPU with what the kernel lends it (GTT) besides the carve-out."""
    own = seen.gpu.memory_bytes
    path = f"/sys/bus/pci/devices/{seen.gpu.bus_id}/mem_info_gtt_total"
    lent = memory(system.read(path)) if seen.gpu.integrated and own is not None else None
    if own is None or lent is None:
        return seen
    return replace(seen, gpu=replace(seen.gpu, memory_bytes=own + lent))


def read_targets(system: System) -> dict[str, str]:
    """PCI address to "gfx1100", of every GPU that the compute driver shows."""
    found = {}
    for path in system.glob(NODES):
        lines = (system.read(path) or "").splitlines()[:200]
        values = dict(line.split(" ", 1) for line in lines if " " in line)
        target = gfx_target(number(values.get("gfx_target_version"), 1, 999_999))
        place = number(values.get("location_id"), 0, 0xFFFF)
        domain = number(values.get("domain", "0"), 0, 0xFFFF_FFFF)
        if target and place is not None and domain is not None:
            address = f"{domain:04x}:{place >> 8:02x}:{place >> 3 & 0x1F:02x}.{place & 7}"
            found[address] = target
    return found


def gfx_target(code: int | None) -> str | None:
    """KFD's gfx_target_version, e.g. 90012, as LLVM writes it: "gfx90c"."""
    if code is None:
        return None
    major, minor, stepping = code // 10_000, code // 100 % 100, code % 100
    if not 6 <= major <= 20 or minor > 15 or stepping > 15:
        return None
    return f"gfx{major}{minor:x}{stepping:x}"


def target_of_name(name: str) -> str | None:
    """The gfx target of a product by its name, for systems where nothing else tells it."""
    return next((target for pattern, target in TARGET_OF_NAME if re.search(pattern, name)), None)


def rocm_version(system: System) -> str | None:
    """The installed ROCm, "6.2.0"; its major number where only HIP's library tells it."""
    if system.platform == "windows":
        # AMD's display driver brings HIP's library, the major version in its name.
        majors = [n for n in ("7", "6", "5") if system.library(f"amdhip64_{n}.dll")]
        return majors[0] if majors else None
    asked = system.environ.get("ROCM_PATH")
    folders = [*([asked] if asked else []), "/opt/rocm", *reversed(system.glob("/opt/rocm-*"))]
    for folder in folders:
        found = version(system.read(f"{folder}/.info/version"))
        if found:
            return found
    return next((n for n in ("7", "6", "5") if system.library(f"libamdhip64.so.{n}")), None)


def _name(system: System, folder: str, seen: Seen) -> str | None:
    """From libdrm's table: device id, revision, name."""
    revision = number(system.read(f"{folder}/revision"), 0, 0xFF)
    if revision is None or seen.device_id is None:
        return None
    line = re.compile(rf"^{seen.device_id:04X},\s*{revision:02X},\s*(.+)$", re.M | re.I)
    for path in NAME_FILES:
        found = line.search(system.read(path) or "")
        if found:
            return clean(found.group(1))
    return None
