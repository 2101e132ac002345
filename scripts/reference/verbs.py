"""The command line as values, read from its argparse parser. What is hidden there is left out."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tray_app.cli import build_parser

PROGRAM = "llama-wrangler"
# Words of the usage lines that stand for a file or folder.
_PATHS = frozenset(("FILE", "FOLDER", "PATH", "ID_OR_PATH", "SOURCE"))


@dataclass(frozen=True)
class Argument:
    """One option, or one word by its place."""

    flags: tuple[str, ...]  # none: by its place
    word: str  # "MODEL"; "" for an option without a value
    choices: tuple[str, ...]
    about: str
    default: str  # as text; "" where there is none to tell
    optional: bool
    many: bool
    is_path: bool

    @property
    def usage(self) -> str:
        """As it stands in a usage line."""
        value = "|".join(self.choices) if self.choices else self.word
        if self.flags:
            return f"[{' '.join(filter(None, (self.flags[-1], value)))}]"
        shown = f"{value}…" if self.many else value
        return f"[{shown}]" if self.optional else shown

    @property
    def name(self) -> str:
        """As it stands in a list of arguments."""
        value = self.word if not self.choices else "|".join(self.choices)
        return ", ".join(" ".join(filter(None, (flag, value))) for flag in self.flags) or value


@dataclass(frozen=True)
class Verb:
    """A verb with what it takes; the program itself is the one without words."""

    words: tuple[str, ...]  # ("runtime", "install")
    about: str
    arguments: tuple[Argument, ...]
    verbs: tuple[Verb, ...] = ()

    @property
    def options(self) -> tuple[Argument, ...]:
        """Those that begin with a dash."""
        return tuple(each for each in self.arguments if each.flags)

    @property
    def places(self) -> tuple[Argument, ...]:
        """Those by their place."""
        return tuple(each for each in self.arguments if not each.flags)

    @property
    def told(self) -> tuple[Argument, ...]:
        """What has something to say: `--help` and `--json` are the same for all."""
        own = [each for each in (*self.places, *self.options) if each.about or each.default]
        return tuple(each for each in own if not {"--help", "--json"} & set(each.flags))

    @property
    def usage(self) -> str:
        """The whole usage line, without --help."""
        parts = [PROGRAM, *self.words]
        parts += [each.usage for each in self.options if "--help" not in each.flags]
        parts += [each.usage for each in self.places]
        return " ".join([*parts, *(["VERB"] if self.verbs else [])])

    def all(self) -> Iterator[Verb]:
        """This one and all below it."""
        yield self
        for verb in self.verbs:
            yield from verb.all()


def program() -> Verb:
    """The whole command line."""
    return _read(build_parser(), ())


def _read(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Verb:
    arguments: list[Argument] = []
    verbs: list[Verb] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            shown = [each.dest for each in action._choices_actions]
            verbs += [_read(action.choices[name], (*words, name)) for name in shown]
        elif action.help != argparse.SUPPRESS:
            arguments.append(_argument(action))
    return Verb(words, parser.description or "", tuple(arguments), tuple(verbs))


def _argument(action: argparse.Action) -> Argument:
    takes = action.nargs != 0
    word = str(action.metavar or action.dest.upper()) if takes else ""
    if action.metavar is None and not action.option_strings:
        word = action.dest.upper()
    choices = tuple(map(str, action.choices)) if action.choices else ()
    told = isinstance(action.default, str)
    known = told and takes and action.default not in ("", argparse.SUPPRESS)
    return Argument(
        flags=tuple(action.option_strings),
        word=word,
        choices=choices,
        about=(action.help or "").replace("show this help message and exit", "tell what it takes"),
        default=str(action.default) if known else "",
        optional=bool(action.option_strings) or action.nargs in ("?", "*"),
        many=action.nargs in ("*", "+"),
        is_path=action.type is Path or word in _PATHS or action.dest == "home",
    )
