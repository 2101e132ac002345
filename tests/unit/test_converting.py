"""The parts of conversion by themselves: what tools say, what is kept, what a repository has."""

from __future__ import annotations

import json
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import hub_server
from tests.unit.engine_kit import running_engine, wait_until
from tray_app.engine.convert import adapters, imatrix_tool, pipeline, quality, quantize_tool, record
from tray_app.engine.convert import environment as environments
from tray_app.engine.convert.conversions import MOST_STARTS
from tray_app.engine.convert.convert_tool import bytes_written
from tray_app.engine.convert.environment import Environment
from tray_app.engine.convert.originals import look, plain_name
from tray_app.engine.convert.quantizer import quantize_steps
from tray_app.engine.convert.rates import Rates
from tray_app.engine.convert.record import Record, Records, Wish
from tray_app.engine.convert.values import Options
from tray_app.engine.core import Engine
from tray_app.engine.downloads import hub_originals, origins
from tray_app.engine.downloads.hub_files import HubFile
from tray_app.engine.downloads.huggingface import HuggingFace
from tray_app.engine.errors import (
    BadRequest,
    Cancelled,
    ConversionFailed,
    ErrorView,
    NotEnoughDisk,
    NotFound,
    RuntimeMissing,
)
from tray_app.engine.formats.bounded import whole_path
from tray_app.engine.jobs import JobContext
from tray_app.engine.state import StateDb

# `llama-quantize --help` of b11434, shortened.
HELP = """ allowed quantization types
-----------------------------------------------------------------------------
  40  or  Q1_0    :  1.125 bpw quantization
   2  or  Q4_0    :  4.34G, +0.4685 ppl @ Llama-3-8B
  38  or  MXFP4_MOE :  MXFP4 MoE
  12  or  Q3_K    : alias for Q3_K_M
  37  or  TQ2_0   :  2.06 bpw ternarization
  28  or  IQ2_S   :  2.5  bpw quantization
  15  or  Q4_K_M  :  4.58G, +0.1754 ppl @ Llama-3-8B
   1  or  F16     : 14.00G, +0.0020 ppl @ Mistral-7B
   0  or  F32     : 26.00G              @ 7B
          COPY    : only copy tensors, no quantizing
"""


# -- what tools say


def test_the_tools_own_list_gives_bits_per_weight() -> None:
    found = {each.label: each.bits_per_weight for each in quantize_tool.read_types(HELP)}
    assert found == {
        "Q1_0": 1.125,
        "Q4_0": 4.64,
        "MXFP4_MOE": None,
        "TQ2_0": 2.06,
        "IQ2_S": 2.5,
        "Q4_K_M": 4.9,
        "F16": 16.0,
        "F32": 32.0,
    }


def test_overrides_become_the_tools_arguments() -> None:
    words = quantize_tool.override_words(
        ["attn_v=q8_0", " token_embd=Q6_K", "output.weight=f16", r"blk\.[0-3]\.ffn_.*=q5_k"]
    )
    assert words == (
        *("--tensor-type", "attn_v=q8_0", "--token-embedding-type", "q6_k"),
        *("--output-tensor-type", "f16", "--tensor-type", r"blk\.[0-3]\.ffn_.*=q5_k"),
    )


@pytest.mark.parametrize("word", ["", "attn_v", "=q8_0", "a b=q8_0", "x=--help", "x=q8_0; rm"])
def test_an_override_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(BadRequest, match="no override"):
        quantize_tool.override_words([word])


def test_the_converters_bar_is_read_where_it_is_drawn_over() -> None:
    bar = "Writing:  53%|█████     | 24.2M/45.6M [00:01<00:01, 20.1Mbyte/s]"
    assert bytes_written(bar) == (24_200_000, 45_600_000)
    assert bytes_written(f"{bar}\rWriting: 100%|███| 1.20G/1.20G [00:02]")[0] == 1_200_000_000  # type: ignore[index]
    assert bytes_written("INFO:hf-to-gguf:Model successfully exported") is None


def test_perplexities_are_compared_on_the_same_part_of_the_text() -> None:
    assert imatrix_tool.at_same_chunk({1: 3.0, 2: 4.0}, {1: 3.5, 2: 4.5, 3: 9.0}) == (4.0, 4.5)
    with pytest.raises(ConversionFailed):
        imatrix_tool.at_same_chunk({1: 3.0}, {})


