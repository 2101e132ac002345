"""What the tray does, without a display: a panel that remembers, and a stand-in engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.tray_kit import (
    StandInEngine,
    download,
    failure,
    job,
    model,
    snapshot,
    stand_in_engine,
    status,
)
from tests.unit.engine_kit import wait_until
from tray_app.client import Client, ClientError
from tray_app.engine.downloads.values import DownloadState
from tray_app.engine.values import (
    JobState,
    ModelState,
    Notice,
    Offload,
    RolledBack,
    Runtime,
    RuntimeState,
    RuntimeStatus,
    ServerState,
    Update,
)
from tray_app.icon import IconFiles
from tray_app.menu import Item, Kind
from tray_app.tray_link import EngineLink
from tray_app.tray_news import Message, News
from tray_app.tray_session import Face, Session

WAIT_S = 10.0


class RememberingPanel:
    """Draws by remembering; its GUI thread is whichever thread posts."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.faces: list[Face] = []
        self.messages: list[Message] = []
        self.copied: list[str] = []
        self.stopped = False

    def post(self, work: Callable[[], None]) -> None:
        with self._changed:  # one at a time, as on a GUI thread
            work()
            self._changed.notify_all()

    def show(self, face: Face) -> None:
        self.faces.append(face)

    def notify(self, message: Message) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def copy(self, text: str) -> None:
        self.copied.append(text)

    def stop(self) -> None:
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def wait(self, ready: Callable[[], Any], what: str) -> None:
        with self._changed:
            assert self._changed.wait_for(ready, WAIT_S), f"waited {WAIT_S} s for {what}"

    def labels(self) -> list[str]:
        return [item.label for item in self.faces[-1].items] if self.faces else []

    def picture(self) -> str:
        return self.faces[-1].picture.name.split("-")[1]


class Switch:
    """An autostart entry in memory."""

    def __init__(self) -> None:
        self.on = False

    def is_on(self) -> bool:
        return self.on

    def turn_on(self) -> None:
        self.on = True

    def turn_off(self) -> None:
        self.on = False

    def repair(self) -> bool:
        return False


class Window:
    """A window process that only says that it lives."""

    def __init__(self, home: Path, on_end: Callable[[int, bool], None]) -> None:
        self.pages: list[str] = []
        self.on_end = on_end
        self.living = False
        self.opened = threading.Event()

    def alive(self) -> bool:
        return self.living

    def open(self, page: str, reference: str = "") -> bool:
        if self.living:
            return False
        self.living = True
        self.pages.append(f"{page} {reference}".strip())
        self.opened.set()
        return True

    def end(self) -> None:
        self.living = False


class Tray:
    """A session with all it talks to."""

    def __init__(self, home: Path, pictures: Path, **options: Any) -> None:
        self.panel = RememberingPanel()
        self.switch = Switch()
        self.starts: list[Path] = []
        self.may_start = threading.Event()
        windows: list[Window] = []

        def window(path: Path, on_end: Callable[[int, bool], None]) -> Any:
            windows.append(Window(path, on_end))
            return windows[0]

        def start_engine(path: Path) -> Client:
            self.starts.append(path)
            return Client.connect(path)

        def link(*args: Any) -> EngineLink:
            return EngineLink(*args, start_engine=start_engine)

        icons = IconFiles(pictures, size=16)
        options = {"window": window, "link": link, **options}
        self.session = Session(home, self.panel, icons, self.switch, **options)
        self.window = windows[0]

    def choose(self, label: str) -> None:
        """Click the first entry that starts so."""
        self.session.act(next(i for i in self.panel.faces[-1].items if i.label.startswith(label)))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("icons")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StandInEngine]:
    with stand_in_engine(tmp_path) as engine:
        yield engine


@contextmanager
def running(home: Path, pictures: Path, **options: Any) -> Iterator[Tray]:
    tray = Tray(home, pictures, **options)
    tray.session.start()
    try:
        yield tray
    finally:
        tray.session.quit()


@pytest.fixture
def tray(tmp_path: Path, pictures: Path, engine: StandInEngine) -> Iterator[Tray]:
    """A tray that shows two models."""
    engine.show(snapshot(model("A"), model("B"), active="A", status_text="A is ready"))
    with running(tmp_path, pictures) as tray:
        tray.panel.wait(lambda: "A is ready" in tray.panel.labels(), "the first snapshot")
        wait_for_stream(engine)
        yield tray


