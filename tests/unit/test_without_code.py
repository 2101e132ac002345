"""Program code beside a model's weights is not given to the converter, which would run it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tray_app.engine.convert.without_code import environment, without_code
from tray_app.engine.errors import ConversionFailed
from tray_app.engine.formats.code import code_in


def folder(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        target = path / name.replace("__", "/").replace("_dot_", ".")
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return path


def test_a_folder_of_data_alone_is_taken_as_it_is(tmp_path: Path) -> None:
    weights = folder(tmp_path / "m", config_dot_json='{"model_type": "llama"}', w_dot_bin="x")
    assert without_code(weights, tmp_path / "view") == weights
    assert not (tmp_path / "view").exists()
    single = weights / "w.bin"
    assert without_code(single, tmp_path / "view") == single


def test_code_and_what_names_it_are_left_out(tmp_path: Path) -> None:
    named = {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["evil.T", None]}}
    inner = {"text_config": {"auto_map": {"AutoConfig": "other/repo--evil.C"}, "n": 1}}
    weights = folder(
        tmp_path / "m",
        evil_dot_py="boom",
        deep__more_dot_so="boom",
        deep__data_dot_txt="kept",
        tokenizer_config_dot_json=json.dumps(named),
        config_dot_json=json.dumps(inner),
        weights_dot_safetensors="w",
    )
    assert code_in(weights) == [os.path.join("deep", "more.so"), "evil.py"]
    view = without_code(weights, tmp_path / "view")
    names = {str(path.relative_to(view)) for path in view.rglob("*") if path.is_file()}
    assert names == {
        os.path.join("deep", "data.txt"),
        "tokenizer_config.json",
        "config.json",
        "weights.safetensors",
    }
    assert json.loads((view / "tokenizer_config.json").read_text()) == {"tokenizer_class": "T"}
    assert json.loads((view / "config.json").read_text()) == {"text_config": {"n": 1}}
    assert (view / "weights.safetensors").read_text() == "w"
    assert json.loads((weights / "config.json").read_text()) == inner, "the user's own is as it was"
    assert without_code(weights, tmp_path / "view") == view, "an older view is made anew"


def test_a_configuration_that_names_code_of_another_repository_is_tamed_too(tmp_path: Path) -> None:
    weights = folder(
        tmp_path / "m", config_dot_json='{"auto_map": {"AutoTokenizer": "them/there--x.T"}}'
    )
    view = without_code(weights, tmp_path / "view")
    assert view != weights
    assert (view / "config.json").read_text() == "{}"
    assert Path(environment(view)["HF_HOME"]).parent == tmp_path


@pytest.mark.parametrize(
    "text", ['{"auto_map": ', '"auto_map" is here', "[" * 100_000 + "auto_map"]
)
def test_what_is_no_json_is_left_to_the_converter(tmp_path: Path, text: str) -> None:
    weights = folder(tmp_path / "m", config_dot_json=text)
    assert without_code(weights, tmp_path / "view") == weights


def test_where_nothing_can_be_linked_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("a privilege is missing")

    monkeypatch.setattr(os, "symlink", refuse)
    weights = folder(tmp_path / "m", x_dot_py="boom", w_dot_bin="w")
    assert (without_code(weights, tmp_path / "view") / "w.bin").read_text() == "w", "hard links do"
    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(ConversionFailed, match="program code"):
        without_code(weights, tmp_path / "view")
