"""The proof's own model: the same bytes each time, a valid GGUF, small, and a clear answer."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tray_app.engine.gguf_wire import walk
from tray_app.engine.runtime import proof_model
from tray_app.engine.runtime.proof_model import EMBEDDING, LAYERS, TOKENS, write_proof_model

SHA256 = "eba09a1f933648724462f065aa366730e3d9824652248ed8a8f0825ba4d74f69"


def test_it_is_always_the_same_file(tmp_path: Path) -> None:
    first = write_proof_model(tmp_path / "a.gguf").read_bytes()
    second = write_proof_model(tmp_path / "b.gguf").read_bytes()
    assert first == second
    # Another file would be another proof: then proof.VERSION has to change with this line.
    assert hashlib.sha256(first).hexdigest() == SHA256


def test_it_is_a_small_valid_llama(tmp_path: Path) -> None:
    path = write_proof_model(tmp_path / "proof.gguf")
    size = path.stat().st_size
    assert size < 1_000_000
    with path.open("rb") as file:
        header = walk(file, size, whole=True)
    assert header.whole
    assert header.values["general.architecture"] == "llama"
    assert header.values["llama.block_count"] == LAYERS
    assert header.tensor_count == 3 + 9 * LAYERS
    # Kernels of quantized weights are tried too, and they differ from those of F16.
    assert {"F16", "Q4_0", "Q8_0"} <= set(header.elements_by_type)


def test_no_other_token_comes_near_the_right_one() -> None:
    """Output row j against the embedding of i: 64 for j = i + 1, and far less for all others."""
    tensors = {tensor.name: tensor for tensor in proof_model._tensors()}
    codes = _rows(tensors["token_embd.weight"].data)
    outputs = [codes[token - 1] for token in range(TOKENS)]
    worst = 0
    for token, code in enumerate(codes):
        for other, output in enumerate(outputs):
            same = EMBEDDING - 2 * (code ^ output).bit_count()
            if other == (token + 1) % TOKENS:
                assert same == EMBEDDING
            else:
                worst = max(worst, same)
    assert worst <= 40  # times OUTPUT_SCALE: twelve below the right one, e^-12 of its probability


def test_quantized_weights_are_what_llama_cpp_reads() -> None:
    numbers = [*range(-8, 8), *range(7, -9, -1)]
    block = proof_model._q4_0(numbers, 0.5)
    assert len(block) == 2 + 16
    # dequantize_row_q4_0: the low halves are the first 16 weights, less 8.
    assert [(byte & 15) - 8 for byte in block[2:]] + [(byte >> 4) - 8 for byte in block[2:]] == (
        numbers
    )
    assert len(proof_model._q8_0(numbers, 0.5)) == 2 + 32


def _rows(data: bytes) -> list[int]:
    """Each row's signs as bits; an F16 is negative when its last bit is set."""
    signs = "".join("1" if high & 0x80 else "0" for high in data[1::2])
    return [int(signs[start : start + EMBEDDING], 2) for start in range(0, len(signs), EMBEDDING)]
