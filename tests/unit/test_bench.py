"""Measuring speed: the tool's words are read with care, answers go first, little is kept."""

from __future__ import annotations

import json
import stat
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.gguf_maker import make_gguf
from tests.unit.engine_kit import model, running_engine, wait_until
from tray_app.engine.bench import bench_tool, compare, quiet, service, way
from tray_app.engine.bench.record import BenchRecord
from tray_app.engine.bench.values import BenchRun, BenchSettings, BenchWish, Speed
from tray_app.engine.core import Engine
from tray_app.engine.errors import BadRequest, BenchFailed, EngineError, RuntimeMissing
from tray_app.engine.launch import Placement
from tray_app.engine.settings import ModelSettings
from tray_app.engine.state import StateDb
from tray_app.engine.values import Job, ModelKind, ModelState, ModelStatus, Runtime, to_json

WISH = BenchWish()


def row(prompt: int, generated: int, **changes: Any) -> str:
    table: dict[str, Any] = {
        "build_number": 11434, "cpu_info": "A\x1b[31mCPU", "gpu_info": "", "n_batch": 2048,
        "n_ubatch": 512, "n_threads": 2, "type_k": "f16", "type_v": "f16", "n_gpu_layers": -1,
        "flash_attn": -1, "n_prompt": prompt, "n_gen": generated, "avg_ts": 465.9,
        "stddev_ts": 3.1,
    }  # fmt: skip
    return json.dumps({**table, **changes})


PP, TG = row(512, 0), row(0, 128, avg_ts=177.1)


# -- what the tool says


def test_figures_and_settings_are_the_tools_own() -> None:
    found = bench_tool.read_result(["nonsense", PP, TG], WISH)
    assert found.prompt == Speed(465.9, 3.1)
    assert found.generation == Speed(177.1, 3.1)
    assert found.settings == BenchSettings(2, None, "f16", "auto", 2048, 512)
    assert (found.build, found.cpu, found.gpu) == (11434, "A[31mCPU", "")


def test_one_repetition_has_no_deviation_and_a_test_may_be_left_out() -> None:
    found = bench_tool.read_result([row(16, 0, stddev_ts=0)], BenchWish(16, 0, 1))
    assert found.prompt == Speed(465.9, None)
    assert found.generation is None


def test_older_and_odder_words_for_settings_are_read() -> None:
    odd = {"flash_attn": True, "type_v": "q8_0", "n_gpu_layers": 0}
    found = bench_tool.read_result([row(512, 0, **odd), TG], WISH).settings
    assert (found.flash_attention, found.kv_cache_type, found.gpu_layers) == ("on", "f16/q8_0", 0)
    hostile = {"flash_attn": "x" * 9999, "n_threads": True, "n_batch": 10**400, "type_k": 5}
    found = bench_tool.read_result([row(512, 0, **hostile), TG], WISH).settings
    assert (found.flash_attention, found.threads, found.batch_size) == (None, None, None)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [PP],
        [TG],
        [row(511, 0), TG],
        ["{" * 100_000, TG],
        ["[]", "{}", '{"n_prompt": 512}'],
        [row(512, 0, avg_ts=float("nan")), TG],
        [row(512, 0, avg_ts=float("inf")), TG],
        [row(512, 0, avg_ts=-1), TG],
        [row(512, 0, avg_ts=0), TG],
        [row(512, 0, avg_ts=10**400), TG],
        [row(512, 0, avg_ts="12"), TG],
        [row(512, 0, avg_ts=True), TG],
        [row(512, 0, avg_ts=[1]), TG],
        [row(512, 0, avg_ts=None), TG],
    ],
)
def test_what_is_no_figure_is_refused(rows: list[str]) -> None:
    with pytest.raises(BenchFailed) as caught:
        bench_tool.read_result(rows, WISH)
    assert len(caught.value.message) < 200
    assert caught.value.remedy


@pytest.mark.parametrize("spread", [float("nan"), -1, "x", None, 10**400])
def test_a_deviation_that_is_none_is_not_known(spread: Any) -> None:
    found = bench_tool.read_result([row(512, 0, stddev_ts=spread), TG], WISH)
    assert found.prompt == Speed(465.9, None)


