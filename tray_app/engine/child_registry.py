"""Which children run, on disk, so that an engine can end what a killed one left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from . import process_tree
from .home import set_aside
from .process_tree import Tree

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChildRecord:
    """One recorded child. `identity` is `process_identity` at its start."""

    pid: int
    identity: str
    token: str
    kind: str
    exe: str
    marker: str


@dataclass(frozen=True, slots=True)
class EndedOrphan:
    """A tree of an earlier engine that was still running and was ended."""

    kind: str
    marker: str
    pids: tuple[int, ...]


class ChildRegistry:
    """The file of running children. Thread-safe; one engine process owns it at a time."""

    def __init__(self, path: Path) -> None:
        """Reads nothing yet: call `end_orphans` before the first `record`."""
        self._path = path
        self._lock = threading.Lock()
        self._records: dict[str, ChildRecord] = {}

    def record(self, tree: Tree, *, kind: str, exe: str, marker: str = "") -> None:
        """Write the child down. Blocks for one small file. Raises OSError."""
        identity = process_tree.process_identity(tree.leader_pid) or ""
        with self._lock:
            self._records[tree.token] = ChildRecord(
                tree.leader_pid, identity, tree.token, kind, exe, marker
            )
            self._write()

    def forget(self, tree: Tree) -> None:
        """The tree is gone. Raises OSError."""
        with self._lock:
            if self._records.pop(tree.token, None) is not None:
                self._write()

    def records(self) -> tuple[ChildRecord, ...]:
        """What this engine has running."""
        with self._lock:
            return tuple(self._records.values())

    def end_orphans(self, grace_s: float = 3.0) -> tuple[EndedOrphan, ...]:
        """End what an earlier engine left, whole trees, and start with an empty file.

        Ends only what is provably ours: members carry the tree's random token; a first
        process without a readable environment must have the recorded identity, program and
        marker. Blocks up to `grace_s` and a little more for each tree. Raises OSError.
        """
        ended: list[EndedOrphan] = []
        for record in self._read():
            pids = _end_tree(record, grace_s)
            if pids:
                log.info("ended %s %s of an earlier engine", record.kind, pids)
                ended.append(EndedOrphan(record.kind, record.marker, pids))
        with self._lock:
            self._write()
        return tuple(ended)

    def _read(self) -> list[ChildRecord]:
        try:
            rows = json.loads(self._path.read_text(encoding="utf-8"))
            return [_record_of(row) for row in rows]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, KeyError) as exc:
            aside = set_aside(self._path)
            log.warning("the list of children could not be read, kept as %s: %s", aside, exc)
            return []

    def _write(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        rows = [dataclasses.asdict(record) for record in self._records.values()]
        part.write_text(json.dumps(rows), encoding="utf-8")
        os.replace(part, self._path)


def _record_of(row: dict[str, Any]) -> ChildRecord:
    return ChildRecord(
        pid=int(row["pid"]),
        identity=str(row["identity"]),
        token=str(row["token"]),
        kind=str(row["kind"]),
        exe=str(row["exe"]),
        marker=str(row["marker"]),
    )


def _end_tree(record: ChildRecord, grace_s: float) -> tuple[int, ...]:
    """End the tree of `record` if it still runs; the pids that were ended."""
    if not record.token:
        return ()
    tree = Tree(record.pid, record.token)
    leader_is_ours = _is_recorded_process(record)
    alive = process_tree.members(tree, trust_session=leader_is_ours)
    if not alive:
        return ()
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    deadline = time.monotonic() + grace_s
    pause = threading.Event()
    while time.monotonic() < deadline and any(process_tree.is_running(p.pid) for p in alive):
        pause.wait(0.02)
    # The leader may have gone by now and its number may be anyone's: the token decides.
    process_tree.kill_members(tree, trust_session=leader_is_ours and _is_recorded_process(record))
    return tuple(process.pid for process in alive)


def _is_recorded_process(record: ChildRecord) -> bool:
    """Whether the pid still is the very process that was recorded."""
    if not record.identity or process_tree.process_identity(record.pid) != record.identity:
        return False
    try:
        process = psutil.Process(record.pid)
        same_program = os.path.realpath(process.exe()) == os.path.realpath(record.exe)
        return same_program and any(record.marker in part for part in process.cmdline())
    except (psutil.Error, OSError):
        return False
