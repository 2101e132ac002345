"""How a model would run on this machine, told before anything is downloaded. Pure.

Weights, KV cache at F16 and a fixed compute buffer are held against what the GPUs and main memory
have in all; llama.cpp's own fit, made when the model is here, is the exact answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tray_app.engine.fit import COMPUTE_BYTES, KV_BYTES_PER_TOKEN
from tray_app.engine.memory import reserve_bytes
from tray_app.engine.runtime.ladder import best, ladder, promised
from tray_app.engine.values import Gpu, Hardware, Runtime

from .values import Badge, Fits

MIB = 1 << 20
# What llama.cpp's fit leaves free on each device (common/common.h, fit_params_target). It covers
# the driver's own memory and the desktop's.
GPU_MARGIN_BYTES = 1024 * MIB
# What is kept free beside the weights when no quantization is named: a small context, which the
# launch can make smaller still.
SPARE_TOKENS = 4096

_LISTED = re.compile(r"[^:]+: (?P<name>.+) \((?P<mib>\d{1,9}) MiB, \d{1,9} MiB free\)")


@dataclass(frozen=True, slots=True)
class GpuRoom:
    """One GPU that models could use."""

    name: str
    memory_bytes: int | None = None  # its own; of a shared one the most that it may take
    shared: bool = False  # takes main memory: integrated GPUs, Apple's chips


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine has for models. None: not known."""

    total_bytes: int | None  # main memory, or what bounds this container
    available_bytes: int | None  # of it, now
    reserve_bytes: int = 0  # of it, always left to the desktop
    gpus: tuple[GpuRoom, ...] = ()  # that the best usable backend would use
    gpu_active: bool = False  # whether the runtime in use computes on them


@dataclass(frozen=True, slots=True)
class _Need:
    """What one model takes."""

    context_length: int
    weights_bytes: int
    kv_cache_bytes: int | None

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + (self.kv_cache_bytes or 0) + COMPUTE_BYTES


def machine_of(
    hardware: Hardware | None, active: Runtime | None, main_memory: tuple[int, int]
) -> Machine:
    """`main_memory` is (total, available), as memory.total_and_available tells it.

    Without a runtime, what it could use counts for nothing: it is only named. Never blocks.
    """
    total, available = main_memory
    seen: tuple[Gpu, ...] = ()
    on_gpu = False
    if hardware is not None:
        seen = promised(hardware, active.backend) if active is not None else ()
        on_gpu = bool(seen)
        seen = seen or promised(hardware, best(ladder(hardware)))
    listed = _listed(active.devices) if active is not None and on_gpu else {}
    rooms = tuple(_room(gpu, listed) for gpu in seen)
    return Machine(total, available, reserve_bytes(total), rooms, on_gpu)


def weights_budget(machine: Machine) -> int | None:
    """What weights may take where no quantization is named: GPUs and main memory together."""
    if machine.total_bytes is None:
        return None
    room = machine.total_bytes - machine.reserve_bytes + _own_room(machine)
    return max(0, room - COMPUTE_BYTES - SPARE_TOKENS * KV_BYTES_PER_TOKEN)


def judge(
    weights_bytes: int | None,
    kv_bytes_per_token: int | None,
    context_length: int,
    machine: Machine,
) -> Badge:
    """How weights (projector included) with `context_length` tokens would run on `machine`.

    COMPUTE_BYTES is the estimate that loads without a measured fit use too: real buffers grow
    with the vocabulary (109 MiB for 49,152 tokens) and are known only to llama.cpp. A KV cache
    that the header does not tell is left out, and the sentence says so. TIGHT is what would fit
    what is there in all, less the reserve, and not what is free of it now: the engine refuses
    such a load until something makes room.
    """
    if weights_bytes is None:
        sentence = "How much memory it takes is not known: the hub does not tell its size."
        return Badge(Fits.UNKNOWN, sentence, context_length)
    cache = None if kv_bytes_per_token is None else kv_bytes_per_token * context_length
    need = _Need(context_length, weights_bytes, cache)
    fits, sentence = _verdict(need, machine)
    if cache is None:
        sentence = f"{sentence[:-1]}; its KV cache is not counted, as its size is not known."
    return Badge(
        fits, sentence, context_length, weights_bytes, cache, COMPUTE_BYTES, need.total_bytes
    )


def _verdict(need: _Need, machine: Machine) -> tuple[Fits, str]:
    if machine.total_bytes is None:
        took = size_text(need.total_bytes)
        return Fits.UNKNOWN, f"Takes {took}; how much memory this machine has is not known."
    if not machine.gpus or not machine.gpu_active:
        return _on_processor(need, machine)
    if any(gpu.shared for gpu in machine.gpus):
        return _on_shared(need, machine)
    return _on_cards(need, machine)


# -- one way of running each


def _on_processor(need: _Need, machine: Machine) -> tuple[Fits, str]:
    total = need.total_bytes
    if total > _main_room(machine):
        return Fits.TOO_LARGE, _too_large(need, machine)
    if total > _free_room(machine):
        return Fits.TIGHT, _tight(need, machine)
    sentence = f"Runs on the processor{_with(need)}: {size_text(total)} of {_main(machine)}"
    if machine.gpus:
        return Fits.PROCESSOR, f"{sentence} of memory; no runtime for {_your(machine)} is active."
    return Fits.PROCESSOR, f"{sentence} of memory."


