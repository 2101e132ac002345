"""What the product adds to a bare cmake + ninja run of the same source with the same options.

    WRANGLER_BENCH_TARGETS=llama-quantize python -m tests.benchmarks.bench_build

Without the variable it builds llama-server, which takes about 15 minutes for the pair on 2 cores.
Ours is everything: the archive checked and unpacked, configured, compiled, collected, proved
and sealed. The bare run is given its tree unpacked and the priority that the product builds with,
so that what else runs here slows both alike; processor seconds tell how much it did. ccache is
off for both; an archive in the cache is made sure of first.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.benchmarks.kit import alternately
from tray_app.engine.home import cache_folder
from tray_app.engine.runtime import store
from tray_app.engine.runtime.build import Parts, Terminal, obtain_runtime
from tray_app.engine.runtime.compile import all_options, collect, compile_tree, parallel_jobs
from tray_app.engine.runtime.recipe import Recipe, host_recipe
from tray_app.engine.runtime.sources import Fetching, Origins, obtain_tree
from tray_app.engine.runtime.store import SERVER
from tray_app.engine.runtime.toolchain import find_toolchain

GOAL = 1.03
ROUNDS = int(os.environ.get("WRANGLER_BENCH_ROUNDS", "1"))


class Quiet(Terminal):
    """Says nothing: a terminal's speed is not measured."""

    def progress(
        self, done: int, total: int | None = None, unit: str = "", step: str | None = None
    ) -> None: ...


@dataclasses.dataclass
class Processor:
    """Seconds of processor time, ours and our children's, by who used them."""

    bare: float = 0.0
    ours: float = 0.0


def processor_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def bare_s(recipe: Recipe, tree: Path, folder: Path) -> float:
    """Seconds of cmake and its build tool alone."""
    tools = find_toolchain(recipe.backend, recipe.wanted)
    build = folder / "bare"
    env = {**os.environ, **tools.env}
    nice = [tools.nice, "-n", "10"] if tools.nice else []
    configure = [*nice, tools.cmake, "-S", str(tree), "-B", str(build), "-G", tools.generator]
    make = [*nice, tools.cmake, "--build", str(build), "-j", str(parallel_jobs(recipe.backend))]
    began = time.perf_counter()
    with (folder / "bare.log").open("wb") as log:
        for argv in (
            [*configure, *all_options(recipe, tools)],
            [*make, "--target", *recipe.targets],
        ):
            subprocess.run(argv, env=env, stdout=log, stderr=log, check=True)
    took_s = time.perf_counter() - began
    shutil.rmtree(build)
    return took_s


def ours_s(recipe: Recipe, cache: Path, folder: Path) -> float:
    """Seconds of the product's whole way from the archive to a sealed folder."""
    work = Path(tempfile.mkdtemp(dir=folder))
    reporter = Quiet(work / "build.log")
    began = time.perf_counter()
    if SERVER.removesuffix(".exe") in recipe.targets:
        obtain_runtime(recipe, work / "runtimes", cache, reporter, Parts())
    else:  # nothing to prove without a server
        tree = obtain_tree(recipe.source, Fetching(work, cache, reporter, Origins()))
        tools = find_toolchain(recipe.backend, recipe.wanted)
        made = compile_tree(recipe, tools, tree.folder, work / "build", reporter)
        staged = collect(made, work / "build" / "bin", tree.folder, work / "runtime")
        store.seal(staged, runtime_id="bench", build=None, backend="cpu", key="", version_text="")
    took_s = time.perf_counter() - began
    shutil.rmtree(work)
    return took_s


def main() -> None:
    os.environ["CCACHE_DISABLE"] = "1"
    names = os.environ.get("WRANGLER_BENCH_TARGETS", "llama-server").replace(",", " ").split()
    recipe = dataclasses.replace(host_recipe(), targets=tuple(names))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shelf = cache_folder() / "sources"
        tree = obtain_tree(recipe.source, Fetching(folder, cache_folder(), Quiet(None), Origins()))
        cache = folder / "cache"  # the archive only: a runtime in the cache would be taken
        cache.mkdir()
        (cache / "sources").symlink_to(shelf)
        used = Processor()

        def bare_run() -> float:
            before = processor_s()
            took_s = bare_s(recipe, tree.folder, folder)
            used.bare = processor_s() - before
            return took_s

        def our_run() -> float:
            shutil.rmtree(cache / "runtimes", ignore_errors=True)
            before = processor_s()
            took_s = ours_s(recipe, cache, folder)
            used.ours = processor_s() - before
            return took_s

        found = alternately(ROUNDS, bare_run, our_run)
    bare, ours = (min(times) for times in found)
    print(f"{', '.join(names)} with {parallel_jobs()} jobs, ccache off, best of {ROUNDS}")
    print(f"bare cmake + build tool   {bare:8.1f} s   {used.bare:8.1f} s of processor time")
    print(f"ours, archive to seal     {ours:8.1f} s   {used.ours:8.1f} s of processor time")
    print(
        f"ratio {ours / bare:.3f} (goal {GOAL});"
        f" of processor time, last round: {used.ours / used.bare:.3f}"
    )


if __name__ == "__main__":
    main()
