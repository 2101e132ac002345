"""Debian's `docker-registry` on a loopback port, and models pushed to it in Ollama's layout."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.parts import PartMissing

PROGRAM = "docker-registry"
STARTED_WITHIN_S = 20.0
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
# The kinds of Ollama's layers are pushed as `application/vnd.ollama.image.<kind>`.
LAYER = "application/vnd.ollama.image."
GGUF_CONFIG = {"model_format": "gguf", "model_family": "llama", "file_type": "Q4_1"}


class OciRegistry:
    """A running registry. `host` is what a reference names."""

    def __init__(self, port: int) -> None:
        self.host = f"127.0.0.1:{port}"
        self.url = f"http://{self.host}"

    def push_model(
        self,
        repository: str,
        tag: str,
        layers: Sequence[tuple[str, bytes | Path]],
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """Push config, layers (kind, content) and manifest; the manifest's digest."""
        told = json.dumps(GGUF_CONFIG if config is None else config).encode()
        rows = [
            {"mediaType": f"{LAYER}{kind}", **self.push_blob(repository, content)}
            for kind, content in layers
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, **self.push_blob(repository, told)},
            "layers": rows,
        }
        return self.push_manifest(repository, tag, json.dumps(manifest).encode())

    def push_blob(self, repository: str, content: bytes | Path) -> dict[str, object]:
        """Push one blob; its digest and size as a manifest names them."""
        if isinstance(content, Path):
            size = content.stat().st_size
            with content.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            size, sha256 = len(content), hashlib.sha256(content).hexdigest()
        begun = self._ask("POST", f"{self.url}/v2/{repository}/blobs/uploads/", b"")
        where = begun["Location"]
        joint = "&" if urlsplit(where).query else "?"
        with contextlib.ExitStack() as stack:
            body = (
                content if isinstance(content, bytes) else stack.enter_context(content.open("rb"))
            )
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            self._ask("PUT", f"{where}{joint}digest=sha256:{sha256}", body, headers)
        return {"digest": f"sha256:{sha256}", "size": size}

    def push_manifest(self, repository: str, tag: str, data: bytes) -> str:
        """Push a manifest as it is; its digest as the registry tells it."""
        url = f"{self.url}/v2/{repository}/manifests/{tag}"
        digest: str = self._ask("PUT", url, data, {"Content-Type": MANIFEST})[
            "Docker-Content-Digest"
        ]
        return digest

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            self._ask("GET", f"{self.url}/v2/", None)
        except OSError:
            return False
        return True

    def _ask(
        self, method: str, url: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        request = urllib.request.Request(url, body, dict(headers or {}), method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return dict(response.headers.items())
        except urllib.error.HTTPError as exc:
            with exc:
                said = exc.read1(2000).decode(errors="replace")
            raise AssertionError(f"{method} {url}: {exc.code} {said}") from None


@contextlib.contextmanager
def running_registry() -> Iterator[OciRegistry]:
    """The registry, its blobs in a folder that goes with it. Raises PartMissing."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise PartMissing(f"not installed: {PROGRAM}")
    with tempfile.TemporaryDirectory(prefix="lw-registry-") as name:
        folder = Path(name)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port: int = listener.getsockname()[1]
        (folder / "config.yml").write_text(_config(folder, port), encoding="utf-8")
        with (folder / "log").open("wb") as log:
            argv = [program, "serve", str(folder / "config.yml")]
            plain = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRY_")}
            child = subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder, env=plain)
        try:
            registry = OciRegistry(port)
            _wait_until_up(registry, child, folder / "log")
            yield registry
        finally:
            child.kill()
            child.wait()


def _config(folder: Path, port: int) -> str:
    """YAML, of which JSON is a part."""
    return json.dumps(
        {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}},
            "http": {"addr": f"127.0.0.1:{port}", "secret": "of one test run"},
        }
    )


def _wait_until_up(registry: OciRegistry, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_S
    pause = threading.Event()
    while not registry.is_up():
        if child.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-2000:]
            raise PartMissing(f"{PROGRAM} does not answer: {said}")
        pause.wait(0.05)
