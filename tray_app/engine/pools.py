"""The memories that models share: main memory, each GPU's own, and what the user grants in all.

An amount is a mapping from pool to bytes. A pool that a budget does not name has no bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .runtime.values import Hardware

MIB = 1 << 20
HOST = "Host"  # as llama.cpp calls main memory
ALL = "all"  # everything together, where the user has set a bound for that

# "CUDA0: NVIDIA H100 (81000 MiB, 80000 MiB free)", as --list-devices tells it (b11434).
_DEVICE = re.compile(r"(\S+): (.*) \((\d+) MiB, \d+ MiB free\)")
# Of a GPU's memory this much is left to the desktop, the driver and what a fit cannot foresee.
_RESERVE_SHARE = 16
_RESERVE_BYTES = (256 * MIB, 1024 * MIB)


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU as llama.cpp names it."""

    id: str  # "CUDA0"
    name: str
    memory_bytes: int


def devices_in(lines: Iterable[str]) -> list[Device]:
    """The devices that a runtime lists; lines of another form are passed over."""
    found = (_DEVICE.fullmatch(line.strip()) for line in lines)
    return [Device(m[1], m[2], int(m[3]) * MIB) for m in found if m is not None]


def shares_main_memory(device: Device, hardware: Hardware | None) -> bool:
    """Whether its memory is main memory: Apple's GPUs, integrated ones, those in software."""
    if device.id.startswith(("MTL", "Metal")) or "llvmpipe" in device.name:
        return True
    gpus = hardware.gpus if hardware is not None else ()
    return any(gpu.integrated and _same(gpu.name, device.name) for gpu in gpus)


def gpu_budgets(lines: Iterable[str], hardware: Hardware | None) -> dict[str, int]:
    """What models may hold on each GPU that has memory of its own."""
    return {
        device.id: device.memory_bytes - _reserve(device.memory_bytes)
        for device in devices_in(lines)
        if not shares_main_memory(device, hardware)
    }


def needs(memory_bytes: int, on_gpus: Mapping[str, int]) -> dict[str, int]:
    """A model's amount; `on_gpus` is the part of `memory_bytes` that lies in GPUs' own memory."""
    return {ALL: memory_bytes, HOST: max(0, memory_bytes - sum(on_gpus.values())), **on_gpus}


def missing(amounts: Iterable[Mapping[str, int]], budget: Mapping[str, int]) -> dict[str, int]:
    """By how much each pool is overdrawn when all the amounts are held; only those that are."""
    total: dict[str, int] = {}
    for amount in amounts:
        for pool, size in amount.items():
            total[pool] = total.get(pool, 0) + size
    return {
        pool: total[pool] - budget[pool] for pool in budget if total.get(pool, 0) > budget[pool]
    }


def in_all(budget: Mapping[str, int]) -> int:
    """What models may hold together, for showing."""
    return budget[ALL] if ALL in budget else sum(budget.values())


def _reserve(memory_bytes: int) -> int:
    low, high = _RESERVE_BYTES
    return min(max(memory_bytes // _RESERVE_SHARE, low), high)


def _same(one: str, other: str) -> bool:
    """Drivers and tools write a name with and without its vendor and its marks."""
    words = [set(re.findall(r"[a-z0-9]+", name.lower())) - {"r", "tm"} for name in (one, other)]
    return words[0] <= words[1] or words[1] <= words[0]
