"""A mirror that others wrote (olah) between us and a Hub: a real model is planned and fetched."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import filelock
import pytest

from tests import parts
from tests.hub_server import HubServer, hub_server
from tray_app.engine.downloads.huggingface import HuggingFace
from tray_app.engine.downloads.references import parse
from tray_app.engine.downloads.transfer import fetch
from tray_app.engine.downloads.values import Plan
from tray_app.engine.errors import DownloadFailed, NotFound
from tray_app.engine.gguf_cache import MetadataCache
from tray_app.engine.home import cache_folder
from tray_app.engine.library import Library

OLAH = "olah==0.5.4"
INSTALLED_WITHIN_S = 90.0
STARTED_WITHIN_S = 20.0
REPO = "herders/SmolLM2-135M-Instruct-GGUF"


def olah() -> Path:
    """The mirror's program, in a venv of its own: it shares no package with us. PartMissing."""
    folder = cache_folder() / OLAH.replace("==", "-")
    program, done = folder / "bin" / "olah-cli", folder / "installed"
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not done.exists():
            for argv in (
                [sys.executable, "-m", "venv", "--clear", str(folder)],
                [str(folder / "bin" / "pip"), "install", "-qq", "--no-input", OLAH],
            ):
                _run(argv)
            done.touch()
    return program


def _run(argv: list[str]) -> None:
    try:
        ended = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=INSTALLED_WITHIN_S
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise parts.PartMissing(f"{OLAH} could not be installed: {exc}") from exc
    if ended.returncode != 0:
        raise parts.PartMissing(f"{OLAH} could not be installed: {ended.stderr[-500:]}")


@pytest.fixture(scope="module")
def server(smollm2: Path) -> Iterator[HubServer]:
    with hub_server() as server:
        server.put(
            REPO,
            {
                "SmolLM2-135M-Instruct.Q4_1.gguf": smollm2,
                "deep/SmolLM2-135M-Instruct.Q8_0.gguf": b"GGUF, as far as a hub knows",
                "README.md": b"# SmolLM2",
            },
            card={"license": "apache-2.0"},
        )
        yield server


@pytest.fixture(scope="module")
def mirror(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running mirror of `server`."""
    program = parts.require(olah)
    folder = tmp_path_factory.mktemp("olah")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        netloc = f"127.0.0.1:{listener.getsockname()[1]}"
    words = {
        "host": "127.0.0.1",
        "port": netloc.rpartition(":")[2],
        "hf-scheme": "http",
        "hf-netloc": server.hub.netloc,
        "hf-lfs-netloc": server.cdn.netloc,
        "mirror-netloc": netloc,
        "mirror-lfs-netloc": netloc,
        "repos-path": str(folder / "repos"),
        "log-path": str(folder / "logs"),
    }
    argv = [str(program), *(f"--{name}={value}" for name, value in words.items())]
    with (folder / "said").open("wb") as log:
        child = subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder)
    try:
        _wait_until_up(f"http://{netloc}", child, folder / "said")
        yield f"http://{netloc}"
    finally:
        child.kill()
        child.wait()


def _wait_until_up(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_S
    pause = threading.Event()
    while True:
        try:
            urllib.request.urlopen(f"{url}/no-such-page", timeout=5).close()
            return
        except urllib.error.HTTPError as exc:
            exc.close()
            return
        except urllib.error.URLError:
            pass
        if child.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"olah does not answer: {log.read_text()[-2000:]}")
        pause.wait(0.05)


def planned(mirror: str, text: str) -> Plan:
    hub = HuggingFace(None, lambda: None, {"HF_ENDPOINT": mirror})
    return hub.plan(parse(text), None)


def test_a_real_model_is_planned_and_fetched_through_a_mirror_and_becomes_one_of_the_library(
    server: HubServer, mirror: str, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    plan = planned(mirror, f"{REPO}:Q4_1")
    (file,) = plan.files
    assert file.remote.url.startswith(f"{mirror}/{REPO}/resolve/")
    assert file.remote.size_bytes == parts.SMOLLM2_SIZE_BYTES
    assert file.remote.sha256 == parts.SMOLLM2_SHA256
    assert plan.origin["revision"] == server.repos[REPO].refs["main"]
    assert plan.origin["license"] == "apache-2.0"
    target = fetch(file.remote, models / file.path)
    with target.open("rb") as content:
        assert hashlib.file_digest(content, "sha256").hexdigest() == parts.SMOLLM2_SHA256
    cache = MetadataCache(tmp_path / "state.db")
    with Library([models], cache, lambda: None, home=models) as library:
        library.rescan()
        assert library.wait(30)
        (model,) = library.models()
    cache.close()
    assert (model.id, model.publisher) == (f"{REPO}:Q4_1", "herders")


def test_the_hubs_own_client_finds_in_the_fixture_what_we_find(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what the fixture says is what a Hub says, at least to huggingface_hub."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    monkeypatch.setattr(server, "page_size", 2)
    server.put("herders/gated", {"m-Q8_0.gguf": b"GGUF"}, gated="manual")
    api = HfApi(endpoint=server.url, token=False)
    ours = HuggingFace(server.url, lambda: None, {})
    theirs = {
        (row.path, row.size, row.lfs.sha256)
        for row in api.list_repo_tree(REPO, recursive=True)
        if isinstance(row, RepoFile) and row.lfs is not None
    }
    assert theirs == {(file.path, file.size_bytes, file.sha256) for file in ours.files(REPO)}
    plan = ours.plan(parse(f"{REPO}:Q8_0"), None)
    assert api.model_info(REPO).sha == plan.origin["revision"]
    found = {model.id: model.gated for model in ours.search("", limit=50)}
    assert {row.id for row in api.list_models(filter="gguf", limit=50)} == set(found)
    assert found["herders/gated"] == "manual"
    small = "deep/SmolLM2-135M-Instruct.Q8_0.gguf"
    got = Path(api.hf_hub_download(REPO, small, cache_dir=tmp_path))
    assert got.read_bytes() == fetch(plan.files[0].remote, tmp_path / "m.gguf").read_bytes()
    with pytest.raises(GatedRepoError):
        api.hf_hub_download("herders/gated", "m-Q8_0.gguf", cache_dir=tmp_path)
    with pytest.raises(DownloadFailed, match="is gated"):
        ours.plan(parse("herders/gated"), None)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("herders/nothing")
    with pytest.raises(NotFound):
        ours.plan(parse("herders/nothing"), None)


def test_a_file_in_a_folder_comes_through_a_mirror(mirror: str, tmp_path: Path) -> None:
    (file,) = planned(mirror, f"{REPO}/deep/SmolLM2-135M-Instruct.Q8_0.gguf").files
    assert fetch(file.remote, tmp_path / "m.gguf").read_bytes() == b"GGUF, as far as a hub knows"


def test_what_a_mirror_does_not_have_is_explained(mirror: str) -> None:
    with pytest.raises(NotFound, match="There is no herders/nothing, or it is private"):
        planned(mirror, "herders/nothing")
    with pytest.raises(NotFound, match="has no Q2_K"):
        planned(mirror, f"{REPO}:Q2_K")


def test_a_mirror_that_drops_the_way_to_the_next_page_is_found_out(
    server: HubServer, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {f"m-{number}-Q8_0.gguf": b"GGUF" for number in range(7)}
    server.put("herders/many", many)
    monkeypatch.setattr(server, "page_size", 5)
    with pytest.raises(DownloadFailed, match="repeats itself"):
        planned(mirror, "herders/many")
