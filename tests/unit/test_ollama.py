"""What a name in Ollama's registry comes to: files, places, settings, refusals."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from tests.unit.test_library_models import HEADER, PROJECTOR, ROOT
from tray_app.engine.downloads import ollama
from tray_app.engine.downloads.oci_request import Registry
from tray_app.engine.downloads.ollama_params import read_params
from tray_app.engine.downloads.values import Hub, Plan, Reference, safe_name
from tray_app.engine.errors import BadRequest, DownloadFailed, EngineError, NotFound
from tray_app.engine.gguf_cache import FileKey
from tray_app.engine.library_files import SeenFile
from tray_app.engine.library_models import ScannedFile, assemble
from tray_app.engine.settings import RESERVED_ARGS, ModelSettings, parse_table

OLLAMA = "application/vnd.ollama.image."
GGUF = {"model_format": "gguf", "model_family": "llama", "file_type": "Q8_0", "model_type": "1.2B"}
MODEL = ("model", b"the weights")


class Shelf(Registry):
    """A registry without a network: what was laid on it, under any name."""

    manifest_data: ClassVar[bytes] = b""
    blobs: ClassVar[dict[str, bytes]] = {}  # set anew by each test's Offer
    asked: ClassVar[list[str]] = []

    def manifest(self, tag: str) -> bytes:
        self.asked.append(f"{self._root}/manifests/{tag}")
        return self.manifest_data

    def blob(self, digest: str, limit: int) -> bytes:
        self.asked.append(self.blob_url(digest))
        if digest not in self.blobs:
            raise NotFound("no such blob")
        return self.blobs[digest]


class Offer:
    """Lays models out."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        Shelf.blobs, Shelf.asked = self.blobs, self.asked

    def layer(self, media: str, content: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return {"mediaType": media, "digest": digest, "size": len(content)}

    def manifest(
        self, layers: Iterable[tuple[str, bytes]] = (MODEL,), config: Mapping[str, Any] = GGUF
    ) -> dict[str, Any]:
        rows = [self.layer(k if "/" in k else f"{OLLAMA}{k}", data) for k, data in layers]
        told = self.layer("application/vnd.docker.container.image.v1+json", dumped(config))
        return {"schemaVersion": 2, "config": told, "layers": rows}

    def plan(
        self,
        *layers: tuple[str, bytes],
        config: Mapping[str, Any] = GGUF,
        name: str = "library/llama3.2",
        host: str | None = None,
        tag: str | None = "1b",
    ) -> Plan:
        return self.plan_of(dumped(self.manifest(layers or (MODEL,), config)), name, host, tag)

    def plan_of(
        self,
        data: bytes,
        name: str = "library/llama3.2",
        host: str | None = None,
        tag: str | None = "1b",
    ) -> Plan:
        Shelf.manifest_data = data
        return ollama.plan(Reference(f"{name}:{tag}", Hub.OLLAMA, name, host=host, tag=tag))


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    monkeypatch.setattr(ollama, "Registry", Shelf)
    return Offer()


def paths(plan: Plan) -> dict[str, str]:
    return {file.path: file.role for file in plan.files}


def library_of(*plans: Plan) -> dict[str, str | None]:
    """Model id -> its projector's path, once all files of the plans are in the library."""
    files = []
    for plan in plans:
        for file in plan.files:
            if not file.path.endswith(".gguf"):
                continue
            header = PROJECTOR if file.role == "mmproj" else HEADER
            if file.role == "adapter":
                header = replace(HEADER, general_type="adapter")
            seen = SeenFile(f"{ROOT}/{file.path}", ROOT, FileKey(1000, 1, 0), 1, True)
            files.append(ScannedFile(seen, header, None, None))
    models = assemble(files, frozenset({ROOT})).models
    return {
        model.id: str(model.mmproj_path)[len(ROOT) + 1 :] if model.mmproj_path else None
        for model in models
    }


# -- names, places, ids


@pytest.mark.parametrize(
    ("name", "host", "tag", "base", "path", "model_id"),
    [
        (
            "library/llama3.2",
            None,
            None,
            "https://registry.ollama.ai/v2/library/llama3.2/manifests/latest",
            "ollama/llama3.2/llama3.2-latest-Q8_0.gguf",
            "ollama/llama3.2:Q8_0",
        ),
        (
            "llama3",
            "ollama.com",
            "8b-instruct-q8_0",
            "https://registry.ollama.ai/v2/library/llama3/manifests/8b-instruct-q8_0",
            "ollama/llama3/llama3-8b-instruct-q8_0.gguf",
            "ollama/llama3:Q8_0",
        ),
        (
            "herder/alpaca",
            None,
            "v2",
            "https://registry.ollama.ai/v2/herder/alpaca/manifests/v2",
            "herder/alpaca/alpaca-v2-Q8_0.gguf",
            "herder/alpaca:Q8_0",
        ),
        (
            "bartowski/Llama-3.2-1B-Instruct-GGUF",
            "hf.co",
            "UD-Q8_K_XL",
            "https://hf.co/v2/bartowski/Llama-3.2-1B-Instruct-GGUF/manifests/UD-Q8_K_XL",
            "hf.co_bartowski/Llama-3.2-1B-Instruct-GGUF/Llama-3.2-1B-Instruct-UD-Q8_K_XL.gguf",
            "hf.co_bartowski/Llama-3.2-1B-Instruct-GGUF:UD-Q8_K_XL",
        ),
        (
            "team/mini",
            "Registry.Example:5000",
            "q4_0",
            "https://registry.example:5000/v2/team/mini/manifests/q4_0",
            "registry.example_5000_team/mini/mini-q4_0-Q8_0.gguf",
            "registry.example_5000_team/mini:Q8_0",
        ),
        (
            "library/mini",
            "[::1]:5000",
            "x",
            "http://[::1]:5000/v2/library/mini/manifests/x",
            "1_5000_library/mini/mini-x-Q8_0.gguf",
            "1_5000_library/mini:Q8_0",
        ),
    ],
)
def test_a_name_leads_to_one_address_one_place_and_a_speaking_id(
    offer: Offer,
    name: str,
    host: str | None,
    tag: str | None,
    base: str,
    path: str,
    model_id: str,
) -> None:
    plan = offer.plan(name=name, host=host, tag=tag)
    assert offer.asked[0] == base
    assert paths(plan) == {path: "model"}
    assert library_of(plan) == {model_id: None}
    blob = plan.files[0].remote
    assert blob.url == base.partition("/manifests/")[0] + f"/blobs/sha256:{blob.sha256}"
    assert blob.sha256 == hashlib.sha256(MODEL[1]).hexdigest()
    assert blob.size_bytes == len(MODEL[1])
    assert blob.filename == path.rpartition("/")[2]


def test_two_tags_of_one_model_are_two_models(offer: Offer) -> None:
    small, large = offer.plan(tag="1b"), offer.plan(("model", b"larger"), tag="3b")
    assert library_of(small, large) == {
        "ollama/llama3.2:Q8_0": None,
        "ollama/llama3.2:llama3.2-3b-Q8_0": None,
    }


def test_a_file_type_that_is_no_quantization_adds_nothing_to_the_name(offer: Offer) -> None:
    for file_type in ("unknown", "../../x", 5, None):
        plan = offer.plan(config={**GGUF, "file_type": file_type})
        assert paths(plan) == {"ollama/llama3.2/llama3.2-1b.gguf": "model"}


@pytest.mark.parametrize(
    ("name", "host", "tag"),
    [
        ("../etc/passwd", None, None),
        ("library/..", None, None),
        ("a/b/c", None, None),
        ("/m", None, None),
        ("library/", None, None),
        ("", None, None),
        ("library/m?x=1", None, None),
        ("library/m", None, "../../../x"),
        ("library/m", None, "a b"),
        ("library/m", None, "x\r\nHost: evil"),
        ("library/m", None, "n" * 81),
        ("library/m", "evil.example/v2", None),
        ("library/m", "user:pass@evil.example", None),
        ("library/m", "evil.example#", None),
        ("library/m", "ftp://evil.example", None),
        ("library/con", None, None),
        ("library/m", None, "x-00001-of-00002"),
        ("library/mmproj-x", None, None),
        ("library/imatrix", None, None),
        ("library/m", "http://192.168.1.5:5000", None),
        ("library/m", "http://registry.example", None),
    ],
)
def test_a_name_that_no_registry_or_library_can_have_is_refused(
    offer: Offer, name: str, host: str | None, tag: str | None
) -> None:
    with pytest.raises(BadRequest) as caught:
        offer.plan(name=name, host=host, tag=tag, config={})
    assert caught.value.remedy


# -- what a model carries


def test_a_projector_is_paired_with_its_own_tag_only(offer: Offer) -> None:
    one = offer.plan(MODEL, ("projector", b"eyes"), name="library/llava", tag="7b")
    other = offer.plan(
        ("model", b"other"), ("projector", b"other eyes"), name="library/llava", tag="7b-v1.6"
    )
    blind = offer.plan(("model", b"blind"), name="library/llava", tag="7b-v1")
    assert paths(one) == {
        "ollama/llava/llava-7b-Q8_0/llava-7b-Q8_0.gguf": "model",
        "ollama/llava/llava-7b-Q8_0/mmproj-llava-7b.gguf": "mmproj",
    }
    folder = "ollama/llava/llava-7b-v1.6-Q8_0"
    assert library_of(one, other, blind) == {
        "ollama/llava:Q8_0": "ollama/llava/llava-7b-Q8_0/mmproj-llava-7b.gguf",
        "ollama/llava:llava-7b-v1-Q8_0": None,
        "ollama/llava:llava-7b-v1.6-Q8_0": f"{folder}/mmproj-llava-7b-v1.6.gguf",
    }


def test_an_adapter_becomes_an_argument_below_the_models_folder(offer: Offer) -> None:
    plan = offer.plan(MODEL, ("adapter", b"lora"), ("params", b'{"top_k": 5}'))
    path = "ollama/llama3.2/llama3.2-1b-Q8_0.lora-1.gguf"
    assert paths(plan)[path] == "adapter"
    assert plan.settings["extra_args"] == ("--lora", f"{{models}}/{path}", "--top-k", "5")
    assert library_of(plan) == {"ollama/llama3.2:Q8_0": None}


def test_texts_are_carried_along(offer: Offer) -> None:
    apache, mit = b"\n  Apache License\n2.0", b"MIT License\nand so on"
    plan = offer.plan(
        MODEL,
        ("template", b"{{ .Prompt }}"),
        ("system", "Du bist höflich.".encode()),
        ("params", b'{"num_ctx": 4096, "num_gpu": 0, "num_thread": 3, "stop": ["<end>"]}'),
        ("license", apache),
        ("license", mit),
        config={**GGUF, "requires": "0.14.0"},
    )
    assert plan.settings == {
        "system_prompt": "Du bist höflich.",
        "context_length": 4096,
        "gpu_layers": 0,
        "threads": 3,
        "extra_args": ("--reverse-prompt", "<end>"),
    }
    assert plan.warnings == ()
    assert paths(plan) == {
        "ollama/llama3.2/llama3.2-1b-Q8_0.gguf": "model",
        "ollama/llama3.2/llama3.2-1b-Q8_0.LICENSE": "other",
        "ollama/llama3.2/llama3.2-1b-Q8_0.LICENSE-2": "other",
    }
    digest = hashlib.sha256(Shelf.manifest_data).hexdigest()
    assert plan.origin == {
        "hub": "ollama",
        "host": "registry.ollama.ai",
        "repo": "library/llama3.2",
        "tag": "1b",
        "page": "https://ollama.com/library/llama3.2:1b",
        "digest": f"sha256:{digest}",
        "family": "llama",
        "parameters": "1.2B",
        "quantization": "Q8_0",
        "requires": "Ollama 0.14.0",
        "license": "Apache License; MIT License",
        "template": "ollama",
    }
    assert (plan.reference, plan.title) == ("llama3.2:1b", "llama3.2:1b")


def test_what_is_not_known_is_not_in_the_origin(offer: Offer) -> None:
    plan = offer.plan(config={"model_family": "x" * 200, "requires": "\ud800", "model_type": []})
    assert plan.origin.keys() == {"hub", "host", "repo", "tag", "page", "digest"}


def test_what_cannot_be_taken_over_is_told(offer: Offer) -> None:
    plan = offer.plan(
        MODEL,
        ("projector", b"one"),
        ("projector", b"two"),
        ("draft", b"draft"),
        ("messages", b"[]"),
        ("system", b"no\x00text"),
        ("params", b'{"temperature": "hot", "use_mmap": false, "mirostat": 1}'),
        ("hologram", b"?"),
    )
    assert plan.warnings == (
        "Parameters that cannot be taken over: temperature, use_mmap.",
        "Its system prompt cannot be used and is left out.",
        "Only 1 of its 2 layers of kind projector came along.",
        "Its draft model is left out.",
        "Its example messages are left out.",
        "Layers of a kind that is not known are left out: hologram.",
    )
    assert plan.settings == {}
    assert sorted(paths(plan).values()) == ["mmproj", "model"]


@pytest.mark.parametrize("system", [b"\xff\xfe", b"x" * (ollama.MAX_TEXT_BYTES + 1)])
def test_a_system_prompt_beyond_reason_is_left_out(offer: Offer, system: bytes) -> None:
    plan = offer.plan(MODEL, ("system", system), ("params", b"[" * 60_000))
    assert plan.settings == {}
    assert plan.warnings == (
        "Its parameters cannot be read and are left out.",
        "Its system prompt cannot be used and is left out.",
    )


def test_a_license_that_is_too_long_is_a_file_and_nothing_more(offer: Offer) -> None:
    plan = offer.plan(MODEL, ("license", b"x" * (ollama.MAX_LICENSE_BYTES + 1)))
    assert "license" not in plan.origin
    assert "other" in paths(plan).values()


def test_a_hundred_licenses_are_not_all_asked_for(offer: Offer) -> None:
    plan = offer.plan(MODEL, *(("license", b"%d" % number) for number in range(100)))
    assert len(plan.files) == 1 + ollama.MAX_LICENSES
    assert len(offer.asked) == 2 + ollama.MAX_LICENSES


# -- refusals


@pytest.mark.parametrize(
    ("layers", "config", "words"),
    [
        ([], {"remote_host": "https://ollama.com", "remote_model": "big"}, "servers (big)"),
        ([("tensor; name=a; dtype=BF16", b"t")], {}, "stored as safetensors"),
        ([MODEL], {"model_format": "safetensors"}, "stored as safetensors"),
        ([MODEL], {"model_format": "ggla"}, "stored as ggla"),
        ([MODEL, ("model", b"second")], GGUF, "2 model files"),
        ([("license", b"MIT")], GGUF, "no GGUF model"),
        ([("application/vnd.docker.image.rootfs.diff.tar.gzip", b"z")], {}, "no GGUF model"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused_with_the_reason(
    offer: Offer, layers: Sequence[tuple[str, bytes]], config: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        offer.plan_of(dumped(offer.manifest(layers, config)))
    assert words in caught.value.message
    assert caught.value.remedy


def test_the_same_layer_named_twice_is_one(offer: Offer) -> None:
    assert len(offer.plan(MODEL, MODEL).files) == 1


ROW = {"mediaType": f"{OLLAMA}model", "digest": "sha256:" + "a" * 64, "size": 5}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"\xff\xfe{}", "not a JSON object"),
        (b"<html>", "not a JSON object"),
        (b"[" * 900_000, "not a JSON object"),
        (b'{"layers": ' + b"[" * 900_000, "not a JSON object"),
        (b'{"layers": [], "config": ' + b"9" * 100_000 + b"}", "not a JSON object"),
        (dumped({"manifests": [ROW]}), "lists other manifests"),
        (dumped({"layers": {"0": ROW}}), "no list of layers"),
        (dumped({"layers": [ROW]}), "not an object"),
        (dumped({"config": ROW, "layers": ["sha256:1"]}), "not an object"),
    ],
)
def test_a_manifest_that_is_none_is_named_so(offer: Offer, data: bytes, words: str) -> None:
    with pytest.raises(DownloadFailed) as caught:
        offer.plan_of(data)
    assert words in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mediaType": 5}, "no media type"),
        ({"mediaType": "x\x1b[2J"}, "no media type"),
        ({"mediaType": "x" * 2000}, "no media type"),
        ({"digest": "sha512:" + "a" * 128}, "its sha256"),
        ({"digest": "sha256:" + "A" * 64}, "its sha256"),
        ({"digest": "sha256:../../../../etc/passwd"}, "its sha256"),
        ({"digest": "sha256:" + "a" * 64 + "\n"}, "its sha256"),
        ({"digest": None}, "its sha256"),
        ({"size": -1}, "no size"),
        ({"size": 1 << 45}, "no size"),
        ({"size": 1.5}, "no size"),
        ({"size": True}, "no size"),
        ({"size": "5"}, "no size"),
        ({"size": 0}, "empty"),
    ],
)
def test_a_layer_that_lies_is_refused(offer: Offer, change: dict[str, Any], words: str) -> None:
    for place in ("config", "layers"):
        manifest = offer.manifest()
        row = {**ROW, **change}
        manifest[place] = row if place == "config" else [*manifest["layers"], row]
        with pytest.raises(DownloadFailed) as caught:
            offer.plan_of(dumped(manifest))
        assert words in caught.value.message


