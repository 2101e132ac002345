"""Whether this machine has a way out to the network. No packet is sent and nobody is asked."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import psutil

ROUTE_UP = 0x0001  # RTF_UP and RTF_REJECT of Linux's <net/route.h>
ROUTE_REJECT = 0x0200
MOST_ROUTES_BYTES = 1 << 20  # a table of some thousand routes; the default ones come early


def online(proc_net: Path = Path("/proc/net")) -> bool:
    """True when there is a default route, or, where routes cannot be read, an interface with one.

    True as well when nothing can be read: whoever asks has an error in hand, and that error tells
    more than a guess. Takes well below a millisecond on Linux (two small files).
    """
    routes = _default_route(proc_net)
    if routes is not None:
        return routes
    try:
        stats = psutil.net_if_stats()
        addresses = psutil.net_if_addrs()
    except (psutil.Error, OSError):
        return True
    return any_interface_leads_out(stats, addresses)


def is_local(reference: str) -> bool:
    """Whether a reference names a server on this very machine, which needs no network."""
    text = reference.strip()
    try:
        if "://" in text:
            host = urlsplit(text).hostname or ""
        else:
            host = urlsplit(f"//{text}").hostname or "" if "/" in text else ""
    except ValueError:  # "http://[half"
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Stat(Protocol):
    @property
    def isup(self) -> bool: ...


class _Address(Protocol):
    @property
    def family(self) -> int: ...
    @property
    def address(self) -> str | None: ...


def any_interface_leads_out(
    stats: Mapping[str, _Stat], addresses: Mapping[str, Iterable[_Address]]
) -> bool:
    """Whether an interface that is up has an address that is good beyond its own cable.

    A virtual switch that is always up (Hyper-V, Docker) looks the same as a network here.
    """
    return any(
        _leads_out(address)
        for name, stat in stats.items()
        if stat.isup
        for address in addresses.get(name, ())
    )


def _leads_out(address: _Address) -> bool:
    if address.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    try:  # a scope comes after "%": "fe80::1%en0"
        plain = ipaddress.ip_address((address.address or "").partition("%")[0])
    except ValueError:
        return False
    return not (plain.is_loopback or plain.is_link_local or plain.is_unspecified)


def _default_route(proc_net: Path) -> bool | None:
    """Whether Linux has one, for IPv4 or IPv6; None when neither table can be read."""
    found = None
    for name, is_default in (("route", _is_default_v4), ("ipv6_route", _is_default_v6)):
        with contextlib.suppress(OSError), (proc_net / name).open("rb") as file:
            lines = file.read(MOST_ROUTES_BYTES).decode("ascii", "replace").splitlines()
            found = bool(found) or any(is_default(line.split()) for line in lines)
    return found


def _is_default_v4(words: list[str]) -> bool:
    """Iface Destination Gateway Flags RefCnt Use Metric Mask …"""
    if len(words) < 8 or words[0] == "lo" or words[1] != "00000000" or words[7] != "00000000":
        return False
    return _usable(words[3])


def _is_default_v6(words: list[str]) -> bool:
    """Destination length source length next-hop metric references use flags device."""
    if len(words) < 10 or words[9] == "lo" or words[0].strip("0") or words[1] != "00":
        return False
    return _usable(words[8])


def _usable(flags: str) -> bool:
    try:
        value = int(flags, 16)
    except ValueError:
        return False
    return bool(value & ROUTE_UP) and not value & ROUTE_REJECT
