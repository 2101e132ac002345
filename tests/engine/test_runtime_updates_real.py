"""Releases from a loopback feed with archives of a real build: updates, installs, step-downs."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_engine_real import FIRST, Product, product, status_of
from tests.engine.test_runtime_switch_real import client, finish, runtime_of, wrapper
from tests.release_server import ReleaseServer, release_server, tar_of
from tests.unit.engine_kit import wait_until
from tray_app.client import Client
from tray_app.engine.runtime.probe import probe

__all__ = ["client", "product"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="archives are named for Linux")

ARCH = "arm64" if platform.machine() in ("aarch64", "arm64") else "x64"
OLD = 11000


@pytest.fixture
def feed(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseServer]:
    """A feed that the engine of this test asks, with a cache of its own beside the real one."""
    real = Path(os.environ.get("LLAMA_WRANGLER_CACHE", Path.home() / ".cache" / "llama-wrangler"))
    cache = home / "cache"
    cache.mkdir()
    for name in ("runtimes", "sources"):
        (real / name).mkdir(parents=True, exist_ok=True)
        (cache / name).symlink_to(real / name)
    monkeypatch.setenv("LLAMA_WRANGLER_CACHE", str(cache))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with release_server() as server:
        monkeypatch.setenv("LLAMA_WRANGLER_FEED", server.feed_url)
        yield server


@pytest.fixture
def release(feed: ReleaseServer, llama_server: Path, tmp_path: Path) -> tuple[str, str]:
    """(tag, name of the archive) of a release that holds the real build."""
    tag = f"b{probe(llama_server).build}"
    folder = tmp_path / "packed"
    folder.mkdir()
    for path in llama_server.parent.iterdir():
        if path.is_file() and path.name != "manifest.json":
            shutil.copy2(path, folder / path.name)
    name = f"llama-{tag}-bin-ubuntu-{ARCH}.tar.gz"
    feed.add(tag, {name: tar_of(folder, f"llama-{tag}"), "llama-xcframework.zip": b"PK"})
    return tag, name


@pytest.fixture
def old(client: Client, llama_server: Path, tmp_path: Path) -> dict[str, Any]:
    """An older build is in use: the real one, that says another number."""
    says = f'if [ "$1" = --version ]; then echo "version: {OLD} (0abc)"; exit 0; fi\n'
    server = wrapper(llama_server, tmp_path / "old", says + 'exec "$REAL" "$@"')
    assert finish(client, client.call("use_runtime", name=str(server)))["state"] == "done"
    active: dict[str, Any] = runtime_of(client)["active"]
    assert active["build"] == OLD
    return active


def test_an_update_is_told_installed_proved_and_taken_back(
    feed: ReleaseServer, release: tuple[str, str], product: Product, client: Client, old: Any
) -> None:
    tag, _ = release
    assert product.chat()[0] == 200  # the old one has passed its own trial
    client.call("change_settings", changes={"runtime.updates": "notify"})
    update = client.call("check_updates")
    assert (update["tag"], update["backend"], update["notes"]) == (tag, "cpu", f"notes of {tag}")
    codes = [notice["code"] for notice in client.snapshot()["notices"]]
    assert "runtime_update" in codes
    offers = client.call("available_runtimes")["releases"]
    assert [(o["tag"], [c["backend"] for c in o["choices"]]) for o in offers] == [(tag, ["cpu"])]

    job = finish(client, client.call("install_runtime", backend="cpu", build=int(tag[1:])))
    assert job["state"] == "done", job
    runtime = runtime_of(client)
    assert runtime["active"]["id"] == f"{tag}-cpu-release"
    assert (runtime["active"]["origin"], runtime["active"]["proof"]["ok"]) == ("downloaded", True)
    assert (runtime["previous_id"], runtime["on_trial"]) == (old["id"], True)
    assert runtime["update"] is None
    assert "runtime_update" not in [n["code"] for n in client.snapshot()["notices"]]
    wait_until(lambda: status_of(client, FIRST).get("runtime_id") == f"{tag}-cpu-release")
    assert product.chat()[0] == 200
    assert not runtime_of(client)["on_trial"]
    folder = product.home / "runtimes" / f"{tag}-cpu-release"
    assert folder.is_dir()

    assert finish(client, client.call("roll_back_runtime"))["state"] == "done"
    wait_until(lambda: status_of(client, FIRST).get("runtime_id") == old["id"])
    freed = client.call("remove_runtime", runtime_id=f"{tag}-cpu-release")["freed_bytes"]
    assert freed > 10_000_000
    assert not folder.exists()
    assert [r["id"] for r in runtime_of(client)["installed"]].count(f"{tag}-cpu-release") == 0


def test_a_skipped_update_is_not_told_again(
    feed: ReleaseServer, release: tuple[str, str], client: Client, old: Any
) -> None:
    client.call("change_settings", changes={"runtime.updates": "notify"})
    update = client.call("check_updates")
    client.call("skip_update", build=update["build"])
    assert client.call("check_updates") is None
    assert runtime_of(client)["update"] is None


def test_an_archive_with_the_wrong_content_is_refused_and_a_build_from_source_takes_its_place(
    feed: ReleaseServer, release: tuple[str, str], client: Client, old: Any
) -> None:
    tag, name = release
    path = feed.file_path(tag, name)
    feed.files[path] = b"x" + feed.files[path][1:]
    job = finish(client, client.call("install_runtime"))
    assert job["state"] == "done", job
    runtime = runtime_of(client)
    assert runtime["active"]["origin"] == "built"
    assert any("wrong content" in line for line in runtime["stepped_down"]), runtime["stepped_down"]


def test_a_feed_that_limits_is_left_alone_and_says_until_when(
    feed: ReleaseServer, release: tuple[str, str], client: Client
) -> None:
    from tests.release_server import status

    until = str(int(time.time()) + 1800)
    limit = status(403, **{"x-ratelimit-remaining": "0", "x-ratelimit-reset": until})
    feed.faults[feed.list_path] = [limit]
    first = client.call("available_runtimes", refresh=True)
    assert "no more requests" in first["error"]["message"]
    asked = len(feed.seen)
    client.call("available_runtimes", refresh=True)
    assert len(feed.seen) == asked


def test_an_installation_that_is_cancelled_leaves_nothing_but_what_is_in_use(
    feed: ReleaseServer, release: tuple[str, str], product: Product, client: Client, old: Any
) -> None:
    from tests.release_server import stall_after

    tag, name = release
    feed.faults[feed.file_path(tag, name)] = [stall_after(1_000_000)]
    started = client.call("install_runtime", build=int(tag[1:]))

    def job() -> Any:
        return next(j for j in client.snapshot()["jobs"] if j["id"] == started["job_id"])

    wait_until(lambda: job()["unit"] == "bytes" and job()["done"] > 0)
    client.call("cancel_job", job_id=started["job_id"])
    wait_until(lambda: job()["state"] == "cancelled")
    names = {path.name for path in (product.home / "runtimes").iterdir()}
    assert not any(f"{tag}-cpu-release" in name or name.startswith(".") for name in names), names
    assert runtime_of(client)["active"]["id"] == old["id"]
    assert runtime_of(client)["state"] == "ready"
    again = finish(client, client.call("install_runtime", build=int(tag[1:])))
    assert again["state"] == "done", again
    ranges = [headers.get("range") for _, headers in feed.asked(name)]
    assert ranges == [None, "bytes=1000000-"], "it went on where it was"
