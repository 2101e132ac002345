"""`/metrics`: the page is read by Prometheus' own parser, whatever the ids and the children say."""

from __future__ import annotations

import asyncio
import math
import tempfile
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway_kit import Client, FakeBackend, request, run, until
from tray_app.engine.child_question import ask_child
from tray_app.engine.launch import Endpoint
from tray_app.engine.tally import Tally
from tray_app.engine.values import (
    ChildFigures,
    Measures,
    Memory,
    ModelState,
    ModelStatus,
    RequestRecord,
)
from tray_app.gateway import Gateway
from tray_app.metrics import render

MODEL = "org/m:Q4"
CHILD = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 45
# HELP llamacpp:requests_processing Number of requests processing
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 1
"""


def record(status: int = 200, model_id: str = MODEL, **fields: object) -> RequestRecord:
    values = {"wait_s": 0.5, "first_token_s": 0.2, "duration_s": 3.0, "prompt_tokens": 7}
    values |= {"generated_tokens": 9, **fields}
    return RequestRecord(model_id, "/v1/x", status, 1.0, **values)  # type: ignore[arg-type]


def measures(
    records: tuple[RequestRecord, ...] = (),
    statuses: tuple[ModelStatus, ...] = (),
    children: tuple[ChildFigures, ...] = (),
) -> Measures:
    tally = Tally()
    for each in records:
        tally.answered(each)
    for status in statuses:
        tally.changed(status)
    memory = Memory(16_000, 9_000, 8_000, 2_000)
    return Measures("1.2.3", "b1-cpu", 100.5, memory, statuses, tally.read(), children)


def parsed(what: Measures) -> dict[str, Metric]:
    text = render(what)
    families = list(text_string_to_metric_families(text))
    named = {family.name: family for family in families}
    assert len(named) == len(families)  # each family stands together, once
    return named


def value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    found = [
        s.value
        for family in families.values()
        for s in family.samples
        if s.name == sample and s.labels == labels
    ]
    assert len(found) == 1, (sample, labels, found)
    return float(found[0])


def test_requests_tokens_and_times_are_told_by_model() -> None:
    records = (record(), record(404, generated_tokens=None), record(499, model_id="other"))
    families = parsed(measures(records))
    own = "llama_wrangler_"
    assert value(families, own + "requests_total", model=MODEL, status="2xx") == 1
    assert value(families, own + "requests_total", model=MODEL, status="4xx") == 1
    assert value(families, own + "requests_total", model="other", status="4xx") == 1
    assert value(families, own + "prompt_tokens_total", model=MODEL) == 14
    assert value(families, own + "generated_tokens_total", model=MODEL) == 9
    assert value(families, own + "request_wait_seconds_total", model=MODEL) == 1.0
    duration = own + "request_duration_seconds"
    assert families[duration].type == "histogram"
    assert value(families, duration + "_count", model=MODEL) == 2
    assert value(families, duration + "_sum", model=MODEL) == 6.0
    assert value(families, duration + "_bucket", model=MODEL, le="2.5") == 0
    assert value(families, duration + "_bucket", model=MODEL, le="5.0") == 2
    assert value(families, duration + "_bucket", model=MODEL, le="+Inf") == 2
    # An answer without tokens has no first one.
    assert value(families, own + "time_to_first_token_seconds_count", model=MODEL) == 1
    assert value(families, own + "build_info", version="1.2.3", runtime="b1-cpu") == 1
    assert value(families, own + "memory_budget_bytes") == 8_000


def test_a_time_that_is_a_bound_counts_below_it() -> None:
    families = parsed(measures((record(first_token_s=0.25), record(first_token_s=99.0))))
    name = "llama_wrangler_time_to_first_token_seconds_bucket"
    assert value(families, name, model=MODEL, le="0.1") == 0
    assert value(families, name, model=MODEL, le="0.25") == 1
    assert value(families, name, model=MODEL, le="30.0") == 1
    assert value(families, name, model=MODEL, le="+Inf") == 2


def test_what_a_model_does_now_is_told() -> None:
    ready = ModelStatus(
        MODEL, ModelState.READY, 2, 3, 4711, 50.0, None, 1.5, 1_000_000, 8192, "b1-cpu"
    )
    families = parsed(measures(statuses=(ready, ModelStatus("other"))))
    own = "llama_wrangler_"
    assert value(families, own + "model_state", model=MODEL, state="ready") == 1
    assert value(families, own + "model_state", model=MODEL, state="unloaded") == 0
    assert value(families, own + "model_state", model="other", state="unloaded") == 1
    assert value(families, own + "requests_in_flight", model=MODEL) == 2
    assert value(families, own + "requests_waiting", model=MODEL) == 3
    assert value(families, own + "model_memory_bytes", model=MODEL) == 1_000_000
    assert value(families, own + "model_context_tokens", model=MODEL) == 8192
    assert value(families, own + "model_loads_total", model=MODEL) == 1
    assert value(families, own + "model_load_seconds_total", model=MODEL) == 1.5
    # What is not known is not told as zero.
    known = [s.labels["model"] for s in families[own + "model_memory_bytes"].samples]
    assert known == [MODEL]


def test_a_load_is_counted_once_however_often_its_model_changes() -> None:
    tally = Tally()
    for in_flight in (0, 1, 0):
        tally.changed(ModelStatus(MODEL, ModelState.READY, in_flight, loaded_at=1.0, load_s=2.0))
    tally.changed(ModelStatus(MODEL, ModelState.STOPPING, loaded_at=1.0, load_s=2.0))
    tally.changed(ModelStatus(MODEL, ModelState.READY, loaded_at=9.0, load_s=3.0))
    (counts,) = tally.read()
    assert (counts.loads, counts.load_s) == (2, 5.0)


def test_the_last_speed_is_known_for_a_while() -> None:
    tally = Tally()
    assert tally.lately(MODEL, 0.0) is None
    tally.answered(record(tokens_per_s=41.0))  # from 1 to 4
    tally.answered(record(tokens_per_s=None))
    assert tally.lately(MODEL, 600.0) == 41.0
    assert tally.lately(MODEL, 700.0) is None
    assert (tally.lately(None, 600.0), tally.lately("other", 600.0)) == (None, None)


def test_the_childrens_own_figures_carry_their_model() -> None:
    children = (ChildFigures(MODEL, CHILD), ChildFigures("b", CHILD), ChildFigures("c", None))
    families = parsed(measures(children=children))
    assert value(families, "llamacpp:prompt_tokens_total", model=MODEL) == 45
    assert value(families, "llamacpp:requests_processing", model="b") == 1
    assert families["llamacpp:requests_processing"].type == "gauge"
    error = "llama_wrangler_scrape_error"
    assert [value(families, error, model=name) for name in (MODEL, "b", "c")] == [0, 0, 1]


@pytest.mark.parametrize(
    "model_id",
    [
        'a"} 1\nfake{x="',
        "back\\slash\\n",
        "line\nbreak",
        "\udcff.gguf",
        "日本/ü:Q4",
        "cr\rtab\t",
        "",
    ],
)
def test_a_hostile_model_id_stays_inside_its_label(model_id: str) -> None:
    what = measures(
        (record(model_id=model_id),),
        (ModelStatus(model_id, ModelState.READY, loaded_at=1.0),),
        (ChildFigures(model_id, CHILD),),
    )
    families = parsed(what)
    assert "fake" not in families
    seen = {s.labels["model"] for f in families.values() for s in f.samples if "model" in s.labels}
    assert seen == {model_id.encode("utf-8", "backslashreplace").decode()}
    render(what).encode("utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00\x01 no metrics at all",
        "llama_wrangler_requests_total 99",
        'x{model="someone else"} 1',
        'x{a="b",model="someone else"} 1',
        "x one",
        'x{a="un\nclosed"} 1',
        'x{a="bad \\q escape"} 1',
        "# TYPE x nonsense\n# HELP x bad \\q escape",
        "<html>" * 1000,
    ],
)
def test_what_is_no_figure_of_a_childs_own_is_left_out(text: str) -> None:
    families = parsed(measures(children=(ChildFigures(MODEL, text + "\nfine 1\n"),)))
    assert value(families, "fine", model=MODEL) == 1
    assert "x" not in families
    assert "llama_wrangler_requests" not in families


def test_labels_and_histograms_of_a_child_are_kept() -> None:
    text = (
        '# TYPE t histogram\nt_bucket{le="1",} 2\nt_bucket{le="+Inf"} 3\nt_sum 4.5e0\nt_count 3\n'
        'u{a="\\"q\\""} NaN 1700000000\n'
    )
    children = (ChildFigures(MODEL, text), ChildFigures("b", text))
    families = parsed(measures(children=children))
    assert value(families, "t_bucket", model=MODEL, le="1") == 2
    assert value(families, "t_sum", model="b") == 4.5
    assert math.isnan(value(families, "u", model="b", a='"q"'))


def test_the_gateway_answers_it_itself() -> None:
    async def test() -> None:
        backend = FakeBackend("/nowhere")
        backend.measured = measures((record(),), children=(ChildFigures(MODEL, CHILD),))
        gateway = Gateway(backend, port=0)
        await gateway.start()
        try:
            client = await Client.connect(gateway.port)
            client.send(request("GET", "/metrics?x=1"))
            got = await client.answer()
            assert got.status == 200
            assert got.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert list(text_string_to_metric_families(got.body.decode()))
            client.send(request("HEAD", "/metrics"))  # on the same connection
            assert (await client.answer("HEAD")).body == b""
            client.close()
            assert backend.asked == []  # no model was resolved, acquired or recorded
            assert (backend.leases, backend.records) == ([], [])
        finally:
            await gateway.stop(1)

    run(test())


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
        (b"HTTP/1.1 501 No\r\nContent-Length: 2\r\n\r\nno", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbroken", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b"x" * 9999, None),
        (b"this is no HTTP\r\n\r\n", None),
        (b"", None),
    ],
)
def test_a_child_is_asked_once_and_read_within_bounds(answer: bytes, body: bytes | None) -> None:
    async def test() -> None:
        with tempfile.TemporaryDirectory(prefix="lw", dir="/tmp") as folder:
            path = Path(folder) / "m.sock"
            ended = []

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"GET /slots HTTP/1.1\r\n")
                writer.write(answer)
                writer.close()
                ended.append(True)

            async with await asyncio.start_unix_server(serve, path):
                endpoint = Endpoint(socket_path=path)
                assert await ask_child(endpoint, "/slots", 5.0, most_bytes=1000) == body
                await until(lambda: bool(ended))

    run(test())


def test_a_silent_or_missing_child_costs_its_timeout_and_no_more() -> None:
    async def test() -> None:
        with tempfile.TemporaryDirectory(prefix="lw", dir="/tmp") as folder:
            path = Path(folder) / "m.sock"
            gone = asyncio.Event()

            async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                while await reader.read(1000):
                    pass
                writer.close()
                gone.set()

            async with await asyncio.start_unix_server(silent, path):
                assert await ask_child(Endpoint(socket_path=path), "/metrics", 0.05) is None
                await asyncio.wait_for(gone.wait(), 5)  # and its connection is closed
            missing = Endpoint(socket_path=Path(folder) / "none.sock")
            assert await ask_child(missing, "/metrics", 5.0) is None

    run(test())