def wait_for_stream(engine: StandInEngine) -> None:
    """Events before the tray listens are lost on the stand-in."""
    done = threading.Event()
    for _ in range(1000):
        if engine.listeners():
            return
        done.wait(0.01)
    raise AssertionError("the tray never listened")


def wait_for_call(tray: Tray, engine: StandInEngine, call: tuple[str, dict[str, Any]]) -> None:
    done = threading.Event()
    for _ in range(1000):
        if call in engine.calls:
            return
        done.wait(0.01)
    raise AssertionError(f"{call} is not in {engine.calls}")


def test_before_the_engine_answers_the_tray_says_that_it_starts(
    tmp_path: Path, pictures: Path
) -> None:
    face = Tray(tmp_path, pictures).session.face()
    assert (face.items[0].label, face.title) == ("Starting…", "Llama Wrangler: Starting…")


def test_an_event_brings_the_new_state(tray: Tray, engine: StandInEngine) -> None:
    engine.show(snapshot(status_text="Busy", server_state=ServerState.BUSY))
    tray.panel.wait(lambda: "Busy" in tray.panel.labels(), "the new state")
    assert tray.panel.picture() == "busy"
    assert tray.panel.faces[-1].title == "Llama Wrangler: Busy"


def test_what_looks_the_same_is_not_drawn_again(tray: Tray, engine: StandInEngine) -> None:
    before = len(tray.panel.faces)
    engine.show(snapshot(model("A"), model("B"), active="A", status_text="A is ready"))
    engine.show(snapshot(status_text="Other"))
    tray.panel.wait(lambda: "Other" in tray.panel.labels(), "the other state")
    assert len(tray.panel.faces) == before + 1


def test_choosing_a_model_switches(tray: Tray, engine: StandInEngine) -> None:
    tray.choose("B")
    wait_for_call(tray, engine, ("switch_model", {"model_id": "herd/B"}))


def test_a_refused_command_is_told_with_its_remedy(tray: Tray, engine: StandInEngine) -> None:
    engine.failures["switch_model"] = {"code": "x", "message": "Too big.", "remedy": "Buy RAM."}
    tray.choose("B")
    tray.panel.wait(lambda: tray.panel.messages, "a notification")
    assert tray.panel.messages[0].body == "Too big.\nBuy RAM."


def test_the_window_is_opened_once_and_then_raised(tray: Tray, engine: StandInEngine) -> None:
    tray.choose("Open window")
    assert tray.window.opened.wait(WAIT_S)
    tray.choose("Open window")
    wait_for_call(tray, engine, ("show_window", {"page": "models", "reference": ""}))
    assert tray.window.pages == ["models"]


def test_a_second_start_opens_the_window(tray: Tray, engine: StandInEngine) -> None:
    engine.emit("WindowRequested", {"page": "settings"})
    assert tray.window.opened.wait(WAIT_S)
    assert tray.window.pages == ["settings"]


def test_a_window_asked_for_while_the_old_one_dies_is_opened_after_it(
    tray: Tray, engine: StandInEngine
) -> None:
    tray.window.living = True  # its process still ends
    engine.emit("WindowRequested", {"page": "discover", "reference": "org/repo"})
    wait_until(lambda: tray.session._asked_for[1].get("page") == "discover")
    tray.window.living = False
    tray.window.on_end(-15, True)
    assert tray.window.opened.wait(WAIT_S)
    assert tray.window.pages == ["discover org/repo"]
    assert tray.panel.messages == []
    tray.window.living = False
    tray.window.on_end(0, False)  # closed by the user: it stays closed
    assert tray.window.pages == ["discover org/repo"]


def test_a_window_that_never_showed_is_told(tray: Tray) -> None:
    tray.window.on_end(1, True)
    assert "exit code 1" in tray.panel.messages[0].body


def test_start_at_login_is_written_and_ticked(tray: Tray) -> None:
    def ticked() -> bool:
        return any(i.kind is Kind.CHECK and i.checked for i in tray.panel.faces[-1].items)

    tray.choose("Start at login")
    tray.panel.wait(ticked, "the tick")
    assert tray.switch.on


