"""The bookkeeping of pieces, and the map on disk."""

from __future__ import annotations

import json
import os
import random
import threading
import zlib
from pathlib import Path

import pytest

from tray_app.engine.downloads import piece_map
from tray_app.engine.downloads.piece_map import PieceMap, read_map, remove_map, write_map
from tray_app.engine.downloads.pieces import MIB, Pieces, Span, Standing, piece_bytes_for


def fill(pieces: Pieces, span: Span, crc: int = 7) -> bool:
    """Bring the rest of a span's piece."""
    length = pieces.length(span.index)
    assert length is not None
    pieces.add(span, length - pieces.begun(span.index)[0], crc)
    return pieces.finish(span)


def claimed(pieces: Pieces, most: int) -> Span:
    span = pieces.claim(most)
    assert span is not None
    return span


@pytest.mark.parametrize(
    ("size", "piece"),
    [(1, 4), (1 << 30, 4), ((1 << 30) + 1, 8), (8 << 30, 8), ((8 << 30) + 1, 16), (1 << 40, 16)],
)
def test_a_larger_file_has_larger_pieces(size: int, piece: int) -> None:
    assert piece_bytes_for(size) == piece * MIB


def test_pieces_are_given_in_order_and_the_last_one_is_short() -> None:
    pieces = Pieces(25, 10)
    assert [pieces.length(index) for index in range(3)] == [10, 10, 5]
    first, second = claimed(pieces, 2), claimed(pieces, 2)
    assert [(s.index, s.stop) for s in (first, second)] == [(0, 2), (2, 3)]
    assert fill(pieces, first)
    assert not fill(pieces, first)
    assert (pieces.frontier(), pieces.received_bytes, pieces.complete) == (20, 20, False)
    pieces.add(second, 3, 1)
    assert (pieces.frontier(), pieces.received_bytes) == (23, 23)
    assert not fill(pieces, second)
    assert (pieces.frontier(), pieces.complete) == (25, True)


def test_a_gap_holds_the_frontier_back() -> None:
    pieces = Pieces(30, 10)
    first, second = claimed(pieces, 1), claimed(pieces, 1)
    fill(pieces, second)
    assert (pieces.frontier(), pieces.received_bytes) == (0, 10)
    fill(pieces, first)
    assert pieces.frontier() == 20


def test_who_has_nothing_left_takes_half_of_what_the_richest_has_before_it() -> None:
    pieces = Pieces(100, 10)
    rich, poor = claimed(pieces, 8), claimed(pieces, 2)
    thief = claimed(pieces, 5)
    assert (thief.index, thief.stop, rich.stop) == (4, 8, 4)
    assert (poor.index, poor.stop) == (8, 10)
    fill(pieces, rich)
    assert fill(pieces, rich)
    assert fill(pieces, rich)
    assert not fill(pieces, rich), "the rest is the thief's"


def test_the_piece_being_fetched_is_not_stolen() -> None:
    pieces = Pieces(20, 10)
    assert claimed(pieces, 1)
    assert claimed(pieces, 1)
    assert pieces.claim(1) is None


def test_what_came_of_a_released_span_counts_and_is_gone_on_with() -> None:
    pieces = Pieces(20, 10)
    span = claimed(pieces, 2)
    pieces.add(span, 4, 11)
    pieces.release(span)
    assert not pieces.add(span, 1, 12), "it is no longer this one's"
    again = claimed(pieces, 2)
    assert (again.index, pieces.begun(0), pieces.received_bytes) == (0, (4, 11), 4)


def test_one_stream_takes_everything_from_the_others() -> None:
    pieces = Pieces(30, 10)
    done, other = claimed(pieces, 1), claimed(pieces, 1)
    fill(pieces, done)
    stream = pieces.claim_all()
    assert not pieces.add(other, 1, 1)
    assert pieces.begun(0) == (10, 7)
    assert pieces.finish(stream), "what is whole is passed over"
    assert fill(pieces, stream)
    assert not fill(pieces, stream)
    assert pieces.complete


