"""A runtime from source: progress, proof, cache, stepping down, leaving nothing behind."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
from pathlib import Path

import psutil
import pytest

from tests.runtime_kit import (
    BUILD,
    ENDLESS,
    SERVER_C,
    Follower,
    archive_of,
    local_parts,
    scripted_server,
    source_of,
    tiny_files,
    tiny_project,
)
from tray_app.engine.errors import (
    Cancelled,
    DownloadFailed,
    ErrorView,
    NotEnoughDisk,
    RuntimeBuildFailed,
    RuntimeRejected,
)
from tray_app.engine.process_tree import is_running
from tray_app.engine.runtime import build, compile, store
from tray_app.engine.runtime.build import Parts, Skipped, build_best, light_proof, obtain_runtime
from tray_app.engine.runtime.compile import parallel_jobs, read_count
from tray_app.engine.runtime.probe import probe
from tray_app.engine.runtime.recipe import Recipe, cache_key
from tray_app.engine.runtime.toolchain import Toolchain, find_toolchain
from tray_app.engine.runtime.values import Proof

posix_only = pytest.mark.skipif(os.name == "nt", reason="uses sh and a POSIX toolchain")

# From a real build of llama.cpp b11434, with NINJA_STATUS as we set it and with make.
NINJA_OUTPUT = """\
ninja: Entering directory `/x/build'
[1/218] Building C object ggml/src/CMakeFiles/ggml-base.dir/ggml.c.o
In file included from /x/ggml/src/ggml.c:1:
/x/ggml.c:12:3: warning: [9/9] is no progress [-Wunused]
[2/218] Building CXX object ggml/src/CMakeFiles/ggml-base.dir/ggml.cpp.o
[218/218] Linking CXX executable bin/llama-server
""".splitlines()
MAKE_OUTPUT = """\
[  1%] Building C object ggml/src/CMakeFiles/ggml-base.dir/ggml.c.o
make[2]: Leaving directory
[100%] Built target llama-server
""".splitlines()


def working_folder_is_clean(folder: Path) -> bool:
    return not [path for path in folder.iterdir() if path.name.startswith((".staging", ".old"))]


def test_progress_is_read_from_ninja_and_make() -> None:
    assert [read_count(line) for line in NINJA_OUTPUT if read_count(line)] == [
        (1, 218),
        (2, 218),
        (218, 218),
    ]
    assert [read_count(line) for line in MAKE_OUTPUT] == [(1, 100), None, (100, 100)]
    assert read_count("[0/2] Re-checking globbed directories...") is None


def test_a_build_uses_no_more_compilers_than_memory_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def free(gigabytes: float) -> None:
        amount = int(gigabytes * 1e9)
        monkeypatch.setattr(compile.memory, "total_and_available", lambda: (amount, amount))

    monkeypatch.setattr(compile.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    free(3.5)
    assert parallel_jobs() == 3
    assert parallel_jobs("cuda") == 1
    free(16)
    assert parallel_jobs("cuda") == 6
    assert parallel_jobs("sycl") == 5
    free(100)
    assert parallel_jobs() == 8
    free(0.2)
    assert parallel_jobs() == 1


@posix_only
def test_a_runtime_is_built_proven_sealed_and_kept_in_the_cache(tmp_path: Path) -> None:
    recipe, cache = tiny_project(tmp_path), tmp_path / "cache"
    reporter = Follower(tmp_path / "build.log")
    folder = obtain_runtime(recipe, tmp_path / "rt", cache, reporter, local_parts(tmp_path))
    assert folder == tmp_path / "rt" / f"b{BUILD}-cpu"
    assert probe(folder / "llama-server").build == BUILD
    assert (folder / "LICENSE").read_text() == "free"
    key = cache_key(recipe)
    for place in (folder, cache / "runtimes" / key):
        manifest = store.verified(place, key)
        assert manifest is not None
        assert (manifest.build, manifest.backend) == (BUILD, "cpu")
    steps = [told[3] for told in reporter.told if told[3]]
    assert steps == [
        "Looking in the cache",
        "Downloading the source",
        "Unpacking",
        "Configuring",
        "Compiling",
        "Proving",
    ]
    counts = [(done, total) for done, total, unit, step in reporter.told if unit == "steps"]
    assert (14, 14) in counts
    log = (tmp_path / "build.log").read_text()
    assert "Linking C executable" in log
    assert f"made from tiny-1.tar.gz, sha256 {recipe.source.sha256}; " in log
    assert working_folder_is_clean(tmp_path / "rt")
    assert working_folder_is_clean(cache / "runtimes")


@posix_only
def test_the_second_time_it_comes_from_the_cache(tmp_path: Path) -> None:
    recipe, cache = tiny_project(tmp_path), tmp_path / "cache"
    obtain_runtime(recipe, tmp_path / "one", cache, Follower(), local_parts(tmp_path))
    (tmp_path / "tiny-1.tar.gz").unlink()
    reporter = Follower()
    folder = obtain_runtime(recipe, tmp_path / "two", cache, reporter, local_parts(tmp_path))
    assert [told[3] for told in reporter.told] == ["Looking in the cache"]
    assert store.verified(folder, cache_key(recipe))


@posix_only
def test_a_changed_cache_is_not_trusted(tmp_path: Path) -> None:
    recipe, cache = tiny_project(tmp_path), tmp_path / "cache"
    obtain_runtime(recipe, tmp_path / "one", cache, Follower(), local_parts(tmp_path))
    server = cache / "runtimes" / cache_key(recipe) / "llama-server"
    server.write_bytes(server.read_bytes() + b"!")
    reporter = Follower()
    obtain_runtime(recipe, tmp_path / "two", cache, reporter, local_parts(tmp_path))
    assert "Compiling" in [told[3] for told in reporter.told]
    assert store.verified(server.parent, cache_key(recipe)), "and it is made good"


@posix_only
def test_an_extra_or_missing_file_breaks_the_seal(tmp_path: Path) -> None:
    recipe = tiny_project(tmp_path)
    folder = obtain_runtime(
        recipe, tmp_path / "rt", tmp_path / "cache", Follower(), local_parts(tmp_path)
    )
    extra = folder / "libevil.so"
    extra.touch()
    assert store.verified(folder) is None
    extra.unlink()
    assert store.verified(folder) is not None
    assert store.verified(folder, "another key") is None
    (folder / "LICENSE").unlink()
    assert store.verified(folder) is None


@posix_only
def test_a_cache_that_cannot_be_written_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cache = tiny_project(tmp_path), tmp_path / "cache"
    (cache / "runtimes").mkdir(parents=True)
    real = store.shutil.copytree

    def full(source: Path, target: Path, **more: bool) -> None:
        if cache in Path(target).parents:
            raise OSError(28, "No space left on device")
        real(source, target, **more)

    monkeypatch.setattr(store.shutil, "copytree", full)
    folder = obtain_runtime(recipe, tmp_path / "rt", cache, Follower(), local_parts(tmp_path))
    assert store.verified(folder)
    assert working_folder_is_clean(cache / "runtimes")


@posix_only
@pytest.mark.parametrize("generator", ["Ninja", "Unix Makefiles"])
def test_a_cancel_in_mid_build_ends_the_whole_tree_and_leaves_nothing(
    tmp_path: Path, generator: str
) -> None:
    recipe = tiny_project(tmp_path, ENDLESS)
    reporter = Follower(tmp_path / "build.log")
    tools = find_toolchain()
    if generator != tools.generator:
        make = shutil.which("make")
        if make is None:
            pytest.skip("make is not installed")
        tools = dataclasses.replace(tools, generator=generator, make_program=make)
    parts = dataclasses.replace(local_parts(tmp_path), toolchain=lambda recipe: tools)
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            obtain_runtime(recipe, tmp_path / "rt", tmp_path / "cache", reporter, parts)
        except BaseException as exc:  # noqa: BLE001 - looked at below
            outcome.append(exc)

    def sleepers() -> list[int]:
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if process.cmdline() == ["sleep", "600"]:
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    reporter.wait_for_step("Compiling")
    pause = threading.Event()
    while len(sleepers()) < 2:
        assert thread.is_alive(), outcome
        pause.wait(0.02)
    started = sleepers()
    reporter.cancel.set()
    thread.join(20)
    assert [type(exc) for exc in outcome] == [Cancelled]
    assert not [pid for pid in started if is_running(pid)]
    assert os.listdir(tmp_path / "rt") == []


@posix_only
def test_a_compile_error_fails_with_its_first_line_and_leaves_nothing(tmp_path: Path) -> None:
    recipe = tiny_project(tmp_path, server_c="#error this llama has no legs\n")
    with pytest.raises(RuntimeBuildFailed, match="this llama has no legs"):
        obtain_runtime(
            recipe, tmp_path / "rt", tmp_path / "cache", Follower(), local_parts(tmp_path)
        )
    assert os.listdir(tmp_path / "rt") == []


@posix_only
def test_a_configure_error_fails_too(tmp_path: Path) -> None:
    recipe = tiny_project(tmp_path, 'message(FATAL_ERROR "no hay")\n')
    with pytest.raises(RuntimeBuildFailed, match="CMake Error"):
        obtain_runtime(
            recipe, tmp_path / "rt", tmp_path / "cache", Follower(), local_parts(tmp_path)
        )


@posix_only
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("(build %d,", "(build 1%d,"), f"says it is build 1{BUILD}"),
        (("puts(HELP_TEXT)", 'puts("--fit")'), f"Build {BUILD} of llama.cpp lacks a unix socket"),
        (("return 0;", "return 9;"), "exit code 9"),
    ],
)
def test_a_result_that_does_not_prove_itself_is_not_put_in_place(
    tmp_path: Path, change: tuple[str, str], complaint: str
) -> None:
    recipe = tiny_project(tmp_path, server_c=SERVER_C.replace(*change))
    with pytest.raises(RuntimeBuildFailed, match=complaint):
        obtain_runtime(
            recipe, tmp_path / "rt", tmp_path / "cache", Follower(), local_parts(tmp_path)
        )
    assert os.listdir(tmp_path / "rt") == []
    assert not list((tmp_path / "cache").glob("runtimes/*"))


@posix_only
def test_a_program_that_was_not_made_is_named(tmp_path: Path) -> None:
    recipe = tiny_project(
        tmp_path,
        'set_target_properties(llama-quantize PROPERTIES OUTPUT_NAME "other")\n',
    )
    with pytest.raises(RuntimeBuildFailed, match="made no llama-quantize"):
        obtain_runtime(
            recipe, tmp_path / "rt", tmp_path / "cache", Follower(), local_parts(tmp_path)
        )


def test_too_little_disk_is_seen_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "WORK_BYTES", {"cpu": 10**18})
    with pytest.raises(NotEnoughDisk, match="needs 1000000000000 MB"):
        obtain_runtime(
            tiny_project(tmp_path),
            tmp_path / "rt",
            tmp_path / "c",
            Follower(),
            local_parts(tmp_path),
        )
    assert os.listdir(tmp_path / "rt") == []


@posix_only
def test_what_a_killed_build_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / "rt" / ".staging-1-abcd" / "source"
    left.mkdir(parents=True)
    recipe = tiny_project(tmp_path)
    obtain_runtime(recipe, tmp_path / "rt", tmp_path / "cache", Follower(), local_parts(tmp_path))
    assert os.listdir(tmp_path / "rt") == [recipe.runtime_id]


@posix_only
def test_the_manifest_says_what_a_runtime_was_made_from(tmp_path: Path) -> None:
    recipe = tiny_project(tmp_path)
    folder = obtain_runtime(
        recipe, tmp_path / "rt", tmp_path / "cache", Follower(), local_parts(tmp_path)
    )
    manifest = store.read_manifest(folder)
    assert manifest is not None
    assert manifest.origin == "built"
    source, tools, options = manifest.made_from.split("; ")
    assert source == f"tiny-1.tar.gz, sha256 {recipe.source.sha256}"
    assert ", CMake 3." in tools
    assert options == f"cmake options -DLLAMA_BUILD_NUMBER={BUILD}"


@posix_only
def test_the_conversion_scripts_of_the_tree_are_kept_and_sealed(tmp_path: Path) -> None:
    folder = obtain_runtime(
        tiny_project(tmp_path),
        tmp_path / "rt",
        tmp_path / "cache",
        Follower(),
        local_parts(tmp_path),
    )
    script = folder / "conversion" / "convert_hf_to_gguf.py"
    for name in ("conversion/base.py", "gguf-py/gguf/__init__.py", "models/templates/one.jinja"):
        assert (script.parent / name).is_file()
    assert not (script.parent / "gguf-py" / "tests").exists()
    assert store.verified(folder)
    script.write_text("import os")
    assert store.verified(folder) is None


@posix_only
def test_the_toolkits_libraries_are_looked_for_beside_the_program_first(tmp_path: Path) -> None:
    tools = dataclasses.replace(find_toolchain(), library_folders=("/opt/kit/lib64",))
    recipe = tiny_project(
        tmp_path, 'file(WRITE ${CMAKE_BINARY_DIR}/bin/rpath.so "${CMAKE_INSTALL_RPATH}")\n'
    )
    parts = dataclasses.replace(local_parts(tmp_path), toolchain=lambda recipe: tools)
    folder = obtain_runtime(recipe, tmp_path / "rt", tmp_path / "cache", Follower(), parts)
    own, _, kit = (folder / "rpath.so").read_text().partition(";")
    assert own in ("$ORIGIN", "@loader_path")
    assert kit == "/opt/kit/lib64"


@posix_only
def test_a_program_that_an_older_tree_does_not_know_is_done_without(tmp_path: Path) -> None:
    files = tiny_files(programs=("llama-server", "llama-quantize"))
    archive = archive_of(files, tmp_path / "tiny-1.tar.gz")
    recipe = Recipe(source_of(archive), "cpu", (f"-DLLAMA_BUILD_NUMBER={BUILD}",))
    reporter = Follower(tmp_path / "build.log")
    for generator in ("Ninja", "Unix Makefiles"):
        tools = dataclasses.replace(
            find_toolchain(),
            generator=generator,
            make_program=shutil.which("ninja" if generator == "Ninja" else "make") or "none",
        )
        parts = dataclasses.replace(
            local_parts(tmp_path), toolchain=lambda recipe, tools=tools: tools
        )
        folder = obtain_runtime(recipe, tmp_path / generator, tmp_path / generator, reporter, parts)
        assert (folder / "llama-quantize").is_file()
        assert not (folder / "llama-bench").exists()
    assert "has no llama-fit-params, " in (tmp_path / "build.log").read_text()


def rejecting(server: Path, backend: str) -> Proof:
    return Proof(ok=False, proved_at=1.0, error=ErrorView("x", "It lists no GPU.", "Buy one."))


@posix_only
def test_what_the_proof_rejects_is_put_nowhere_and_says_why(tmp_path: Path) -> None:
    parts = dataclasses.replace(local_parts(tmp_path), prove=rejecting)
    with pytest.raises(RuntimeRejected, match="It lists no GPU") as caught:
        obtain_runtime(
            tiny_project(tmp_path), tmp_path / "rt", tmp_path / "cache", Follower(), parts
        )
    assert caught.value.remedy == "Buy one."
    assert os.listdir(tmp_path / "rt") == []
    assert not list((tmp_path / "cache").glob("runtimes/*"))


@posix_only
def test_what_comes_from_the_cache_is_proved_too(tmp_path: Path) -> None:
    recipe, cache = tiny_project(tmp_path), tmp_path / "cache"
    obtain_runtime(recipe, tmp_path / "one", cache, Follower(), local_parts(tmp_path))
    parts = dataclasses.replace(local_parts(tmp_path), prove=rejecting)
    key = cache_key(recipe)
    assert not build.restore(cache / "runtimes" / key, tmp_path / "two", key, recipe, parts)
    assert not (tmp_path / "two").exists()


def test_the_light_proof_tells_a_broken_server_from_an_old_one(tmp_path: Path) -> None:
    missing = light_proof(tmp_path / "nothing", "cpu")
    assert not missing.ok
    assert missing.error is not None
    assert "cannot be run" in missing.error.message


@posix_only
def test_the_light_proof_names_what_an_old_server_lacks(tmp_path: Path) -> None:
    old = light_proof(scripted_server(tmp_path / "old", help_text="--fit"), "cpu")
    assert not old.ok
    assert old.error is not None
    assert "a unix socket as --host" in old.error.message
    assert light_proof(scripted_server(tmp_path / "good"), "cpu").ok


# A ladder whose upper rungs cannot be had: one lacks its toolkit, one does not compile, one
# is rejected by its proof.


def ladder_parts(folder: Path) -> Parts:
    def toolchain(recipe: Recipe) -> Toolchain:
        if recipe.backend == "rocm":
            raise RuntimeBuildFailed("hipcc is missing.", "Run: install hipcc")
        return find_toolchain()

    def prove(server: Path, backend: str) -> Proof:
        return rejecting(server, backend) if backend == "vulkan" else light_proof(server, backend)

    return dataclasses.replace(local_parts(folder), toolchain=toolchain, prove=prove)


def ladder_recipes(folder: Path) -> dict[str, Recipe]:
    good = tiny_project(folder)
    (folder / "bad").mkdir()
    bad = tiny_project(folder / "bad", server_c="#error no cores for CUDA\n")
    (folder / "bad" / "tiny-1.tar.gz").rename(folder / "bad.tar.gz")
    source = dataclasses.replace(bad.source, filename="bad.tar.gz")
    return {
        "cuda": dataclasses.replace(bad, source=source, backend="cuda"),
        "rocm": dataclasses.replace(good, backend="rocm"),
        "vulkan": dataclasses.replace(good, backend="vulkan"),
        "cpu": good,
    }


@posix_only
def test_a_build_steps_down_the_ladder_and_says_so(tmp_path: Path) -> None:
    recipes = ladder_recipes(tmp_path)
    reporter = Follower(tmp_path / "build.log")
    built = build_best(
        tuple(recipes),
        recipes.__getitem__,
        tmp_path / "rt",
        tmp_path / "cache",
        reporter,
        ladder_parts(tmp_path),
    )
    assert (built.folder.name, built.backend) == (f"b{BUILD}-cpu", "cpu")
    assert [s.backend for s in built.skipped] == ["cuda", "rocm", "vulkan"]
    assert "no cores for CUDA" in built.skipped[0].error.message
    assert built.skipped[1] == Skipped(
        "rocm", ErrorView("runtime_build_failed", "hipcc is missing.", "Run: install hipcc")
    )
    assert built.skipped[2].error.code == "runtime_rejected"
    told = "ROCm is passed over: hipcc is missing. Next is Vulkan."
    assert told in [step for _, _, _, step in reporter.told]
    assert f"== {told}\n" in (tmp_path / "build.log").read_text()
    assert os.listdir(tmp_path / "rt") == [f"b{BUILD}-cpu"]


@posix_only
def test_when_no_rung_can_be_built_every_reason_is_told(tmp_path: Path) -> None:
    recipes = ladder_recipes(tmp_path)
    del recipes["cpu"]
    with pytest.raises(RuntimeBuildFailed) as caught:
        build_best(
            tuple(recipes),
            recipes.__getitem__,
            tmp_path / "rt",
            tmp_path / "cache",
            Follower(),
            ladder_parts(tmp_path),
        )
    for reason in ("none of 3", "no cores for CUDA", "hipcc is missing", "It lists no GPU"):
        assert reason in caught.value.message
    assert os.listdir(tmp_path / "rt") == []


@pytest.mark.parametrize("stop", [Cancelled, NotEnoughDisk, DownloadFailed])
def test_what_would_stop_every_rung_stops_at_once(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    asked: list[str] = []

    def toolchain(recipe: Recipe) -> Toolchain:
        asked.append(recipe.backend)
        raise stop("no")

    recipe = tiny_project(tmp_path)
    with pytest.raises(stop):
        build_best(
            ("vulkan", "cpu"),
            lambda backend: dataclasses.replace(recipe, backend=backend),
            tmp_path / "rt",
            tmp_path / "cache",
            Follower(),
            Parts(toolchain=toolchain),
        )
    assert asked == ["vulkan"]


def test_a_single_backend_that_fails_keeps_its_own_words(tmp_path: Path) -> None:
    def toolchain(recipe: Recipe) -> Toolchain:
        raise RuntimeBuildFailed("glslc is missing.", "Run: install glslc")

    with pytest.raises(RuntimeBuildFailed) as caught:
        build_best(
            ("vulkan",),
            lambda backend: tiny_project(tmp_path, backend=backend),
            tmp_path / "rt",
            tmp_path / "cache",
            Follower(),
            Parts(toolchain=toolchain),
        )
    assert (caught.value.message, caught.value.remedy) == (
        "glslc is missing.",
        "Run: install glslc",
    )
