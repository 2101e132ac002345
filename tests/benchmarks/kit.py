"""What the benchmarks share: first tokens timed on a raw connection, medians, and the table."""

from __future__ import annotations

import http.client
import json
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Address = str | int  # a unix socket, or a loopback port
PROMPT = "Say hello."


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connection(address: Address, timeout_s: float = 60.0) -> http.client.HTTPConnection:
    """A connection of its own; made when it is used."""
    if isinstance(address, str):
        return _UnixConnection(address, timeout_s)
    return http.client.HTTPConnection("127.0.0.1", address, timeout=timeout_s)


def first_token_s(address: Address, model: str, tokens: int = 8) -> float:
    """Seconds from before the connect to the first token of a streamed chat answer."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
    }
    link = connection(address)
    began = time.perf_counter()
    first = None
    try:
        link.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(body),
            {"Content-Type": "application/json"},
        )
        response = link.getresponse()
        assert response.status == 200, response.read()
        while line := response.readline():
            if first is None and line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    first = time.perf_counter() - began
    finally:
        link.close()
    assert first is not None, "no token came"
    return first


def alternately(rounds: int, *ways: Callable[[], float]) -> list[list[float]]:
    """Measure each way once a round, in an order that turns around every round."""
    found: list[list[float]] = [[] for _ in ways]
    for number in range(rounds):
        order = list(enumerate(ways))
        for index, way in order if number % 2 == 0 else reversed(order):
            found[index].append(way())
    return found


@dataclass(frozen=True)
class Row:
    """One measured thing, in `unit`; the baseline was measured in the same run."""

    name: str
    values: Sequence[float]
    unit: str
    goal: float | None = None
    baseline: str = ""
    baseline_values: Sequence[float] = ()
    ratio_goal: float | None = None  # at most this many times the baseline


def table(title: str, rows: Sequence[Row]) -> None:
    """Print medians, their spread, the ratio to the baseline, and whether the goal is met."""
    print(f"\n{title}")
    print(f"  {'':42} {'median':>9} {'least':>8} {'most':>8}  {'goal':>9}      ratio to")
    for row in rows:
        middle = statistics.median(row.values)
        line = f"  {row.name:42} {middle:9.3f} {min(row.values):8.3f} {max(row.values):8.3f}"
        if row.goal is None:
            line += f"  {'':9} {row.unit:3}"
        else:
            verdict = "met" if middle <= row.goal else "MISSED"
            line += f"  {row.goal:9.3g} {row.unit:3} {verdict}"
        if row.baseline_values:
            base = statistics.median(row.baseline_values)
            line += f"  {middle / base:.2f} x {row.baseline} ({base:.3f} {row.unit})"
            if row.ratio_goal is not None:
                verdict = "met" if middle / base <= row.ratio_goal else "MISSED"
                line += f", goal {row.ratio_goal:.2f}: {verdict}"
        print(line)
