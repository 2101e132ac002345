"""`llama-wrangler runtime …`: its words, its JSON and its statuses, over a scripted engine."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tray_kit import failure, snapshot
from tray_app import cli, cli_job, cli_runtime, cli_runtime_text, cli_text
from tray_app.client import ClientError
from tray_app.engine.errors import ErrorView
from tray_app.engine.values import (
    BACKENDS,
    Gpu,
    Hardware,
    Job,
    JobState,
    Proof,
    Rejected,
    RolledBack,
    Rung,
    Runtime,
    RuntimeState,
    RuntimeStatus,
    Update,
    to_json,
)

ESCAPE = "\x1b[31mred\x1b[0m\u202e\r\n"


def runtime(runtime_id: str = "b11434-cpu", **changes: Any) -> Runtime:
    number, backend = runtime_id.split("-")[:2]
    base = Runtime(
        runtime_id,
        int(number[1:]),
        backend,
        Path(f"/h/runtimes/{runtime_id}/llama-server"),
        "built",
        "version",
        size_bytes=310_000_000,
    )
    return replace(base, **changes)


CPU = runtime(proof=Proof(True, 1.0, layers_on_gpu=0, layers=5))
VULKAN = runtime(
    "b11500-vulkan-release",
    origin="downloaded",
    proof=Proof(True, 2.0, devices=("Vulkan0: Radeon",), layers_on_gpu=5, layers=5),
)
ONE = RuntimeStatus(RuntimeState.READY, CPU, installed=(CPU,))
BOTH = RuntimeStatus(
    RuntimeState.READY, VULKAN, installed=(VULKAN, CPU), previous_id=CPU.id, on_trial=True
)


def job(state: JobState, **changes: Any) -> Job:
    base = Job("job-1", "install_runtime", "Installing llama.cpp b11500", state)
    return replace(base, log_name="install-runtime.log", **changes)


def state(status: RuntimeStatus, *jobs: Job, **changes: Any) -> dict[str, Any]:
    return snapshot(runtime=status, jobs=jobs, **changes)


class Engine:
    """A client that answers from a script; the last snapshot stays."""

    def __init__(self, *snapshots: dict[str, Any], **answers: Any) -> None:
        self.snapshots = list(snapshots)
        self.answers = answers
        self.events_told: list[list[tuple[str, Any]]] = []
        self.called: list[tuple[str, dict[str, Any]]] = []

    def snapshot(self) -> dict[str, Any]:
        return self.snapshots.pop(0) if len(self.snapshots) > 1 else self.snapshots[0]

    def call(self, name: str, /, **args: Any) -> Any:
        self.called.append((name, args))
        answer = self.answers.get(name)
        if isinstance(answer, Exception):
            raise answer
        return to_json(answer)

    def events(self, after: int) -> Iterator[tuple[int, str, Any]]:
        """One script of events for each time that somebody listens; then the stream ends."""
        for name, value in self.events_told.pop(0) if self.events_told else []:
            if isinstance(value, BaseException):
                raise value
            yield after, name, to_json(value)

    def tell(self, *told: Job | str | BaseException) -> Engine:
        """The events of the next listening."""
        rows: list[tuple[str, Any]] = []
        for each in told:
            named = (each, {}) if isinstance(each, str) else ("JobChanged", {"job": each})
            rows.append(("", each) if isinstance(each, BaseException) else named)
        self.events_told.append(rows)
        return self


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(engine: Engine) -> Engine:
        monkeypatch.setattr(cli_runtime, "ensure_engine", lambda **_: engine)
        return engine

    return install


class Said:
    """What a verb wrote, and its exit status."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        status = cli.run(["runtime", *words])
        self.out, self.err = self._capsys.readouterr()
        for forbidden in ("\x1b", "\u202e"):
            assert forbidden not in self.out + self.err
        return status

    def json(self, *words: str, status: int = 0) -> Any:
        assert self(*words, "--json") == status
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)


# -- words of the command line


@pytest.mark.parametrize(
    ("word", "build"), [("b11434", 11434), ("11434", 11434), ("1", 1), ("b999999999", 999999999)]
)
def test_a_build_is_a_number_with_or_without_its_letter(word: str, build: int) -> None:
    assert cli_runtime.build_number(word) == build