def test_a_matrix_is_told_from_a_text(tmp_path: Path) -> None:
    assert imatrix_tool.text_of("compute") == imatrix_tool.CALIBRATION
    (tmp_path / "own.txt").write_text("words", encoding="utf-8")
    (tmp_path / "own.gguf").write_bytes(b"GGUF....")
    (tmp_path / "odd.bin").write_bytes(b"\x00\x01")
    assert imatrix_tool.text_of(str(tmp_path / "own.txt")) == tmp_path / "own.txt"
    assert imatrix_tool.text_of(str(tmp_path / "own.gguf")) is None
    for wrong in (str(tmp_path / "odd.bin"), "relative.txt", str(tmp_path / "none.txt")):
        with pytest.raises(BadRequest):
            imatrix_tool.text_of(wrong)


def test_the_texts_that_come_along_are_long_enough() -> None:
    # 2 x 512 tokens are the least that the tool takes; a token has about four characters.
    for text in (imatrix_tool.CALIBRATION, imatrix_tool.MEASURE):
        assert len(text.read_text(encoding="utf-8")) > 8_000


def test_the_steps_tell_what_will_be_done() -> None:
    options = Options(imatrix="compute", measure=True)
    keys = [key for key, _ in quantize_steps(["Q8_0", "Q4_0"], options)]
    assert keys == ["imatrix", "q:Q8_0", "q:Q4_0", "m:Q8_0", "m:Q4_0"]
    assert quantize_steps([], options) == []
    one = Record("a", Wish("/x", "auto", ("Q8_0",)), "", "", vision=True, plan={"version": 1})
    keys = [key for key, _ in pipeline.steps_of(one)]
    assert keys == ["download", "converter", "convert", "projector", "check", "q:Q8_0"]


# -- what is kept


@pytest.mark.parametrize(
    ("own", "reference", "words"),
    [
        (10.0, 10.01, "no difference"),
        (11.0, 10.0, "10.0% worse"),
        (9.0, 10.0, "10.0% better"),
    ],
)
def test_quality_is_one_sentence(own: float, reference: float, words: str, tmp_path: Path) -> None:
    model = tmp_path / "x.gguf"
    origins.write(model, {"hub": "quantized", "made_from": "F16"})
    quality.note_quality(model, quality.Measured(own, reference, "F16"))
    found = quality.read_quality(model)
    assert found is not None
    assert words in found.sentence
    assert "of F16" in found.sentence
    assert (origins.read(model) or {})["made_from"] == "F16"


@pytest.mark.parametrize(
    "told", [None, 7, {}, {"perplexity": "x"}, {"perplexity": 0, "reference_perplexity": 3}]
)
def test_an_odd_note_tells_no_quality(told: Any, tmp_path: Path) -> None:
    origins.write(tmp_path / "x.gguf", {"quality": told})
    assert quality.read_quality(tmp_path / "x.gguf") is None


def a_record(**more: Any) -> Record:
    wish = Wish("/weights", "f16", ("Q8_0",), "w", options=Options("compute", ("a=q8_0",), True))
    return Record(**{"id": "abc", "wish": wish, "title": "Converting w", "mark": "m", **more})


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    records = Records(tmp_path)
    kept = a_record(
        done={"convert": [["/x", 1, 2]]}, error=ErrorView("a", "b", "c"), steps=("one", "two")
    )
    records.save(kept)
    assert records.load("abc") == kept
    assert records.all() == [kept]
    assert records.size_bytes("abc") > 100
    records.remove("abc")
    assert records.all() == []
    with pytest.raises(NotFound):
        records.load("abc")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "a" * 50, "a b"])
def test_an_id_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound):
        Records(tmp_path).load(name)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 9}', '{"version": 1, "wish": 3}', "[" * 9999, "null"]
)
def test_a_record_that_cannot_be_read_is_cleared_away(tmp_path: Path, text: str) -> None:
    records = Records(tmp_path)
    records.save(a_record())
    (records.folder("abc") / record.NAME).write_text(text, encoding="utf-8")
    assert records.all() == []
    records.clear_odd()
    assert list(tmp_path.iterdir()) == []


def test_a_step_is_done_as_long_as_its_files_are_as_it_left_them(tmp_path: Path) -> None:
    path = tmp_path / "made"
    path.write_bytes(b"x")
    rows = record.marks([path])
    assert record.unchanged(rows) == [path]
    assert record.unchanged([]) == []
    assert record.unchanged(None) is None
    path.write_bytes(b"xy")
    assert record.unchanged(rows) is None
    assert record.unchanged([["/no/such", 1, 2]]) is None
    assert record.unchanged([[]]) is None


