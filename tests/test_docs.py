"""What the documents say is there: links, commands, targets, and what is generated for them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from scripts.reference.__main__ import main as reference
from scripts.reference.verbs import program
from tests import documents
from tests.documents import ROOT
from tray_app.cli import build_parser
from tray_app.engine.settings import ModelSettings, parse_table
from tray_app.links import PAGES

OURS = "llama-wrangler"
# What else a page for users may tell them to type.
OTHERS = {"make", "curl", "sudo"}
COMMANDS = [(name, words) for name in documents.FOR_USERS for words in documents.commands(name)]
MENTIONED = [
    (str(page.relative_to(ROOT)), words)
    for page in documents.pages()
    for words in documents.mentioned(str(page.relative_to(ROOT)))
]


VERBS = {verb.words for verb in program().all()}  # a sentence may name a verb alone


def parses(words: list[str]) -> bool:
    """Whether the real parser takes them; `--version` and `--help` end it with 0."""
    try:
        build_parser().parse_args(words)
    except SystemExit as end:
        return end.code == 0
    return True


def named(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


@pytest.mark.parametrize("page", documents.pages(), ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert documents.broken_links(page) == []


def test_a_link_into_nothing_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](#here) [b](#gone) [c](other.md) [d](https://x.example/y)\n"
        "```\n[e](in-code.md)\n```\n"
    )
    assert documents.broken_links(page) == ["#gone", "other.md"]


def test_anchors_are_as_github_makes_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# It's `list --json`, twice\n## It's `list --json`, twice\n### `[a.\"B\"]`\n")
    assert documents.anchors(page) == {
        "its-list---json-twice",
        "its-list---json-twice-1",
        "ab",
    }


@pytest.mark.parametrize(("name", "words"), COMMANDS + MENTIONED, ids=named)
def test_every_command_is_one_that_we_know(name: str, words: list[str]) -> None:
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[0] == OURS:
        assert tuple(words[1:]) in VERBS or parses(words[1:]), f"{name}: it takes no such words"
    else:
        assert words[0] in OTHERS


def test_the_guide_has_a_section_for_each_page() -> None:
    assert set(PAGES) <= documents.anchors(ROOT / "docs" / "guide.md")


def test_what_is_generated_is_up_to_date() -> None:
    assert reference(["--check"]) == 0


def test_the_example_of_a_users_own_settings_is_right() -> None:
    (example,) = documents.blocks("docs/settings.md", "toml")
    for model_id, table in tomllib.loads(example).items():
        assert parse_table(ModelSettings, table, model_id) != ModelSettings()


def bash_offers(*words: str) -> set[str]:
    """What bash offers for the last of these words."""
    script = (
        f"source {ROOT}/packaging/completions/llama-wrangler.bash\n"
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
        '_llama_wrangler; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", script, "bash", OURS, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (("st",), {"status", "stop"}),
        (("--home", "/tmp", "sha"), {"share"}),
        (("use", "--n"), {"--now", "--no-wait"}),
        (("runtime", "ro"), {"rollback"}),
        (("runtime", "install", "--backend", "c"), {"cuda", "cpu"}),
        (("runtime", "install", "--backend", "=", "me"), {"metal"}),
        (("share", ""), {"on", "off"}),
        (("downloads", "pause", ""), set()),
        (("import", "--how", "l"), {"link"}),
        (("inspect", "READ"), {"README.md"}),
    ],
)
def test_bash_completes(words: tuple[str, ...], offers: set[str]) -> None:
    if os.name == "nt":
        pytest.skip("bash is not Windows' shell")
    assert bash_offers(*words) == offers


def test_the_man_page_is_free_of_faults() -> None:
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    page = ROOT / "packaging" / "linux" / "llama-wrangler.1"
    done = subprocess.run(
        ["groff", "-man", "-t", "-ww", "-Tutf8", str(page)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert "runtime install" in re.sub(".\b", "", done.stdout)  # bold is a letter struck twice
