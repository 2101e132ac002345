"""Folders that hold a finished runtime: sealed by a manifest, checked, copied, put in place."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from dataclasses import asdict, dataclass, field
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
    key: str  # recipe.cache_key of a build, the archive's sha256 of a download
    version_text: str
    files: dict[str, str]  # name below the folder, with "/" -> sha256; without the manifest
    links: dict[str, str] = field(default_factory=dict)  # name -> the name beside it it stands for
    origin: str = "built"  # or "downloaded"
    made_from: str = ""  # the provenance in one line: archive, tag, options
    installed_at: float = 0.0
    size_bytes: int = 0


def seal(
    folder: Path,
    *,
    runtime_id: str,
    build: int | None,
    backend: str,
    key: str,
    version_text: str,
    origin: str = "built",
    made_from: str = "",
) -> Manifest:
    """Hash every file of `folder` and write its manifest. Raises OSError."""
    found = _contents(folder)
    manifest = Manifest(
        runtime_id=runtime_id,
        build=build,
        backend=backend,
        key=key,
        version_text=version_text,
        files={name: file_sha256(path) for name, path in found.items() if not path.is_symlink()},
        links={name: os.readlink(path) for name, path in found.items() if path.is_symlink()},
        origin=origin,
        made_from=made_from,
        installed_at=time.time(),
        size_bytes=sum(path.lstat().st_size for path in found.values()),
    )
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
        found = _contents(folder)
        links = {name: os.readlink(path) for name, path in found.items() if path.is_symlink()}
        if links != manifest.links or found.keys() - links.keys() != manifest.files.keys():
            return None
        if SERVER not in found:
            return None
        right = all(file_sha256(found[n]) == digest for n, digest in manifest.files.items())
    except OSError:
        return None
    return manifest if right else None


def _contents(folder: Path) -> dict[str, Path]:
    """Every file and link of `folder` and below, by name; what running leaves there is no part."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or path.is_file())
        and path.name != MANIFEST
        and "__pycache__" not in path.parts
    }


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
        shutil.copytree(source, staged, symlinks=True)
        put_in_place(staged, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def clear_staging(folder: Path) -> None:
    """Remove what a killed process left; call it only while nothing else builds there."""
    for pattern in (".staging-*", ".old-*"):
        for left in folder.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)