def test_the_time_is_learnt_from_earlier_ones(tmp_path: Path) -> None:
    db = StateDb(tmp_path / "state.db")
    rates = Rates(db)
    assert rates.convert_s(10**9) is None
    rates.converted(1000, 5.0)  # too small to tell anything
    assert rates.quantize_s_per_gb() is None
    rates.converted(10**9, 10.0)
    rates.converted(10**9, 5.0)
    assert rates.convert_s(15 * 10**8) == pytest.approx(10.0)
    rates.quantized(2 * 10**9, 30.0)
    assert rates.quantize_s_per_gb() == pytest.approx(15.0)
    db.remember({"convert.bytes_per_s": "nonsense"})
    assert rates.convert_s(10**9) is None
    db.close()


def test_a_result_never_takes_the_place_of_a_model_of_other_weights(tmp_path: Path) -> None:
    wished = Record("a", Wish("/x/model", "auto", ("Q8_0",), "model"), "", "mine")
    there = tmp_path / "local" / "model" / "model.BF16.gguf"
    there.parent.mkdir(parents=True)
    pipeline.check_free(tmp_path, wished)
    there.write_bytes(b"GGUF")
    with pytest.raises(BadRequest, match=r"model\.BF16\.gguf is there"):
        pipeline.check_free(tmp_path, wished)
    origins.write(there, {"mark": "another"})
    with pytest.raises(BadRequest, match="something else"):
        pipeline.check_free(tmp_path, wished)
    only = Record("a", Wish("/x/model", "auto", ("Q8_0",), "model", keep_full=False), "", "mine")
    pipeline.check_free(tmp_path, only)  # the unquantized one is not to stay
    origins.write(there, {"mark": "mine"})
    pipeline.check_free(tmp_path, wished)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hidden_size": 8, "num_attention_heads": 2},
        {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 10**12},
        {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 9, "head_dim": "x" * 9},
        {"hidden_size": [], "num_attention_heads": 0, "num_hidden_layers": -1},
    ],
)
def test_a_base_model_of_odd_numbers_is_none(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert adapters.base_model((), tmp_path) is None
    assert adapters._shape(config) is None


def test_a_path_that_nobody_can_have_is_none() -> None:
    for text in ("", "relative", "~no-such-user/x", "/a\x00b", "/" + "x" * 5000):
        assert whole_path(text) is None
    assert whole_path("~") == Path.home()


# -- what a repository has


def test_two_models_of_one_repository_are_two(tmp_path: Path) -> None:
    config = b'{"architectures": ["LlamaForCausalLM"]}'
    files: dict[str, Any] = {"config.json": config, "tokenizer.json": b"{}"}
    with hub_server() as server:
        server.put(
            "org/both",
            {
                f"{folder}/{name}": data
                for folder in ("small", "large")
                for name, data in {**files, "model.safetensors": folder.encode()}.items()
            },
        )
        hub = HuggingFace(server.url, lambda: None, {})
        small, large = (
            look(f"https://huggingface.co/org/both/tree/main/{folder}", "", None, lambda: hub)
            for folder in ("small", "large")
        )
    assert (small.name, large.name) == ("small", "large")
    assert small.mark != large.mark
    assert (small.report.problem, small.owner) == ("", "local")


def hub_file(path: str, size: int = 1000) -> HubFile:
    return HubFile(path, size, None, None, "other")


def chosen(*paths: str, folder: str | None = None) -> list[str]:
    return [each.path for each in hub_originals.chosen(map(hub_file, paths), folder)]


def test_a_repository_is_fetched_without_what_a_conversion_does_not_read() -> None:
    assert chosen(
        *("config.json", "model.safetensors", "tokenizer.json", "README.md", "LICENSE"),
        *("pytorch_model.bin", "onnx/model.onnx", "modeling_odd.py", "picture.png", "flax.msgpack"),
        *(
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "runs/events.json",
            ".gitattributes",
        ),
    ) == [
        *("1_Pooling/config.json", "2_Dense/model.safetensors", "LICENSE", "README.md"),
        *("config.json", "model.safetensors", "tokenizer.json"),
    ]


def test_weights_that_are_there_twice_are_fetched_once() -> None:
    both = ("consolidated.safetensors", "model-00001-of-00001.safetensors", "config.json")
    assert chosen(*both) == ["config.json", "model-00001-of-00001.safetensors"]
    assert chosen("consolidated.safetensors", "config.json") == [
        *("config.json", "consolidated.safetensors"),
    ]
    old = chosen("pytorch_model.bin", "optimizer.bin", "training_args.bin", "config.json")
    assert old == ["config.json", "pytorch_model.bin"]


def test_a_folder_of_a_repository_is_one_by_itself() -> None:
    paths = ("small/config.json", "small/model.safetensors", "config.json", "model.safetensors")
    assert chosen(*paths, folder="small") == ["small/config.json", "small/model.safetensors"]
    assert chosen("README.md", "config.json") == []


@pytest.mark.parametrize(
    ("name", "plain"),
    [("a:b", "a-b"), ("  .x. ", "x"), ("", "model"), ("..", "model"), ("ü" * 300, "ü" * 120)],
)
def test_a_folders_name_becomes_one_for_files(name: str, plain: str) -> None:
    assert plain_name(name) == plain


# -- the converter's environment, with a package that needs no network


class Quiet(JobContext):
    """A job's context without a job."""

    def __init__(self, log_path: Path) -> None:
        self.job_id, self.log_path, self.cancel = "x", log_path, threading.Event()
        self.steps: list[str | None] = []

    def progress(
        self, done: int, total: int | None = None, unit: str = "", step: str | None = None
    ) -> None:
        self.steps.append(step)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "tinywool-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tinywool.py", "SOFT = True\n")
        told = "Metadata-Version: 2.1\nName: tinywool\nVersion: 1.0\n"
        archive.writestr("tinywool-1.0.dist-info/METADATA", told)
        kind = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("tinywool-1.0.dist-info/WHEEL", kind)
        archive.writestr("tinywool-1.0.dist-info/RECORD", "")
    monkeypatch.setattr(environments, "pins", lambda: (str(path),))
    monkeypatch.setattr(environments, "WORKS", "import tinywool")
    return path


