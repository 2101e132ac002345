"""The converter's own Python: a virtual environment below the home, made when it is first needed.

It shares nothing with the app's interpreter, which a frozen app does not even have. The packages
are those of llama.cpp's `requirements-convert_hf_to_gguf.txt` (b11434), torch for the CPU only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tray_app.engine.errors import BadRequest, ConversionFailed, EngineError, NotEnoughDisk
from tray_app.engine.jobs import JobContext
from tray_app.engine.process import ChildProcess, ChildRegistry, LaunchSpec
from tray_app.self_command import is_frozen

from .values import ConverterStatus

# Measured with torch 2.13.0+cpu: what it has in the end, and at most with pip's downloads.
INSTALLED_BYTES = 1_250_000_000
NEEDED_BYTES = 2_000_000_000
LOOK_S = 2.0  # between two looks at how much is there: a walk takes 0.3 s at last
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
POLL_S = 0.1
LEAST, MOST = (3, 10), (3, 14)  # versions of Python that these packages have wheels for
NO_PYTHON = "There is no Python 3.10 to 3.13 on this computer to make the converter with."
INSTALL_PYTHON = "Install Python 3.12 from python.org, or `apt-get install python3-venv`."
PINS = (
    "numpy~=2.2.6",
    "transformers==4.57.6",
    "sentencepiece>=0.1.98,<0.3.0",
    "protobuf>=4.21.0,<5.0.0",
)
TORCH = "2.13.0"
WORKS = "import numpy, sentencepiece, torch, transformers"  # a package may be broken
_CANDIDATES = ("python3.12", "python3.11", "python3.13", "python3.10", "python3", "python")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that can make environments."""

    path: Path
    version: tuple[int, int]


def pins(platform: str = sys.platform) -> tuple[str, ...]:
    """What is installed. macOS has no other torch than the one for its own hardware."""
    local = "" if platform == "darwin" else "+cpu"
    return (f"torch=={TORCH}{local}", *PINS)


class Environment:
    """One environment of one home. From any thread: who uses it holds it."""

    def __init__(
        self,
        folder: Path,
        registry: ChildRegistry | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`folder` is `converter/` of the home. Touches no disk."""
        self.folder = folder
        self._registry = registry
        self._environ = environ
        self._turn = threading.Lock()

    @property
    def python(self) -> Path:
        """Where its interpreter is, whether it is there or not."""
        inside = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
        return self._place.joinpath(*inside)

    def ready(self) -> bool:
        """Whether it is whole: made by these pins, to the end."""
        return self._seal.is_file() and self.python.exists()

    def status(self) -> ConverterStatus:
        """As faces show it. Blocks for a walk through 20,000 files (0.3 s)."""
        if self.ready():
            version = _pyvenv_version(self._place)
            return ConverterStatus(True, False, self._size_bytes(), INSTALLED_BYTES, version)
        installing = self._turn.locked()
        size = 0 if not self.folder.exists() else self._size_bytes()
        maker = find_interpreter(self._environ)
        version = f"{maker.version[0]}.{maker.version[1]}" if maker else None
        told = ("", "") if maker else (NO_PYTHON, INSTALL_PYTHON)
        return ConverterStatus(False, installing, size, INSTALLED_BYTES, version, *told)

    def remove(self) -> None:
        """Delete it; it is made again when it is needed. Raises BadRequest, OSError."""
        if not self._turn.acquire(blocking=False):
            raise BadRequest("The converter is being installed or used.", "Cancel that first.")
        try:
            if self.folder.exists():
                shutil.rmtree(self.folder)
        finally:
            self._turn.release()

    @contextlib.contextmanager
    def held(self, context: JobContext, repair: bool = False) -> Iterator[Path]:
        """Its interpreter, made if need be, which nobody removes meanwhile.

        Blocks for minutes where it has to be made (74 s on a fast line). `repair` makes it anew.
        Raises ConversionFailed, NotEnoughDisk, Cancelled, OSError.
        """
        while not self._turn.acquire(timeout=POLL_S):
            context.check()
        try:
            yield self._made(context, repair)
        finally:
            self._turn.release()

    def _size_bytes(self) -> int:
        found = 0
        for root, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(OSError):  # pip moves files about
                    status = os.lstat(os.path.join(root, name))
                    found += status.st_size if stat.S_ISREG(status.st_mode) else 0
        return found

    def _made(self, context: JobContext, repair: bool) -> Path:
        if self.ready() and not repair:
            return self.python
        maker = find_interpreter(self._environ)
        if maker is None:
            raise ConversionFailed(NO_PYTHON, INSTALL_PYTHON)
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < NEEDED_BYTES:
            raise NotEnoughDisk(
                f"The converter needs {NEEDED_BYTES / 1e9:.1f} GB; {free / 1e9:.1f} GB are free.",
                f"Free some space on the disk of {self.folder}.",
            )
        self._clear()
        try:
            self._run((str(maker.path), "-m", "venv", str(self._place)), "Making room", context)
            self._install(context)
        except BaseException:
            shutil.rmtree(self._place, ignore_errors=True)
            raise
        self._seal.write_text(json.dumps({"pins": pins()}), encoding="utf-8")
        return self.python

    # -- inside

    @property
    def _place(self) -> Path:
        key = hashlib.sha256(json.dumps(pins()).encode()).hexdigest()[:12]
        return self.folder / key

    @property
    def _seal(self) -> Path:
        return self._place / "llama-wrangler.json"

    def _clear(self) -> None:
        """Environments of other pins, and what a killed engine left of this one."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)

    def _install(self, context: JobContext) -> None:
        words = (str(self.python), "-m", "pip", "install", "--no-input", "--progress-bar", "off")
        index = () if sys.platform == "darwin" else ("--extra-index-url", CPU_INDEX)
        step, looked = ["Installing the converter"], [0.0]

        def tell(line: str) -> None:
            first, _, rest = line.strip().partition(" ")
            if first in ("Collecting", "Downloading"):
                name = rest.split(" ")[0].rpartition("/")[2]
                step[0] = f"{first} {name[:60]}"
            elif first == "Installing":
                step[0] = "Unpacking the packages"

        def look() -> None:
            """pip tells no bytes; what lies in the folder grows with its work."""
            if time.monotonic() - looked[0] < LOOK_S:
                return
            looked[0] = time.monotonic()
            done = min(self._size_bytes(), INSTALLED_BYTES - 1)
            context.progress(done, INSTALLED_BYTES, "bytes", step[0])

        # Its downloads go below the home too: one place, one disk, gone afterwards.
        scratch = self._place / "tmp"
        scratch.mkdir()
        # Torch alone is asked of that index: where it cannot be reached, pip asks five times over
        # for each package. What torch needs comes with the others.
        torch, *_ = packages = pins()
        what = "Installing the converter"
        self._run((*words, "--no-cache-dir", "--no-deps", *index, torch), what, context, tell, look)
        self._run((*words, "--no-cache-dir", *packages), what, context, tell, look)
        shutil.rmtree(scratch, ignore_errors=True)
        self._run((str(self.python), "-c", WORKS), "Trying the converter", context)

    def _run(
        self,
        argv: tuple[str, ...],
        what: str,
        context: JobContext,
        on_line: Callable[[str], object] = lambda line: None,
        on_poll: Callable[[], object] = lambda: None,
    ) -> None:
        context.progress(0, None, "steps", what)
        lines: list[str] = []

        def read(line: str) -> None:
            lines.append(line.strip()[:300])
            del lines[:-20]
            on_line(line)

        # Nothing of the app's own Python may shine through.
        env = {"PYTHONNOUSERSITE": "1", "PYTHONPATH": "", "PYTHONHOME": ""}
        env |= dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(self._place / "tmp"))
        spec = LaunchSpec(argv, env=env, log_path=context.log_path)
        with ChildProcess(
            spec, on_line=read, registry=self._registry, kind="convert", marker=str(self._place)
        ) as child:
            while (status := child.wait(POLL_S)) is None:
                context.check()
                on_poll()
        if status != 0:
            raise _failure(what, lines)


