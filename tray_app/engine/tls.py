"""The certificate that the server shows on the network."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from .errors import SettingsInvalid

log = logging.getLogger(__name__)


class Certificate:
    """A PEM file, the server's own certificate first, then those that signed it, and its key.

    Making one blocks for some milliseconds and raises SettingsInvalid.
    """

    def __init__(self, certificate: str, key: str | None) -> None:
        """`key` is the PEM file of the private key; None when it is in the same file."""
        self.names = (certificate, key)
        self._certificate = Path(certificate).expanduser()
        self._key = Path(key).expanduser() if key else self._certificate
        self._stamp = self._stamped()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996: older ones are broken
        self.context.set_alpn_protocols(["http/1.1"])
        self._load(self.context)

    def renew(self) -> bool:
        """Take a renewed certificate up, for the connections after this; whether there was one.

        What cannot be used is logged, and the one before goes on. Blocks.
        """
        stamp = self._stamped()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))  # half written files end here
            self._load(self.context)
        except SettingsInvalid as error:
            log.warning("a renewed certificate is not taken: %s", error)
            return False
        log.info("a renewed certificate is taken")
        return True

    def _load(self, context: ssl.SSLContext) -> None:
        for path in (self._certificate, self._key):
            if not path.is_file():
                raise SettingsInvalid(f"{path} is not there.", "Choose the certificate's file.")
        try:
            # Without a `password` a key that has one would ask for it at the terminal.
            context.load_cert_chain(self._certificate, self._key, password=lambda: "")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise SettingsInvalid(
                f"The certificate {self._certificate} cannot be used with its key: {_why(error)}.",
                "Give both as PEM files that belong together; the key must have no password.",
            ) from error

    def _stamped(self) -> list[tuple[int, int]]:
        found = []
        for path in (self._certificate, self._key):
            try:
                status = path.stat()
            except OSError:
                continue  # a missing file is told when it is loaded
            found.append((status.st_mtime_ns, status.st_size))
        return found


def certificate_of(
    certificate: str | None, key: str | None, before: Certificate | None = None
) -> Certificate | None:
    """What is set; None where no certificate is. Raises SettingsInvalid.

    The one from `before` goes on where the same files are set: connections are made with it.
    """
    if certificate is None:
        return None
    same = before is not None and before.names == (certificate, key)
    return before if same else Certificate(certificate, key)


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return str(error)
