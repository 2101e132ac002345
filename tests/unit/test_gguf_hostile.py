"""Headers that lie: each is refused in words, at once, and in little memory."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import gguf_maker as maker
from tests.gguf_maker import ARRAY, STRING, Raw, Tensor, Typed, gguf_bytes, llama_keys, pair
from tray_app.engine.errors import BadGguf
from tray_app.engine.gguf import read_details, read_summary

TIME_LIMIT_S = 1.0  # of CPU, while tracemalloc slows everything down tenfold; 0.01 is usual
MEMORY_LIMIT_BYTES = 8 << 20
FUZZ_CASES = 3000
FUZZ_SEED = 20261124
HUGE = (1 << 64) - 1


def whole(**options: Any) -> bytes:
    header, size = gguf_bytes(**options)
    return header + bytes(size - len(header))


def keys(*pairs: tuple[Any, Any]) -> bytes:
    return whole(keys=[("general.architecture", "llama"), *pairs])


def array(item_type: int, count: int, data: bytes = b"") -> Raw:
    return Raw(struct.pack("<IIQ", ARRAY, item_type, count) + data)


def string(length: int, data: bytes = b"") -> Raw:
    return Raw(struct.pack("<IQ", STRING, length) + data)


def tensors(*infos: Tensor) -> bytes:
    return whole(tensors=infos)


def minimal(tensor_count: int, key_count: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensor_count, key_count) + rest


def tensor_info(name_length: int, name: bytes, dims: int, rest: bytes) -> bytes:
    """A file without keys, with one tensor info."""
    info = struct.pack("<Q", name_length) + name + struct.pack("<I", dims) + rest
    return minimal(1, 0, info) + bytes(512)


CASES: dict[str, Callable[[], bytes]] = {
    "empty file": lambda: b"",
    "one byte": lambda: b"G",
    "magic alone": lambda: b"GGUF",
    "cut in the counts": lambda: minimal(1, 1)[:20],
    "zeros": lambda: bytes(4096),
    "a web page": lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    "a Git LFS pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "old ggml": lambda: b"lmgg" + bytes(100),
    "old ggjt": lambda: b"tjgg" + bytes(100),
    "a zip": lambda: b"PK\x03\x04" + bytes(100),
    "random bytes": lambda: random.Random(1).randbytes(5000),
    "version 0": lambda: whole(version=0),
    "version 1": lambda: whole(version=1),
    "version 4": lambda: whole(version=4),
    "version huge": lambda: whole(version=0xFFFFFFFF),
    "big-endian version 1": lambda: whole(version=1, order=">"),
    "big-endian version 77": lambda: whole(version=77, order=">"),
    "big-endian version with little counts": lambda: b"GGUF" + struct.pack(">I", 3)
    + struct.pack("<QQ", 1, 1) + bytes(100),
    "huge tensor count": lambda: whole(tensor_count=HUGE),
    "negative tensor count": lambda: whole(tensor_count=1 << 63),
    "more tensors than bytes": lambda: whole(tensor_count=60_000),
    "huge key count": lambda: whole(key_count=HUGE),
    "more keys than bytes": lambda: minimal(0, 8000),
    "one key more than there is": lambda: whole(key_count=99),
    "huge key length": lambda: minimal(0, 1, struct.pack("<Q", HUGE) + bytes(100)),
    "key longer than the file": lambda: minimal(0, 1, struct.pack("<Q", 400) + b"key"),
    "key of 100 KB": lambda: keys(("k" * 100_000, 1)),
    "empty key": lambda: keys(("", 1)),
    "key that is not text": lambda: keys((b"\xff\xfe\xfd", 1)),
    "key twice": lambda: keys(("a", 1), ("a", 2)),
    "architecture twice": lambda: keys(("general.architecture", "bert")),
    "value type 13": lambda: keys(("a", Raw(struct.pack("<IQ", 13, 0)))),
    "value type huge": lambda: keys(("a", Raw(struct.pack("<IQ", 0xFFFFFFFF, 0)))),
    "huge string": lambda: keys(("a", string(HUGE, b"abc"))),
    "string longer than the file": lambda: keys(("a", string(1 << 20, b"abc"))),
    "string of an exabyte": lambda: keys(("a", string(1 << 60))),
    "array of arrays": lambda: keys(("a", array(ARRAY, 1, struct.pack("<IQ", 4, 1)))),
    "deeply nested arrays": lambda: keys(("a", Raw(struct.pack("<I", ARRAY) * 500))),
    "array of type 14": lambda: keys(("a", array(14, 1))),
    "array with huge count": lambda: keys(("a", array(4, HUGE))),
    "array whose bytes overflow 64 bits": lambda: keys(("a", array(10, (1 << 61) + 1))),
    "array of a billion bytes": lambda: keys(("a", array(0, 1 << 30))),
    "string array with huge count": lambda: keys(("a", array(STRING, HUGE))),
    "token array with huge count": lambda: keys(("tokenizer.ggml.tokens", array(STRING, 1 << 40))),
    "string array with a huge string": lambda: keys(
        ("a", array(STRING, 2, struct.pack("<Q", 1) + b"x" + struct.pack("<Q", HUGE) + bytes(64)))
    ),
    "cut inside an array": lambda: keys(("a", list(range(1000))))[:2000],
    "cut inside a key": lambda: keys(("abcdefgh", 1))[:65],
    "alignment 0": lambda: keys(("general.alignment", 0)),
    "alignment 3": lambda: keys(("general.alignment", 3)),
    "alignment of a gigabyte": lambda: keys(("general.alignment", 1 << 30)),
    "alignment as text": lambda: keys(("general.alignment", "32")),
    "alignment as 64 bits": lambda: keys(("general.alignment", Typed(maker.U64, 32))),
    "alignment as true": lambda: keys(("general.alignment", True)),
    "tensor name too long": lambda: tensors(Tensor("t" * 64)),
    "tensor name huge": lambda: tensor_info(HUGE, b"", 0, b""),
    "tensor name not text": lambda: tensor_info(2, b"\xff\xff", 1, struct.pack("<qIQ", 32, 0, 0)),
    "tensor twice": lambda: tensors(Tensor("a"), Tensor("a")),
    "five dimensions": lambda: tensors(Tensor("a", (1, 1, 1, 1, 1))),
    "a billion dimensions": lambda: tensor_info(1, b"a", 1_000_000_000, bytes(64)),
    "negative dimension": lambda: tensors(Tensor("a", (-32, 4))),
    "dimensions that overflow": lambda: tensor_info(
        1, b"a", 4, struct.pack("<qqqqIQ", *[1 << 40] * 4, 0, 0)
    ),
    "tensor of an exabyte": lambda: tensor_info(1, b"a", 1, struct.pack("<qIQ", 1 << 60, 0, 0)),
    "rows that are no multiple of a block": lambda: tensors(Tensor("a", (33, 4), maker.TYPE_Q8_0)),
    "removed tensor type": lambda: tensors(Tensor("a", (32, 4), 4)),
    "unused tensor type": lambda: tensors(Tensor("a", (32, 4), 38)),
    "tensor type huge": lambda: tensors(Tensor("a", (32, 4), 0xFFFFFFFF)),
    "offset beyond the file": lambda: tensor_info(
        1, b"a", 1, struct.pack("<qIQ", 32, 0, 1 << 40)
    ),
    "offset that wraps": lambda: tensor_info(1, b"a", 1, struct.pack("<qIQ", 32, 0, HUGE)),
    "offset not aligned": lambda: whole(tensors=[Tensor("a"), Tensor("b", offset=513)]),
    "tensors over each other": lambda: whole(tensors=[Tensor("a"), Tensor("b", offset=0)]),
    "a hole between tensors": lambda: whole(tensors=[Tensor("a"), Tensor("b", offset=4096)]),
    "unknown type beyond the file": lambda: tensor_info(
        1, b"a", 1, struct.pack("<qIQ", 32, 99, 1 << 40)
    ),
    "no tensor data": lambda: gguf_bytes()[0],
    "half the tensor data": lambda: whole()[:-4000],
    "one byte short": lambda: whole(tensors=[Tensor("a")])[:-1],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_lying_header_is_refused_in_words_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(CASES[name]())
    with contextlib.suppress(BadGguf):
        read_summary(path)  # may not see it yet, but must end as fast
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(BadGguf) as caught:
            read_details(path)
        took_s = time.process_time() - started
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(caught.value.message) >= 15
    assert caught.value.message.isprintable()
    assert caught.value.remedy
    assert took_s < TIME_LIMIT_S
    assert peak < MEMORY_LIMIT_BYTES


@pytest.mark.parametrize("name", CASES)
def test_a_summary_of_a_lying_header_is_as_bounded(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(CASES[name]())
    started = time.process_time()
    with contextlib.suppress(BadGguf):
        read_summary(path)
    assert time.process_time() - started < TIME_LIMIT_S


def test_a_vast_file_of_zero_length_strings_does_not_hold_the_reader(tmp_path: Path) -> None:
    count = 1 << 40
    head = minimal(0, 1, pair("tokenizer.ggml.tokens", array(STRING, count)))
    path = maker.write_file(tmp_path / "a.gguf", head, len(head) + 8 * count)  # 8 TiB of hole
    for read in (read_summary, read_details):
        started = time.process_time()
        with contextlib.suppress(BadGguf):
            read(path)
        assert time.process_time() - started < TIME_LIMIT_S


def test_a_vast_header_of_single_keys_is_bounded(tmp_path: Path) -> None:
    many = [(f"llama.key{number}", number) for number in range(8000)]
    path = maker.write_file(tmp_path / "a.gguf", whole(keys=many, tensors=[]))
    started = time.process_time()
    read_details(path)
    assert time.process_time() - started < 5 * TIME_LIMIT_S
    path = maker.write_file(tmp_path / "b.gguf", whole(keys=[*many, *(("x", 1),) * 200]))
    with pytest.raises(BadGguf, match="8,192"):
        read_details(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
def test_a_named_pipe_does_not_hold_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "pipe.gguf"
    os.mkfifo(path)
    with pytest.raises(BadGguf, match="regular"):
        read_summary(path)


def test_a_missing_file_is_the_systems_error_not_a_bad_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_summary(tmp_path / "none.gguf")


def mutated(original: bytes, chance: random.Random) -> bytes:
    """`original` with a few bytes, lengths or pieces changed."""
    data = bytearray(original)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(data))
        match chance.randrange(6):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.randrange(256)
            case 2:
                value = chance.choice((0, 1, 255, 1 << 16, 1 << 31, 1 << 40, 1 << 63, HUGE))
                data[at : at + 8] = struct.pack("<Q", value)
            case 3:
                del data[at : at + chance.randrange(1, 64)]
            case 4:
                data[at:at] = chance.randbytes(chance.randrange(1, 64))
            case _:
                data = data[: max(1, at)]
        if not data:
            break
    return bytes(data)


def test_thousands_of_mutations_end_in_success_or_bad_gguf(tmp_path: Path) -> None:
    chance = random.Random(FUZZ_SEED)
    more = {"general.tags": ["a", "b"], "llama.rope.factors": [1, 2, 3], "general.alignment": 32}
    originals = [
        whole(keys=llama_keys(more=more), tensors=maker.default_tensors(kind), order=order)
        for kind in (maker.TYPE_F32, maker.TYPE_Q4_K)
        for order in "<>"
    ]
    path = tmp_path / "fuzz.gguf"
    refused, slowest_s = 0, 0.0
    for number in range(FUZZ_CASES):
        original = originals[number % len(originals)]
        # Mostly inside the header: the zeros after it are data, which is not read.
        head, tail = original[:700], original[700:]
        path.write_bytes(mutated(head, chance) + tail)
        started = time.process_time()
        for read in (read_summary, read_details):
            try:
                read(path)
            except BadGguf:
                refused += 1
        slowest_s = max(slowest_s, time.process_time() - started)
    assert refused > FUZZ_CASES / 2
    assert slowest_s < TIME_LIMIT_S