def _on_shared(need: _Need, machine: Machine) -> tuple[Fits, str]:
    """The GPU takes main memory: so what fits neither may take nor is free fits nowhere."""
    total = need.total_bytes
    if total > _main_room(machine):
        return Fits.TOO_LARGE, _too_large(need, machine)
    if total > _free_room(machine):
        return Fits.TIGHT, _tight(need, machine)
    limits = [gpu.memory_bytes for gpu in machine.gpus if gpu.memory_bytes is not None]
    took, whose = size_text(total), _your(machine)
    if not limits:
        sentence = f"Fits {whose}{_with(need)}: {took} of {_main(machine)} of main memory"
        return Fits.GPU, f"{sentence}, which it shares."
    room = sum(max(0, each - GPU_MARGIN_BYTES) for each in limits)
    if total <= room:
        may = size_text(sum(limits))
        return Fits.GPU, f"Fits {whose}{_with(need)}: {took} of {may} that it may take of memory."
    return Fits.PARTLY, (
        f"Runs partly on {whose}{_with(need)}: {size_text(room)} of {took} fit what it may take of"
        " memory, the processor does the rest, which is slower."
    )


def _on_cards(need: _Need, machine: Machine) -> tuple[Fits, str]:
    """Cards with memory of their own, and main memory for what does not fit."""
    total = need.total_bytes
    have = sum(gpu.memory_bytes or 0 for gpu in machine.gpus)
    unknown = any(gpu.memory_bytes is None for gpu in machine.gpus)
    largest = max(gpu.memory_bytes or 0 for gpu in machine.gpus)
    # Each card has a compute buffer of its own.
    room = _own_room(machine) - COMPUTE_BYTES * (len(machine.gpus) - 1)
    if total <= max(largest - GPU_MARGIN_BYTES, room):
        return Fits.GPU, f"Fits {_your(machine)}{_with(need)}: {_of(total, have)}."
    if unknown:
        return Fits.UNKNOWN, (
            f"Takes {size_text(total)}{_with(need)}; how much memory {_your(machine)} has is not"
            f" known, main memory has {_main(machine)}."
        )
    rest = total - room
    if room <= 0:
        return _on_processor(need, replace(machine, gpus=()))
    if rest > _main_room(machine):
        return Fits.TOO_LARGE, _too_large(need, machine, room)
    if rest > _free_room(machine):
        return Fits.TIGHT, (
            f"Tight{_with(need)}: {size_text(rest)} of it would go to main memory, where models may"
            f" take {size_text(max(0, _free_room(machine)))} of {_main(machine)} now."
        )
    return Fits.PARTLY, (
        f"Runs partly on {_your(machine)}{_with(need)}: {size_text(room)} of"
        f" {size_text(total)} fit there, the rest goes to main memory, which is slower."
    )


# -- what there is


def _own_room(machine: Machine) -> int:
    """What models may take of the memory that GPUs have of their own."""
    if not machine.gpu_active:
        return 0
    own = [gpu.memory_bytes or 0 for gpu in machine.gpus if not gpu.shared]
    return sum(max(0, each - GPU_MARGIN_BYTES) for each in own)


def _main_room(machine: Machine) -> int:
    return (machine.total_bytes or 0) - machine.reserve_bytes


def _free_room(machine: Machine) -> int:
    """As memory.automatic_budget: what is available now, less the reserve."""
    if machine.available_bytes is None:
        return _main_room(machine)
    return machine.available_bytes - machine.reserve_bytes


def _room(gpu: Gpu, listed: dict[str, int]) -> GpuRoom:
    """What the runtime itself lists is what it can use; the system's tools may tell more."""
    near = (size for name, size in listed.items() if _same(name, gpu.name))
    told = listed.get(gpu.name) or next(near, None)
    return GpuRoom(gpu.name, told or gpu.memory_bytes, gpu.integrated is True)


def _listed(devices: Sequence[str]) -> dict[str, int]:
    """Name and bytes of each line of --list-devices."""
    found = (_LISTED.fullmatch(device.strip()) for device in devices)
    return {each["name"]: int(each["mib"]) * MIB for each in found if each and int(each["mib"])}


def _same(one: str, other: str) -> bool:
    """Drivers add words to a GPU's name: "AMD Radeon RX 7600 (RADV NAVI33)"."""
    a, b = one.casefold(), other.casefold()
    return a in b or b in a


# -- words


def size_text(count: int) -> str:
    """Bytes as people read them: "2.1 GB", "640 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 999_500_000 else f"{count / 1e6:.0f} MB"


def _of(part: int, whole: int) -> str:
    """ "5.6 of 11.8 GB"; the unit twice where they differ."""
    one, other = size_text(part), size_text(whole)
    same = one.split(" ")[1] == other.split(" ")[1]
    return f"{one.split(' ')[0] if same else one} of {other}"


def _main(machine: Machine) -> str:
    return size_text(machine.total_bytes or 0)


def _your(machine: Machine) -> str:
    return "your GPU" if len(machine.gpus) == 1 else f"your {len(machine.gpus)} GPUs"


def _with(need: _Need) -> str:
    """The context counts only where there is a cache for it."""
    tokens = f" with {need.context_length:,} tokens of context"
    return tokens if need.kv_cache_bytes else ""


def _too_large(need: _Need, machine: Machine, on_gpus: int = 0) -> str:
    there = f"{size_text(max(0, _main_room(machine)))} of {_main(machine)} of memory"
    there += f" and {size_text(on_gpus)} on {_your(machine)}" if on_gpus else ""
    took = size_text(need.total_bytes)
    return f"Too large for this machine{_with(need)}: takes {took}, and models may take {there}."


def _tight(need: _Need, machine: Machine) -> str:
    return (
        f"Tight{_with(need)}: takes {size_text(need.total_bytes)}, and models may take"
        f" {size_text(max(0, _free_room(machine)))} of {_main(machine)} now."
    )
