"""Structured logs: redacted, readable in pieces, bounded."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tray_app.engine.errors import BadRequest, NotFound
from tray_app.engine.logs import (
    JsonLines,
    cut_large_logs,
    list_logs,
    read_log,
    redact,
    start_logging,
    tail_lines,
)

SECRET = "s3cr3t-Value_0123"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization: bearer {SECRET}, next",
        f"Authorization: Basic {SECRET}",
        f'{{"token": "{SECRET}", "a": 1}}',
        f'{{"inner": "{{\\"token\\": \\"{SECRET}\\"}}"}}',
        f"{{'api_key': '{SECRET}'}}",
        f"http://127.0.0.1:1/enter?ticket={SECRET}&face=window",
        f"https://host/file?X-Amz-Signature={SECRET}&b=1",
        f"https://host/file?token={SECRET}",
        f"x-api-key: {SECRET}",
        f"HF_TOKEN={SECRET}",
        f"password = {SECRET}",
        "hf_abcdefghijklmnop0123",
        "--hf-token hf_abcdefghijklmnop0123",
        "sk-abcdefghijklmnop0123",
    ],
)
def test_secrets_never_show(text: str) -> None:
    shown = redact(text)
    assert SECRET not in shown
    assert "abcdefghijklmnop" not in shown
    assert "[redacted]" in shown
    assert "&face" in shown or "&face" not in text


@pytest.mark.parametrize(
    "text",
    [
        "prompt eval time = 12.50 ms / 7 tokens",
        "n_tokens = 123456789",
        "token: 5",
        "task-force sk-1",
        '{"generated_tokens": 12345678}',
    ],
)
def test_plain_numbers_and_words_stay(text: str) -> None:
    assert redact(text) == text


@pytest.fixture
def engine_log(tmp_path: Path) -> Iterator[Path]:
    root = logging.getLogger()
    before, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    start_logging(tmp_path)
    yield tmp_path / "engine.log"
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = before
    root.setLevel(level)
    logging.raiseExceptions = raising


def test_a_record_is_one_json_line_with_its_fields_redacted(engine_log: Path) -> None:
    log = logging.getLogger("tray_app.engine.test")
    log.info(
        "with %s\nnew line",
        f"token={SECRET}",
        extra={"model": "org/ü:Q4", "url": f"http://x?token={SECRET}", "n": 3,
               "argv": ("--api-key", f"token={SECRET}"), "path": Path("/x")},
    )  # fmt: skip
    try:
        raise ValueError(f"token={SECRET}")
    except ValueError:
        log.exception("failed")
    first, second = (json.loads(line) for line in engine_log.read_text("utf-8").splitlines())
    assert SECRET not in json.dumps([first, second])
    assert (first["logger"], first["level"], first["n"]) == ("engine.test", "info", 3)
    assert (first["model"], first["path"]) == ("org/ü:Q4", "/x")
    assert "ValueError" in second["traceback"]
    assert engine_log.stat().st_mode & 0o777 == 0o600


def test_a_record_that_cannot_be_formatted_harms_nobody(engine_log: Path) -> None:
    logging.getLogger("x").info("%d", "no number")
    logging.getLogger("x").info("after")
    assert "after" in engine_log.read_text("utf-8")
    record = logging.makeLogRecord({"name": "x", "msg": "m", "odd": object()})
    assert "odd" in json.loads(JsonLines().format(record))


def test_logs_are_listed_newest_first_and_nothing_else(tmp_path: Path) -> None:
    for number, name in enumerate(("old.log", "new.log.1", "notes.txt")):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (number, number))
    (tmp_path / "folder.log").mkdir()
    (tmp_path / "gone.log").symlink_to(tmp_path / "nowhere")
    assert [log.name for log in list_logs(tmp_path)] == ["new.log.1", "old.log"]


def test_reading_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("one\ntwo\n")
    first = read_log(tmp_path, "a.log", None, 100)
    assert (first.text, first.start_offset, first.next_offset) == ("one\ntwo\n", 0, 8)
    with path.open("a") as file:
        file.write("three\n")
    later = read_log(tmp_path, "a.log", first.next_offset, 100)
    assert (later.text, later.next_offset, later.size_bytes) == ("three\n", 14, 14)
    assert read_log(tmp_path, "a.log", 14, 100).text == ""


def test_the_tail_begins_at_a_line_and_a_piece_ends_at_one(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("first line\nsecond line\nthird line\n")
    assert read_log(tmp_path, "a.log", None, 15).text == "third line\n"
    part = read_log(tmp_path, "a.log", 0, 15)
    assert (part.text, part.next_offset) == ("first line\n", 11)


@pytest.mark.parametrize("offset", [99, -1, 10**30])
def test_an_offset_that_is_not_there_any_more_starts_over(tmp_path: Path, offset: int) -> None:
    (tmp_path / "a.log").write_text("short\n")
    assert read_log(tmp_path, "a.log", offset, 100).text == "short\n"


def test_characters_are_never_split_and_every_read_goes_on(tmp_path: Path) -> None:
    text = "ü€😀" * 50 + "\n" + "日本" * 20
    (tmp_path / "a.log").write_bytes(text.encode())
    for size in (1, 2, 3, 4, 5, 7, 64):
        offset, pieces = 0, []
        while True:
            part = read_log(tmp_path, "a.log", offset, size)
            if not part.text and part.next_offset == part.size_bytes:
                break
            assert part.next_offset > offset
            offset = part.next_offset
            pieces.append(part.text)
        if size >= 4:
            assert "".join(pieces) == text


@pytest.mark.parametrize(
    "name",
    ["../engine.lock", "../x.log", "/etc/passwd", "a/b.log", ".", "..", "", "x.txt", "a\0.log",
     "x.log/..", "\ud800.log", "a\n.log"],
)  # fmt: skip
def test_only_names_of_logs_are_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest, match="not the name of a log"):
        read_log(tmp_path, name, None, 100)


def test_a_missing_log_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no log named x\.log"):
        read_log(tmp_path, "x.log", None, 100)
    assert tail_lines(tmp_path / "x.log") == []


def test_what_is_read_is_redacted_and_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(f"token={SECRET}\n" * 200_000)
    part = read_log(tmp_path, "a.log", 0, 10**12)
    assert SECRET not in part.text
    assert part.next_offset <= 1_000_000


def test_a_large_log_is_cut_under_a_child_that_writes_on(tmp_path: Path) -> None:
    path = tmp_path / "model-x.log"
    stop, wrote = threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        with path.open("ab", buffering=0) as file:
            while not stop.is_set():
                number += 1
                file.write(b"line %08d\n" % number)
                if number > 2000:
                    wrote.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert wrote.wait(10)
    cut_large_logs([path, tmp_path / "missing.log"], limit=4000)
    wrote.clear()
    assert wrote.wait(10)
    stop.set()
    writer.join()
    data = path.read_bytes()
    assert b"\0" not in data
    lines = data.splitlines()
    assert all(len(line) == 13 for line in lines)
    assert [int(line[5:]) for line in lines] == sorted(int(line[5:]) for line in lines)
    assert int(lines[0][5:]) > 1


def test_a_small_log_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("small\n")
    cut_large_logs([path])
    assert path.read_text() == "small\n"
    assert tail_lines(path) == ["small"]
