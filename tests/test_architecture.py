"""The design's rules as code: who may import whom, how long a module is, what stays unloaded."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
APP = ROOT / "tray_app"
WEB = APP / "web"
MAX_LINES = 400

MODULES = sorted(APP.rglob("*.py"))
ENGINE_MODULES = sorted((APP / "engine").rglob("*.py"))
# The tray, the window and the command line reach the engine through the control API only.
FACES = ("tray", "menu", "icon", "window", "cli", "client", "faces")
FACE_MODULES = [p for p in MODULES if p.parent == APP and re.split(r"[_.]", p.name)[0] in FACES]
SCRIPTS = sorted(p for p in WEB.rglob("*.js") if "vendor" not in p.relative_to(WEB).parts)
STYLES = sorted(p for p in WEB.rglob("*.css") if "vendor" not in p.relative_to(WEB).parts)


def name_of(path: Path) -> str:
    return str(PurePosixPath(path.relative_to(ROOT)))


def imports(path: Path, root: Path = ROOT) -> Iterator[tuple[int, str]]:
    """Every import of a module, inner ones too, as (line, absolute dotted name)."""
    package = path.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            stem = ".".join((*base, *([node.module] if node.module else [])))
            # `from tray_app import engine` names a module as much as `import tray_app.engine`.
            yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def broken(modules: list[Path], *forbidden: str, apart_from: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{name_of(path)}:{line} imports {name}"
        for path in modules
        for line, name in imports(path)
        if any(within(name, package) for package in forbidden)
        and not any(within(name, package) for package in apart_from)
    ]


def test_every_form_of_an_import_is_seen(tmp_path: Path) -> None:
    module = tmp_path / "app" / "engine" / "module.py"
    module.parent.mkdir(parents=True)
    module.write_text(
        "import webview.http\n"
        "from . import a\n"
        "from .b import c\n"
        "from .. import d\n"
        "from ..e.f import g\n"
        "def later():\n"
        "    import app.h\n"
    )
    assert list(imports(module, root=tmp_path)) == [
        (1, "webview.http"),
        (2, "app.engine.a"),
        (3, "app.engine.b.c"),
        (4, "app.d"),
        (5, "app.e.f.g"),
        (7, "app.h"),
    ]


# How the program starts itself again, and which version of it, are facts about both halves: leaves
# that import neither.
LEAVES = ("tray_app.self_command", "tray_app.app_versions")


def test_the_engine_knows_no_face() -> None:
    faces = ("pystray", "webview", "PIL", "bottle", "waitress", "gi")
    assert broken(ENGINE_MODULES, *faces) == []
    assert broken(ENGINE_MODULES, "tray_app", apart_from=("tray_app.engine", *LEAVES)) == []


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_leaf_of_both_halves_needs_the_standard_library_alone(leaf: str) -> None:
    path = APP / f"{leaf.rpartition('.')[2]}.py"
    others = [name for _, name in imports(path) if not any(within(name, x) for x in LEAVES)]
    assert {name.partition(".")[0] for name in others} <= {*sys.stdlib_module_names}


def test_one_module_knows_a_frozen_build_and_its_own_executable() -> None:
    others = [path for path in MODULES if path.name != "self_command.py"]
    knowing = [name_of(p) for p in others if re.search(r"[\"']frozen[\"']", p.read_text("utf-8"))]
    assert knowing == []
    # The environment of the converter is made with it: that is a Python, and no child of ours.
    naming = [name_of(p) for p in others if "sys.executable" in p.read_text(encoding="utf-8")]
    assert naming == ["tray_app/engine/convert/environment.py"]


def test_a_face_reaches_the_engine_only_through_the_control_api() -> None:
    inner = ("tray_app.engine", "tray_app.daemon", "tray_app.gateway", "tray_app.control")
    # `llama-wrangler serve` is a command that becomes the engine process.
    # That it loads nothing of it before is held by the test of idle processes below.
    serving = [path for path in FACE_MODULES if path.name == "cli.py"]
    others = [path for path in FACE_MODULES if path not in serving]
    assert broken(others, *inner) == []
    doors = ("tray_app.daemon",)
    assert broken(serving, *inner, apart_from=doors) == []


def test_the_engine_is_used_by_its_front_door() -> None:
    outside = [path for path in MODULES if path not in ENGINE_MODULES]
    own = [path.relative_to(APP).with_suffix("") for path in ENGINE_MODULES]
    inner = [f"tray_app.{'.'.join(path.parts)}" for path in own if path.stem != "__init__"]
    # The error family and the values are the language both sides speak.
    shared = ("tray_app.engine.errors", "tray_app.engine.values")
    assert broken(outside, *inner, apart_from=shared) == []


@pytest.mark.parametrize(
    ("library", "owners"), [("webview", ("window", "browse")), ("pystray", ("tray",))]
)
def test_a_gui_library_has_its_owners(library: str, owners: tuple[str, ...]) -> None:
    others = [path for path in MODULES if path not in {APP / f"{name}.py" for name in owners}]
    assert broken(others, library) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_stays_readable(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: split it where a second reason to change begins"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_process_is_started_through_a_shell(path: Path) -> None:
    calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
    shells = [c.lineno for c in calls if any(k.arg == "shell" for k in c.keywords)]
    strings = [c.lineno for c in calls if ast.unparse(c.func) in ("os.system", "os.popen")]
    assert shells + strings == []


# What turns text into markup or code. Model output is shown on this page, so none of it may.
UNSAFE_JS = re.compile(
    r"\b(?:inner|outer)HTML\b|insertAdjacentHTML|dangerouslySetInnerHTML|document\.write"
    r"|\beval\(|new Function\b|javascript:|setAttribute\(\s*[\"']on"
)


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_a_script_never_turns_text_into_markup_or_code(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [f"{n}: {line}" for n, line in enumerate(lines, 1) if UNSAFE_JS.search(line)] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_a_script_is_checked_and_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "// @ts-check" in text.splitlines()[:5]
    assert len(text.splitlines()) <= MAX_LINES


def test_only_the_bridge_knows_the_window() -> None:
    knowing = [p.name for p in SCRIPTS if "window.pywebview" in p.read_text(encoding="utf-8")]
    assert set(knowing) <= {"bridge.js"}


def test_the_page_loads_nothing_from_elsewhere() -> None:
    pages = [*SCRIPTS, *STYLES, *WEB.glob("*.html")]
    remote = re.compile(r"(?:src|href|from|import|url)\s*[=(]?\s*[\"'(]*(?:https?:)?//[\w.]", re.I)
    assert [name_of(p) for p in pages if remote.search(p.read_text(encoding="utf-8"))] == []


# What an idle process would carry for nothing.
GUI = ("PIL", "gi", "pystray", "webview")
HEAVY = (*GUI, "cryptography", "huggingface_hub", "keyring", "requests")
IDLE = {
    "tray_app.daemon": HEAVY,
    "tray_app.cli": (*HEAVY, "asyncio", "bottle", "httptools", "tray_app.engine"),
    "tray_app.client": (*HEAVY, "asyncio", "bottle", "httptools", "tray_app.engine"),
    "tray_app.menu": (*HEAVY, "asyncio", "bottle", "httptools", "tray_app.engine"),
}


@pytest.mark.parametrize("module", IDLE)
def test_an_idle_process_loads_nothing_it_does_not_need(module: str) -> None:
    script = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    loaded = json.loads(done.stdout)
    heavy = [name for name in loaded if any(within(name, package) for package in IDLE[module])]
    assert heavy == []
