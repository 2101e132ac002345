"""The wheel, installed into an environment of its own, is the same product as the source tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.kit import ROOT

SOURCES = ("tray_app", "pyproject.toml", "README.md", "LICENSE")


def run(argv: Sequence[str | Path], **options: object) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin/` of a new environment with our wheel; its dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    skip = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:  # a copy, because a build leaves folders beside it
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / name, **({"ignore": skip} if path.is_dir() else {}))
    pip = [sys.executable, "-m", "pip"]
    quiet = ("-q", "--no-deps", "--no-index", "--disable-pip-version-check")
    run([*pip, "wheel", *quiet, "--no-build-isolation", "-w", folder, source])
    (wheel,) = folder.glob("*.whl")
    run([sys.executable, "-m", "venv", "--without-pip", folder / "env"])
    scripts = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    run([*pip, "--python", scripts / "python", "install", *quiet, wheel])
    # A plain line: what else lies there for pip, our source tree among it, is not followed.
    paths = {"base": str(folder / "env"), "platbase": str(folder / "env")}
    place = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    (place / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def test_it_has_every_file_that_the_product_reads(installed: Path, tmp_path: Path) -> None:
    where = "import tray_app; print(tray_app.__path__[0])"
    package = Path(run([installed / "python", "-c", where], cwd=tmp_path).strip())
    assert package.is_relative_to(installed.parent)

    def files(root: Path) -> set[str]:
        found = (p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        return {p.relative_to(root).as_posix() for p in found}

    assert files(package) == files(ROOT / "tray_app")


def test_it_has_the_same_verbs(installed: Path, tmp_path: Path) -> None:
    ours = run([sys.executable, "-m", "tray_app", "--help"], cwd=ROOT)
    theirs = run([installed / "llama-wrangler", "--help"], cwd=tmp_path)
    assert theirs == ours
    assert re.search(r"^ +uninstall ", theirs, re.M)


@pytest.mark.e2e
def test_it_passes_the_self_test(installed: Path, display: dict[str, str], tmp_path: Path) -> None:
    environ = {k: v for k, v in display.items() if k != "PYTHONPATH"}
    said = run([installed / "llama-wrangler", "--self-test"], env=environ, cwd=tmp_path)
    assert "to the page “Models”" in said
