"""A real model behind a Hub: its header is told by one small request, and its badge is right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import parts
from tests.hub_server import HubServer, hub_server
from tray_app.engine import gguf
from tray_app.engine.downloads.badge import Machine
from tray_app.engine.downloads.discover import Discover
from tray_app.engine.downloads.huggingface import HuggingFace
from tray_app.engine.downloads.references import parse
from tray_app.engine.downloads.values import Fits
from tray_app.engine.fit import COMPUTE_BYTES, parse_memory
from tray_app.engine.runtime.probe import ask

REPO = "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF"
KV_BYTES = 2 * 30 * 3 * 64 * 2  # its config.json: 30 layers, 3 KV heads of 64 dimensions
GB = 10**9


@pytest.fixture
def server(smollm2: Path) -> Iterator[HubServer]:
    with hub_server() as server:
        server.put(REPO, {parts.SMOLLM2_FILE: smollm2}, card={"license": "apache-2.0"})
        yield server


def test_a_real_header_is_read_in_one_request_of_64_kib(server: HubServer, smollm2: Path) -> None:
    hub = HuggingFace(server.url, lambda: None, {})
    machine = Machine(8 * GB, 8 * GB, GB)
    discover = Discover(lambda: hub, lambda: machine, lambda: (), lambda: 8192)
    told = discover.details(REPO)
    read = [each for each in server.seen if each.origin == "cdn"]
    assert [each.headers["range"] for each in read] == ["bytes=0-65535"]

    local = gguf.read_summary(smollm2)
    assert (told.architecture, told.context_length) == ("llama", local.context_length)
    assert (told.problem, told.license) == (None, "apache-2.0")
    (offer,) = told.offers
    assert (offer.label, offer.recommended) == ("Q4_1", True)
    badge = offer.badge
    assert badge.fits is Fits.PROCESSOR
    assert badge.weights_bytes == parts.SMOLLM2_SIZE_BYTES
    assert badge.kv_cache_bytes == KV_BYTES * 8192
    assert badge.total_bytes == parts.SMOLLM2_SIZE_BYTES + KV_BYTES * 8192 + COMPUTE_BYTES
    assert badge.sentence == (
        "Runs on the processor with 8,192 tokens of context: 602 MB of 8.0 GB of memory."
    )
    assert discover.badge_for(hub.plan(parse(REPO), None)) == badge
    assert len([each for each in server.seen if each.origin == "cdn"]) == 1


def test_a_badge_promises_no_less_than_llama_cpp_measures(
    server: HubServer, smollm2: Path, llama_server: Path
) -> None:
    """llama-fit-params has the whole file; the badge had 64 KiB of it."""
    hub = HuggingFace(server.url, lambda: None, {})
    machine = Machine(8 * GB, 8 * GB, GB)
    discover = Discover(lambda: hub, lambda: machine, lambda: (), lambda: 8192)
    badge = discover.details(REPO).offers[0].badge
    tool = llama_server.with_name(llama_server.name.replace("llama-server", "llama-fit-params"))
    measured = parse_memory(ask(tool, ("-m", str(smollm2), "-c", "8192", "-fitp", "on"), 60.0))
    cache = sum(part.kv_cache_bytes for part in measured)
    assert badge.kv_cache_bytes is not None
    assert 0 <= cache - badge.kv_cache_bytes <= 1 << 20  # the tool tells whole MiB
    assert badge.total_bytes is not None
    assert sum(part.total_bytes for part in measured) <= badge.total_bytes
