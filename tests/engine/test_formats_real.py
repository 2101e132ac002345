"""Formats against the real parts: a real model, the converter of the real llama.cpp tree."""

from __future__ import annotations

from pathlib import Path

from tests import parts
from tray_app.engine.formats.converter import known_architectures
from tray_app.engine.formats.inspect import inspect
from tray_app.engine.formats.values import Action, Format
from tray_app.engine.runtime.compile import CONVERSION_FOLDER


def test_a_real_model_is_told_from_its_header(smollm2: Path) -> None:
    report = inspect(smollm2)
    assert (report.format, report.problem) == (Format.GGUF, "")
    assert (report.architecture, report.quantization) == ("llama", "Q4_1")
    assert report.size_bytes == parts.SMOLLM2_SIZE_BYTES
    assert Action.QUANTIZE in report.actions
    assert report.warnings == ()  # it has a chat template


def test_the_converter_beside_a_runtime_tells_what_it_reads(llama_server: Path) -> None:
    known = known_architectures(llama_server.parent / CONVERSION_FOLDER)
    assert known is not None
    assert len(known.text) > 200
    assert {"LlamaForCausalLM", "BertModel", "Qwen3ForCausalLM"} <= known.text
    assert "LlavaForConditionalGeneration" in known.vision
    assert not known.knows("NeverForCausalLM")
