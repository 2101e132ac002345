"""The few ways in which a toolchain search looks at a machine; tests give a made-up one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

TRY_TIMEOUT_S = 20.0

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BuildHost:
    """Where programs, headers and libraries are looked for."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    root: Path = Path("/")  # what usual places ("/usr/local/cuda") are below
    platform: str = sys.platform

    @property
    def path(self) -> str:
        return self.environ.get("PATH", "")

    def which(self, *names: str) -> str | None:
        """The first of these programs on PATH."""
        return next((found for n in names if (found := shutil.which(n, path=self.path))), None)

    def folders(self, *patterns: str) -> list[Path]:
        """Existing folders at usual places, in the order of patterns; of one the newest first."""
        found: list[Path] = []
        for pattern in patterns:
            matches = sorted(self.root.glob(pattern.lstrip("/")), key=_by_number, reverse=True)
            found += [path for path in matches if path.is_dir()]
        return found

    def named(self, *variables: str) -> list[Path]:
        """The folders that these variables of the user name, where they exist."""
        paths = [Path(value) for name in variables if (value := self.environ.get(name))]
        return [path for path in paths if path.is_dir()]

    def prefixes(self) -> list[Path]:
        """Where a system keeps include/ and lib/."""
        return self.folders("/usr", "/usr/local", "/opt/homebrew")

    def program(self, folder: Path, name: str) -> str | None:
        """A program in `folder`, with this system's suffix."""
        return shutil.which(name, path=str(folder))

    def says(self, program: str, *arguments: str, also_failed: bool = False) -> str | None:
        """What a program prints, or None when it cannot be run or fails. Blocks, bounded.

        With `also_failed` what it says on stderr counts, and how it ends does not.
        """
        try:
            done = subprocess.run(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TRY_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if also_failed:
            return done.stdout + done.stderr
        return done.stdout if done.returncode == 0 else None


def first_file(prefixes: Iterable[Path], *patterns: str) -> Path | None:
    """The first existing file by any of these patterns below any prefix, prefixes first."""
    for prefix in prefixes:
        for pattern in patterns:
            for path in sorted(prefix.glob(pattern)):
                if path.is_file():
                    return path
    return None


def version_in(text: str | None, pattern: str = r"(\d+(?:\.\d+)+)") -> Version | None:
    """The version that `pattern`'s first group finds."""
    found = re.search(pattern, text or "")
    return tuple(int(part) for part in found[1].split(".")) if found else None


def in_words(version: Version) -> str:
    return ".".join(map(str, version))


def _by_number(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", path.name)]