def test_one_content_with_two_sizes_is_refused(offer: Offer) -> None:
    manifest = offer.manifest()
    manifest["layers"].append({**manifest["layers"][0], "size": 99})
    with pytest.raises(DownloadFailed, match="two sizes"):
        offer.plan_of(dumped(manifest))


def test_a_config_that_is_no_object_is_refused(offer: Offer) -> None:
    manifest = offer.manifest()
    manifest["config"] = offer.layer("application/json", b"[1]")
    with pytest.raises(DownloadFailed, match="config"):
        offer.plan_of(dumped(manifest))


JUNK: tuple[Any, ...] = (
    *(None, True, -1, 0, 1e999, 2**70, "", "\x00", "\ud800", "../..", "x" * 5000),
    *([], {}, [[]], {"a": {}}, "sha256:" + "0" * 64, f"{OLLAMA}model", f"{OLLAMA}license"),
)


def mutated(value: Any, dice: random.Random) -> Any:
    """`value` with a few of its parts replaced, doubled or lost."""
    if dice.random() < 0.03:
        return dice.choice(JUNK)
    if isinstance(value, dict):
        return {k: mutated(v, dice) for k, v in value.items() if dice.random() > 0.01}
    if isinstance(value, list):
        return [mutated(v, dice) for v in value for _ in range(dice.choice((1, 1, 1, 2)))]
    return value


