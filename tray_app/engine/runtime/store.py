"""Folders that hold a finished runtime: sealed by a manifest, checked, copied, put in place."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tray_app.engine.checksum import file_sha256
from tray_app.engine.home import write_atomically

MANIFEST = "manifest.json"
FORMAT = 1
SERVER = "llama-server.exe" if os.name == "nt" else "llama-server"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a runtime folder holds, and what it was made from."""

    runtime_id: str
    build: int | None
    backend: str
    key: str  # recipe.cache_key
    version_text: str
    files: dict[str, str]  # name -> sha256, without the manifest itself


def seal(
    folder: Path, *, runtime_id: str, build: int | None, backend: str, key: str, version_text: str
) -> Manifest:
    """Hash every file of `folder` and write its manifest. Raises OSError."""
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    manifest = Manifest(runtime_id, build, backend, key, version_text, files)
    data = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1)
    write_atomically(folder / MANIFEST, data.encode(), mode=0o644)
    return manifest


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest as written, nothing checked; None when there is none that can be read."""
    try:
        row: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        if row.pop("format") != FORMAT:
            return None
        return Manifest(**row)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def verified(folder: Path, key: str | None = None) -> Manifest | None:
    """The manifest when `folder` holds exactly its files with its hashes (20 MB: 30 ms)."""
    manifest = read_manifest(folder)
    if manifest is None or (key is not None and manifest.key != key):
        return None
    try:
        names = {path.name for path in folder.iterdir() if path.is_file()}
        if names != {*manifest.files, MANIFEST} or SERVER not in names:
            return None
        right = all(file_sha256(folder / n) == digest for n, digest in manifest.files.items())
    except OSError:
        return None
    return manifest if right else None


def new_staging(folder: Path) -> Path:
    """A new private folder beside the finished ones; `clear_staging` removes left ones."""
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".staging-{os.getpid()}-{secrets.token_hex(4)}"
    staging.mkdir(mode=0o700)
    return staging


def put_in_place(staged: Path, target: Path) -> None:
    """Rename `staged` to `target`; what was there is moved away first, then removed.

    Programs that run from the old folder keep their open files. Raises OSError.
    """
    old = target.with_name(f".old-{secrets.token_hex(4)}")
    if target.exists():
        os.replace(target, old)
    os.replace(staged, target)
    target.chmod(0o755)
    shutil.rmtree(old, ignore_errors=True)


def copy_in_place(source: Path, target: Path) -> None:
    """Make `target` a copy of `source`, appearing whole. Raises OSError."""
    staging = new_staging(target.parent)
    try:
        staged = staging / "runtime"
        shutil.copytree(source, staged)
        put_in_place(staged, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def clear_staging(folder: Path) -> None:
    """Remove what a killed process left; call it only while nothing else builds there."""
    for pattern in (".staging-*", ".old-*"):
        for left in folder.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)
