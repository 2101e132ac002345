"""Beyond this machine nothing is answered without a key, by whatever way that is asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tray_app.access import Access
from tray_app.engine.errors import BadRequest, SettingsInvalid
from tray_app.engine.keys import MOST_KEYS, ApiKeys
from tray_app.engine.sharing import (
    check_host,
    listen_host,
    network_addresses,
    qr_code,
    shown_host,
)
from tray_app.http_wire import BadWire, Request

LAN = "192.168.1.20"


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    return ApiKeys(tmp_path / "keys.json")


def asked(*headers: tuple[str, str], target: str = "/v1/models", method: str = "GET") -> Request:
    named = [(name.lower().encode(), value.encode()) for name, value in headers]
    if not any(name == b"host" for name, _ in named):
        named.append((b"host", b"127.0.0.1:7070"))
    return Request(method.encode(), target.encode(), "1.1", named, keep_alive=True)


def refused(access: Access, request: Request, peer: str = "127.0.0.1") -> str:
    with pytest.raises(BadWire) as caught:
        access.check(request, peer)
    assert caught.value.status == 401
    return caught.value.message


# -- keys


def test_only_the_hash_of_a_key_is_on_the_disk(keys: ApiKeys, tmp_path: Path) -> None:
    made = keys.create("Open  WebUI")
    assert made.name == "Open WebUI"
    assert len(made.key) > 40
    path = tmp_path / "keys.json"
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert made.key not in text
    assert hashlib.sha256(made.key.encode()).hexdigest() in text
    again = ApiKeys(path)
    assert again.accepts(made.key, local=False)
    (shown,) = again.list()
    assert (shown.name, shown.ending) == ("Open WebUI", made.key[-4:])
    assert made.key not in repr(again.list())


def test_a_revoked_key_opens_nothing(keys: ApiKeys) -> None:
    first, second = keys.create("first"), keys.create("second")
    keys.revoke("first")
    assert not keys.accepts(first.key, local=True)
    assert keys.accepts(second.key, local=False)
    keys.revoke("second")
    assert not keys.required


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "a\x00b"])
def test_a_key_needs_a_name(keys: ApiKeys, name: str) -> None:
    with pytest.raises(BadRequest):
        keys.create(name)


def test_names_are_given_once_and_keys_are_bounded(keys: ApiKeys) -> None:
    keys.create("a")
    with pytest.raises(BadRequest, match="already"):
        keys.create(" A ")
    with pytest.raises(BadRequest, match="no key"):
        keys.revoke("b")
    for number in range(MOST_KEYS - 1):
        keys.create(f"key {number}")
    with pytest.raises(BadRequest, match="100 keys"):
        keys.create("one more")


def test_the_pages_own_key_is_for_this_machine_and_run(keys: ApiKeys, tmp_path: Path) -> None:
    assert keys.accepts(keys.session, local=True)
    assert not keys.accepts(keys.session, local=False)
    assert not ApiKeys(tmp_path / "keys.json").accepts(keys.session, local=True)
    assert not keys.required, "it is not one that lets the network in"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"keys": 5}', '{"keys": [{"name": "a"}]}', '{"keys": [{"name": "a",'
    ' "sha256": "", "ending": "", "created_at": 1}]}']
)  # fmt: skip
def test_a_broken_file_is_set_aside_and_opens_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    keys = ApiKeys(path)
    assert not keys.required
    assert not keys.accepts("", local=True)
    assert [p.name for p in tmp_path.iterdir()] == ["keys.json.broken-1"]


# -- where the server listens


@pytest.mark.parametrize("host", ["0.0.0.0", "::", LAN, "8.8.8.8"])
def test_without_a_key_the_server_stays_on_this_machine(host: str) -> None:
    assert listen_host(host, keyed=False) == "127.0.0.1"
    assert listen_host(host, keyed=True) == host
    with pytest.raises(SettingsInvalid, match="no API key"):
        check_host(host, keyed=False)
    check_host(host, keyed=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.5.5.5"])
def test_this_machine_needs_no_key_to_listen(host: str) -> None:
    check_host(host, keyed=False)
    assert Access(host).may_listen


def test_the_gateway_refuses_by_itself(keys: ApiKeys) -> None:
    assert not Access("0.0.0.0").may_listen
    assert not Access("0.0.0.0", (), keys).may_listen
    keys.create("a")
    assert Access("0.0.0.0", (), keys).may_listen


def test_the_addresses_are_those_other_machines_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(family: str, address: str) -> Any:
        return SimpleNamespace(family=getattr(__import__("socket"), family), address=address)

    there = {
        "lo": [entry("AF_INET", "127.0.0.1"), entry("AF_INET6", "::1")],
        "eth0": [entry("AF_INET", LAN), entry("AF_INET6", "fe80::1%eth0")],
        "tun0": [entry("AF_INET6", "2001:db8::5")],
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: there)
    assert network_addresses("127.0.0.1", 7070) == ()
    assert [a.url for a in network_addresses("0.0.0.0", 7070)] == [f"http://{LAN}:7070/v1"]
    assert [a.url for a in network_addresses("::", 7070)] == [
        f"http://{LAN}:7070/v1",
        "http://[2001:db8::5]:7070/v1",
    ]
    assert [a.interface for a in network_addresses(LAN, 7070)] == ["eth0"]
    assert (shown_host("0.0.0.0"), shown_host("::"), shown_host(LAN)) == ("127.0.0.1", "::1", LAN)


# -- who is let in


def test_without_keys_this_machine_needs_none(keys: ApiKeys) -> None:
    Access("127.0.0.1", (), keys).check(asked(), "127.0.0.1")


def test_as_soon_as_there_is_a_key_everybody_needs_one(keys: ApiKeys) -> None:
    made = keys.create("a")
    for host, peer in (("127.0.0.1", "127.0.0.1"), ("0.0.0.0", LAN), ("0.0.0.0", "::ffff:1.2.3.4")):
        access = Access(host, (), keys)
        assert "is missing" in refused(access, asked(), peer)
        assert "not one of" in refused(access, asked(("Authorization", "Bearer lw-no")), peer)
        for header in (
            ("Authorization", f"Bearer {made.key}"),
            ("authorization", f"bearer  {made.key} "),
            ("x-api-key", made.key),
            ("api-key", made.key),
        ):
            access.check(asked(header), peer)
        refused(access, asked(("Authorization", f"Basic {made.key}")), peer)
        refused(access, asked(target=f"/v1/models?api_key={made.key}"), peer)
        refused(access, asked(("Authorization", "Bearer ü\xff")), peer)


def test_health_and_preflights_need_no_key(keys: ApiKeys) -> None:
    keys.create("a")
    access = Access("0.0.0.0", (), keys)
    access.check(asked(target="/health"), LAN)
    access.check(asked(target="/v1/chat/completions", method="OPTIONS"), LAN)
    refused(access, asked(target="/healthy"), LAN)


def test_when_the_last_key_is_taken_back_the_network_is_shut_out_at_once(keys: ApiKeys) -> None:
    made = keys.create("a")
    access = Access("0.0.0.0", (), keys)
    keys.revoke("a")
    refused(access, asked(("x-api-key", made.key)), LAN)


def test_programs_here_may_be_let_in_without_a_key_but_no_rebound_page(keys: ApiKeys) -> None:
    keys.create("a")
    access = Access("0.0.0.0", (), keys, local_without_key=True)
    access.check(asked(), "127.0.0.1")
    access.check(asked(("host", "localhost:7070")), "::ffff:127.0.0.1")
    refused(access, asked(), LAN)
    refused(access, asked(("host", "evil.example:7070")), "127.0.0.1")
    refused(access, asked(), "")


def test_a_qr_code_is_a_square_of_dark_and_light_with_its_three_corners() -> None:
    rows = qr_code("https://192.168.1.5:7070/v1")
    assert {len(row) for row in rows} == {len(rows)}
    assert set("".join(rows)) == {"0", "1"}
    for corner in (rows[0][:7], rows[0][-7:], rows[-1][:7]):  # the finder patterns
        assert corner == "1111111"
