"""What a long conversation costs after two switches: its prompt is not read again.

    python -m tests.benchmarks.bench_conversations [--rounds 3] [--words 3000]

Memory for one model only. The baseline is the same prompt read for the first time.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.bench_switch import FIRST, SECOND  # noqa: E402 (a script finds the tree first)
from tests.benchmarks.kit import Row, connection, first_token_s, table  # noqa: E402
from tests.e2e import kit  # noqa: E402

ONE_MODEL_BYTES = 500_000_000  # the first one is estimated at 0.4 GB with this context
RATIO_GOAL = 0.03


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, default=3000)
    options = parser.parse_args()
    first, second, tokens = [], [], 0
    with (
        kit.temporary_home(memory_budget_bytes=ONE_MODEL_BYTES) as (home, environ),
        kit.running_engine(home, environ) as client,
    ):
        port = client.snapshot()["gateway"]["port"]
        client.call("change_model_settings", model_id=FIRST, changes={"context_length": 8192})
        for number in range(options.rounds):
            story = f"Story {number}. " + " ".join(
                f"word{index * 7919 % 997}" for index in range(options.words // 3)
            )
            read = ask(port, story)
            first.append(read["prompt_ms"])
            tokens = read["prompt_n"]
            first_token_s(port, SECOND)
            assert len(kit.child_pids(client)) == 1, "both models fitted: that was no switch"
            second.append(ask(port, story)["prompt_ms"])
    table(
        f"A prompt of {tokens:,} tokens, read again after two switches",
        [Row("its prompt", second, "ms", None, "read the first time", first, RATIO_GOAL)],
    )
    return 0


def ask(port: int, story: str) -> dict[str, Any]:
    """The timings of an answer to a story."""
    body = {
        "model": FIRST,
        "messages": [{"role": "user", "content": story}],
        "max_tokens": 2,
        "temperature": 0,
    }
    link = connection(port, 300.0)
    try:
        link.request("POST", "/v1/chat/completions", json.dumps(body))
        response = link.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200, answer
        timings: dict[str, Any] = answer["timings"]
        return timings
    finally:
        link.close()


if __name__ == "__main__":
    sys.exit(main())
