"""Sharing on the network: who may reach the server, by which addresses and with which keys.

There is one rule: beyond this machine nothing is answered without a key. `listen_host` carries it
out for whatever the settings say, and the gateway refuses the rest by itself.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from .errors import SettingsInvalid
from .keys import ApiKey, NewKey
from .settings_checks import is_loopback

if TYPE_CHECKING:
    from .core import Engine

EVERY_INTERFACE = "0.0.0.0"
LOOPBACK = "127.0.0.1"
FIRST_KEY = "first key"


@dataclass(frozen=True, slots=True)
class Address:
    """Where other machines reach the server."""

    interface: str  # "eth0"
    url: str  # "http://192.168.1.5:7070/v1"
    code: tuple[str, ...]  # its QR code (ISO/IEC 18004), a row each, "1" is dark


@dataclass(frozen=True, slots=True)
class Sharing:
    """What is shared now, and with whom."""

    on: bool
    secured: bool  # by TLS; without it what is sent can be read on the way
    addresses: tuple[Address, ...]
    keys: tuple[ApiKey, ...]
    new_key: NewKey | None = None  # told once, by the call that made it
    key_code: tuple[str, ...] = ()  # the QR code of that key


def listen_host(wished: str, keyed: bool) -> str:
    """The address to listen on: this machine alone, unless there is a key."""
    return wished if keyed or is_loopback(wished) else LOOPBACK


def shown_host(host: str) -> str:
    """How programs on this machine reach a server that listens there."""
    if host == EVERY_INTERFACE:
        return "127.0.0.1"
    return "::1" if host == "::" else host


def network_addresses(host: str, port: int, scheme: str = "http") -> tuple[Address, ...]:
    """The addresses by which other machines reach a server on `host`. Pure but for the interfaces.

    Link-local ones are left out: they need a zone that nobody types.
    """
    if is_loopback(host):
        return ()
    found = []
    for interface, addresses in psutil.net_if_addrs().items():
        for each in addresses:
            if each.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            address = ipaddress.ip_address(each.address.partition("%")[0])
            usable = not (address.is_loopback or address.is_link_local)
            everywhere = host == "::" or (host == EVERY_INTERFACE and address.version == 4)
            if usable and (everywhere or str(address) == host):
                name = f"[{address}]" if address.version == 6 else str(address)
                url = f"{scheme}://{name}:{port}/v1"
                found.append(Address(interface, url, qr_code(url)))
    return tuple(found)


def qr_code(text: str) -> tuple[str, ...]:
    """The QR code of a text, a row each, without its quiet zone. 2 ms for an address."""
    import segno  # few ever share

    return tuple("".join(map(str, row)) for row in segno.make_qr(text).matrix)


class SharingCommands:
    """Part of the command table."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def sharing(self) -> Sharing:
        """Whether the server is shared on the network, its addresses there, and the keys."""
        return self._now(None)

    def share(self, on: bool) -> Sharing:
        """Share on the network, with a first key if there is none; or stop sharing."""
        made = None
        if on and not self._engine.keys.required:
            made = self._engine.keys.create(FIRST_KEY)
        wished = EVERY_INTERFACE if on else None  # None: the default, this machine alone
        self._engine.call("change_settings", {"changes": {"server.host": wished}})
        return self._now(made)

    def create_api_key(self, name: str) -> Sharing:
        """Make a further key. From the first one on, every request needs one."""
        first = not self._engine.keys.required
        made = self._engine.keys.create(name)
        if first:
            self._engine.note_server_settings()
        return self._now(made)

    def revoke_api_key(self, name: str) -> Sharing:
        """Take a key back. Without any, nothing is shared."""
        self._engine.keys.revoke(name)
        if not self._engine.keys.required:
            self._engine.note_server_settings()
        return self._now(None)

    def gateway_key(self) -> str:
        """The key of this run for the app's own page; "" where none is needed."""
        keys = self._engine.keys
        return keys.session if keys.required else ""

    def _now(self, made: NewKey | None) -> Sharing:
        server, keys = self._engine.settings.server, self._engine.keys
        host = listen_host(server.host, keys.required)
        if self._engine.tls_error is not None:  # then it listens here alone
            host = LOOPBACK
        scheme = "http" if server.tls_certificate is None else "https"
        return Sharing(
            on=not is_loopback(host),
            secured=scheme == "https",
            addresses=network_addresses(host, server.port, scheme),
            keys=tuple(keys.list()),
            new_key=made,
            key_code=() if made is None else qr_code(made.key),
        )


def check_host(host: str, keyed: bool) -> None:
    """Refuse a setting that would share without a key. Raises SettingsInvalid."""
    if listen_host(host, keyed) != host:
        raise SettingsInvalid(
            f"server.host is {host!r}, which other machines could reach, and there is no API key.",
            "Switch on “Share on my network” on the Server page: it makes a key.",
        )
