"""Which version of a copy that updates itself is started, and how a new one is on trial.

The folder that the user unpacked stays as it is: its program is the *base*, which every entry of
the system names. Newer versions lie below it, in `versions/<version>`, and one small file says
which of them is used. It is replaced in one step, so a kill leaves the old word or the new one.

Engine and faces both read it; so this leaf imports neither, nor anything but the standard library.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from .self_command import VERSIONS, base_program, is_frozen, own_program

log = logging.getLogger(__name__)

POINTER = "current.json"
# Set for all that a running version starts: its children are of that version, whatever is chosen
# meanwhile.
RUNS = "LLAMA_WRANGLER_RUNS"
MAX_POINTER_BYTES = 8192
# A new version that was started this often without coming up is taken back by the next start,
# should the process that watches over its trial have been killed.
MAX_STARTS = 3
_VERSION = re.compile(r"\d{1,5}(\.\d{1,5}){1,3}", re.ASCII)
# Without a word the tray starts. All others ask an engine that one of these has brought up.
_BRINGS_UP = ("tray", "serve", "engine")


@dataclass(frozen=True, slots=True)
class Choice:
    """What the file says. Versions are empty where there is none."""

    current: str = ""
    previous: str = ""
    confirmed: bool = True  # `current` has come up at least once
    switched_at: float = 0.0  # Unix seconds
    starts: int = 0  # of `current` while it was not confirmed
    failed: str = ""  # the version that was taken back last
    reason: str = ""  # why it was, in a sentence

    def switched(self, version: str, previous: str, now: float) -> Choice:
        """`version` is to be used from now on, on trial."""
        return Choice(version, previous, confirmed=False, switched_at=now)

    def taken_back(self, reason: str) -> Choice:
        """The previous version is used again, because of `reason`."""
        return Choice(self.previous, failed=self.current, reason=reason)


@dataclass(frozen=True, slots=True)
class OwnCopy:
    """A copy of the app that the app itself may replace.

    `program` is the base program of a folder, or the AppImage (`is_image`).
    """

    program: Path
    is_image: bool = False

    @property
    def pointer(self) -> Path:
        """The file that keeps the `Choice`."""
        if self.is_image:
            return self.program.with_name(f".{self.program.name}.update.json")
        return self.program.parent / VERSIONS / POINTER

    @property
    def previous_image(self) -> Path:
        """Where the AppImage is kept that was there before."""
        return self.program.with_name(f".{self.program.name}.previous")

    def take_back(self, reason: str) -> Choice:
        """Use the previous version again, because of `reason`. Raises OSError."""
        choice = read_choice(self.pointer).taken_back(reason)
        if self.is_image and self.previous_image.is_file():
            os.replace(self.previous_image, self.program)
        write_choice(self.pointer, choice)
        return choice


def version_key(text: str) -> tuple[int, ...] | None:
    """A key to sort versions by; None for what is no version ("1.2" to "1.2.3.4")."""
    if not _VERSION.fullmatch(text):
        return None
    numbers = [int(part) for part in text.split(".")]
    return tuple(numbers + [0] * (4 - len(numbers)))


def is_newer(version: str, than: str) -> bool:
    """Whether a version comes after another; False where one of them is none."""
    first, second = version_key(version), version_key(than)
    return first is not None and second is not None and first > second


def read_choice(path: Path) -> Choice:
    """What the file says; the first version where it is missing, or no use. Raises nothing."""
    try:
        with path.open("rb") as file:
            row = json.loads(file.read(MAX_POINTER_BYTES))
        kinds = {name: type(value) for name, value in dataclasses.asdict(Choice()).items()}
        choice = Choice(**{k: v for k, v in row.items() if k in kinds})
        if any(type(getattr(choice, name)) is not kind for name, kind in kinds.items()):
            return Choice()
        names = (choice.current, choice.previous, choice.failed)
        sound = all(not name or version_key(name) for name in names)
        return choice if sound else Choice()
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return Choice()


def write_choice(path: Path, choice: Choice) -> None:
    """Replace the file, synced, so that a crash leaves the old or the new. Raises OSError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(choice), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def program_of(base: Path, version: str) -> Path | None:
    """The program of a version below the base's folder; None where it is not there."""
    program = base.parent / VERSIONS / version / base.name
    return program if version and program.is_file() else None


def next_program(
    base: Path, own: str, words: Sequence[str], clock: Callable[[], float] = time.time
) -> Path | None:
    """The program that goes on in the place of `base`, whose version is `own`; None: itself.

    Counts the starts of a version on trial, and takes it back when it never came up.
    """
    pointer = OwnCopy(base).pointer
    choice = read_choice(pointer)
    # Who unpacks a newer one over the base wants that.
    if not is_newer(choice.current, own):
        return None
    program = program_of(base, choice.current)
    reason = "Its files are gone." if program is None else ""
    if program is not None and not choice.confirmed and _brings_up(words):
        if choice.starts >= MAX_STARTS:
            reason = f"It was started {choice.starts} times and never came up."
        else:
            choice = dataclasses.replace(choice, starts=choice.starts + 1)
            _keep(pointer, choice)
    if not reason:
        return program
    choice = choice.taken_back(reason)
    _keep(pointer, choice)
    return program_of(base, choice.current) if is_newer(choice.current, own) else None


def go_on(own: str, words: Sequence[str]) -> None:
    """Become the version that is chosen, where this is the base of such a copy.

    Returns when this very program is to run. Called before anything else is loaded.
    """
    if not is_frozen():
        return
    program = own_program()
    if base_program(program) == program and not os.environ.get(RUNS):
        chosen = next_program(program, own, words)
        if chosen is not None:
            try:
                become([str(chosen), *words])
            except OSError as error:  # no program for this machine, say
                with contextlib.suppress(OSError):  # said anew by the next start
                    OwnCopy(program).take_back(f"It could not be run ({error.strerror}).")
    os.environ[RUNS] = own


def become(argv: Sequence[str]) -> NoReturn:
    """Go on as another program of ours, which chooses for itself. Raises OSError."""
    environment = environment_for_another(os.environ)
    if sys.platform == "win32":  # there exec starts a second process and ends the first
        sys.exit(subprocess.call(list(argv), env=environment))
    os.execve(argv[0], list(argv), environment)


def environment_for_another(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` for a start of this program that is not one of our own children."""
    # PyInstaller's start program would take the other's libraries from our folder.
    ours = (RUNS, "APPIMAGE", "APPDIR", "ARGV0", "OWD")
    kept = {name: value for name, value in environ.items() if name not in ours}
    return {**kept, "PYINSTALLER_RESET_ENVIRONMENT": "1"}


def _brings_up(words: Sequence[str]) -> bool:
    return not words or words[0] in _BRINGS_UP


def _keep(pointer: Path, choice: Choice) -> None:
    try:
        write_choice(pointer, choice)
    except OSError as error:  # a full disk: the start goes on, and this is said anew
        log.warning("the choice of a version could not be kept: %s", error)
