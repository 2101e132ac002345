"""How much and how fast each model answered, computed by SQLite from the kept requests."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from typing import Any

from .measures import ModelUsage, Usage, UsageBucket

HOUR_S, DAY_S = 3600, 86_400
MOST_DAYS = 90
HOURLY_DAYS = 2  # beyond that, days are what can be seen in a small chart
MOST_MODELS = 100

# Tokens by the time they took: a mean of speeds would count a short answer like a long one.
_SPEED = """
    SUM(CASE WHEN tokens_per_s > 0 THEN generated_tokens END)
        / SUM(CASE WHEN tokens_per_s > 0 THEN generated_tokens / tokens_per_s END)"""
_SPAN = "started_at >= :from_at AND (:model_id IS NULL OR model_id = :model_id)"

_TOTALS = f"""
SELECT model_id, COUNT(*), SUM(status >= 400 AND status != 499), MAX(started_at),
    TOTAL(prompt_tokens), TOTAL(cached_tokens), TOTAL(generated_tokens),
    MAX(prompt_tokens + generated_tokens), {_SPEED},
    SUM(CASE WHEN prompt_tokens_per_s > 0 THEN prompt_tokens - COALESCE(cached_tokens, 0) END)
        / SUM(CASE WHEN prompt_tokens_per_s > 0
              THEN (prompt_tokens - COALESCE(cached_tokens, 0)) / prompt_tokens_per_s END)
FROM requests WHERE {_SPAN}
GROUP BY model_id ORDER BY COUNT(*) DESC, model_id LIMIT {MOST_MODELS}"""

# The nearest rank: half of all, and 19 of 20, had to wait at most this long.
_FIRST_TOKEN = f"""
WITH ranked AS (
    SELECT model_id, first_token_s,
        ROW_NUMBER() OVER (PARTITION BY model_id ORDER BY first_token_s) AS place,
        COUNT(*) OVER (PARTITION BY model_id) AS number
    FROM requests WHERE {_SPAN} AND generated_tokens > 0 AND first_token_s IS NOT NULL)
SELECT model_id, MIN(CASE WHEN place * 2 >= number THEN first_token_s END),
    MIN(CASE WHEN place * 20 >= number * 19 THEN first_token_s END)
FROM ranked GROUP BY model_id"""

_LOCAL_DAY = "CAST(strftime('%s', {}, 'unixepoch', 'localtime', 'start of day'{}, 'utc') AS REAL)"
_HOUR = f"CAST(started_at / {HOUR_S} AS INTEGER) * {HOUR_S}"


def usage(db: sqlite3.Connection, now: float, model_id: str | None, days: int) -> Usage:
    """The last `days` days, 1 to 90: by the hour up to two of them, otherwise by local days."""
    days = max(1, min(days, MOST_DAYS))
    hourly = days <= HOURLY_DAYS
    if hourly:
        from_at = float(int(now - days * DAY_S) // HOUR_S * HOUR_S)
        bucket = _HOUR
    else:
        first_day = _LOCAL_DAY.format("?", f", '-{days - 1} days'")
        from_at = db.execute(f"SELECT {first_day}", (now,)).fetchone()[0]
        bucket = _LOCAL_DAY.format("started_at", "")
    span = {"from_at": from_at, "model_id": model_id}
    totals = db.execute(_TOTALS, span).fetchall()
    first = {row[0]: (row[1], row[2]) for row in db.execute(_FIRST_TOKEN, span)}
    buckets: defaultdict[str, list[UsageBucket]] = defaultdict(list)
    rows = db.execute(
        f"SELECT model_id, {bucket} AS start_at, COUNT(*), TOTAL(generated_tokens), {_SPEED} "
        f"FROM requests WHERE {_SPAN} GROUP BY model_id, 2 ORDER BY 2",
        span,
    )
    for name, start_at, requests, generated, speed in rows:
        buckets[name].append(UsageBucket(float(start_at), requests, int(generated), speed))
    oldest = db.execute("SELECT MIN(started_at) FROM requests").fetchone()[0]
    models = [_model(row, first.get(row[0], (None, None)), buckets[row[0]]) for row in totals]
    bucket_s = HOUR_S if hourly else DAY_S
    return Usage(from_at, now, bucket_s, oldest, tuple(models))


def _model(
    totals: tuple[Any, ...],
    first_token_s: tuple[float | None, float | None],
    buckets: list[UsageBucket],
) -> ModelUsage:
    model_id, requests, failed, last_at, prompt, cached, generated, longest, *speeds = totals
    return ModelUsage(
        model_id=model_id,
        requests=requests,
        failed=failed,
        last_at=last_at,
        prompt_tokens=int(prompt),
        cached_tokens=int(cached),
        generated_tokens=int(generated),
        longest_tokens=longest,
        tokens_per_s=speeds[0],
        prompt_tokens_per_s=speeds[1],
        first_token_median_s=first_token_s[0],
        first_token_p95_s=first_token_s[1],
        buckets=tuple(buckets),
    )
