"""Makes what an app update is told by: manifest.json with its signature, and SHA256SUMS.

    python -m scripts.release dist --notes https://…/0.2.0      after `make package`
    python -m scripts.release --new-key                          a pair of keys, once

The version is that of `tray_app/__init__.py`, and every file has to carry it. The private key is
read from LLAMA_WRANGLER_RELEASE_KEY (base64 of 32 bytes; several, separated by spaces, while keys
are rotated) and goes nowhere else. Without one the manifest is left unsigned, which is said loudly
and answered with status 3: no copy of the app believes it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tray_app import __version__
from tray_app.engine.app_update.manifest import FORMAT, PRODUCT, read_manifest
from tray_app.engine.app_update.trust import PUBLIC_KEYS, verify

KEY_VARIABLE = "LLAMA_WRANGLER_RELEASE_KEY"
# Long enough for a quiet time between two releases, which `--days` sets otherwise: who holds
# newer ones back from a user can do so no longer than this.
DAYS = 90
UNSIGNED = 3
_FILE = re.compile(
    r"llama-wrangler-(?P<version>[0-9.]+)-(?P<system>linux|windows)-(?P<machine>[a-z0-9_]+)"
    r"(?P<ending>\.tar\.gz|\.zip|\.AppImage)"
)
_MACHINES = {"aarch64": "arm64", "amd64": "x86_64"}
Table = dict[str, Any]


def manifest(folder: Path, version: str, released_at: int, days: int, notes: str = "") -> bytes:
    """The manifest of the files in `folder`, addressed by their names beside it.

    `released_at` in Unix seconds. Raises ValueError when there is none, or one of another version.
    """
    files: dict[str, Table] = {}
    for path in sorted(folder.iterdir()):
        found = _FILE.fullmatch(path.name)
        if found is None:
            continue
        if found["version"] != version:
            raise ValueError(f"{path.name} is not of version {version}")
        machine = _MACHINES.get(found["machine"], found["machine"])
        form = "appimage" if found["ending"] == ".AppImage" else "folder"
        files.setdefault(f"{found['system']}-{machine}", {})[form] = {
            "url": path.name,
            "size_bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
    if not files:
        raise ValueError(f"{folder} holds no file of a release: run `make package` first")
    row = {
        "format": FORMAT,
        "product": PRODUCT,
        "version": version,
        "released_at": released_at,
        "expires_at": released_at + days * 86_400,
        "notes_url": notes,
        "files": files,
    }
    return json.dumps(row, indent=1, sort_keys=True).encode() + b"\n"


def sign(data: bytes, keys: Sequence[str]) -> bytes:
    """One line of base64 for each private key. Raises ValueError for what is no key."""
    lines = []
    for key in keys:
        private = Ed25519PrivateKey.from_private_bytes(base64.b64decode(key, validate=True))
        lines.append(base64.b64encode(private.sign(data)))
    return b"\n".join(lines) + b"\n"


def new_key() -> tuple[str, str]:
    """A private key and its public one, in base64."""
    private = Ed25519PrivateKey.generate()
    pair = private.private_bytes_raw(), private.public_key().public_bytes_raw()
    return base64.b64encode(pair[0]).decode(), base64.b64encode(pair[1]).decode()


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="sign a release")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("dist"))
    parser.add_argument("--notes", default="", help="https address of the release's notes")
    parser.add_argument("--days", type=int, default=DAYS, help="how long the manifest holds")
    parser.add_argument("--new-key", action="store_true", help="make a pair of keys and stop")
    options = parser.parse_args(words)
    if options.new_key:
        private, public = new_key()
        print(f"private, for {KEY_VARIABLE}; keep it off every disk that is not yours:\n{private}")
        print(f"public, for tray_app/engine/app_update/trust.py:\n{public}")
        return 0
    folder: Path = options.folder
    target, signature = folder / "manifest.json", folder / "manifest.json.sig"
    signature.unlink(missing_ok=True)
    try:
        data = manifest(folder, __version__, int(time.time()), options.days, options.notes)
        read_manifest(data, "https://example.org/manifest.json")  # as the app will
    except Exception as error:  # noqa: BLE001 - the end of a tool: whatever it is, it is told
        print(f"release: {getattr(error, 'message', error)}", file=sys.stderr)
        return 1
    target.write_bytes(data)
    keys = os.environ.get(KEY_VARIABLE, "").split()
    if keys:
        signature.write_bytes(sign(data, keys))
        if PUBLIC_KEYS:
            verify(data, signature.read_bytes(), PUBLIC_KEYS)
        else:
            print("release: trust.py has no public key: no copy believes this", file=sys.stderr)
    sums = [
        f"{sha256_of(path)}  {path.name}\n"
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != "SHA256SUMS"
    ]
    (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    print(f"release: {target} of version {__version__}, {len(sums)} checksums")
    if not keys:
        print(f"release: NOT SIGNED, because {KEY_VARIABLE} is not set", file=sys.stderr)
        return UNSIGNED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
