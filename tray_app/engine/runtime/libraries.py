"""Which shared libraries a llama.cpp build wants and this system does not have, and who has them.

Linux answers through `ldd`, macOS through `otool -L`. Windows has no such tool of its own: there
the only word is the exit status of a program that could not be started.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tray_app.engine.process import ChildProcess, LaunchSpec

from .store import SERVER

TIMEOUT_S = 5.0  # altogether; one ldd takes 10 ms, and 60 ms for a CUDA build's cuBLAS
MAX_FILES = 40  # a release for Linux has a libggml-cpu-*.so for each of 15 kinds of processor
MAX_LINES = 2000
MAX_NAMED = 20

Run = Callable[[Sequence[str], float], str]  # argv, time in seconds -> what it printed

# glibc's ldd: "\tlibfoo.so.1 => not found"; and, through ld.so, "version `GLIBC_2.38' not found".
_NOT_FOUND = re.compile(r"^\s*(\S+) => not found")
_VERSION = re.compile(r"version [`']([\w.]{1,60})' not found")
# musl's ldd: "Error loading shared library libfoo.so.1: No such file or directory (needed by ...)"
_MUSL = re.compile(r"Error loading shared library ([^\s:]{1,200}):")
# otool -L: "\t@rpath/libggml.dylib (compatibility version 0.0.0, current version 0.0.0)"
_OTOOL = re.compile(r"^\s+(\S.*?) \(compatibility version ")

# What the loaders say when they give up (ld.so of glibc, musl's, dyld of macOS 12 and later).
_AT_START = (
    re.compile(r"error while loading shared libraries: ([^\s:]{1,200}): cannot open shared"),
    _MUSL,
    re.compile(r"Library not loaded: (\S{1,300})"),
    _VERSION,
)

_CUDA = (
    "It belongs to the CUDA runtime: nvidia-cuda-toolkit on Debian and Ubuntu, cuda on Arch,"
    " cuda-toolkit in NVIDIA's own repository."
)
_DRIVER = "It comes with NVIDIA's driver: install the driver, or restart after its update."
_ROCM = (
    "It belongs to ROCm: rocm-hip-libraries in AMD's repository, rocm-hip with hipblas and rocblas"
    " on Fedora, rocm-hip-runtime with hipblas on Arch."
)
_ONEAPI = "It belongs to Intel's oneAPI runtime, which Intel's own repository has."
_OPENSSL = (
    "Install OpenSSL 3: libssl3 on Debian and Ubuntu, openssl-libs on Fedora, openssl on Arch."
)
_NEWER_SYSTEM = "This build was made for a newer system: build the runtime here."
_OURS = "It is a part of llama.cpp itself: install or build this runtime again."

# The beginning of a library's name -> where it comes from. Names as in Debian 12's, Fedora's and
# Arch's package lists.
_SOURCES: dict[str, str] = {
    "libcudart": _CUDA,
    "libcublas": _CUDA,
    "libcuda.": _DRIVER,
    "libnvidia": _DRIVER,
    "libamdhip64": _ROCM,
    "libhipblas": _ROCM,
    "librocblas": _ROCM,
    "libvulkan": "Install the Vulkan loader: libvulkan1 on Debian and Ubuntu, vulkan-loader on"
    " Fedora, vulkan-icd-loader on Arch.",
    "libOpenCL": "Install an OpenCL loader: ocl-icd-libopencl1 on Debian and Ubuntu, ocl-icd on"
    " Fedora and Arch.",
    "libze_loader": "Install the Level Zero loader: libze1 on Debian and Ubuntu,"
    " oneapi-level-zero on Fedora, level-zero-loader on Arch.",
    "libsycl": _ONEAPI,
    "libmkl": _ONEAPI,
    "libgomp": "Install GCC's OpenMP library: libgomp1 on Debian and Ubuntu, libgomp on Fedora,"
    " gcc-libs on Arch.",
    "libomp": "Install LLVM's OpenMP library: libomp5 on Debian, libomp elsewhere.",
    "libssl": _OPENSSL,
    "libcrypto": _OPENSSL,
    "libcurl": "Install libcurl: libcurl4 on Debian and Ubuntu, libcurl on Fedora, curl on Arch.",
    "libstdc++": "Install GCC's C++ library: libstdc++6 on Debian and Ubuntu, libstdc++ on"
    " Fedora, gcc-libs on Arch.",
    "GLIBC": _NEWER_SYSTEM,  # GLIBCXX too
    "CXXABI": _NEWER_SYSTEM,
    "libggml": _OURS,
    "libllama": _OURS,
    "libmtmd": _OURS,
}


def missing_libraries(
    program_or_folder: Path, *, run: Run | None = None, platform: str = sys.platform
) -> tuple[str, ...]:
    """The libraries that a llama-server and the libggml-* beside it want in vain, by name.

    A symbol version that the C library lacks is named as such ("GLIBC_2.38"). Empty where
    nothing is missing and where it cannot be told. Blocks for 10 ms a file, 5 s at most.
    """
    run = run or _output
    folder = program_or_folder if program_or_folder.is_dir() else program_or_folder.parent
    program = program_or_folder / SERVER if program_or_folder.is_dir() else program_or_folder
    if platform.startswith("linux"):
        return _first(_by_ldd([program, *_beside(folder, "libggml*.so*")], run))
    if platform == "darwin":
        return _first(_by_otool([program, *_beside(folder, "libggml*.dylib")], folder, run))
    return ()


def missing_at_start(lines: Iterable[str], returncode: int | None) -> tuple[str, ...]:
    """The libraries that the system's loader named when it could not start a program."""
    text = "\n".join(lines)
    found = [match.rpartition("/")[2] for words in _AT_START for match in words.findall(text)]
    # STATUS_DLL_NOT_FOUND; Windows shows the name in a dialog only.
    if not found and returncode is not None and returncode & 0xFFFFFFFF == 0xC0000135:
        return ("a DLL",)
    return _first(found)


