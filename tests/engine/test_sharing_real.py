"""Sharing on the network with a real engine: by the machine's own network address, with keys."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.engine.test_engine_real import FIRST, Product, product
from tests.unit.engine_kit import wait_until
from tray_app.client import Client, ClientError

__all__ = ["product"]


def ask(
    product: Product, path: str, host: str = "127.0.0.1", key: str = "", body: Any = None
) -> tuple[int, Any]:
    """One request by some address of this machine."""
    connection = http.client.HTTPConnection(host, product.port, timeout=60)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        data = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, data, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def reachable(product: Product, host: str) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((host, product.port)) == 0


def listens_on(product: Product) -> set[str]:
    process = psutil.Process(Client.connect(product.home).engine_pid)
    found = process.net_connections("tcp")
    return {c.laddr.ip for c in found if c.status == "LISTEN" and c.laddr.port == product.port}


def network_address() -> str:
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family is socket.AF_INET and not each.address.startswith("127."):
                return each.address
    pytest.skip("this machine has no network interface but its loopback")


CHAT = {"model": FIRST, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


def test_sharing_makes_a_key_and_nothing_is_answered_without_it(product: Product) -> None:
    client = product.start()
    wait_until(lambda: client.snapshot()["gateway"]["state"] == "listening")
    there = network_address()
    assert not reachable(product, there)
    told = client.call("share", on=True)
    key = told["new_key"]["key"]
    assert told["on"]
    assert f"http://{there}:{product.port}/v1" in [each["url"] for each in told["addresses"]]
    wait_until(lambda: reachable(product, there))
    wait_until(lambda: client.snapshot()["gateway"]["key_required"])
    for host in (there, "127.0.0.1"):
        assert ask(product, "/v1/models", host)[0] == 401
        assert ask(product, "/v1/chat/completions", host, body=CHAT)[0] == 401
        assert ask(product, "/metrics", host)[0] == 401
        assert ask(product, "/v1/models", host, "lw-wrong")[0] == 401
        assert ask(product, "/health", host) == (200, {"status": "ok"})
        assert ask(product, "/v1/chat/completions", host, key, CHAT)[0] == 200
    session = client.call("gateway_key")
    assert ask(product, "/v1/models", key=session)[0] == 200
    again = client.call("share", on=False)
    assert again["new_key"] is None
    wait_until(lambda: listens_on(product) == {"127.0.0.1"})
    assert not reachable(product, there)


def test_keys_are_made_revoked_and_survive_a_restart(product: Product) -> None:
    client = product.start()
    first = client.call("create_api_key", name="one")["new_key"]["key"]
    second = client.call("create_api_key", name="two")["new_key"]["key"]
    wait_until(lambda: ask(product, "/v1/models")[0] == 401)
    client.call("revoke_api_key", name="one")
    assert ask(product, "/v1/models", key=first)[0] == 401
    client.call("shutdown")
    product.ended(product.started[-1])
    client = product.start()
    wait_until(lambda: client.snapshot()["gateway"]["state"] == "listening")
    assert ask(product, "/v1/models", key=second)[0] == 200
    assert [key["name"] for key in client.call("sharing")["keys"]] == ["two"]
    kept = b"".join(path.read_bytes() for path in product.home.rglob("*") if path.is_file())
    assert second.encode() not in kept
    assert client.call("gateway_key").encode() not in kept
    client.call("revoke_api_key", name="two")
    wait_until(lambda: ask(product, "/v1/models")[0] == 200)


def test_no_way_leads_to_the_network_without_a_key(product: Product) -> None:
    client = product.start()
    for changes in ({"server.host": "0.0.0.0"}, {"server": {"host": "::"}}):
        with pytest.raises(ClientError, match="no API key"):
            client.call("change_settings", changes=changes)
    client.call("shutdown")
    product.ended(product.started[-1])
    settings = product.home / "settings.toml"
    text = settings.read_text()
    assert "[server]" in text
    settings.write_text(text.replace("[server]", '[server]\nhost = "0.0.0.0"'))
    client = product.start()
    wait_until(lambda: client.snapshot()["gateway"]["state"] == "listening")
    assert listens_on(product) == {"127.0.0.1"}
    notices = {notice["code"] for notice in client.snapshot()["notices"]}
    assert "not_shared" in notices
    # The key that is missing makes it so, and its loss takes it back.
    client.call("create_api_key", name="a")
    wait_until(lambda: listens_on(product) == {"0.0.0.0"})
    assert not client.snapshot()["notices"]
    client.call("revoke_api_key", name="a")
    wait_until(lambda: listens_on(product) == {"127.0.0.1"})


def test_an_answer_goes_on_while_sharing_is_switched(product: Product) -> None:
    client = product.start()
    connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=120)
    body = {**CHAT, "stream": True, "max_tokens": 400, "ignore_eos": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    response = connection.getresponse()
    assert response.status == 200
    response.readline()
    client.call("share", on=True)
    wait_until(lambda: listens_on(product) == {"0.0.0.0"})
    text = response.read().decode()
    connection.close()
    assert text.rstrip().endswith("data: [DONE]")
    assert urlsplit(client.snapshot()["gateway"]["base_url"]).hostname == "127.0.0.1"


def test_the_command_line_shares_and_keeps_the_keys(product: Product) -> None:
    product.start()
    assert product.json("share")["on"] is False
    made = product.json("key", "create", "laptop")["new_key"]
    wait_until(lambda: ask(product, "/v1/models")[0] == 401)
    assert ask(product, "/v1/models", key=made["key"])[0] == 200
    told = product.run("key")
    assert "laptop" in told.stdout
    assert made["key"] not in told.stdout
    assert product.json("share", "on")["on"] is True
    assert product.json("share", "off")["on"] is False
    product.json("key", "revoke", "laptop")
    wait_until(lambda: ask(product, "/v1/models")[0] == 200)
    assert product.run("key", "create").returncode == 2
    refused = product.run("key", "revoke", "nobody")
    assert refused.returncode != 0
    assert "nobody" in refused.stdout + refused.stderr
