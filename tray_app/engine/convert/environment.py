"""The converter's own Python: a virtual environment below the home, made when it is first needed.

It shares nothing with the app's interpreter, which a frozen app does not even have. The packages
are those of llama.cpp's `requirements-convert_hf_to_gguf.txt` (b11434), torch for the CPU only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tray_app.engine.errors import ConversionFailed, NotEnoughDisk
from tray_app.engine.jobs import JobContext
from tray_app.engine.process import ChildProcess, ChildRegistry, LaunchSpec

# 1.4 GB when installed (measured with torch 2.13.0+cpu); pip unpacks and caches beside it.
INSTALLED_BYTES = 1_500_000_000
NEEDED_BYTES = 3_000_000_000
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
POLL_S = 0.1
LEAST, MOST = (3, 10), (3, 14)  # versions of Python that these packages have wheels for
PINS = (
    "numpy~=2.2.6",
    "transformers==4.57.6",
    "sentencepiece>=0.1.98,<0.3.0",
    "protobuf>=4.21.0,<5.0.0",
)
TORCH = "2.13.0"
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
    """One environment of one home; thread-safe as far as its jobs take turns."""

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

    @property
    def python(self) -> Path:
        """Where its interpreter is, whether it is there or not."""
        inside = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
        return self._place.joinpath(*inside)

    def ready(self) -> bool:
        """Whether it is whole: made by these pins, to the end."""
        return self._seal.is_file() and self.python.exists()

    def size_bytes(self) -> int:
        """What it takes on the disk. Blocks for a walk through 20,000 files (0.3 s)."""
        found = 0
        for root, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(root, name)
                if not os.path.islink(path):
                    found += os.path.getsize(path)
        return found

    def remove(self) -> None:
        """Delete it; it is made again when it is needed. Raises OSError."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def make(self, context: JobContext) -> Path:
        """Its interpreter, made if need be. Blocks for minutes (74 s on a fast line).

        Raises ConversionFailed, NotEnoughDisk, Cancelled, OSError.
        """
        if self.ready():
            return self.python
        maker = find_interpreter(self._environ)
        if maker is None:
            raise ConversionFailed(
                "There is no Python 3.10 to 3.13 on this computer to make the converter with.",
                "Install Python 3.12 from python.org, or `apt-get install python3-venv`.",
            )
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
        seen: list[str] = []

        def tell(line: str) -> None:
            first, _, rest = line.strip().partition(" ")
            if first in ("Collecting", "Downloading", "Installing"):
                seen.append(rest)
                step = f"{first} {rest.split(' ')[0].rpartition('/')[2][:60]}"
                context.progress(min(len(seen), 59), 60, "steps", step)

        self._run((*words, *index, *pins()), "Installing the converter", context, tell)

    def _run(
        self, argv: tuple[str, ...], what: str, context: JobContext, on_line: object = None
    ) -> None:
        context.progress(0, None, "steps", what)
        lines: list[str] = []

        def read(line: str) -> None:
            lines.append(line.strip()[:300])
            del lines[:-20]
            if callable(on_line):
                on_line(line)

        # Nothing of the app's own Python may shine through.
        env = {"PYTHONNOUSERSITE": "1", "PYTHONPATH": "", "PYTHONHOME": ""}
        spec = LaunchSpec(argv, env=env, log_path=context.log_path)
        with ChildProcess(
            spec, on_line=read, registry=self._registry, kind="convert", marker=str(self._place)
        ) as child:
            while (status := child.wait(POLL_S)) is None:
                context.check()
        if status != 0:
            why = next((line for line in reversed(lines) if "rror" in line), "see the log")
            raise ConversionFailed(f"{what} failed: {why}", "Check the connection, then retry.")


def find_interpreter(environ: Mapping[str, str] = os.environ) -> Interpreter | None:
    """A Python that these packages have wheels for: ours where there is one, else of the PATH.

    Blocks for 0.1 s for each one asked.
    """
    frozen = getattr(sys, "frozen", False)
    if not frozen and LEAST <= sys.version_info[:2] < MOST:
        return Interpreter(Path(sys.executable), sys.version_info[:2])
    for name in _CANDIDATES:
        found = shutil.which(name, path=environ.get("PATH"))
        version = _version_of(Path(found)) if found else None
        if found and version is not None and LEAST <= version < MOST:
            return Interpreter(Path(found), version)
    return None


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
