"""The certificate that the server shows on the network."""

from __future__ import annotations

import ssl
from pathlib import Path

from .errors import SettingsInvalid


def context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """What a TLS listener needs; None where no certificate is set.

    `certificate` is a PEM file: the server's own first, then those that signed it. `key` is the
    file of its private key; None when that is in the same file. Blocks for some milliseconds.
    Raises SettingsInvalid.
    """
    if certificate is None:
        return None
    files = [Path(certificate).expanduser(), *([Path(key).expanduser()] if key else [])]
    for path in files:
        if not path.is_file():
            raise SettingsInvalid(f"{path} is not there.", "Choose the file of the certificate.")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996: what is older is broken
    made.set_alpn_protocols(["http/1.1"])
    try:
        # Without a `password` a key that has one would ask for it at the terminal.
        made.load_cert_chain(files[0], files[-1], password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise SettingsInvalid(
            f"The certificate {files[0]} cannot be used with its key: {_why(error)}.",
            "Give both as PEM files that belong together; the key must have no password.",
        ) from error
    return made


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return str(error)
