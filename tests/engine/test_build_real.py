"""Real builds of llama.cpp through the product: the session's own, and a second one beside it."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime_kit import Follower
from tray_app.engine.home import cache_folder
from tray_app.engine.runtime import store
from tray_app.engine.runtime.build import build_best, obtain_runtime
from tray_app.engine.runtime.compile import CONVERSION_FOLDER
from tray_app.engine.runtime.recipe import (
    PROGRAMS,
    Recipe,
    cache_key,
    host_recipe,
    recipe_for,
)
from tray_app.engine.runtime.store import SERVER, Manifest
from tray_app.engine.runtime.toolchain import missing_for

# What `--help` or `--version` of each says. The sizes of the set are those of b11434.
ANSWERS = {
    "llama-server": ("--version", "build 11434"),
    "llama-quantize": ("--help", "usage:"),
    "llama-fit-params": ("--help", "--fit"),
    "llama-gguf-split": ("--help", "usage:"),
    "llama-imatrix": ("--help", "--output"),
    "llama-bench": ("--help", "usage:"),
    "ggml-rpc-server": ("--help", "--port"),
}


@pytest.fixture
def built(llama_server: Path) -> tuple[Path, Manifest]:
    """The session's runtime, when it is one that the product built."""
    folder = llama_server.resolve().parent
    manifest = store.verified(folder, cache_key(host_recipe()))
    if manifest is None:
        pytest.skip("the runtime of this session is not one that we built into the cache")
    return folder, manifest


def test_the_sessions_runtime_is_what_the_recipe_made_and_says_of_what(
    built: tuple[Path, Manifest],
) -> None:
    recipe, (_, manifest) = host_recipe(), built
    assert (manifest.origin, manifest.build) == ("built", recipe.source.build)
    assert manifest.made_from.startswith(
        f"{recipe.source.filename}, sha256 {recipe.source.sha256}; "
    )
    for option in recipe.options:
        assert f" {option}" in manifest.made_from
    assert manifest.size_bytes > 10_000_000


def test_every_program_of_the_recipe_is_there_and_starts(built: tuple[Path, Manifest]) -> None:
    folder, manifest = built
    assert ANSWERS.keys() == set(PROGRAMS)
    for name, (argument, words) in ANSWERS.items():
        assert name in manifest.files
        done = subprocess.run(
            [str(folder / name), argument], capture_output=True, text=True, timeout=30, check=False
        )
        assert words in done.stdout + done.stderr, name


def local_imports(script: Path, root: Path) -> Iterator[Path]:
    """The files that a script's imports of its own tree have to be in, as packages or modules."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        names: list[tuple[Path, str]] = []
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [(script.parent, node.module or "")]
        elif isinstance(node, ast.ImportFrom):
            names = [(root, node.module or "")]
        elif isinstance(node, ast.Import):
            names = [(root, alias.name) for alias in node.names]
        for base, name in names:
            top = name.partition(".")[0]
            if top == "gguf":
                base = root / "gguf-py"
            elif top != "conversion" and base == root:
                continue
            yield base.joinpath(*name.split(".")) if name else base


def test_the_conversion_scripts_find_their_modules_beside_themselves(
    built: tuple[Path, Manifest],
) -> None:
    root = built[0] / CONVERSION_FOLDER
    scripts = [root / "convert_hf_to_gguf.py", root / "convert_lora_to_gguf.py"]
    wanted = {
        path
        for script in (*scripts, *(root / "conversion").glob("*.py"))
        for path in local_imports(script, root)
    }
    assert root / "gguf-py" / "gguf" in wanted
    assert root / "conversion" in wanted
    assert len(wanted) > 10
    for path in wanted:
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), path
    assert any((root / "models" / "templates").glob("*.jinja"))
    assert (root / "requirements" / "requirements-convert_hf_to_gguf.txt").is_file()


def test_a_rung_whose_tools_are_missing_gives_way_to_the_cached_build(
    built: tuple[Path, Manifest], tmp_path: Path
) -> None:
    """Real tools are looked for: no machine has both a Mac's Metal and NVIDIA's compiler."""
    own = host_recipe().backend
    lacking = next(b for b in ("metal", "cuda", "rocm") if b != own and missing_for(b))
    reporter = Follower(tmp_path / "build.log")
    result = build_best(
        (lacking, own),
        lambda backend: recipe_for(backend, None),
        tmp_path / "runtimes",
        cache_folder(),
        reporter,
    )
    assert (result.backend, result.folder.name) == (own, host_recipe().runtime_id)
    missing = missing_for(lacking)
    assert missing is not None
    assert [(s.backend, s.error.message) for s in result.skipped] == [(lacking, missing.message)]
    assert "Compiling" not in [told[3] for told in reporter.told]
    assert missing.message in (tmp_path / "build.log").read_text()


def portable_recipe() -> Recipe:
    return dataclasses.replace(recipe_for("cpu", None, portable=True), targets=("llama-server",))


@pytest.mark.timeout(1800)
def test_a_second_build_with_other_flags_lies_beside_the_first(
    built: tuple[Path, Manifest], tmp_path: Path
) -> None:
    """Kept in the cache as ever, so that only a clean machine pays for it."""
    runtimes = tmp_path / "runtimes"
    store.copy_in_place(built[0], runtimes / host_recipe().runtime_id)
    recipe = portable_recipe()
    folder = obtain_runtime(recipe, runtimes, cache_folder(), Follower(tmp_path / "build.log"))
    assert folder == runtimes / "b11434-cpu-portable"
    manifest = store.verified(folder, cache_key(recipe))
    assert manifest is not None
    assert "-DGGML_NATIVE=OFF" in manifest.made_from
    assert store.verified(runtimes / host_recipe().runtime_id)
    variants = [path.name for path in folder.glob("*ggml-cpu*")]
    assert len(variants) > 1, "one library for each generation of processors"
    said = subprocess.run(
        [str(folder / SERVER), "--version"], capture_output=True, text=True, timeout=30, check=True
    )
    assert "build 11434" in said.stdout + said.stderr
