"""What users type or paste: what each form means, and what is refused with a way out."""

from __future__ import annotations

import random
import string
import time

import pytest

from tray_app.engine.downloads.references import MAX_TEXT, parse
from tray_app.engine.downloads.values import Hub, Reference, safe_name
from tray_app.engine.errors import BadRequest
from tray_app.engine.runtime.feed_rows import is_trusted

HF, OLLAMA, URL = Hub.HUGGINGFACE, Hub.OLLAMA, Hub.URL
PAGE = "https://huggingface.co/org/repo"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hf(**parts: str) -> Reference:
    return Reference("", HF, "org/repo", **parts)


def ollama(name: str, tag: str | None = None, host: str | None = None) -> Reference:
    return Reference("", OLLAMA, name, host=host, tag=tag)


MEANT = {
    # Hugging Face
    "org/repo": hf(),
    "  org/repo \n": hf(),
    '"org/repo"': hf(),
    "`org/repo:Q8_0`": hf(tag="Q8_0"),
    "org/repo:Q4_K_M": hf(tag="Q4_K_M"),
    "org/repo:UD-Q4_K_XL": hf(tag="UD-Q4_K_XL"),
    "org/repo:latest": hf(),
    f"org/repo@{COMMIT}": hf(revision=COMMIT),
    "org/repo:Q4_K_M@0123abc": hf(tag="Q4_K_M", revision="0123abc"),
    "org/repo:model-Q8_0.gguf": hf(file="model-Q8_0.gguf"),
    "org/repo/deep/model.gguf": hf(file="deep/model.gguf"),
    "hf.co/org/repo": hf(),
    "hf.co/org/repo:IQ3_M": hf(tag="IQ3_M"),
    "HuggingFace.co/org/repo/": hf(),
    f"{PAGE}?library=gguf#files": hf(),
    "http://www.huggingface.co/org/repo": hf(),
    f"{PAGE}:Q8_0": hf(tag="Q8_0"),
    f"{PAGE}/tree/main": hf(revision="main"),
    f"{PAGE}/tree": hf(),
    f"{PAGE}/discussions/7": hf(),
    f"{PAGE}/commits/main": hf(),
    f"{PAGE}/commit/{COMMIT}": hf(revision=COMMIT),
    f"{PAGE}/tree/v1.0/Q4_K_M/deep": hf(revision="v1.0", folder="Q4_K_M/deep"),
    f"{PAGE}/tree/refs%2Fpr%2F1": hf(revision="refs/pr/1"),
    f"{PAGE}/blob/refs/pr/1/a.gguf": hf(revision="refs/pr/1", file="a.gguf"),
    f"{PAGE}/blob/main/a%20b.gguf": hf(revision="main", file="a b.gguf"),
    f"{PAGE}/resolve/main/x/a.gguf?download=true": hf(revision="main", file="x/a.gguf"),
    f"{PAGE}?show_file_info=a-Q4_0.gguf": hf(file="a-Q4_0.gguf"),
    # Ollama and registries like it
    "qwen3": ollama("library/qwen3"),
    "qwen3:0.6b-q8_0": ollama("library/qwen3", "0.6b-q8_0"),
    "ollama:qwen3:8b": ollama("library/qwen3", "8b"),
    "ollama:herder/llama": ollama("herder/llama"),
    "ollama:herder/llama:1b": ollama("herder/llama", "1b"),
    "ollama.com/library/qwen3": ollama("library/qwen3"),
    "https://ollama.com/library/qwen3:8b": ollama("library/qwen3", "8b"),
    "https://ollama.com/library/qwen3/tags": ollama("library/qwen3"),
    "https://www.ollama.com/herder/llama": ollama("herder/llama"),
    "registry.ollama.ai/library/qwen3:8b": ollama("library/qwen3", "8b"),
    "registry.example.org/herder/llama:1b": ollama("herder/llama", "1b", "registry.example.org"),
    "localhost:5000/herder/llama": ollama("herder/llama", host="localhost:5000"),
    "[::1]:5000/herder/llama:1b": ollama("herder/llama", "1b", "[::1]:5000"),
    "ollama:hf.co/org/repo:Q8_0": hf(tag="Q8_0"),
    # one file anywhere
    "https://example.org/a/model.gguf": Reference(
        "", URL, "https://example.org/a/model.gguf", host="example.org", file="model.gguf"
    ),
    "https://example.org/my%20model.gguf?key=1#x": Reference(
        "",
        URL,
        "https://example.org/my%20model.gguf?key=1",
        host="example.org",
        file="my model.gguf",
    ),
    "example.org/a/model.gguf": Reference(
        "", URL, "https://example.org/a/model.gguf", host="example.org", file="model.gguf"
    ),
    "http://127.0.0.1:8000/model.gguf": Reference(
        "", URL, "http://127.0.0.1:8000/model.gguf", host="127.0.0.1:8000", file="model.gguf"
    ),
    # commands as model pages show them
    "ollama run qwen3:8b": ollama("library/qwen3", "8b"),
    'ollama run --verbose qwen3 "why is the sky blue?"': ollama("library/qwen3"),
    "ollama pull herder/llama:1b": ollama("herder/llama", "1b"),
    "ollama run hf.co/org/repo:IQ3_M": hf(tag="IQ3_M"),
    "ollama pull localhost:5000/herder/llama": ollama("herder/llama", host="localhost:5000"),
    "hf download org/repo": hf(),
    "$ HF_TOKEN=x huggingface-cli download org/repo a.gguf mmproj-a.gguf": hf(
        revision="main", file="a.gguf"
    ),
    "hf download --local-dir models org/repo --revision refs/pr/1": hf(revision="refs/pr/1"),
    'hf download org/repo --include "*Q4_K_M*"': hf(tag="Q4_K_M"),
    "./build/bin/llama-server -hf org/repo:Q8_0 -c 4096": hf(tag="Q8_0"),
    "llama-cli --hf-repo=org/repo --hf-file 'a b.gguf'": hf(revision="main", file="a b.gguf"),
    "llama-wrangler pull org/repo:Q8_0": hf(tag="Q8_0"),
}


