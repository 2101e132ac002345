"""Missing libraries, as ldd, otool and the loaders tell them, and where they come from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tray_app.engine.runtime.libraries import (
    in_words,
    missing_at_start,
    missing_libraries,
    where_from,
)

# ldd of glibc 2.36, made by hiding libraries of a real build.
LDD = """\
\tlinux-vdso.so.1 (0x00007ffd0b5e6000)
\tlibllama.so => /opt/llama/libllama.so (0x00007f0c7b000000)
\tlibgomp.so.1 => not found
\tlibcudart.so.12 => not found
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f0c7a600000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f0c7b3d9000)
\tlibgomp.so.1 => not found
"""
# A release for Ubuntu 24.04 on Debian 12, as users report it (ggml-org/llama.cpp issues).
LDD_TOO_OLD = """\
./llama-server: /lib/x86_64-linux-gnu/libm.so.6: version `GLIBC_2.38' not found (required by ./llama-server)
./llama-server: /lib/x86_64-linux-gnu/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by ./llama-server)
./llama-server: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by ./llama-server)
\tlinux-vdso.so.1 (0x00007ffd0b5e6000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f0c7a600000)
"""  # noqa: E501 - recorded
# otool -L of Xcode's command line tools: the format of its manual page.
OTOOL = """\
{program}:
\t@rpath/libllama.dylib (compatibility version 0.0.0, current version 0.0.0)
\t@rpath/libggml.dylib (compatibility version 0.0.0, current version 0.0.0)
\t@loader_path/libmtmd.dylib (compatibility version 0.0.0, current version 0.0.0)
\t/opt/homebrew/opt/libomp/lib/libomp.dylib (compatibility version 5.0.0, current version 5.0.0)
\t/usr/lib/libc++.1.dylib (compatibility version 1.0.0, current version 1700.255.5)
\t/System/Library/Frameworks/Metal.framework/Versions/A/Metal (compatibility version 1.0.0, current version 366.22.0)
"""  # noqa: E501 - recorded


class Tool:
    """Answers for ldd or otool, and remembers what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, argv: Sequence[str], timeout_s: float) -> str:
        assert timeout_s > 0
        self.asked.append(Path(argv[-1]).name)
        return self.answers.pop(0) if self.answers else ""


def folder_with(folder: Path, *names: str) -> Path:
    for name in ("llama-server", *names):
        (folder / name).write_bytes(name.encode())
    return folder


def test_ldd_names_each_missing_library_once(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "libggml.so", "libggml-cuda.so", "libllama.so")
    tool = Tool("", LDD, LDD)
    found = missing_libraries(folder, run=tool, platform="linux")
    assert found == ("libgomp.so.1", "libcudart.so.12")
    # Backends are opened at run time: the program itself does not ask for their libraries.
    assert tool.asked == ["llama-server", "libggml-cuda.so", "libggml.so"]


def test_a_library_with_links_to_it_is_asked_once(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "libggml.so.0.9.4")
    (folder / "libggml.so.0").symlink_to("libggml.so.0.9.4")
    (folder / "libggml.so").symlink_to("libggml.so.0")
    tool = Tool()
    missing_libraries(folder / "llama-server", run=tool, platform="linux")
    assert len(tool.asked) == 2


def test_a_system_too_old_is_named_by_its_version(tmp_path: Path) -> None:
    tool = Tool(LDD_TOO_OLD)
    found = missing_libraries(folder_with(tmp_path), run=tool, platform="linux")
    assert found == ("GLIBC_2.38", "GLIBCXX_3.4.32")
    assert where_from(found) == "This build was made for a newer system: build the runtime here."


def test_otool_is_held_against_the_disk(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "libllama.dylib", "libmtmd.dylib")
    tool = Tool(OTOOL.format(program=folder / "llama-server"))
    found = missing_libraries(folder, run=tool, platform="darwin")
    assert found == ("libggml.dylib", "libomp.dylib")


def test_windows_does_not_tell(tmp_path: Path) -> None:
    assert missing_libraries(tmp_path, run=Tool("x => not found"), platform="win32") == ()


@pytest.mark.parametrize(
    ("line", "status", "named"),
    [
        (
            "llama-server: error while loading shared libraries: libggml-base.so: cannot open"
            " shared object file: No such file or directory",
            127,
            ("libggml-base.so",),
        ),
        (
            "Error loading shared library libgomp.so.1: No such file or directory (needed by"
            " /opt/llama/llama-server)",
            127,
            ("libgomp.so.1",),
        ),
        ("dyld[4711]: Library not loaded: @rpath/libllama.dylib", -6, ("libllama.dylib",)),
        (
            "./llama-server: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found"
            " (required by ./llama-server)",
            1,
            ("GLIBC_2.38",),
        ),
        ("", 0xC0000135, ("a DLL",)),
        ("", -1073741515, ("a DLL",)),
        ("error: failed to load model", 1, ()),
    ],
)
def test_what_the_loaders_say_is_read(line: str, status: int, named: tuple[str, ...]) -> None:
    assert missing_at_start([line], status) == named


def test_each_source_is_told_once() -> None:
    libraries = ("libcudart.so.12", "libcublas.so.12", "libvulkan.so.1", "libsecret-sauce.so")
    told = where_from(libraries)
    assert told.count("CUDA runtime") == 1
    assert "libvulkan1 on Debian" in told
    assert where_from(["libsecret-sauce.so"]).startswith("Install the missing libraries")
    assert "driver" in where_from(["libcuda.so.1"])
    assert in_words(libraries[:1]) == "libcudart.so.12 is missing"
    assert in_words(libraries[:3]).endswith("libcublas.so.12 and libvulkan.so.1 are missing")


def test_a_flood_of_names_is_bounded(tmp_path: Path) -> None:
    flood = "\n".join(f"\tlib{number}.so => not found" for number in range(10_000))
    found = missing_libraries(folder_with(tmp_path), run=Tool(flood), platform="linux")
    assert len(found) == 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux's ldd")
def test_the_real_ldd_names_a_library_that_was_removed(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None or shutil.which("ldd") is None:
        pytest.skip("no C compiler or no ldd")
    (tmp_path / "gone.c").write_text("int gone(void) { return 0; }\n")
    (tmp_path / "main.c").write_text("int gone(void);\nint main(void) { return gone(); }\n")
    library, program = tmp_path / "libgone.so.3", tmp_path / "llama-server"
    build = [compiler, "-shared", "-fPIC", "gone.c", "-Wl,-soname,libgone.so.3", "-o", library.name]
    subprocess.run(build, cwd=tmp_path, check=True)
    link = [compiler, "main.c", library.name, "-Wl,-rpath,$ORIGIN", "-o", program.name]
    subprocess.run(link, cwd=tmp_path, check=True)
    assert missing_libraries(program) == ()
    library.unlink()
    assert missing_libraries(program) == ("libgone.so.3",)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_a_tool_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "ldd"
    tool.write_text("#!/bin/sh\nsleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("tray_app.engine.runtime.libraries.TIMEOUT_S", 0.2)
    assert missing_libraries(folder_with(tmp_path, "libggml.so"), platform="linux") == ()
