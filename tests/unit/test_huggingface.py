"""The Hugging Face Hub against a loopback Hub: what is chosen, pinned, refused, remembered."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import hub_server as fixture
from tests.hub_server import HubServer, Listed
from tray_app.engine.downloads import hub_request
from tray_app.engine.downloads.hub_request import HubRequests
from tray_app.engine.downloads.huggingface import HuggingFace
from tray_app.engine.downloads.references import parse
from tray_app.engine.downloads.retry import RetryPolicy, Unreachable
from tray_app.engine.downloads.transfer import fetch
from tray_app.engine.downloads.values import Plan, Remote
from tray_app.engine.errors import BadRequest, DownloadFailed, NotFound

GB = 10**9
POLICY = RetryPolicy(attempts=3, first_pause_s=0.0)
HERD = "herders/Llama-8B-GGUF"
SIZES = {"Q2_K": 3, "Q4_0": 4, "Q4_K_M": 5, "Q8_0": 8, "F16": 16}


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Asker:
    """A client of one Hub, and the hands on its token and its clock."""

    server: HubServer
    environ: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    clock: Clock = field(default_factory=Clock)
    whole_s: float = 20.0

    def __post_init__(self) -> None:
        requests = HubRequests(
            self.server.url,
            lambda: self.token,
            self.environ,
            policy=POLICY,
            whole_s=self.whole_s,
            clock=self.clock,
        )
        self.hub = HuggingFace(None, lambda: None, {}, requests=requests)

    def plan(self, text: str, budget_gb: float | None = None) -> Plan:
        return self.hub.plan(parse(text), None if budget_gb is None else int(budget_gb * GB))

    def refused(self, text: str, budget_gb: float | None = None) -> str:
        """The words of the error."""
        with pytest.raises((BadRequest, NotFound, DownloadFailed)) as caught:
            self.plan(text, budget_gb)
        assert caught.value.remedy
        return f"{caught.value.message} {caught.value.remedy}"


@pytest.fixture
def server() -> Iterator[HubServer]:
    with fixture.hub_server() as server:
        yield server


@pytest.fixture
def asker(server: HubServer) -> Asker:
    return Asker(server)


@pytest.fixture
def herd(server: HubServer) -> HubServer:
    """One model in five quantizations."""
    files = {f"Llama-8B-{label}.gguf": Listed(size * GB) for label, size in SIZES.items()}
    server.put(HERD, {**files, "README.md": b"# Llama", ".gitattributes": b""})
    return server


def names(plan: Plan) -> list[str]:
    return [file.remote.filename for file in plan.files]


# -- which one is chosen


@pytest.mark.parametrize(
    ("budget_gb", "label"),
    [(100, "Q4_K_M"), (5, "Q4_K_M"), (4.9, "Q4_0"), (3.5, "Q2_K"), (1, "Q2_K"), (None, "Q4_K_M")],
)
def test_without_a_wish_the_best_usual_quantization_that_fits_is_chosen(
    herd: HubServer, asker: Asker, budget_gb: float | None, label: str
) -> None:
    plan = asker.plan(HERD, budget_gb)
    assert names(plan) == [f"Llama-8B-{label}.gguf"]
    warned = [line for line in plan.warnings if "Even the smallest" in line]
    assert bool(warned) == (budget_gb == 1)
    if warned:
        assert "Q2_K, takes 3.0 GB, more than the 1.0 GB" in warned[0]


@pytest.mark.parametrize(("budget_gb", "label"), [(9, "Q8_0"), (6.5, "Q6_K"), (None, "Q5_K_M")])
def test_without_a_usual_one_the_largest_that_fits_is_chosen(
    server: HubServer, asker: Asker, budget_gb: float | None, label: str
) -> None:
    sizes = {"IQ2_M": 3, "Q5_K_M": 5.5, "Q6_K": 6.5, "Q8_0": 8, "F16": 16}
    server.put(HERD, {f"m-{name}.gguf": Listed(int(size * GB)) for name, size in sizes.items()})
    assert names(asker.plan(HERD, budget_gb)) == [f"m-{label}.gguf"]


@pytest.mark.parametrize(
    ("asked", "file"),
    [
        ("Q8_0", "m-Q8_0.gguf"),
        ("q8_0", "m-Q8_0.gguf"),
        ("UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        ("Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        ("FP16", "m-f16.gguf"),
        ("MXFP4_MOE", "m-MXFP4_MOE.gguf"),
        ("Q6_K_P", "m-Q6_K_P.gguf"),
        ("m-Q8_0.gguf", "m-Q8_0.gguf"),
    ],
)
def test_an_asked_quantization_is_found_by_label_then_by_its_plain_form(
    server: HubServer, asker: Asker, asked: str, file: str
) -> None:
    stored = ("Q8_0", "UD-Q4_K_XL", "UD-Q8_0", "f16", "MXFP4_MOE", "Q6_K_P")
    server.put(HERD, {f"m-{label}.gguf": Listed(GB) for label in stored})
    plan = asker.plan(f"{HERD}:{asked}", 0.1)
    assert names(plan) == [file]
    assert "takes 1.0 GB, more than the 0.1 GB" in plan.warnings[0]


@pytest.mark.parametrize("asked", ["Q5_K_M", "UD-Q4_K_M", "Q4", "nonsense", "Q4_K_M.x"])
def test_an_absent_or_malformed_quantization_is_refused_with_what_there_is(
    herd: HubServer, asker: Asker, asked: str
) -> None:
    said = asker.refused(f"{HERD}:{asked}", 100)
    assert f"{HERD} has no {asked}" in said
    assert "Q4_K_M (5.0 GB)" in said
    assert "Q8_0 (8.0 GB)" in said


def test_of_several_models_in_one_quantization_the_largest_is_taken_and_the_others_named(
    server: HubServer, asker: Asker
) -> None:
    server.put(HERD, {"m-1B-Q8_0.gguf": Listed(GB), "m-3B-Q8_0.gguf": Listed(3 * GB)})
    plan = asker.plan(f"{HERD}:Q8_0")
    assert names(plan) == ["m-3B-Q8_0.gguf"]
    small = asker.plan(f"{HERD}/m-1B-Q8_0.gguf").reference
    assert small.startswith(f"{HERD}:m-1B-Q8_0.gguf@")
    assert parse(small).file == "m-1B-Q8_0.gguf"
    assert "m-1B-Q8_0.gguf" in plan.warnings[0]


def test_an_asked_file_is_taken_with_its_path_or_by_its_name(
    server: HubServer, asker: Asker
) -> None:
    server.put(HERD, {"a/m-Q8_0.gguf": Listed(GB), "b/m-Q4_0.gguf": Listed(GB)})
    assert names(asker.plan(f"{HERD}/a/m-Q8_0.gguf")) == ["m-Q8_0.gguf"]
    assert names(asker.plan(f"{HERD}:m-Q4_0.gguf")) == ["m-Q4_0.gguf"]
    assert "has no model c/m-Q4_0.gguf" in asker.refused(f"{HERD}/c/m-Q4_0.gguf")


def test_a_folder_narrows_the_choice(server: HubServer, asker: Asker) -> None:
    server.put(HERD, {"a/m-Q4_K_M.gguf": Listed(GB), "b/n-Q8_0.gguf": Listed(GB)})
    address = f"https://huggingface.co/{HERD}/tree/main/b"
    assert names(asker.plan(address)) == ["n-Q8_0.gguf"]
    assert "has no c" in asker.refused(f"https://huggingface.co/{HERD}/tree/main/c")


# -- what comes along


def test_all_shards_come_in_order_and_count_together(server: HubServer, asker: Asker) -> None:
    shards = [f"Q8_0/m-Q8_0-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    server.put(HERD, {**{s: Listed(4 * GB) for s in shards}, "m-Q4_0.gguf": Listed(5 * GB)})
    plan = asker.plan(f"{HERD}:Q8_0")
    assert [(f.path, f.role) for f in plan.files] == [
        (f"{HERD}/m-Q8_0-00001-of-00003.gguf", "model"),
        (f"{HERD}/m-Q8_0-00002-of-00003.gguf", "shard"),
        (f"{HERD}/m-Q8_0-00003-of-00003.gguf", "shard"),
    ]
    assert plan.total_bytes == 12 * GB
    assert names(asker.plan(f"{HERD}/{shards[1]}")) == names(plan)
    assert names(asker.plan(HERD, 11)) == ["m-Q4_0.gguf"]


def test_a_set_with_a_missing_shard_is_refused_and_never_chosen(
    server: HubServer, asker: Asker
) -> None:
    shards = {f"m-Q4_K_M-0000{n}-of-00003.gguf": Listed(GB) for n in (1, 3)}
    server.put(HERD, {**shards, "m-Q2_K.gguf": Listed(GB)})
    assert "only 2 of the 3 parts of Q4_K_M" in asker.refused(f"{HERD}:Q4_K_M")
    assert names(asker.plan(HERD, 100)) == ["m-Q2_K.gguf"]
    server.put(HERD, shards)
    asker.clock.now += hub_request.KEEP_S
    assert "only 2 of the 3 parts" in asker.refused(HERD)


@pytest.mark.parametrize(
    ("projectors", "taken"),
    [
        (["mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"], "mmproj-F16.gguf"),
        (["mmproj-Q8_0.gguf", "mmproj-BF16.gguf"], "mmproj-BF16.gguf"),
        (["mmproj-F16.gguf", "deep/mmproj-BF16.gguf"], "deep/mmproj-BF16.gguf"),
        (["other/mmproj-F16.gguf", "mmproj-Q8_0.gguf"], "mmproj-Q8_0.gguf"),
        (["other/mmproj-F16.gguf", "deep/er/mmproj-F16.gguf"], None),
        (["deep/mmproj-F16.gguf", "mmproj-vl-7b-f16.gguf"], "mmproj-vl-7b-f16.gguf"),
        (["mmproj-otter-30b-F16.gguf"], None),
    ],
)
def test_a_projector_comes_from_the_models_folder_or_above_it(
    server: HubServer, asker: Asker, projectors: list[str], taken: str | None
) -> None:
    files = {path: Listed(GB) for path in (*projectors, "deep/vl-7b-Q4_K_M.gguf")}
    server.put(HERD, files)
    plan = asker.plan(HERD)
    found = [file for file in plan.files if file.role == "mmproj"]
    wanted = [] if taken is None else [f"/resolve/{plan.origin['revision']}/{taken}"]
    assert [file.remote.url.partition(HERD)[2] for file in found] == wanted
    assert plan.files[0].remote.filename == "vl-7b-Q4_K_M.gguf"


def test_a_projector_counts_into_what_has_to_fit(server: HubServer, asker: Asker) -> None:
    files = {"m-Q4_K_M.gguf": 5, "m-Q4_0.gguf": 4, "mmproj-F16.gguf": 1}
    server.put(HERD, {path: Listed(size * GB) for path, size in files.items()})
    assert names(asker.plan(HERD, 5.5)) == ["m-Q4_0.gguf", "mmproj-F16.gguf"]
    assert asker.plan(HERD, 6).total_bytes == 6 * GB


def test_heads_matrices_and_vocabularies_are_left_out_and_refused(
    server: HubServer, asker: Asker
) -> None:
    helpers = {
        "mtp-m-Q4_K_M.gguf": "draft head",
        "eagle3-m-Q4_K_M.gguf": "draft head",
        "dflash-m-Q8_0.gguf": "draft head",
        "dspark-m.gguf": "draft head",
        "imatrix.gguf": "importance matrix",
        "m.imatrix.gguf": "importance matrix",
        "ggml-vocab-m.gguf": "vocabulary",
        "mmproj-F16.gguf": "projector",
    }
    server.put(HERD, {**{name: Listed(GB) for name in helpers}, "m-Q8_0.gguf": Listed(GB)})
    assert names(asker.plan(HERD)) == ["m-Q8_0.gguf", "mmproj-F16.gguf"]
    for name, kind in helpers.items():
        assert kind in asker.refused(f"{HERD}/{name}")
    assert "only .gguf files are" in asker.refused(f"https://hf.co/{HERD}/blob/main/README.md")


def test_a_name_that_is_there_twice_keeps_its_folders(server: HubServer, asker: Asker) -> None:
    paths = ("Q4_K_M/model.gguf", "Q8_0/Model.gguf", "Q8_0/extra.gguf")
    server.put(HERD, {path: Listed(GB) for path in paths})
    assert asker.plan(f"{HERD}:Q8_0").files[0].path == f"{HERD}/Q8_0/Model.gguf"
    assert asker.plan(f"{HERD}/Q8_0/extra.gguf").files[0].path == f"{HERD}/extra.gguf"


# -- what a plan holds


def test_a_plan_is_pinned_to_the_commit_and_knows_where_it_is_from(
    server: HubServer, asker: Asker
) -> None:
    content = b"GGUF, as far as the Hub knows"
    repo = server.put(
        HERD, {"a b/m-Q4_K_M.gguf": content}, card={"license": "apache-2.0"}, tags=["gguf"]
    )
    commit = repo.refs["main"]
    plan = asker.plan(HERD)
    (file,) = plan.files
    assert file.path == f"{HERD}/m-Q4_K_M.gguf"
    assert file.remote.url == f"{server.url}/{HERD}/resolve/{commit}/a%20b/m-Q4_K_M.gguf"
    assert file.remote.size_bytes == len(content)
    assert file.remote.sha256 == hashlib.sha256(content).hexdigest()
    assert file.remote.headers == {}
    assert plan.reference == f"{HERD}:Q4_K_M@{commit[:7]}"
    assert plan.title == "Llama-8B-GGUF Q4_K_M"
    assert plan.origin == {
        "hub": "huggingface",
        "repo": HERD,
        "revision": commit,
        "quantization": "Q4_K_M",
        "license": "apache-2.0",
        "page": f"{server.url}/{HERD}",
    }
    assert parse(plan.reference).revision == commit[:7]
    server.put(HERD, {"a b/m-Q4_K_M.gguf": b"GGUF of another day"})
    assert file.remote.renew is not None
    assert file.remote.renew() == file.remote


def test_a_file_kept_over_a_restart_is_signed_in_anew(server: HubServer, asker: Asker) -> None:
    server.put(HERD, {"a b/m-Q8_0.gguf": b"GGUF"})
    (file,) = asker.plan(HERD).files
    kept = dataclasses.replace(file.remote, headers={}, renew=None)
    later = Asker(server, token="key")
    found = later.hub.revived(kept)
    assert found == dataclasses.replace(file.remote, headers={"Authorization": "Bearer key"})
    assert found.renew is not None
    server.tokens.add("key")
    assert found.renew() == found
    foreign = Remote(f"https://example.org/{HERD}/resolve/0123/m.gguf", "m.gguf")
    assert later.hub.revived(foreign) is foreign


def test_a_branch_or_pull_request_is_asked_for_by_its_name(server: HubServer, asker: Asker) -> None:
    repo = server.put(HERD, {"old-Q8_0.gguf": Listed(GB)})
    repo.refs["refs/pr/1"] = repo.refs["main"]
    server.put(HERD, {"new-Q8_0.gguf": Listed(GB)})
    assert names(asker.plan(f"https://hf.co/{HERD}/tree/refs/pr/1")) == ["old-Q8_0.gguf"]
    assert names(asker.plan(f"{HERD}@{repo.refs['refs/pr/1']}")) == ["old-Q8_0.gguf"]
    assert names(asker.plan(HERD)) == ["new-Q8_0.gguf"]
    assert "has no revision v9" in asker.refused(f"{HERD}@v9")


def test_a_renamed_repository_is_followed_and_called_by_its_new_name(
    server: HubServer, asker: Asker
) -> None:
    server.put(HERD, {"m-Q8_0.gguf": Listed(GB)}, readers={"key"}, private=True)
    server.moved["old/name"] = HERD
    server.tokens.add("key")
    asker.token = "key"
    plan = asker.plan("old/name")
    assert plan.origin["repo"] == HERD
    assert plan.files[0].path == f"{HERD}/m-Q8_0.gguf"


def test_a_planned_file_arrives_and_an_expired_address_is_renewed(
    server: HubServer, asker: Asker, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 400
    server.put(HERD, {"m-Q8_0.gguf": content}, gated="auto", readers={"key"})
    server.tokens.add("key")
    asker.token = "key"
    (file,) = asker.plan(HERD).files
    expired = server.signed(server.oid(content)).replace("signature=1", "signature=0")
    server.faults = [fixture.says(302, b"", Location=expired)]
    assert fetch(file.remote, tmp_path / "m.gguf").read_bytes() == content
    assert server.asked("cdn")[0].endswith("signature=0")
    asked = {each.origin: each.headers for each in server.seen if each.method == "GET"}
    assert asked["hub"]["authorization"] == "Bearer key"
    assert "authorization" not in asked["cdn"]


def test_a_small_file_outside_lfs_has_no_hash_and_a_huge_one_a_warning(
    server: HubServer, asker: Asker
) -> None:
    server.put(HERD, {"m-Q8_0.gguf": Listed(900, lfs=False), "m-F16.gguf": Listed(51 * GB)})
    small = asker.plan(f"{HERD}:Q8_0")
    assert (small.files[0].remote.sha256, small.files[0].remote.size_bytes) == (None, 900)
    assert small.warnings == (
        "The hub tells no sha256 of m-Q8_0.gguf, so only its size is checked.",
    )
    (warning,) = asker.plan(f"{HERD}:F16").warnings
    assert "m-F16.gguf is 51 GB in one file" in warning


@pytest.mark.parametrize(
    ("card", "tags", "license_"),
    [
        ({"license": ["mit", "x"]}, [], "mit"),
        ({"license": "other", "license_name": "llama3.2"}, [], "llama3.2"),
        ({}, ["gguf", "license:gemma"], "gemma"),
        ({"license": {"a": 1}}, ["license:"], None),
        ({"license": "a\nb\u202e"}, [], "ab"),
    ],
)
def test_the_license_is_what_card_or_tags_tell(
    server: HubServer, asker: Asker, card: dict[str, Any], tags: list[str], license_: str | None
) -> None:
    server.put(HERD, {"m-Q8_0.gguf": Listed(GB)}, card=card, tags=tags)
    assert asker.plan(HERD).origin.get("license") == license_


def test_original_weights_are_named_as_such(server: HubServer, asker: Asker) -> None:
    files = {f"model-0000{n}-of-00002.safetensors": Listed(8 * GB) for n in (1, 2)}
    server.put("herders/Llama-8B", {**files, "config.json": b"{}", "old.bin": Listed(GB)})
    said = asker.refused("herders/Llama-8B")
    assert "original weights (2 files, 16.0 GB) and no GGUF." in said
    assert "search=Llama-8B&library=gguf" in said
    server.put("herders/words", {"README.md": b"# Words"})
    assert "no model that llama.cpp can load" in asker.refused("herders/words")


# -- lists


@pytest.mark.parametrize("links_to", [None, "https://huggingface.co"])
def test_a_long_list_is_read_page_by_page_from_the_same_endpoint(
    server: HubServer, asker: Asker, links_to: str | None
) -> None:
    server.page_size, server.links_to = 10, links_to
    files = {f"{n:02}-Q8_0.gguf": Listed(n + 1) for n in range(35)}
    server.put(HERD, files)
    assert [file.name for file in asker.hub.files(HERD)] == sorted(files)
    assert len([path for path in server.asked() if "/tree/" in path]) == 4


def test_a_list_that_repeats_itself_or_does_not_end_is_an_error(
    server: HubServer, asker: Asker
) -> None:
    server.put(HERD, {"m-Q8_0.gguf": Listed(GB)})
    info = server.info(server.repos[HERD], server.repos[HERD].refs["main"])
    rows = json.dumps([server.row("m-Q8_0.gguf", Listed(GB))]).encode()
    again = f'<{server.url}/api/models/{HERD}/tree/x?cursor=1>; rel="next"'
    server.faults = [
        fixture.says(200, json.dumps(info).encode()),
        fixture.says(200, rows, Link=again),
        fixture.says(200, rows, Link=again),
    ]
    assert "repeats itself" in asker.refused(HERD)
    many = [server.row(f"{n}-Q8_0.gguf", Listed(1)) for n in range(2001)]
    server.faults = [fixture.right, fixture.says(200, json.dumps(many).encode())]
    asker.clock.now += hub_request.KEEP_S
    assert "2,001 GGUF files" in asker.refused(HERD)


def test_files_are_listed_with_size_quantization_and_role(server: HubServer, asker: Asker) -> None:
    server.put(
        HERD,
        {
            "UD-Q4_K_XL/m-00001-of-00002.gguf": Listed(2),
            "UD-Q4_K_XL/m-00002-of-00002.gguf": Listed(3),
            "m-q8_0.gguf": Listed(4),
            "mmproj-F16.gguf": Listed(5),
            "mtp-m.gguf": Listed(6),
            "README.md": b"",
        },
    )
    rows = [(f.name, f.size_bytes, f.quantization, f.role) for f in asker.hub.files(HERD)]
    assert rows == [
        ("m-00001-of-00002.gguf", 2, "UD-Q4_K_XL", "model"),
        ("m-00002-of-00002.gguf", 3, "UD-Q4_K_XL", "shard"),
        ("m-q8_0.gguf", 4, "Q8_0", "model"),
        ("mmproj-F16.gguf", 5, "F16", "mmproj"),
        ("mtp-m.gguf", 6, None, "draft"),
    ]


def test_hostile_rows_are_left_out(server: HubServer, asker: Asker) -> None:
    server.put(HERD, {"m-Q8_0.gguf": Listed(GB)})
    good = server.row("m-Q8_0.gguf", Listed(GB))
    paths = [
        "../x.gguf",
        "/x.gguf",
        "a//b.gguf",
        "con.gguf",
        "a\\b.gguf",
        "a\x00.gguf",
        "",
        7,
        None,
    ]
    bad = [{**good, "path": path} for path in paths] + [{**good, "path": "x" * 2000}]
    odd = {"type": "file", "path": "odd-Q4_0.gguf", "size": -1, "lfs": {"oid": "A", "size": True}}
    rows = [*bad, odd, "text", None, {"type": "directory", "path": "d.gguf"}, good]
    server.faults = [fixture.right, fixture.says(200, json.dumps(rows).encode())]
    found = asker.hub.files(HERD)
    assert [(file.path, file.size_bytes) for file in found] == [
        ("m-Q8_0.gguf", GB),
        ("odd-Q4_0.gguf", None),
    ]
    assert found[1].sha256 is None


def test_a_search_finds_models_with_what_a_card_shows(server: HubServer, asker: Asker) -> None:
    more = {
        "author": "herders",
        "likes": 7,
        "downloads": 900,
        "createdAt": "2025-01-01T00:00:00.000Z",
        "lastModified": "2025-01-02T00:00:00.000Z",
        "pipeline_tag": "text-generation",
        "gguf": {"total": 8_000_000_000, "architecture": "llama", "context_length": 131072},
    }
    server.put(HERD, {}, more=more, gated="manual", tags=["gguf", "license:mit", "vision"])
    server.put("a/llama-small", {}, more={"downloads": 9000})
    server.put("a/other", {})
    server.put("a/llama-weights", {}, tags=["safetensors"])
    small, large = asker.hub.search("llama", sort="downloads")
    assert (small.id, small.downloads, small.likes, small.gated) == (
        "a/llama-small",
        9000,
        None,
        None,
    )
    assert (large.id, large.author, large.likes, large.gated) == (HERD, "herders", 7, "manual")
    assert large.modified_at is not None
    assert large.created_at == 1735689600.0
    assert large.modified_at - large.created_at == 86400
    assert (large.license, large.pipeline) == ("mit", "text-generation")
    assert (large.parameters, large.architecture) == (8_000_000_000, "llama")
    assert large.context_length == 131072
    assert "vision" in large.tags
    assert [model.id for model in asker.hub.search("llama", "downloads", 1)] == ["a/llama-small"]
    assert len(asker.hub.search("", limit=5)) == 3
    with pytest.raises(BadRequest):
        asker.hub.search("llama", sort="colour")


def test_odd_rows_of_a_search_become_what_is_known(server: HubServer, asker: Asker) -> None:
    rows = [
        None,
        {"id": "no-slash"},
        {"id": "a/../b"},
        {"id": "a/b", "likes": -1, "downloads": True, "lastModified": 5, "tags": "x", "gguf": []},
        {"id": "a/c", "createdAt": "soon", "tags": [1, "", "t" * 1000], "gated": True},
    ]
    server.faults = [fixture.says(200, json.dumps(rows).encode())]
    first, second = asker.hub.search("x")
    assert (first.id, first.likes, first.downloads, first.modified_at) == ("a/b", None, None, None)
    assert (second.tags, second.gated, second.created_at) == (("t" * 100,), "manual", None)


# -- refusals


def test_a_gated_repository_is_explained_before_anything_is_fetched(
    herd: HubServer, asker: Asker
) -> None:
    herd.put(HERD, {"m-Q8_0.gguf": b"GGUF"}, gated="manual", readers={"good"})
    herd.tokens |= {"good", "other"}
    said = asker.refused(HERD)
    assert "is gated: its owner wants you to sign in" in said
    assert f"{herd.url}/{HERD} and accept" in said
    assert "HF_TOKEN" in said
    asker.token = "other"
    assert "your Hugging Face account may not read it" in asker.refused(HERD)
    asker.token = "good"
    assert asker.plan(HERD).files[0].remote.headers == {"Authorization": "Bearer good"}
    assert herd.asked("cdn") == []


def test_access_taken_away_meanwhile_is_explained_at_the_renewal(
    server: HubServer, asker: Asker
) -> None:
    repo = server.put(HERD, {"m-Q8_0.gguf": b"GGUF"})
    (file,) = asker.plan(HERD).files
    repo.gated = "auto"
    assert file.remote.renew is not None
    with pytest.raises(DownloadFailed, match="is gated"):
        file.remote.renew()


def test_missing_and_private_look_the_same_without_a_token(server: HubServer, asker: Asker) -> None:
    server.put(HERD, {"m-Q8_0.gguf": Listed(GB)}, private=True, readers={"key"})
    server.tokens |= {"key", "other"}
    for name in (HERD, "herders/nothing"):
        said = asker.refused(name)
        assert f"There is no {name}, or it is private." in said
        assert f"{server.url}/{name}" in said
    asker.environ["HF_TOKEN"] = "other"
    assert "or your account may not see it" in asker.refused(HERD)
    asker.environ["HF_TOKEN"] = "key"
    assert names(asker.plan(HERD)) == ["m-Q8_0.gguf"]
    asker.token = "expired"
    said = asker.refused(HERD)
    assert "does not accept the token: Invalid credentials" in said
    assert "settings/tokens" in said


def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(
    herd: HubServer, asker: Asker
) -> None:
    asker.token = "hf_sec\nret"
    assert "hf_sec" not in asker.refused(HERD)
    assert herd.seen == []


@pytest.mark.parametrize("headers", [{}, {"Retry_After": "120"}, {"Retry_After": "99999"}])
def test_after_too_many_questions_none_is_asked_until_the_pause_is_over(
    herd: HubServer, asker: Asker, headers: Mapping[str, str]
) -> None:
    told = {"RateLimit": '"api";r=0;t=120', **headers}
    herd.faults = [fixture.says(429, b"", **told)]
    pause = 300 if headers.get("Retry_After") == "99999" else 120
    for _ in range(2):
        with pytest.raises(Unreachable) as caught:
            asker.plan(HERD)
        assert f"it asks to wait for {pause} s" in caught.value.message
        assert "With a token, more are allowed." in caught.value.remedy
    assert len(herd.seen) == 1
    asker.clock.now += pause
    assert names(asker.plan(HERD)) == ["Llama-8B-Q4_K_M.gguf"]


def test_a_used_up_limit_is_told_in_the_hubs_own_headers(herd: HubServer, asker: Asker) -> None:
    herd.questions_left = 1
    assert "wait for 120 s" in asker.refused(HERD)


@pytest.mark.parametrize("fault", [fixture.says(503), fixture.dead, fixture.cut])
def test_a_fault_that_passes_is_tried_again(herd: HubServer, asker: Asker, fault: Any) -> None:
    herd.faults = [fault, fault]
    assert names(asker.plan(HERD)) == ["Llama-8B-Q4_K_M.gguf"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (fixture.says(503), "answered 503"),
        (fixture.dead, "could not be asked"),
        (fixture.cut, "closed at 2 of 100 bytes"),
        (fixture.endless, "sent more than 8,388,608 bytes"),
    ],
)
def test_a_fault_that_stays_is_one_that_may_pass(
    herd: HubServer, asker: Asker, fault: Any, said: str
) -> None:
    herd.faults = [fault] * 3
    with pytest.raises(Unreachable, match=said):
        asker.plan(HERD)
    assert len(herd.seen) == 3


def test_a_hub_that_says_nothing_is_given_up(herd: HubServer) -> None:
    herd.faults = [fixture.stalled] * 3
    with pytest.raises(Unreachable, match=r"took longer than 0 s"):
        Asker(herd, whole_s=0.05).plan(HERD)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (fixture.says(200, b"<html>"), "not JSON"),
        (fixture.says(200, b"[" * 100_000), "not JSON"),
        (fixture.says(200, b'{"sha": "main"}'), "does not tell which commit"),
        (fixture.says(200, b"[]"), "does not tell which commit"),
        (fixture.says(418, b'{"error": "a\\u0000 teapot"}'), "answered 418: a  teapot"),
        (fixture.says(403, b"", X_Error_Message="Access to this resource is disabled."), "taken"),
        (fixture.says(302, b"", Location="http://example.org/x"), "not https"),
        (fixture.says(302, b"", Location="ftp://example.org/x"), "not https"),
    ],
)
def test_an_answer_that_is_none_is_explained(
    herd: HubServer, asker: Asker, answer: Any, said: str
) -> None:
    herd.faults = [answer]
    with pytest.raises(DownloadFailed, match=said):
        asker.plan(HERD)


def test_a_token_goes_to_no_other_origin(herd: HubServer, asker: Asker) -> None:
    with fixture.hub_server() as other:
        other.put(HERD, {"m-Q8_0.gguf": Listed(GB)})
        path = f"{other.url}/api/models/{HERD}/revision/main"
        herd.tokens.add("key")
        herd.faults = [fixture.says(307, b"", Location=path)]
        asker.token = "key"
        asker.refused(f"{HERD}:Q9")
        assert "authorization" not in other.seen[0].headers
    assert herd.seen[0].headers["authorization"] == "Bearer key"


# -- remembering, and the endpoint


def test_answers_are_remembered_for_five_minutes_and_for_one_token(
    herd: HubServer, asker: Asker
) -> None:
    asker.plan(HERD)
    asked = len(herd.seen)
    asker.clock.now += hub_request.KEEP_S - 1
    asker.plan(f"{HERD}:Q8_0")
    asker.hub.files(HERD)
    assert len(herd.seen) == asked == 2
    herd.tokens.add("key")
    asker.token = "key"
    asker.plan(HERD)
    assert len(herd.seen) == 4
    asker.clock.now += 1
    asker.token = None
    asker.plan(HERD)
    assert len(herd.seen) == 6


def test_what_is_remembered_is_bounded(
    herd: HubServer, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_request, "MAX_KEPT_BYTES", 100)
    asker.plan(HERD)
    asker.plan(HERD)
    assert len(herd.seen) == 4


@pytest.mark.parametrize(
    ("endpoint", "environ", "used"),
    [
        (None, {}, "https://huggingface.co"),
        (None, {"HF_ENDPOINT": " https://mirror.example/hf/ "}, "https://mirror.example/hf"),
        ("https://a.example", {"HF_ENDPOINT": "https://b.example"}, "https://a.example"),
        ("http://127.0.0.1:1", {}, "http://127.0.0.1:1"),
    ],
)
def test_the_endpoint_is_the_given_one_then_the_variables_then_the_hub(
    endpoint: str | None, environ: dict[str, str], used: str
) -> None:
    assert HubRequests(endpoint, lambda: None, environ).endpoint == used


@pytest.mark.parametrize(
    "endpoint",
    ["http://mirror.example", "mirror.example", "https://u:p@m.example", "https://", "x"],
)
def test_an_endpoint_that_others_could_read_is_refused(endpoint: str) -> None:
    with pytest.raises(BadRequest) as caught:
        HuggingFace(endpoint, lambda: None, {})
    assert "u:p" not in caught.value.message
