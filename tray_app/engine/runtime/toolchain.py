"""The programs a build needs: found and tried, or named with the command that installs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tray_app.engine.errors import RuntimeBuildFailed

from .backend_tools import TOOLS, Tools
from .build_host import BuildHost, Version, in_words, version_in
from .install_commands import find_package_manager, install_command
from .recipe import Wanted
from .values import backend_name

# cmake_minimum_required of the tree and of ggml-cuda, ggml-hip and ggml-vulkan.
CMAKE: Mapping[str, Version] = {"cuda": (3, 18), "rocm": (3, 21), "vulkan": (3, 19)}
CMAKE_LEAST: Version = (3, 14)

# For messages.
NAMES: Mapping[str, str] = {
    "cmake": "CMake",
    "ninja": "Ninja or make",
    "compiler": "a C++ compiler",
    "nvcc": "the CUDA toolkit (nvcc)",
    "hip": "ROCm (hipcc)",
    "hip-libraries": "hipBLAS and rocBLAS",
    "vulkan-headers": "the Vulkan headers",
    "vulkan-loader": "the Vulkan loader",
    "glslc": "glslc",
    "spirv-headers": "SPIRV-Headers",
    "icpx": "the oneAPI compiler (icpx)",
    "onemkl": "oneMKL",
    "opencl-headers": "the OpenCL headers",
    "opencl-loader": "the OpenCL loader",
    "python": "Python",
}


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Absolute paths of what a build runs, and what it tells cmake about this machine."""

    cmake: str
    make_program: str
    generator: str
    compiler: str
    nice: str | None  # so that a build does not make answers stutter
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    library_folders: tuple[str, ...] = ()  # where the result finds the toolkit's libraries
    words: str = ""  # versions, for the provenance


@dataclass(frozen=True, slots=True)
class Missing:
    """What a backend cannot be built without, and how to get it."""

    needs: tuple[str, ...]  # in words: "glslc", "Vulkan headers 1.3.272 or newer (…)"
    message: str
    command: str  # for a terminal; empty where no package brings it
    hint: str = ""  # in words, where a command does not do

    @property
    def remedy(self) -> str:
        """Command and hint as an error's remedy."""
        command = f"Run: {self.command}" if self.command else ""
        return " ".join(filter(None, (command, self.hint))) or (
            f"Install {', '.join(self.needs)}, then retry."
        )


def find_toolchain(
    backend: str = "cpu",
    wanted: Wanted = Wanted(),  # noqa: B008 - a frozen value
    host: BuildHost | None = None,
    package_manager: str | None = None,
) -> Toolchain:
    """The tools for `backend`, each tried. Blocks for about 0.1 s.

    Raises RuntimeBuildFailed that names what is missing and the command that installs it.
    """
    found = _look(backend, wanted, host or BuildHost(), package_manager)
    if isinstance(found, Missing):
        raise RuntimeBuildFailed(found.message, found.remedy)
    return found


def missing_for(
    backend: str,
    wanted: Wanted = Wanted(),  # noqa: B008 - a frozen value
    host: BuildHost | None = None,
    package_manager: str | None = None,
) -> Missing | None:
    """What building `backend` lacks here; None when nothing. Builds nothing; about 0.1 s."""
    found = _look(backend, wanted, host or BuildHost(), package_manager)
    return found if isinstance(found, Missing) else None


def _look(
    backend: str, wanted: Wanted, host: BuildHost, manager: str | None
) -> Toolchain | Missing:
    tools = TOOLS[backend](host, wanted)
    cmake = _first_working(host, ("cmake",))
    said = host.says(cmake, "--version") if cmake else None
    version = version_in(said, r"version (\d+\.\d+(?:\.\d+)?)")
    least = CMAKE.get(backend, CMAKE_LEAST)
    ninja = _first_working(host, ("ninja", "ninja-build"))
    make = None if ninja else _first_working(host, ("make", "gmake"))
    compiler = _compiler(host)
    unfit = [tools.unfit] if tools.unfit else []
    if version is not None and version < least:
        unfit.insert(0, f"CMake {in_words(least)} or newer ({in_words(version)} is installed)")
    found = {"cmake": cmake, "ninja": ninja or make, "compiler": compiler}
    missing = [need for need, program in found.items() if program is None]
    if missing or unfit or tools.missing or not cmake or not compiler:
        return _missing(backend, (*missing, *tools.missing), unfit, tools, manager)
    return Toolchain(
        cmake=cmake,
        make_program=ninja or make or "",
        generator="Ninja" if ninja else "Unix Makefiles",
        compiler=compiler,
        nice=host.which("nice"),
        options=tools.options,
        env=tools.env,
        library_folders=tools.library_folders,
        words=_words(host, compiler, version, tools),
    )


def _missing(
    backend: str, keys: tuple[str, ...], unfit: list[str], tools: Tools, manager: str | None
) -> Missing:
    needs = (*(NAMES[key] for key in keys), *unfit)
    what = "llama.cpp" if backend == "cpu" else f"llama.cpp for {backend_name(backend)}"
    command = install_command(keys, manager or find_package_manager())
    missing = [f"{', '.join(needs[: len(keys)])} {'is' if len(keys) == 1 else 'are'} missing"]
    needed = [f"{', '.join(unfit)} {'is' if len(unfit) == 1 else 'are'} needed"]
    reasons = (missing if keys else []) + (needed if unfit else [])
    return Missing(
        needs=needs,
        message=f"{what} cannot be built here: {', and '.join(reasons)}.",
        command=command,
        # A package brings what is missing; what is too old came from one.
        hint=tools.hint if tools.unfit or not command else "",
    )


def _words(host: BuildHost, compiler: str, cmake: Version | None, tools: Tools) -> str:
    """ "g++ (Debian 12.2.0-14) 12.2.0, CMake 3.25.1, CUDA 12.4": a line of provenance."""
    said = host.says(compiler, "--version") if Path(compiler).stem != "vswhere" else ""
    name = (said or "").strip().partition("\n")[0][:80] or Path(compiler).name
    words = (name, f"CMake {in_words(cmake)}" if cmake else "", tools.words)
    return ", ".join(filter(None, words))


def _compiler(host: BuildHost) -> str | None:
    if host.platform == "win32":
        return _windows_compiler(host)
    chosen = host.environ.get("CXX")
    return _first_working(host, (*([chosen] if chosen else []), "c++", "g++", "clang++"))


def _first_working(host: BuildHost, names: tuple[str, ...]) -> str | None:
    """The first of `names` that is there and runs: macOS has stubs that only ask to install."""
    for name in names:
        found = host.which(name)
        if found is not None and host.says(found, "--version") is not None:
            return found
    return None


def _windows_compiler(host: BuildHost) -> str | None:
    """`cl` of a developer prompt; CMake finds an installed Visual Studio by itself."""
    root = Path(host.environ.get("PROGRAMFILES(X86)", "")) / "Microsoft Visual Studio"
    locator = root / "Installer" / "vswhere.exe"
    return host.which("cl", "clang-cl") or (str(locator) if locator.is_file() else None)