def where_from(libraries: Iterable[str]) -> str:
    """What to do about missing libraries, each source said once."""
    sources = (
        source
        for library in libraries
        for start, source in _SOURCES.items()
        if library.startswith(start)
    )
    return (
        " ".join(dict.fromkeys(sources))
        or "Install the missing libraries, or choose another build."
    )


def in_words(libraries: Sequence[str]) -> str:
    """ "libfoo.so.1 is missing" or "libfoo.so.1 and libbar.so.2 are missing"."""
    *most, last = libraries
    return f"{', '.join(most)} and {last} are missing" if most else f"{last} is missing"


def _by_ldd(files: Sequence[Path], run: Run) -> Iterable[str]:
    if run is _output and shutil.which("ldd") is None:
        return
    for text in _of_each("ldd", files, run):
        for line in text.splitlines():
            for words in (_NOT_FOUND, _VERSION, _MUSL):
                if match := words.search(line):
                    yield match[1]


def _by_otool(files: Sequence[Path], folder: Path, run: Run) -> Iterable[str]:
    """Apple's own libraries lie in a shared cache, not in files: they are taken as there."""
    if run is _output and shutil.which("otool") is None:
        return
    for text in _of_each("otool", files, run, "-L"):
        for line in text.splitlines():
            match = _OTOOL.match(line)
            if match is None or match[1].startswith(("/usr/lib/", "/System/")):
                continue
            name = re.sub(r"^@(?:rpath|loader_path|executable_path)/", "", match[1])
            if not (folder / name).exists():  # an absolute name replaces `folder`
                yield name.rpartition("/")[2]


def _of_each(tool: str, files: Sequence[Path], run: Run, *options: str) -> Iterable[str]:
    deadline = time.monotonic() + TIMEOUT_S
    for path in files:
        left = deadline - time.monotonic()
        if left <= 0:
            return
        yield run((tool, *options, str(path)), left)


def _output(argv: Sequence[str], timeout_s: float) -> str:
    """What `argv` printed, in English; nothing when it cannot be started or hangs."""
    lines: list[str] = []

    def keep(line: str) -> None:
        if len(lines) < MAX_LINES:
            lines.append(line)

    try:
        with ChildProcess(LaunchSpec(tuple(argv), env={"LC_ALL": "C"}), on_line=keep) as child:
            if child.wait(timeout_s) is None:
                child.stop(grace_s=0)
    except OSError:
        return ""
    return "\n".join(lines)


def _beside(folder: Path, pattern: str) -> list[Path]:
    """The files of that name in `folder`, each once: a release has links to its libraries."""
    try:
        real = {os.path.realpath(path): path for path in sorted(folder.glob(pattern))}
    except OSError:
        return []
    return sorted(real.values())[:MAX_FILES]


def _first(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, in order, and not without end."""
    return tuple(dict.fromkeys(names))[:MAX_NAMED]
