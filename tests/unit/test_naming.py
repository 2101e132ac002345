"""File and folder names: quantization, shards, projectors, ids."""

from __future__ import annotations

import os

import pytest

from tray_app.engine import naming

ROOT = "/models"


def id_of(relative: str, *, sure: bool = False) -> str:
    path = f"{ROOT}/{relative}"
    name = naming.parse_file_name(os.path.basename(path))
    origin = naming.trusted_origin(name, naming.find_origin(path, ROOT, sure=sure))
    return next(naming.id_candidates(path, name, origin))


@pytest.mark.parametrize(
    ("file_name", "stem", "label"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct", "Q4_1"),
        ("gemma-3-4b-it-Q4_K_M.gguf", "gemma-3-4b-it", "Q4_K_M"),
        ("qwen2.5-7b-instruct-q4_k_m.gguf", "qwen2.5-7b-instruct", "Q4_K_M"),
        ("Qwen3-30B-A3B-UD-Q4_K_XL.gguf", "Qwen3-30B-A3B", "UD-Q4_K_XL"),
        ("Llama-3-70B-IQ2_XXS.gguf", "Llama-3-70B", "IQ2_XXS"),
        ("Llama-3-70B-UD-IQ1_S.gguf", "Llama-3-70B", "UD-IQ1_S"),
        ("Meta-Llama-3-8B.i1-IQ4_XS.gguf", "Meta-Llama-3-8B.i1", "IQ4_XS"),
        ("model-f16.gguf", "model", "F16"),
        ("model-FP16.gguf", "model", "F16"),
        ("Phi-4.BF16.gguf", "Phi-4", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b", "MXFP4"),
        ("gpt-oss-20b-MXFP4_MOE.gguf", "gpt-oss-20b", "MXFP4"),
        ("Phi-3-mini-4k-instruct-q4.gguf", "Phi-3-mini-4k-instruct", "Q4"),
        ("bitnet-TQ1_0.gguf", "bitnet", "TQ1_0"),
        ("x-Q8_0.GGUF", "x", "Q8_0"),
        ("stories260K.gguf", "stories260K", None),
        ("Qwen3-4B.gguf", "Qwen3-4B", None),
        ("Q4_K_M.gguf", "", "Q4_K_M"),
    ],
)
def test_the_quantization_is_read_from_the_file_name(
    file_name: str, stem: str, label: str | None
) -> None:
    parsed = naming.parse_file_name(file_name)
    assert (parsed.stem, parsed.label) == (stem, label)


def test_shard_numbers_are_read_and_do_not_belong_to_the_stem() -> None:
    parsed = naming.parse_file_name("Kimi-K2-Q2_K-00003-of-00012.gguf")
    assert (parsed.stem, parsed.label) == ("Kimi-K2", "Q2_K")
    assert (parsed.shard_index, parsed.shard_count) == (3, 12)


@pytest.mark.parametrize(
    "name", ["a-00000-of-00002.gguf", "a-00003-of-00002.gguf", "a-1-of-2.gguf"]
)
def test_impossible_shard_numbers_are_just_a_name(name: str) -> None:
    parsed = naming.parse_file_name(name)
    assert (parsed.shard_index, parsed.shard_count) == (1, 1)
    assert parsed.stem == name.removesuffix(".gguf")


@pytest.mark.parametrize(
    "name", ["mmproj-F16.gguf", "gemma-3-mmproj-f16.gguf", "x.MMPROJ-Q8_0.gguf"]
)
def test_projectors_are_known_by_name(name: str) -> None:
    assert naming.parse_file_name(name).is_mmproj


@pytest.mark.parametrize(
    ("name", "skipped"),
    [
        ("ggml-vocab-llama-bpe.gguf", True),
        ("imatrix.gguf", True),
        ("imatrix_unsloth.gguf", True),
        ("Qwen3-8B.imatrix.gguf", True),
        ("Qwen3-8B-Q4_K_M-imatrix.gguf", False),
        ("vocabulary-model.gguf", False),
    ],
)
def test_files_that_are_no_models_are_known_by_name(name: str, skipped: bool) -> None:
    assert (naming.skip_reason(name) is not None) is skipped


@pytest.mark.parametrize(
    ("name", "unfinished"),
    [
        ("a.gguf.part", True),
        ("a.gguf.downloadInProgress", True),
        ("a.gguf.abc123.incomplete", True),
        ("a.gguf", False),
        ("notes.part", False),
    ],
)
def test_unfinished_downloads_are_known_by_name(name: str, unfinished: bool) -> None:
    assert naming.is_unfinished(name) is unfinished


@pytest.mark.parametrize(
    ("relative", "model_id"),
    [
        (
            "bartowski/gemma-3-4b-it-GGUF/gemma-3-4b-it-Q4_K_M.gguf",
            "bartowski/gemma-3-4b-it-GGUF:Q4_K_M",
        ),
        ("ggml-org/x-GGUF/model-f16.gguf", "ggml-org/x-GGUF:F16"),
        ("unsloth/Qwen3-GGUF/Q2_K/Qwen3-Q2_K-00001-of-00002.gguf", "unsloth/Qwen3-GGUF:Q2_K"),
        ("AI/llms/unsloth/Qwen3-GGUF/Qwen3-Q8_0.gguf", "unsloth/Qwen3-GGUF:Q8_0"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct:Q4_1"),
        ("chat/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct:Q4_1"),
        ("chat/small/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct:Q4_1"),
        ("stories260K.gguf", "stories260K"),
        ("a b:c.Q4_0.gguf", "a-b-c:Q4_0"),
        ("x/y-GGUF/y-Q4_K_M-imat.gguf", "x/y-GGUF:Q4_K_M-imat"),
        (
            "hub/models--Qwen--Qwen3-8B-GGUF/snapshots/abc/Qwen3-8B-Q4_K_M.gguf",
            "Qwen/Qwen3-8B-GGUF:Q4_K_M",
        ),
        (
            "hub/models--ggml-org--models/snapshots/abc/stories15M-q4_0.gguf",
            "ggml-org/models:stories15M-Q4_0",
        ),
    ],
)
def test_the_id_comes_from_the_path(relative: str, model_id: str) -> None:
    assert id_of(relative) == model_id


def test_a_known_layout_keeps_publisher_and_repo_for_an_unrelated_file() -> None:
    path = "ggml-org/models/stories15M-q4_0.gguf"
    assert id_of(path) == "stories15M:Q4_0"
    assert id_of(path, sure=True) == "ggml-org/models:stories15M-Q4_0"


def test_no_model_takes_the_name_default() -> None:
    assert id_of("default.gguf") != "default"


def test_the_last_candidate_is_unique_to_the_path() -> None:
    name = naming.parse_file_name("a-Q4_0.gguf")
    one = list(naming.id_candidates("/m/1/a-Q4_0.gguf", name, naming.Origin()))
    two = list(naming.id_candidates("/m/2/a-Q4_0.gguf", name, naming.Origin()))
    assert one[0] == two[0] == "a:Q4_0"
    assert one[-1] != two[-1]


def test_a_name_that_is_not_text_still_gives_a_printable_id() -> None:
    model_id = id_of("bad\udcff\n-Q4_0.gguf")
    assert model_id.isprintable()
    assert model_id == "bad--:Q4_0"


@pytest.mark.parametrize(
    ("from_name", "from_header", "best"),
    [
        ("UD-Q4_K_XL", "Q4_K_M", "UD-Q4_K_XL"),
        ("Q8_0", "Q4_K_M", "Q4_K_M"),
        (None, "Q4_0", "Q4_0"),
        ("Q4_0", None, "Q4_0"),
        ("F16", "BF16", "F16"),
        (None, None, None),
    ],
)
def test_the_header_corrects_a_wrong_name(
    from_name: str | None, from_header: str | None, best: str | None
) -> None:
    assert naming.best_label(from_name, from_header) == best


def test_a_generic_file_name_shows_the_repo() -> None:
    name = naming.parse_file_name("ggml-model-Q4_0.gguf")
    assert naming.display_name(name, naming.Origin("a", "Nice-7B-GGUF")) == "Nice-7B"
