"""Extra arguments are checked against what the runtime itself says it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tray_app.engine.errors import SettingsInvalid
from tray_app.engine.runtime.known_arguments import KnownArguments, names_in_help
from tray_app.engine.values import Runtime

# Lines of `llama-server --help`, b11434.
HELP = """\
----- common params -----

-t,    --threads N                      number of CPU threads to use during generation (default: -1)
                                        (env: LLAMA_ARG_THREADS)
-fa,   --flash-attn [on|off|auto]       set Flash Attention use ('on', 'off', or 'auto', default: 'auto')
--swa-full                              use full-size SWA cache (default: false)
-ot,   --override-tensor <tensor name pattern>=<buffer type>,...
                                        override tensor buffer type
-kvu,  --kv-unified, -no-kvu, --no-kv-unified
                                        use single unified KV buffer shared across all sequences
-r,    --reverse-prompt PROMPT          halt generation at PROMPT
--draft, --draft-n, --draft-max N       the argument has been removed. use --spec-draft-n-max or
                                        --spec-ngram-mod-n-max
"""  # noqa: E501 - as it was printed


def test_names_and_values_are_read_from_the_help_text() -> None:
    names = names_in_help(HELP)
    assert all(names[name] for name in ("-t", "--threads", "--override-tensor", "--flash-attn"))
    assert names["--swa-full"] is False
    assert names["--no-kv-unified"] is False
    assert "--draft-max" not in names, "it only says that it is gone"
    assert "-----" not in names


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    server = tmp_path / "llama-server"
    (tmp_path / "help.txt").write_text(HELP)
    server.write_text(f"#!/bin/sh\ncat '{tmp_path}/help.txt'\necho x >> '{tmp_path}/asked'\n")
    server.chmod(0o755)
    return Runtime("b1-cpu", 1, "cpu", server, "built", "x")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--threads", "4"],
        ["--flash-attn=on", "--swa-full"],
        ["--flash_attn", "on"],
        ["--threads", "-1", "-t", "-1"],
        ["--reverse-prompt", "--stop-here", "--swa-full"],
        ["-no-kvu"],
    ],
)
def test_what_it_takes_is_accepted(runtime: Runtime, words: list[str]) -> None:
    KnownArguments().check(runtime, words, "extra_args")


@pytest.mark.parametrize(
    ("words", "named", "remedy"),
    [
        (["--flash-atn", "on"], "--flash-atn", "--flash-attn"),
        (["--swa-full", "--nonsense"], "--nonsense", "--help"),
        (["--draft-max", "3"], "--draft-max", ""),
        (["--swa-full=yes", "-zz"], "-zz", ""),
    ],
)
def test_what_it_does_not_take_is_named(
    runtime: Runtime, words: list[str], named: str, remedy: str
) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        KnownArguments().check(runtime, words, "models.m.extra_args")
    assert f"models.m.extra_args holds {named}, which b1-cpu" in caught.value.message
    assert remedy in caught.value.remedy


def test_each_program_is_asked_once_until_it_changes(runtime: Runtime) -> None:
    known = KnownArguments()
    asked = runtime.server_path.parent / "asked"
    for _ in range(3):
        known.check(runtime, ["--swa-full"], "x")
    assert asked.read_text() == "x\n"
    (runtime.server_path.parent / "help.txt").write_text("--other N   y\n")
    runtime.server_path.touch()
    known.check(runtime, ["--other", "1"], "x")


def test_without_a_help_text_nothing_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    runtime.server_path.write_text("#!/bin/sh\nexit 1\n")
    KnownArguments().check(runtime, ["--nonsense"], "x")
    gone = Runtime("b2-cpu", 2, "cpu", tmp_path / "gone", "built", "x")
    KnownArguments().check(gone, ["--nonsense"], "x")
