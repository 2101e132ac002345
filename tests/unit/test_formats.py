"""What a file or folder of a model is: from content, within bounds, whatever is in it."""

from __future__ import annotations

import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gguf_maker import make_gguf, make_mmproj, make_shards
from tests.tray_kit import snapshot
from tests.unit.engine_kit import running_engine
from tests.unit.test_cli_runtime import Engine
from tray_app import cli, cli_inspect
from tray_app.engine.errors import BadRequest
from tray_app.engine.formats import pickles, safetensors
from tray_app.engine.formats.bounded import Unreadable, parse_object
from tray_app.engine.formats.converter import Known, known_architectures
from tray_app.engine.formats.inspect import inspect
from tray_app.engine.formats.values import Action, Format
from tray_app.engine.values import to_json

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
}
KNOWN = Known(frozenset({"LlamaForCausalLM", "BertModel"}), frozenset({"LlavaForConditional"}))


def tensors_file(path: Path, rows: dict[str, Any] | None = None, data: int | None = None) -> Path:
    """A safetensors file; its data is a hole."""
    if rows is None:
        rows = {"a.weight": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}}
    header = json.dumps(rows).encode()
    end = max((row["data_offsets"][1] for row in rows.values() if "data_offsets" in row), default=0)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + (end if data is None else data))
    return path


def model_folder(path: Path, config: dict[str, Any] | None = None, **files: Any) -> Path:
    """A convertible folder; a keyword replaces a file, None leaves it out."""
    path.mkdir(parents=True, exist_ok=True)
    texts: dict[str, Any] = {
        "config.json": CONFIG if config is None else config,
        "tokenizer.json": {"model": {"type": "BPE", "vocab": {}, "merges": []}},
        "tokenizer_config.json": {"chat_template": "{{ messages }}"},
        **{name.replace("__", "."): value for name, value in files.items()},
    }
    for name, value in texts.items():
        if value is not None:
            (path / name).write_text(value if isinstance(value, str) else json.dumps(value))
    tensors_file(path / "model.safetensors")
    return path