def test_the_address_is_copied_and_said(tray: Tray) -> None:
    tray.choose("Copy API address")
    tray.panel.wait(lambda: tray.panel.messages, "a notification")
    assert tray.panel.copied == ["http://127.0.0.1:7070/v1"]


def test_the_logs_folder_is_opened(tmp_path: Path, pictures: Path, engine: StandInEngine) -> None:
    opened: list[Path] = []
    done = threading.Event()

    def open_path(path: Path) -> None:
        opened.append(path)
        done.set()

    with running(tmp_path, pictures, open_path=open_path) as tray:
        tray.session.act(Item(Kind.ACTION, action="open_logs"))
        assert done.wait(WAIT_S)
    assert opened == [tmp_path / "logs"]


def test_an_engine_that_dies_is_shown_and_joined_again(tray: Tray, engine: StandInEngine) -> None:
    home = tray.starts[0]
    engine.stop()
    tray.panel.wait(lambda: "The engine ended unexpectedly." in tray.panel.labels(), "the loss")
    assert tray.panel.picture() == "error"
    assert "Restart the engine" in tray.panel.labels()
    with stand_in_engine(home) as again:
        again.show(snapshot(status_text="Back again"))
        tray.panel.wait(lambda: "Back again" in tray.panel.labels(), "the new engine")


def test_an_engine_that_does_not_start_says_why(tmp_path: Path, pictures: Path) -> None:
    def start_engine(path: Path) -> Client:
        raise ClientError("engine_failed", "Exit code 1.")

    def link(*args: Any) -> EngineLink:
        return EngineLink(*args, start_engine=start_engine)

    with running(tmp_path, pictures, link=link) as tray:
        tray.panel.wait(lambda: "Exit code 1." in tray.panel.labels(), "the reason")


def test_an_engine_that_was_told_to_stop_takes_the_tray_along(
    tray: Tray, engine: StandInEngine
) -> None:
    engine.stop(say_so=True)
    tray.panel.wait(lambda: tray.panel.stopped, "the tray's end")


def test_quitting_ends_window_and_engine(tray: Tray, engine: StandInEngine) -> None:
    tray.choose("Open window")
    assert tray.window.opened.wait(WAIT_S)
    tray.choose("Quit")
    tray.panel.wait(lambda: tray.panel.stopped, "the tray's end")
    assert not tray.window.alive()
    assert "Stopping…" in [face.items[0].label for face in tray.panel.faces]
    assert engine.process.wait(WAIT_S) is not None


def test_quitting_leaves_a_served_engine_alone(
    tmp_path: Path, pictures: Path, engine: StandInEngine
) -> None:
    engine.show(snapshot(mode="serve", status_text="Serving"))
    with running(tmp_path, pictures) as tray:
        tray.panel.wait(lambda: "Serving" in tray.panel.labels(), "the first snapshot")
    assert tray.panel.stopped
    assert engine.calls == []


def test_without_a_tray_host_the_window_opens_and_its_end_is_the_end(
    tmp_path: Path, pictures: Path, engine: StandInEngine
) -> None:
    told: list[str] = []
    tray = Tray(tmp_path, pictures, host_available=lambda: False)
    tray.session.start()
    tray.session.present(False, "Install something.", told.append)
    assert (told, tray.window.pages) == (["Install something."], ["models"])
    tray.window.living = False
    tray.window.on_end(0, False)
    assert tray.panel.stopped


@pytest.mark.parametrize(
    ("stays", "exit_code", "quits"),
    [(True, 0, False), (False, 0, True), (False, 4, False), (False, 1, False)],
)
def test_closing_the_window_ends_the_tray_if_the_user_wants_it_so(
    tray: Tray, engine: StandInEngine, stays: bool, exit_code: int, quits: bool
) -> None:
    value = snapshot(model("A"), status_text="as wished")
    value["settings"]["ui"]["close_to_tray"] = stays
    engine.show(value)
    engine.emit("SettingsChanged", {"keys": ["ui.close_to_tray"]})
    tray.panel.wait(lambda: "as wished" in tray.panel.labels(), "the settings")
    tray.window.on_end(exit_code, False)
    assert tray.panel.stopped is quits