def test_whatever_a_registry_says_ends_in_a_plan_that_can_be_used_or_in_an_error(
    offer: Offer,
) -> None:
    dice = random.Random(4)
    params = {"stop": ["a", "b"], "temperature": 1, "num_ctx": 4096, "num_gpu": 1, "seed": 1}
    planned, refusals = 0, set[str]()
    for _ in range(2000):
        layers = [
            MODEL,
            ("projector", b"p"),
            ("adapter", b"a"),
            ("license", b"MIT"),
            ("system", b"Be kind."),
            ("params", dumped(mutated(params, dice))),
        ]
        data = dumped(mutated(offer.manifest(layers, mutated(GGUF, dice) or {}), dice))
        if dice.random() < 0.2:
            at = dice.randrange(len(data))
            data = data[:at] + dice.randbytes(3) + data[at + 2 :]
        try:
            plan = offer.plan_of(data)
        except EngineError as error:
            refusals.add(error.message)
            continue
        planned += 1
        parse_table(ModelSettings, plan.settings)
        json.dumps(dict(plan.origin), ensure_ascii=False).encode()
        for file in plan.files:
            assert [safe_name(part) for part in file.path.split("/")] == file.path.split("/")
            assert file.path.startswith("ollama/llama3.2/")
            assert file.remote.size_bytes
        assert len({file.path for file in plan.files}) == len(plan.files)
    assert 50 < planned < 1950  # both ends were reached
    assert len(refusals) > 5
    assert all(message.isprintable() and len(message) < 400 for message in refusals)


