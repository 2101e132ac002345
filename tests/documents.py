"""The Markdown pages as tests read them: their links and anchors, and the commands they show."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Pages whose commands are for users.
FOR_USERS = ("README.md", "docs/guide.md", "docs/troubleshooting.md")

_FENCE = re.compile(r"^[ ]*(```+)(\w*)[^\n]*\n(.*?)^[ ]*\1[ ]*$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def pages() -> list[Path]:
    """Every page of ours."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tests/**/README.md")]
    return sorted(found)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found = set()
    for words in _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", words).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def links(page: Path) -> list[str]:
    """What a page links to, but for examples in code."""
    prose = _INLINE.sub("", _FENCE.sub("", page.read_text(encoding="utf-8")))
    return _LINK.findall(prose)


def broken_links(page: Path) -> list[str]:
    """Relative links of a page that lead to no file or to no heading of it."""
    broken = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        lost = anchor and target.suffix == ".md" and target.exists()
        if not target.exists() or (lost and anchor not in anchors(target)):
            broken.append(link)
    return broken


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return [body for _, found, body in _FENCE.findall(text) if found == language]


def commands(name: str) -> list[list[str]]:
    """The commands of the `sh` blocks of a page, each as its words."""
    lines = "\n".join(blocks(name, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def mentioned(name: str) -> list[list[str]]:
    """The command lines of ours that stand in a page's sentences, as code."""
    prose = _FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    lines = [each.strip("`") for each in _INLINE.findall(prose)]
    ours = [line for line in lines if line.startswith("llama-wrangler ")]
    return [shlex.split(line) for line in ours if not re.search(r"[…|\[]|VERB", line)]
