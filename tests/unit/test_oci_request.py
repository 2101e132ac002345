"""Questions to a registry, against loopback servers that want tokens, redirect and misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tray_app.engine.downloads.oci_request import MANIFEST_TYPE, MAX_MANIFEST_BYTES, Registry
from tray_app.engine.errors import DownloadFailed, NotFound

WAIT_S = 10.0
BODY = b'{"layers": []}'
DIGEST = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
MANIFEST, BLOB = "/v2/library/m/manifests/latest", f"/v2/library/m/blobs/{DIGEST}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        fields = {key.lower(): value for key, value in self.headers.items()}
        self.server.seen.append((self.path, fields))
        with contextlib.suppress(OSError):  # clients go away here on purpose
            self.server.answer(self)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        fields = {"Content_Length": str(len(body)), **headers}
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Callable[[Handler], object] = lambda handler: handler.say(200, BODY)
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join(WAIT_S)
        server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    """Another origin: another port counts as one."""
    with running() as server:
        yield server


def registry_at(server: Server, whole_s: float = WAIT_S) -> Registry:
    return Registry(server.url, "library/m", whole_s=whole_s)


def guarded(server: Server, realm: str, *tokens: str) -> None:
    """The registry wants one of `tokens`; `realm` is where they are said to be given."""
    challenge = f'Bearer realm="{realm}",service="a b",scope="repository:library/m:pull"'

    def answer(handler: Handler) -> None:
        if handler.headers.get("Authorization") in [f"Bearer {token}" for token in tokens]:
            handler.say(200, BODY)
        else:
            handler.say(401, b"{}", WWW_Authenticate=challenge)

    server.answer = answer


def giving(server: Server, *answers: object) -> None:
    """A token service that answers in turn."""
    left = [json.dumps(answer).encode() for answer in answers]
    server.answer = lambda handler: handler.say(200, left.pop(0))


def test_a_manifest_is_asked_for_by_its_type_and_taken_whatever_type_it_comes_as(
    server: Server,
) -> None:
    server.answer = lambda handler: handler.say(200, BODY, Content_Type="text/plain")
    assert registry_at(server).manifest("latest") == BODY
    ((path, headers),) = server.seen
    assert path == MANIFEST
    assert headers["accept"] == MANIFEST_TYPE
    assert headers["accept-encoding"] == "identity"
    assert "authorization" not in headers


def test_a_small_blob_is_checked_by_its_hash(server: Server) -> None:
    assert registry_at(server).blob(DIGEST, 100) == BODY
    server.answer = lambda handler: handler.say(200, b"something else")
    with pytest.raises(DownloadFailed, match="another sha256"):
        registry_at(server).blob(DIGEST, 100)


def test_a_registry_that_wants_a_token_gets_an_anonymous_one(
    server: Server, elsewhere: Server
) -> None:
    guarded(server, f"{elsewhere.url}/token?x=1", "first", "second")
    giving(elsewhere, {"token": "first"}, {"access_token": "second"})
    registry = registry_at(server)
    assert registry.manifest("latest") == BODY
    assert registry.blob(DIGEST, 100) == BODY
    ((asked, headers),) = elsewhere.seen
    assert asked == "/token?x=1&service=a+b&scope=repository%3Alibrary%2Fm%3Apull"
    assert "authorization" not in headers
    remote = registry.remote(DIGEST, len(BODY), "m.gguf")
    assert remote.headers == {"Authorization": "Bearer first"}
    assert remote.renew is not None
    fresh = remote.renew()
    assert fresh.headers == {"Authorization": "Bearer second"}
    assert (fresh.url, fresh.sha256, fresh.size_bytes) == (
        f"{server.url}{BLOB}",
        DIGEST.removeprefix("sha256:"),
        len(BODY),
    )


def test_renewing_where_no_token_is_wanted_gives_the_same_address(server: Server) -> None:
    remote = registry_at(server).remote(DIGEST, len(BODY), "m.gguf")
    assert remote.headers == {}
    assert remote.renew is not None
    assert remote.renew() == remote
    ((path, headers),) = server.seen
    assert (path, headers["range"]) == (BLOB, "bytes=0-0")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_token_is_not_carried_to_where_a_registry_redirects(
    server: Server, elsewhere: Server, status: int
) -> None:
    guarded(server, f"{server.url}/token", "given")
    wanting = server.answer

    def answer(handler: Handler) -> None:
        if handler.path.startswith("/token"):
            handler.say(200, b'{"token": "given"}')
        elif "Authorization" in handler.headers:
            handler.say(status, Location=f"{elsewhere.url}/signed?with=a-secret")
        else:
            wanting(handler)

    server.answer = answer
    assert registry_at(server).blob(DIGEST, 100) == BODY
    ((path, headers),) = elsewhere.seen
    assert path == "/signed?with=a-secret"
    assert "authorization" not in headers


@pytest.mark.parametrize(
    "answer",
    [
        {"token": ""},
        {"token": 5},
        {"token": "two\r\nlines: x"},
        {"token": "not the right one"},
        {"tokens": "x"},
        [],
        None,
    ],
)
def test_without_a_token_that_helps_the_user_is_told_of_the_sign_in(
    server: Server, elsewhere: Server, answer: object
) -> None:
    guarded(server, f"{elsewhere.url}/token", "right")
    giving(elsewhere, answer)
    with pytest.raises(DownloadFailed) as caught:
        registry_at(server).manifest("latest")
    assert "sign-in" in caught.value.message
    assert "Hugging Face" in caught.value.remedy


@pytest.mark.parametrize("challenge", ["", "Basic realm=x", "Bearer", 'Bearer service="x"'])
def test_a_registry_that_wants_a_password_is_not_asked_again(
    server: Server, challenge: str
) -> None:
    server.answer = lambda handler: handler.say(401, WWW_Authenticate=challenge)
    with pytest.raises(DownloadFailed, match="sign-in"):
        registry_at(server).manifest("latest")
    assert len(server.seen) == 1


@pytest.mark.parametrize("address", ["http://192.0.2.1/x", "ftp://127.0.0.1/x", "file:///etc/x"])
def test_no_answer_leads_to_an_address_that_is_not_trusted(server: Server, address: str) -> None:
    server.answer = lambda handler: handler.say(307, Location=address)
    with pytest.raises(DownloadFailed):
        registry_at(server).manifest("latest")
    guarded(server, address, "x")
    with pytest.raises(DownloadFailed, match="not https"):
        registry_at(server).manifest("latest")


def test_only_a_registry_on_this_machine_may_name_addresses_on_it(server: Server) -> None:
    far = Registry("https://registry.example", "library/m")
    assert not far._may_ask(f"{server.url}/v2/")
    assert far._may_ask("https://elsewhere.example/signed")
    assert registry_at(server)._may_ask(f"{server.url}/v2/")


def test_what_is_not_there_is_told_apart(server: Server) -> None:
    listed = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest\x1b unknown."}]}
    server.answer = lambda handler: handler.say(404, json.dumps(listed).encode())
    with pytest.raises(NotFound) as caught:
        registry_at(server).manifest("latest")
    assert "does not have the model or tag" in caught.value.message
    assert caught.value.message.endswith(" It says: manifest  unknown.")
    with pytest.raises(NotFound, match="does not have a part"):
        registry_at(server).blob(DIGEST, 100)


@pytest.mark.parametrize(
    ("status", "body", "end"),
    [
        (400, b'{"error": "sharded GGUF"}', "answered 400. It says: sharded GGUF."),
        (412, b'{"error": ' + b'"' + b"x" * 5000 + b'"}', "x" * 200 + "."),
        (429, b"slow down", "answered 429."),
        (503, b"[1]", "answered 503."),
        (500, b"[" * 8000, "answered 500."),
        (402, b'{"error": 5, "errors": [7]}', "answered 402."),
    ],
)
def test_another_answer_is_told_with_the_registrys_own_words(
    server: Server, status: int, body: bytes, end: str
) -> None:
    server.answer = lambda handler: handler.say(status, body)
    with pytest.raises(DownloadFailed) as caught:
        registry_at(server).manifest("latest")
    assert caught.value.message.endswith(end)
    assert caught.value.remedy


def test_an_endless_answer_is_cut_off(server: Server) -> None:
    def answer(handler: Handler) -> None:
        handler.say(200, Content_Length=str(1 << 40))
        while not server.over.is_set():
            handler.wfile.write(b"[" * 65_536)

    server.answer = answer
    with pytest.raises(DownloadFailed, match=f"more than {MAX_MANIFEST_BYTES:,} bytes"):
        registry_at(server).manifest("latest")


def test_an_answer_that_breaks_off_is_not_taken_for_whole(server: Server) -> None:
    server.answer = lambda handler: handler.say(200, BODY, Content_Length="99")
    with pytest.raises(DownloadFailed, match="closed at 14 of 99"):
        registry_at(server).manifest("latest")


def test_a_registry_that_never_answers_is_given_up(server: Server) -> None:
    server.answer = lambda handler: server.over.wait(WAIT_S)
    with pytest.raises(DownloadFailed, match="took longer"):
        registry_at(server, whole_s=0.2).manifest("latest")


def test_all_that_one_plan_asks_has_one_limit_of_time(server: Server) -> None:
    registry = registry_at(server, whole_s=0.2)
    assert registry.manifest("latest") == BODY
    server.answer = lambda handler: server.over.wait(WAIT_S)
    for _ in range(20):
        with pytest.raises(DownloadFailed, match="took longer"):
            registry.blob(DIGEST, 100)


def test_a_registry_that_is_not_there_is_told_in_plain_words(free_port: int) -> None:
    registry = Registry(f"http://127.0.0.1:{free_port}", "library/m")
    with pytest.raises(DownloadFailed, match="nothing answers there"):
        registry.manifest("latest")