def test_progress_counts_runs_and_never_exceeds_them() -> None:
    told: list[tuple[int, int, str]] = []
    output = bench_tool.Output(BenchWish(512, 128, 2), lambda *words: told.append(words))
    for line in (
        "llama-bench: benchmark 1/2: starting",
        "llama-bench: benchmark 1/2: warmup prompt run",
        "llama-bench: benchmark 1/2: prompt run 2/2",
        "llama-bench: benchmark 2/2: generation run 1/2",
        "llama-bench: benchmark 999/2: generation run 9999/2",
        "llama-bench: benchmark 0/0: generation run 0/0",
        "llama-bench: benchmark 1/2: generation run 99999999999999999999/2",
    ):
        output.take(line)
    assert [(done, total) for done, total, _ in told] == [(0, 6), (2, 6), (4, 6), (6, 6), (0, 3)]
    assert told[1][2] == "Reading a prompt of 512 tokens, run 2 of 2"
    assert told[2][2] == "Writing 128 tokens, run 1 of 2"


def test_a_flood_of_output_is_bounded() -> None:
    output = bench_tool.Output(WISH)
    for number in range(5000):
        output.take("{" + "x" * 1000)
        output.take(f"error: {number}")
    with pytest.raises(BenchFailed):
        output.result(0)
    assert len(output._rows) + len(output._others) < 100


@pytest.mark.parametrize(
    ("status", "lines", "word"),
    [
        (-9, [], "killed from outside"),
        (-6, [], "SIGABRT"),
        (3, [], "exit code 3"),
        (1, ["llama_bench: error: failed to load model '/x'"], "failed to load model"),
        (1, ["error: invalid parameter for argument: -fa", "usage: x"], "does not take -fa"),
        (1, ["ggml: failed to allocate buffer", "x"], "not enough memory"),
        (1, ["unknown model architecture: 'herd'"], "herd"),
        (1, ["llama_bench: error: failed to create context with model '/x'"], "context"),
    ],
)
def test_why_it_failed_is_told_with_what_helps(status: int, lines: list[str], word: str) -> None:
    error = bench_tool.failure(status, lines)
    assert word in error.message
    assert error.remedy
    assert "llama-server" not in error.message


# -- how it is run


def test_the_model_is_measured_as_it_is_served() -> None:
    settings = ModelSettings(
        threads=4, kv_cache_type="q8_0", flash_attention="on", batch_size=1024, ubatch_size=256
    )
    placed = Placement(8192, 20, ("-ts", "3,1", "-ot", "a=CPU,b=CUDA0"))
    words = bench_tool.arguments(Path("/r/llama-bench"), model(), settings, placed, WISH)
    text = " ".join(words)
    for part in (
        "-p 512 -n 128 -r 3", "-ngl 20", "-ts 3/1", "-ot a=CPU;b=CUDA0", "-t 4", "-b 1024",
        "-ub 256", "-ctk q8_0 -ctv q8_0", "-fa 1", "-o jsonl --progress",
    ):  # fmt: skip
        assert part in text
    assert words[1:3] == ("-m", "/models/first.gguf")
    own = bench_tool.arguments(
        Path("/r/llama-bench"), model(), replace(settings, gpu_layers=3), placed, WISH
    )
    assert own[own.index("-ngl") + 1] == "3"


def test_defaults_are_left_to_the_tool_and_what_is_left_out_is_told() -> None:
    plain = ModelSettings(flash_attention="auto")
    words = bench_tool.arguments(Path("/b"), model(), plain, Placement(512), WISH)
    assert not {"-fa", "-ngl", "-t", "-ctk", "-embd"} & set(words)
    embedding = model(kind=ModelKind.EMBEDDING)
    assert "-embd" in bench_tool.arguments(Path("/b"), embedding, plain, Placement(512), WISH)
    assert bench_tool.left_out(plain) == ()
    more = ModelSettings(draft_model="x", lora={"/a": 1.0}, extra_args=("--x",))
    assert len(bench_tool.left_out(more)) == 3


