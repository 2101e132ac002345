"""A certificate on the server's port: https from the network, http as before on this machine."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.engine.test_engine_real import FIRST, Product, product
from tests.engine.test_sharing_real import CHAT, ask, listens_on, network_address
from tests.gateway_kit import request, rig, run, until
from tests.unit.engine_kit import wait_until
from tray_app.client import Client, ClientError
from tray_app.engine import tls

__all__ = ["product"]


def made(folder: Path, address: str, name: str = "server") -> tuple[Path, Path]:
    """(certificate, key) for an address, made by openssl."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    alternative = f"subjectAltName=IP:{address},IP:127.0.0.1"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    argv += ["-subj", "/CN=llama", "-addext", alternative]
    argv += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(argv, capture_output=True, check=True, timeout=60)
    return certificate, key


@pytest.fixture
def address() -> str:
    return network_address()


@pytest.fixture
def files(tmp_path: Path, address: str) -> tuple[Path, Path]:
    return made(tmp_path, address)


def share(product: Product, certificate: Path, key: Path) -> tuple[Client, str]:
    """A running engine that shares with the certificate, and an API key."""
    client = product.start()
    client.call("switch_model", model_id=FIRST)
    changes = {"server.tls_certificate": str(certificate), "server.tls_key": str(key)}
    client.call("change_settings", changes=changes)
    secret = client.call("share", on=True)["new_key"]["key"]
    wait_until(lambda: "0.0.0.0" in listens_on(product))
    return client, secret


def secured(address: str, port: int, certificate: Path) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=str(certificate))
    return http.client.HTTPSConnection(address, port, timeout=60, context=context)


def test_the_network_is_answered_by_https_and_this_machine_by_both(
    product: Product, files: tuple[Path, Path], address: str
) -> None:
    client, key = share(product, *files)
    assert client.call("sharing")["secured"]
    assert f"https://{address}:{product.port}/v1" in {
        row["url"] for row in client.call("sharing")["addresses"]
    }
    assert client.snapshot()["gateway"]["base_url"] == f"http://127.0.0.1:{product.port}/v1"
    for host in (address, "127.0.0.1"):
        connection = secured(host, product.port, files[0])
        headers = {"Authorization": f"Bearer {key}"}
        for _ in range(2):  # the connection is kept
            connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), headers)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            assert json.loads(response.read())["choices"]
        connection.close()
    status, answer = ask(product, "/v1/models", address, key)
    assert (status, "https" in answer["error"]["message"]) == (426, True)
    # The openai client reaches it from here as before, in streams too.
    assert ask(product, "/v1/chat/completions", key=key, body=CHAT)[0] == 200
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{product.port}/v1", api_key=key
    ) as openai_client:
        messages: list[Any] = CHAT["messages"]
        stream = openai_client.chat.completions.create(
            model=FIRST, messages=messages, max_tokens=8, stream=True
        )
        assert len(list(stream)) > 2


def test_large_bodies_and_bad_requests_work_through_tls(
    product: Product, files: tuple[Path, Path], address: str
) -> None:
    _, key = share(product, *files)
    connection = secured(address, product.port, files[0])
    body = json.dumps(CHAT | {"ignored": "x" * 3_000_000})
    connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {key}"})
    assert connection.getresponse().status == 200
    connection.close()
    connection = secured(address, product.port, files[0])
    connection.request("GET", "/v1/models")
    response = connection.getresponse()
    assert response.status == 401
    assert b"key is missing" in response.read()
    connection.close()


def test_who_shakes_no_hands_harms_nobody(
    product: Product, files: tuple[Path, Path], address: str
) -> None:
    _, key = share(product, *files)
    for hello in (b"\x16", b"\x16\x03\x01\x00\x05hello", b"\x16" * 70_000):
        with socket.create_connection((address, product.port), timeout=30) as rude:
            rude.sendall(hello)
            rude.shutdown(socket.SHUT_WR)
            rude.settimeout(30)
            while rude.recv(4096):
                pass
    context = ssl.create_default_context()  # it does not know the certificate
    with pytest.raises(ssl.SSLCertVerificationError):
        http.client.HTTPSConnection(address, product.port, context=context, timeout=30).connect()
    connection = secured(address, product.port, files[0])
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
    assert connection.getresponse().status == 200
    connection.close()


def test_a_bad_certificate_is_refused_and_a_lost_one_shares_nothing(
    product: Product, files: tuple[Path, Path], address: str, tmp_path: Path
) -> None:
    client = product.start()
    certificate, key = files
    other = made(tmp_path, address, "other")[1]
    for name, value in (("server.tls_certificate", "/nowhere.pem"), ("server.tls_key", str(other))):
        changes = {"server.tls_certificate": str(certificate), "server.tls_key": str(key)}
        with pytest.raises(ClientError) as refused:
            client.call("change_settings", changes=changes | {name: value})
        assert refused.value.code == "settings_invalid"
        assert refused.value.remedy
    client.call("shutdown")
    product.ended(product.started[-1])
    client, secret = share(product, certificate, key)
    client.call("shutdown")
    product.ended(product.started[-1])
    certificate.rename(tmp_path / "moved.pem")
    client = product.start()
    wait_until(lambda: listens_on(product) == {"127.0.0.1"})
    (notice,) = [n for n in client.snapshot()["notices"] if n["code"] == "tls_broken"]
    assert "server.pem is not there" in notice["message"]
    assert not client.call("sharing")["on"]
    assert ask(product, "/v1/models", key=secret)[0] == 200


def test_a_renewed_certificate_is_taken_up_and_a_half_written_one_is_not(
    product: Product, files: tuple[Path, Path], address: str, tmp_path: Path
) -> None:
    client, _ = share(product, *files)

    def shown() -> str:
        return ssl.get_server_certificate((address, product.port), timeout=10)

    first = shown()
    fresh = made(tmp_path, address, "fresh")
    files[0].write_bytes(fresh[0].read_bytes()[:500])
    log = product.home / "logs" / "engine.log"
    wait_until(lambda: "a renewed certificate is not taken" in log.read_text(encoding="utf-8"))
    assert shown() == first
    client.call("create_api_key", name="another")  # the server's settings are looked at again
    files[1].write_bytes(fresh[1].read_bytes())
    files[0].write_bytes(fresh[0].read_bytes())
    wait_until(lambda: shown() != first)
    assert shown().strip() == fresh[0].read_text(encoding="utf-8").strip()


def test_who_waits_with_a_handshake_counts_as_a_connection(files: tuple[Path, Path]) -> None:
    """Or a network without a key could open as many as it likes."""

    async def test() -> None:
        context = tls.Certificate(str(files[0]), str(files[1])).context
        async with rig(tls=context, max_connections=3) as r:
            idle = [await r.client() for _ in range(3)]
            await until(lambda: len(r.gateway._doors) == 3)
            late = await r.client()
            assert await late.closed()
            idle[0].send(b"\x16\x03\x01")  # a handshake that never goes on counts too
            idle[1].close()
            await until(lambda: len(r.gateway._doors) == 2)
            trust = ssl.create_default_context(cafile=str(files[0]))
            reader, writer = await asyncio.open_connection("127.0.0.1", r.gateway.port, ssl=trust)
            writer.write(request("GET", "/v1/models"))
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()

    run(test())
