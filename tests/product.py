"""How tests start the product: from source, or a frozen build (LLAMA_WRANGLER_FROZEN names it)."""

from __future__ import annotations

import os
import sys


def command(*words: str) -> list[str]:
    """The command line of `llama-wrangler WORDS`."""
    frozen = os.environ.get("LLAMA_WRANGLER_FROZEN")
    return [frozen, *words] if frozen else [sys.executable, "-m", "tray_app", *words]