@pytest.fixture
def context(tmp_path: Path) -> Quiet:
    return Quiet(tmp_path / "log")


def test_an_environment_is_made_used_repaired_and_removed(
    wheel: Path, tmp_path: Path, context: Quiet
) -> None:
    environment = Environment(tmp_path / "converter")
    before = environment.status()
    assert (before.ready, before.size_bytes, before.problem) == (False, 0, "")
    with environment.held(context) as python:
        assert python.is_file()
        with pytest.raises(BadRequest, match="used"):
            environment.remove()
    status = environment.status()
    assert status.ready
    assert status.size_bytes > 1_000_000
    assert status.python == before.python
    module = next(environment.folder.rglob("tinywool.py"))
    module.unlink()
    other = tmp_path / "converter" / "of-other-pins"
    other.mkdir()
    with environment.held(context):
        assert not module.exists()  # it is not looked into each time
    with environment.held(context, repair=True):
        assert module.is_file()
    assert not other.exists()
    environment.remove()
    assert not environment.ready()
    assert environment.status().size_bytes == 0


def test_an_environment_that_fails_or_is_cancelled_leaves_nothing(
    wheel: Path, tmp_path: Path, context: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Environment(tmp_path / "converter")
    monkeypatch.setattr(environments, "WORKS", "import not_there")
    with pytest.raises(ConversionFailed, match="not_there"), environment.held(context):
        pass
    assert not list((tmp_path / "converter").iterdir())
    timer = threading.Timer(0.3, context.cancel.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Cancelled), environment.held(context):
        pass
    assert time.monotonic() - began < 10
    assert not list((tmp_path / "converter").iterdir())
    assert not environment.ready()


def test_no_python_and_no_room_are_told(
    wheel: Path, tmp_path: Path, context: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Environment(tmp_path / "converter")
    monkeypatch.setattr(environments, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(NotEnoughDisk, match="converter needs"), environment.held(context):
        pass
    monkeypatch.setattr(environments, "find_interpreter", lambda environ: None)
    status = environment.status()
    assert status.python is None
    assert "no Python 3.10" in status.problem
    assert "python.org" in status.remedy
    with pytest.raises(ConversionFailed, match=r"no Python 3\.10"), environment.held(context):
        pass


def test_a_frozen_app_looks_for_a_python_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments.sys, "frozen", True, raising=False)
    for name, said in (("python3.12", "3 12"), ("python3", "3 9"), ("python", "nonsense")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho {said}\n")
        program.chmod(0o755)
    found = environments.find_interpreter({"PATH": str(tmp_path)})
    assert found == environments.Interpreter(tmp_path / "python3.12", (3, 12))
    (tmp_path / "python3.12").unlink()
    monkeypatch.setattr(environments, "python_folders", lambda environ: [])
    assert environments.find_interpreter({"PATH": str(tmp_path)}) is None
    beside = tmp_path / "of an installer"
    beside.mkdir()
    program = beside / "python3.11"
    program.write_text("#!/bin/sh\necho 3 11\n")
    program.chmod(0o755)
    monkeypatch.setattr(environments, "python_folders", lambda environ: [beside])
    found = environments.find_interpreter({"PATH": str(tmp_path)})
    assert found == environments.Interpreter(program, (3, 11))


def test_a_python_is_looked_for_where_installers_put_it() -> None:
    windows = {"LOCALAPPDATA": "/u/AppData/Local", "PROGRAMFILES": "/p"}
    found = environments.python_folders(windows, "win32")
    assert found[0] == Path("/u/AppData/Local/Programs/Python/Python312")
    assert Path("/p/Python313") in found
    assert environments.python_folders({}, "win32") == []
    assert Path("/opt/homebrew/bin") in environments.python_folders({}, "darwin")
    assert environments.python_folders({"HOME": "/u"}, "linux")[0] == Path("/u/.local/bin")


# -- the engine's side, without a runtime


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with running_engine(tmp_path / "home") as engine:
        yield engine


def test_what_is_asked_wrong_is_said_before_anything_begins(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: object = None) -> None:
        raise RuntimeMissing("No llama.cpp.", "Install one.")

    monkeypatch.setattr(engine.runtime, "require", none)
    for source, words in (
        (str(tmp_path / "nothing"), "is not there"),
        ("ollama:llama3", "no repository"),
        ("~no-such-user/x", "file on this computer"),
    ):
        with pytest.raises(BadRequest, match=words):
            engine.call("convert_plan", {"source": source})
    with pytest.raises(BadRequest, match="no output"):
        engine.call("convert_plan", {"source": str(tmp_path), "output": "f64"})
    plan = engine.call("convert_plan", {"source": str(tmp_path)})
    assert plan.problem == "There is no model in this folder."
    assert plan.targets == ()
    with pytest.raises(RuntimeMissing):
        engine.call("convert_model", {"source": str(tmp_path)})
    with pytest.raises(NotFound):
        engine.call("continue_conversion", {"conversion_id": "0123456789ab"})
    with pytest.raises(NotFound):
        engine.call("discard_conversion", {"conversion_id": "../../etc"})
    with pytest.raises(BadRequest):
        engine.call("convert_model", {"source": 7})


def test_what_failed_or_came_to_nothing_twice_waits_for_the_user(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = engine.convert.conversions.records
    records.save(a_record(id="failed", error=ErrorView("a", "It broke.", "")))
    records.save(a_record(id="twice", starts=MOST_STARTS))
    records.save(a_record(id="killed", starts=1))
    going: list[str] = []
    monkeypatch.setattr(engine.convert.conversions, "continue_", going.append)
    engine.convert.conversions.resume()
    assert going == ["killed"]
    found = {each.id: each for each in engine.call("conversions", {}).unfinished}
    assert set(found) == {"failed", "twice", "killed"}
    assert found["failed"].error == ErrorView("a", "It broke.", "")
    engine.call("discard_conversion", {"conversion_id": "failed"})
    assert not records.folder("failed").exists()


def test_one_that_is_cancelled_before_its_turn_leaves_nothing(engine: Engine) -> None:
    enough = threading.Event()
    for _ in range(4):  # all that work at once
        engine.jobs.submit("busy", "Busy", lambda context: enough.wait(30) and None)
    engine.convert.conversions.records.save(a_record(id="waiting"))
    job_id = engine.call("continue_conversion", {"conversion_id": "waiting"})["job_id"]
    assert [each.job_id for each in engine.call("conversions", {}).unfinished] == [job_id]
    engine.call("cancel_job", {"job_id": job_id})
    assert engine.call("conversions", {}).unfinished == ()
    assert not (engine.home.models / ".making-waiting").exists()
    enough.set()


def test_a_conversion_without_a_runtime_fails_and_can_go_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: object = None) -> None:
        raise RuntimeMissing("No llama.cpp.", "Install one.")

    monkeypatch.setattr(engine.runtime, "require", none)
    engine.convert.conversions.records.save(a_record(id="killed", starts=1))
    job_id = engine.call("continue_conversion", {"conversion_id": "killed"})["job_id"]
    wait_until(lambda: engine.jobs.get(job_id).state == "failed")
    (left,) = engine.call("conversions", {}).unfinished
    assert left.error is not None
    assert left.error.message == "No llama.cpp."
    assert json.loads((engine.home.models / ".making-killed" / record.NAME).read_text())["error"]
