"""Use by model: what is read out of answers, kept in state.db and computed from there."""

from __future__ import annotations

import datetime
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tray_app.engine.history import RequestHistory
from tray_app.engine.state import StateDb
from tray_app.engine.usage import HOUR_S, usage
from tray_app.engine.usage_commands import slots_in
from tray_app.engine.values import RequestRecord, Slot, Usage
from tray_app.upstream import Counts, counts_in

NOW = datetime.datetime(2026, 7, 15, 12, 30, tzinfo=datetime.UTC).timestamp()
HOURS = 3600.0
DAYS = 86_400.0


def record(model_id: str, ago_s: float, **fields: object) -> RequestRecord:
    values: dict[str, object] = {"status": 200, "first_token_s": 0.1, "prompt_tokens": 10}
    values |= {"generated_tokens": 20, "tokens_per_s": 10.0, **fields}
    return RequestRecord(
        model_id=model_id,
        path="/v1/x",
        started_at=NOW - ago_s,
        wait_s=0.0,
        duration_s=1.0,
        **values,
    )  # type: ignore[arg-type]


class Kept:
    """A history of these requests, asked at NOW."""

    def __init__(self, path: Path) -> None:
        self.db = StateDb(path)
        self.history = RequestHistory(self.db)

    def add(self, *records: RequestRecord) -> None:
        for each in records:
            self.history.add(each)
        self.history.recent(1)  # writes them

    def usage(self, days: int = 1, model_id: str | None = None) -> Usage:
        with self.db.reading() as db:
            return usage(db, NOW, model_id, days)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path / "state.db")
    yield made
    made.history.close()
    made.db.close()


def test_speeds_are_tokens_by_the_time_they_took(kept: Kept) -> None:
    kept.add(
        record("m", 60, generated_tokens=10, tokens_per_s=100.0),  # 0.1 s
        record("m", 50, generated_tokens=90, tokens_per_s=10.0),  # 9 s
        record("m", 40, generated_tokens=None, prompt_tokens=None, tokens_per_s=None),
        record("m", 30, prompt_tokens=110, cached_tokens=100, prompt_tokens_per_s=5.0),  # 2 s
        record("m", 20, prompt_tokens=90, cached_tokens=0, prompt_tokens_per_s=45.0),  # 2 s
    )
    (model,) = kept.usage().models
    assert model.tokens_per_s == pytest.approx((10 + 90 + 20 + 20) / (0.1 + 9 + 2 + 2))
    assert model.prompt_tokens_per_s == pytest.approx((10 + 90) / 4)
    assert (model.requests, model.generated_tokens) == (5, 140)
    assert (model.prompt_tokens, model.cached_tokens) == (220, 100)
    assert model.longest_tokens == 130


def test_the_first_token_is_told_as_median_and_as_what_nearly_all_had(kept: Kept) -> None:
    kept.add(*(record("m", 60, first_token_s=n / 100) for n in range(100, 0, -1)))
    kept.add(record("m", 60, first_token_s=99.0, generated_tokens=None))  # no token
    kept.add(record("one", 60, first_token_s=0.7))
    models = {model.model_id: model for model in kept.usage().models}
    assert models["m"].first_token_median_s == 0.5
    assert models["m"].first_token_p95_s == 0.95
    assert (models["one"].first_token_median_s, models["one"].first_token_p95_s) == (0.7, 0.7)


def test_errors_are_counted_and_a_client_that_left_is_none(kept: Kept) -> None:
    kept.add(*(record("m", 60, status=status) for status in (200, 499, 400, 502)))
    (model,) = kept.usage().models
    assert (model.requests, model.failed) == (4, 2)


def test_the_most_used_comes_first_and_one_can_be_asked_for(kept: Kept) -> None:
    kept.add(record("a", 60), record("b", 60), record("b", 50), record("old", 3 * DAYS))
    assert [model.model_id for model in kept.usage().models] == ["b", "a"]
    assert [model.model_id for model in kept.usage(model_id="a").models] == ["a"]
    assert kept.usage(model_id="' OR 1 --").models == ()
    assert kept.usage().kept_from_at == NOW - 3 * DAYS


def test_a_day_is_told_by_the_hour(kept: Kept) -> None:
    kept.add(record("m", 0), record("m", 60), record("m", 2 * HOURS), record("m", 25 * HOURS))
    found = kept.usage(days=1)
    assert (found.bucket_s, found.from_at) == (HOUR_S, NOW - DAYS - 1800)
    (model,) = found.models
    assert [(b.start_at, b.requests) for b in model.buckets] == [
        (NOW - 1800 - 2 * HOURS, 1),
        (NOW - 1800, 2),
    ]
    assert model.buckets[0].generated_tokens == 20
    assert model.buckets[0].tokens_per_s == pytest.approx(10.0)


