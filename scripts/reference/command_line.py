"""The part of docs/cli.md that lists every verb with its options."""

from __future__ import annotations

from .verbs import PROGRAM, Argument, Verb, program


def text() -> str:
    """Markdown."""
    return "\n".join(line for verb in program().all() for line in _verb(verb))


def _verb(verb: Verb) -> list[str]:
    name = " ".join((PROGRAM, *verb.words))
    rows = [_row(each) for each in verb.told]
    lines = [f"### `{name}`", "", f"{_sentence(verb.about)}", "", "```text", verb.usage, "```", ""]
    if rows:
        lines += ["| argument | |", "|---|---|", *rows, ""]
    if verb.verbs:
        inner = ", ".join(f"`{each.words[-1]}`" for each in verb.verbs)
        lines += [f"VERB is {inner}.", ""]
    return lines


def _row(argument: Argument) -> str:
    about = argument.about
    if argument.default and argument.default not in about:
        about = f"{about} ({argument.default})" if about else f"default: {argument.default}"
    return f"| `{argument.name.replace('|', chr(92) + '|')}` | {about} |"


def _sentence(about: str) -> str:
    return f"{about[:1].upper()}{about[1:]}".rstrip(".") + "."
