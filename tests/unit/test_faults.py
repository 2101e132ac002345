"""Why a llama-server ended, in plain words. The lines are its own."""

from __future__ import annotations

import pytest

from tray_app.engine.faults import read_fault

STAMP = "0.01.234.567 "


@pytest.mark.parametrize(
    ("line", "code", "permanent"),
    [
        ("E llama_model_load: error loading model: tensor 'x' data is not within the file bounds, "
         "model is corrupted or incomplete", "bad_gguf", True),
        ("gguf_init_from_file_impl: invalid magic characters: 'abcd', expected 'GGUF'",
         "bad_gguf", True),
        ("E llama_model_load: error loading model: unknown model architecture: 'zebra'",
         "unsupported_architecture", True),
        ("E ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 42",
         "not_enough_memory", True),
        ("terminate called after throwing an instance of 'std::bad_alloc'",
         "not_enough_memory", True),
        ("error: invalid argument: --colour", "bad_argument", True),
        ('error while handling argument "--ctx-size": stoi', "bad_argument", True),
        ("llama-server: error while loading shared libraries: libgomp.so.1: cannot open shared "
         "object file", "missing_library", True),
        ("E srv start: couldn't bind HTTP server socket, hostname: /x, port: 0",
         "socket_taken", False),
        ("E srv init: failed to parse chat template", "bad_template", True),
        ("E mtmd_init: failed to load mmproj", "bad_mmproj", True),
        ("gguf_init_from_file: failed to open GGUF file '/x.gguf'", "model_unavailable", True),
        ("/x/ggml.c:42: GGML_ASSERT(a == b) failed", "crashed", False),
    ],
)  # fmt: skip
def test_a_telling_line_becomes_a_reason(line: str, code: str, permanent: bool) -> None:
    for text in (line, STAMP + line):
        fault = read_fault(["I starting", text, "main: exiting due to model loading error"], 1)
        assert (fault.error.code, fault.permanent) == (code, permanent)
        assert fault.error.message.endswith(".")
        assert ".." not in fault.error.message
        assert fault.error.remedy


def test_names_in_the_line_are_said() -> None:
    assert "“zebra”" in read_fault(["unknown model architecture: 'zebra'"], 1).error.message
    assert "--colour" in read_fault(["error: invalid argument: --colour"], 1).error.message
    assert (
        "libgomp.so.1"
        in read_fault(["error while loading shared libraries: libgomp.so.1: no"], 127).error.message
    )


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (-9, "killed", "killed from outside"),
        (-4, "wrong_cpu", "instructions that this processor does not have"),
        (-11, "crashed", "crashed (SIGSEGV)"),
        (-200, "crashed", "crashed (signal 200)"),
        (3, "crashed", "ended with exit code 3."),
        (0, "crashed", "ended with exit code 0."),
        (None, "crashed", "llama-server ended."),
    ],
)
def test_without_a_line_the_exit_status_speaks(status: int | None, code: str, said: str) -> None:
    fault = read_fault([], status)
    assert fault.error.code == code
    assert said in fault.error.message


def test_an_unknown_error_line_is_quoted() -> None:
    fault = read_fault([STAMP + "E srv main: something odd", "main: exiting due to x"], 1)
    assert fault.error.message == "llama-server said: main: something odd"
    assert not fault.permanent


def test_hostile_output_is_bounded() -> None:
    fault = read_fault(["E " + "x" * 100_000, "error: invalid argument: " + "{0}" * 1000], 1)
    assert len(fault.error.message) < 500
