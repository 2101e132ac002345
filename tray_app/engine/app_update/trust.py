"""Whom word of a new version is believed from, and where it is asked for.

Keys are Ed25519 public keys, base64 of 32 bytes. A manifest counts when one of them has signed
it: to rotate, a release adds the new key here, later ones are signed with both, and a release
after that drops the old one. `scripts/release.py --new-key` makes a pair.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from tray_app.engine.errors import AppUpdateRefused

# Empty until there is a place where releases are published: then nobody is asked, and nothing is
# believed. The setting `app.manifest_url` names another place, which changes nothing about trust.
MANIFEST_URL = ""
PUBLIC_KEYS: tuple[str, ...] = ()

MAX_SIGNATURES = 8
SIGNATURE_BYTES = 64


def verify(data: bytes, signatures: bytes, keys: Sequence[str]) -> None:
    """Check that one of `signatures` (lines of base64) is one of `keys`' over exactly `data`.

    Raises AppUpdateRefused.
    """
    # Not at the top: it costs 6 MB, once a day at most.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    candidates = [found for line in signatures.split()[:MAX_SIGNATURES] if (found := _raw(line))]
    for key in keys:
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True))
        for candidate in candidates:
            try:
                public.verify(candidate, data)
            except InvalidSignature:
                continue
            return
    raise AppUpdateRefused(
        "Word of a new version came without a signature that this version knows.",
        "Nothing was changed. If it stays so, get the new version where you got this one.",
    )


def _raw(line: bytes) -> bytes | None:
    try:
        raw = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == SIGNATURE_BYTES else None
