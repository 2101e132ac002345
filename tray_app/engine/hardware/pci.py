"""The GPUs on a Linux machine's PCI bus, whether or not a driver runs them, and their names.

Formats: the kernel's sysfs-bus-pci documentation (uevent); pci.ids as pciutils and hwdata ship it.
"""

from __future__ import annotations

import re

from tray_app.engine.values import Gpu

from .seen import PCI_VENDORS, Seen, clean, number, pci_address
from .system import System

# PCI base classes: 03 is a display controller, 12 a processing accelerator (AMD Instinct MI300).
GPU_CLASSES = (0x03, 0x12)
VENDORS = {code: PCI_VENDORS[code] for code in (0x10DE, 0x1002, 0x8086)}
BRANDS = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel"}
NAME_FILES = ("/usr/share/hwdata/pci.ids", "/usr/share/misc/pci.ids")


def pci_gpus(system: System) -> tuple[Seen, ...]:
    """All NVIDIA, AMD and Intel GPUs on the bus, nameless, in the order of their addresses."""
    found = []
    for path in system.glob("/sys/bus/pci/devices/*/uevent"):
        seen = _read(system.read(path) or "")
        if seen is not None:
            found.append(seen)
    return tuple(found)


def pci_name(system: System, vendor: str, device_id: int | None) -> str:
    """What pci.ids calls a GPU, e.g. "NVIDIA GeForce RTX 3090"; else "NVIDIA GPU"."""
    fallback = f"{BRANDS.get(vendor, 'Unknown')} GPU"
    code = next((number for number, name in VENDORS.items() if name == vendor), None)
    if code is None or device_id is None:
        return fallback
    for path in NAME_FILES:
        block = re.search(
            rf"^{code:04x} [^\n]*\n((?:[\t#][^\n]*\n)*)", system.read(path) or "", re.MULTILINE
        )
        line = re.search(rf"^\t{device_id:04x} +([^\n]+)", block.group(1), re.M) if block else None
        name = clean(line.group(1)) if line else None
        if name:
            # The product stands in brackets after the chip: "GA102 [GeForce RTX 3090]".
            product = re.search(r"\[([^\]]+)\]", name)
            return f"{BRANDS[vendor]} {product.group(1) if product else name}"
    return f"{fallback} ({code:04x}:{device_id:04x})"


def _read(uevent: str) -> Seen | None:
    values = dict(line.split("=", 1) for line in uevent.splitlines() if "=" in line)
    kind = number("0x" + values.get("PCI_CLASS", ""), 0, 0xFFFFFF)
    ids = re.fullmatch(r"([0-9A-Fa-f]{4}):([0-9A-Fa-f]{4})", values.get("PCI_ID", ""))
    if kind is None or ids is None or kind >> 16 not in GPU_CLASSES:
        return None
    vendor, device = (int(part, 16) for part in ids.groups())
    if vendor not in VENDORS:
        return None
    # Intel's accelerators of class 12 are NPUs and FPGAs.
    if kind >> 16 == 0x12 and VENDORS[vendor] != "amd":
        return None
    gpu = Gpu(name="", vendor=VENDORS[vendor], bus_id=pci_address(values.get("PCI_SLOT_NAME")))
    return Seen(gpu, device_id=device, kernel_driver=clean(values.get("DRIVER")))
