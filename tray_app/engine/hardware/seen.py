"""One GPU as one tool sees it, and how the views of several tools become one list.

Also the reading of untrusted text: numbers, names, PCI addresses. Whatever is not plainly one
is None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from tray_app.engine.values import Gpu

NAME_LIMIT = 120
MEMORY_LEAST, MEMORY_MOST = 1 << 20, 1 << 46  # 1 MiB to 64 TiB; the rest is no memory size
MIB = 1 << 20
PCI_VENDORS = {
    0x10DE: "nvidia",
    0x1002: "amd",
    0x8086: "intel",
    0x5143: "qualcomm",
    0x106B: "apple",
}
PCI_ADDRESS = re.compile(r"([0-9a-fA-F]{4,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])")


@dataclass(frozen=True, slots=True)
class Seen:
    """A GPU in one tool's words. `gpu.name` is empty where the tool has no name for it."""

    gpu: Gpu
    device_id: int | None = None  # PCI
    kernel_driver: str | None = None  # Linux: "nvidia", "nouveau", "amdgpu", "vfio-pci", …


@dataclass(frozen=True, slots=True)
class Found:
    """What one tool told."""

    gpus: tuple[Seen, ...] = ()
    problems: tuple[str, ...] = ()
    version: str | None = None  # of CUDA, of the Vulkan loader
    answered: bool = False  # the tool could be asked, so what it does not show is not there


def clean(text: object) -> str | None:
    """A name out of untrusted output: one printable line of at most 120 characters, or None."""
    if not isinstance(text, str) or "\ufffd" in text[: 4 * NAME_LIMIT]:
        return None
    line = "".join(c if c.isprintable() else " " for c in text[: 4 * NAME_LIMIT])
    name = " ".join(line.split())[:NAME_LIMIT].strip()
    return name if any(c.isalnum() for c in name) else None


def number(text: object, least: int, most: int) -> int | None:
    """A whole number within bounds, decimal or 0x…, out of untrusted output, or None."""
    if isinstance(text, bool) or not isinstance(text, str | int):
        return None
    if isinstance(text, str):
        text = text.strip()
        if not re.fullmatch(r"[0-9]{1,20}|0[xX][0-9a-fA-F]{1,16}", text):
            return None
        text = int(text, 16 if text[:2] in ("0x", "0X") else 10)
    return text if least <= text <= most else None


def memory(value: object, unit: int = 1) -> int | None:
    """Bytes of memory, given in `unit` bytes."""
    count = number(value, 1, MEMORY_MOST)
    return count * unit if count and MEMORY_LEAST <= count * unit <= MEMORY_MOST else None


def version(text: object) -> str | None:
    """The first dotted number in a text, e.g. "1.3.239"."""
    found = re.search(r"(?<![0-9.])[0-9]{1,5}(?:\.[0-9]{1,6}){1,3}", clean(text) or "")
    return found.group() if found else None


def version_key(text: str | None) -> tuple[int, ...]:
    """For comparing versions; None and garbage are older than everything."""
    return tuple(int(part) for part in re.findall(r"[0-9]{1,9}", text or "")[:4])


def pci_address(text: object) -> str | None:
    """ "0000:01:00.0" of any tool's spelling; None for what is no address."""
    found = PCI_ADDRESS.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        return None
    domain, bus, device, function = (int(part, 16) for part in found.groups())
    # Tegra's GPU is on no bus; its tools print zeros then.
    address = f"{domain:04x}:{bus:02x}:{device:02x}.{function}"
    return address if domain or bus or device or function else None


def merge(better: Sequence[Seen], more: Sequence[Seen]) -> tuple[Seen, ...]:
    """One list in which each physical GPU is once; where both know something, `better` counts.

    The same PCI address is the same GPU; else the same PCI device id, else the same name, else
    the only one of its vendor on both sides. Several equal cards are paired one to one.
    """
    merged, rest = list(better), list(more)
    free = list(range(len(merged)))
    for same in (_same_address, _same_device, _same_name):
        for other in list(rest):
            at = next((i for i in free if same(merged[i], other)), None)
            if at is not None:
                merged[at] = _filled(merged[at], other)
                free.remove(at)
                rest.remove(other)
    for other in list(rest):
        vendor = other.gpu.vendor
        ours = [i for i in free if merged[i].gpu.vendor == vendor]
        theirs = [seen for seen in rest if seen.gpu.vendor == vendor]
        if len(ours) == len(theirs) == 1 and not _differ(merged[ours[0]], other):
            merged[ours[0]] = _filled(merged[ours[0]], other)
            free.remove(ours[0])
            rest.remove(other)
    # One card that two drivers show (RADV and AMDVLK) is not two cards.
    known = {(seen.gpu.vendor, seen.device_id) for seen in better if seen.device_id is not None}
    return (*merged, *(seen for seen in rest if (seen.gpu.vendor, seen.device_id) not in known))


def ordered(gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
    """Discrete before integrated, then the larger memory, then by name; software ones last."""
    rank = {False: 0, None: 1, True: 2}

    def key(gpu: Gpu) -> tuple[bool, int, int, str, str]:
        size = -(gpu.memory_bytes or 0)
        software = gpu.vendor == "software"
        return software, rank[gpu.integrated], size, gpu.name, gpu.bus_id or ""

    return tuple(sorted(gpus, key=key))


def plain_name(name: str) -> str:
    """A GPU's name without what only some tools add to it, for comparing."""
    text = re.sub(r"\((?:R|TM|C)\)", " ", name, flags=re.IGNORECASE)
    text = re.sub(r"\([^()]*\)\s*$", " ", text)
    words = [word for word in text.casefold().split() if word not in VENDOR_WORDS]
    return " ".join(words)


VENDOR_WORDS = frozenset({"nvidia", "amd", "ati", "intel", "corporation", "apple"})


def _same_address(one: Seen, other: Seen) -> bool:
    return one.gpu.bus_id is not None and one.gpu.bus_id == other.gpu.bus_id


def _same_device(one: Seen, other: Seen) -> bool:
    if one.device_id is None or one.device_id != other.device_id:
        return False
    return one.gpu.vendor == other.gpu.vendor and not _addresses_differ(one, other)


def _same_name(one: Seen, other: Seen) -> bool:
    if one.gpu.vendor != other.gpu.vendor or _differ(one, other):
        return False
    name = plain_name(one.gpu.name)
    return bool(name) and name == plain_name(other.gpu.name)


def _differ(one: Seen, other: Seen) -> bool:
    ids = {one.device_id, other.device_id} - {None}
    return len(ids) == 2 or _addresses_differ(one, other)


def _addresses_differ(one: Seen, other: Seen) -> bool:
    return len({one.gpu.bus_id, other.gpu.bus_id} - {None}) == 2


def _filled(seen: Seen, other: Seen) -> Seen:
    """`seen` with what only `other` knows."""
    missing = {
        field.name: getattr(other.gpu, field.name)
        for field in fields(Gpu)
        if getattr(seen.gpu, field.name) in (None, "")
    }
    return replace(
        seen,
        gpu=replace(seen.gpu, **missing),
        device_id=other.device_id if seen.device_id is None else seen.device_id,
        kernel_driver=seen.kernel_driver or other.kernel_driver,
    )
