"""The command line of a model's llama-server: a pure value."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine_kit import model
from tray_app.engine import launch
from tray_app.engine.launch import Endpoint, Placement, arguments, command_text, context_wished
from tray_app.engine.planner import log_name
from tray_app.engine.settings import ModelSettings
from tray_app.engine.values import ModelKind, Runtime

RUNTIME = Runtime("b1-cpu", 1, "cpu", Path("/rt/llama-server"), "built", "x")
SOCKET = Endpoint(socket_path=Path("/run/m1.sock"))


def argv(
    settings: ModelSettings | None = None,
    placement: Placement | None = None,
    endpoint: Endpoint = SOCKET,
    **fields: Any,
) -> tuple[str, ...]:
    return arguments(
        model(**fields),
        settings or ModelSettings(),
        RUNTIME,
        placement or Placement(4096),
        endpoint,
        Path("/run/slots"),
        256,
    )


def after(words: tuple[str, ...], name: str) -> str:
    return words[words.index(name) + 1]


def test_the_whole_line() -> None:
    words = argv()
    assert words[:5] == ("/rt/llama-server", "--model", "/models/first.gguf", "--alias",
                         "org/first:Q4")  # fmt: skip
    assert after(words, "--host") == "/run/m1.sock"
    assert after(words, "--ctx-size") == "4096"
    assert after(words, "--fit") == "off"
    assert after(words, "--cors-origins") == "localhost"
    assert {"--no-warmup", "--offline", "--metrics"} <= set(words)
    assert not {"--gpu-layers", "--threads", "--mmproj", "--embeddings", "--port"} & set(words)


def test_a_loopback_port_is_two_words_as_llama_server_wants_it() -> None:
    words = argv(endpoint=Endpoint(port=4711))
    assert after(words, "--host") == "127.0.0.1"
    assert after(words, "--port") == "4711"
    assert Endpoint(port=4711).marker in words
    assert SOCKET.marker in argv()


@pytest.mark.parametrize(
    ("wished", "fitted", "expected"),
    [(None, None, None), (None, 12, "12"), (5, 12, "5"), (0, 12, "0"), (None, -1, None)],
)
def test_the_settings_go_before_the_fit(
    wished: int | None, fitted: int | None, expected: str | None
) -> None:
    words = argv(ModelSettings(gpu_layers=wished), Placement(4096, fitted))
    assert ("--gpu-layers" in words) == (expected is not None)
    if expected is not None:
        assert after(words, "--gpu-layers") == expected


def test_own_arguments_come_last_so_that_they_rule() -> None:
    words = argv(
        ModelSettings(threads=3, parallel=2, extra_args=("--ctx-size", "99")),
        Placement(4096, extra_args=("-ot", "x=CPU")),
    )
    assert words[-2:] == ("--ctx-size", "99")
    assert after(words, "--threads") == "3"
    assert after(words, "--parallel") == "2"
    assert after(words, "-ot") == "x=CPU"


def test_a_projector_and_an_embedding_model_get_what_they_need() -> None:
    projector = Path("/models/mmproj.gguf")
    assert after(argv(mmproj_path=projector), "--mmproj") == str(projector)
    assert "--mmproj" not in argv(ModelSettings(mmproj=False), mmproj_path=projector)
    chosen = ModelSettings(mmproj_path="/other/mmproj-BF16.gguf")
    assert after(argv(chosen, mmproj_path=projector), "--mmproj") == "/other/mmproj-BF16.gguf"
    assert after(argv(chosen), "--mmproj") == "/other/mmproj-BF16.gguf"
    assert "--embeddings" in argv(kind=ModelKind.EMBEDDING)


def test_no_more_context_is_asked_for_than_was_trained() -> None:
    assert context_wished(ModelSettings(context_length=8192), model(context_length=2048)) == 2048
    assert context_wished(ModelSettings(context_length=1024), model(context_length=2048)) == 1024
    assert context_wished(ModelSettings(), model()) == 8192


def test_the_shown_line_is_what_a_shell_would_run() -> None:
    words = argv(ModelSettings(extra_args=("--jinja", "a b'c")))
    assert tuple(shlex.split(command_text(words))) == words


@pytest.mark.parametrize("name", ["a/b:Q4", "../../etc/passwd", "ü/ö:Q4", "x" * 300, "a\nb", ""])
def test_a_log_name_is_safe_and_tells_models_apart(name: str) -> None:
    made = log_name(name)
    assert Path(made).name == made
    assert made.startswith("model-")
    assert made.endswith(".log")
    assert made.isascii()
    assert len(made) < 90
    assert log_name(name + "x") != made


def test_specs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Placement(1).context_length = 2  # type: ignore[misc]


def test_an_idle_thread_of_a_model_soon_lets_others_work() -> None:
    assert launch.environment({"PATH": "/bin"}) == {"GOMP_SPINCOUNT": launch.SPIN_COUNT}


@pytest.mark.parametrize("variable", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_the_users_own_word_on_waiting_threads_holds(variable: str) -> None:
    assert launch.environment({variable: "passive"}) == {}


def test_everything_that_can_be_set_is_on_the_line() -> None:
    settings = ModelSettings(
        kv_cache_type="q8_0",
        flash_attention="on",
        batch_size=1024,
        ubatch_size=256,
        temperature=0.7,
        top_p=0.9,
        top_k=20,
        min_p=0.0,
        repeat_penalty=1.1,
        max_tokens=512,
        reasoning="off",
        chat_template="chatml",
        lora={"/a/plain.gguf": 1.0, "/a/half.gguf": 0.5, "/a/x,y.gguf": 1.0},
    )
    words = argv(settings)
    for name, value in (
        ("--cache-type-k", "q8_0"),
        ("--cache-type-v", "q8_0"),
        ("--flash-attn", "on"),
        ("--batch-size", "1024"),
        ("--ubatch-size", "256"),
        ("--temp", "0.7"),
        ("--top-p", "0.9"),
        ("--top-k", "20"),
        ("--min-p", "0"),
        ("--repeat-penalty", "1.1"),
        ("--predict", "512"),
        ("--reasoning", "off"),
        ("--chat-template", "chatml"),
        ("--lora", "/a/plain.gguf"),
        ("--lora-scaled", "/a/half.gguf:0.5"),
    ):
        assert after(words, name) == value
    assert '"/a/x,y.gguf"' in words, "llama.cpp splits the list at commas"


@pytest.mark.parametrize("template", ["/t/mine.jinja", "mine.jinja", "C:\\t\\mine"])
def test_a_chat_template_can_be_a_file(template: str) -> None:
    words = argv(ModelSettings(chat_template=template))
    assert after(words, "--chat-template-file") == template


def test_a_draft_model_is_a_file_beside_the_model() -> None:
    draft = Path("/models/small.gguf")
    first = model()
    words = arguments(
        first, ModelSettings(), RUNTIME, Placement(4096), SOCKET, Path("/s"), 256, draft
    )
    assert after(words, "--model-draft") == str(draft)
    assert launch.files_beside(ModelSettings(lora={"/a/b.gguf": 1.0}), first, draft) == [
        draft,
        Path("/a/b.gguf"),
    ]
