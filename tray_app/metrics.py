"""`/metrics` in Prometheus' text format 0.0.4: our own figures and those of the children. Pure.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .engine.values import Histogram, Measures, ModelCounts, ModelState, ModelStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OWN = "llama_wrangler_"

_COMMENT = re.compile(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) ([^\n]*)")
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
_SAMPLE = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*)"
    rf"(?:\{{((?:{_LABEL},)*(?:{_LABEL})?)\}})?"
    r"[ \t]+([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|Inf|inf|NaN|nan))(?:[ \t]+-?\d+)?"
)
_HAS_MODEL = re.compile(r'(?:^|,)model="')
_TYPES = frozenset(("counter", "gauge", "histogram", "summary", "untyped"))
_ENDINGS = ("", "_bucket", "_sum", "_count")

Labels = tuple[tuple[str, str], ...]

_COUNTERS: tuple[tuple[str, str, Callable[[ModelCounts], float]], ...] = (
    ("prompt_tokens_total", "Tokens read, cached ones included.", lambda c: c.prompt_tokens),
    ("generated_tokens_total", "Tokens written.", lambda c: c.generated_tokens),
    ("request_wait_seconds_total", "Time waited for models to be ready.", lambda c: c.wait_s),
    ("model_loads_total", "Loads that succeeded.", lambda c: c.loads),
    ("model_load_seconds_total", "Time that those loads took.", lambda c: c.load_s),
)
_GAUGES: tuple[tuple[str, str, Callable[[ModelStatus], float | None]], ...] = (
    ("requests_in_flight", "Requests that are being answered.", lambda s: s.in_flight),
    ("requests_waiting", "Requests that wait for the model.", lambda s: s.waiting),
    ("model_memory_bytes", "Weights, KV cache, compute: estimated.", lambda s: s.memory_bytes),
    ("model_context_tokens", "Context that the model runs with.", lambda s: s.context_length),
    ("model_last_load_seconds", "How long the last load took.", lambda s: s.load_s),
)


@dataclass(slots=True)
class _Family:
    """All samples of one name: the format wants them together, below one HELP and TYPE."""

    kind: str
    text: str
    lines: list[str] = field(default_factory=list)


class _Page:
    """Families in the order of their first mention."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}

    def family(self, name: str, kind: str, text: str) -> _Family:
        return self._families.setdefault(name, _Family(kind, text))

    def add(self, name: str, kind: str, text: str, rows: Iterable[tuple[Labels, float]]) -> None:
        lines = self.family(OWN + name, kind, text).lines
        lines.extend(f"{OWN}{name}{_labels(labels)} {_number(value)}" for labels, value in rows)

    def text(self) -> str:
        out = []
        for name, family in self._families.items():
            if family.lines:
                out.append(f"# HELP {name} {family.text}")
                out.append(f"# TYPE {name} {family.kind}")
                out.extend(family.lines)
        return "\n".join(out) + "\n"


def render(measures: Measures) -> str:
    """The whole page."""
    page = _Page()
    _about_us(page, measures)
    _requests(page, measures)
    _models(page, measures)
    for child in measures.children:
        failed = 1 if child.text is None else 0
        page.add(
            "scrape_error",
            "gauge",
            "1 when the model's llama-server did not tell its own figures in time.",
            [((("model", child.model_id),), failed)],
        )
        if child.text is not None:
            _relabel(page, child.model_id, child.text)
    return page.text()


def _about_us(page: _Page, measures: Measures) -> None:
    memory = measures.memory
    info = (("version", measures.version), ("runtime", measures.runtime_id or ""))
    page.add("build_info", "gauge", "This version, and the active llama.cpp.", [(info, 1)])
    page.add("start_time_seconds", "gauge", "When the engine started.", [((), measures.started_at)])
    for name, text, value in (
        ("memory_budget_bytes", "What models may hold together.", memory.budget_bytes),
        ("memory_held_bytes", "What models in memory hold, estimated.", memory.models_bytes),
        ("memory_total_bytes", "Main memory of this machine.", memory.total_bytes),
        ("memory_available_bytes", "Main memory that is available.", memory.available_bytes),
    ):
        page.add(name, "gauge", text, [((), value)])


def _requests(page: _Page, measures: Measures) -> None:
    counts = measures.counts
    page.add(
        "requests_total",
        "counter",
        "Requests that named a model, by model and class of HTTP status; 499 is a client gone.",
        (
            ((("model", c.model_id), ("status", status)), number)
            for c in counts
            for status, number in c.requests
        ),
    )
    for name, text, read in _COUNTERS:
        page.add(name, "counter", text, (((("model", c.model_id),), read(c)) for c in counts))
    for c in counts:
        _histogram(
            page,
            "request_duration_seconds",
            "From a request's head to the end of its answer.",
            c.model_id,
            c.duration,
        )
        _histogram(
            page,
            "time_to_first_token_seconds",
            "From the model being ready for a request to its first token.",
            c.model_id,
            c.first_token,
        )


def _histogram(page: _Page, name: str, text: str, model_id: str, times: Histogram) -> None:
    if not times.count:
        return
    lines = page.family(OWN + name, "histogram", text).lines
    model = ("model", model_id)
    for bound, number in zip(times.bounds_s, times.at_most, strict=True):
        lines.append(f"{OWN}{name}_bucket{_labels((model, ('le', repr(bound))))} {number}")
    lines.append(f"{OWN}{name}_bucket{_labels((model, ('le', '+Inf')))} {times.count}")
    lines.append(f"{OWN}{name}_sum{_labels((model,))} {_number(times.sum_s)}")
    lines.append(f"{OWN}{name}_count{_labels((model,))} {times.count}")


def _models(page: _Page, measures: Measures) -> None:
    statuses = measures.statuses
    page.add(
        "model_state",
        "gauge",
        "1 for the state that the model is in.",
        (
            ((("model", s.model_id), ("state", state.value)), s.state is state)
            for s in statuses
            for state in ModelState
        ),
    )
    for name, text, read in _GAUGES:
        known = ((s.model_id, read(s)) for s in statuses)
        rows = (((("model", model_id),), value) for model_id, value in known if value is not None)
        page.add(name, "gauge", text, rows)


def _relabel(page: _Page, model_id: str, text: str) -> None:
    """A child's own figures, each with its model. What is no line of the format is left out."""
    model = f"model={_quoted(model_id)}"
    said: dict[str, dict[str, str]] = {"HELP": {}, "TYPE": {}}
    family = ""
    for line in text.split("\n"):
        comment = _COMMENT.fullmatch(line)
        if comment is not None:
            family = comment[2]
            said[comment[1]][family] = comment[3].replace("\\", "")
            continue
        sample = _SAMPLE.fullmatch(line)
        if sample is None or sample[1].startswith(OWN):
            continue
        name, labels, value = sample.groups()
        if labels and _HAS_MODEL.search(labels):
            continue
        owner = family if name in [family + ending for ending in _ENDINGS] else name
        kind = said["TYPE"].get(owner, "untyped")
        into = page.family(
            owner, kind if kind in _TYPES else "untyped", said["HELP"].get(owner, "llama-server's.")
        )
        more = f",{labels.rstrip(',')}" if labels else ""
        into.lines.append(f"{name}{{{model}{more}}} {value}")


def _labels(labels: Labels) -> str:
    inside = ",".join(f"{key}={_quoted(value)}" for key, value in labels)
    return f"{{{inside}}}" if inside else ""


def _quoted(value: str) -> str:
    # Ids come from file names: what is no Unicode there is shown as Python does.
    text = value.encode("utf-8", "backslashreplace").decode()
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