def test_a_hidden_start_waits_for_the_panel_and_opens_no_window(
    tmp_path: Path, pictures: Path, engine: StandInEngine
) -> None:
    answers = iter([False, True])
    told: list[str] = []
    with running(tmp_path, pictures, host_available=lambda: next(answers)) as tray:
        tray.session.present(True, "Install something.", told.append)
        assert (told, tray.window.pages) == ([], [])


def test_a_visible_start_opens_the_window(tray: Tray) -> None:
    tray.session.present(False, "", lambda text: None)
    assert tray.window.pages == ["models"]


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def states(*statuses: Any, **changes: Any) -> dict[str, Any]:
    return snapshot(model("A"), active="A", statuses=statuses, **changes)


def test_a_failed_model_is_news_once() -> None:
    news = News()
    failed = states(status("A", ModelState.FAILED, error=failure()))
    assert news.of(states(status("A", ModelState.LOADING))) == []
    assert news.of(failed) == [Message("A failed", "It needs 9 GB.\nChoose a smaller one.")]
    assert news.of(failed) == []


def test_what_is_so_from_the_start_is_no_news() -> None:
    assert News().of(states(status("A", ModelState.FAILED, error=failure()))) == []


@pytest.mark.parametrize(("seconds", "titles"), [(2.9, []), (3.1, ["A is ready"])])
def test_only_a_slow_switch_is_news(seconds: float, titles: list[str]) -> None:
    clock = Clock()
    news = News(clock)
    news.of(states())
    news.of(states(status("A", ModelState.LOADING)))
    clock.now = seconds
    assert [m.title for m in news.of(states(status("A", ModelState.READY)))] == titles


@pytest.mark.parametrize(
    ("kind", "state", "titles"),
    [
        ("build_runtime", JobState.DONE, ["llama.cpp is ready"]),
        ("build_runtime", JobState.FAILED, ["llama.cpp could not be built"]),
        ("build_runtime", JobState.CANCELLED, []),
        ("install_runtime", JobState.DONE, ["llama.cpp is ready"]),
        ("install_runtime", JobState.FAILED, ["llama.cpp could not be installed"]),
        ("prove_runtime", JobState.DONE, []),
        ("prove_runtime", JobState.FAILED, ["This llama.cpp cannot be used"]),
        ("another", JobState.FAILED, []),
    ],
)
@pytest.mark.parametrize("seen_running", [True, False])
def test_the_end_of_a_job_about_runtimes_is_news_once(
    kind: str, state: JobState, titles: list[str], seen_running: bool
) -> None:
    news = News()
    news.of(states(jobs=(job(JobState.RUNNING, kind=kind),) if seen_running else ()))
    after = states(jobs=(job(state, kind=kind, error=failure()),))
    assert [message.title for message in news.of(after)] == titles
    assert news.of(after) == []


def test_a_finished_job_says_what_is_in_use() -> None:
    news = News()
    news.of(states())
    ready = states(jobs=(job(JobState.DONE),), runtime=RuntimeStatus(RuntimeState.READY, BUILD))
    assert news.of(ready) == [Message("llama.cpp is ready", "In use is b3 · CUDA.")]


BUILD = Runtime("b3-cuda", 3, "cuda", Path("/r/llama-server"), "built", "")


def test_a_runtime_that_was_rolled_back_is_news_once() -> None:
    news = News()
    news.of(states())
    gone = RolledBack(
        "b9-\x1bcuda", "herd/A", failure("It crashed.", "Update the driver."), "b8", 1
    )
    after = states(runtime=RuntimeStatus(rolled_back=gone))
    assert news.of(after) == [
        Message("Back to llama.cpp b8", "b9-cuda failed with A: It crashed.\nUpdate the driver.")
    ]
    assert news.of(after) == []


