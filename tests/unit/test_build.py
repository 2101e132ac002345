"""A runtime from source: tools, archive, progress, proof, cache, and leaving nothing behind."""

from __future__ import annotations

import dataclasses
import io
import os
import tarfile
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
    tiny_project,
)
from tray_app.engine.errors import Cancelled, NotEnoughDisk, RuntimeBuildFailed
from tray_app.engine.process_tree import is_running
from tray_app.engine.runtime import build, store, toolchain
from tray_app.engine.runtime.archive import unpack
from tray_app.engine.runtime.build import obtain_runtime, parallel_jobs, read_count
from tray_app.engine.runtime.probe import probe
from tray_app.engine.runtime.recipe import cache_key, host_recipe
from tray_app.engine.runtime.toolchain import find_package_manager, find_toolchain

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


def test_a_build_uses_no_more_compilers_than_memory_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def free(gigabytes: float) -> None:
        amount = int(gigabytes * 1e9)
        monkeypatch.setattr(build.memory, "total_and_available", lambda: (amount, amount))

    monkeypatch.setattr(build.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    free(3.5)
    assert parallel_jobs() == 3
    free(100)
    assert parallel_jobs() == 8
    free(0.2)
    assert parallel_jobs() == 1


def test_a_missing_toolchain_is_named_with_its_install_command(tmp_path: Path) -> None:
    with pytest.raises(RuntimeBuildFailed, match=r"CMake, Ninja or make, a C\+\+ compiler") as e:
        find_toolchain(path=str(tmp_path), package_manager="apt")
    assert e.value.remedy == "Run: sudo apt install cmake ninja-build build-essential"
    with pytest.raises(RuntimeBuildFailed) as e:
        find_toolchain(path=str(tmp_path), package_manager="brew")
    assert e.value.remedy == "Run: brew install cmake ninja && xcode-select --install"


@posix_only
def test_only_what_is_missing_is_named_and_a_broken_tool_counts_as_missing(tmp_path: Path) -> None:
    for name, status in {"cmake": 0, "make": 0, "c++": 1, "g++": 1}.items():
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\nexit {status}\n")
        tool.chmod(0o755)
    with pytest.raises(RuntimeBuildFailed, match=r"here: a C\+\+ compiler is missing") as e:
        find_toolchain(path=str(tmp_path), package_manager="dnf")
    assert e.value.remedy == "Run: sudo dnf install gcc-c++"
    (tmp_path / "c++").write_text("#!/bin/sh\nexit 0\n")
    found = find_toolchain(path=str(tmp_path))
    assert (found.generator, found.make_program) == ("Unix Makefiles", str(tmp_path / "make"))
    assert found.nice is None


@pytest.mark.skipif(os.sys.platform != "linux", reason="distributions are Linux")
@pytest.mark.parametrize(
    ("os_release", "manager"),
    [
        ("ID=debian\n", "apt"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "apt"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf"),
        ("ID=fedora\n", "dnf"),
        ("ID=manjaro\nID_LIKE=arch\n", "pacman"),
        ('ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n', "zypper"),
        ("ID=unheard-of\n", "zypper"),
        (None, "zypper"),
    ],
)
def test_each_distribution_gets_its_own_command(
    tmp_path: Path, os_release: str | None, manager: str
) -> None:
    path = tmp_path / "os-release"
    if os_release is not None:
        path.write_text(os_release)
    which = {"zypper": "/usr/bin/zypper"}.get
    assert find_package_manager(path, which) == manager
    assert manager in toolchain.PACKAGES


def hostile(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"\0" * member.size))
    return path


def member(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside"),
        member("a/../../outside"),
        member("link", tarfile.SYMTYPE, link="/etc"),
        member("link", tarfile.LNKTYPE, link="../../etc/passwd"),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
        member("long/" + "x" * 2000),
    ],
    ids=lambda info: f"{info.name[:20]}-{info.type!r}",
)
def test_a_hostile_archive_is_refused_and_writes_nothing_outside(
    tmp_path: Path, bad: tarfile.TarInfo
) -> None:
    archive = hostile(tmp_path / "bad.tar.gz", member("good"), bad)
    with pytest.raises(RuntimeBuildFailed, match=r"bad\.tar\.gz cannot be used"):
        unpack(archive, tmp_path / "out" / "deep")
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "out" / "outside").exists()


def test_an_absolute_path_stays_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    archive = hostile(tmp_path / "a.tar.gz", member(str(outside)))
    unpack(archive, tmp_path / "out")
    assert not outside.exists()


def test_an_archive_that_is_too_big_is_refused(tmp_path: Path) -> None:
    archive = hostile(tmp_path / "a.tar.gz", *(member(f"f{n}", size=100) for n in range(20)))
    for limits in ({"max_members": 19}, {"max_total_bytes": 1999}):
        with pytest.raises(RuntimeBuildFailed, match="more than"):
            unpack(archive, tmp_path / f"out-{limits}", **limits)
    unpack(archive, tmp_path / "out", max_members=20, max_total_bytes=2000)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_archive_is_refused(tmp_path: Path, damage: str) -> None:
    archive = archive_of({"a": os.urandom(50_000)}, tmp_path / "a.tar.gz")
    data = archive.read_bytes()
    archive.write_bytes({"cut": data[:20_000], "noise": os.urandom(999), "empty": b""}[damage])
    with pytest.raises(RuntimeBuildFailed, match="cannot be used"):
        unpack(archive, tmp_path / "out")


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
    ]
    counts = [(done, total) for done, total, unit, step in reporter.told if unit == "steps"]
    assert counts[-1][0] == counts[-1][1] == 8
    assert "Linking C executable" in (tmp_path / "build.log").read_text()
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
        make = toolchain.shutil.which("make")
        if make is None:
            pytest.skip("make is not installed")
        tools = dataclasses.replace(tools, generator=generator, make_program=make)
    parts = dataclasses.replace(local_parts(tmp_path), toolchain=lambda: tools)
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
        (("puts(HELP_TEXT)", 'puts("--fit")'), "lacks a unix socket"),
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
    monkeypatch.setattr(build, "WORK_BYTES", 10**18)
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


def test_a_key_changes_with_everything_the_result_depends_on() -> None:
    recipe = host_recipe()
    key = cache_key(recipe, "sse avx")
    assert key.startswith(f"{recipe.runtime_id}-")
    assert cache_key(recipe, "sse avx") == key
    other_source = dataclasses.replace(recipe.source, sha256="0" * 64)
    others = {
        cache_key(recipe, "sse"),
        cache_key(dataclasses.replace(recipe, options=(*recipe.options, "-DX=1")), "sse avx"),
        cache_key(dataclasses.replace(recipe, source=other_source), "sse avx"),
        cache_key(dataclasses.replace(recipe, backend="cuda"), "sse avx"),
    }
    assert len(others | {key}) == 5
    portable = dataclasses.replace(recipe, native=False)
    assert cache_key(portable, "sse") == cache_key(portable, "sse avx")
