"""Whether there is a way out: route tables as Linux writes them, interfaces as psutil has them."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tray_app.engine.downloads import connectivity
from tray_app.engine.downloads.connectivity import any_interface_leads_out, is_local, online

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
DEFAULT = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
LAN = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
DOCKER = "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
DOWN = "eth0\t00000000\t010200C0\t0002\t0\t0\t0\t00000000\t0\t0\t0\n"
REFUSED = "*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n"
ZEROS = "0" * 32
V6_DEFAULT = (
    f"{ZEROS} 00 {ZEROS} 00 fd000000000000000000000000000001 00000400 00000003 00000000"
    " 00000003     eth0\n"
)
V6_NONE = f"{ZEROS} 00 {ZEROS} 00 {ZEROS} ffffffff 00000001 00000000 00200200       lo\n"
V6_LINK = f"fe80{'0' * 28} 40 {ZEROS} 00 {ZEROS} 00000100 00000002 00000000 00000001     eth0\n"


@pytest.mark.parametrize(
    ("route", "ipv6_route", "expected"),
    [
        (HEAD + DEFAULT + LAN, "", True),
        (HEAD + LAN, V6_DEFAULT, True),
        (HEAD + LAN, V6_LINK + V6_NONE, False),
        (HEAD + DOCKER, "", False),  # what is left when a laptop's Wi-Fi is off
        (HEAD + DOWN, "", False),
        (HEAD + REFUSED, "", False),
        (HEAD, V6_DEFAULT.replace("eth0", "lo"), False),
        (HEAD, V6_DEFAULT.replace("00000003     eth0", "00000203     eth0"), False),
        ("", "", False),
        (None, V6_DEFAULT, True),
        (HEAD + DEFAULT, None, True),
        ("eth0\t00000000\tx\tzzzz\t0\t0\t0\t00000000\t0\t0\t0\nshort\n\xff\n", "", False),
    ],
)
def test_a_default_route_that_is_up_is_a_way_out(
    tmp_path: Path, route: str | None, ipv6_route: str | None, expected: bool
) -> None:
    for name, text in (("route", route), ("ipv6_route", ipv6_route)):
        if text is not None:
            (tmp_path / name).write_text(text, encoding="latin-1")
    assert online(tmp_path) is expected


def test_an_endless_table_is_read_to_a_limit(tmp_path: Path) -> None:
    long = HEAD + LAN * (connectivity.MOST_ROUTES_BYTES // len(LAN) + 1)
    (tmp_path / "route").write_text(long + DEFAULT)
    assert online(tmp_path) is False


def stat(up: bool) -> SimpleNamespace:
    return SimpleNamespace(isup=up)


def address(text: str | None, family: int = socket.AF_INET) -> SimpleNamespace:
    return SimpleNamespace(family=family, address=text)


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ([address("192.168.1.7")], True),
        ([address("169.254.3.4")], False),
        ([address("fe80::1%en0", socket.AF_INET6)], False),
        ([address("2001:db8::7", socket.AF_INET6)], True),
        ([address("127.0.0.1")], False),
        ([address("0.0.0.0")], False),
        ([address("00:1b:44:11:3a:b7", -1)], False),
        ([address(None), address("no address")], False),
        ([], False),
    ],
)
def test_an_interface_needs_an_address_that_leads_beyond_its_cable(
    addresses: list[SimpleNamespace], expected: bool
) -> None:
    assert any_interface_leads_out({"en0": stat(True)}, {"en0": addresses}) is expected
    assert not any_interface_leads_out({"en0": stat(False)}, {"en0": addresses})
    assert not any_interface_leads_out({"en1": stat(True)}, {"en0": addresses})


def test_without_route_tables_the_interfaces_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lan = {"en0": [address("10.0.0.2")]}
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {"en0": stat(True)})
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: lan)
    assert online(tmp_path / "none") is True
    lan.clear()
    assert online(tmp_path / "none") is False


def test_what_cannot_be_known_is_no_reason_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise PermissionError("no")

    monkeypatch.setattr(psutil, "net_if_stats", refuse)
    assert online(tmp_path / "none") is True


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's route tables")
def test_this_machine_agrees_with_its_interfaces() -> None:
    """A default route here goes through an interface that the other way of looking accepts."""
    if online():
        assert any_interface_leads_out(psutil.net_if_stats(), psutil.net_if_addrs())


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("http://127.0.0.1:8080/m.gguf", True),
        ("https://localhost/m.gguf", True),
        ("http://[::1]:80/m.gguf", True),
        ("http://hub.localhost:1/x", True),
        ("127.0.0.1:5000/library/smollm2:latest", True),
        ("LOCALHOST:5000/ns/m", True),
        ("[::1]:5000/ns/m", True),
        ("http://user@127.0.0.1@evil.example/x", False),
        ("https://localhost.evil.example/m.gguf", False),
        ("https://huggingface.co/org/repo", False),
        ("org/repo:Q4_K_M", False),
        ("localhost", False),  # a model of this name
        ("llama3:latest", False),
        ("http://[half/x", False),
        ("", False),
    ],
)
def test_only_a_server_on_this_machine_is_local(reference: str, expected: bool) -> None:
    assert is_local(reference) is expected
