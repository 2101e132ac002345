"""The window's part of the self-test: what the page and its bridge say, as one line on stdout."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

ANSWER_S = 30.0  # for the page to draw itself and the bridge to answer
# Asked by the page itself, through the real bridge, once it has drawn its heading.
_ASK = """
(async () => {
  const until = Date.now() + 25000;
  const ready = () => window.pywebview?.api?.call && document.querySelector('h1');
  while (!ready()) {
    if (Date.now() > until) return JSON.stringify({ problem: 'the page drew nothing' });
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const answer = await window.pywebview.api.call('snapshot', {});
  if (!answer.ok) return JSON.stringify({ problem: answer.error.message });
  const { version, pid, seq } = answer.value;
  const heading = document.querySelector('h1').textContent.trim();
  return JSON.stringify({ version, pid, seq, heading, agent: navigator.userAgent });
})()
"""


def probe(window: Any, close: Callable[[], None]) -> None:
    """Ask the page, write its answer as a line of JSON to stdout, close the window.

    Blocks for 60 s at most; for a thread of its own.
    """
    told: dict[str, Any] = {"problem": f"the window showed no page within {ANSWER_S:.0f} s"}
    answered = threading.Event()

    def take(answer: Any) -> None:
        nonlocal told
        told = read(answer)
        answered.set()

    if window.events.loaded.wait(ANSWER_S):
        told = {"problem": f"the bridge did not answer within {ANSWER_S:.0f} s"}
        window.evaluate_js(_ASK, take)
        answered.wait(ANSWER_S)
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    close()


def read(answer: Any) -> dict[str, Any]:
    """What came back from the page: our JSON, or an error of its script."""
    try:
        value = json.loads(answer)
    except (TypeError, ValueError):
        value = None
    if isinstance(value, dict):
        return value
    return {"problem": f"the page answered {str(answer)[:200]}"}
