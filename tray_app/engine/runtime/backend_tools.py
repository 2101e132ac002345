"""Finds what each GPU backend is compiled with, and says what is missing or too old.

Nothing is built to find out: files are looked for and versions read, in well under a second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .build_host import BuildHost, Version, first_file, in_words, version_in
from .recipe import Wanted

# `vk::LayerSettingEXT`, which b11434 uses unconditionally, came with VK_EXT_layer_settings
# in 1.3.272 (Vulkan-Docs, ChangeLog.adoc, 1 December 2023).
VULKAN_HEADERS: Version = (1, 3, 272)
ROCM: Version = (6, 1)  # ggml/src/ggml-hip/CMakeLists.txt
# The first CUDA that compiles for a compute capability, and the first that no longer does
# (release notes of the CUDA toolkit; ggml/src/ggml-cuda/CMakeLists.txt).
CUDA_SINCE: Mapping[str, Version] = {
    "7.5": (10, 0),
    "8.0": (11, 0),
    "8.6": (11, 1),
    "8.7": (11, 4),
    "8.9": (11, 8),
    "9.0": (11, 8),
    "10.0": (12, 8),
    "12.0": (12, 8),
    "10.3": (12, 9),
    "12.1": (12, 9),
}
CUDA_UNTIL: tuple[tuple[Version, Version], ...] = (((5, 0), (12, 0)), ((7, 5), (13, 0)))

CUDA_PAGE = "https://developer.nvidia.com/cuda-downloads"
ROCM_PAGE = "https://rocm.docs.amd.com/projects/install-on-linux"
VULKAN_PAGE = "https://vulkan.lunarg.com/sdk/home"
ONEAPI_PAGE = "https://www.intel.com/content/www/us/en/developer/tools/oneapi/base-toolkit.html"


@dataclass(frozen=True, slots=True)
class Tools:
    """What was found for one backend, or what was not."""

    missing: tuple[str, ...] = ()  # keys of install_commands.PACKAGES
    unfit: str = ""  # what is there and will not do, in words
    hint: str = ""  # where to get what no package brings
    options: tuple[str, ...] = ()  # for cmake
    env: Mapping[str, str] = field(default_factory=dict)
    library_folders: tuple[str, ...] = ()  # where the loader finds the toolkit's libraries
    words: str = ""  # "CUDA 12.4"


def cpu_tools(host: BuildHost, wanted: Wanted) -> Tools:
    """None beyond a C++ compiler."""
    return Tools()


def metal_tools(host: BuildHost, wanted: Wanted) -> Tools:
    """Metal is part of macOS; its kernels are compiled when they run."""
    return Tools() if host.platform == "darwin" else Tools(unfit="macOS")


def cuda_tools(host: BuildHost, wanted: Wanted) -> Tools:
    """nvcc: the user's choice, PATH, then the usual places; the first that fits the GPUs."""
    chosen = host.environ.get("CUDACXX")
    folders = [f / "bin" for f in host.named("CUDA_PATH", "CUDA_HOME")]
    usual = host.folders(
        "/usr/local/cuda/bin",
        "/usr/local/cuda-*/bin",
        "/opt/cuda/bin",
        "/Program Files/NVIDIA GPU Computing Toolkit/CUDA/v*/bin",
    )
    candidates = [chosen, host.which("nvcc")]
    candidates += [host.program(folder, "nvcc") for folder in (*folders, *usual)]
    unfit: Tools | None = None
    for nvcc in dict.fromkeys(c for c in candidates if c):
        version = version_in(host.says(nvcc, "--version"), r"release (\d+\.\d+)")
        if version is None:
            continue
        found = _cuda(host, nvcc, version, wanted)
        if not found.unfit:
            return found
        unfit = unfit or found
    if unfit is not None:
        return unfit
    return Tools(missing=("nvcc",), hint=f"CUDA is at {CUDA_PAGE}.")


def _cuda_unfit(version: Version, wanted: Wanted) -> str:
    here = f"CUDA {in_words(version)} is installed"
    for target in wanted.targets:
        since = CUDA_SINCE.get(target)
        if since is not None and version < since:
            return f"CUDA {in_words(since)} or newer for this GPU ({here})"
        number = version_in(target)
        for below, until in CUDA_UNTIL:
            if number is not None and number < below and version >= until:
                return f"CUDA before {in_words(until)} for this GPU ({here})"
    driver = version_in(wanted.driver_cuda)
    if driver is not None and version[0] > driver[0]:
        return f"CUDA {driver[0]}, as the driver runs no newer one ({here})"
    return ""