@pytest.mark.parametrize("text", MEANT)
def test_each_form_means_one_thing(text: str) -> None:
    found = parse(text)
    wanted = MEANT[text]
    assert found == Reference(
        found.text,
        wanted.hub,
        wanted.name,
        wanted.host,
        wanted.revision,
        wanted.file,
        wanted.tag,
        wanted.folder,
    )
    assert parse(found.text) == found
    if " " not in text.strip():
        assert found.text == text.strip().strip("\"'`")


REFUSED = {
    "": "No model",
    "  ": "No model",
    "''": "No model",
    "org/re\x00po": "U+0000",
    "org/repo\nrm": "U+000A",
    "org/\u202erepo": "U+202E",
    "org/repo\u00a0": "",  # a blank like any other at the end
    "org/r\ud800": "U+D800",
    "x" * (MAX_TEXT + 1): "2,049 characters",
    "x" * 8_000_000: "8,000,000 characters",
    "../../etc/passwd": "looks like a file",
    "/models/a.gguf": "looks like a file",
    "~/a.gguf": "looks like a file",
    "C:\\models\\a.gguf": "looks like a file",
    "a.gguf": "without the place",
    "org/..": "does not name a repository",
    "org/a..b": "does not name a repository",
    "org/a--b": "does not name a repository",
    "org/repo.git": "does not name a repository",
    "-org/repo": "does not name a repository",
    "org/": "does not name a repository",
    "org/repo:": "no quantization",
    "org/repo:Q4 K": "blanks",
    "org/repo:Q4/K": "not clear",
    "org/repo/folder": "not clear",
    "org/repo/../x.gguf": "cannot be a file name",
    "org/repo@..x": "names a revision",
    "org/repo@../x": "not clear",
    "org/repo/a/con.gguf": "cannot be a file name",
    f"{PAGE}/blob/main": "does not name a file",
    f"{PAGE}/blob/main/a/%2e%2e/b.gguf": "cannot be a file name",
    f"{PAGE}/blob/main/a%00.gguf": "cannot be a file name",
    f"{PAGE}/blob/..%2f..%2fx/a.gguf": "names a revision",
    f"{PAGE}/blob/main/{'a/' * 600}b.gguf": "does not name a file",
    "https://huggingface.co/org": "a page of Hugging Face",
    "https://huggingface.co/datasets/org/repo": "a page of Hugging Face",
    "https://ollama.com/search/x?q=llama": "a page of Ollama",
    "https://ollama.com/qwen3": "a page of Ollama",
    "user:secret@host/x": "user or a password",
    "https://user:secret@huggingface.co/org/repo": "user or a password",
    "https://hf_secret@example.org/model.gguf": "user or a password",
    "http://example.org/model.gguf": "without https",
    "https://example.org/model.zip": "not the address of a .gguf file",
    "https://example.org/a/../model.gguf": "not the address of a .gguf file",
    "https://example.org:99999/model.gguf": "not a valid address",
    "https://[::1/model.gguf": "not a valid address",
    "https://ex\u00e4mple.org/model.gguf": "not a valid address",
    "https:///model.gguf": "not a valid address",
    "ftp://example.org/model.gguf": "a kind that cannot be used",
    "file:///etc/model.gguf": "a kind that cannot be used",
    "llama-wrangler://pull/x": "a kind that cannot be used",
    "localhost:5000/llama": "neither a repository",
    "localhost:0/a/b": "the name of a server",
    "a..b/c/d": "the name of a server",
    "ollama:": "not a name",
    "ollama:a/b/c": "not a name",
    "ollama:a/../b": "not a name",
    "qwen3:": "not a name",
    "qwen3:a:b": "not a name",
    "rm -rf /": "blanks",
    "hf download": "blanks",
    "hf download org/data --repo-type dataset": "is no model",
    "hf download org/repo a.gguf b.gguf": "2 models",
    'hf download "org/repo': "blanks",
    "llama-server -m /models/a.gguf": "blanks",
    "llama-server -hf": "blanks",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[:40]))
