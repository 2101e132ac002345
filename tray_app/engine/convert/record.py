"""Conversions on the disk: what was wished, and which steps are done, for going on after anything.

Each has a hidden folder in the models folder, with its files and one small JSON file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tray_app.engine.errors import ErrorView, NotFound
from tray_app.engine.home import write_atomically

from .values import Options

PREFIX = ".making-"
NAME = "conversion.json"
VERSION = 1
MAX_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be made of original weights."""

    source: str
    output: str  # "auto", "f32", "f16", "bf16", "q8_0"
    types: tuple[str, ...] = ()
    name: str = ""
    keep_full: bool = True
    keep_originals: bool = True
    options: Options = field(default_factory=Options)
    base: str = ""  # of a LoRA adapter


@dataclass(slots=True)
class Record:
    """One conversion. Its job alone changes it."""

    id: str
    wish: Wish
    title: str
    mark: str  # of the weights that it works on
    owner: str = "local"  # the results go to models/<owner>/<name>
    lora: bool = False
    vision: bool = False
    plan: dict[str, Any] | None = None  # what is fetched, as `kept_plan` keeps it
    steps: tuple[str, ...] = ()  # in words
    done: dict[str, list[list[Any]]] = field(default_factory=dict)  # key: [path, size, mtime_ns]
    error: ErrorView | None = None
    starts: int = 0  # since a step was done
    updated_at: float = 0.0


class Records:
    """All conversions of one models folder. From any thread; each record has one writer."""

    def __init__(self, models: Path) -> None:
        self._models = models

    def folder(self, conversion_id: str) -> Path:
        """Where its files are. Raises NotFound for what is no id."""
        if not conversion_id.isalnum() or len(conversion_id) > 40:
            raise NotFound(f"There is no conversion {conversion_id[:40]!r}.")
        return self._models / f"{PREFIX}{conversion_id}"

    def save(self, record: Record) -> None:
        """Durably. Raises OSError."""
        record.updated_at = time.time()
        folder = self.folder(record.id)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"version": VERSION, **asdict(record)})
        write_atomically(folder / NAME, text.encode("utf-8"))

    def load(self, conversion_id: str) -> Record:
        """Raises NotFound."""
        record = _read(self.folder(conversion_id) / NAME)
        if record is None:
            raise NotFound("There is no such conversion.", "It has ended, or was discarded.")
        return record

    def all(self) -> list[Record]:
        """Those that have not ended, the newest first."""
        found = (_read(path / NAME) for path in self._models.glob(f"{PREFIX}*"))
        return sorted((each for each in found if each), key=lambda each: -each.updated_at)

    def remove(self, conversion_id: str) -> None:
        """With all that it has on the disk."""
        shutil.rmtree(self.folder(conversion_id), ignore_errors=True)

    def clear_odd(self) -> None:
        """Remove folders whose record cannot be read: nothing can go on from them."""
        for path in self._models.glob(f"{PREFIX}*"):
            if path.is_dir() and not path.is_symlink() and _read(path / NAME) is None:
                shutil.rmtree(path, ignore_errors=True)

    def size_bytes(self, conversion_id: str) -> int:
        """What it has on the disk."""
        folder = self.folder(conversion_id)
        return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def conversion_id(source: str, output: str, name: str) -> str:
    """The same for the same wish: what was begun is taken up by who asks for it again."""
    return hashlib.sha256("\0".join((source, output, name)).encode()).hexdigest()[:12]


def marks(paths: Iterable[Path]) -> list[list[Any]]:
    """[path, size, mtime_ns] of each. Raises OSError."""
    found = []
    for path in paths:
        status = path.stat()
        found.append([str(path), status.st_size, status.st_mtime_ns])
    return found


def unchanged(rows: list[list[Any]] | None) -> list[Path] | None:
    """The files of a done step, if all are there as they were."""
    if rows is None:
        return None
    paths = []
    for row in rows:
        try:
            path = Path(row[0])
            status = path.stat()
            if [status.st_size, status.st_mtime_ns] != [row[1], row[2]]:
                return None
        except (OSError, IndexError, TypeError):
            return None
        paths.append(path)
    return paths


def _read(path: Path) -> Record | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        return _record(json.loads(data)) if len(data) <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def _record(row: Mapping[str, Any]) -> Record | None:
    if row.get("version") != VERSION:
        return None
    told = dict(row["wish"])
    options = dict(told["options"])
    options["overrides"] = tuple(options["overrides"])
    wish = Wish(**{**told, "types": tuple(told["types"]), "options": Options(**options)})
    error = ErrorView(**row["error"]) if row["error"] else None
    done = {str(key): list(rows) for key, rows in row["done"].items()}
    return Record(
        str(row["id"]),
        wish,
        str(row["title"]),
        str(row["mark"]),
        str(row["owner"]),
        bool(row["lora"]),
        bool(row["vision"]),
        row["plan"],
        tuple(str(step) for step in row["steps"]),
        done,
        error,
        int(row["starts"]),
        float(row["updated_at"]),
    )
