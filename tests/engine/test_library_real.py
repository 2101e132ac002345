"""The library over a real model file, with the real scan worker."""

from __future__ import annotations

from pathlib import Path

from tray_app.engine.gguf import read_summary
from tray_app.engine.gguf_cache import MetadataCache
from tray_app.engine.library import Library
from tray_app.engine.values import ModelKind

WAIT_S = 30.0
LAYERS, KV_HEADS, HEAD_SIZE, F16_BYTES = 30, 3, 64, 2


def test_smollm2_is_listed_with_the_facts_of_its_header(tmp_path: Path, smollm2: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    path = root / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path.symlink_to(smollm2)
    cache = MetadataCache(tmp_path / "state.db")
    with Library([root], cache, lambda: None) as library:
        library.rescan()
        assert library.wait(WAIT_S)
        assert library.left_out() == ()
        model = library.get("SmolLM2-135M-Instruct:Q4_1")
    cache.close()
    assert model.name == "SmolLM2-135M-Instruct"
    assert model.path == path
    assert model.size_bytes == smollm2.stat().st_size
    assert model.architecture == "llama"
    assert model.parameter_count == 134_515_008
    assert model.quantization == "Q4_1"
    assert model.context_length == 8192
    assert model.size_label == "135M"
    assert model.license == "apache-2.0"
    assert model.has_chat_template is True
    assert model.kind is ModelKind.CHAT
    assert model.kv_bytes_per_token == 2 * LAYERS * KV_HEADS * HEAD_SIZE * F16_BYTES
    assert model.details_known


def test_the_summary_of_smollm2_already_tells_its_shape(smollm2: Path) -> None:
    header = read_summary(smollm2)
    assert (header.architecture, header.quantization) == ("llama", "Q4_1")
    assert (header.context_length, header.embedding_length) == (8192, 576)
    assert header.has_chat_template is None


def test_half_of_smollm2_is_left_out(tmp_path: Path, smollm2: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    half = root / "SmolLM2-135M-Instruct.Q4_1.gguf"
    with smollm2.open("rb") as source, half.open("wb") as target:
        target.write(source.read(smollm2.stat().st_size // 2))
    cache = MetadataCache(tmp_path / "state.db")
    with Library([root], cache, lambda: None) as library:
        library.rescan()
        assert library.wait(WAIT_S)
        assert library.models() == ()
        (left,) = library.left_out()
    cache.close()
    assert f"{smollm2.stat().st_size // 2:,} of 98,3" in left.reason
