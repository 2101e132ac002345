"""The programs a build needs: found and tried, or named with the command that installs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tray_app.engine.errors import RuntimeBuildFailed

TRY_TIMEOUT_S = 20.0
NEEDS = ("cmake", "ninja", "compiler")

# What provides each need, by package manager.
PACKAGES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "apt": (
        "sudo apt install",
        {"cmake": "cmake", "ninja": "ninja-build", "compiler": "build-essential"},
    ),
    "dnf": ("sudo dnf install", {"cmake": "cmake", "ninja": "ninja-build", "compiler": "gcc-c++"}),
    "pacman": (
        "sudo pacman -S --needed",
        {"cmake": "cmake", "ninja": "ninja", "compiler": "base-devel"},
    ),
    "zypper": ("sudo zypper install", {"cmake": "cmake", "ninja": "ninja", "compiler": "gcc-c++"}),
    "brew": ("brew install", {"cmake": "cmake", "ninja": "ninja"}),
    "winget": (
        "winget install",
        {
            "cmake": "Kitware.CMake",
            "ninja": "Ninja-build.Ninja",
            "compiler": "Microsoft.VisualStudio.2022.BuildTools",
        },
    ),
}
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


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Absolute paths of what a build runs."""

    cmake: str
    make_program: str
    generator: str
    compiler: str
    nice: str | None  # so that a build does not make answers stutter


def find_toolchain(path: str | None = None, package_manager: str | None = None) -> Toolchain:
    """The tools on PATH (or `path`), each tried. Blocks for about 0.1 s.

    Raises RuntimeBuildFailed that names what is missing and the command that installs it.
    """
    cmake = _first_working(("cmake",), path)
    ninja = _first_working(("ninja", "ninja-build"), path)
    make = None if ninja else _first_working(("make", "gmake"), path)
    chosen = (os.environ.get("CXX"),) if path is None and os.environ.get("CXX") else ()
    compilers = (*(c for c in chosen if c), "c++", "g++", "clang++")
    compiler = _windows_compiler() if os.name == "nt" else _first_working(compilers, path)
    missing = [
        need
        for need, found in zip(NEEDS, (cmake, ninja or make, compiler), strict=True)
        if found is None
    ]
    if missing or not cmake or not compiler:
        raise _missing(missing, package_manager or find_package_manager())
    return Toolchain(
        cmake=cmake,
        make_program=ninja or make or "",
        generator="Ninja" if ninja else "Unix Makefiles",
        compiler=compiler,
        nice=shutil.which("nice", path=path),
    )


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


def _missing(needs: list[str], manager: str | None) -> RuntimeBuildFailed:
    names = {"cmake": "CMake", "ninja": "Ninja or make", "compiler": "a C++ compiler"}
    what = ", ".join(names[need] for need in needs)
    message = f"llama.cpp cannot be built here: {what} is missing."
    if manager is None:
        return RuntimeBuildFailed(message, f"Install {what}, then retry.")
    command, packages = PACKAGES[manager]
    wanted = [packages[need] for need in needs if need in packages]
    commands = [f"{command} {' '.join(wanted)}"] if wanted else []
    if manager == "brew" and "compiler" in needs:
        commands.append("xcode-select --install")
    return RuntimeBuildFailed(message, f"Run: {' && '.join(commands)}")


def _first_working(names: tuple[str, ...], path: str | None) -> str | None:
    """The first of `names` that is there and runs: macOS has stubs that only ask to install."""
    for name in names:
        found = shutil.which(name, path=path)
        if found is not None and _runs(found):
            return found
    return None


def _runs(program: str) -> bool:
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRY_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _windows_compiler() -> str | None:
    """`cl` of a developer prompt; CMake finds an installed Visual Studio by itself."""
    found = shutil.which("cl") or shutil.which("clang-cl")
    root = Path(os.environ.get("PROGRAMFILES(X86)", "")) / "Microsoft Visual Studio"
    locator = root / "Installer" / "vswhere.exe"
    return found or (str(locator) if locator.is_file() else None)