@pytest.mark.parametrize(
    "words",
    [
        ["runtime"],
        ["runtime", "nonsense"],
        ["runtime", "install", "latest"],
        ["runtime", "install", "b0"],
        ["runtime", "install", "b-1"],
        ["runtime", "install", "11434x"],
        ["runtime", "install", "b1234567890"],
        ["runtime", "install", "\u0661\u0661"],
        ["runtime", "build", "--backend", "tpu"],
        ["runtime", "install", "--portable"],
        ["runtime", "use"],
        ["runtime", "remove"],
    ],
)
def test_a_wrong_command_line_is_status_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(words)
    assert caught.value.code == 2


def test_the_backends_are_those_of_the_engine() -> None:
    assert cli_runtime_text.BACKENDS == BACKENDS


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["runtime", "--help"])
    said = capsys.readouterr().out
    for verb in ("list", "available", "install", "build", "use", "rollback", "remove", "check"):
        assert f"\n    {verb}" in said
    with pytest.raises(SystemExit):
        cli.run(["--help"])
    assert "\n    runtime " in capsys.readouterr().out


@pytest.mark.parametrize("word", ["./llama-server", "builds/llama", ".", "..", "/opt/llama"])
def test_a_path_is_made_whole_because_the_engine_runs_elsewhere(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli_runtime.id_or_path(word) == str((tmp_path / word).absolute())


def test_the_home_sign_is_a_path_and_an_id_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME" if os.name == "posix" else "USERPROFILE", os.sep + "me")
    assert cli_runtime.id_or_path("~/llama") == str(Path(os.sep, "me", "llama").absolute())
    assert cli_runtime.id_or_path("b11434-cpu") == "b11434-cpu"


# -- list


def test_the_list_marks_active_and_previous_and_lines_up(use: Any, run: Said) -> None:
    use(Engine(state(BOTH)))
    assert run("list") == 0
    head, first, second, *rest = run.out.splitlines()
    assert head.split() == ["ID", "BACKEND", "ORIGIN", "SIZE", "PROOF"]
    assert first.split()[:4] == ["active", "b11500-vulkan-release", "vulkan", "downloaded"]
    assert first.endswith("310 MB  ok, 5 of 5 layers on the GPU")
    assert second.split() == ["previous", "b11434-cpu", "cpu", "built", "310", "MB", "ok"]
    assert first.index("vulkan ") == head.index("BACKEND")
    assert rest == [
        "b11500-vulkan-release is on trial until it has answered with your model; "
        "if it fails there, b11434-cpu takes over."
    ]


def test_the_list_as_json_names_what_is_active(use: Any, run: Said) -> None:
    use(Engine(state(BOTH)))
    row = run.json("list")
    assert (row["state"], row["active"], row["previous"]) == ("ready", VULKAN.id, CPU.id)
    assert (row["on_trial"], row["rejected"], row["error"]) == (True, [], None)
    marks = [(each["id"], each["active"], each["previous"]) for each in row["runtimes"]]
    assert marks == [(VULKAN.id, True, False), (CPU.id, False, True)]
    assert row["runtimes"][0]["proof"]["devices"] == ["Vulkan0: Radeon"]


def test_the_list_waits_for_the_search_of_a_fresh_engine(use: Any, run: Said) -> None:
    engine = use(Engine(state(RuntimeStatus()), state(RuntimeStatus()), state(ONE)))
    assert run.json("list")["active"] == CPU.id
    assert len(engine.snapshots) == 1


def test_without_a_runtime_the_list_says_how_to_get_one(use: Any, run: Said) -> None:
    running = job(JobState.RUNNING, step="Downloading")
    use(Engine(state(RuntimeStatus(RuntimeState.BUILDING, job_id="job-1"), running)))
    assert run("list") == 0
    assert run.out.splitlines() == [
        "No llama.cpp yet. `llama-wrangler runtime install` gets one.",
        "In progress: Installing llama.cpp b11500, Downloading",
    ]


def test_the_list_says_what_is_wrong_with_any_of_them(use: Any, run: Said) -> None:
    untried = runtime("b9-cpu", size_bytes=None, origin="path")
    bad = runtime(
        "b8-cuda",
        proof=Proof(False, 1.0, error=failure("It lists no GPU.", "Update the driver."),
                    missing_libraries=("libcudart.so.12", "libcublas.so.12"),
                    warnings=("It is slow.",)),
    )  # fmt: skip
    status = RuntimeStatus(
        RuntimeState.READY,
        untried,
        installed=(bad,),
        error=failure("A.", "B."),
        stepped_down=("CUDA: nvcc is not there.",),
        rejected=(Rejected(Path("/usr/bin/llama-server"), "It is too old."),),
        rolled_back=RolledBack("b12-cpu", "herd/A", failure("It crashed."), "b9-cpu", 1.0),
        update=Update(13, "b13", "cpu", None, "", ""),
    )
    use(Engine(state(status)))
    assert run("list") == 0
    rows = run.out.splitlines()[1:]
    assert rows[0].split() == ["active", "b9-cpu", "cpu", "path", "?", "not", "tried"]
    assert rows[1].split() == ["b8-cuda", "cuda", "built", "310", "MB", "failed"]
    assert rows[2:] == [
        "b8-cuda was tried and may not be used: It lists no GPU.",
        "  Update the driver.",
        "b8-cuda lacks libraries: libcudart.so.12, libcublas.so.12",
        "b8-cuda: It is slow.",
        "Tried in vain before it: CUDA: nvcc is not there.",
        "Found and of no use:",
        "  /usr/bin/llama-server: It is too old.",
        "b12-cpu failed with herd/A and b9-cpu took over: It crashed.",
        "  Choose a smaller one.",
        "Problem: A.",
        "  B.",
        "There is a newer release: b13 (`llama-wrangler runtime check`)",
    ]


# -- available

HARDWARE = Hardware(
    "linux",
    "x86_64",
    "Ryzen 9",
    16,
    32,
    memory_bytes=64_000_000_000,
    gpus=(
        Gpu("RTX 4090", "nvidia", 24_000_000_000, False, "550.1"),
        Gpu("UHD 770", "intel", None, True),
    ),
    problems=("vulkaninfo did not answer within 5 s.",),
)
LADDER = (
    Rung("cuda", True, "The driver runs CUDA 12.8.", ("RTX 4090",)),
    Rung("rocm", False, "There is no AMD GPU."),
    Rung("cpu", True, "It always works."),
)


def choice(backend: str, **changes: Any) -> dict[str, Any]:
    return {
        "backend": backend,
        "variant": "",
        "size_bytes": 25_000_000,
        "usable": True,
        "reason": "",
        "runtime_id": f"b11500-{backend}-release",
        "installed": False,
        **changes,
    }


def release(build: int, *choices: dict[str, Any]) -> dict[str, Any]:
    return {
        "tag": f"b{build}",
        "build": build,
        "published_at": 1_795_000_000.0,
        "notes": "",
        "url": "https://x",
        "choices": list(choices),
    }


def offers(*releases: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "checked_at": 1_795_100_000.0,
        "error": None,
        "releases": list(releases),
        "buildable": [
            {"backend": "cuda", "usable": False, "reason": "", "missing": ["cmake", "nvcc"],
             "install_command": "apt-get install cmake nvidia-cuda-toolkit"},
            {"backend": "vulkan", "usable": False, "reason": "There is no GPU.", "missing": [],
             "install_command": ""},
            {"backend": "cpu", "usable": True, "reason": "", "missing": [], "install_command": ""},
        ],
        "source_build": 11434,
        **changes,
    }  # fmt: skip


def machine(**changes: Any) -> dict[str, Any]:
    return state(replace(ONE, hardware=HARDWARE, ladder=LADDER, **changes))


def test_available_tells_the_machine_its_ladder_and_what_can_be_got(use: Any, run: Said) -> None:
    newest = release(
        11500,
        choice("cuda", variant="12.8", size_bytes=612_000_000),
        choice("cpu", installed=True),
        choice("rocm", usable=False, reason="There is no AMD GPU."),
    )
    engine = use(Engine(machine(), available_runtimes=offers(newest, release(11490))))
    assert run("available") == 0
    assert engine.called == [("available_runtimes", {"refresh": False})]
    assert run.out.splitlines() == [
        "CPU  Ryzen 9, 16 cores, 32 threads, 64.0 GB memory",
        "GPU  RTX 4090 (24.0 GB, driver 550.1); "
        "UHD 770 (memory unknown, shares main memory)",
        "     vulkaninfo did not answer within 5 s.",
        "Backends, most capable first:",
        "  best  cuda  yes  The driver runs CUDA 12.8.",
        "        rocm  no   There is no AMD GPU.",
        "        cpu   yes  It always works.",
        "Releases, as of 2026-11-19:",
        "  b11500  2026-11-18  cuda 12.8 612 MB, cpu 25 MB (installed)",
        "  b11490  2026-11-18  nothing for this machine",
        "  b11500 rocm is not for here: There is no AMD GPU.",
        "From source (b11434, or the BUILD you name):",
        "  cuda    missing: cmake, nvcc",
        "          apt-get install cmake nvidia-cuda-toolkit",
        "  vulkan  There is no GPU.",
        "  cpu     can be built",
    ]  # fmt: skip


def test_available_as_json_is_all_of_it(use: Any, run: Said) -> None:
    engine = use(Engine(machine(), available_runtimes=offers(release(1, choice("cpu")))))
    row = run.json("available")
    assert row["hardware"]["gpus"][0]["name"] == "RTX 4090"
    assert [rung["backend"] for rung in row["ladder"]] == ["cuda", "rocm", "cpu"]
    assert row["releases"][0]["choices"][0]["size_bytes"] == 25_000_000
    assert (row["source_build"], row["checked_at"]) == (11434, 1_795_100_000.0)
    assert len(engine.called) == 1


def test_refresh_looks_at_hardware_and_releases_anew(use: Any, run: Said) -> None:
    answers = {"read_hardware": HARDWARE, "available_runtimes": offers()}
    engine = use(Engine(machine(), **answers))
    assert run("available", "--refresh") == 0
    assert engine.called == [("read_hardware", {}), ("available_runtimes", {"refresh": True})]
    engine = use(Engine(state(ONE), **answers))  # an engine that has not read it yet
    assert "CPU  Ryzen 9" in (run("available"), run.out)[1]
    assert engine.called[0] == ("read_hardware", {})


def test_a_feed_that_is_down_is_told_with_what_is_still_known(use: Any, run: Said) -> None:
    error = ErrorView("download_failed", "The feed did not answer.", "Look at the network.")
    use(Engine(machine(), available_runtimes=offers(release(1, choice("cpu")), error=error)))
    assert run("available") == 0
    assert "  b1  2026-11-18  cpu 25 MB\nProblem: The feed did not answer.\n" in run.out
    use(Engine(machine(), available_runtimes=offers(error=error, checked_at=None)))
    assert run("available") == 0
    assert "Problem: The feed did not answer.\n  Look at the network.\n" in run.out
    assert "Releases" not in run.out
    use(Engine(machine(), available_runtimes=offers(checked_at=None)))
    run("available")
    assert "Releases: none known yet; `--refresh` asks for them." in run.out


def test_what_is_not_known_of_a_machine_is_not_invented(use: Any, run: Said) -> None:
    bare = Hardware("linux", "riscv64", gpus=(Gpu("", "unknown"),))
    use(Engine(state(replace(ONE, hardware=bare)), available_runtimes=offers(buildable=[])))
    run("available")
    assert run.out.splitlines()[:2] == [
        "CPU  unknown riscv64 processor",
        "GPU  (memory unknown)",
    ]
    nothing = Hardware("linux", "x86_64")
    use(Engine(state(replace(ONE, hardware=nothing)), available_runtimes=offers()))
    run("available")
    assert "GPU  none found" in run.out


def test_of_many_releases_a_person_sees_the_newest(use: Any, run: Said) -> None:
    many = [release(number, choice("cpu")) for number in range(50, 0, -1)]
    use(Engine(machine(), available_runtimes=offers(*many)))
    run("available")
    shown = [line for line in run.out.splitlines() if line.startswith("  b")]
    assert len(shown) == cli_runtime_text.RELEASES + 1  # the ladder's "best" is the other
    assert "  and 42 older ones (--json lists all)" in run.out


# -- jobs


def test_install_asks_follows_and_says_what_is_in_use(use: Any, run: Said) -> None:
    engine = Engine(state(ONE), state(ONE, job(JobState.QUEUED)), state(BOTH))
    engine.answers = {"install_runtime": {"job_id": "job-1"}}
    use(engine).tell(
        job(JobState.RUNNING, step="Downloading", done=0, total=100_000_000, unit="bytes"),
        job(JobState.RUNNING, step="Downloading", done=52_000_000, total=100_000_000, unit="bytes"),
        job(JobState.RUNNING, step="Downloading", done=53_000_000, total=100_000_000, unit="bytes"),
        "Ping",
        "ModelChanged",
        replace(job(JobState.FAILED), id="another"),
        job(JobState.RUNNING, step="Trying it"),
        job(JobState.DONE),
    )
    assert run("install", "b11500", "--backend", "vulkan") == 0
    wish = {"backend": "vulkan", "build": 11500, "activate": True}
    assert engine.called == [("install_runtime", wish)]
    assert run.out.splitlines() == [
        "Waiting for its turn",
        "Downloading: 0%",
        "Downloading: 52%",
        "Trying it",
        "In use now: b11500-vulkan-release (vulkan).",
        "  Vulkan0: Radeon",
    ]


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (["install"], ("install_runtime", {"backend": None, "build": None, "activate": True})),
        (
            ["build", "11434", "--backend", "cpu", "--portable", "--no-use"],
            (
                "build_runtime",
                {"backend": "cpu", "build": 11434, "portable": True, "activate": False},
            ),
        ),
        (["use", "b11434-cpu"], ("use_runtime", {"name": "b11434-cpu"})),
        (["rollback"], ("roll_back_runtime", {})),
    ],
)
def test_each_verb_calls_its_command(
    use: Any, run: Said, words: Sequence[str], call: tuple[str, dict[str, Any]]
) -> None:
    engine = use(
        Engine(state(ONE), state(ONE, job(JobState.DONE)), **{call[0]: {"job_id": "job-1"}})
    )
    assert run(*words) == 0
    assert engine.called == [call]
    assert run.out == "In use: b11434-cpu (cpu); nothing had to be changed.\n"


