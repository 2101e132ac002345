"""Which files of a release are for a machine: recorded lists of four eras, and renamed ones."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from tests.release_server import recorded
from tray_app.engine.errors import RuntimeMissing
from tray_app.engine.runtime.asset_names import read_name
from tray_app.engine.runtime.assets import latest, pick, prebuilts
from tray_app.engine.runtime.feed_rows import read_release
from tray_app.engine.runtime.values import BACKENDS, Asset, Gpu, Hardware, Prebuilt, Release, Rung

RUNGS = tuple(Rung(backend, backend in ("vulkan", "cpu"), "told") for backend in BACKENDS)
LINUX = Hardware("linux", "x86_64")
LINUX_ARM = Hardware("linux", "arm64")
WINDOWS = Hardware("windows", "x86_64")
WINDOWS_ARM = Hardware("windows", "arm64")
MAC = Hardware("darwin", "arm64")
INTEL_MAC = Hardware("darwin", "x86_64")


def release(tag: str, *, digests: bool = False) -> Release:
    found = read_release(recorded(tag))
    assert found is not None
    return with_digests(found) if digests else found


def with_digests(given: Release) -> Release:
    """As if the feed had told a sha256 for each of its files."""
    assets = tuple(dataclasses.replace(asset, sha256="a" * 64) for asset in given.assets)
    return dataclasses.replace(given, assets=assets)


def of(*names: str, tag: str = "b12000") -> Release:
    assets = [
        Asset(name, 1000, hashlib.sha256(name.encode()).hexdigest(), f"https://x.example/{name}")
        for name in names
    ]
    return Release(tag, int(tag[1:]), None, "", "", tuple(assets))


def names(prebuilt: Prebuilt) -> list[str]:
    return [asset.name for asset in prebuilt.assets]


def chosen(given: Release, hardware: Hardware) -> dict[str, list[str]]:
    return {each.backend: names(each) for each in prebuilts(given, hardware, RUNGS)}


def nvidia(cuda: str | None, *capabilities: str | None, system: Hardware = LINUX) -> Hardware:
    gpus = tuple(Gpu("RTX", "nvidia", compute_capability=each) for each in capabilities)
    return dataclasses.replace(system, cuda=cuda, gpus=gpus)


def cuda_of(given: Release, hardware: Hardware) -> str | None:
    found = {each.backend: each.variant for each in prebuilts(given, hardware, RUNGS)}
    return found.get("cuda")


B11459 = "llama-b11459-bin-"


@pytest.mark.parametrize(
    ("tag", "hardware", "expected"),
    [
        (
            "b11459",
            LINUX,
            {
                "cuda": [
                    f"{B11459}ubuntu-cuda-12.8-x64.tar.gz",
                    "cudart-llama-b11459-bin-ubuntu-cuda-12.8-x64.tar.gz",
                ],
                "rocm": [f"{B11459}ubuntu-rocm-10.0-x64.tar.gz"],
                "vulkan": [f"{B11459}ubuntu-vulkan-x64.tar.gz"],
                "sycl": [f"{B11459}ubuntu-sycl-fp32-x64.tar.gz"],
                "cpu": [f"{B11459}ubuntu-x64.tar.gz"],
            },
        ),
        (
            "b11459",
            LINUX_ARM,
            {
                "cuda": [
                    f"{B11459}ubuntu-cuda-13.4-arm64.tar.gz",
                    "cudart-llama-b11459-bin-ubuntu-cuda-13.4-arm64.tar.gz",
                ],
                "vulkan": [f"{B11459}ubuntu-vulkan-arm64.tar.gz"],
                "cpu": [f"{B11459}ubuntu-arm64.tar.gz"],
            },
        ),
        (
            "b11459",
            WINDOWS,
            {
                "cuda": [
                    f"{B11459}win-cuda-12.4-x64.zip",
                    "cudart-llama-bin-win-cuda-12.4-x64.zip",
                ],
                "rocm": [f"{B11459}win-rocm-10.0-x64.zip"],
                "vulkan": [f"{B11459}win-vulkan-x64.zip"],
                "sycl": [f"{B11459}win-sycl-x64.zip"],
                "cpu": [f"{B11459}win-cpu-x64.zip"],
            },
        ),
        (
            "b11459",
            WINDOWS_ARM,
            {
                "cuda": [
                    f"{B11459}win-cuda-13.4-arm64.zip",
                    "cudart-llama-bin-win-cuda-13.4-arm64.zip",
                ],
                "vulkan": [f"{B11459}win-vulkan-arm64.zip"],
                "opencl": [f"{B11459}win-opencl-adreno-arm64.zip"],
                "cpu": [f"{B11459}win-cpu-arm64.zip"],
            },
        ),
        ("b11459", MAC, {"metal": [f"{B11459}macos-arm64.tar.gz"]}),
        ("b11459", INTEL_MAC, {"cpu": [f"{B11459}macos-x64.tar.gz"]}),
        ("b11459", Hardware("freebsd", "x86_64"), {}),
        ("b11459", Hardware("linux", "riscv64"), {}),
        (
            "b7902",
            LINUX,
            {
                "vulkan": ["llama-b7902-bin-ubuntu-vulkan-x64.tar.gz"],
                "cpu": ["llama-b7902-bin-ubuntu-x64.tar.gz"],
            },
        ),
        (
            "b7902",
            WINDOWS,
            {
                "cuda": [
                    "llama-b7902-bin-win-cuda-12.4-x64.zip",
                    "cudart-llama-bin-win-cuda-12.4-x64.zip",
                ],
                "rocm": ["llama-b7902-bin-win-hip-radeon-x64.zip"],
                "vulkan": ["llama-b7902-bin-win-vulkan-x64.zip"],
                "sycl": ["llama-b7902-bin-win-sycl-x64.zip"],
                "cpu": ["llama-b7902-bin-win-cpu-x64.zip"],
            },
        ),
        ("b7902", LINUX_ARM, {}),
        (
            "b7345",
            LINUX,
            {
                "vulkan": ["llama-b7345-bin-ubuntu-vulkan-x64.zip"],
                "cpu": ["llama-b7345-bin-ubuntu-x64.zip"],
            },
        ),
        ("b7345", MAC, {"metal": ["llama-b7345-bin-macos-arm64.zip"]}),
        (
            "b4585",
            WINDOWS,
            {
                "cuda": [
                    "llama-b4585-bin-win-cuda-cu11.7-x64.zip",
                    "cudart-llama-bin-win-cu11.7-x64.zip",
                ],
                "vulkan": ["llama-b4585-bin-win-vulkan-x64.zip"],
                "sycl": ["llama-b4585-bin-win-sycl-x64.zip"],
            },
        ),
    ],
)
def test_each_machine_gets_its_own_files_of_a_recorded_release(
    tag: str, hardware: Hardware, expected: dict[str, list[str]]
) -> None:
    assert chosen(release(tag, digests=tag == "b4585"), hardware) == expected


def test_they_come_in_the_order_of_the_ladder() -> None:
    found = [each.backend for each in prebuilts(release("b11459"), LINUX, RUNGS[::-1])]
    assert found == ["cpu", "sycl", "vulkan", "rocm", "cuda"]


@pytest.mark.parametrize(
    ("driver", "capabilities", "variant"),
    [
        ("13.4", ("8.9",), "13.4"),
        ("14.0", ("12.0",), "13.4"),
        # 13.0 runs 12.8 for sure; of 13.4 only what needs no compiling on the machine.
        ("13.0", ("8.9",), "12.8"),
        ("12.9", ("8.9",), "12.8"),
        ("12.8", ("8.9",), "12.8"),
        # Nothing is as old: the nearest of the same major number, and the proof decides.
        ("12.2", ("8.9",), "12.8"),
        ("13.4", ("7.0",), "12.8"),  # CUDA 13 knows no Volta
        ("13.4", ("8.9", "6.1"), "12.8"),  # one that serves both
        ("13.4", (None,), "12.8"),
        ("13.4", (), "13.4"),
        ("11.8", ("8.6",), None),
        (None, ("8.9",), "12.8"),
        ("", ("8.9",), "12.8"),
        ("N/A", ("8.9",), "12.8"),
    ],
)
def test_the_cuda_build_is_one_that_driver_and_gpus_run(
    driver: str | None, capabilities: tuple[str | None, ...], variant: str | None
) -> None:
    assert cuda_of(release("b11459"), nvidia(driver, *capabilities)) == variant


def test_cuda_13_alone_is_for_modern_gpus_only() -> None:
    only = of("llama-b12000-bin-ubuntu-cuda-13.4-x64.tar.gz")
    assert cuda_of(only, nvidia("13.4", "6.1")) is None
    assert cuda_of(only, nvidia("13.4", "6.1", "8.9")) == "13.4"
    assert cuda_of(only, nvidia("13.4", None)) == "13.4"


def test_the_companion_is_of_the_same_cuda_system_and_processor() -> None:
    for hardware, end in [(WINDOWS, "13.4-x64.zip"), (WINDOWS_ARM, "13.4-arm64.zip")]:
        found = chosen(release("b11459"), nvidia("13.4", "8.9", system=hardware))["cuda"]
        assert found == [f"{B11459}win-cuda-{end}", f"cudart-llama-bin-win-cuda-{end}"]


def test_a_cuda_build_for_windows_without_its_companion_is_not_offered() -> None:
    full = release("b11459")
    left = tuple(a for a in full.assets if a.name != "cudart-llama-bin-win-cuda-12.4-x64.zip")
    lacking = dataclasses.replace(full, assets=left)
    assert cuda_of(lacking, nvidia("12.8", "8.9", system=WINDOWS)) is None
    assert cuda_of(lacking, nvidia("13.4", "8.9", system=WINDOWS)) == "13.4"


def test_a_cuda_build_for_linux_may_use_the_libraries_of_the_system() -> None:
    alone = of("llama-b12000-bin-ubuntu-cuda-12.8-x64.tar.gz")
    assert chosen(alone, LINUX) == {"cuda": ["llama-b12000-bin-ubuntu-cuda-12.8-x64.tar.gz"]}
    # One that brings them is preferred.
    both = of(
        "llama-b12000-bin-ubuntu-cuda-13.4-x64.tar.gz",
        "llama-b12000-bin-ubuntu-cuda-12.8-x64.tar.gz",
        "cudart-llama-b12000-bin-ubuntu-cuda-12.8-x64.tar.gz",
    )
    assert cuda_of(both, nvidia("13.4", "8.9")) == "12.8"


@pytest.mark.parametrize(
    ("installed", "variant"),
    [("6.4.1", "6.4"), ("7.1", "7.2"), (None, "7.2"), ("8.0", "7.2"), ("5.7", "6.4")],
)
def test_the_rocm_build_is_of_the_installed_major_version(
    installed: str | None, variant: str
) -> None:
    two = of(
        "llama-b12000-bin-ubuntu-rocm-6.4-x64.tar.gz", "llama-b12000-bin-ubuntu-rocm-7.2-x64.tar.gz"
    )
    hardware = dataclasses.replace(LINUX, rocm=installed)
    assert pick(two, hardware, RUNGS, "rocm").variant == variant


def test_a_build_for_one_gpu_is_for_that_gpu_only() -> None:
    old = release("b4585", digests=True)
    assert "rocm" not in chosen(old, WINDOWS)
    radeon = dataclasses.replace(WINDOWS, gpus=(Gpu("RX 6800", "amd", gfx_target="gfx1030"),))
    assert chosen(old, radeon)["rocm"] == ["llama-b4585-bin-win-hip-x64-gfx1030.zip"]
    family = of("llama-b1-ubuntu-rocm-gfx110X-x64.zip", "llama-b1-ubuntu-cuda-sm_86-x64.tar.xz")
    seven = dataclasses.replace(LINUX, gpus=(Gpu("RX 7900", "amd", gfx_target="gfx1100"),))
    assert list(chosen(family, seven)) == ["rocm"]
    assert list(chosen(family, nvidia(None, "8.6"))) == ["cuda"]
    assert chosen(family, nvidia(None, "8.9")) == {}


@pytest.mark.parametrize(
    "name",
    [
        "llama-b11459-xcframework.zip",
        "llama-b11459-ui.tar.gz",
        "llama-b11459-bin-android-arm64.tar.gz",
        "llama-b11459-bin-linux-arm64-snapdragon.tar.gz",
        "llama-b7902-bin-910b-openEuler-aarch64-aclgraph.tar.gz",
        "llama-b7902-bin-310p-openEuler-x86.tar.gz",
        "llama-b11459-bin-ubuntu-s390x.tar.gz",
        "llama-b11459-bin-ubuntu-openvino-2026.4.1-x64.tar.gz",
        "llama-b9000-bin-macos-arm64-kleidiai.tar.gz",
        "llama-b4585-bin-win-avx2-x64.zip",
        "llama-b12000-bin-ubuntu-vulkan-debug-x64.tar.gz",
        "llama-b12000-bin-ubuntu-x64.tar.gz.sha256",
        "llama-b12000-bin-ubuntu-x64.7z",
        "llama-b12000-bin-ubuntu-newthing-x64.tar.gz",  # may be a backend of tomorrow
        "llama-b12000-bin-ubuntu-vulkan-cuda-x64.tar.gz",
        "llama-b12000-bin-ubuntu-win-x64.tar.gz",
        "llama-b12000-bin-ubuntu.tar.gz",
        "llama-b12000-bin-x64.tar.gz",
        "nightly-tag.txt",
        "source-code.zip",
        "",
    ],
)
def test_what_is_no_build_for_a_desktop_never_matches(name: str) -> None:
    assert read_name(name) is None


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("llamacpp-12000-Linux-X86_64-Vulkan.tar.gz", "vulkan"),
        ("x64-ubuntu-vulkan-bin-b12000-llama.tgz", "vulkan"),
        ("ggml_b12000_vulkan_linux_amd64.tar.xz", "vulkan"),
        ("llama.cpp-v1.2.3-linux-x64-cpu.zip", "cpu"),
        ("llama-b12000-bin-ubuntu-24.04-x64.tar.gz", "cpu"),
        ("wrangled-b12000-linux-x64-cuda12.tar.gz", "cuda"),
        ("llama-b12000-bin-ubuntu-cuda-cu12.4-x64.tar.gz", "cuda"),
    ],
)
def test_renamed_files_are_known_by_their_words(name: str, backend: str) -> None:
    found = pick(of(name), LINUX, RUNGS, backend)
    assert names(found) == [name]


def test_two_strange_names_of_one_kind_are_no_choice() -> None:
    strange = ("llama-b1-linux-vulkan-big-x64.zip", "llama-b1-linux-vulkan-small-x64.zip")
    assert chosen(of(*strange), LINUX) == {}
    plain = "llama-b1-linux-vulkan-x64.zip"
    assert chosen(of(*strange, plain), LINUX) == {"vulkan": [plain]}


def test_the_first_usable_rung_is_picked_and_any_rung_can_be_named() -> None:
    full = release("b11459")
    assert pick(full, LINUX, RUNGS).backend == "vulkan"
    assert pick(full, LINUX, RUNGS, "cuda").backend == "cuda"
    cuda_first = (Rung("cuda", True, ""), *RUNGS[1:])
    assert pick(full, LINUX, cuda_first).size_bytes == sum(
        asset.size_bytes for asset in full.assets if "ubuntu-cuda-12.8" in asset.name
    )
    # A release without it: the next usable rung.
    assert pick(release("b7902"), LINUX, cuda_first).backend == "vulkan"


def test_a_missing_build_names_what_the_release_has() -> None:
    with pytest.raises(RuntimeMissing, match="b7902 has no cuda build for linux x86_64") as caught:
        pick(release("b7902"), LINUX, RUNGS, "cuda")
    assert "llama-b7902-bin-ubuntu-vulkan-x64.tar.gz" in caught.value.message
    assert "build it from source" in caught.value.remedy
    with pytest.raises(RuntimeMissing, match="no build that this machine can use"):
        pick(of("renamed-beyond-all-words.zip"), LINUX, RUNGS)
    with pytest.raises(RuntimeMissing, match="has no files"):
        pick(of(), LINUX, RUNGS)
    with pytest.raises(RuntimeMissing, match="and 60 more"):
        pick(of(*(f"{n}.zip" for n in range(100))), LINUX, RUNGS)


def test_files_without_a_sha256_are_not_offered_and_that_is_said() -> None:
    bare = release("b4585")
    assert prebuilts(bare, WINDOWS, RUNGS) == ()
    with pytest.raises(RuntimeMissing, match=r"tells no sha256: .*vulkan-x64\.zip"):
        pick(bare, WINDOWS, RUNGS, "vulkan")
    # A companion without one is none.
    full = release("b11459")
    assets = tuple(
        dataclasses.replace(asset, sha256=None) if asset.name.startswith("cudart") else asset
        for asset in full.assets
    )
    assert "cuda" not in chosen(dataclasses.replace(full, assets=assets), WINDOWS)


def test_a_release_that_is_not_complete_is_passed_over() -> None:
    full = release("b11459")
    some = dataclasses.replace(full, tag="b11460", build=11460, assets=full.assets[:6])
    none = dataclasses.replace(full, tag="b11461", build=11461, assets=())
    found = latest((full, none, some), LINUX, RUNGS)
    assert found is not None
    assert (found[0].tag, found[1].backend) == ("b11459", "vulkan")
    assert latest((none,), LINUX, RUNGS) is None
    assert latest((full,), LINUX, RUNGS, "metal") is None
    newer = dataclasses.replace(full, tag="b11462", build=11462)
    found = latest((full, newer), LINUX, RUNGS, "rocm")
    assert found is not None
    assert (found[0].tag, found[1].variant) == ("b11462", "10.0")
