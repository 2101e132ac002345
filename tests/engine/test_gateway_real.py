"""The gateway in front of a real llama-server, asked by the real `openai` client."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.gateway_kit import Client, FakeBackend, FakeLease, Got, chat, request, run, until
from tray_app.engine.child_question import ask_child
from tray_app.engine.launch import Endpoint
from tray_app.engine.llama_server import ServerChild, free_endpoint
from tray_app.gateway import Gateway

MODEL = "org/active:Q4"
ASKED: list[Any] = [{"role": "user", "content": "Say hello."}]


@dataclass
class Real:
    gateway: Gateway
    backend: FakeBackend
    openai: openai.AsyncOpenAI

    async def ask(self, method: str, target: str, body: bytes = b"") -> Got:
        """One raw request through the gateway."""
        client = await Client.connect(self.gateway.port)
        client.send(request(method, target, body))
        try:
            return await client.answer(method)
        finally:
            client.close()


@pytest.fixture(scope="module")
def child(llama_server: Path, smollm2: Path) -> Iterator[str]:
    """A llama-server on a unix socket. Plain sockets wait until it answers."""
    with tempfile.TemporaryDirectory(prefix="lw", dir="/tmp") as folder:
        path = f"{folder}/m.sock"
        argv = [str(llama_server), "-m", str(smollm2), "--host", path, "-c", "4096", "-np", "2"]
        argv += ["-fit", "off", "--slots", "--metrics"]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            asyncio.run(_until_ready(path, process))
            yield path
        finally:
            process.terminate()
            process.wait(10)


async def _until_ready(path: str, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(60):
        while process.poll() is None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                client = Client(*await asyncio.open_unix_connection(path))
                client.send(request("GET", "/health"))
                got = await client.answer()
                client.close()
                if got.status == 200:
                    return
            await asyncio.sleep(0.05)
    pytest.fail(f"llama-server ended with code {process.returncode}")


@contextlib.asynccontextmanager
async def real(child: str) -> AsyncIterator[Real]:
    backend = FakeBackend(child)
    gateway = Gateway(backend, port=0)
    await gateway.start()
    base_url = f"http://127.0.0.1:{gateway.port}/v1"
    try:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
            yield Real(gateway, backend, client)
    finally:
        await gateway.stop(5)
        assert all(lease.releases == 1 for lease in backend.leases)


def test_chat_answers_whole_and_as_a_stream(child: str) -> None:
    async def test() -> None:
        async with real(child) as r:
            whole = await r.openai.chat.completions.create(
                model=MODEL, messages=ASKED, max_tokens=12, temperature=0
            )
            stream = await r.openai.chat.completions.create(
                model="default", messages=ASKED, max_tokens=12, temperature=0, stream=True
            )
            text = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
            assert text
            assert text == whole.choices[0].message.content
            await until(lambda: len(r.backend.records) == 2)
            assert whole.usage is not None
            for record in r.backend.records:
                assert record.status == 200
                assert record.prompt_tokens == whole.usage.prompt_tokens
                assert record.generated_tokens == whole.usage.completion_tokens
                assert record.tokens_per_s is not None
                assert record.tokens_per_s > 1
                assert record.first_token_s is not None

    run(test())


def test_completions_and_models_work_with_the_openai_client(child: str) -> None:
    async def test() -> None:
        async with real(child) as r:
            made = await r.openai.completions.create(model=MODEL, prompt="One two", max_tokens=4)
            assert made.choices[0].text
            assert [m.id async for m in r.openai.models.list()] == list(r.backend.models)
            assert (await r.openai.models.retrieve("org/other:Q8")).id == "org/other:Q8"
            with pytest.raises(openai.NotFoundError) as caught:
                await r.openai.completions.create(model="nope", prompt="x")
            assert caught.value.code == "model_not_found"

    run(test())


def test_the_responses_endpoint_streams_through(child: str) -> None:
    async def test() -> None:
        async with real(child) as r:
            stream = await r.openai.responses.create(
                model=MODEL, input="Say hello.", max_output_tokens=8, stream=True
            )
            kinds = [event.type async for event in stream]
            assert kinds[-1] == "response.completed"
            await until(lambda: bool(r.backend.records))
            assert r.backend.records[0].generated_tokens

    run(test())


def test_the_messages_endpoint_answers_whole_and_as_a_stream(child: str) -> None:
    async def test() -> None:
        async with real(child) as r:
            body = b'{"max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}]%s}'
            whole = await r.ask("POST", "/v1/messages", body % b"")
            assert whole.json["content"][0]["text"]
            stream = await r.ask("POST", "/v1/messages", body % b', "stream": true')
            assert b"event: message_stop" in stream.body
            await until(lambda: len(r.backend.records) == 2)
            assert [bool(rec.generated_tokens) for rec in r.backend.records] == [True, True]

    run(test())


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("POST", "/tokenize", b'{"content": "hello"}', 200),
        ("POST", "/detokenize", b'{"tokens": [1, 2]}', 200),
        ("POST", "/apply-template", b'{"messages": [{"role": "user", "content": "x"}]}', 200),
        ("GET", "/props", b"", 200),
        ("GET", "/slots", b"", 200),
        ("GET", "/lora-adapters", b"", 200),
        ("HEAD", "/props", b"", 200),
        ("POST", "/infill", b'{"input_prefix": "a", "input_suffix": "b"}', 501),
        ("POST", "/v1/embeddings", b'{"input": "hello"}', 501),
        ("POST", "/v1/rerank", b'{"query": "a", "documents": ["b"]}', 501),
        ("POST", "/v1/chat/completions", b'{"messages": ', 400),
        ("POST", "/v1/chat/completions", b"{}", 400),
        ("GET", "/no/such/path", b"", 404),
    ],
)
def test_the_childs_own_answers_and_errors_pass_through(
    method: str, target: str, body: bytes, status: int, child: str
) -> None:
    async def test() -> None:
        async with real(child) as r:
            direct = Client(*await asyncio.open_unix_connection(child))
            direct.send(request(method, target, body))
            expected = await direct.answer(method)
            direct.close()
            got = await r.ask(method, target, body)
            assert got.status == expected.status
            assert got.headers["content-type"] == expected.headers["content-type"]
            assert got.headers["x-llama-wrangler-model"] == MODEL
            if status in (400, 404, 501):
                assert got.status == status
                assert got.body == expected.body

    run(test())


def test_a_client_that_goes_away_stops_the_generation(child: str) -> None:
    async def busy_slots(r: Real) -> int:
        slots = (await r.ask("GET", "/slots")).json
        return sum(slot["is_processing"] for slot in slots)

    async def test() -> None:
        async with real(child) as r:
            client = await Client.connect(r.gateway.port)
            client.send(chat(stream=True, messages=ASKED, max_tokens=3000, ignore_eos=True))
            await client.head()
            await client.reader.readuntil(b"\n\n")
            assert await busy_slots(r) == 1
            client.close()
            async with asyncio.timeout(2):
                while await busy_slots(r):
                    await asyncio.sleep(0.01)
            await until(lambda: any(rec.status == 499 for rec in r.backend.records))

    run(test())


def test_a_child_on_a_port_answers_the_engine_alone(
    llama_server: Path, smollm2: Path, free_port: int, tmp_path: Path, home: Path
) -> None:
    """As on Windows, where a child has a port; a key of the user's own shuts none out."""

    async def test() -> None:
        endpoint = Endpoint(port=free_port, key="only-ours")
        argv = [str(llama_server), "-m", str(smollm2), "--host", "127.0.0.1"]
        argv += ["--port", str(free_port), "-c", "512", "-fit", "off", "--slots", "--metrics"]
        child = ServerChild(tuple(argv), endpoint, tmp_path / "child.log")
        try:
            assert await child.wait_ready()
            words = " ".join(psutil.Process(child.pid).cmdline())
            assert "only-ours" not in words
            assert await ask_child(endpoint, "/slots") is not None
            assert await ask_child(Endpoint(port=free_port), "/slots") is None
            other = Client(*await asyncio.open_connection("127.0.0.1", free_port))
            other.send(chat(messages=ASKED))
            assert (await other.answer()).status == 401
            other.close()
            async with real("") as r:
                lease = FakeLease(MODEL, None, child.died, ("127.0.0.1", free_port))
                lease.headers = endpoint.headers
                monkey = pytest.MonkeyPatch()
                monkey.setattr(r.backend, "acquire", lambda *_: _at_once(lease))
                answer = await r.openai.chat.completions.create(
                    model=MODEL, messages=ASKED, max_tokens=4
                )
                assert answer.choices[0].message.content
                monkey.undo()
        finally:
            await child.stop(2)
        assert "only-ours" not in (tmp_path / "child.log").read_text(encoding="utf-8")

    run(test())


async def _at_once(lease: FakeLease) -> FakeLease:
    return lease


def test_a_key_in_the_users_environment_does_not_shut_a_child_on_a_socket(
    llama_server: Path, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "the-users")

    async def test() -> None:
        with tempfile.TemporaryDirectory(prefix="lw", dir="/tmp") as folder:
            endpoint = free_endpoint(Path(folder))
            argv = [str(llama_server), "-m", str(smollm2), "--host", str(endpoint.socket_path)]
            argv += ["-c", "512", "-fit", "off", "--slots"]
            child = ServerChild(tuple(argv), endpoint, tmp_path / "child.log")
            try:
                assert await child.wait_ready()
                assert await ask_child(endpoint, "/slots") is not None
            finally:
                await child.stop(2)

    run(test())
