"""`python -m tray_app` and the command `llama-wrangler`."""

from __future__ import annotations

import importlib
import sys

from . import __version__
from .app_versions import go_on
from .self_command import PARTS


def main() -> int:
    """Run the command line, or the part of a frozen build that is named; returns the status."""
    if sys.argv[1:2] and sys.argv[1] in PARTS:
        part = importlib.import_module(PARTS[sys.argv[1]])
        return int(part.main(sys.argv[2:]))
    go_on(__version__, sys.argv[1:])
    from .cli import run  # the imports a verb needs are made by that verb

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
