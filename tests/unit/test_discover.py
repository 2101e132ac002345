"""Discover against a loopback Hub: offers, badges, what is kept, what is asked, what goes wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import gguf_maker as maker
from tests import hub_server as fixture
from tests.hub_server import HubServer, Listed
from tray_app.engine.downloads.badge import GpuRoom, Machine, weights_budget
from tray_app.engine.downloads.discover import KEEP_S, Discover
from tray_app.engine.downloads.hub_request import HubRequests
from tray_app.engine.downloads.huggingface import HuggingFace
from tray_app.engine.downloads.references import parse
from tray_app.engine.downloads.remembered import Remembered
from tray_app.engine.downloads.retry import RetryPolicy, Unreachable
from tray_app.engine.downloads.values import Fits, Plan, PlannedFile, Remote, RepoDetails
from tray_app.engine.errors import BadRequest, NotFound
from tray_app.engine.values import Model

GB = 10**9
REPO = "herders/Llama-8B-GGUF"
KV = 2 * 32 * 8 * 128 * 2


@dataclass
class Clock:
    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Asker:
    """A Discover on one Hub, and the hands on all that it is told."""

    server: HubServer
    clock: Clock = field(default_factory=Clock)
    machine: Machine = field(default_factory=lambda: Machine(24 * GB, 20 * GB, 2 * GB))
    models: tuple[Model, ...] = ()
    context_length: int = 8192
    token: str | None = None

    def __post_init__(self) -> None:
        self.hub = self.new_hub()
        self.discover = Discover(
            lambda: self.hub,
            lambda: self.machine,
            lambda: self.models,
            lambda: self.context_length,
            self.clock,
        )

    def new_hub(self) -> HuggingFace:
        policy = RetryPolicy(attempts=2, first_pause_s=0.0)
        requests = HubRequests(
            self.server.url, lambda: self.token, {}, policy=policy, clock=self.clock
        )
        return HuggingFace(None, lambda: None, {}, requests=requests)

    def details(self, repo: str = REPO, context: int | None = None) -> RepoDetails:
        return self.discover.details(repo, context)

    def headers_read(self) -> int:
        return len(self.server.asked("cdn"))


@pytest.fixture
def server() -> Iterator[HubServer]:
    with fixture.hub_server() as server:
        yield server


@pytest.fixture
def asker(server: HubServer) -> Asker:
    return Asker(server)


def gguf(mark: str = "", **traits: Any) -> bytes:
    """A small file with the header of an 8B model; `mark` makes it another one of the same."""
    shape = {"layers": 32, "heads": 32, "kv_heads": 8, "embedding": 4096, "context": 32_768}
    header, size = maker.gguf_bytes(maker.llama_keys(**(shape | traits)))
    return header + bytes(size - len(header)) + mark.encode()


def put_herd(server: HubServer, **traits: Any) -> None:
    """Real bytes for the quantization that is recommended, and rows for the others."""
    files: dict[str, fixture.Content] = {
        f"Llama-8B-{label}.gguf": Listed(size * GB)
        for label, size in {"Q2_K": 3, "Q8_0": 8, "F16": 18, "F32": 32}.items()
    }
    server.put(REPO, files | {"Llama-8B-Q4_K_M.gguf": gguf()}, **traits)


def test_a_repository_is_shown_with_all_its_offers(server: HubServer, asker: Asker) -> None:
    put_herd(server, card={"license": "llama3"})
    told = asker.details()
    assert (told.id, told.license, told.page) == (REPO, "llama3", f"{server.url}/{REPO}")
    assert told.revision == server.repos[REPO].refs["main"]
    assert (told.architecture, told.context_length, told.problem) == ("llama", 32_768, None)
    labels = [(offer.label, offer.badge.fits) for offer in told.offers]
    assert labels == [
        ("Q4_K_M", Fits.PROCESSOR),  # the only one with bytes, of a few hundred
        ("Q2_K", Fits.PROCESSOR),
        ("Q8_0", Fits.PROCESSOR),
        ("F16", Fits.TIGHT),
        ("F32", Fits.TOO_LARGE),
    ]
    assert told.offers[1].about.startswith("About 3.2 bits")


def test_one_header_serves_every_offer(server: HubServer, asker: Asker) -> None:
    put_herd(server)
    told = asker.details()
    assert {offer.badge.kv_cache_bytes for offer in told.offers} == {KV * 8192}
    asker.details(context=1000)
    assert asker.headers_read() == 1


def test_a_context_length_is_asked_for_and_is_no_longer_than_the_models(
    server: HubServer, asker: Asker
) -> None:
    put_herd(server)
    assert asker.details(context=4096).offers[0].badge.context_length == 4096
    assert asker.details(context=200_000).offers[0].badge.context_length == 32_768
    asker.context_length = 16_384
    assert asker.details().offers[0].badge.context_length == 16_384


@pytest.mark.parametrize("ram_gb", [4, 6, 12, 24, 64])
def test_what_is_recommended_is_what_a_plan_takes(
    server: HubServer, asker: Asker, ram_gb: int
) -> None:
    files: dict[str, fixture.Content] = {
        f"L-{label}.gguf": Listed(size * GB)
        for label, size in {"Q2_K": 3, "Q4_K_M": 5, "Q8_0": 8, "F16": 16}.items()
    }
    server.put(REPO, files)
    asker.machine = Machine(ram_gb * GB, ram_gb * GB, GB)
    chosen = [offer for offer in asker.details().offers if offer.recommended]
    plan = asker.hub.plan(parse(REPO), weights_budget(asker.machine))
    assert [each.reference for each in chosen] == [plan.reference.rpartition("@")[0]]


@pytest.mark.parametrize(
    "files",
    [
        ("L-Q4_0.gguf", "L-Q8_0.gguf"),
        ("Small-Q4_0.gguf", "Large-Q4_0.gguf"),  # one quantization of two models
        ("a/L-Q4_0.gguf", "b/L-Q4_0.gguf"),  # and by one name
        ("model.gguf", "other.gguf"),
        ("my model.gguf", "odd#name?.gguf", "a&b=c.gguf", "100%.gguf"),
        ("Q4_K_M/L-00001-of-00002.gguf", "Q4_K_M/L-00002-of-00002.gguf"),
        ("L-Q4_K_M.gguf", "L-UD-Q4_K_XL.gguf", "L-UD-Q4_K_M.gguf"),
    ],
)
def test_every_reference_leads_to_its_own_files(
    server: HubServer, asker: Asker, files: tuple[str, ...]
) -> None:
    server.put(REPO, {path: Listed(GB + number) for number, path in enumerate(files)})
    for offer in asker.details().offers:
        plan = asker.hub.plan(parse(offer.reference), None)
        taken = [file.remote.url.partition("/resolve/")[2] for file in plan.files]
        assert len(taken) == len(offer.files)
        assert sum(file.remote.size_bytes or 0 for file in plan.files) == offer.size_bytes


def test_a_projector_comes_along_and_is_counted(server: HubServer, asker: Asker) -> None:
    server.put(
        REPO,
        {
            "L-Q4_K_M.gguf": gguf(),
            "mmproj-F16.gguf": Listed(800_000_000),
            "mmproj-Q8_0.gguf": Listed(400_000_000),
        },
    )
    told = asker.details()
    (offer,) = told.offers
    assert offer.projector_bytes == 800_000_000
    assert offer.badge.weights_bytes == (offer.size_bytes or 0) + 800_000_000
    assert told.left_out == (
        "mmproj-F16.gguf: the projector of the models here, which comes along with them.",
        "mmproj-Q8_0.gguf: a projector in another precision than the one that comes along.",
    )


def test_files_that_are_no_models_are_left_out_with_the_reason(
    server: HubServer, asker: Asker
) -> None:
    others = ("mtp-L.gguf", "imatrix.gguf", "ggml-vocab-x.gguf", "mmproj-Qwen-F16.gguf")
    server.put(REPO, {"L-Q4_0.gguf": gguf(), **{path: Listed(GB) for path in others}})
    told = asker.details()
    assert [offer.files for offer in told.offers] == [("L-Q4_0.gguf",)]
    words = {line.partition(": ")[0]: line.partition(": ")[2] for line in told.left_out}
    assert set(words) == set(others)
    assert "draft head" in words["mtp-L.gguf"]
    assert "no model here" in words["mmproj-Qwen-F16.gguf"]


def test_an_upload_that_has_not_ended_is_no_offer_to_trust(server: HubServer, asker: Asker) -> None:
    server.put(REPO, {"L-Q8_0-00001-of-00003.gguf": gguf(), "L-Q4_0.gguf": gguf("other")})
    by_label = {offer.label: offer for offer in asker.details().offers}
    assert by_label["Q4_0"].recommended
    broken = by_label["Q8_0"]
    assert (broken.complete, broken.recommended) == (False, False)
    assert broken.badge.fits is Fits.UNKNOWN
    assert broken.badge.sentence.startswith("Only 1 of its 3 parts")


def test_another_models_cache_is_not_taken_for_this_ones(server: HubServer, asker: Asker) -> None:
    server.put(REPO, {"Small-Q4_0.gguf": gguf(), "Large-Q8_0.gguf": Listed(9 * GB)})
    by_label = {offer.label: offer.badge for offer in asker.details().offers}
    assert by_label["Q4_0"].kv_cache_bytes == KV * 8192
    assert by_label["Q8_0"].kv_cache_bytes is None
    assert "not counted" in by_label["Q8_0"].sentence


def test_a_hybrid_models_cache_is_not_counted(server: HubServer, asker: Asker) -> None:
    server.put(REPO, {"L-Q4_0.gguf": gguf(architecture="qwen3next")})
    told = asker.details()
    assert (told.problem, told.architecture) == (None, "qwen3next")
    assert "its KV cache is not counted" in told.offers[0].badge.sentence


def test_the_badges_are_those_of_the_machine_of_now(server: HubServer, asker: Asker) -> None:
    put_herd(server)
    before = asker.details().offers[3].badge
    asker.machine = Machine(24 * GB, 20 * GB, 2 * GB, (GpuRoom("Card", 24 * GB),), True)
    after = asker.details().offers[3].badge
    assert (before.fits, after.fits) == (Fits.TIGHT, Fits.GPU)


# -- what is in the library


def model(path: Path, size: int, model_id: str = "herders/Llama:Q4_K_M") -> Model:
    return Model(model_id, "Llama", None, path, path.parents[2], size, 1, 0.0)


def test_an_offer_knows_that_it_is_in_the_library(
    server: HubServer, asker: Asker, tmp_path: Path
) -> None:
    put_herd(server)
    place = tmp_path / "herders" / "Llama-8B-GGUF" / "Llama-8B-Q4_K_M.gguf"
    asker.models = (model(place, len(gguf())),)
    here = {offer.label: offer.model_id for offer in asker.details().offers}
    assert here.pop("Q4_K_M") == "herders/Llama:Q4_K_M"
    assert set(here.values()) == {None}
    # Another size is another content, another folder another model.
    for other in (model(place, 7), model(tmp_path / "a" / "b" / place.name, len(gguf()))):
        asker.models = (other,)
        assert {offer.model_id for offer in asker.details().offers} == {None}


def test_a_model_in_a_folder_is_known_by_where_it_would_go(
    server: HubServer, asker: Asker, tmp_path: Path
) -> None:
    server.put(REPO, {"a/L-Q4_0.gguf": gguf(), "b/L-Q4_0.gguf": gguf("b"), "c/M-Q4_0.gguf": gguf()})
    base = tmp_path / "herders" / "Llama-8B-GGUF"
    size = len(gguf())
    asker.models = (model(base / "a" / "L-Q4_0.gguf", size, "twice"),)
    flat = model(base / "M-Q4_0.gguf", size, "flat")
    asker.models += (flat,)
    here = {offer.files[0]: offer.model_id for offer in asker.details().offers}
    assert here == {"a/L-Q4_0.gguf": "twice", "b/L-Q4_0.gguf": None, "c/M-Q4_0.gguf": "flat"}


# -- what is asked


def test_details_are_kept_for_five_minutes_and_the_header_for_the_commit(
    server: HubServer, asker: Asker
) -> None:
    put_herd(server)
    asker.details()
    count = len(server.seen)
    asker.clock.now += KEEP_S - 1
    asker.details()
    assert len(server.seen) == count
    asker.clock.now += 2
    asker.details()
    assert len(server.seen) > count
    assert asker.headers_read() == 1
    server.put(REPO, {"Llama-8B-Q4_K_M.gguf": gguf(context=1024)})
    asker.clock.now += KEEP_S + 1
    assert asker.details().context_length == 1024
    assert asker.headers_read() == 2


def test_a_search_is_kept_by_all_that_was_asked(server: HubServer, asker: Asker) -> None:
    put_herd(server)
    first = asker.discover.search("llama")
    assert [found.id for found in first.models] == [REPO]
    assert first.asked_at == asker.clock.now
    asker.clock.now += 100
    assert asker.discover.search(" llama ").asked_at == first.asked_at
    assert len(server.seen) == 1
    for other in (("llama", "likes"), ("llama", "likes", "gguf,x"), ("llama", "likes", "gguf", 3)):
        asker.discover.search(*other)
    assert len(server.seen) == 4
    asker.clock.now += KEEP_S
    assert asker.discover.search("llama").asked_at == asker.clock.now


def test_the_same_question_at_once_is_asked_once(server: HubServer, asker: Asker) -> None:
    put_herd(server)
    inside, go = threading.Event(), threading.Event()

    def held(handler: fixture.Handler) -> None:
        inside.set()
        go.wait(20)
        fixture.right(handler)

    server.faults = [held]
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(asker.details)
        assert inside.wait(20)
        others = [pool.submit(asker.details) for _ in range(5)]
        go.set()
        told = [each.result(20) for each in (first, *others)]
    assert all(each == told[0] for each in told)
    assert len([each for each in server.asked() if "/tree/" in each]) == 1
    assert asker.headers_read() == 1


def test_a_failure_is_not_kept(server: HubServer, asker: Asker) -> None:
    put_herd(server)
    server.faults = [fixture.dead, fixture.dead]
    with pytest.raises(Unreachable):
        asker.details()
    assert len(asker.details().offers) == 5
    server.faults = [fixture.says(500), fixture.says(500)]
    with pytest.raises(Unreachable):
        asker.discover.search("llama")
    assert asker.discover.search("llama").models


def test_another_hub_is_asked_anew(server: HubServer, asker: Asker) -> None:
    put_herd(server)
    asker.discover.search("llama")
    asker.hub = asker.new_hub()
    asker.discover.search("llama")
    assert len(server.seen) == 2


def test_another_account_is_asked_anew(server: HubServer, asker: Asker) -> None:
    server.tokens = {"hf_x"}
    put_herd(server, private=True, readers={"hf_x"})
    with pytest.raises(NotFound):
        asker.details()
    asker.token = "hf_x"
    assert asker.details().offers
    asker.token = None
    asker.discover.forget()
    with pytest.raises(NotFound):
        asker.details()


def test_cards_are_kept_too(server: HubServer, asker: Asker) -> None:
    server.put(REPO, {"README.md": b"---\na: b\n---\n# Llama", "m-Q4_0.gguf": b"GGUF"})
    card = asker.discover.card(REPO)
    assert (card.markdown, card.truncated, card.page) == ("# Llama", False, f"{server.url}/{REPO}")
    count = len(server.seen)
    assert asker.discover.card(REPO) is card
    assert len(server.seen) == count


# -- what goes wrong


def test_a_gated_repository_lists_its_offers_and_says_what_to_do(
    server: HubServer, asker: Asker
) -> None:
    put_herd(server, gated="manual")
    told = asker.details()
    assert (told.gated, len(told.offers)) == ("manual", 5)
    assert told.problem is not None
    assert "gated" in told.problem.message
    assert told.problem.remedy
    assert told.offers[1].badge.fits is Fits.PROCESSOR
    assert "not counted" in told.offers[1].badge.sentence
    server.tokens = server.repos[REPO].readers = {"hf_x"}
    asker.token = "hf_x"
    again = asker.details()
    assert (again.problem, again.architecture) == (None, "llama")


def test_a_hostile_header_is_a_problem_and_no_failure(server: HubServer, asker: Asker) -> None:
    lie = maker.gguf_bytes(key_count=1 << 50)[0] + bytes(100_000)
    server.put(REPO, {"L-Q4_0.gguf": lie})
    told = asker.details()
    assert told.problem is not None
    assert told.problem.code == "bad_gguf"
    assert told.offers[0].badge.weights_bytes == len(lie)
    assert told.offers[0].badge.kv_cache_bytes is None


def test_a_hub_that_wants_a_pause_gets_it(server: HubServer, asker: Asker) -> None:
    put_herd(server)
    server.questions_left = 0
    with pytest.raises(Unreachable, match="120 s"):
        asker.details()
    count = len(server.seen)
    with pytest.raises(Unreachable):
        asker.discover.search("llama")
    assert len(server.seen) == count


def test_a_pause_in_between_leaves_the_offers(server: HubServer, asker: Asker) -> None:
    put_herd(server)
    server.questions_left = 2  # the repository and its files, not the header
    told = asker.details()
    assert len(told.offers) == 5
    assert told.problem is not None
    assert "429" in told.problem.message


def test_two_thousand_files_are_shown_in_time(server: HubServer, asker: Asker) -> None:
    files: dict[str, fixture.Content] = {
        f"models/M{number:04}-Q4_0.gguf": Listed(GB + number) for number in range(1900)
    }
    files |= {f"mmproj-{number}-F16.gguf": Listed(GB) for number in range(99)}
    server.put(REPO, files | {"models/A-Q4_K_M.gguf": gguf()})
    asker.models = tuple(
        model(Path(f"/m/herders/Llama-8B-GGUF/M{number:04}-Q4_0.gguf"), GB + number, f"m{number}")
        for number in range(100)
    )
    began = time.monotonic()
    told = asker.details()
    assert time.monotonic() - began < 20  # 0.4 s on two cores
    assert len(told.offers) == 1901
    assert sum(offer.model_id is not None for offer in told.offers) == 100
    assert told.architecture == "llama"
    assert len(told.left_out) == 99


def test_more_files_than_that_are_refused_with_a_way_out(server: HubServer, asker: Asker) -> None:
    server.put(REPO, {f"M{number:04}-Q4_0.gguf": Listed(GB) for number in range(2001)})
    with pytest.raises(BadRequest, match="2,001"):
        asker.details()


def test_a_repository_without_gguf_says_what_it_holds(server: HubServer, asker: Asker) -> None:
    server.put(REPO, {"model.safetensors": Listed(16 * GB)})
    with pytest.raises(BadRequest, match="original weights"):
        asker.details()


def test_a_repository_of_projectors_has_no_offers(server: HubServer, asker: Asker) -> None:
    server.put(REPO, {"mmproj-F16.gguf": Listed(GB)})
    told = asker.details()
    assert (told.offers, told.problem, len(told.left_out)) == ((), None, 1)


# -- plans


def test_a_plan_gets_the_badge_of_its_files(server: HubServer, asker: Asker) -> None:
    server.put(REPO, {"L-Q4_K_M.gguf": gguf(), "mmproj-F16.gguf": Listed(GB)})
    plan = asker.hub.plan(parse(REPO), None)
    badge = asker.discover.badge_for(plan)
    assert badge is not None
    assert badge.weights_bytes == len(gguf()) + GB
    assert badge.kv_cache_bytes == KV * 8192
    assert badge == asker.details().offers[0].badge
    assert asker.headers_read() == 1  # one for both
    longer = asker.discover.badge_for(plan, 16_384)
    assert longer is not None
    assert longer.context_length == 16_384


def test_an_address_alone_gets_its_size_from_the_server(server: HubServer, asker: Asker) -> None:
    body = gguf()
    oid = hashlib.sha256(body).hexdigest()
    server.blobs[oid] = body
    remote = Remote(server.signed(oid), "m.gguf")
    plan = Plan("url", "m", (PlannedFile("downloads/m/m.gguf", remote),))
    badge = asker.discover.badge_for(plan)
    assert badge is not None
    assert (badge.weights_bytes, badge.kv_cache_bytes) == (len(body), KV * 8192)


def test_a_header_that_cannot_be_had_leaves_a_plan_its_size(
    server: HubServer, asker: Asker
) -> None:
    remote = Remote(f"{server.url}/nothing", "m.gguf", 5 * GB)
    badge = asker.discover.badge_for(Plan("url", "m", (PlannedFile("m.gguf", remote),)))
    assert badge is not None
    assert (badge.fits, badge.weights_bytes, badge.kv_cache_bytes) == (
        Fits.PROCESSOR,
        5 * GB,
        None,
    )
    unknown = dataclasses.replace(remote, size_bytes=None)
    badge = asker.discover.badge_for(Plan("url", "m", (PlannedFile("m.gguf", unknown),)))
    assert badge is not None
    assert badge.fits is Fits.UNKNOWN


def test_a_plan_without_a_model_has_no_badge(asker: Asker) -> None:
    remote = Remote("http://127.0.0.1:1/a", "a.gguf", 5)
    adapter = Plan("x", "x", (PlannedFile("a.gguf", remote, "adapter"),))
    assert asker.discover.badge_for(adapter) is None


# -- suggestions


def test_suggestions_are_judged_for_this_machine_without_asking_anybody(
    server: HubServer, asker: Asker, tmp_path: Path
) -> None:
    place = tmp_path / "Qwen" / "Qwen3-4B-GGUF" / "Qwen3-4B-Q4_K_M.gguf"
    asker.models = (model(place, 7, "qwen3"),)
    told = asker.discover.suggestions()
    by_title = {each.title: each for each in told.suggestions}
    assert by_title["Qwen3 4B"].model_id == "qwen3"
    assert by_title["Qwen3 8B"].model_id is None
    assert by_title["Qwen3 4B"].badge.fits is Fits.PROCESSOR
    assert by_title["Nomic Embed Text v1.5"].badge.context_length == 2048
    assert "qwen3" in told.ollama_names
    assert told.quantizations["Q4_K_M"]
    assert server.seen == []


# -- what is remembered


def test_the_oldest_answers_make_room() -> None:
    kept: Remembered[int, int] = Remembered(2, None, Clock())
    asked: list[int] = []

    def ask(number: int) -> int:
        asked.append(number)
        return number * 10

    for number in (1, 2, 1, 3, 1, 2):
        assert kept.get(number, lambda number=number: ask(number))[1] == number * 10  # type: ignore[misc]
    assert asked == [1, 2, 3, 2]  # 1 was used lately, 2 was not


def test_an_answer_from_before_forgetting_is_not_kept() -> None:
    kept: Remembered[str, int] = Remembered(2, None, Clock())

    def ask() -> int:
        kept.forget()
        return 1

    assert kept.get("a", ask)[1] == 1
    assert kept.get("a", lambda: 2)[1] == 2


def test_all_who_wait_hear_of_a_failure_and_none_waits_for_ever() -> None:
    kept: Remembered[str, int] = Remembered(2, None, Clock())
    inside, go = threading.Event(), threading.Event()

    def fail() -> int:
        inside.set()
        go.wait(20)
        raise NotFound("There is none.", "Look elsewhere.")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(kept.get, "a", fail)
        assert inside.wait(20)
        other = pool.submit(kept.get, "a", fail)
        go.set()
        for each in (first, other):
            with pytest.raises(NotFound):
                each.result(20)
    assert kept.get("a", lambda: 3)[1] == 3
