"""Toolchains on made-up machines: what is found, what is missing or too old, and what to do."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tray_app.engine.errors import RuntimeBuildFailed
from tray_app.engine.runtime import install_commands
from tray_app.engine.runtime.backend_tools import VULKAN_HEADERS, header_version
from tray_app.engine.runtime.build_host import BuildHost
from tray_app.engine.runtime.install_commands import find_package_manager, install_command
from tray_app.engine.runtime.recipe import Wanted
from tray_app.engine.runtime.toolchain import NAMES, find_toolchain, missing_for
from tray_app.engine.runtime.values import BACKENDS

posix_only = pytest.mark.skipif(os.name == "nt", reason="the made-up programs are sh scripts")

# The top of vulkan_core.h of Debian 12 (1.3.239), and the same lines of 1.4.309 and 1.1.85.
CORE_H = """\
#define VK_API_VERSION_1_0 VK_MAKE_API_VERSION(0, 1, 0, 0)// Patch version should always be 0
// Version of this file
#define VK_HEADER_VERSION {patch}

// Complete version of this file
#define VK_HEADER_VERSION_COMPLETE {maker}{minor}, VK_HEADER_VERSION)
"""
# `nvcc --version` and `hipconfig --version` as the CUDA 12.4 toolkit and ROCm 6.2 print them.
NVCC_SAYS = """\
nvcc: NVIDIA (R) Cuda compiler driver
Copyright (c) 2005-2024 NVIDIA Corporation
Built on Thu_Mar_28_02:18:24_PDT_2024
Cuda compilation tools, release {0}, V{0}.131
Build cuda_{0}.r{0}/compiler.34097967_0"""


class MadeUp:
    """A machine below a folder, with CMake, Ninja and a compiler."""

    def __init__(self, root: Path, cmake: str = "3.25.1") -> None:
        self.root = root
        self.environ = {"PATH": str(root / "usr/bin")}
        self.program("usr/bin/cmake", f"cmake version {cmake}")
        self.program("usr/bin/ninja", "1.11.1")
        self.program("usr/bin/c++", "c++ (Debian 12.2.0-14) 12.2.0")

    @property
    def host(self) -> BuildHost:
        return BuildHost(self.environ, self.root, "linux")

    def program(self, name: str, says: str = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Only sh's own words: the made-up PATH has no cat.
        path.write_text(f"#!/bin/sh\nprintf '%s\\n' '{says}'\n")
        path.chmod(0o755)
        return path

    def file(self, name: str, text: str = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def vulkan(self, prefix: str = "usr", patch: int = 309, minor: str = "1, 4") -> None:
        core = CORE_H.format(patch=patch, minor=minor, maker="VK_MAKE_API_VERSION(0, ")
        self.file(f"{prefix}/include/vulkan/vulkan_core.h", core)
        self.file(f"{prefix}/include/vulkan/vulkan.hpp")

    def vulkan_rest(self) -> None:
        self.file("usr/lib/x86_64-linux-gnu/libvulkan.so")
        self.file("usr/share/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake")
        self.program("usr/bin/glslc")


@pytest.fixture
def made_up(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path)


def test_a_missing_toolchain_is_named_with_its_install_command(tmp_path: Path) -> None:
    empty = BuildHost({"PATH": str(tmp_path)}, tmp_path, "linux")
    with pytest.raises(RuntimeBuildFailed, match=r"CMake, Ninja or make, a C\+\+ compiler") as e:
        find_toolchain("cpu", host=empty, package_manager="apt")
    assert e.value.remedy == "Run: sudo apt install cmake ninja-build build-essential"
    with pytest.raises(RuntimeBuildFailed) as e:
        find_toolchain("cpu", host=empty, package_manager="brew")
    assert e.value.remedy == "Run: brew install cmake ninja && xcode-select --install"


@posix_only
def test_only_what_is_missing_is_named_and_a_broken_tool_counts_as_missing(tmp_path: Path) -> None:
    for name, status in {"cmake": 0, "make": 0, "c++": 1, "g++": 1}.items():
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\nexit {status}\n")
        tool.chmod(0o755)
    host = BuildHost({"PATH": str(tmp_path)}, tmp_path, "linux")
    with pytest.raises(RuntimeBuildFailed, match=r"here: a C\+\+ compiler is missing") as e:
        find_toolchain("cpu", host=host, package_manager="dnf")
    assert e.value.remedy == "Run: sudo dnf install gcc-c++"
    (tmp_path / "c++").write_text("#!/bin/sh\nexit 0\n")
    found = find_toolchain("cpu", host=host)
    assert (found.generator, found.make_program) == ("Unix Makefiles", str(tmp_path / "make"))
    assert found.nice is None


@posix_only
def test_a_cmake_that_is_too_old_for_a_backend_is_named_with_both_versions(tmp_path: Path) -> None:
    made_up = MadeUp(tmp_path, cmake="3.16.3")
    made_up.vulkan()
    made_up.vulkan_rest()
    assert missing_for("cpu", host=made_up.host, package_manager="apt") is None
    missing = missing_for("vulkan", host=made_up.host, package_manager="apt")
    assert missing is not None
    assert missing.needs == ("CMake 3.19 or newer (3.16.3 is installed)",)
    assert missing.remedy


@posix_only
def test_what_vulkan_lacks_is_named_with_one_command_for_each_distribution(
    made_up: MadeUp,
) -> None:
    commands = {
        "apt": "sudo apt install libvulkan-dev glslc spirv-headers",
        "dnf": "sudo dnf install vulkan-headers vulkan-loader-devel glslc spirv-headers-devel",
        "pacman": "sudo pacman -S --needed vulkan-headers vulkan-icd-loader shaderc spirv-headers",
        "zypper": "sudo zypper install vulkan-headers vulkan-devel shaderc spirv-headers",
        "brew": "brew install vulkan-headers vulkan-loader shaderc spirv-headers",
        "winget": "winget install KhronosGroup.VulkanSDK",
    }
    for manager, command in commands.items():
        missing = missing_for("vulkan", host=made_up.host, package_manager=manager)
        assert missing is not None
        assert missing.command == command
        assert missing.remedy == f"Run: {command}"
    assert missing.needs == (
        "the Vulkan headers",
        "the Vulkan loader",
        "glslc",
        "SPIRV-Headers",
    )
    assert missing.message.startswith("llama.cpp for Vulkan cannot be built here: ")


@posix_only
def test_vulkan_headers_that_are_too_old_are_named_before_any_compiler_runs(
    made_up: MadeUp,
) -> None:
    made_up.vulkan(patch=239, minor="1, 3")  # Debian 12
    made_up.vulkan_rest()
    missing = missing_for("vulkan", host=made_up.host, package_manager="apt")
    assert missing is not None
    assert missing.message == (
        "llama.cpp for Vulkan cannot be built here: Vulkan headers 1.3.272 or newer (1.3.239 is"
        " installed) is needed."
    )
    assert missing.command == ""
    assert "VULKAN_SDK" in missing.remedy


@posix_only
def test_what_is_missing_beside_too_old_headers_keeps_its_command(made_up: MadeUp) -> None:
    made_up.vulkan(patch=239, minor="1, 3")
    made_up.file("usr/lib64/libvulkan.so")
    missing = missing_for("vulkan", host=made_up.host, package_manager="apt")
    assert missing is not None
    assert missing.command == "sudo apt install glslc spirv-headers"
    assert "glslc, SPIRV-Headers are missing, and Vulkan headers 1.3.272" in missing.message
    assert missing.remedy.startswith("Run: sudo apt install glslc spirv-headers The Vulkan SDK")


@posix_only
def test_a_vulkan_sdk_wins_over_the_systems_headers(made_up: MadeUp) -> None:
    made_up.vulkan(patch=239, minor="1, 3")
    made_up.vulkan_rest()
    made_up.vulkan("sdk")
    made_up.environ["VULKAN_SDK"] = str(made_up.root / "sdk")
    found = find_toolchain("vulkan", host=made_up.host)
    assert f"-DVulkan_INCLUDE_DIR={made_up.root}/sdk/include" in found.options
    assert f"-DVulkan_GLSLC_EXECUTABLE={made_up.root}/usr/bin/glslc" in found.options
    made_up.program("sdk/bin/glslc")
    found = find_toolchain("vulkan", host=made_up.host)
    assert f"-DVulkan_GLSLC_EXECUTABLE={made_up.root}/sdk/bin/glslc" in found.options
    assert found.words.endswith("Vulkan headers 1.4.309")


def test_the_version_of_vulkan_headers_is_read_in_each_of_its_forms(tmp_path: Path) -> None:
    path = tmp_path / "vulkan_core.h"
    for patch, minor, maker, version in (
        (239, "1, 3", "VK_MAKE_API_VERSION(0, ", (1, 3, 239)),
        (309, "1, 4", "VK_MAKE_API_VERSION(0, ", (1, 4, 309)),
        (148, "1, 2", "VK_MAKE_VERSION(", (1, 2, 148)),
    ):
        path.write_text(CORE_H.format(patch=patch, minor=minor, maker=maker))
        assert header_version(path) == version
    path.write_bytes(os.urandom(50_000))
    assert header_version(path) is None
    assert header_version(tmp_path / "none") is None
    assert (1, 3, 271) < VULKAN_HEADERS <= (1, 3, 272)


def cuda(made_up: MadeUp, place: str, version: str) -> str:
    made_up.file(f"{place}/lib64/libcudart.so")
    made_up.file(f"{place}/targets/x86_64-linux/include/cublas_v2.h")
    return str(made_up.program(f"{place}/bin/nvcc", NVCC_SAYS.format(version)))


@posix_only
def test_cuda_is_found_in_its_usual_place_and_its_libraries_are_remembered(
    made_up: MadeUp,
) -> None:
    nvcc = cuda(made_up, "usr/local/cuda-12.4", "12.4")
    found = find_toolchain("cuda", Wanted(("8.9",), "12.8"), made_up.host)
    assert f"-DCMAKE_CUDA_COMPILER={nvcc}" in found.options
    assert found.library_folders == (f"{made_up.root}/usr/local/cuda-12.4/lib64",)
    assert found.words == "c++ (Debian 12.2.0-14) 12.2.0, CMake 3.25.1, CUDA 12.4"


@posix_only
def test_the_newest_cuda_that_fits_is_taken(made_up: MadeUp) -> None:
    cuda(made_up, "usr", "11.5")
    cuda(made_up, "usr/local/cuda-9.2", "9.2")
    right = cuda(made_up, "usr/local/cuda-12.4", "12.4")
    cuda(made_up, "usr/local/cuda-13.0", "13.0")
    found = find_toolchain("cuda", Wanted(("8.9",), "12.8"), made_up.host)
    assert f"-DCMAKE_CUDA_COMPILER={right}" in found.options


@posix_only
@pytest.mark.parametrize(
    ("installed", "wanted", "needed"),
    [
        ("11.5", Wanted(("8.9",)), "CUDA 11.8 or newer for this GPU (CUDA 11.5 is installed)"),
        ("12.4", Wanted(("12.0",)), "CUDA 12.8 or newer for this GPU (CUDA 12.4 is installed)"),
        ("13.0", Wanted(("6.1",)), "CUDA before 13.0 for this GPU (CUDA 13.0 is installed)"),
        (
            "13.0",
            Wanted(("8.9",), "12.8"),
            "CUDA 12, as the driver runs no newer one (CUDA 13.0 is installed)",
        ),
    ],
)
def test_a_cuda_that_does_not_fit_the_gpu_or_its_driver_is_named(
    made_up: MadeUp, installed: str, wanted: Wanted, needed: str
) -> None:
    cuda(made_up, "usr/local/cuda", installed)
    missing = missing_for("cuda", wanted, made_up.host, "apt")
    assert missing is not None
    assert missing.needs == (needed,)
    assert "developer.nvidia.com" in missing.remedy


@posix_only
def test_a_gpu_that_is_newer_than_we_know_is_left_to_nvcc(made_up: MadeUp) -> None:
    cuda(made_up, "usr/local/cuda", "12.4")
    assert missing_for("cuda", Wanted(("19.7", "odd")), made_up.host, "apt") is None


@posix_only
def test_an_nvcc_on_path_that_is_a_script_is_asked_for_its_toolkit(made_up: MadeUp) -> None:
    cuda(made_up, "usr/local/cuda-12.4", "12.4")
    top = made_up.root / "usr/local/cuda-12.4/bin/.."
    wrapper = made_up.program("usr/bin/nvcc", f"{NVCC_SAYS.format('12.4')}\n#$ TOP={top}")
    found = find_toolchain("cuda", host=made_up.host)
    assert found.options == (
        f"-DCMAKE_CUDA_COMPILER={wrapper}",
        f"-DCUDAToolkit_ROOT={made_up.root}/usr/local/cuda-12.4",
    )


@posix_only
def test_a_toolkit_without_cublas_is_named_before_cmake_stumbles(made_up: MadeUp) -> None:
    made_up.program("usr/local/cuda/bin/nvcc", NVCC_SAYS.format("13.0"))
    missing = missing_for("cuda", host=made_up.host, package_manager="apt")
    assert missing is not None
    assert missing.needs == ("cuBLAS for CUDA 13.0",)
    assert "libcublas-dev-13-0" in missing.remedy


@posix_only
def test_without_cuda_its_package_is_named(made_up: MadeUp) -> None:
    missing = missing_for("cuda", host=made_up.host, package_manager="apt")
    assert missing is not None
    assert missing.command == "sudo apt install nvidia-cuda-toolkit"


def rocm(made_up: MadeUp, place: str = "opt/rocm", version: str = "6.2.4-66") -> None:
    made_up.program(f"{place}/bin/hipcc")
    made_up.program(f"{place}/bin/hipconfig", version)
    made_up.file(f"{place}/llvm/bin/clang")
    made_up.file(f"{place}/lib/cmake/rocblas/rocblas-config.cmake")


@posix_only
def test_rocm_needs_its_libraries_too(made_up: MadeUp) -> None:
    rocm(made_up)
    missing = missing_for("rocm", host=made_up.host, package_manager="pacman")
    assert missing is not None
    assert (missing.needs, missing.command) == (
        ("hipBLAS and rocBLAS",),
        "sudo pacman -S --needed rocm-hip-sdk",
    )
    made_up.file("opt/rocm/lib/cmake/hipblas/hipblas-config.cmake")
    found = find_toolchain("rocm", host=made_up.host)
    root = f"{made_up.root}/opt/rocm"
    assert found.env == {"ROCM_PATH": root, "HIP_PATH": root, "HIPCXX": f"{root}/llvm/bin/clang"}
    assert found.library_folders == (f"{root}/lib",)
    assert found.words.endswith("ROCm 6.2.4")


@posix_only
def test_a_rocm_that_is_too_old_is_named(made_up: MadeUp) -> None:
    rocm(made_up)
    made_up.file("opt/rocm/.info/version", "5.7.1-98\n")
    missing = missing_for("rocm", host=made_up.host, package_manager="apt")
    assert missing is not None
    assert missing.needs == ("ROCm 6.1 or newer (5.7.1 is installed)",)


@posix_only
def test_oneapi_works_without_its_setvars_script(made_up: MadeUp) -> None:
    root = made_up.root / "opt/intel/oneapi"
    made_up.program("opt/intel/oneapi/compiler/latest/bin/icpx")
    missing = missing_for("sycl", host=made_up.host, package_manager="apt")
    assert missing is not None
    assert missing.command == "sudo apt install intel-oneapi-mkl-devel"
    made_up.file("opt/intel/oneapi/mkl/latest/lib/libmkl_sycl_blas.so")
    found = find_toolchain("sycl", host=made_up.host)
    assert f"-DCMAKE_CXX_COMPILER={root}/compiler/latest/bin/icpx" in found.options
    assert found.env["CMAKE_PREFIX_PATH"] == f"{root}/compiler/latest:{root}/mkl/latest"
    assert found.env["PATH"].startswith(f"{root}/compiler/latest/bin:")
    assert f"{root}/mkl/latest/lib" in found.library_folders


@posix_only
def test_opencl_needs_headers_loader_and_python(made_up: MadeUp) -> None:
    missing = missing_for("opencl", host=made_up.host, package_manager="apt")
    assert missing is not None
    assert missing.command == "sudo apt install opencl-headers ocl-icd-opencl-dev python3"
    made_up.file("usr/include/CL/cl.h")
    made_up.file("usr/lib64/libOpenCL.so")
    made_up.program("usr/bin/python3")
    found = find_toolchain("opencl", host=made_up.host)
    assert f"-DOpenCL_LIBRARY={made_up.root}/usr/lib64/libOpenCL.so" in found.options


@posix_only
def test_metal_needs_a_mac(made_up: MadeUp) -> None:
    missing = missing_for("metal", host=made_up.host, package_manager="apt")
    assert missing is not None
    assert missing.needs == ("macOS",)
    mac = BuildHost(made_up.environ, made_up.root, "darwin")
    assert missing_for("metal", host=mac, package_manager="brew") is None


def test_what_is_missing_here_is_known_in_a_moment() -> None:
    for backend in BACKENDS:
        started = time.monotonic()
        missing = missing_for(backend)
        assert time.monotonic() - started < 1.0
        assert missing is None or missing.remedy


def test_every_need_has_words_and_a_package() -> None:
    for manager, (_, packages) in install_commands.PACKAGES.items():
        assert packages.keys() <= NAMES.keys(), manager
    for manager in ("apt", "dnf", "pacman", "zypper"):
        assert install_commands.PACKAGES[manager][1].keys() == NAMES.keys()
    assert install_command(("hip",), "winget") == ""
    assert install_command(("cmake",), None) == ""


@pytest.mark.skipif(os.sys.platform != "linux", reason="distributions are Linux")
@pytest.mark.parametrize(
    ("os_release", "manager"),
    [
        ("ID=debian\n", "apt"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "apt"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf"),
        ("ID=fedora\n", "dnf"),
        ("ID=manjaro\nID_LIKE=arch\n", "pacman"),
        ('ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n', "zypper"),
        ("ID=unheard-of\n", "zypper"),
        (None, "zypper"),
    ],
)
def test_each_distribution_gets_its_own_command(
    tmp_path: Path, os_release: str | None, manager: str
) -> None:
    path = tmp_path / "os-release"
    if os_release is not None:
        path.write_text(os_release)
    which = {"zypper": "/usr/bin/zypper"}.get
    assert find_package_manager(path, which) == manager
    assert manager in install_commands.PACKAGES