def test_what_names_no_model_is_refused_with_a_way_out(text: str) -> None:
    if REFUSED[text] == "":
        assert parse(text).name == "org/repo"
        return
    with pytest.raises(BadRequest) as caught:
        parse(text)
    assert REFUSED[text] in caught.value.message
    assert caught.value.remedy
    assert len(caught.value.message) < 400
    assert "secret" not in caught.value.message + caught.value.remedy


def test_a_pasted_token_is_not_kept() -> None:
    assert "hf_abc" not in parse("hf download org/repo --token hf_abc").text
    assert "hf_abc" not in parse("HF_TOKEN=hf_abc llama-server -hf org/repo").text


def test_shards_named_together_are_one_model() -> None:
    names = " ".join(f"m-0000{n}-of-00002.gguf" for n in (1, 2))
    assert parse(f"hf download org/repo {names}").file == "m-00001-of-00002.gguf"


ALPHABET = [
    *(string.ascii_letters[:4] + string.digits[:3] + ":/@.-_%?#\\ []&='\"\t\x00"),
    *(
        "..",
        "//",
        "https://",
        "hf.co/",
        "org/repo",
        ".gguf",
        "%2e",
        "%2f",
        "ollama:",
        "ollama.com/",
    ),
    *("localhost", ":5000", "/blob/", "/tree/", "main", "hf download ", "-hf ", "\u202e", "é"),
]


def assert_holds(found: Reference) -> None:
    """What everybody behind `parse` relies on."""
    assert found.text.isprintable()
    assert " " not in found.text
    assert parse(found.text) == found
    for path in (found.file, found.folder):
        for part in (path or "").split("/") if path else ():
            assert safe_name(part) == part
    if found.hub is URL:
        assert is_trusted(found.name)
        assert "@" not in found.name.split("/")[2]
        return
    first, last = found.name.split("/")
    assert {*first, *last} <= {*string.ascii_letters, *string.digits, *"._-"}
    assert ".." not in (first, last)
    assert not any(char in (found.tag or "") for char in "/\\:@ ")
    assert found.hub is OLLAMA or found.host is None
    assert ".." not in (found.revision or "")


@pytest.mark.parametrize("seed", range(8))
def test_no_text_breaks_the_rules(seed: int) -> None:
    choose = random.Random(seed)
    understood = 0
    for _ in range(4000):
        text = "".join(choose.choices(ALPHABET, k=choose.randint(1, 9)))
        try:
            found = parse(text)
        except BadRequest:
            continue
        understood += 1
        assert_holds(found)
    assert understood > 50


@pytest.mark.parametrize("seed", range(4))
def test_a_good_reference_with_one_change_is_understood_or_refused(seed: int) -> None:
    choose = random.Random(seed)
    for text in MEANT:
        for _ in range(30):
            at = choose.randrange(len(text) + 1)
            changed = text[:at] + choose.choice(ALPHABET) + text[at + choose.randint(0, 1) :]
            try:
                found = parse(changed)
            except BadRequest:
                continue
            assert_holds(found)


@pytest.mark.parametrize(
    "text", ["a" * MAX_TEXT, "a/" * 1000, "-" * 2000, "hf.co/a/" + "-." * 1000, "a:" * 1000]
)
def test_long_text_takes_no_long_time(text: str) -> None:
    before = time.process_time()
    with pytest.raises(BadRequest):
        parse(text)
    assert time.process_time() - before < 0.1
