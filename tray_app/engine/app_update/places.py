"""Where a new version is laid down beside the present one, and how the two change places.

A folder gets `versions/<version>`; an AppImage gets a hidden file beside it. What is half made
has another name than what is whole, and each change of names is one step of the file system: a
kill at any moment leaves a copy that starts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from tray_app.app_versions import OwnCopy, program_of, read_choice, version_key, write_choice
from tray_app.engine.errors import AppUpdateFailed, RuntimeBuildFailed
from tray_app.self_command import VERSIONS

from .kind import Installation, Kind

FETCH, STAGING = ".fetch", ".staging"


class Place(Protocol):
    """Beside the present version. All methods raise OSError."""

    copy: OwnCopy

    def fetch_target(self, filename: str) -> Path:
        """Where the file of a release is fetched to; what came of it stays for the next try."""

    def stage(self, file: Path, version: str, check: Callable[[], None]) -> Path:
        """Unpack `file`; the program that is to be tried. Blocks (38 MB: 1 s).

        `check` is called again and again and may raise. Raises AppUpdateFailed.
        """

    def keep(self, version: str) -> None:
        """What was staged has passed its test: it may be used, and is not made again."""

    def staged(self, version: str) -> bool:
        """Whether a version was kept here."""

    def switch(self, version: str, previous: str, now: float) -> None:
        """Use `version` from the next start on, on trial. `now`: Unix seconds."""

    def tidy(self, kept: frozenset[str]) -> None:
        """Remove what is half made, and versions that are not to be kept."""


def place_of(installed: Installation) -> Place:
    """The place of a copy that is ours."""
    if installed.kind is Kind.APPIMAGE:
        return ImagePlace(installed.program)
    return FolderPlace(installed.program)


class FolderPlace:
    """`versions/` below a folder that the user unpacked."""

    def __init__(self, program: Path) -> None:
        self.copy = OwnCopy(program)
        self._folder = program.parent / VERSIONS
        self._tree = self._folder / STAGING / "tree"

    def fetch_target(self, filename: str) -> Path:
        """See Place."""
        return self._folder / FETCH / filename

    def stage(self, file: Path, version: str, check: Callable[[], None]) -> Path:
        """See Place."""
        from tray_app.engine.runtime.archive import unpack  # tarfile and its kin: only for this

        _remove(self._tree.parent)
        try:
            unpack(file, self._tree, check)
        except RuntimeBuildFailed as exc:
            raise AppUpdateFailed(exc.message, "Look again later: nothing was changed.") from exc
        program = self._root() / self.copy.program.name
        if not program.is_file() or not os.access(program, os.X_OK):
            raise AppUpdateFailed(
                f"The archive {file.name} holds no program {program.name}.",
                "Nothing was changed. Get the new version where you got this one.",
            )
        return program

    def keep(self, version: str) -> None:
        """See Place."""
        root = self._root()
        for path in _files_below(root):  # a power cut must not leave empty files under a good name
            _sync(path)
        target = self._folder / version
        _remove(target)
        os.replace(root, target)
        _remove(self._folder / STAGING)
        _remove(self._folder / FETCH)

    def staged(self, version: str) -> bool:
        """See Place."""
        return program_of(self.copy.program, version) is not None

    def switch(self, version: str, previous: str, now: float) -> None:
        """See Place."""
        choice = read_choice(self.copy.pointer)
        write_choice(self.copy.pointer, choice.switched(version, previous, now))

    def tidy(self, kept: frozenset[str]) -> None:
        """See Place."""
        _remove(self._folder / STAGING)
        with contextlib.suppress(FileNotFoundError):
            for path in list(self._folder.iterdir()):
                if version_key(path.name) and path.name not in kept:
                    _remove(path)

    def _root(self) -> Path:
        """The tree itself, or the one folder that all of it lies in."""
        inner = list(self._tree.iterdir())
        return inner[0] if len(inner) == 1 and inner[0].is_dir() else self._tree


class ImagePlace:
    """Beside an AppImage: one file that is replaced by another."""

    def __init__(self, image: Path) -> None:
        self.copy = OwnCopy(image, is_image=True)
        self._image = image

    def fetch_target(self, filename: str) -> Path:
        """See Place."""
        return self._hidden("fetch") / filename

    def stage(self, file: Path, version: str, check: Callable[[], None]) -> Path:
        """See Place."""
        check()
        file.chmod(0o755)
        return file

    def keep(self, version: str) -> None:
        """See Place."""
        (file,) = (p for p in self._hidden("fetch").iterdir() if p.name.endswith(".AppImage"))
        _sync(file)
        os.replace(file, self._hidden(version))
        _remove(self._hidden("fetch"))

    def staged(self, version: str) -> bool:
        """See Place."""
        return self._hidden(version).is_file()

    def switch(self, version: str, previous: str, now: float) -> None:
        """See Place."""
        part = self._hidden("previous.part")
        part.unlink(missing_ok=True)
        try:
            os.link(self._image, part)
        except OSError:  # FAT and some network disks know no second name
            shutil.copy2(self._image, part)
        os.replace(part, self.copy.previous_image)
        choice = read_choice(self.copy.pointer)
        write_choice(self.copy.pointer, choice.switched(version, previous, now))
        os.replace(self._hidden(version), self._image)

    def tidy(self, kept: frozenset[str]) -> None:
        """See Place."""
        prefix = self._hidden("").name
        for path in list(self._image.parent.iterdir()):
            rest = path.name.removeprefix(prefix)
            if rest != path.name and version_key(rest) and rest not in kept:
                _remove(path)

    def _hidden(self, what: str) -> Path:
        return self._image.with_name(f".{self._image.name}.{what}")


def _sync(path: Path) -> None:
    """Wait until a file's content is on the disk. Raises OSError."""
    handle = os.open(path, os.O_RDWR)  # Windows syncs none that is only read
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files_below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path


def _remove(path: Path) -> None:
    """A file or a folder of ours, as far as it is there. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