def _failure(what: str, lines: list[str]) -> EngineError:
    if any("No space left" in line for line in lines):
        return NotEnoughDisk("The disk filled up.", "Free some space, then retry.")
    why = next((line for line in reversed(lines) if "rror" in line), "see the log")
    return ConversionFailed(f"{what} failed: {why}", "Check the connection, then retry.")


def _pyvenv_version(place: Path) -> str | None:
    """The Python that an environment was made with ("3.11")."""
    with contextlib.suppress(OSError):
        for line in (place / "pyvenv.cfg").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "version":
                return ".".join(value.strip().split(".")[:2])
    return None


def find_interpreter(environ: Mapping[str, str] = os.environ) -> Interpreter | None:
    """A Python that these packages have wheels for: ours where there is one, else of the PATH.

    Blocks for 0.1 s for each one asked.
    """
    if not is_frozen() and LEAST <= sys.version_info[:2] < MOST:
        return Interpreter(Path(sys.executable), sys.version_info[:2])
    places = os.pathsep.join((environ.get("PATH", ""), *map(str, python_folders(environ))))
    for name in _CANDIDATES:
        found = shutil.which(name, path=places)
        if found is None or (sys.platform == "darwin" and found.startswith("/usr/bin/")):
            continue  # Apple's is 3.9, or a stub that opens a dialog about developer tools
        version = _version_of(Path(found))
        if version is not None and LEAST <= version < MOST:
            return Interpreter(Path(found), version)
    return None


def python_folders(environ: Mapping[str, str], platform: str = sys.platform) -> list[Path]:
    """Where installers put a Python that an app started from a desktop has not on its PATH."""
    if platform == "win32":
        bases = (environ.get("LOCALAPPDATA", ""), environ.get("PROGRAMFILES", ""))
        inside = (Path("Programs", "Python"), Path())
        return [
            Path(base) / rest / f"Python3{minor}"
            for base, rest in zip(bases, inside, strict=True)
            if base
            for minor in (12, 11, 13, 10)
        ]
    local = [Path(environ["HOME"], ".local", "bin")] if environ.get("HOME") else []
    if platform == "darwin":
        frameworks = Path("/Library/Frameworks/Python.framework/Versions/Current/bin")
        return [*local, Path("/opt/homebrew/bin"), Path("/usr/local/bin"), frameworks]
    return [*local, Path("/usr/local/bin")]


def _version_of(python: Path) -> tuple[int, int] | None:
    """Its version, when it has what makes environments."""
    words = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [str(python), "-c", words], capture_output=True, text=True, timeout=10, check=False
        )
        major, minor = done.stdout.split()
        return int(major), int(minor)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
