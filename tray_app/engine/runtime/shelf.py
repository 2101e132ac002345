"""Every llama.cpp on this machine: named by the user, made by us, or found in the usual places."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tray_app.engine.errors import RuntimeMissing, RuntimeRejected
from tray_app.engine.state import StateDb

from . import store
from .probe import Probe, ProbeCache
from .store import SERVER, Manifest
from .values import Proof, Runtime

VARIABLE = "LLAMA_WRANGLER_LLAMA_SERVER"
_ADOPTED = "adopted_runtimes"

Prove = Callable[[Path, str, bool], Proof]  # server, backend, fresh
KnownProof = Callable[[Path, str], Proof | None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A llama-server that may do."""

    path: Path
    origin: str  # as in values.Runtime
    manifest: Manifest | None = None  # of our own ones
    demanded: bool = False  # the user named it: nothing else will do


class Shelf:
    """What there is, and what each one is. Thread-safe; holds no choice."""

    def __init__(
        self,
        folder: Path,
        db: StateDb,
        prove: Prove,
        known: KnownProof,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`folder` is the home's runtimes/. Touches no disk."""
        self._folder = folder
        self._db = db
        self._prove = prove
        self._known = known
        self._environ = os.environ if environ is None else environ
        self._probes = ProbeCache()

    # -- where

    def by_variable(self) -> Candidate | None:
        """The one that the environment demands."""
        named = self._environ.get(VARIABLE)
        return Candidate(Path(named).expanduser(), "environment", demanded=True) if named else None

    def ours(self) -> list[Candidate]:
        """Built or downloaded by us, the newest build first. Nothing is checked yet."""
        found = []
        for path in self._folder.glob("*/" + store.MANIFEST):
            manifest = store.read_manifest(path.parent)
            if manifest is not None and not path.parent.name.startswith("."):
                found.append(Candidate(path.parent / SERVER, manifest.origin, manifest))
        return sorted(
            found, key=lambda c: (c.manifest.build or 0) if c.manifest else 0, reverse=True
        )

    def adopted(self) -> list[Candidate]:
        """Builds the user has pointed at; they stay where they are."""
        try:
            paths = [str(path) for path in json.loads(self._db.recall(_ADOPTED) or "[]")]
        except (ValueError, TypeError):
            paths = []
        return [Candidate(Path(path), "adopted") for path in paths]

    def found(self) -> Iterator[Candidate]:
        """On PATH and in the usual folders of package managers; each program once."""
        seen: set[Path] = set()
        on_path = shutil.which(SERVER, path=self._environ.get("PATH"))
        places = [(Path(on_path), "path")] if on_path else []
        places += [(folder / SERVER, "folder") for folder in usual_folders(self._environ)]
        for path, origin in places:
            if path.is_file() and path.resolve() not in seen:
                seen.add(path.resolve())
                yield Candidate(path, origin)

    def locate(self, named: Path) -> Candidate:
        """The llama-server that `named` (a program, or a folder of a build) means.

        Raises RuntimeMissing.
        """
        named = named.expanduser().absolute()
        for path in (
            named,
            named / SERVER,
            named / "bin" / SERVER,
            named / "build" / "bin" / SERVER,
        ):
            if path.is_file():
                mine = [c for c in self.ours() if c.path == path]
                return mine[0] if mine else Candidate(path, "adopted")
        raise RuntimeMissing(
            f"There is no llama-server at {named}.",
            "Choose the program llama-server, or the folder of a build of llama.cpp.",
        )

    def adopt(self, path: Path) -> None:
        """Remember a build of the user's. Raises sqlite3.Error."""
        paths = [str(c.path) for c in self.adopted() if c.path != path]
        self._db.remember({_ADOPTED: json.dumps([*paths, str(path)])})

    def abandon(self, path: Path) -> None:
        """Forget a build of the user's; nothing of it is touched. Raises sqlite3.Error."""
        paths = [str(c.path) for c in self.adopted() if c.path != path]
        self._db.remember({_ADOPTED: json.dumps(paths)})

    # -- what

    def examine(self, candidate: Candidate, fresh: bool = False) -> Runtime:
        """Check and prove a candidate. Blocks: 0.1 s when its proof is known, else as the proof.

        Raises RuntimeMissing or RuntimeRejected with the reason it may not be used, OSError.
        """
        runtime = self.describe(candidate)
        if candidate.manifest is not None and store.verified(candidate.path.parent) is None:
            raise RuntimeRejected(
                f"Files of {runtime.id} have changed since it was put there.",
                "Remove it and install or build it again.",
            )
        proof = self._prove(candidate.path, runtime.backend, fresh)
        if not proof.ok:
            error = proof.error
            raise RuntimeRejected(
                error.message if error else f"{runtime.id} did not prove itself.",
                error.remedy if error else "",
            )
        return _with_proof(runtime, proof)

    def describe(self, candidate: Candidate) -> Runtime:
        """What a candidate says about itself, with its proof if there is one. Blocks (0.1 s).

        Raises RuntimeMissing when it cannot be used at all, OSError.
        """
        path, manifest = candidate.path, candidate.manifest
        if not path.is_file():
            raise RuntimeMissing(f"There is no llama-server at {path}.", "Choose another path.")
        probe = self._probes.probe(path)
        if probe.lacking:
            raise RuntimeMissing(
                f"{path} is too old (build {probe.build or 'unknown'}): it does not know"
                f" {', '.join(probe.lacking)}.",
                "Update it, or let a newer one be installed.",
            )
        backend = manifest.backend if manifest else probe.backend
        return Runtime(
            id=manifest.runtime_id if manifest else _identify(path, probe, backend),
            build=probe.build,
            backend=backend,
            server_path=path,
            origin=candidate.origin,
            version_text=probe.version_text,
            devices=probe.devices,
            proof=self._known(path, backend),
            size_bytes=manifest.size_bytes or None if manifest else None,
            installed_at=manifest.installed_at or None if manifest else None,
            made_from=manifest.made_from or None if manifest else None,
        )


def _with_proof(runtime: Runtime, proof: Proof) -> Runtime:
    return replace(runtime, proof=proof, devices=proof.devices or runtime.devices)


def tool_of(runtime: Runtime, name: str) -> Path | None:
    """Another program of the same build, e.g. "llama-fit-params"; None when it has none."""
    path = runtime.server_path.with_name(runtime.server_path.name.replace("llama-server", name))
    if path.is_file():
        return path
    # A link in a bin folder: its target's folder has the rest.
    real = runtime.server_path.resolve()
    path = real.with_name(real.name.replace("llama-server", name))
    return path if path.is_file() else None


def usual_folders(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where people and package managers put llama.cpp, beyond PATH."""
    home = Path(environ.get("HOME") or environ.get("USERPROFILE") or Path.home())
    build = home / "llama.cpp" / "build" / "bin"
    if sys.platform == "win32":
        winget = Path(environ.get("LOCALAPPDATA", home)) / "Microsoft" / "WinGet"
        packages = sorted((winget / "Packages").glob("ggml.llamacpp_*"))
        return (winget / "Links", *packages, home / "scoop" / "shims", build / "Release", build)
    else:  # noqa: RET505 - mypy takes what follows a platform test for unreachable
        system = ("/opt/homebrew/bin", "/usr/local/bin", "/home/linuxbrew/.linuxbrew/bin")
        return (*(Path(p) for p in system), Path("/usr/bin"), home / ".local" / "bin", build)


def _identify(path: Path, probe: Probe, backend: str) -> str:
    """The id of one that is not ours: it can be replaced in place, so its file is part of it."""
    status = path.stat()
    text = f"{path}\0{status.st_size}\0{status.st_mtime_ns}"
    return f"b{probe.build or 0}-{backend}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