def test_a_runtime_that_was_only_installed_says_how_to_take_it(use: Any, run: Said) -> None:
    after = RuntimeStatus(RuntimeState.READY, CPU, installed=(VULKAN, CPU))
    answer = {"install_runtime": {"job_id": "job-1"}}
    use(Engine(state(ONE), state(after, job(JobState.DONE)), **answer))
    assert run("install", "--no-use") == 0
    assert run.out == (
        "Installed: b11500-vulkan-release; "
        "`llama-wrangler runtime use b11500-vulkan-release` takes it.\n"
    )


def test_the_json_of_a_job_is_one_object_at_the_end(use: Any, run: Said) -> None:
    engine = Engine(state(ONE), state(ONE, job(JobState.RUNNING, step="Downloading")), state(BOTH))
    engine.answers = {"install_runtime": {"job_id": "job-1"}}
    use(engine).tell(job(JobState.RUNNING, step="Trying it"), job(JobState.DONE))
    row = run.json("install")
    assert row["job"]["state"] == "done"
    assert row["runtime"]["active"] == VULKAN.id
    assert run.err == ""


@pytest.mark.parametrize("as_json", [True, False])
def test_a_job_that_fails_says_why_what_to_do_and_where_its_log_is(
    use: Any, run: Said, as_json: bool
) -> None:
    failed = job(JobState.FAILED, error=failure(f"cmake {ESCAPE} failed.", "Install cmake."))
    use(Engine(state(ONE), state(ONE, failed), build_runtime={"job_id": "job-1"}))
    if as_json:
        row = run.json("build", status=1)
        assert row["job"]["error"]["remedy"] == "Install cmake."
    else:
        assert run("build") == 1
        assert run.out == ""
    lines = run.err.splitlines()
    assert lines[0].startswith("llama-wrangler: Installing llama.cpp b11500: cmake �[31mred")
    assert lines[1] == "  Install cmake."
    assert lines[2] == f"  Its log: {Path('/home/logs/install-runtime.log')}"


