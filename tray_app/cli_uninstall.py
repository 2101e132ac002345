"""`uninstall`: what the app has put on this computer goes, models stay. See docs/cli.md."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from . import cli_text as text
from .cli_job import CANCELLED, WRONG
from .client import home_path


def add_verbs(verbs: Any) -> None:
    """Add the verb to what `ArgumentParser.add_subparsers` returned."""
    about = "remove what this app keeps on this computer for you; models stay"
    sub: argparse.ArgumentParser = verbs.add_parser("uninstall", help=about, description=about)
    sub.set_defaults(verb=_uninstall)
    sub.add_argument("--models", action="store_true", help="remove the models in its home too")
    sub.add_argument("--yes", action="store_true", help="do not ask")


def _uninstall(options: argparse.Namespace) -> int:
    from .removal import default_cache, models_of, take_back

    home = home_path()
    count, size_bytes = models_of(home)
    what = "Settings, llama.cpp builds, logs and caches are removed"
    if options.models and count:
        what += f", and {count} model files ({size_bytes / 1e9:.1f} GB)"
    elif count:
        what += f"; {count} model files ({size_bytes / 1e9:.1f} GB) stay in {home / 'models'}"
    if not options.yes:
        if not sys.stdin or not sys.stdin.isatty():
            text.say_error(f"{what}.", "Confirm it with --yes.")
            return WRONG
        text.write(f"{what}. Go on? [y/N] ")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return CANCELLED
    for line in take_back(home, default_cache(), options.models):
        text.say(f"removed: {line}")
    return 0