@pytest.mark.parametrize(
    "wish",
    [
        BenchWish(-1),
        BenchWish(0, 0),
        BenchWish(10**9),
        BenchWish(generated_tokens=10**9),
        BenchWish(repetitions=0),
        BenchWish(repetitions=10**6),
    ],
)
def test_numbers_that_cannot_be_measured_with_are_refused(wish: BenchWish) -> None:
    with pytest.raises(BadRequest):
        bench_tool.check(model(), wish)


def test_a_path_that_the_tool_would_cut_is_refused() -> None:
    with pytest.raises(BadRequest, match="comma"):
        bench_tool.check(model(path=Path("/a,b.gguf")), WISH)


# -- what is kept


def a_run(**changes: Any) -> BenchRun:
    values: dict[str, Any] = {
        "id": 0, "model_id": "org/first:Q4", "model_size_bytes": 1000, "measured_at": 1e9,
        "runtime_id": "b1-cpu", "backend": "cpu", "build": 1, "device": "A CPU",
        "prompt_tokens": 512, "generated_tokens": 128, "repetitions": 3,
        "prompt": Speed(400.0, 4.0), "generation": Speed(100.0, None),
        "settings": BenchSettings(threads=2, kv_cache_type="f16"), **changes,
    }  # fmt: skip
    return BenchRun(**values)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[StateDb]:
    made = StateDb(tmp_path / "state.db")
    yield made
    made.close()


def test_what_is_kept_comes_back_as_it_was(db: StateDb) -> None:
    record = BenchRecord(db)
    first = record.add(a_run(in_memory=("a", "b"), left_out=("x",), busy_percent=3.5))
    second = record.add(a_run(model_id="org/other:Q8", prompt=None))
    again = BenchRecord(db)
    assert again.runs() == (second, first)
    assert again.runs("org/first:Q4") == (first,)
    assert again.runs("gone") == ()
    assert first.id < second.id


def test_only_the_newest_are_kept(db: StateDb) -> None:
    record = BenchRecord(db, kept=5)
    for number in range(12):
        record.add(a_run(measured_at=float(number)))
    assert [run.measured_at for run in record.runs()] == [11.0, 10.0, 9.0, 8.0, 7.0]


def test_rows_of_other_versions_are_read_or_passed_over(db: StateDb) -> None:
    record = BenchRecord(db)
    kept = record.add(a_run())
    table = to_json(a_run())
    rows = ["", "[]", "null", "{}", '{"settings": 5}', json.dumps({**table, "prompt": {"x": 1}})]
    newer = json.dumps({**table, "colour": "red", "in_memory": ["a"]})
    with db.transaction() as connection:
        for text in (*rows, newer):
            connection.execute(
                "INSERT INTO bench_runs (model_id, measured_at, result) VALUES ('m', 1, ?)", (text,)
            )
    found = record.runs()
    assert [run.in_memory for run in found] == [("a",), ()]
    assert found[-1] == kept


def test_the_newest_is_held_against_the_one_before_and_other_runtimes() -> None:
    runs = (
        a_run(id=9, settings=BenchSettings(threads=4, kv_cache_type="q8_0")),
        a_run(id=8, model_id="org/other:Q8"),
        a_run(id=7, prompt_tokens=64),  # another test: another speed
        a_run(id=6, prompt=Speed(200.0, 1.0), generation=None),
        a_run(id=5, runtime_id="b1-vulkan", generation=Speed(50.0, 1.0), in_memory=("x",)),
        a_run(id=4, runtime_id="b1-vulkan"),
    )
    first, other = compare.by_model(runs)
    assert other.newest.id == 8
    assert (other.previous, other.runtimes) == (None, ())
    assert first.previous is not None
    assert first.previous.run.id == 6
    assert (first.previous.prompt_ratio, first.previous.generation_ratio) == (2.0, None)
    assert first.previous.changes == ("threads 4, before 2", "KV cache q8_0, before f16")
    (vulkan,) = first.runtimes
    assert (vulkan.run.id, vulkan.generation_ratio) == (5, 2.0)
    assert "b1-cpu, before b1-vulkan" in vulkan.changes
    assert "other models in memory" in vulkan.changes