def test_an_interrupted_job_has_failed_and_one_cancelled_elsewhere_says_so(
    use: Any, run: Said
) -> None:
    answer = {"use_runtime": {"job_id": "job-1"}}
    use(Engine(state(ONE), state(ONE, job(JobState.INTERRUPTED)), **answer))
    assert run("use", "x") == 1
    assert "The engine ended while it ran." in run.err
    use(Engine(state(ONE), state(ONE, job(JobState.CANCELLED)), **answer))
    assert run("use", "x") == 130
    assert run.err == "llama-wrangler: Installing llama.cpp b11500: cancelled.\n"


def test_events_that_were_missed_are_made_up_for_by_a_snapshot(use: Any, run: Said) -> None:
    running = state(ONE, job(JobState.RUNNING, step="One"))
    later = state(ONE, job(JobState.RUNNING, step="Two"))
    engine = Engine(state(ONE), running, later, state(ONE), rollback=None)
    engine.answers = {"roll_back_runtime": {"job_id": "job-1"}}
    use(engine).tell("Missed").tell(job(JobState.DONE))
    assert run("rollback") == 0
    assert run.out.splitlines()[:2] == ["One", "Two"]


def test_an_engine_that_ends_meanwhile_is_told(use: Any, run: Said) -> None:
    running = state(ONE, job(JobState.RUNNING, step="One"))
    use(Engine(state(ONE), running, roll_back_runtime={"job_id": "job-1"})).tell("Ping")
    assert run("rollback") == 3
    assert "The engine ended meanwhile." in run.err
    use(Engine(state(ONE), roll_back_runtime={"job_id": "job-1"}))
    assert run("rollback") == 1
    assert "The engine knows no job job-1." in run.err