def checkpoint(path: Path, value: Any) -> Path:
    """A ZIP as torch.save writes it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value, 2))
    return path


class Bomb:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch /tmp/llama-wrangler-was-unpickled",)


# -- what can be used


def test_a_gguf_can_be_run_quantized_and_split(tmp_path: Path) -> None:
    report = inspect(make_gguf(tmp_path / "Tiny.F32.gguf"))
    assert (report.format, report.problem) == (Format.GGUF, "")
    assert report.actions == (Action.RUN, Action.IMPORT, Action.QUANTIZE, Action.SPLIT)
    assert (report.architecture, report.context_length) == ("llama", 4096)
    assert dict(report.facts)["Tensors"] == "2"


def test_a_shard_can_be_merged_and_a_projector_is_no_model(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, "Wide-Q8_0", 2)
    assert Action.MERGE in inspect(shards[0]).actions
    projector = inspect(make_mmproj(tmp_path / "mmproj-x.gguf"))
    assert projector.actions == ()
    assert projector.title.startswith("A projector")


def test_a_blob_of_ollamas_store_is_known_by_its_name(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / ("sha256-" + "a" * 64))
    assert inspect(path).format is Format.OLLAMA


def test_a_folder_of_original_weights_can_be_converted(tmp_path: Path) -> None:
    report = inspect(model_folder(tmp_path / "Original"), KNOWN)
    assert (report.format, report.actions) == (Format.HUGGINGFACE, (Action.CONVERT,))
    assert report.problem == ""
    assert report.architecture == "LlamaForCausalLM"
    assert report.context_length == 2048
    assert report.tensors is not None
    assert (report.tensors.parameters, report.tensors.main_type) == (32, "BF16")
    assert report.tokenizer is not None
    assert (report.tokenizer.kind, report.tokenizer.has_chat_template) == ("bpe", True)


def test_shards_are_found_by_their_index(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name in names:
        tensors_file(folder / name)
    table = {"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))
    report = inspect(folder, KNOWN)
    assert report.files == tuple(names)
    assert report.tensors is not None
    assert report.tensors.count == 2
    (folder / names[1]).unlink()
    assert names[1] in inspect(folder, KNOWN).problem


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"tokenizer__json": {"model": {"type": "Unigram"}}}, "unigram"),
        ({"tokenizer__json": {"model": {"merges": []}}}, "bpe"),
        ({"tokenizer__json": None, "tokenizer__model": "\n\x0eprotobuf"}, "sentencepiece"),
        ({"tokenizer__json": None, "tokenizer__model": "IQ== 0"}, "tiktoken"),
        ({"tokenizer__json": None, "vocab__txt": "[PAD]\n"}, "wordpiece"),
    ],
)
def test_the_kind_of_tokenizer_is_told(tmp_path: Path, files: dict[str, Any], kind: str) -> None:
    report = inspect(model_folder(tmp_path / "m", **files), KNOWN)
    assert report.tokenizer is not None
    assert report.tokenizer.kind == kind


def test_an_adapter_is_converted_as_one(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert "without its weights" in inspect(tmp_path).problem
    tensors_file(tmp_path / "adapter_model.safetensors")
    report = inspect(tmp_path)
    assert (report.format, report.actions) == (Format.LORA, (Action.CONVERT_LORA,))
    assert dict(report.facts) == {"Base model": "org/base"}
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    assert "IA3" in inspect(tmp_path).problem


def test_quantized_weights_say_whether_the_converter_undoes_them(tmp_path: Path) -> None:
    def with_method(method: str, **more: Any) -> Any:
        config = {**CONFIG, "quantization_config": {"quant_method": method, **more}}
        return inspect(model_folder(tmp_path / method, config), KNOWN)

    assert with_method("gptq", bits=4).actions == (Action.CONVERT,)
    assert with_method("gptq", bits=4).quantization == "GPTQ, 4 bit"
    refused = with_method("awq", bits=4)
    assert refused.actions == ()
    assert "AWQ, 4 bit" in refused.problem
    assert with_method("bitsandbytes", load_in_4bit=True).problem
    mlx = {**CONFIG, "quantization": {"group_size": 64, "bits": 4}}
    assert inspect(model_folder(tmp_path / "mlx", mlx), KNOWN).format is Format.MLX


def test_what_the_converter_does_not_know_is_said_before_any_work(tmp_path: Path) -> None:
    config = {**CONFIG, "architectures": ["NewestForCausalLM"]}
    report = inspect(model_folder(tmp_path / "m", config), KNOWN)
    assert "NewestForCausalLM" in report.problem
    assert "newer llama.cpp" in report.remedy
    assert inspect(tmp_path / "m").actions == (Action.CONVERT,), "not known is no reason against it"


def test_the_architectures_are_read_from_the_converters_source(tmp_path: Path) -> None:
    assert known_architectures(tmp_path) is None
    (tmp_path / "conversion").mkdir()
    (tmp_path / "conversion" / "__init__.py").write_text(
        "import os\nos.abort()\nTEXT_MODEL_MAP: dict[str, str] = {'A': 'a', 'B': 'b'}\n"
        "MMPROJ_MODEL_MAP = {'V': 'v'}\n"
    )
    known = known_architectures(tmp_path)
    assert known == Known(frozenset("AB"), frozenset("V"))
    (tmp_path / "conversion" / "__init__.py").unlink()
    (tmp_path / "convert_hf_to_gguf.py").write_text('@ModelBase.register("Old", "Older")\n')
    assert known_architectures(tmp_path) == Known(frozenset({"Old", "Older"}), frozenset())


# -- hostile and broken input


def _hostile(folder: Path) -> dict[str, Path]:
    """Thirty things that are not what they say."""

    def file(name: str, data: bytes) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    def rows(name: str, rows: dict[str, Any], data: int | None = None) -> Path:
        return tensors_file(folder / name, rows, data)

    one = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
    made = {
        "empty": file("empty.gguf", b""),
        "garbage": file("garbage.bin", os.urandom(4096)),
        "text": file("readme.gguf", b"# not a model"),
        "half gguf": make_gguf(folder / "half.gguf", keep=0.3),
        "lying gguf": file("lying.gguf", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60)),
        "ggml": file("old.bin", b"lmgg" + bytes(100)),
        "header of 2 EB": file("huge.safetensors", struct.pack("<Q", 1 << 61) + b"{}"),
        "header beyond": file("cut.safetensors", struct.pack("<Q", 5000) + b'{"a": 1}'),
        "no json": file("bad.safetensors", struct.pack("<Q", 9) + b"{not json"),
        "deep json": file("deep.safetensors", struct.pack("<Q", len(deep)) + deep),
        "cut data": rows("cutdata.safetensors", {"a": one}, 3),
        "overlap": rows("over.safetensors", {"a": one, "b": {**one, "data_offsets": [8, 24]}}),
        "hole": rows("hole.safetensors", {"a": {**one, "data_offsets": [16, 32]}}),
        "wrong size": rows("size.safetensors", {"a": {**one, "shape": [400]}}),
        "negative": rows("neg.safetensors", {"a": {**one, "shape": [-4]}}),
        "huge shape": rows("shape.safetensors", {"a": {**one, "shape": [1 << 40, 1 << 40]}}),
        "many dims": rows("dims.safetensors", {"a": {**one, "shape": [1] * 999}}),
        "no row": rows("row.safetensors", {"a": {"dtype": "F32"}}),
        "bomb": checkpoint(folder / "bomb.bin", Bomb()),
        "bare bomb": file("bare.pt", pickle.dumps(Bomb(), 4)),
        "broken zip": file("broken.bin", b"PK\x03\x04" + b"x" * 200),
        "zip without": folder / "without.bin",
        "onnx": file("net.onnx", b"\x08\x07\x12\x07pytorch"),
    }
    with zipfile.ZipFile(made["zip without"], "w") as archive:
        archive.writestr("readme", "nothing")
    for name, index in {
        "escaping index": {"weight_map": {"a": "../../etc/passwd"}},
        "absolute index": {"weight_map": {"a": "/etc/passwd"}},
        "numeric index": {"weight_map": {"a": 7}},
        "empty index": {"weight_map": {}},
        "no index": {"weight_map": [1]},
    }.items():
        made[name] = model_folder(folder / name)
        (made[name] / "model.safetensors.index.json").write_text(json.dumps(index))
    made["deep config"] = model_folder(folder / "deep config")
    (made["deep config"] / "config.json").write_bytes(deep)
    made["list config"] = model_folder(folder / "list config", config__json="[1, 2]")
    made["no names"] = model_folder(folder / "no names", {"architectures": [{"a": 1}]})
    made["nothing"] = folder / "nothing"
    made["nothing"].mkdir()
    made["gone"] = folder / "gone.gguf"
    return made


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return _hostile(tmp_path_factory.mktemp("hostile"))


def test_there_are_thirty_hostile_inputs(hostile: dict[str, Path]) -> None:
    assert len(hostile) >= 30


def test_each_hostile_input_is_a_clear_refusal_at_once_and_small(
    hostile: dict[str, Path],
) -> None:
    for name, path in hostile.items():
        tracemalloc.start()
        began = time.perf_counter()
        report = inspect(path, KNOWN)
        took_s, peak = time.perf_counter() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert report.problem, name
        assert report.actions == (), name
        assert took_s < 1.0, name
        assert peak < 64 << 20, name
    assert not Path("/tmp/llama-wrangler-was-unpickled").exists()


def test_a_pickle_that_runs_code_is_named_and_one_that_does_not_is_not(tmp_path: Path) -> None:
    bomb = inspect(checkpoint(tmp_path / "bomb.bin", Bomb()))
    assert bomb.format is Format.PICKLE
    assert "system" in bomb.problem
    plain = pickles.look(checkpoint(tmp_path / "plain.bin", {"a": [1, 2.0, "text"]}))
    assert not plain.dangerous


def test_a_pipe_does_not_hold_it_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "no regular file" in inspect(tmp_path / "pipe.gguf").problem


def test_too_many_tensors_are_refused(tmp_path: Path) -> None:
    row = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    rows = {f"t{number}": row for number in range(200_001)}
    path = tensors_file(tmp_path / "many.safetensors", rows)
    assert "200,001 tensors" in inspect(path).problem


def test_ten_thousand_damaged_headers_never_crash(tmp_path: Path) -> None:
    import random

    dice = random.Random(11)
    whole = tensors_file(tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / "damaged.safetensors"
    for _ in range(10_000):
        data = bytearray(whole)
        for _ in range(dice.randrange(1, 5)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        path.write_bytes(data[: dice.randrange(1, len(data) + 1)])
        report = inspect(path)
        assert report.title


def test_brackets_in_texts_are_no_depth_and_nested_ones_are() -> None:
    assert parse_object(json.dumps({"a": "[" * 20}).encode(), "x") == {"a": "[" * 20}
    with pytest.raises(Unreadable, match="deep"):
        parse_object(b'{"a":' + b"[" * 500 + b"]" * 500 + b"}", "x")


def test_packed_types_have_their_size(tmp_path: Path) -> None:
    rows = {"a": {"dtype": "F4", "shape": [3, 32], "data_offsets": [0, 48]}}
    tensors, _ = safetensors.read_tensors(tensors_file(tmp_path / "f4.safetensors", rows))
    assert tensors.types == (("F4", 96),)


# -- as the engine and the command line offer it


def test_the_engine_tells_of_a_path_with_what_its_converter_knows(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    with running_engine(tmp_path / "home") as engine:
        report = engine.call("inspect_model", {"path": str(folder)})
        assert report.actions == (Action.CONVERT,)
        for bad in ("relative/x", "x" * 5000, "/a\x00b"):
            with pytest.raises(BadRequest):
                engine.call("inspect_model", {"path": bad})


def test_the_command_line_shows_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = iter([inspect(model_folder(tmp_path / "m"), KNOWN), inspect(tmp_path / "gone")])
    engine = Engine(snapshot())
    monkeypatch.setattr(engine, "call", lambda *_, **__: to_json(next(reports)))
    monkeypatch.setattr(cli_inspect, "ensure_engine", lambda **_: engine)
    assert cli.run(["inspect", "m"]) == 0
    said = capsys.readouterr().out
    assert "LlamaForCausalLM" in said
    assert "bpe (tokenizer.json)" in said
    assert "converted to GGUF" in said
    assert cli.run(["inspect", "gone", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["format"] == "unknown"
