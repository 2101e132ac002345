"""Program code that lies among a model's files."""

from __future__ import annotations

from pathlib import Path

CODE_SUFFIXES = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib"})
MOST_FILES = 10_000  # a folder of a model has some dozens


def files_in(folder: Path) -> list[Path]:
    """The files of a folder and of those in it, sorted; the first 10,000. Raises OSError."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            found.append(path)
        if len(found) >= MOST_FILES:
            break
    return sorted(found)


def code_in(folder: Path) -> list[str]:
    """The files of program code in a folder, by their paths in it. Raises OSError."""
    found = [path for path in files_in(folder) if path.suffix.lower() in CODE_SUFFIXES]
    return [str(path.relative_to(folder)) for path in found]
