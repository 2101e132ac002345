"""Reading honest GGUF headers: the facts that the library lists."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from tests import gguf_maker as maker
from tests.gguf_maker import Tensor, Typed, llama_keys, make_gguf
from tray_app.engine import gguf
from tray_app.engine.errors import BadGguf
from tray_app.engine.gguf import kv_bytes_per_token, read_details, read_summary
from tray_app.engine.values import ModelKind

KV_OF_DEFAULT = 2 * 2 * (16 + 16) * 2  # layers * KV heads * (key + value length) * F16


def test_a_summary_knows_the_shape_of_the_model(tmp_path: Path) -> None:
    header = read_summary(make_gguf(tmp_path / "a.gguf"))
    assert header.architecture == "llama"
    assert header.context_length == 4096
    assert header.embedding_length == 64
    assert header.kv_bytes_per_token == KV_OF_DEFAULT
    assert header.tensor_count == 2
    assert header.kind is ModelKind.UNKNOWN
    assert not header.details


def test_details_add_parameters_template_and_quantization(tmp_path: Path) -> None:
    tensors = maker.default_tensors(maker.TYPE_Q4_K)
    header = read_details(make_gguf(tmp_path / "a.gguf", tensors=tensors))
    assert header.details
    assert header.parameter_count == 256 * 8 + 64
    assert header.quantization == "Q4_K"
    assert header.has_chat_template is True
    assert header.kind is ModelKind.CHAT


def test_without_a_template_a_model_only_completes(tmp_path: Path) -> None:
    header = read_details(make_gguf(tmp_path / "a.gguf", llama_keys(template=None)))
    assert header.has_chat_template is False
    assert header.kind is ModelKind.COMPLETION


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_and_byte_orders_are_read(tmp_path: Path, order: str, version: int) -> None:
    path = make_gguf(tmp_path / "a.gguf", order=order, version=version)
    for header in (read_summary(path), read_details(path)):
        assert header.version == version
        assert header.big_endian is (order == ">")
        assert header.context_length == 4096
    assert read_details(path).parameter_count == 256 * 8 + 64


@pytest.mark.parametrize(
    ("file_type", "tensor_type", "label"),
    [
        (15, maker.TYPE_Q4_K, "Q4_K_M"),
        (15 + 1024, maker.TYPE_Q4_K, "Q4_K_M"),
        (7, maker.TYPE_Q8_0, "Q8_0"),
        (1, maker.TYPE_F16, "F16"),
        (1, maker.TYPE_Q8_0, "Q8_0"),  # a converter left "F16" standing
        (999, maker.TYPE_Q8_0, "Q8_0"),
        (None, maker.TYPE_F16, "F16"),
        (10, maker.TYPE_Q4_0, "Q2_K"),  # rows too short for Q2_K: llama-quantize's stand-in
        (38, 39, "MXFP4"),
        (5000, 43, "TYPE_43"),  # a type that a newer llama.cpp may know
    ],
)
def test_the_quantization_follows_the_tensors_when_file_type_is_odd(
    tmp_path: Path, file_type: int | None, tensor_type: int, label: str
) -> None:
    keys = llama_keys(more={"general.file_type": file_type})
    header = read_details(make_gguf(tmp_path / "a.gguf", keys, maker.default_tensors(tensor_type)))
    assert header.quantization == label


def test_file_type_is_in_the_summary_when_it_stands_before_the_tokenizer(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "a.gguf", llama_keys(more={"general.file_type": 15}))
    assert read_summary(path).quantization == "Q4_K_M"


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_half_file_is_found_by_its_tensors(tmp_path: Path, keep: float) -> None:
    path = make_gguf(tmp_path / "a.gguf", keep=keep)
    read_summary(path)
    with pytest.raises(BadGguf, match="incomplete") as caught:
        read_details(path)
    assert "download" in caught.value.remedy


def test_a_file_cut_inside_its_header_is_found(tmp_path: Path) -> None:
    header, _ = maker.gguf_bytes(llama_keys(tokens=1000))
    path = maker.write_file(tmp_path / "a.gguf", header[:2000])
    for read in (read_summary, read_details):
        with pytest.raises(BadGguf):
            read(path)


def test_the_last_tensor_need_not_be_padded(tmp_path: Path) -> None:
    header, _ = maker.gguf_bytes(tensors=[Tensor("a", (3,))])
    path = maker.write_file(tmp_path / "a.gguf", header, len(header) + 12)
    assert read_details(path).details


def test_alignment_moves_the_data(tmp_path: Path) -> None:
    keys = llama_keys(more={"general.alignment": 256})
    assert read_details(make_gguf(tmp_path / "a.gguf", keys, alignment=256)).details
    with pytest.raises(BadGguf):
        read_details(make_gguf(tmp_path / "b.gguf", keys, alignment=32))


def test_a_header_without_tokenizer_is_known_whole_at_once(tmp_path: Path) -> None:
    keys = {"general.architecture": "llama", "general.type": "adapter"}
    header = read_summary(make_gguf(tmp_path / "a.gguf", keys, tensors=[]))
    assert header.has_chat_template is False
    assert header.details


@pytest.mark.parametrize(
    ("architecture", "more"),
    [
        ("bert", {}),
        ("nomic-bert-moe", {}),
        ("gemma-embedding", {}),
        ("qwen3", {"qwen3.pooling_type": 3}),
    ],
)
def test_embedding_models_are_known_from_the_summary(
    tmp_path: Path, architecture: str, more: dict[str, Any]
) -> None:
    path = make_gguf(tmp_path / "a.gguf", llama_keys(architecture, more=more))
    assert read_summary(path).kind is ModelKind.EMBEDDING
    assert read_details(path).kind is ModelKind.EMBEDDING


def test_a_pooling_type_of_none_is_no_embedding_model(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "a.gguf", llama_keys(more={"llama.pooling_type": 0}))
    assert read_details(path).kind is ModelKind.CHAT


ATTENTION = "llama.attention."


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, KV_OF_DEFAULT),
        ({f"{ATTENTION}head_count_kv": None}, 2 * KV_OF_DEFAULT),  # then every head has its own
        ({f"{ATTENTION}head_count_kv": (2, 0)}, KV_OF_DEFAULT // 2),
        ({f"{ATTENTION}head_count": (4, 4)}, KV_OF_DEFAULT),
        ({f"{ATTENTION}key_length": 32, f"{ATTENTION}value_length": 64}, 2 * 2 * 96 * 2),
        ({f"{ATTENTION}key_length": 32, f"{ATTENTION}key_length_swa": 48}, 2 * 2 * (48 + 16) * 2),
        ({f"{ATTENTION}shared_kv_layers": 1}, KV_OF_DEFAULT // 2),
        (
            {
                f"{ATTENTION}head_count_kv": 1,
                f"{ATTENTION}key_length": 576,
                f"{ATTENTION}value_length": 512,
                f"{ATTENTION}key_length_mla": 192,
                f"{ATTENTION}value_length_mla": 128,
            },
            2 * 576 * 2,
        ),
        ({"llama.block_count": None}, None),
        ({"llama.block_count": 1 << 30}, None),
        ({f"{ATTENTION}head_count": 0}, None),
        ({f"{ATTENTION}head_count_kv": (1,)}, 2 * KV_OF_DEFAULT),
        ({f"{ATTENTION}key_length": 1 << 30}, None),
        ({"llama.ssm.state_size": 16}, None),
        ({"llama.full_attention_interval": 4}, None),
        ({"llama.ssm.state_size": 16, f"{ATTENTION}head_count_kv": (2, 0)}, KV_OF_DEFAULT // 2),
    ],
)
def test_kv_cache_follows_heads_and_layers(changes: dict[str, Any], expected: int | None) -> None:
    values = {key: value for key, value in (llama_keys() | changes).items() if value is not None}
    assert kv_bytes_per_token(values, "llama") == expected


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("mamba", None), ("rwkv7", None), ("qwen3next", None), ("bert", 0), (None, None)],
)
def test_models_without_a_plain_kv_cache_say_so(
    architecture: str | None, expected: int | None
) -> None:
    assert kv_bytes_per_token(llama_keys(architecture or "x"), architecture) == expected


def test_values_of_a_wrong_type_are_not_known_rather_than_wrong(tmp_path: Path) -> None:
    more = {
        "llama.context_length": "many",
        "llama.embedding_length": Typed(maker.F32, 1.5),
        "general.license": 7,
        "general.size_label": True,
    }
    header = read_details(make_gguf(tmp_path / "a.gguf", llama_keys(more=more)))
    assert header.context_length is None
    assert header.embedding_length is None
    assert header.license is None
    assert header.size_label is None


def test_a_name_from_a_file_is_printable_and_short(tmp_path: Path) -> None:
    keys = llama_keys(more={"general.license": "MIT\x1b[31m\n\0" + "x" * 5000})
    header = read_details(make_gguf(tmp_path / "a.gguf", keys))
    assert header.license is not None
    assert header.license.isprintable()
    assert len(header.license) <= 1024
    assert header.context_length == 4096  # what follows is read from the right place


def test_long_strings_and_arrays_before_the_tokenizer_are_passed(tmp_path: Path) -> None:
    more = {
        "general.description": "d" * 100_000,
        "general.tags": ["tag " * 9000, *(str(n) for n in range(3000))],
        "llama.rope.factors": list(range(9000)),
        "general.license": "mit",
    }
    path = make_gguf(tmp_path / "a.gguf", llama_keys(more=more))
    assert read_summary(path).license == "mit"
    assert read_details(path).license == "mit"


def test_tensor_data_is_never_read(tmp_path: Path) -> None:
    header, _ = maker.gguf_bytes(
        tensors=[Tensor("huge.weight", (1 << 20, 1 << 20), maker.TYPE_F16)]
    )
    path = maker.write_file(tmp_path / "a.gguf", header, len(header) + (2 << 40))  # 2 TiB of hole
    assert read_details(path).parameter_count == 1 << 40


def test_a_header_can_be_read_from_the_first_bytes_of_a_download() -> None:
    data, size = maker.gguf_bytes()
    header = gguf.read_header(io.BytesIO(data), size, whole=True)
    assert header.parameter_count == 256 * 8 + 64


def test_a_header_survives_its_way_through_json(tmp_path: Path) -> None:
    header = read_details(make_gguf(tmp_path / "a.gguf"))
    assert gguf.from_record(gguf.to_record(header)) == header
