"""A Windows machine's processor, memory and GPUs, by one PowerShell call.

Formats: Win32_VideoController, Win32_Processor and Win32_ComputerSystem as ConvertTo-Json writes
them. AdapterRAM is a uint32, so 4 GiB is its cap: the registry's qwMemorySize is the truth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from tray_app.engine.values import Gpu

from .amd import target_of_name
from .nvidia import cuda_of
from .seen import PCI_VENDORS, Found, Seen, clean, memory, version
from .system import System

TIMEOUT_S = 20.0  # PowerShell's first start after boot takes seconds
POWERSHELL = ("powershell", "-NoProfile", "-NonInteractive", "-Command")
DISPLAY_CLASS = (
    r"HKLM:\SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}\0*"
)
SCRIPT = (
    "$ErrorActionPreference='SilentlyContinue';"
    "[Console]::OutputEncoding=[Text.Encoding]::UTF8;"
    "@{gpus=@(Get-CimInstance Win32_VideoController|"
    "Select-Object Name,AdapterRAM,DriverVersion,PNPDeviceID);"
    f"registry=@(Get-ItemProperty '{DISPLAY_CLASS}'|"
    "Select-Object DriverDesc,MatchingDeviceId,'HardwareInformation.qwMemorySize');"
    "cpu=@(Get-CimInstance Win32_Processor|"
    "Select-Object Name,NumberOfCores,NumberOfLogicalProcessors);"
    "memory=(Get-CimInstance Win32_ComputerSystem).TotalPhysicalMemory;"
    r"vulkan=(Get-Item (Join-Path $env:SystemRoot 'System32\vulkan-1.dll'))"
    ".VersionInfo.ProductVersion}"
    "|ConvertTo-Json -Depth 3 -Compress"
)
CAP = 0xFFF0_0000  # what AdapterRAM says of 4 GiB and more: 4,293,918,720; some say 0xFFFFFFFF
PCI_ID = re.compile(r"PCI\\VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})", re.IGNORECASE)
BASIC = ("Microsoft Basic", "Standard VGA")  # what runs a card that has no driver
# Integrated by their names: AMD's have "(TM)" and no series, or 3 digits and M; of Intel's Arc
# only cards have a letter and three digits.
INTEGRATED = re.compile(
    r"Radeon\(TM\) (?:Graphics|R[2-7] Graphics|Vega|[0-9]{3}M\b|80[456]0S)|Radeon [0-9]{3}M\b"
    r"|U?HD Graphics|Iris|Arc\(TM\) (?:Graphics|1[0-9]{2}[TV])"
)
CARDS = re.compile(r"Radeon (?:RX|PRO W|\(TM\) RX)|Arc\(TM\) (?:Pro )?[AB][0-9]{2,3}\b")


def read_windows(system: System) -> Mapping[str, object]:
    """All that one PowerShell call tells, or an empty mapping. Blocks for 0.5 to 2 s."""
    text = system.run((*POWERSHELL, SCRIPT), TIMEOUT_S)
    try:
        value = json.loads((text or "").lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def windows_gpus(told: Mapping[str, object]) -> Found:
    """The hardware adapters: no remote desktops, no virtual displays."""
    registry = list(entries(told.get("registry")))
    gpus = []
    for entry in entries(told.get("gpus")):
        seen = _gpu(entry, registry)
        if seen is not None:
            gpus.append(seen)
    problems = () if told else ("PowerShell did not tell the display adapters.",)
    driver = next((s.gpu.driver for s in gpus if s.gpu.vendor == "nvidia" and s.gpu.driver), None)
    return Found(tuple(gpus), problems, cuda_of(driver), answered=bool(told))


def entries(value: object) -> Iterable[Mapping[str, object]]:
    """The objects of a JSON list; PowerShell 5 may write a list as {"value": […], "Count": n}."""
    if isinstance(value, dict):
        value = value.get("value", [value])
    listed = value if isinstance(value, list) else []
    return [entry for entry in listed[:64] if isinstance(entry, dict)]


def _gpu(entry: Mapping[str, object], registry: list[Mapping[str, object]]) -> Seen | None:
    place = str(entry.get("PNPDeviceID", ""))[:300]
    ids = PCI_ID.match(place)
    vendor = PCI_VENDORS.get(int(ids.group(1), 16)) if ids else None
    if vendor is None and not place.upper().startswith("ACPI\\VEN_QCOM"):
        return None
    vendor = vendor or "qualcomm"
    name = clean(entry.get("Name")) or ""
    driverless = name.startswith(BASIC)
    size = None if driverless else _registry_memory(entry, registry)
    own = memory(entry.get("AdapterRAM"))
    if size is None and own is not None and own < CAP and not driverless:
        size = own
    integrated = True if vendor == "qualcomm" else _integrated(vendor, name)
    driver = clean(entry.get("DriverVersion"))
    gpu = Gpu(
        name="" if driverless else name,
        vendor=vendor,
        # What an integrated one has of its own is a carve-out; what it may take, Windows keeps.
        memory_bytes=None if integrated else size,
        integrated=integrated,
        driver=None if driverless else (nvidia_version(driver) if vendor == "nvidia" else driver),
        gfx_target=target_of_name(name) if vendor == "amd" else None,
    )
    return Seen(gpu, device_id=int(ids.group(2), 16) if ids else None)


def nvidia_version(windows: str | None) -> str | None:
    """NVIDIA's own version is the last five digits of Windows': 31.0.15.5186 is 551.86."""
    digits = re.sub(r"[^0-9]", "", "".join((version(windows) or "").split(".")[-2:]))
    return f"{int(digits[-5:-2])}.{digits[-2:]}" if len(digits) >= 5 else None


def _integrated(vendor: str, name: str) -> bool | None:
    if vendor == "nvidia" or CARDS.search(name):
        return False
    return True if INTEGRATED.search(name) else None


def _registry_memory(
    entry: Mapping[str, object], registry: list[Mapping[str, object]]
) -> int | None:
    """qwMemorySize of the same device, else of the same name; the largest of stale entries."""
    place = str(entry.get("PNPDeviceID", "")).upper()
    name = entry.get("Name")
    by_device, by_name = [], []
    for key in registry:
        size = memory(_whole(key.get("HardwareInformation.qwMemorySize")))
        device = str(key.get("MatchingDeviceId") or "").upper()
        if size is None:
            continue
        if device and place.startswith(device):
            by_device.append(size)
        elif name and key.get("DriverDesc") == name:
            by_name.append(size)
    return max(by_device or by_name, default=None)


def _whole(value: object) -> object:
    """A REG_BINARY quad word comes as a list of its bytes, lowest first."""
    if isinstance(value, list) and len(value) == 8:
        if all(isinstance(byte, int) and 0 <= byte <= 255 for byte in value):
            return int.from_bytes(bytes(value), "little")
        return None
    return value
