"""Every command that README, guide and troubleshooting show, run on a real engine and model."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import documents
from tests.engine.test_engine_real import FIRST, Product, product
from tests.unit.engine_kit import wait_until

__all__ = ["product"]

# Parsed by tests/test_docs.py and not run, each with the reason.
ONLY_PARSED = {
    ("pull",): "it asks a hub on the internet",
    ("search",): "it asks a hub on the internet",
    ("show",): "it asks a hub on the internet",
    ("convert", "org/repo"): "it asks a hub on the internet",
    ("runtime", "install"): "it asks for releases on the internet",
    ("serve",): "it runs until it is stopped; the engine of this test is one",
    ("uninstall",): "it asks on a terminal, and would take the home of this test away",
}
# Exit status 1 says that a check failed, which depends on the machine.
CHECKS = (["doctor"], ["runtime", "doctor"])


def only_parsed(words: list[str]) -> bool:
    return any(tuple(words[: len(each)]) == each for each in ONLY_PARSED)


def shown() -> list[list[str]]:
    """All of them in their order, each once."""
    found: list[list[str]] = []
    for name in documents.FOR_USERS:
        found += [words for words in documents.commands(name) if words not in found]
    return found


@pytest.mark.timeout(600)
def test_every_command_of_the_documents_runs(
    product: Product, smollm2_q2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    file = tmp_path / "Mine-Q2_K.gguf"
    shutil.copyfile(smollm2_q2, file)
    client = product.start()
    nowhere = "http://127.0.0.1:9/releases"  # nothing is asked on the internet
    client.call(
        "change_settings", changes={"runtime.feed_url": nowhere, "server.start_with": FIRST}
    )
    wait_until(lambda: len(client.snapshot()["models"]) == 2)
    ran = 0
    for program, *words in shown():
        words = [{"MODEL": FIRST, "FILE": str(file)}.get(word, word) for word in words]
        if program == "llama-wrangler" and not only_parsed(words):
            done = product.run(*words)
            assert done.returncode in ((0, 1) if words in CHECKS else (0,)), (
                f"{words}: {done.stdout}{done.stderr}"
            )
            ran += 1
        elif program == "curl":
            here = [word.replace(":7070", f":{product.port}") for word in words]
            done = subprocess.run(
                ["curl", "-sSf", *here], capture_output=True, text=True, timeout=60, check=False
            )
            assert (done.returncode, '"content"' in done.stdout) == (0, True), done.stderr
            ran += 1
    assert ran > 25


def test_the_example_of_the_control_api_switches_the_model(product: Product) -> None:
    client = product.start()
    wait_until(lambda: len(client.snapshot()["models"]) == 2)
    (example,) = documents.blocks("docs/control-api.md", "sh")
    done = subprocess.run(
        ["bash", "-euc", example], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == ""
    assert done.stdout == f'{{"ok":true,"value":{{"model_id":"{FIRST}"}}}}'
    wait_until(lambda: client.snapshot()["active_model_id"] == FIRST)


def test_nothing_is_excused_that_no_page_shows() -> None:
    words = [words[1:] for words in shown()]
    unused = [each for each in ONLY_PARSED if not any(tuple(w[: len(each)]) == each for w in words)]
    assert unused == []
