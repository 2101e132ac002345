"""The command that installs what a build lacks, for each package manager."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# os-release ID and ID_LIKE, most specific first.
DISTRIBUTIONS: Mapping[str, str] = {
    "debian": "apt",
    "ubuntu": "apt",
    "fedora": "dnf",
    "rhel": "dnf",
    "arch": "pacman",
    "suse": "zypper",
    "opensuse": "zypper",
}
# The packages that provide each need. Base tools and Vulkan as in docs/build.md of llama.cpp;
# names are those of the distributions' own archives, or of the vendor's for dnf and zypper
# (CUDA) and for oneAPI, whose packages are named alike everywhere.
PACKAGES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "apt": (
        "sudo apt install",
        {
            "cmake": "cmake",
            "ninja": "ninja-build",
            "compiler": "build-essential",
            "nvcc": "nvidia-cuda-toolkit",
            "hip": "hipcc",
            "hip-libraries": "libhipblas-dev librocblas-dev",
            "vulkan-headers": "libvulkan-dev",
            "vulkan-loader": "libvulkan-dev",
            "glslc": "glslc",
            "spirv-headers": "spirv-headers",
            "icpx": "intel-oneapi-compiler-dpcpp-cpp",
            "onemkl": "intel-oneapi-mkl-devel",
            "opencl-headers": "opencl-headers",
            "opencl-loader": "ocl-icd-opencl-dev",
            "python": "python3",
        },
    ),
    "dnf": (
        "sudo dnf install",
        {
            "cmake": "cmake",
            "ninja": "ninja-build",
            "compiler": "gcc-c++",
            "nvcc": "cuda-toolkit",
            "hip": "rocm-hip-devel",
            "hip-libraries": "hipblas-devel rocblas-devel",
            "vulkan-headers": "vulkan-headers",
            "vulkan-loader": "vulkan-loader-devel",
            "glslc": "glslc",
            "spirv-headers": "spirv-headers-devel",
            "icpx": "intel-oneapi-compiler-dpcpp-cpp",
            "onemkl": "intel-oneapi-mkl-devel",
            "opencl-headers": "opencl-headers",
            "opencl-loader": "ocl-icd-devel",
            "python": "python3",
        },
    ),
    "pacman": (
        "sudo pacman -S --needed",
        {
            "cmake": "cmake",
            "ninja": "ninja",
            "compiler": "base-devel",
            "nvcc": "cuda",
            "hip": "rocm-hip-sdk",
            "hip-libraries": "rocm-hip-sdk",
            "vulkan-headers": "vulkan-headers",
            "vulkan-loader": "vulkan-icd-loader",
            "glslc": "shaderc",
            "spirv-headers": "spirv-headers",
            "icpx": "intel-oneapi-dpcpp-cpp",
            "onemkl": "intel-oneapi-mkl-sycl",
            "opencl-headers": "opencl-headers",
            "opencl-loader": "ocl-icd",
            "python": "python",
        },
    ),
    "zypper": (
        "sudo zypper install",
        {
            "cmake": "cmake",
            "ninja": "ninja",
            "compiler": "gcc-c++",
            "nvcc": "cuda-toolkit",
            "hip": "rocm-hip-devel",
            "hip-libraries": "hipblas-devel rocblas-devel",
            "vulkan-headers": "vulkan-headers",
            "vulkan-loader": "vulkan-devel",
            "glslc": "shaderc",
            "spirv-headers": "spirv-headers",
            "icpx": "intel-oneapi-compiler-dpcpp-cpp",
            "onemkl": "intel-oneapi-mkl-devel",
            "opencl-headers": "opencl-headers",
            "opencl-loader": "ocl-icd-devel",
            "python": "python3",
        },
    ),
    "brew": (
        "brew install",
        {
            "cmake": "cmake",
            "ninja": "ninja",
            "vulkan-headers": "vulkan-headers",
            "vulkan-loader": "vulkan-loader",
            "glslc": "shaderc",
            "spirv-headers": "spirv-headers",
            "python": "python",
        },
    ),
    "winget": (
        "winget install",
        {
            "cmake": "Kitware.CMake",
            "ninja": "Ninja-build.Ninja",
            "compiler": "Microsoft.VisualStudio.2022.BuildTools",
            "nvcc": "Nvidia.CUDA",
            "vulkan-headers": "KhronosGroup.VulkanSDK",
            "vulkan-loader": "KhronosGroup.VulkanSDK",
            "glslc": "KhronosGroup.VulkanSDK",
            "spirv-headers": "KhronosGroup.VulkanSDK",
            "icpx": "Intel.OneAPI.BaseToolkit",
            "onemkl": "Intel.OneAPI.BaseToolkit",
            "python": "Python.Python.3.13",
        },
    ),
}


def install_command(needs: Sequence[str], manager: str | None) -> str:
    """One line for a terminal; empty where no package of `manager` provides them."""
    if manager is None:
        return ""
    command, packages = PACKAGES[manager]
    wanted = " ".join(packages[need] for need in needs if need in packages).split()
    commands = [f"{command} {' '.join(dict.fromkeys(wanted))}"] if wanted else []
    if manager == "brew" and "compiler" in needs:
        commands.append("xcode-select --install")
    return " && ".join(commands)


def find_package_manager(
    os_release: Path = Path("/etc/os-release"), which: Callable[[str], str | None] = shutil.which
) -> str | None:
    """The key of `PACKAGES` for this system."""
    system = {"win32": "winget", "darwin": "brew"}.get(sys.platform)
    if system is not None:
        return system
    try:
        text = os_release.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    names = [fields.get("ID", ""), *fields.get("ID_LIKE", "").strip('"').split()]
    for name in names:
        plain = name.strip('"').partition("-")[0]
        if plain in DISTRIBUTIONS:
            return DISTRIBUTIONS[plain]
    return next((name for name in PACKAGES if which(name)), None)
