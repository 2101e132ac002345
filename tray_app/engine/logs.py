"""Structured logs: JSON lines with rotation, secrets redacted, and bounded child logs."""

from __future__ import annotations

import codecs
import contextlib
import json
import logging
import logging.handlers
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import BadRequest, NotFound

ENGINE_LOG = "engine.log"
ROTATE_BYTES = 5_000_000
ROTATED_KEPT = 3
CHILD_LOG_BYTES = 16_000_000  # a child's log is cut to its last quarter beyond this

# Hugging Face tokens, OpenAI-style keys, bearer headers, key=value secrets in URLs and JSON.
_SECRETS = re.compile(
    r"(?P<keep>\b(?:bearer|basic)\s+|(?:api[-_]?key|token|ticket|password|secret|signature)"
    r"\\*[\"']?\s*[=:]\s*\\*[\"']?(?:bearer\s+)?)(?P<secret>[^\s\"'&,;\\]{6,})"
    r"|\bhf_[A-Za-z0-9]{8,}|\bsk-[A-Za-z0-9_-]{8,}",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` with anything that looks like a secret replaced by `[redacted]`."""
    return _SECRETS.sub(lambda m: (m.group("keep") or "") + "[redacted]", text)


class JsonLines(logging.Formatter):
    """One JSON object a record: time, level, logger, message, and the `extra` fields."""

    _own = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        row: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix("tray_app."),
            "message": redact(record.getMessage()),
        }
        for key, value in record.__dict__.items():
            if key not in self._own:
                plain = value is None or isinstance(value, (bool, int, float))
                row[key] = value if plain else redact(str(value))
        if record.exc_info:
            row["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(row, default=str, ensure_ascii=False)


class _Private(logging.handlers.RotatingFileHandler):
    """A rotating file that only its owner can read."""

    def _open(self):  # type: ignore[no-untyped-def]  # typeshed's own signature is private
        return open(
            self.baseFilename,
            self.mode,
            encoding=self.encoding,
            opener=lambda path, flags: os.open(path, flags, 0o600),
        )


def start_logging(folder: Path, name: str = ENGINE_LOG, level: int = logging.INFO) -> None:
    """Send this process's records to `folder/name`. Raises OSError if it cannot be written."""
    handler = _Private(
        folder / name, maxBytes=ROTATE_BYTES, backupCount=ROTATED_KEPT, encoding="utf-8"
    )
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # A page that is closed is no news; waitress tells each one at this level.
    logging.getLogger("waitress").setLevel(logging.ERROR)
    logging.raiseExceptions = False  # a full disk must not print into a face's terminal


@dataclass(frozen=True, slots=True)
class LogFile:
    """A log the window can show."""

    name: str
    size_bytes: int
    modified_at: float


@dataclass(frozen=True, slots=True)
class LogPart:
    """A piece of a log. `next_offset` is where the following read goes on."""

    text: str
    start_offset: int
    next_offset: int
    size_bytes: int


def list_logs(folder: Path) -> list[LogFile]:
    """The logs of `folder`, newest first. Raises OSError."""
    found = []
    for entry in folder.iterdir():
        if ".log" not in entry.name:
            continue
        with contextlib.suppress(FileNotFoundError):  # rotated away in between
            status = entry.stat()
            if stat.S_ISREG(status.st_mode):
                found.append(LogFile(entry.name, status.st_size, status.st_mtime))
    return sorted(found, key=lambda item: item.modified_at, reverse=True)


def read_log(folder: Path, name: str, offset: int | None, max_bytes: int) -> LogPart:
    """Up to `max_bytes` of a log from `offset`, or its tail; secrets redacted.

    `name` is a bare file name of that folder: the page may not read elsewhere. An offset
    beyond the end (the log was cut or rotated) starts over at the tail.
    Raises BadRequest, NotFound, OSError.
    """
    if Path(name).name != name or ".log" not in name or not name.isprintable():
        raise BadRequest(f"“{name}” is not the name of a log.")
    max_bytes = max(1, min(max_bytes, 1_000_000))
    try:
        with (folder / name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            tail = offset is None or offset > size or offset < 0
            start = max(0, size - max_bytes) if tail else offset or 0
            file.seek(start)
            data = file.read(max_bytes)
    except FileNotFoundError:
        raise NotFound(f"There is no log named {name}.") from None
    if tail and start > 0:  # begin at a line
        skipped = data.find(b"\n") + 1
        start, data = start + skipped, data[skipped:]
    if start + len(data) < size or not data.endswith(b"\n"):
        whole = data.rfind(b"\n") + 1  # end at a line, so that no character or secret is split
        data = data[:whole] if whole else _whole_characters(data)
    text = redact(data.decode("utf-8", "replace"))
    return LogPart(text, start, start + len(data), size)


def _whole_characters(data: bytes) -> bytes:
    """`data` without the beginning of a UTF-8 character at its end, unless it is nothing else."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    cut = len(decoder.getstate()[0])
    return data[:-cut] if 0 < cut < len(data) else data


def tail_lines(path: Path, max_bytes: int = 16_384) -> list[str]:
    """The last lines of a child's log, for naming why it ended. Missing file: none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - max_bytes))
            return file.read(max_bytes).decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def cut_large_logs(paths: Iterator[Path] | list[Path], limit: int = CHILD_LOG_BYTES) -> None:
    """Keep only the last quarter of logs beyond `limit` bytes.

    Works under a running child because its log is opened for appending: after the
    truncation its next line lands at the new end.
    """
    for path in paths:
        try:
            size = path.stat().st_size
            if size <= limit:
                continue
            with path.open("r+b") as file:
                file.seek(size - limit // 4)
                kept = file.read(limit // 4)
                file.seek(0)
                file.write(kept[kept.find(b"\n") + 1 :])
                file.truncate()
        except OSError:
            continue
