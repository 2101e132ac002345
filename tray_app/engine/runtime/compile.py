"""Configures and compiles a source tree, and collects what of the result is a runtime."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tray_app.engine import memory
from tray_app.engine.errors import RuntimeBuildFailed
from tray_app.engine.process import ChildRegistry

from .recipe import CONVERSION, Recipe, install_rpath
from .reporter import Reporter, note
from .steps import Step
from .toolchain import Toolchain

# What a compiler of the largest files takes. Measured on b11434 with gcc 12: 0.7 GB for the
# CPU's, 1.1 GB for ggml-vulkan.cpp. The others are bounds: nvcc and clang run several passes
# over the same templates.
JOB_BYTES: Mapping[str, int] = {"cuda": 2_500_000_000, "rocm": 2_500_000_000, "sycl": 3_000_000_000}
DEFAULT_JOB_BYTES = 1_100_000_000
LIST_TIMEOUT_S = 60.0
CONVERSION_FOLDER = "conversion"

# ninja, by NINJA_STATUS; its looks at the build files themselves are no steps of the build.
_COUNT = re.compile(r"^\[\s*(\d+)/(\d+)\](?! Re-(?:checking|running))")
_PERCENT = re.compile(r"^\[\s*(\d+)%\]")  # make
_TARGET = re.compile(r"^(?:\.\.\. )?([\w.+-]+)(?:: \w|$)")  # `--target help` of make and of ninja


def compile_tree(
    recipe: Recipe,
    toolchain: Toolchain,
    tree: Path,
    build: Path,
    reporter: Reporter,
    registry: ChildRegistry | None = None,
) -> tuple[str, ...]:
    """Configure and compile, with progress by the build tool's own count; the targets made.

    Blocks for minutes. Raises RuntimeBuildFailed, NotEnoughDisk, Cancelled, OSError.
    """
    env = {
        **toolchain.env,
        "NINJA_STATUS": "[%f/%t] ",
        # A folder above may be a repository of the user's: its commit is not ours.
        "GIT_CEILING_DIRECTORIES": str(tree.parent),
        # Each build has its own folder; relative paths let ccache know the files again.
        # (The tree itself puts ccache before each compiler where there is one.)
        "CCACHE_BASEDIR": str(build.parent),
    }
    nice = (toolchain.nice, "-n", "10") if toolchain.nice else ()
    configure = (toolchain.cmake, "-S", str(tree), "-B", str(build), "-G", toolchain.generator)
    reporter.progress(0, None, "steps", "Configuring")
    step = Step(reporter, str(build), env, registry)
    step.run((*nice, *configure, *all_options(recipe, toolchain)))

    largest = 0

    def follow(line: str) -> None:
        nonlocal largest
        count = read_count(line)
        # A build tool within the build counts its own few steps (vulkan-shaders-gen).
        if count is not None and count[1] >= largest:
            largest = count[1]
            reporter.progress(*count, "steps")

    targets = _known(recipe.targets, toolchain, build, env, reporter)
    reporter.progress(0, None, "steps", "Compiling")
    make = (toolchain.cmake, "--build", str(build), "--target", *targets)
    step.run((*nice, *make, "-j", str(parallel_jobs(recipe.backend))), follow)
    return targets


def all_options(recipe: Recipe, toolchain: Toolchain) -> tuple[str, ...]:
    """The recipe's options for cmake, and this machine's; of two alike the last one counts."""
    folders = ";".join((install_rpath(), *toolchain.library_folders))
    return (
        f"-DCMAKE_MAKE_PROGRAM={toolchain.make_program}",
        *recipe.options,
        *toolchain.options,
        *((f"-DCMAKE_INSTALL_RPATH={folders}",) if toolchain.library_folders else ()),
    )


def _known(
    targets: tuple[str, ...],
    toolchain: Toolchain,
    build: Path,
    env: Mapping[str, str],
    reporter: Reporter,
) -> tuple[str, ...]:
    """Those of `targets` that this tree has: other builds lack some. The first one has to be."""
    try:
        listed = subprocess.run(
            [toolchain.cmake, "--build", str(build), "--target", "help"],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIST_TIMEOUT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return targets
    names = {found[1] for line in listed.splitlines() if (found := _TARGET.match(line))}
    known = tuple(name for name in targets if name in names or name == targets[0])
    if lacking := [name for name in targets if name not in known]:
        note(reporter, f"This build of llama.cpp has no {', '.join(lacking)}.")
    return known


def read_count(line: str) -> tuple[int, int] | None:
    """(done, total) from a line of ninja ("[12/224] Building ...") or make ("[ 12%] ...")."""
    if found := _COUNT.match(line):
        return int(found[1]), int(found[2])
    if found := _PERCENT.match(line):
        return int(found[1]), 100
    return None


def parallel_jobs(backend: str = "cpu") -> int:
    """How many compilers at once: one a core, and as many as free memory holds."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: the cores we may use
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    each = JOB_BYTES.get(backend, DEFAULT_JOB_BYTES)
    return max(1, min(cores, memory.total_and_available()[1] // each))


def collect(targets: tuple[str, ...], binaries: Path, tree: Path, staged: Path) -> Path:
    """Copy programs, libraries, conversion scripts and the licence into the new folder `staged`.

    Raises RuntimeBuildFailed when a program is missing, OSError.
    """
    staged.mkdir()
    suffix = ".exe" if os.name == "nt" else ""
    for target in targets:
        if not (binaries / f"{target}{suffix}").is_file():
            raise RuntimeBuildFailed(
                f"The build ended well but made no {target}.", "The job's log has the details."
            )
    for path in sorted(binaries.iterdir()):
        library = re.search(r"\.(so|dylib|dll|metal)$", path.name)
        if library or path.name.removesuffix(suffix) in targets:
            shutil.copy2(path, staged / path.name)
    if (tree / "LICENSE").is_file():
        shutil.copy2(tree / "LICENSE", staged / "LICENSE")
    _keep_conversion(tree, staged / CONVERSION_FOLDER)
    return staged


def _keep_conversion(tree: Path, folder: Path) -> None:
    """The scripts of the same tree, laid out as there: a GGUF they write is one it reads."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in CONVERSION:
        source, target = tree / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignore)
        elif source.is_file():
            shutil.copy2(source, target)
