"""For `make run`: the llama.cpp that is there and proves itself, or a fresh build."""

from __future__ import annotations

import sys
from pathlib import Path

from tray_app.engine.home import Home, cache_folder
from tray_app.engine.state import StateDb

from . import build
from .build import Parts, restore
from .choice import Runtimes
from .machine import Machine
from .proof import Proofs
from .recipe import cache_key, host_recipe
from .shelf import Shelf
from .values import Proof, Runtime


def find(home: Home) -> Runtime | None:
    """The runtime that an engine of this home would take. Blocks (1 s). Raises OSError."""
    home.create()
    db = StateDb(home.state_db)
    try:
        proofs, machine = Proofs(db, home.run), Machine(db)
        machine.read()

        def prove(server: Path, backend: str, fresh: bool) -> Proof:
            return proofs.prove(server, backend, machine.hardware, machine.key, fresh=fresh)

        def known(server: Path, backend: str) -> Proof | None:
            return proofs.known(server, backend, machine.key)

        shelf = Shelf(home.runtimes, db, prove, known)
        rank, restored = machine.rank, lambda: restore_ours(home, Parts())
        return Runtimes(shelf, db, lambda _: None, rank=rank, restore=restored).find().active
    finally:
        db.close()


def restore_ours(home: Home, parts: Parts) -> bool:
    """Bring the build that this version would make back from the cache, if it is there."""
    recipe = host_recipe()
    key = cache_key(recipe)
    cached = cache_folder() / "runtimes" / key
    return restore(cached, home.runtimes / recipe.runtime_id, key, recipe, parts)


def main() -> int:
    """Print the path of its llama-server."""
    found = find(Home.default())
    if found is None:
        return build.main()
    sys.stdout.write(f"{found.server_path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
