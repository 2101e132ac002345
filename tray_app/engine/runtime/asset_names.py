"""Reads what an archive of a release holds out of the words of its name, in whatever order.

The words are those of llama.cpp's release workflow (.github/workflows/release.yml) since 2024.
Names drift: "cuda-cu12.4" became "cuda-12.4", "hip-radeon" became "rocm-10.0".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .archive import ENDINGS

SYSTEMS = {
    "ubuntu": "linux",
    "linux": "linux",
    "win": "windows",
    "windows": "windows",
    "macos": "darwin",
    "osx": "darwin",
    "darwin": "darwin",
}
ARCHES = {"x64": "x86_64", "arm64": "arm64"}
BACKENDS = {
    "cuda": "cuda",
    "rocm": "rocm",
    "hip": "rocm",
    "vulkan": "vulkan",
    "sycl": "sycl",
    "opencl": "opencl",
    "metal": "metal",
    "cpu": "cpu",
}
# What says nothing about where a build runs.
PLAIN = frozenset({"llama", "llamacpp", "llama.cpp", "cpp", "bin", "server", "release", "radeon"})
PRECISIONS = frozenset({"fp16", "fp32", "f16", "f32"})
COMPANION = "cudart"
# Builds for other machines, and files that are no build.
FOREIGN = frozenset(
    [
        *("android", "ios", "xcframework", "wasm", "ui", "src", "source"),
        *("s390x", "x86", "i386", "riscv64", "ppc64le", "loongarch64", "armv7"),
        *("openeuler", "310p", "910b", "aclgraph", "cann", "musa", "spacemit"),
        *("snapdragon", "hexagon", "kleidiai", "openvino", "openblas", "blas"),
        *("kompute", "webgpu", "virtgpu", "zdnn", "noavx", "avx", "avx2", "avx512"),
        *("debug", "debuginfo", "dbg", "symbols", "dsym", "pdb"),
    ]
)
_VERSION = re.compile(r"\d+(?:\.\d+){0,2}")
_TAG = re.compile(r"b\d+|v\d+(?:\.\d+)*")
_CUDA = re.compile(r"cu(?:da)?(\d+(?:\.\d+)*)")  # "cu12.4", "cuda13"
_GPU = re.compile(r"sm\d+[a-f]?|gfx[0-9a-fx]+")


@dataclass(frozen=True, slots=True)
class AssetName:
    """What the words of an archive's name say."""

    system: str  # as in Hardware
    arch: str
    backend: str
    version: tuple[int, ...] = ()  # of CUDA or ROCm
    precision: str = ""  # "fp16", "fp32"
    companion: bool = False  # libraries that a build of the same version needs
    gpus: tuple[str, ...] = ()  # made for these only: "sm86", "gfx1030", "gfx110x"
    strange: tuple[str, ...] = ()  # words that are not known

    @property
    def variant(self) -> str:
        """To tell it from others of its backend."""
        version = ".".join(str(number) for number in self.version)
        return "-".join(part for part in (version, self.precision, *self.gpus) if part)


def read_name(name: str) -> AssetName | None:
    """What `name` stands for; None for anything but an archive of a build for one system.

    A name without a backend is a build for the CPU, or for Metal on Apple's own processors.
    That holds only when every other word of it is known: a new word may be a new backend.
    """
    words = _words(name)
    if words is None or FOREIGN.intersection(words):
        return None
    found: dict[str, set[str]] = {"system": set(), "arch": set(), "backend": set()}
    versions: list[str] = []
    strange: list[str] = []
    before = ""
    for word in words:
        if word in SYSTEMS:
            found["system"].add(SYSTEMS[word])
        elif word in ARCHES:
            found["arch"].add(ARCHES[word])
        elif word in BACKENDS:
            found["backend"].add(BACKENDS[word])
        elif cuda := _CUDA.fullmatch(word):
            found["backend"].add("cuda")
            versions.append(cuda[1])
        elif _VERSION.fullmatch(word):
            if before not in SYSTEMS:  # "ubuntu-22.04" is about the system
                versions.append(word)
        elif not _says_nothing(word):
            strange.append(word)
        before = word
    return _assemble(words, found, versions, strange)


def _assemble(
    words: list[str], found: dict[str, set[str]], versions: list[str], strange: list[str]
) -> AssetName | None:
    if len(found["system"]) != 1 or len(found["arch"]) != 1 or len(found["backend"]) > 1:
        return None
    (system,), (arch,) = found["system"], found["arch"]
    companion = COMPANION in words
    if found["backend"]:
        (backend,) = found["backend"]
    elif companion:
        backend = "cuda"
    elif strange or versions:
        return None
    else:
        backend = "metal" if (system, arch) == ("darwin", "arm64") else "cpu"
    if len(set(versions)) > 1:
        return None
    version = tuple(int(number) for number in versions[0].split(".")) if versions else ()
    return AssetName(
        system=system,
        arch=arch,
        backend=backend,
        version=version,
        precision=next((word for word in words if word in PRECISIONS), ""),
        companion=companion,
        gpus=tuple(word for word in words if _GPU.fullmatch(word)),
        strange=tuple(strange),
    )


def _says_nothing(word: str) -> bool:
    """Whether a word is known and is looked at elsewhere, or not at all."""
    known = word in PLAIN or word in PRECISIONS or word in (COMPANION, "adreno")
    return known or bool(_TAG.fullmatch(word) or _GPU.fullmatch(word))


def _words(name: str) -> list[str] | None:
    lower = name.lower()
    ending = next((ending for ending in ENDINGS if lower.endswith(ending)), None)
    if ending is None:
        return None
    stem = lower.removesuffix(ending)
    for spelling, word in (("x86_64", "x64"), ("amd64", "x64"), ("aarch64", "arm64")):
        stem = stem.replace(spelling, word)
    stem = re.sub(r"\bsm_(?=\d)", "sm", stem)
    return [word for word in re.split(r"[-_+ ]", stem) if word]
