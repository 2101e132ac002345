"""The curated list and the sentences about quantizations: every number follows from something."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tray_app.engine.downloads import catalog, quantizations
from tray_app.engine.downloads.badge import Machine, judge
from tray_app.engine.downloads.references import parse
from tray_app.engine.downloads.values import Fits, Hub
from tray_app.engine.errors import EngineError
from tray_app.engine.gguf_types import FILE_TYPES, TENSOR_TYPES
from tray_app.engine.memory import reserve_bytes

FILE = Path(catalog.__file__).with_name(catalog.FILE)
ROWS = json.loads(FILE.read_text("utf-8"))["models"]
GIB = 1 << 30
# Bits for a weight of the mixes in the list, of llama.cpp's table for Llama 3.1 8B. Small models
# take more: their embedding table is a larger part and has more bits.
BITS = {"Q4_K_M": 4.9, "Q8_0": 8.5, "MXFP4": 4.3}


@pytest.mark.parametrize("entry", catalog.load().entries, ids=lambda entry: entry.title)
def test_an_entry_names_a_repository_and_a_quantization_that_is_explained(
    entry: catalog.Entry,
) -> None:
    reference = parse(entry.reference)
    assert (reference.hub, reference.file) == (Hub.HUGGINGFACE, None)
    assert quantizations.explain(reference.tag) != quantizations.UNKNOWN
    assert entry.about.endswith(".")
    assert entry.size_is_about  # nobody measured them here


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["title"])
def test_a_size_follows_from_parameters_and_bits(row: dict[str, Any]) -> None:
    bits = row["size_bytes"] * 8 / row["parameters"]
    expected = BITS[row["reference"].rpartition(":")[2]]
    assert expected * 0.97 <= bits <= expected * 1.1
    sizes = re.findall(r"(\d+(?:\.\d+)?)B\b", row["title"])
    if sizes:
        assert row["parameters"] / 1e9 == pytest.approx(float(sizes[0]), rel=0.1)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["title"])
def test_numbers_are_those_of_real_models(row: dict[str, Any]) -> None:
    assert 2048 <= row["context_length"] <= 131_072
    assert row["kv_bytes_per_token"] == 0 or 16_384 <= row["kv_bytes_per_token"] <= 1 << 20
    if row["projector_bytes"]:
        assert 0.05e9 < row["projector_bytes"] < 2e9


def fitting(ram_gib: float) -> set[str]:
    total = int(ram_gib * GIB)
    machine = Machine(total, total, reserve_bytes(total))
    return {
        entry.title
        for entry in catalog.load().entries
        if judge(entry.size_bytes, entry.kv_bytes_per_token, 8192, machine).fits is Fits.PROCESSOR
    }


def test_there_is_something_for_every_machine() -> None:
    small, usual, large = fitting(4), fitting(8), fitting(24)
    assert len(small) >= 2
    assert small < usual < large
    assert len(large) >= len(catalog.load().entries) - 1
    told = {tag for entry in catalog.load().entries for tag in entry.tags}
    assert told == catalog.TAGS


def test_the_names_for_completion_are_ollamas() -> None:
    names = catalog.load().ollama_names
    assert len(names) >= 55
    assert list(names) == sorted(set(names), key=names.index)
    assert {parse(name).name for name in names} == {f"library/{name}" for name in names}


@pytest.mark.parametrize(
    "change",
    [
        {"reference": "../../etc"},
        {"reference": "org/repo"},  # no quantization
        {"reference": "llama3:8b"},
        {"tags": ["chat", "best"]},
        {"tags": ["chat", "vision"], "projector_bytes": None},
        {"kv_bytes_per_token": 1},
        {"kv_shape": "twelve"},
        {"size_bytes": 0},
        {"size_bytes": True},
        {"parameters": "8B"},
        {"title": " "},
    ],
)
def test_a_wrong_list_is_refused(change: dict[str, Any]) -> None:
    text = json.dumps({"models": [ROWS[0] | change], "ollama_names": []})
    with pytest.raises(EngineError, match="list of suggested models"):
        catalog.load(text)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"models": []}', '{"models": [{}], "ollama_names": []}', "\x00"],
)
def test_a_broken_list_is_refused(text: str) -> None:
    with pytest.raises(EngineError):
        catalog.load(text)


def test_the_same_model_twice_and_names_of_elsewhere_are_refused() -> None:
    for told in (
        {"models": [ROWS[0], ROWS[0]], "ollama_names": []},
        {"models": [ROWS[0]], "ollama_names": ["org/repo"]},
        {"models": [ROWS[0]], "ollama_names": [7]},
    ):
        with pytest.raises(EngineError):
            catalog.load(json.dumps(told))


# -- quantizations


def test_every_label_that_llama_cpp_writes_is_explained() -> None:
    known = quantizations.all_known()
    assert set(FILE_TYPES.values()) <= set(known)
    for sentence in known.values():
        assert sentence.endswith(".")
        assert len(sentence) < 100


@pytest.mark.parametrize("label", ["TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "MXFP4", "NVFP4", "Q8_0"])
def test_bits_are_those_of_the_blocks(label: str) -> None:
    _, elements, size = TENSOR_TYPES[next(t for t, row in TENSOR_TYPES.items() if row[0] == label)]
    found = re.search(r"About ([\d.]+) bits", quantizations.explain(label))
    assert found is not None
    assert float(found[1]) == pytest.approx(size * 8 / elements, abs=0.051)


def test_a_dynamic_label_says_what_it_is_made_of() -> None:
    told = quantizations.explain("UD-Q4_K_XL")
    assert "Unsloth" in told
    assert quantizations.explain("Q4_K_XL") in told
    assert quantizations.explain("ud-q2_k").endswith(quantizations.explain("Q2_K"))


def test_case_and_the_fields_other_spellings_do_not_matter() -> None:
    assert quantizations.explain("q4_k_m") == quantizations.explain("Q4_K_M")
    assert quantizations.explain("MXFP4_MOE") == quantizations.explain("MXFP4")


@pytest.mark.parametrize("label", ["Q9_Z", "", "UD-", "UD-IQ9_X", "<script>"])
def test_of_an_unknown_label_nothing_is_claimed(label: str) -> None:
    assert quantizations.explain(label) == quantizations.UNKNOWN
    assert "bits" not in quantizations.explain(None)