def _cuda(host: BuildHost, nvcc: str, version: Version, wanted: Wanted) -> Tools:
    if unfit := _cuda_unfit(version, wanted):
        return Tools(unfit=unfit, hint=f"Another CUDA toolkit is at {CUDA_PAGE}.")
    root = _cuda_root(host, nvcc)
    # A toolkit can be installed in parts, and nvcc alone is not enough.
    if not first_file((root,), "include/cublas_v2.h", "targets/*/include/cublas_v2.h"):
        package = f"libcublas-dev-{version[0]}-{version[1]}"
        return Tools(
            unfit=f"cuBLAS for CUDA {in_words(version)}",
            hint=f"It is {package} in NVIDIA's repository; the toolkit is at {CUDA_PAGE}.",
        )
    lib = root / "lib64"
    return Tools(
        options=(f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DCUDAToolkit_ROOT={root}"),
        library_folders=(str(lib),) if lib.is_dir() and root != Path("/usr") else (),
        words=f"CUDA {in_words(version)}",
    )


def _cuda_root(host: BuildHost, nvcc: str) -> Path:
    """The toolkit's folder. nvcc itself may be a link or a script that starts the real one.

    As CMake's CUDAToolkit finder asks: `-v` with a file that is not there prints "#$ TOP=".
    """
    said = host.says(nvcc, "-v", "__no_such_file", also_failed=True)
    top = re.search(r"^#\$ TOP=(.+)$", said or "", re.MULTILINE)
    return Path(top[1].strip()).resolve() if top else Path(nvcc).resolve().parent.parent


def rocm_tools(host: BuildHost, wanted: Wanted) -> Tools:
    """hipcc with its compiler, hipBLAS and rocBLAS, all of one ROCm."""
    roots = [*host.named("ROCM_PATH", "HIP_PATH"), *host.folders("/opt/rocm", "/opt/rocm-*")]
    on_path = host.which("hipcc")
    roots += [Path(on_path).resolve().parent.parent] if on_path else []
    root = next((r for r in roots if host.program(r / "bin", "hipcc")), None)
    if root is None:
        return Tools(missing=("hip", "hip-libraries"), hint=f"ROCm is at {ROCM_PAGE}.")
    version = _rocm_version(host, root)
    if version is not None and version < ROCM:
        unfit = f"ROCm {in_words(ROCM)} or newer ({in_words(version)} is installed)"
        return Tools(unfit=unfit, hint=f"ROCm is at {ROCM_PAGE}.")
    if not all(
        first_file((root,), f"lib*/cmake/{name}/*.cmake", f"lib/*/cmake/{name}/*.cmake")
        for name in ("hipblas", "rocblas")
    ):
        return Tools(missing=("hip-libraries",))
    clang = first_file((root,), "llvm/bin/clang", "lib/llvm/bin/clang", "llvm/bin/clang.exe")
    config = host.program(root / "bin", "hipconfig")
    if clang is None and config is not None and (said := host.says(config, "-l")):
        clang = Path(said.strip()) / "clang"
    lib = root / "lib"
    return Tools(
        env={
            "ROCM_PATH": str(root),
            "HIP_PATH": str(root),
            **({"HIPCXX": str(clang)} if clang is not None else {}),
        },
        library_folders=(str(lib),) if lib.is_dir() and root != Path("/usr") else (),
        words=f"ROCm {in_words(version)}" if version else "ROCm",
    )


def _rocm_version(host: BuildHost, root: Path) -> Version | None:
    try:
        if version := version_in((root / ".info" / "version").read_text(errors="replace")[:100]):
            return version
    except OSError:
        pass
    config = host.program(root / "bin", "hipconfig")
    return version_in(host.says(config, "--version")) if config else None


def vulkan_tools(host: BuildHost, wanted: Wanted) -> Tools:
    """Headers, loader, glslc and SPIRV-Headers; a VULKAN_SDK wins over the system's."""
    prefixes = [*host.named("VULKAN_SDK"), *host.prefixes()]
    header = first_file(prefixes, "include/vulkan/vulkan.hpp", "Include/vulkan/vulkan.hpp")
    loader = first_file(
        prefixes,
        "lib/libvulkan.so",
        "lib64/libvulkan.so",
        "lib/*-linux-*/libvulkan.so",
        "lib/libvulkan.dylib",
        "Lib/vulkan-1.lib",
    )
    compilers = [host.program(p / "bin", "glslc") for p in host.named("VULKAN_SDK")]
    glslc = next((c for c in compilers if c), None) or host.which("glslc")
    spirv = first_file(
        prefixes,
        "share/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake",
        "lib*/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake",
    )
    found = {
        "vulkan-headers": header,
        "vulkan-loader": loader,
        "glslc": glslc,
        "spirv-headers": spirv,
    }
    missing = tuple(need for need, path in found.items() if path is None)
    version = header_version(header.with_name("vulkan_core.h")) if header else None
    sdk = f"The Vulkan SDK is at {VULKAN_PAGE}; set VULKAN_SDK to its folder."
    if version is not None and version < VULKAN_HEADERS:
        there = f"{in_words(version)} is installed"
        unfit = f"Vulkan headers {in_words(VULKAN_HEADERS)} or newer ({there})"
        return Tools(missing=missing, unfit=unfit, hint=sdk)
    if header is None or spirv is None or missing:
        return Tools(missing=missing, hint=sdk)
    return Tools(
        options=(
            f"-DVulkan_INCLUDE_DIR={header.parent.parent}",
            f"-DVulkan_LIBRARY={loader}",
            f"-DVulkan_GLSLC_EXECUTABLE={glslc}",
            f"-DSPIRV-Headers_DIR={spirv.parent}",
        ),
        words=f"Vulkan headers {in_words(version)}" if version else "Vulkan",
    )


def header_version(core: Path) -> Version | None:
    """The version that vulkan_core.h tells near its top (1.3.239: line 75 of 18,000)."""
    try:
        with core.open(errors="replace") as file:
            text = file.read(16_384)
    except OSError:
        return None
    patch = re.search(r"#define VK_HEADER_VERSION (\d+)", text)
    whole = re.search(
        r"VK_HEADER_VERSION_COMPLETE \w+\((?:\d+, )?(\d+), (\d+), VK_HEADER_VERSION\)", text
    )
    return (int(whole[1]), int(whole[2]), int(patch[1])) if patch and whole else None


def sycl_tools(host: BuildHost, wanted: Wanted) -> Tools:
    """icpx and oneMKL. What setvars.sh would set is set here, so that nobody has to source it.

    Linux only: on Windows its own command prompt is needed, where icx is on PATH.
    """
    roots = [*host.named("ONEAPI_ROOT"), *host.folders("/opt/intel/oneapi")]
    root = next((r for r in roots if host.program(r / "compiler/latest/bin", "icpx")), None)
    on_path = host.which("icx" if host.platform == "win32" else "icpx")
    if root is None and on_path is None:
        return Tools(missing=("icpx", "onemkl"), hint=f"oneAPI is at {ONEAPI_PAGE}.")
    if host.platform == "win32" or root is None:
        compilers = ("cl", "icx") if host.platform == "win32" else ("icx", "icpx")
        options = tuple(
            f"-DCMAKE_{language}_COMPILER={name}"
            for language, name in zip(("C", "CXX"), compilers, strict=True)
        )
        return Tools(options=options, words="oneAPI")
    parts = [
        p for name in ("compiler", "mkl", "tbb", "dnnl") if (p := root / name / "latest").is_dir()
    ]
    if not (root / "mkl" / "latest").is_dir():
        return Tools(missing=("onemkl",), hint=f"oneAPI is at {ONEAPI_PAGE}.")
    binaries = root / "compiler/latest/bin"
    return Tools(
        options=(
            f"-DCMAKE_C_COMPILER={binaries / 'icx'}",
            f"-DCMAKE_CXX_COMPILER={binaries / 'icpx'}",
        ),
        env={
            "ONEAPI_ROOT": str(root),
            "MKLROOT": str(root / "mkl/latest"),
            "PATH": f"{binaries}:{host.path}",
            "CMAKE_PREFIX_PATH": ":".join(map(str, parts)),
            "LD_LIBRARY_PATH": ":".join(
                [*(str(p / "lib") for p in parts), host.environ.get("LD_LIBRARY_PATH", "")]
            ).rstrip(":"),
        },
        library_folders=tuple(str(p / "lib") for p in parts),
        words=f"oneAPI {binaries.parent.resolve().name}",
    )


def opencl_tools(host: BuildHost, wanted: Wanted) -> Tools:
    """Headers and loader, and Python, with which the tree embeds its kernels."""
    prefixes = [*host.named("OCL_ROOT", "OPENCL_SDK"), *host.prefixes()]
    loader = first_file(
        prefixes,
        "lib/libOpenCL.so",
        "lib64/libOpenCL.so",
        "lib/*-linux-*/libOpenCL.so",
        "lib/OpenCL.lib",
    )
    found = {
        "opencl-headers": first_file(prefixes, "include/CL/cl.h"),
        "opencl-loader": loader,
        "python": host.which("python3", "python"),
    }
    missing = tuple(need for need, path in found.items() if path is None)
    if missing:
        return Tools(missing=missing, hint="OpenCL's SDK is at https://github.com/KhronosGroup.")
    header = found["opencl-headers"]
    assert isinstance(header, Path)
    return Tools(
        options=(
            f"-DOpenCL_INCLUDE_DIR={header.parent.parent}",
            f"-DOpenCL_LIBRARY={loader}",
        ),
        words="OpenCL",
    )


TOOLS: Mapping[str, Callable[[BuildHost, Wanted], Tools]] = {
    "cuda": cuda_tools,
    "rocm": rocm_tools,
    "vulkan": vulkan_tools,
    "sycl": sycl_tools,
    "opencl": opencl_tools,
    "metal": metal_tools,
    "cpu": cpu_tools,
}
