"""A Mac's processor, memory and GPUs.

Formats: `sysctl NAME…` ("name: value" a line, unknown names only on stderr); `system_profiler
SPDisplaysDataType -json` as people posted it for M1 to M5 and for Intel Macs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from tray_app.engine.values import Gpu

from .seen import MIB, Found, Seen, clean, memory
from .system import System

TIMEOUT_S = 10.0
NAMES = (
    "hw.memsize",
    "hw.physicalcpu",
    "hw.logicalcpu",
    "hw.optional.arm64",
    "hw.optional.arm.FEAT_DotProd",
    "hw.optional.arm.FEAT_FP16",
    "hw.optional.arm.FEAT_I8MM",
    "hw.optional.arm.FEAT_SME",
    "iogpu.wired_limit_mb",
    "machdep.cpu.brand_string",
    "machdep.cpu.features",
    "machdep.cpu.leaf7_features",
)
UNITS = {"MB": MIB, "GB": 1024 * MIB}


def read_sysctl(system: System) -> dict[str, str]:
    """The values of `NAMES` that this Mac has. Blocks for about 5 ms."""
    text = system.run(("sysctl", *NAMES), TIMEOUT_S) or ""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def read_displays(system: System, sysctl: Mapping[str, str]) -> Found:
    """The GPUs of system_profiler. Blocks for 0.1 to 0.5 s."""
    text = system.run(("system_profiler", "SPDisplaysDataType", "-json"), TIMEOUT_S)
    apple_silicon = sysctl.get("hw.optional.arm64") == "1" or system.machine == "arm64"
    entries = _entries(text)
    gpus = tuple(seen for entry in entries if (seen := _gpu(entry, sysctl)))
    problems = () if gpus else ("system_profiler shows no GPU.",)
    if apple_silicon and not gpus:
        # The chip has one, whatever the tool says, and it is called as the chip is.
        name = clean(sysctl.get("machdep.cpu.brand_string")) or "Apple GPU"
        gpus = (Seen(_apple(name, sysctl)),)
    return Found(gpus, problems, answered=bool(entries))


def _entries(text: str | None) -> list[dict[str, object]]:
    try:
        value = json.loads(text or "")
        entries = value["SPDisplaysDataType"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    listed = entries if isinstance(entries, list) else []
    return [entry for entry in listed[:16] if isinstance(entry, dict)]


def _gpu(entry: Mapping[str, object], sysctl: Mapping[str, str]) -> Seen | None:
    name = clean(entry.get("sppci_model")) or clean(entry.get("_name"))
    maker = str(entry.get("spdisplays_vendor", "")).casefold()
    if name is None:
        return None
    if "apple" in maker or name.startswith("Apple "):
        return Seen(_apple(name, sysctl))
    vendor = next((v for v in ("amd", "intel", "nvidia") if v in maker or v in name.casefold()), "")
    shared = _size(entry.get("spdisplays_vram_shared"))
    own = _size(entry.get("spdisplays_vram"))
    gpu = Gpu(
        name=name,
        vendor=vendor or ("amd" if "radeon" in name.casefold() else "unknown"),
        memory_bytes=own or shared,
        integrated=True if shared else (False if own else None),
    )
    return Seen(gpu)


def _apple(name: str, sysctl: Mapping[str, str]) -> Gpu:
    # 0 means macOS's own limit, a part of memory that only Metal itself can tell.
    limit = memory(sysctl.get("iogpu.wired_limit_mb"), MIB)
    return Gpu(name=name, vendor="apple", memory_bytes=limit, integrated=True)


def _size(text: object) -> int | None:
    found = re.fullmatch(r"([0-9]{1,6}) (MB|GB)", text.strip()) if isinstance(text, str) else None
    return memory(found.group(1), UNITS[found.group(2)]) if found else None
