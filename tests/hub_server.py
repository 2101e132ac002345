"""A loopback Hub: the API and the files of repositories on one origin, large files on another.

`hub.put(repo, files)` publishes a commit; a file is its content (bytes or a Path) or a `Listed`,
which has a size and no content. GGUF and safetensors files are in LFS: a redirect leads to a
signed address on the second origin. `hub.faults` are answers to the next questions in turn.
What it says follows hubs.md 1, as huggingface_hub 2.4.0 reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

IN_LFS = (".gguf", ".safetensors")
SHA1_OF_NOTHING = hashlib.sha1(b"").hexdigest()


@dataclass(frozen=True)
class Listed:
    """A file that is only ever listed."""

    size_bytes: int
    lfs: bool = True
    oid: str | None = None  # as the tree tells it; None: one that is made up


Content = bytes | Path | Listed


@dataclass
class Repo:
    """One repository: its commits, and who may read it."""

    id: str
    commits: dict[str, dict[str, Content]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # "main" -> commit
    card: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=lambda: ["gguf"])
    gated: str | bool = False
    private: bool = False
    readers: set[str] = field(default_factory=set)  # tokens
    more: dict[str, Any] = field(default_factory=dict)  # of its row in a search

    def commit(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)


@dataclass(frozen=True)
class Asked:
    """One question."""

    origin: str  # "hub" or "cdn"
    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Origin

    def do_GET(self) -> None:
        hub = self.server.hub
        fields = {key.lower(): value for key, value in self.headers.items()}
        hub.seen.append(Asked(self.server.name, self.command, self.path, fields))
        answer: Callable[[Handler], object] = right
        if self.server.name == "hub" and hub.faults:
            answer = hub.faults.pop(0)
        with contextlib.suppress(OSError):  # clients go away here on purpose
            answer(self)
            return
        self.close_connection = True

    do_HEAD = do_POST = do_GET

    def paths(self) -> list[str]:
        """The body of a question about some files: a form, or JSON."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        found: list[str] = json.loads(body)["paths"] if body[:1] == "{" else parse_qs(body)["paths"]
        return found

    def log_message(self, *args: object) -> None:
        pass

    @property
    def token(self) -> str | None:
        found = re.fullmatch(r"Bearer (.+)", self.headers.get("Authorization", ""))
        return found[1] if found else None

    def head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def say(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.head(status, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def tell(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        told = {"Content-Type": "application/json", **(headers or {})}
        self.say(200, json.dumps(value).encode(), told)

    def refuse(self, status: int, code: str, message: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message or code}
        body = json.dumps({"error": message or code}).encode()
        self.say(status, body, {k: v for k, v in headers.items() if v})


Answer = Callable[[Handler], object]


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    """Another answer than the right one."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.say(status, body, fields)


def endless(handler: Handler) -> None:
    """A body without an end."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    while True:
        handler.wfile.write(b"[" + b" " * 65535)


def cut(handler: Handler) -> None:
    """Half of what was promised."""
    handler.head(200, 100, {})
    handler.wfile.write(b"[]")
    handler.close_connection = True


def dead(handler: Handler) -> None:
    """A closed connection."""
    handler.close_connection = True


def stalled(handler: Handler) -> None:
    """Nothing, until the server is closed."""
    handler.server.hub.gate.wait(60)
    handler.close_connection = True


def right(handler: Handler) -> None:
    """What the Hub says."""
    if handler.server.name == "cdn":
        _from_cdn(handler)
        return
    hub = handler.server.hub
    parts = urlsplit(handler.path)
    if hub.questions_left is not None:
        hub.questions_left -= 1
        if hub.questions_left < 0:
            told = {"RateLimit": '"api";r=0;t=120', "RateLimit-Policy": '"api";q=500;w=300'}
            handler.say(429, b"", told)
            return
    if parts.path == "/api/whoami-v2":
        handler.tell({"name": "herder"}) if handler.token else handler.say(401)
    elif parts.path == "/api/models":
        handler.tell(hub.search(parse_qs(parts.query)))
    elif parts.path.startswith("/api/models/"):
        _of_repo(handler, parts.path.removeprefix("/api/models/"), parse_qs(parts.query))
    elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", parts.path):
        _resolve(handler, found[1], unquote(found[2]), unquote(found[3]))
    else:
        handler.say(404)


def _repo(handler: Handler, name: str) -> Repo | None:
    """The repository, if this asker may see it; else the refusal is told."""
    repo = handler.server.hub.repos.get(name)
    if handler.token is not None and handler.token not in handler.server.hub.tokens:
        handler.refuse(401, "", "Invalid credentials in Authorization header")
        return None
    if repo is None or (repo.private and handler.token not in repo.readers):
        handler.refuse(404 if handler.token else 401, "RepoNotFound", "Repository not found")
        return None
    return repo


def _of_repo(handler: Handler, path: str, query: Mapping[str, list[str]]) -> None:
    hub = handler.server.hub
    name = "/".join(path.split("/")[:2])
    if name in hub.moved:
        moved = f"/api/models/{path.replace(name, hub.moved[name], 1)}"
        handler.say(307, b"", {"Location": moved})
        return
    repo = _repo(handler, name)
    if repo is None:
        return
    kind, _, rest = path.removeprefix(name).strip("/").partition("/")
    revision, _, folder = rest.partition("/") if kind == "tree" else (rest, "", "")
    commit = repo.commit(unquote(revision) or "main")
    if commit is None:
        handler.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    elif kind in ("", "revision"):
        handler.tell(hub.info(repo, commit))
    elif kind == "paths-info" and handler.command == "POST":
        files = repo.commits[commit]
        handler.tell([hub.row(p, files[p]) for p in handler.paths() if p in files])
    elif kind == "tree":
        _tree(handler, repo.commits[commit], unquote(folder), query)
    else:
        handler.say(404)


def _tree(
    handler: Handler, files: Mapping[str, Content], folder: str, query: Mapping[str, list[str]]
) -> None:
    hub = handler.server.hub
    below = {p: c for p, c in files.items() if not folder or p.startswith(f"{folder}/")}
    if not below and folder:
        handler.refuse(404, "EntryNotFound", f"{folder} does not exist")
        return
    rows = [{"type": "directory", "path": "assets", "size": 0, "oid": SHA1_OF_NOTHING}]
    rows += [hub.row(path, content) for path, content in sorted(below.items())]
    start = int(query.get("cursor", ["0"])[0])
    headers = {}
    if start + hub.page_size < len(rows):
        again = urlencode({"recursive": "true", "cursor": start + hub.page_size})
        url = f"{hub.links_to or hub.url}{urlsplit(handler.path).path}?{again}"
        headers["Link"] = f'<{url}>; rel="next"'
    handler.tell(rows[start : start + hub.page_size], headers)


def _resolve(handler: Handler, name: str, revision: str, path: str) -> None:
    repo = _repo(handler, name)
    if repo is None:
        return
    if repo.gated and handler.token not in repo.readers:
        status = 403 if handler.token else 401
        handler.refuse(status, "GatedRepo", f"Access to model {name} is restricted.")
        return
    commit = repo.commit(revision)
    content = repo.commits[commit].get(path) if commit else None
    if commit is None or content is None or isinstance(content, Listed):
        handler.refuse(404, "EntryNotFound" if commit else "RevisionNotFound")
        return
    headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
    hub = handler.server.hub
    if path.endswith(IN_LFS):
        oid = hub.oid(content)
        headers |= {"X-Linked-Size": str(size_of(content)), "X-Linked-Etag": f'"{oid}"'}
        headers |= {"ETag": f'"{oid}"', "Location": hub.signed(oid)}
        handler.say(302, b"", headers)
        return
    _send(handler, content, headers | {"ETag": f'"{git_oid(content)}"'})


def _from_cdn(handler: Handler) -> None:
    hub = handler.server.hub
    parts = urlsplit(handler.path)
    content = hub.blobs.get(parts.path.removeprefix("/lfs/"))
    if content is None:
        handler.say(404)
    elif parse_qs(parts.query).get("signature") != [str(hub.signature)]:
        handler.say(403, b"Request has expired")
    else:
        _send(handler, content, {"Accept-Ranges": "bytes", "ETag": f'"{hub.oid(content)}"'})


def _send(handler: Handler, content: bytes | Path, headers: Mapping[str, str]) -> None:
    size = size_of(content)
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    start, stop, status = 0, size, 200
    if found:
        start = int(found[1])
        stop = min(int(found[2]) + 1, size) if found[2] else size
        status = 206
        headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        if start >= size:
            handler.say(416, b"", {"Content-Range": f"bytes */{size}"})
            return
    handler.head(status, stop - start, headers)
    if handler.command == "HEAD":
        return
    if isinstance(content, bytes):
        handler.wfile.write(content[start:stop])
        return
    with content.open("rb") as file:
        file.seek(start)
        if stop == size:
            shutil.copyfileobj(file, handler.wfile, 1 << 20)
        else:
            handler.wfile.write(file.read(stop - start))


class Origin(ThreadingHTTPServer):
    """One address of the Hub."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: HubServer, name: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub, self.name = hub, name
        self.netloc = f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *args: object) -> None:
        pass


class HubServer:
    """A running Hub; `url` is its endpoint."""

    def __init__(self) -> None:
        self.hub, self.cdn = Origin(self, "hub"), Origin(self, "cdn")
        self.url = f"http://{self.hub.netloc}"
        self.repos: dict[str, Repo] = {}
        self.moved: dict[str, str] = {}  # old name -> new name
        self.tokens: set[str] = set()
        self.blobs: dict[str, bytes | Path] = {}
        self.seen: list[Asked] = []
        self.faults: list[Answer] = []
        self.page_size = 1000
        self.links_to: str | None = None  # the host in Link, where it is not this one
        self.questions_left: int | None = None
        self.signature = 1  # of addresses that the CDN takes
        self.gate = threading.Event()
        self._oids: dict[Path, str] = {}

    def put(self, name: str, files: Mapping[str, Content], **traits: Any) -> Repo:
        """Publish `files` as the newest commit of `name`."""
        repo = self.repos.setdefault(name, Repo(name))
        for trait, value in traits.items():
            setattr(repo, trait, value)
        told = json.dumps([len(repo.commits), *sorted(files)])
        commit = hashlib.sha1(f"{name}{told}".encode()).hexdigest()
        repo.commits[commit] = dict(files)
        repo.refs["main"] = commit
        for content in files.values():
            if not isinstance(content, Listed):
                self.blobs[self.oid(content)] = content
        return repo

    def signed(self, oid: str) -> str:
        return f"http://{self.cdn.netloc}/lfs/{oid}?signature={self.signature}"

    def oid(self, content: bytes | Path) -> str:
        if isinstance(content, bytes):
            return hashlib.sha256(content).hexdigest()
        if content not in self._oids:
            with content.open("rb") as file:
                self._oids[content] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._oids[content]

    def row(self, path: str, content: Content) -> dict[str, Any]:
        """A file's row in a tree."""
        size = size_of(content)
        if isinstance(content, Listed):
            oid = content.oid or hashlib.sha256(path.encode()).hexdigest()
            lfs = content.lfs
        else:
            lfs = path.endswith(IN_LFS)
            oid = self.oid(content) if lfs else ""
        row = {"type": "file", "path": path, "size": size, "oid": SHA1_OF_NOTHING}
        if lfs:
            row["lfs"] = {"oid": oid, "size": size, "pointerSize": 135}
        return row

    def info(self, repo: Repo, commit: str) -> dict[str, Any]:
        return {
            "id": repo.id,
            "modelId": repo.id,
            "sha": commit,
            "private": repo.private,
            "gated": repo.gated,
            "tags": repo.tags,
            "cardData": repo.card,
            "siblings": [{"rfilename": path} for path in sorted(repo.commits[commit])],
        }

    def search(self, query: Mapping[str, list[str]]) -> list[dict[str, Any]]:
        words = query.get("search", [""])[0].lower()
        tags = query.get("filter", [])
        sort = query.get("sort", ["trendingScore"])[0]
        rows = [
            {"id": repo.id, "gated": repo.gated, "private": repo.private, "tags": repo.tags}
            | repo.more
            for repo in self.repos.values()
            if words in repo.id.lower() and set(tags) <= set(repo.tags) and not repo.private
        ]
        rows.sort(key=lambda row: row.get(sort, 0), reverse=True)
        return rows[: int(query.get("limit", ["1000"])[0])]

    def asked(self, origin: str = "hub") -> list[str]:
        """What was asked so far: "GET /api/…"."""
        return [f"{each.method} {each.path}" for each in self.seen if each.origin == origin]


def size_of(content: Content) -> int:
    if isinstance(content, Listed):
        return content.size_bytes
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def git_oid(content: bytes | Path) -> str:
    """As git names it: the ETag of a file that is not in LFS."""
    data = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextlib.contextmanager
def hub_server() -> Iterator[HubServer]:
    """A Hub for the length of a block."""
    hub = HubServer()
    origins = (hub.hub, hub.cdn)
    threads = [threading.Thread(target=each.serve_forever, args=(0.01,)) for each in origins]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.gate.set()
        for origin in origins:
            origin.shutdown()
            origin.server_close()
        for thread in threads:
            thread.join()
