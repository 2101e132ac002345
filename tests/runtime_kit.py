"""Stand-ins for llama.cpp: a tiny CMake project that makes a small `llama-server`, archives of
it, and shell scripts that answer like one."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path

from tray_app.engine.errors import Cancelled
from tray_app.engine.fetch import RemoteFile
from tray_app.engine.runtime.build import Parts
from tray_app.engine.runtime.probe import FEATURES
from tray_app.engine.runtime.recipe import PROGRAMS, Recipe, Source

HELP = "\n".join(
    ["--host HOST  addresses, or UNIX socket paths", *(name for name, _ in FEATURES[1:])]
)
BUILD = 4242

SERVER_C = r"""
#include <stdio.h>
#include <string.h>
int main(int count, char **words) {
    if (count > 1 && !strcmp(words[1], "--version"))
        fprintf(stderr, "version: 0.1 (build %d, commit x)\n", LLAMA_BUILD_NUMBER);
    else if (count > 1 && !strcmp(words[1], "--help"))
        puts(HELP_TEXT);
    else
        puts("Available devices:\n  (none)");
    return 0;
}
"""

CMAKE = r"""
cmake_minimum_required(VERSION 3.14)
project(tiny C CXX)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
foreach(name PROGRAM_NAMES)
  add_executable(${name} server.c)
  target_compile_definitions(${name} PRIVATE LLAMA_BUILD_NUMBER=${LLAMA_BUILD_NUMBER})
endforeach()
"""
# One step of the build that never ends, and its own child that would outlive it.
ENDLESS = """
add_custom_command(OUTPUT never COMMAND sh ${CMAKE_SOURCE_DIR}/wait.sh)
add_custom_target(wait_for_ever DEPENDS never)
add_dependencies(llama-server wait_for_ever)
"""


class Follower:
    """A Reporter that remembers, and can be waited on."""

    def __init__(self, log_path: Path | None = None) -> None:
        self.cancel = threading.Event()
        self.log_path = log_path
        self.told: list[tuple[int, int | None, str, str | None]] = []
        self._condition = threading.Condition()

    def check(self) -> None:
        if self.cancel.is_set():
            raise Cancelled

    def progress(
        self, done: int, total: int | None = None, unit: str = "", step: str | None = None
    ) -> None:
        with self._condition:
            self.told.append((done, total, unit, step))
            self._condition.notify_all()

    def wait_for_step(self, step: str, timeout_s: float = 30) -> None:
        with self._condition:
            assert self._condition.wait_for(
                lambda: any(told[3] == step for told in self.told), timeout_s
            ), self.told


def archive_of(files: dict[str, str | bytes], path: Path) -> Path:
    """A .tar.gz of `files`, all below `tiny/`."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(f"tiny/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def tiny_project(
    folder: Path, more_cmake: str = "", server_c: str = SERVER_C, backend: str = "cpu"
) -> Recipe:
    """A recipe whose source is an archive in `folder` that builds in about a second."""
    files = tiny_files(more_cmake, server_c)
    archive = archive_of(files, folder / "tiny-1.tar.gz")
    return Recipe(source_of(archive), backend, (f"-DLLAMA_BUILD_NUMBER={BUILD}",))


def tiny_files(
    more_cmake: str = "", server_c: str = SERVER_C, programs: Sequence[str] = PROGRAMS
) -> dict[str, str | bytes]:
    """The files of such a project."""
    help_text = HELP.replace("\n", "\\n")
    return {
        "CMakeLists.txt": CMAKE.replace("PROGRAM_NAMES", " ".join(programs)) + more_cmake,
        "server.c": f'#define HELP_TEXT "{help_text}"\n{server_c}',
        "wait.sh": "sleep 600 &\nsleep 600\n",
        "LICENSE": "free",
        "convert_hf_to_gguf.py": "import gguf\nfrom conversion import base\n",
        "conversion/__init__.py": "",
        "conversion/base.py": "",
        "gguf-py/gguf/__init__.py": "",
        "gguf-py/tests/test_gguf.py": "",
        "models/templates/one.jinja": "{{ messages }}",
        "requirements.txt": "torch\n",
    }


def source_of(archive: Path) -> Source:
    data = archive.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return Source("tiny", archive.name, len(data), digest, "tiny", BUILD)


def local_parts(folder: Path) -> Parts:
    """Parts that take the source from `folder` and from nowhere else."""

    def locate(source: Source) -> RemoteFile:
        assert source.sha256 is not None
        url = (folder / source.filename).as_uri()
        return RemoteFile(url, source.filename, source.sha256, source.size_bytes)

    return Parts(locate=locate, release_url=None, git_url=None)


def scripted_server(
    folder: Path, build: int = BUILD, help_text: str = HELP, name: str = "llama-server"
) -> Path:
    """A shell script that answers like a llama-server, and counts its runs in runs.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(
        "#!/bin/sh\n"
        f'echo run >> "{folder}/runs.txt"\n'
        'case "$1" in\n'
        f"--version) echo 'version: {build} (0abc)' >&2 ;;\n"
        f"--help) cat <<'END'\n{help_text}\nEND\n;;\n"
        "--list-devices) echo 'Available devices:'; echo '  (none)' ;;\n"
        "esac\n"
    )
    path.chmod(0o755)
    return path