def test_ctrl_c_cancels_the_job_and_waits_for_its_end(use: Any, run: Said) -> None:
    running = state(ONE, job(JobState.RUNNING, step="Compiling"))
    engine = Engine(state(ONE), running, running, state(ONE), build_runtime={"job_id": "job-1"})
    use(engine).tell(job(JobState.RUNNING, step="Compiling"), KeyboardInterrupt())
    engine.tell(job(JobState.RUNNING, step="Compiling"), job(JobState.CANCELLED))
    assert run("build") == 130
    assert engine.called[1:] == [("cancel_job", {"job_id": "job-1"})]
    assert run.out == "Compiling\n"
    assert run.err == (
        "  Cancelling… (Ctrl+C again: do not wait for it)\n"
        "llama-wrangler: Installing llama.cpp b11500: cancelled.\n"
    )


def test_a_job_that_is_done_before_the_cancel_came_is_done(use: Any, run: Said) -> None:
    running = state(ONE, job(JobState.RUNNING))
    done = state(BOTH, job(JobState.DONE))
    engine = Engine(state(ONE), running, done, build_runtime={"job_id": "job-1"})
    use(engine).tell(KeyboardInterrupt())
    assert run("build") == 0
    assert "In use now: b11500-vulkan-release" in run.out


def test_a_second_ctrl_c_leaves_the_job_to_the_engine(use: Any, run: Said) -> None:
    running = state(ONE, job(JobState.RUNNING))
    engine = Engine(state(ONE), running, build_runtime={"job_id": "job-1"})
    use(engine).tell(KeyboardInterrupt()).tell(KeyboardInterrupt())
    assert run("build") == 130
    assert [name for name, _ in engine.called] == ["build_runtime", "cancel_job"]