def test_a_dropped_piece_has_to_come_again() -> None:
    pieces = Pieces(30, 10)
    span = claimed(pieces, 3)
    for _ in range(3):
        fill(pieces, span)
    pieces.drop(1)
    assert (pieces.frontier(), pieces.received_bytes, pieces.complete) == (10, 20, False)
    again = claimed(pieces, 3)
    assert (again.index, again.stop) == (1, 2)


def test_a_file_of_unknown_size_is_one_piece_until_its_end_is_seen() -> None:
    pieces = Pieces(None)
    span = claimed(pieces, 1)
    assert (pieces.length(0), len(pieces)) == (None, 1)
    pieces.add(span, 1234, 9)
    assert (pieces.frontier(), pieces.complete) == (1234, False)
    assert not pieces.finish(span)
    assert (pieces.size_bytes, pieces.frontier(), pieces.complete) == (1234, 1234, True)


def test_what_an_earlier_run_wrote_down_is_doubted_until_it_is_read() -> None:
    standing = Standing((5, None, None), ((1, 4, 6), (2, 3, 8)))
    pieces = Pieces(30, 10)
    pieces.restore(standing, lambda start, count, crc: crc == 6)
    assert pieces.received_bytes == 14
    assert pieces.doubted_crc(0) == 5
    pieces.believe(0)
    assert pieces.doubted_crc(0) is None
    assert pieces.standing() == Standing((5, None, None), ((1, 4, 6),))


def test_many_threads_bring_each_byte_once() -> None:
    pieces, data = Pieces(999_983, 1000), random.Random(1).randbytes(999_983)
    disk = bytearray(len(data))

    def work(seed: int) -> None:
        dice = random.Random(seed)
        while not pieces.complete:
            span = pieces.claim(dice.randint(1, 50))
            if span is None:
                pieces.wait_free()
                continue
            going = True
            while going and dice.random() < 0.95:
                start, (begun, crc) = pieces.start(span.index), pieces.begun(span.index)
                end = start + (pieces.length(span.index) or 0)
                stop = min(end, start + begun + dice.randint(1, 800))
                disk[start + begun : stop] = data[start + begun : stop]
                crc = zlib.crc32(data[start + begun : stop], crc)
                assert pieces.add(span, stop - start - begun, crc)
                going = pieces.finish(span) if stop == end else True
            pieces.release(span)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (bytes(disk), pieces.received_bytes) == (data, len(data))
    crcs = [zlib.crc32(data[at : at + 1000]) for at in range(0, len(data), 1000)]
    assert list(pieces.standing().crcs) == crcs


KEPT = PieceMap(9 * MIB, "ab" * 32, '"etag"', Standing((1, None, 0xFFFFFFFF), ((1, 4096, 0x1234),)))


def test_a_map_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "f.part.map"
    write_map(path, KEPT)
    assert read_map(path) == KEPT
    assert os.listdir(tmp_path) == [path.name]
    remove_map(path)
    remove_map(path)
    assert read_map(path) is None


def test_a_map_that_could_not_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.part.map"
    write_map(path, KEPT)

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(piece_map.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_map(path, PieceMap(MIB, None, None, Standing((None,))))
    assert read_map(path) == KEPT


def test_any_garbage_is_no_map_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "f.part.map"
    write_map(path, KEPT)
    good = path.read_bytes()
    dice = random.Random(3)
    for _ in range(500):
        bad = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            bad[dice.randrange(len(bad))] = dice.randrange(256)
        path.write_bytes(bad[: dice.randint(0, len(bad))])
        read = read_map(path)
        assert read is None or len(read.standing.crcs) == -(-read.size_bytes // (4 * MIB))
    for value in (None, True, -1, 1.5, "9", [], {}, 10**30):
        for key in json.loads(good):
            path.write_text(json.dumps(json.loads(good) | {key: value}))
            read_map(path)
