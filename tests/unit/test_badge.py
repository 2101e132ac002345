"""Badges: what a model takes, held against machines of every kind, in honest numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tray_app.engine.downloads.badge import (
    GPU_MARGIN_BYTES,
    GpuRoom,
    Machine,
    judge,
    machine_of,
    size_text,
    weights_budget,
)
from tray_app.engine.downloads.values import Badge, Fits
from tray_app.engine.fit import COMPUTE_BYTES
from tray_app.engine.memory import reserve_bytes
from tray_app.engine.values import Gpu, Hardware, Runtime

GB = 10**9
GIB = 1 << 30
KV = 131_072  # bytes a token, of Llama 3 8B


def machine(ram_gb: float = 24, free_gb: float | None = None, *gpus: GpuRoom) -> Machine:
    total = int(ram_gb * GB)
    free = total if free_gb is None else int(free_gb * GB)
    return Machine(total, free, reserve_bytes(total), gpus, bool(gpus))


def card(memory_gb: float | None) -> GpuRoom:
    return GpuRoom("Card", None if memory_gb is None else int(memory_gb * GB))


def judged(weights_gb: float, on: Machine, context: int = 8192, kv: int | None = KV) -> Badge:
    return judge(int(weights_gb * GB), kv, context, on)


def test_it_runs_on_the_processor_where_there_is_no_gpu() -> None:
    badge = judged(2, machine(24), context=1000, kv=0)
    assert badge.fits is Fits.PROCESSOR
    assert badge.sentence == "Runs on the processor: 2.3 GB of 24.0 GB of memory."


def test_weights_cache_and_compute_are_counted_together() -> None:
    badge = judged(5, machine(24))
    cache = KV * 8192
    assert (badge.weights_bytes, badge.kv_cache_bytes) == (5 * GB, cache)
    assert badge.compute_bytes == COMPUTE_BYTES
    assert badge.total_bytes == 5 * GB + cache + COMPUTE_BYTES
    assert "with 8,192 tokens of context: 6.4 GB of 24.0 GB" in badge.sentence


def test_a_context_makes_the_difference() -> None:
    on = machine(8)
    assert judged(5, on, context=4096).fits is Fits.PROCESSOR
    assert judged(5, on, context=32_768).fits is Fits.TOO_LARGE


def test_what_other_programs_hold_makes_it_tight() -> None:
    badge = judged(5, machine(16, free_gb=6))
    assert badge.fits is Fits.TIGHT
    assert badge.sentence == (
        "Tight with 8,192 tokens of context: takes 6.4 GB, and models may take 4.4 GB of 16.0 GB"
        " now."
    )


def test_the_reserve_is_the_desktops() -> None:
    on = machine(8)  # a reserve of 1 GiB
    assert judged(8 - 1.074 - 0.32, on, kv=0).fits is Fits.PROCESSOR
    badge = judged(8 - 1.074 - 0.30, on, kv=0)
    assert badge.fits is Fits.TOO_LARGE
    assert badge.sentence == (
        "Too large for this machine: takes 6.9 GB, and models may take 6.9 GB of 8.0 GB of memory."
    )


def test_a_card_takes_what_fits_it_less_the_margin_of_llama_cpp() -> None:
    on = machine(16, None, card(12))
    room = 12 * GB - GPU_MARGIN_BYTES - COMPUTE_BYTES
    assert judge(room, 0, 100, on).fits is Fits.GPU
    assert judge(room + 1, 0, 100, on).fits is Fits.PARTLY
    badge = judged(4, on)
    assert badge.sentence == "Fits your GPU with 8,192 tokens of context: 5.4 of 12.0 GB."


def test_a_busy_main_memory_does_not_matter_to_a_card() -> None:
    assert judged(4, machine(16, 0.1, card(12))).fits is Fits.GPU


def test_layers_go_to_main_memory_where_a_card_is_too_small() -> None:
    badge = judged(12, machine(32, None, card(8)))
    assert badge.fits is Fits.PARTLY
    assert "6.9 GB of 13.4 GB fit there" in badge.sentence
    assert judged(12, machine(32, 5, card(8))).fits is Fits.TIGHT
    too_large = judged(60, machine(32, None, card(8)))
    assert too_large.fits is Fits.TOO_LARGE
    assert too_large.sentence.endswith("28.8 GB of 32.0 GB of memory and 6.9 GB on your GPU.")


def test_several_cards_are_added_up() -> None:
    two = machine(16, None, card(12), card(12))
    badge = judged(18, two)
    assert badge.fits is Fits.GPU
    assert badge.sentence.startswith("Fits your 2 GPUs")
    assert judged(21, two).fits is Fits.PARTLY  # a margin and a compute buffer on each


def test_a_card_smaller_than_its_margin_is_none() -> None:
    badge = judged(2, machine(16, None, card(1)))
    assert (badge.fits, badge.sentence[:21]) == (Fits.PROCESSOR, "Runs on the processor")


def test_a_card_of_unknown_size_is_not_guessed_at() -> None:
    badge = judged(4, machine(16, None, card(None)))
    assert badge.fits is Fits.UNKNOWN
    assert "how much memory your GPU has is not known" in badge.sentence
    assert judged(4, machine(16, None, card(None), card(12))).fits is Fits.GPU


def test_a_shared_gpu_takes_main_memory() -> None:
    unified = machine(24, None, GpuRoom("Apple M4", 16 * GB, shared=True))
    assert judged(8, unified).fits is Fits.GPU
    assert judged(8, unified).sentence == (
        "Fits your GPU with 8,192 tokens of context: 9.4 GB of 16.0 GB that it may take of memory."
    )
    assert judged(13.7, unified).fits is Fits.PARTLY  # the margin that llama.cpp leaves
    assert judged(17, unified).fits is Fits.PARTLY  # more than the GPU may take
    assert judged(23, unified).fits is Fits.TOO_LARGE
    assert judged(8, machine(24, 9, GpuRoom("M4", 16 * GB, shared=True))).fits is Fits.TIGHT


def test_a_shared_gpu_without_a_known_limit_is_bounded_by_main_memory() -> None:
    badge = judged(8, machine(24, None, GpuRoom("Iris Xe", None, shared=True)))
    assert badge.fits is Fits.GPU
    assert badge.sentence.endswith("9.4 GB of 24.0 GB of main memory, which it shares.")


def test_a_gpu_that_no_runtime_uses_counts_for_nothing_and_is_named() -> None:
    idle = dataclasses.replace(machine(16, None, card(24)), gpu_active=False)
    badge = judged(4, idle)
    assert badge.fits is Fits.PROCESSOR
    assert badge.sentence.endswith("no runtime for your GPU is active.")
    assert judged(20, idle).fits is Fits.TOO_LARGE


def test_a_cache_that_is_not_known_is_said_not_to_be_counted() -> None:
    badge = judged(4, machine(24, None, card(12)), kv=None)
    assert (badge.fits, badge.kv_cache_bytes) == (Fits.GPU, None)
    assert badge.sentence == (
        "Fits your GPU: 4.3 of 12.0 GB; its KV cache is not counted, as its size is not known."
    )


def test_an_unknown_size_or_memory_stays_unknown() -> None:
    badge = judge(None, KV, 8192, machine(24))
    assert (badge.fits, badge.total_bytes) == (Fits.UNKNOWN, None)
    nowhere = judge(GB, KV, 8192, Machine(None, None))
    assert (nowhere.fits, nowhere.total_bytes is None) == (Fits.UNKNOWN, False)
    assert weights_budget(Machine(None, None)) is None


@pytest.mark.parametrize(
    ("count", "text"),
    [(2_100_000_000, "2.1 GB"), (640_000_000, "640 MB"), (999_900_000, "1.0 GB"), (0, "0 MB")],
)
def test_sizes_are_told_as_people_read_them(count: int, text: str) -> None:
    assert size_text(count) == text


# -- the machine


def runtime(backend: str, *devices: str) -> Runtime:
    return Runtime("r", 1, backend, Path("llama-server"), "built", "", devices)


NVIDIA = Gpu("NVIDIA GeForce RTX 4090", "nvidia", 24 * GIB, False, driver="570")
IRIS = Gpu("Intel Iris Xe", "intel", None, True, vulkan=True)
BOTH = Hardware("linux", "x86_64", gpus=(NVIDIA, IRIS), cuda="12.8", vulkan="1.3")
MEMORY = (16 * GIB, 8 * GIB)


def test_the_gpus_are_those_that_the_active_runtime_uses() -> None:
    made = machine_of(BOTH, runtime("cuda"), MEMORY)
    assert made.gpu_active
    assert made.gpus == (GpuRoom(NVIDIA.name, 24 * GIB),)
    assert made.reserve_bytes == reserve_bytes(16 * GIB)


def test_what_the_runtime_lists_counts_more_than_what_tools_say() -> None:
    line = "CUDA0: NVIDIA GeForce RTX 4090 (24217 MiB, 23800 MiB free)"
    assert machine_of(BOTH, runtime("cuda", line), MEMORY).gpus[0].memory_bytes == 24217 << 20
    only = dataclasses.replace(BOTH, gpus=(IRIS,))
    line = "Vulkan0: Intel Iris Xe (TGL GT2) (11900 MiB, 9000 MiB free)"
    assert machine_of(only, runtime("vulkan", line), MEMORY).gpus == (
        GpuRoom(IRIS.name, 11900 << 20, shared=True),
    )


def test_a_cards_name_within_anothers_is_not_taken_for_it() -> None:
    cards = tuple(dataclasses.replace(NVIDIA, name=f"RTX 3060{more}") for more in (" Ti", ""))
    lines = ("CUDA0: RTX 3060 Ti (8000 MiB, 1 MiB free)", "CUDA1: RTX 3060 (12000 MiB, 1 MiB free)")
    made = machine_of(dataclasses.replace(BOTH, gpus=cards), runtime("cuda", *lines), MEMORY)
    assert [gpu.memory_bytes for gpu in made.gpus] == [8000 << 20, 12000 << 20]


@pytest.mark.parametrize("active", [None, runtime("cpu")])
def test_without_a_runtime_for_them_gpus_are_only_named(active: Runtime | None) -> None:
    made = machine_of(BOTH, active, MEMORY)
    assert (made.gpu_active, [gpu.name for gpu in made.gpus]) == (False, [NVIDIA.name])
    assert judge(GB, 0, 8, made).fits is Fits.PROCESSOR


def test_hardware_that_is_not_read_yet_leaves_main_memory() -> None:
    assert machine_of(None, runtime("cuda"), MEMORY).gpus == ()


def test_the_budget_for_weights_counts_cards_that_are_used() -> None:
    with_card = weights_budget(machine_of(BOTH, runtime("cuda"), MEMORY))
    without = weights_budget(machine_of(BOTH, runtime("cpu"), MEMORY))
    assert with_card is not None
    assert without is not None
    assert with_card - without == 24 * GIB - GPU_MARGIN_BYTES
