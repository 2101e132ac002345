"""A real registry that holds a real model as Ollama lays it out: planned, fetched, taken in."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import parts
from tests.oci_registry import OciRegistry, running_registry
from tray_app.engine.downloads import ollama
from tray_app.engine.downloads.values import Hub, Plan, Reference
from tray_app.engine.errors import NotFound
from tray_app.engine.fetch import RemoteFile, fetch_file
from tray_app.engine.gguf_cache import MetadataCache
from tray_app.engine.library import Library
from tray_app.engine.settings import ModelSettings, parse_table

PARAMS = {
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "min_p": 0.01,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "repeat_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "seed": 42,
    "num_predict": -1,
    "num_keep": 24,
    "num_batch": 256,
    "main_gpu": 0,
    "num_ctx": 2048,
    "num_thread": 2,
    "stop": ["<|im_end|>", "two\nlines", "back\\slash"],
}
LICENSE = b"\nApache License\nVersion 2.0, January 2004\n"


@pytest.fixture(scope="module")
def registry() -> Iterator[OciRegistry]:
    try:
        with running_registry() as registry:
            yield registry
    except parts.PartMissing as missing:
        if parts.in_ci():
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def pushed(registry: OciRegistry, smollm2: Path) -> tuple[str, bytes]:
    """The manifest's digest and the projector (its content is of no account here)."""
    projector = b"GGUF, as far as the registry knows"
    layers = [
        ("model", smollm2),
        ("projector", projector),
        ("template", b"{{ .Prompt }}"),
        ("system", b"You are a herder of llamas."),
        ("params", json.dumps(PARAMS).encode()),
        ("license", LICENSE),
        ("messages", b"[]"),
    ]
    return registry.push_model("library/smollm2", "135m-q4_1", layers), projector


def planned(registry: OciRegistry, tag: str | None = "135m-q4_1") -> Plan:
    reference = Reference(
        f"{registry.host}/smollm2", Hub.OLLAMA, "library/smollm2", host=registry.host, tag=tag
    )
    return ollama.plan(reference)


def test_a_model_of_a_real_registry_is_planned_with_all_it_carries(
    registry: OciRegistry, pushed: tuple[str, bytes]
) -> None:
    plan = planned(registry)
    publisher = f"{registry.host.replace(':', '_')}_library"
    folder = f"{publisher}/smollm2/smollm2-135m-q4_1"
    assert [(file.role, file.path) for file in plan.files] == [
        ("model", f"{folder}/smollm2-135m-q4_1.gguf"),
        ("mmproj", f"{folder}/mmproj-smollm2-135m.gguf"),
        ("other", f"{folder}/smollm2-135m-q4_1.LICENSE"),
    ]
    model = plan.files[0].remote
    assert (model.size_bytes, model.sha256) == (parts.SMOLLM2_SIZE_BYTES, parts.SMOLLM2_SHA256)
    assert plan.reference == f"{registry.host}/library/smollm2:135m-q4_1"
    assert plan.origin["digest"] == pushed[0]
    assert plan.origin["license"] == "Apache License"
    assert plan.origin["template"] == "ollama"
    assert plan.settings["system_prompt"] == "You are a herder of llamas."
    assert plan.settings["context_length"] == 2048
    assert plan.settings["threads"] == 2
    assert plan.warnings == ("Its example messages are left out.",)


def test_each_file_of_the_plan_arrives_with_the_right_content_and_becomes_a_model(
    registry: OciRegistry, pushed: tuple[str, bytes], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    plan = planned(registry)
    for file in plan.files:
        remote = file.remote.renew() if file.remote.renew else file.remote
        assert remote.sha256 is not None
        wanted = RemoteFile(remote.url, remote.filename, remote.sha256, remote.size_bytes)
        target = fetch_file(wanted, models / file.path)
        with target.open("rb") as content:
            assert hashlib.file_digest(content, "sha256").hexdigest() == remote.sha256
    _, mmproj, license_file = (models / file.path for file in plan.files)
    assert mmproj.read_bytes() == pushed[1]
    assert license_file.read_bytes() == LICENSE
    mmproj.unlink()  # it is none, and the library would say so
    cache = MetadataCache(tmp_path / "state.db")
    with Library([models], cache, lambda: None, home=models) as library:
        library.rescan()
        assert library.wait(30)
        (model,) = library.models()
        assert library.left_out() == ()
    cache.close()
    publisher = f"{registry.host.replace(':', '_')}_library"
    assert model.id == f"{publisher}/smollm2:Q4_1"
    assert (model.name, model.publisher) == ("smollm2-135m", publisher)
    assert model.path == models / plan.files[0].path


def test_a_real_registry_has_no_such_tag(registry: OciRegistry, pushed: tuple[str, bytes]) -> None:
    with pytest.raises(NotFound) as caught:
        planned(registry, "9t")
    assert registry.host in caught.value.message
    assert "the model or tag" in caught.value.message


def test_llama_server_takes_every_argument_that_parameters_become(
    registry: OciRegistry, pushed: tuple[str, bytes], llama_server: Path
) -> None:
    settings = parse_table(ModelSettings, planned(registry).settings)
    words = list(settings.extra_args)
    assert len(words) == 2 * (len(PARAMS) - 2 + 2)  # two are settings, stop is there three times
    # It reads its words in order and ends at the first wrong one, or at --version.
    argv = [str(llama_server), *words, "--version"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wrong = [str(llama_server), *words, "--no-such-argument", "--version"]
    assert subprocess.run(wrong, capture_output=True, check=False).returncode != 0