# -- the whole way, with a tool that does what the test says

TOOL = f"""#!{sys.executable}
import json, pathlib, sys, time
words = sys.argv[1:]
of = lambda name: int(words[words.index(name) + 1])
here = pathlib.Path(__file__).parent
with (here / "runs").open("a") as file:
    file.write(" ".join(words) + chr(10))
mode = (here / "mode").read_text()
print("llama-bench: benchmark 1/2: prompt run 1/3", file=sys.stderr, flush=True)
if mode == "hang":
    time.sleep(60)
if mode == "fail":
    print("llama_bench: error: failed to load model 'x'", file=sys.stderr)
    sys.exit(1)
row = {json.loads(PP)!r}
for p, n in ((of("-p"), 0), (0, of("-n"))):
    if p or n:
        print(json.dumps({{**row, "n_prompt": p, "n_gen": n}}), flush=True)
"""


class Scene:
    """An engine with a model and a scripted tool; statuses are the test's."""

    def __init__(self, engine: Engine, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.engine, self.folder, self.patch = engine, folder, patch
        self.statuses: dict[str, ModelStatus] = {}
        self.model_id = engine.snapshot().models[0].id
        patch.setattr(engine.residency, "statuses", lambda: dict(self.statuses))

    def mode(self, word: str) -> None:
        (self.folder / "mode").write_text(word)

    def runs(self) -> int:
        path = self.folder / "runs"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def tools(self) -> list[str]:
        return [each.exe for each in self.engine.registry.records() if each.kind == "bench"]

    def start(self, **args: Any) -> str:
        job_id: str = self.engine.call("bench_model", {"model_id": self.model_id, **args})["job_id"]
        return job_id

    def ended(self, job_id: str) -> Job:
        wait_until(lambda: not self.engine.jobs.get(job_id).state.in_progress)
        return self.engine.jobs.get(job_id)

    def step_is(self, job_id: str, word: str) -> None:
        wait_until(lambda: word in self.engine.jobs.get(job_id).step)

    def busy(self, **fields: Any) -> None:
        self.statuses = {"org/busy:Q4": ModelStatus("org/busy:Q4", **fields)}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    folder = tmp_path / "runtime"
    folder.mkdir()
    tool = folder / "llama-bench"
    tool.write_text(TOOL)
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    (folder / "mode").write_text("well")
    runtime = Runtime("b1-cpu", 1, "cpu", folder / "llama-server", "built", "")
    make_gguf(tmp_path / "home" / "models" / "herd" / "Woolly" / "Woolly.F32.gguf")
    # No runtime of this machine is looked for: its proof would be one more child.
    monkeypatch.delenv("LLAMA_WRANGLER_LLAMA_SERVER", raising=False)
    monkeypatch.setenv("LLAMA_WRANGLER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(quiet, "QUIET_S", 0.02)
    monkeypatch.setattr(quiet, "LOOK_S", 0.01)
    monkeypatch.setattr(quiet, "AFTER_LOAD_S", 0.1)
    with running_engine(tmp_path / "home") as engine:
        monkeypatch.setattr(engine.runtime, "require", lambda _: runtime)
        wait_until(lambda: engine.snapshot().models and engine.snapshot().models[0].details_known)
        yield Scene(engine, folder, monkeypatch)


def test_a_measurement_is_kept_and_compared(scene: Scene) -> None:
    assert scene.ended(scene.start(prompt_tokens=64, repetitions=2)).state == "done"
    assert scene.ended(scene.start(prompt_tokens=64, repetitions=2)).state == "done"
    found = scene.engine.call("bench_history", {"model_id": scene.model_id})
    assert len(found.runs) == 2
    newest = found.models[0].newest
    assert (newest.prompt_tokens, newest.device, newest.runtime_id) == (64, "A[31mCPU", "b1-cpu")
    assert found.models[0].previous.prompt_ratio == 1.0
    assert found.running is None
    json.dumps(to_json(found))
    assert len(scene.engine.call("bench_history", {}).runs) == 2
    with pytest.raises(EngineError, match="no model"):
        scene.engine.call("bench_history", {"model_id": "nobody"})


def test_a_model_that_left_the_library_keeps_its_measurements(scene: Scene) -> None:
    scene.engine.bench._record.add(a_run(model_id="org/gone:Q4"))
    found = scene.engine.call("bench_history", {"model_id": "org/gone:Q4"})
    assert [run.model_id for run in found.runs] == ["org/gone:Q4"]


def test_a_tool_that_fails_or_is_missing_says_so(scene: Scene) -> None:
    scene.mode("fail")
    failed = scene.ended(scene.start())
    assert failed.error is not None
    assert failed.error.code == "bench_failed"
    assert "failed to load model" in failed.error.message
    (scene.folder / "llama-bench").unlink()
    with pytest.raises(RuntimeMissing, match="no llama-bench"):
        scene.start()
    assert scene.engine.call("bench_history", {}).runs == ()


def test_one_at_a_time_and_a_cancel_ends_the_tool(scene: Scene) -> None:
    scene.mode("hang")
    job_id = scene.start()
    scene.step_is(job_id, "run 1 of 3")
    running = scene.engine.call("bench_history", {}).running
    assert (running.job_id, running.model_id) == (job_id, scene.model_id)
    assert scene.engine.bench.measuring
    with pytest.raises(BadRequest, match="is being measured"):
        scene.start()
    scene.engine.call("cancel_job", {"job_id": job_id})
    assert scene.ended(job_id).state == "cancelled"
    assert not scene.engine.bench.measuring
    assert scene.tools() == []
    scene.mode("well")
    assert scene.ended(scene.start()).state == "done"


def test_it_waits_while_somebody_is_answered_and_can_be_cancelled_then(scene: Scene) -> None:
    scene.busy(state=ModelState.READY, in_flight=1)
    job_id = scene.start()
    scene.step_is(job_id, "org/busy:Q4 is answering")
    scene.engine.call("cancel_job", {"job_id": job_id})
    assert scene.ended(job_id).state == "cancelled"
    assert scene.runs() == 0
    job_id = scene.start()
    scene.step_is(job_id, "is answering")
    scene.busy(state=ModelState.LOADING)
    scene.step_is(job_id, "is being loaded")
    scene.busy(state=ModelState.READY, pid=77)
    assert scene.ended(job_id).state == "done"
    assert scene.engine.call("bench_history", {}).runs[0].in_memory == ("org/busy:Q4",)


def test_it_waits_for_other_jobs(scene: Scene) -> None:
    gate = threading.Event()
    other = scene.engine.jobs.submit("convert", "Converting wool", lambda _: void(gate.wait(20)))
    job_id = scene.start()
    scene.step_is(job_id, "Converting wool")
    gate.set()
    assert scene.ended(job_id).state == "done"
    assert scene.engine.jobs.get(other.id).state == "done"


def void(_: object) -> None:
    """For work that has to return nothing."""


def test_a_machine_that_is_never_free_is_told_in_the_end(scene: Scene) -> None:
    scene.patch.setattr(quiet.wait, "__kwdefaults__", {"wait_s": 0.05})
    scene.busy(state=ModelState.READY, in_flight=1)
    failed = scene.ended(scene.start())
    assert failed.error is not None
    assert "org/busy:Q4 is answering" in failed.error.message


def test_an_answer_that_begins_ends_the_tool_and_it_starts_anew(scene: Scene) -> None:
    scene.mode("hang")
    job_id = scene.start()
    scene.step_is(job_id, "run 1 of 3")
    scene.busy(state=ModelState.READY, in_flight=1)
    scene.step_is(job_id, "is answering")
    assert scene.tools() == []
    scene.mode("well")
    scene.statuses = {}
    assert scene.ended(job_id).state == "done"
    assert scene.runs() == 2


def test_a_load_ends_the_tool_before_it_begins(scene: Scene) -> None:
    scene.mode("hang")
    job_id = scene.start()
    scene.step_is(job_id, "run 1 of 3")
    began = time.monotonic()
    scene.mode("well")
    with pytest.raises(EngineError):  # there is no llama-server here
        scene.engine.planner.plan("org/nothing:Q4")
    assert time.monotonic() - began < 5
    assert scene.tools() == []
    assert scene.ended(job_id).state == "done"
    assert scene.runs() == 2


def test_a_model_that_is_always_in_use_gives_it_up(scene: Scene) -> None:
    total = iter(range(1000))
    history = SimpleNamespace(total=0)

    class Asked:
        """A history that grows with each look: somebody was answered meanwhile."""

        def __getattr__(self, name: str) -> Any:
            history.total = next(total)
            return history.total if name == "total" else getattr(real, name)

    real = scene.engine.history
    scene.patch.setattr(scene.engine, "history", Asked())
    failed = scene.ended(scene.start())
    assert failed.error is not None
    assert f"interrupted {service.MOST_TRIES} times" in failed.error.message
    assert scene.runs() == service.MOST_TRIES
    assert scene.engine.call("bench_history", {}).runs == ()


def test_a_tool_that_says_nothing_for_long_is_ended(scene: Scene) -> None:
    scene.engine.bench._silent_s = 0.2
    scene.mode("hang")
    failed = scene.ended(scene.start())
    assert failed.error is not None
    assert "told nothing" in failed.error.message
    assert scene.tools() == []


# -- room


class Room:
    """Models in memory, and who of them may leave."""

    def __init__(self, held: dict[str, int], busy: tuple[str, ...] = ()) -> None:
        self.held, self.busy = held, busy
        self.loaded: list[str] = []
        self.closing = False
        self.active = SimpleNamespace(model_id="active")
        self.residency = self
        self.backend = SimpleNamespace(start_load=self.loaded.append)

    def memory_now(self) -> Any:
        return SimpleNamespace(budget_bytes=100, models_bytes=sum(self.held.values()))

    def idle_times(self) -> dict[str, float]:
        return {name: float(len(name)) for name in self.held if name not in self.busy}

    def retire(self, model_id: str, idle_s: float) -> bool:
        return model_id != "pinned" and self.held.pop(model_id, None) is not None

    def statuses(self) -> dict[str, ModelStatus]:
        return {name: ModelStatus(name, pid=1) for name in self.held}

    def on_loop(self, work: Any) -> Any:
        try:
            work.send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("it waited")


def clear(room: Room, needed: int, backend: str = "cpu") -> list[str]:
    sent_away: list[str] = []
    context: Any = SimpleNamespace(progress=lambda *_: None, check=lambda: None)
    runtime = Runtime("b1", 1, backend, Path("/x"), "built", "")
    way.clear(room, context, model(), runtime, needed, sent_away)  # type: ignore[arg-type]
    return sent_away


def test_only_as_many_idle_models_leave_as_have_to_and_they_come_back() -> None:
    room = Room({"active": 30, "a": 30, "longer idle": 30})
    assert clear(room, 10) == []
    assert clear(room, 40) == ["longer idle"]
    gone = clear(room, 95)
    assert gone == ["a", "active"]
    way.bring_back(room, ["longer idle", *gone])  # type: ignore[arg-type]
    assert room.loaded == ["longer idle", "a", "active"]


def test_busy_and_pinned_models_stay_and_the_lack_is_told_with_numbers() -> None:
    room = Room({"pinned": 40, "busy": 50}, busy=("busy",))
    with pytest.raises(EngineError) as caught:
        clear(room, 10**9)
    assert caught.value.code == "not_enough_memory"
    assert "takes 1.0 GB and 0.0 GB are free" in caught.value.message
    assert set(room.held) == {"pinned", "busy"}


def test_with_a_gpu_all_idle_models_leave() -> None:
    room = Room({"active": 1, "pinned": 1, "a": 1})
    assert clear(room, 10, backend="vulkan") == ["a", "active"]
    assert set(room.held) == {"pinned"}


def test_an_engine_that_ends_brings_nobody_back() -> None:
    room = Room({})
    room.closing = True
    way.bring_back(room, ["a"])  # type: ignore[arg-type]
    assert room.loaded == []