# -- parameters


@pytest.mark.parametrize(
    ("params", "settings"),
    [
        ({"temperature": 0}, {"extra_args": ("--temp", "0")}),
        ({"temperature": 0.7, "top_p": 1}, {"extra_args": ("--temp", "0.7", "--top-p", "1")}),
        ({"top_k": 40.0}, {"extra_args": ("--top-k", "40")}),
        ({"num_predict": -1}, {"extra_args": ("--predict", "-1")}),
        ({"num_gpu": 999}, {"gpu_layers": 999}),
        ({"num_gpu": -1, "num_ctx": 0, "num_thread": 0}, {}),
        ({"stop": "one"}, {"extra_args": ("--reverse-prompt", "one")}),
        ({"stop": ["a", "a"]}, {"extra_args": ("--reverse-prompt", "a")}),
        ({"stop": ["\\n", "\n"]}, {"extra_args": tuple(
            word for stop in ("\\\\n", "\n") for word in ("--reverse-prompt", stop)
        )}),
        ({"stop": []}, {}),
        ({"mirostat": 2, "--host": "0.0.0.0", "numa": True, "use_mmap": True}, {}),
    ],
)  # fmt: skip
def test_a_parameter_becomes_a_setting_or_an_argument(
    params: dict[str, Any], settings: dict[str, object]
) -> None:
    assert read_params(params) == (settings, ())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("temperature", value) for value in ("0.7", True, None, [1], -0.1, 1e6, float("nan"))),
        *(("temperature", value) for value in (float("inf"), 10**400, {"a": 1})),
        *(("top_k", value) for value in (1.5, -1, 2**31, 10**400)),
        *(("seed", value) for value in (-2, 2**32)),
        *(("num_ctx", value) for value in (255, 2**40, "4096", 4096.5, [])),
        *(("num_gpu", value) for value in (-2, 10_001)),
        *(("num_thread", value) for value in (-5, 5000)),
        *(("stop", value) for value in (5, None, {"a": "b"}, [1], [""], [["a"]], "")),
        *(("stop", [value]) for value in ("a\x00b", "\ud800", "x" * 257, "--model", "-m")),
        *(("stop", [value]) for value in ("--host=0.0.0.0", "--slot_save_path", "--log-file")),
        ("stop", [f"s{number}" for number in range(32)] + [None]),
        ("use_mmap", False),
    ],
)
def test_a_parameter_beyond_belief_is_dropped_and_named(key: str, value: Any) -> None:
    settings, dropped = read_params({key: value})
    assert dropped == (key,)
    words = settings.pop("extra_args", ())
    assert settings == {}
    if key == "stop" and isinstance(value, list) and len(value) > 1:
        assert words == tuple(w for n in range(32) for w in ("--reverse-prompt", f"s{n}"))
    else:
        assert words == ()


def test_no_parameter_reaches_what_the_engine_decides() -> None:
    dice = random.Random(5)
    keys = ["stop", "temperature", "num_ctx", "num_gpu", "top_k", "seed", *RESERVED_ARGS]
    values = [*RESERVED_ARGS, *(f"{name}=x" for name in RESERVED_ARGS), 1, 2.5, "x", None]
    for _ in range(2000):
        params = {
            dice.choice(keys): dice.choice([dice.choice(values), dice.choices(values, k=3)])
            for _ in range(4)
        }
        settings, _ = read_params(params)
        words = parse_table(ModelSettings, settings).extra_args
        assert not RESERVED_ARGS & {word.partition("=")[0] for word in words}