def test_a_command_that_is_refused_is_status_1(use: Any, run: Said) -> None:
    refused = ClientError("runtime_missing", "b1 has no vulkan \x1b.", "It has: cpu.")
    use(Engine(state(ONE), install_runtime=refused))
    assert run("install", "b1") == 1
    assert run.err == "llama-wrangler: b1 has no vulkan �.\n  It has: cpu.\n"


def test_a_rollback_on_the_way_is_told(use: Any, run: Said) -> None:
    gone = RolledBack(VULKAN.id, "herd/A", failure("It crashed."), CPU.id, 1.0)
    after = state(replace(ONE, rolled_back=gone), job(JobState.DONE))
    use(Engine(state(ONE), after, use_runtime={"job_id": "job-1"}))
    assert run("use", VULKAN.id) == 0
    assert f"{VULKAN.id} failed with herd/A and {CPU.id} took over: It crashed." in run.out


# -- the line that is drawn over


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def row_of(state: JobState = JobState.RUNNING, **changes: Any) -> dict[str, Any]:
    return dict(to_json(job(state, **changes)))


def test_a_terminal_shows_step_percent_rate_and_time_left_on_one_line() -> None:
    screen = Terminal()
    progress = cli_job.Progress(screen, lambda: 100)
    download = {"step": "Downloading", "total": 200_000_000, "unit": "bytes"}
    progress.show(row_of(done=50_000_000, rate_per_s=3_140_000.0, eta_s=130.4, **download))
    progress.show(row_of(step="Trying it"))
    progress.end()
    progress.end()
    first, second = screen.getvalue().split("\r")[1:]
    assert first == (
        "Downloading  [#####...............]  25 %  50 MB of 200 MB  3.1 MB/s  2 min 10 s left"
    )
    assert second == "Trying it".ljust(len(first)) + "\n"


