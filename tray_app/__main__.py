"""`python -m tray_app` and the command `llama-wrangler`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; returns the exit status."""
    from .cli import run  # the imports a verb needs are made by that verb

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
