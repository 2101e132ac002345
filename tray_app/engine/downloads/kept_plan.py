"""A plan as it is kept with its download over a restart: the same bytes go on, and no secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .values import Plan, PlannedFile, Remote, safe_name

VERSION = 1


def to_memo(plan: Plan) -> dict[str, Any]:
    """`plan` as JSON types. Headers may hold a token, so they are left behind."""
    return {
        "version": VERSION,
        "reference": plan.reference,
        "title": plan.title,
        "files": [
            {
                "path": file.path,
                "role": file.role,
                "url": file.remote.url,
                "filename": file.remote.filename,
                "size_bytes": file.remote.size_bytes,
                "sha256": file.remote.sha256,
            }
            for file in plan.files
        ],
        "origin": dict(plan.origin),
        "settings": {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in plan.settings.items()
        },
        "warnings": list(plan.warnings),
    }


def from_memo(memo: Mapping[str, Any]) -> Plan | None:
    """The plan that was kept, or None when there is none that can be read."""
    if memo.get("version") != VERSION:
        return None
    try:
        files = tuple(_file(row) for row in memo["files"])
        settings = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in memo["settings"].items()
        }
        plan = Plan(
            memo["reference"],
            memo["title"],
            files,
            memo["origin"],
            settings,
            tuple(memo["warnings"]),
        )
    except (KeyError, TypeError, AttributeError):  # written by another version
        return None
    return plan if files else None


def _file(row: Mapping[str, Any]) -> PlannedFile:
    remote = Remote(row["url"], row["filename"], row["size_bytes"], row["sha256"])
    return PlannedFile(row["path"], remote, row["role"])


def local_parts(file: PlannedFile) -> tuple[str, ...]:
    """The folders and the name of a planned file, each checked. Raises BadRequest."""
    return tuple(safe_name(part) for part in file.path.split("/"))


def with_remotes(plan: Plan, revive: Callable[[Remote], Remote]) -> Plan:
    """`plan` with each remote as `revive` gives it: signed in again."""
    files = tuple(replace(file, remote=revive(file.remote)) for file in plan.files)
    return replace(plan, files=files)
