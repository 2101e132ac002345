"""A model of 250 KB whose right answer is known, to try a runtime with.

It counts: after each byte comes the next one, so that "abc" goes on with "def". A token's
embedding is a pseudo-random code of +1 and -1, and the output row of a token is the code of the
token before it. The attention and feed-forward weights are small and pseudo-random: every kernel
runs, and what they add moves the answer's margin without closing it. Weights are F16 in the first
layer, Q4_0 in the second and Q8_0 in the output, because users' models are quantized and a driver
can be right about one type and wrong about another. The format is `ggml/include/gguf.h` and
`ggml/src/ggml-common.h` of llama.cpp, the names of keys and tensors `src/llama-arch.cpp`.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROMPT = "abc"
ANSWER = "def"  # by counting; three tokens
LAYERS = 2

SPECIALS = ("<unk>", "<s>", "</s>")  # the places that llama.cpp gives them in such a vocabulary
TOKENS = len(SPECIALS) + 256
EMBEDDING = 64
HEADS = 2
KV_HEADS = 1
HEAD = 64  # a head size that every backend's attention kernels know
FEED_FORWARD = 128
CONTEXT = 256
SEED = 20240229

# A weight is a whole number from -8 to 7 times its tensor's scale; powers of two are exact in
# every type. Measured with b11434: with these the right token has a probability above 0.999.
CODE_SCALE = 1.0
OUTPUT_SCALE = 0.5
ATTENTION_SCALE = 2.0**-7
FEED_FORWARD_SCALE = 2.0**-6

_F32, _F16, _Q4_0, _Q8_0 = 0, 1, 2, 8  # ggml_type
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9  # gguf_type
_ALIGNMENT = 32
_BLOCK = 32  # weights that share a scale in Q4_0 and Q8_0
_UNKNOWN, _CONTROL, _BYTE = 2, 3, 6  # llama_token_type


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]  # the length of a row first
    kind: int
    data: bytes


def write_proof_model(path: Path) -> Path:
    """Write the model to `path`: always the same bytes. Takes about 50 ms; raises OSError."""
    keys, tensors = _keys(), _tensors()
    infos, offset = [], 0
    for tensor in tensors:
        extents = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        infos.append(_text(tensor.name) + extents + struct.pack("<IQ", tensor.kind, offset))
        offset += len(_padded(tensor.data))
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    head = _padded(b"".join((header, *keys, *infos)))
    path.write_bytes(head + b"".join(_padded(tensor.data) for tensor in tensors))
    return path


def _keys() -> list[bytes]:
    sizes = {
        "context_length": CONTEXT,
        "embedding_length": EMBEDDING,
        "block_count": LAYERS,
        "feed_forward_length": FEED_FORWARD,
        "rope.dimension_count": HEAD,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "vocab_size": TOKENS,
    }
    tokens = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *([_BYTE] * 256)]
    norm = "llama.attention.layer_norm_rms_epsilon"
    return [
        _key("general.architecture", _STRING, _text("llama")),
        _key("general.name", _STRING, _text("Llama Wrangler's proof")),
        *(_key(f"llama.{name}", _UINT32, struct.pack("<I", n)) for name, n in sizes.items()),
        _key(norm, _FLOAT32, struct.pack("<f", 1e-5)),
        _key("tokenizer.ggml.model", _STRING, _text("llama")),
        _array("tokenizer.ggml.tokens", _STRING, [_text(token) for token in tokens]),
        _array("tokenizer.ggml.scores", _FLOAT32, [struct.pack("<f", 0.0)] * TOKENS),
        _array("tokenizer.ggml.token_type", _INT32, [struct.pack("<i", kind) for kind in kinds]),
        _key("tokenizer.ggml.add_bos_token", _BOOL, b"\0"),
        _key("tokenizer.ggml.add_space_prefix", _BOOL, b"\0"),
    ]


def _tensors() -> list[_Tensor]:
    # `randbytes` gives the same bytes for a seed on every system and Python we run on.
    source = random.Random(SEED)
    signs = [1 if byte & 1 else -1 for byte in source.randbytes(TOKENS * EMBEDDING)]
    before = signs[-EMBEDDING:] + signs[:-EMBEDDING]
    code_shape = (EMBEDDING, TOKENS)
    tensors = [
        _tensor("token_embd.weight", code_shape, _F16, signs, CODE_SCALE),
        _tensor("output.weight", code_shape, _Q8_0, before, OUTPUT_SCALE),
        _ones("output_norm.weight"),
    ]
    for layer, kind in enumerate((_F16, _Q4_0)):
        tensors += [_ones(f"blk.{layer}.{norm}.weight") for norm in ("attn_norm", "ffn_norm")]
        for name, shape, scale in _LAYER:
            numbers = [byte % 16 - 8 for byte in source.randbytes(shape[0] * shape[1])]
            tensors.append(_tensor(f"blk.{layer}.{name}.weight", shape, kind, numbers, scale))
    return tensors


_LAYER = (
    ("attn_q", (EMBEDDING, HEADS * HEAD), ATTENTION_SCALE),
    ("attn_k", (EMBEDDING, KV_HEADS * HEAD), ATTENTION_SCALE),
    ("attn_v", (EMBEDDING, KV_HEADS * HEAD), ATTENTION_SCALE),
    ("attn_output", (HEADS * HEAD, EMBEDDING), ATTENTION_SCALE),
    ("ffn_gate", (EMBEDDING, FEED_FORWARD), FEED_FORWARD_SCALE),
    ("ffn_up", (EMBEDDING, FEED_FORWARD), FEED_FORWARD_SCALE),
    ("ffn_down", (FEED_FORWARD, EMBEDDING), FEED_FORWARD_SCALE),
)


def _ones(name: str) -> _Tensor:
    return _Tensor(name, (EMBEDDING,), _F32, struct.pack(f"<{EMBEDDING}f", *[1.0] * EMBEDDING))


def _tensor(
    name: str, shape: tuple[int, int], kind: int, numbers: Sequence[int], scale: float
) -> _Tensor:
    if kind == _F16:
        data = struct.pack(f"<{len(numbers)}e", *(number * scale for number in numbers))
    else:
        pack = _q4_0 if kind == _Q4_0 else _q8_0
        starts = range(0, len(numbers), _BLOCK)
        data = b"".join(pack(numbers[start : start + _BLOCK], scale) for start in starts)
    return _Tensor(name, shape, kind, data)


def _q8_0(numbers: Sequence[int], scale: float) -> bytes:
    return struct.pack(f"<e{_BLOCK}b", scale, *numbers)


def _q4_0(numbers: Sequence[int], scale: float) -> bytes:
    """Two weights a byte: the block's first half in the low bits, its second in the high."""
    half = _BLOCK // 2
    pairs = zip(numbers[:half], numbers[half:], strict=True)
    return struct.pack("<e", scale) + bytes((low + 8) | (high + 8) << 4 for low, high in pairs)


def _key(name: str, kind: int, value: bytes) -> bytes:
    return _text(name) + struct.pack("<I", kind) + value


def _array(name: str, kind: int, items: Sequence[bytes]) -> bytes:
    return _key(name, _ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(items))


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