def test_an_update_is_news_once_for_each_build_and_only_when_it_is_to_be_told() -> None:
    def offering(build: int, told: bool = True) -> dict[str, Any]:
        update = Update(build, f"b{build}", "cuda", None, "", "", told=told)
        return states(runtime=RuntimeStatus(RuntimeState.READY, BUILD, update=update))

    news = News()
    news.of(states())
    assert news.of(offering(9, told=False)) == []
    (message,) = news.of(offering(9))
    assert message.title == "llama.cpp b9 is out"
    assert "In use is b3 · CUDA." in message.body
    assert news.of(states()) == []
    assert news.of(offering(9)) == []
    news.forget()  # the engine was started again
    news.of(states())
    assert news.of(offering(9)) == []
    assert [m.title for m in news.of(offering(10))] == ["llama.cpp b10 is out"]


def on_processor(
    name: str = "A", runtime_id: str = "b3-cuda", state: ModelState = ModelState.READY
) -> dict[str, Any]:
    """The active model computes on the processor, and the engine minds."""
    notice = Notice("cpu_fallback", "warning", "The model runs on the CPU.", "Update the driver.")
    loaded = status(name, state, runtime_id=runtime_id, offload=Offload(None, 0, 31))
    return snapshot(model("A"), model("B"), active=name, statuses=(loaded,), notices=(notice,))


def test_a_model_on_the_processor_is_news_once_for_each_runtime() -> None:
    news = News()
    news.of(states())
    assert news.of(on_processor()) == [
        Message("A runs on the processor", "The model runs on the CPU.\nUpdate the driver.")
    ]
    assert news.of(states()) == []
    assert news.of(on_processor()) == []
    assert [m.title for m in news.of(on_processor("B"))] == ["B runs on the processor"]
    assert len(news.of(on_processor(runtime_id="b4-cuda"))) == 1
    news.forget()  # the engine was started again
    news.of(states())
    assert news.of(on_processor()) == []


def test_a_model_on_the_processor_is_no_news_unless_it_is_loaded_and_the_engine_minds() -> None:
    news = News()
    news.of(states())
    assert news.of({**on_processor(), "notices": []}) == []
    assert news.of(on_processor(state=ModelState.STOPPING)) == []
    assert len(news.of(on_processor())) == 1  # the notice came a moment after the state


def test_downloads_are_paused_and_resumed_from_the_tray(tray: Tray, engine: StandInEngine) -> None:
    running = download(DownloadState.RUNNING, done_bytes=430_000_000)
    waiting = download(DownloadState.WAITING, id="download-2")
    engine.show(snapshot(status_text="with some", downloads=(running, waiting)))
    tray.panel.wait(lambda: "with some" in tray.panel.labels(), "the downloads")
    assert tray.panel.faces[-1].title.endswith("with some · downloading, 43 %")
    menu = next(i for i in tray.panel.faces[-1].items if i.label.startswith("Downloads"))
    tray.session.act(next(i for i in menu.children if i.label == "Pause all"))
    wait_for_call(tray, engine, ("pause_downloads", {}))
    tray.session.act(next(i for i in menu.children if i.label == "Resume all"))
    wait_for_call(tray, engine, ("resume_downloads", {}))
    tray.session.act(menu.children[0])
    assert tray.window.opened.wait(WAIT_S)
    assert tray.window.pages == ["downloads"]


def test_a_runtime_is_chosen_and_taken_back_from_the_tray(
    tray: Tray, engine: StandInEngine
) -> None:
    other = Runtime("b2-cpu", 2, "cpu", Path("/r/2"), "built", "")
    status = RuntimeStatus(
        RuntimeState.READY, BUILD, installed=(BUILD, other), previous_id="b2-cpu"
    )
    engine.show(snapshot(status_text="with two", runtime=status))
    tray.panel.wait(lambda: "with two" in tray.panel.labels(), "the runtimes")
    menu = next(i for i in tray.panel.faces[-1].items if i.label == "llama.cpp b3 · CUDA")
    tray.session.act(next(i for i in menu.children if i.label == "b2 · Processor"))
    wait_for_call(tray, engine, ("use_runtime", {"name": "b2-cpu"}))
    tray.session.act(next(i for i in menu.children if i.label.startswith("Back to")))
    wait_for_call(tray, engine, ("roll_back_runtime", {}))
    tray.session.act(next(i for i in menu.children if i.label == "Manage runtimes…"))
    assert tray.window.opened.wait(WAIT_S)
    assert tray.window.pages == ["runtimes"]
