"""Downloads through the whole product when things go wrong: killed engines, lost networks, cancels.

Each fault of a single transfer is in tests/unit/test_transfer.py and test_transfer_real.py, the
queue of 300 in test_download_queue_real.py; here a real engine has them all together.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w

from tests import parts
from tests.engine.test_engine_real import Product, running_product
from tests.gguf_maker import make_gguf, make_shards
from tests.hub_server import Handler, HubServer, hub_server, right, says
from tests.unit.engine_kit import running_engine, wait_until
from tray_app.client import Client
from tray_app.engine.core import Engine
from tray_app.engine.downloads import connectivity
from tray_app.engine.events import DownloadChanged

REPO = "herders/SmolLM2-GGUF"
KILLS = 8
LIMIT_BYTES_S = 12_000_000
# Of what comes after the last map a killed transfer fetches again: one piece for each connection,
# and what came within the second between two maps.
WASTE_PER_KILL = 4 * (4 << 20) + 2 * LIMIT_BYTES_S


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture
def engine(tmp_path: Path, hub: HubServer) -> Iterator[Engine]:
    with running_engine(tmp_path / "home") as engine:
        yield engine


@pytest.fixture
def product(home: Path, free_port: int, hub: HubServer) -> Iterator[Product]:
    table = {
        "version": 1,
        "server": {"port": free_port},
        "runtime": {"auto_build": False},
        "downloads": {"limit_bytes_s": LIMIT_BYTES_S, "concurrent": 1},
    }
    (home / "settings.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    with running_product(home, free_port) as made:
        yield made


def served(hub: HubServer) -> int:
    """Bytes that the CDN was asked for, at most."""
    total = 0
    for asked in hub.seen:
        first, _, last = asked.headers.get("range", "").removeprefix("bytes=").partition("-")
        if asked.origin == "cdn" and last.isdecimal():
            total += int(last) - int(first) + 1
    return total


def rows(client: Client) -> list[dict[str, Any]]:
    return list(client.snapshot()["downloads"])


def test_an_engine_that_is_killed_again_and_again_brings_the_file_home(
    product: Product, hub: HubServer, smollm2: Path
) -> None:
    hub.put(REPO, {parts.SMOLLM2_FILE: smollm2})
    client = product.start()
    first = client.call("pull", reference=REPO)
    for number in range(40):  # a queue behind it, in an order of its own
        later = client.call("pull", reference=f"org/later-{number}")
        client.call("pause_download", download_id=later["id"])
        client.call("move_download", download_id=later["id"], before=first["id"])
    order = [row["id"] for row in rows(client)]
    dice, reached = random.Random(7), 0
    for _ in range(KILLS):
        wish = reached + dice.randrange(2, 9) * 1_000_000
        wait_until(
            lambda client=client, wish=wish: (
                rows(client)[-1]["done_bytes"] >= wish  # type: ignore[misc]
                or rows(client)[-1]["state"] == "done"
            ),
            60,
        )
        row = next(row for row in rows(client) if row["id"] == first["id"])
        assert row["done_bytes"] >= reached * 0.5
        reached = row["done_bytes"]
        process = product.started[-1]
        psutil.Process(client.engine_pid).send_signal(signal.SIGKILL)
        process.wait(10)
        client = product.start()  # it goes on by itself
        assert [row["id"] for row in rows(client)] == order
    client.call("change_settings", changes={"downloads.limit_bytes_s": None})
    wait_until(
        lambda: next(r for r in rows(client) if r["id"] == first["id"])["state"] == "done", 60
    )
    (model,) = client.snapshot()["models"]
    content = Path(model["path"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == parts.SMOLLM2_SHA256
    assert served(hub) <= parts.SMOLLM2_SIZE_BYTES + KILLS * WASTE_PER_KILL
    assert not list(product.home.rglob("*.part*"))
    states = {row["state"] for row in rows(client) if row["id"] != first["id"]}
    assert states == {"paused"}


def test_two_references_to_one_file_fetch_it_once(
    engine: Engine, hub: HubServer, tmp_path: Path
) -> None:
    source = make_gguf(tmp_path / "One.Q4_K_M.gguf")
    hub.put(REPO, {source.name: source})
    pulled = [
        engine.call("pull", {"reference": text})
        for text in (REPO, f"{REPO}:Q4_K_M", f"{REPO}/{source.name}")
    ]
    assert len({each.id for each in pulled}) == 3
    queue = engine.downloads.queue
    wait_until(lambda: all(queue.get(each.id).state == "done" for each in pulled))
    fetches = [asked for asked in hub.seen if asked.origin == "cdn" and asked.method == "GET"]
    assert len(fetches) == 1
    assert len(engine.snapshot().models) == 1


def held_after(count: int) -> Any:
    """Answers of the CDN: `count` right ones, then none until the gate opens."""
    lock, left = threading.Lock(), [count]

    def answer(handler: Handler) -> None:
        with lock:
            left[0] -= 1
            waits = left[0] < 0
        if waits:
            handler.server.hub.gate.wait(30)
        right(handler)

    return answer


def test_a_cancel_among_shards_leaves_nothing_but_what_was_there(
    engine: Engine, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = make_shards(tmp_path, "Wide.Q8_0", 3)
    hub.put(REPO, {path.name: path for path in shards})
    folder = engine.home.models / "herders" / "SmolLM2-GGUF"
    folder.mkdir(parents=True)
    shutil.copy(shards[0], folder / shards[0].name)  # the user has one already
    before = Handler.do_GET
    answer = held_after(1)

    def do_get(self: Handler) -> None:
        if self.server.name == "cdn" and self.path.split("?")[0].startswith("/lfs/"):
            answer(self)
        else:
            before(self)

    monkeypatch.setattr(Handler, "do_GET", do_get)
    queued = engine.call("pull", {"reference": REPO})
    wait_until(lambda: (folder / shards[1].name).exists())
    engine.call("cancel_download", {"download_id": queued.id})
    wait_until(lambda: engine.downloads.queue.get(queued.id).state == "cancelled")
    wait_until(lambda: sorted(path.name for path in folder.iterdir()) == [shards[0].name])
    hub.gate.set()


def test_a_lost_network_parks_a_download_and_its_return_goes_on(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_gguf(tmp_path / "One.Q4_K_M.gguf")
    hub.put(REPO, {source.name: source})
    network = threading.Event()
    monkeypatch.setattr(connectivity, "is_local", lambda _: False)
    # The queue takes it as its default, so it is replaced there.
    from tray_app.engine.downloads.queue import DownloadQueue

    defaults = dict(DownloadQueue.__init__.__kwdefaults__ or {})
    monkeypatch.setitem(
        DownloadQueue.__init__.__kwdefaults__,
        "online",
        network.is_set,  # type: ignore[arg-type]
    )
    assert defaults["online"] is connectivity.online
    hub.faults += [says(503)] * 3  # as often as the hub is asked
    with running_engine(tmp_path / "home") as engine:
        queued = engine.call("pull", {"reference": REPO})
        queue = engine.downloads.queue
        wait_until(lambda: queue.get(queued.id).state == "waiting")
        waiting = queue.get(queued.id)
        assert waiting.retry_at is not None
        assert waiting.error is not None
        network.set()
        wait_until(lambda: queue.get(queued.id).state == "done")
        assert queue.get(queued.id).error is None


def test_a_model_larger_than_the_disk_is_refused_before_a_byte(
    engine: Engine, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = make_shards(tmp_path, "Wide.Q8_0", 3)
    hub.put(REPO, {path.name: path for path in shards})
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    queued = engine.call("pull", {"reference": REPO})
    queue = engine.downloads.queue
    wait_until(lambda: queue.get(queued.id).state == "failed")
    failed = queue.get(queued.id)
    assert failed.error is not None
    assert failed.error.code == "not_enough_disk"
    assert "are missing and" in failed.error.message
    assert not [asked for asked in hub.seen if asked.origin == "cdn"]


def test_progress_never_goes_back_through_pauses_and_a_signed_address_that_lapses(
    engine: Engine, hub: HubServer, smollm2: Path
) -> None:
    hub.put(REPO, {parts.SMOLLM2_FILE: smollm2})
    engine.call("change_settings", {"changes": {"downloads.limit_bytes_s": 30_000_000}})
    counts: list[int] = []
    listening = engine.events.listen(heartbeat_s=0.05)
    ended = threading.Event()

    def listen() -> None:
        for _, event in listening:
            if isinstance(event, DownloadChanged):
                counts.append(event.download.done_bytes)
            if ended.is_set():
                return

    listener = threading.Thread(target=listen)
    listener.start()
    queued = engine.call("pull", {"reference": REPO})
    queue = engine.downloads.queue
    try:
        for share in (0.2, 0.5):
            wait_until(
                lambda share=share: (
                    queue.get(queued.id).done_bytes  # type: ignore[misc]
                    > share * parts.SMOLLM2_SIZE_BYTES
                )
            )
            engine.call("pause_download", {"download_id": queued.id})
            wait_until(lambda: queue.get(queued.id).state == "paused")
            hub.signature += 1  # addresses signed before are refused from now on
            engine.call("resume_download", {"download_id": queued.id})
        engine.call("change_settings", {"changes": {"downloads.limit_bytes_s": None}})
        wait_until(lambda: queue.get(queued.id).state == "done")
    finally:
        ended.set()
        listener.join()
    assert counts == sorted(counts)
    assert queue.get(queued.id).done_bytes == parts.SMOLLM2_SIZE_BYTES