@pytest.mark.parametrize("width", [1, 8, 20, 40, 60, 79, 200])
def test_no_progress_line_is_wider_than_the_terminal(width: int) -> None:
    row = row_of(step="Compiling " + "x" * 300, done=3, total=7, unit="steps", rate_per_s=1.5,
                 eta_s=3.0)  # fmt: skip
    line = cli_job.progress_line(row, width)
    assert len(line) <= width
    assert line.startswith("C")
    if width >= 79:
        assert line.endswith("[########............]  42 %  1.5 steps/s  3 s left")


def test_a_hostile_step_cannot_move_the_cursor() -> None:
    screen = Terminal()
    cli_job.Progress(screen, lambda: 80).show(row_of(step=ESCAPE))
    assert screen.getvalue().count("\r") == 1
    assert "\n" not in screen.getvalue()
    assert "\x1b" not in screen.getvalue()


def test_a_share_stays_between_nothing_and_all() -> None:
    assert "100 %" in cli_job.progress_line(row_of(done=9, total=3, unit="steps"), 80)
    assert "%" not in cli_job.progress_line(row_of(done=9, total=0, unit="steps"), 80)


# -- remove, check, doctor


def test_remove_demands_yes_where_nobody_can_be_asked(
    use: Any, run: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = use(Engine(state(BOTH), remove_runtime={"freed_bytes": 310_000_000}))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run("remove", CPU.id) == 2
    assert "Confirm it with --yes." in run.err
    assert engine.called == []
    assert run("remove", CPU.id, "--yes") == 0
    assert run.out == "Removed b11434-cpu: 310 MB are free again.\n"
    engine.answers = {"remove_runtime": {"freed_bytes": 0}}  # an adopted one
    assert run("remove", CPU.id, "--yes") == 0
    assert run.out == "Removed b11434-cpu: its files stay where they are.\n"
    engine.answers = {"remove_runtime": {"freed_bytes": 310_000_000}}
    assert run.json("remove", CPU.id, "--yes") == {"removed": CPU.id, "freed_bytes": 310_000_000}
    assert engine.called == [("remove_runtime", {"runtime_id": CPU.id})] * 3


@pytest.mark.parametrize(
    ("answer", "status"), [("y\n", 0), ("YES\n", 0), ("\n", 1), ("", 1), ("no\n", 1)]
)
def test_remove_asks_on_a_terminal(
    use: Any, run: Said, monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    engine = use(Engine(state(BOTH), remove_runtime={"freed_bytes": 1}))
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert run("remove", CPU.id) == status
    assert run.err.startswith("Delete b11434-cpu (310 MB) from the disk? [y/N] ")
    assert len(engine.called) == (1 if status == 0 else 0)


def test_the_question_says_whether_files_go() -> None:
    status = to_json(replace(BOTH, installed=(VULKAN, runtime("b1-cpu", origin="adopted"))))
    ask = cli_runtime_text.removal_question
    assert ask(VULKAN.id, status) == "Delete b11500-vulkan-release (310 MB) from the disk?"
    assert ask("b1-cpu", status) == "Forget b1-cpu? Its files stay."
    assert ask("unknown", status) == "Forget unknown? Its files stay."


def test_check_shows_the_notes_and_how_to_get_it(use: Any, run: Said) -> None:
    notes = f"# New\n\n- faster {ESCAPE}\n" + "line\n" * 100
    update = Update(11500, "b11500", "cpu", 1_795_000_000.0, notes, "https://x/b11500", 25_000_000)
    use(Engine(state(ONE), check_updates=update))
    assert run("check") == 0
    lines = run.out.splitlines()
    assert lines[0] == "b11500 of 2026-11-18 (cpu, 25 MB); in use is b11434-cpu."
    assert lines[1:3] == ["  # New", "  "]
    assert len(lines) == 1 + cli_runtime_text.NOTE_LINES + 3
    assert lines[-3].endswith(" more lines")
    assert lines[-2:] == [
        "Its page: https://x/b11500",
        "Get it: llama-wrangler runtime install b11500",
    ]
    assert run.json("check")["build"] == 11500


def test_check_says_when_there_is_nothing_newer(use: Any, run: Said) -> None:
    use(Engine(state(ONE), check_updates=None))
    assert run("check") == 0
    assert run.out == "There is nothing newer: b11434-cpu is in use.\n"
    assert run.json("check") is None
    down = ClientError("download_failed", "The feed did not answer.")
    use(Engine(state(ONE), check_updates=down))
    assert run("check") == 1


def test_doctor_fails_with_any_of_its_checks(use: Any, run: Said) -> None:
    good = {"name": "proof", "ok": True, "message": "b11434-cpu answers.", "remedy": ""}
    bad = {"name": "driver", "ok": False, "message": f"{ESCAPE} is old.", "remedy": "Update it."}
    use(Engine(state(ONE), runtime_doctor=[good]))
    assert run("doctor") == 0
    use(Engine(state(ONE), runtime_doctor=[good, bad]))
    assert run("doctor") == 1
    assert run.out.splitlines()[0].startswith("ok    proof")
    assert run.out.splitlines()[-1].strip() == "Update it."
    assert run.json("doctor", status=1)[1]["name"] == "driver"


# -- hostile words


def hostile() -> RuntimeStatus:
    bad = replace(
        CPU,
        id=ESCAPE,
        backend=ESCAPE,
        origin=ESCAPE,
        devices=(ESCAPE,),
        proof=Proof(False, 1.0, devices=(ESCAPE,), error=failure(ESCAPE, ESCAPE),
                    warnings=(ESCAPE,), missing_libraries=(ESCAPE,)),
    )  # fmt: skip
    return RuntimeStatus(
        RuntimeState.READY,
        bad,
        error=failure(ESCAPE, ESCAPE),
        rejected=(Rejected(Path(f"/{ESCAPE}"), ESCAPE * 1000),),
        installed=(bad,),
        previous_id=ESCAPE,
        stepped_down=(ESCAPE,),
        on_trial=True,
        rolled_back=RolledBack(ESCAPE, ESCAPE, failure(ESCAPE, ESCAPE), ESCAPE, 1.0),
        hardware=Hardware(ESCAPE, ESCAPE, ESCAPE, gpus=(Gpu(ESCAPE, ESCAPE, driver=ESCAPE),)),
        ladder=(Rung(ESCAPE, True, ESCAPE),),
        update=Update(1, ESCAPE, ESCAPE, 1e300, ESCAPE, ESCAPE),
    )


@pytest.mark.parametrize(
    "words", [["list"], ["available"], ["install"], ["use", "x"], ["check"], ["doctor"]]
)
def test_no_name_reaches_the_terminal_as_an_escape(use: Any, run: Said, words: list[str]) -> None:
    option = choice(ESCAPE, variant=ESCAPE, reason=ESCAPE)
    bad = {**release(1, option, {**option, "usable": False}), "tag": ESCAPE}
    built = {"backend": ESCAPE, "usable": False, "reason": ESCAPE, "missing": [ESCAPE],
             "install_command": ESCAPE}  # fmt: skip
    check = {"name": ESCAPE, "ok": True, "message": ESCAPE, "remedy": ""}
    engine = Engine(
        state(ONE),
        state(hostile(), job(JobState.DONE, title=ESCAPE, step=ESCAPE)),
        available_runtimes=offers(bad, buildable=[built], error=failure(ESCAPE, ESCAPE)),
        check_updates=hostile().update,
        runtime_doctor=[check],
        read_hardware=hostile().hardware,
        install_runtime={"job_id": "job-1"},
        use_runtime={"job_id": "job-1"},
    )
    if words == ["list"]:
        engine.snapshots.pop(0)
    use(engine)
    assert run(*words) == 0
    assert "red" in run.out
    assert max(len(line) for line in run.out.splitlines()) < 400


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (-3, "0 s"), (59.4, "59 s"), (130.4, "2 min 10 s"), (3_900, "1 h 05 min"),
     (1e300, "99 h 00 min")],
)  # fmt: skip
def test_durations(seconds: float, said: str) -> None:
    assert cli_text.duration(seconds) == said


@pytest.mark.parametrize(
    ("at", "said"), [(None, "?"), (0, "1970-01-01"), (1e300, "?"), (float("nan"), "?")]
)
def test_days(at: float | None, said: str) -> None:
    assert cli_text.day(at) == said