def test_more_days_are_told_by_the_days_of_this_place(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/St_Johns")  # 2:30 behind UTC in July
    time.tzset()
    try:
        midnight = NOW - 10 * HOURS
        kept.add(record("m", 10 * HOURS), record("m", 10 * HOURS + 1), record("m", 6 * DAYS))
        kept.add(record("m", 7 * DAYS))
        found = kept.usage(days=7)
        assert (found.bucket_s, found.from_at) == (86_400, midnight - 6 * DAYS)
        (model,) = found.models
        assert [(b.start_at, b.requests) for b in model.buckets] == [
            (midnight - 6 * DAYS, 1),
            (midnight - DAYS, 1),
            (midnight, 1),
        ]
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(("asked", "given"), [(-5, 1), (0, 1), (90, 90), (10**9, 90)])
def test_the_span_has_bounds(asked: int, given: int, kept: Kept) -> None:
    assert kept.usage(days=asked).from_at == kept.usage(days=given).from_at
    assert kept.usage(days=asked).models == ()
    assert kept.usage(days=asked).kept_from_at is None


def test_a_database_of_an_older_version_keeps_its_requests_and_takes_new_ones(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.db"
    old = sqlite3.connect(path)
    old.executescript(
        "CREATE TABLE requests (id INTEGER PRIMARY KEY, model_id TEXT NOT NULL,"
        " path TEXT NOT NULL, status INTEGER NOT NULL, started_at REAL NOT NULL,"
        " wait_s REAL NOT NULL, first_token_s REAL, duration_s REAL NOT NULL,"
        " prompt_tokens INTEGER, generated_tokens INTEGER, tokens_per_s REAL);"
        f"INSERT INTO requests VALUES (7, 'm', '/v1/x', 200, {NOW - 60}, 0, 0.1, 1, 3, 4, 5.0);"
    )
    old.close()
    new = record("m", 30, cached_tokens=8, prompt_tokens_per_s=2.0)
    for _ in range(2):  # the second time there is nothing to add
        kept = Kept(path)
        assert kept.db.broken_copy is None
        before = kept.history.recent(500)[-1]
        assert (before.tokens_per_s, before.prompt_tokens_per_s) == (5.0, None)
        kept.add(new)
        assert kept.history.recent(1) == [new]
        (model,) = kept.usage().models
        assert model.prompt_tokens_per_s == pytest.approx(2.0)
        kept.history.close()
        kept.db.close()
    again = sqlite3.connect(path)  # an older version writes by name
    again.execute(
        "INSERT INTO requests (model_id, path, status, started_at, wait_s, duration_s)"
        " VALUES ('m', '/', 200, 1, 0, 0)"
    )
    again.close()


# As llama-server b11434 writes them.
@pytest.mark.parametrize(
    ("tail", "counts"),
    [
        (
            b'"usage":{"completion_tokens":20,"prompt_tokens":41,"prompt_tokens_details":'
            b'{"cached_tokens":3}},"timings":{"cache_n":3,"prompt_n":38,"prompt_ms":103.706,'
            b'"prompt_per_token_ms":2.5,"prompt_per_second":395.3,"predicted_n":20,'
            b'"predicted_ms":100.5,"predicted_per_second":189.9}',
            Counts(41, 20, 189.9, 395.3, 3, 0.1005),
        ),
        (
            b'"timings":{"cache_n":40,"prompt_n":1,"prompt_per_second":180.8,"predicted_n":3,'
            b'"predicted_ms":11.0,"predicted_per_second":179.4}}\n\ndata: [DONE]\n\n',
            Counts(41, 3, 179.4, 180.8, 40, 0.011),
        ),
        (
            b'"usage":{"cache_read_input_tokens":40,"input_tokens":1,"output_tokens":3}}',
            Counts(prompt_tokens=41, generated_tokens=3, cached_tokens=40),
        ),
        (
            b'"usage":{"input_tokens":9,"output_tokens":2,"input_tokens_details":{"cached_tokens":8}}',
            Counts(prompt_tokens=9, generated_tokens=2, cached_tokens=8),
        ),
        (b'"prompt_tokens": 1e999, "completion_tokens": 2', Counts(generated_tokens=2)),
        (b'said \\"prompt_tokens\\": 7', Counts()),
        (b"", Counts()),
    ],
)
def test_counts_are_read_from_the_end_of_an_answer(tail: bytes, counts: Counts) -> None:
    assert counts_in(tail) == counts


def test_slots_tell_numbers_and_no_word_of_the_prompt() -> None:
    body = (
        b'[{"id":0,"n_ctx":4096,"is_processing":false,"n_prompt_tokens":43,'
        b'"n_prompt_tokens_processed":0,"n_prompt_tokens_cache":0,"next_token":[{"n_decoded":0}],'
        b'"prompt":"SECRET","params":{"generation_prompt":"SECRET"}},'
        b'{"id":1,"n_ctx":4096,"is_processing":true,"n_prompt_tokens":306,'
        b'"n_prompt_tokens_processed":1,"n_prompt_tokens_cache":40,"next_token":[{"n_decoded":265}]},'
        b'{"id":2,"n_ctx":4096,"is_processing":true,"n_prompt_tokens":41,'
        b'"n_prompt_tokens_processed":41,"next_token":{"n_decoded":9}},'
        b'{"id":3,"n_ctx":4096,"is_processing":false}, 7]'
    )
    assert slots_in(body) == (
        Slot(0, False, 4096, 43),
        Slot(1, True, 4096, 306),
        Slot(2, True, 4096, 50),
        Slot(3, False, 4096, 0),
    )


@pytest.mark.parametrize(
    "body", [b"", b"null", b"{}", b"[", b"\xff", b"[" * 100_000, b'{"error": {"code": 501}}']
)
def test_slots_of_a_child_that_tells_none_are_none(body: bytes) -> None:
    assert slots_in(body) == ()


def test_odd_values_of_a_slot_are_not_passed_on() -> None:
    odd = b'[{"id":"x","n_ctx":-1,"is_processing":"yes","n_prompt_tokens":1e9,"next_token":[]}]'
    assert slots_in(odd) == (Slot(0, False, 0, 0),)
