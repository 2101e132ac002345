"""Which llama.cpp is used: looked for in the usual places, probed, chosen, or built."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tray_app.engine.errors import BadRequest, Cancelled, EngineError, ErrorView, RuntimeMissing
from tray_app.engine.events import Event, RuntimeChanged
from tray_app.engine.home import Home, cache_folder
from tray_app.engine.jobs import JobContext
from tray_app.engine.process import ChildRegistry
from tray_app.engine.values import Rejected, Runtime, RuntimeState, RuntimeStatus

from . import build, store
from .build import Parts, obtain_runtime, restore
from .probe import Probe, ProbeCache
from .recipe import Recipe, cache_key, host_recipe
from .store import SERVER

log = logging.getLogger(__name__)

VARIABLE = "LLAMA_WRANGLER_LLAMA_SERVER"

_RESTING = frozenset({RuntimeState.READY, RuntimeState.MISSING, RuntimeState.FAILED})
_STARTING = frozenset({RuntimeState.SEARCHING, RuntimeState.BUILDING})
ALLOWED: dict[RuntimeState, frozenset[RuntimeState]] = {
    RuntimeState.SEARCHING: _RESTING,
    RuntimeState.BUILDING: _RESTING,
    RuntimeState.MISSING: _STARTING,
    RuntimeState.FAILED: _STARTING,
    RuntimeState.READY: _STARTING,
}


@dataclass(frozen=True, slots=True)
class _Candidate:
    path: Path
    origin: str  # "settings", "environment", "built", "path", "folder"
    backend: str | None = None  # as the manifest says
    demanded: bool = False  # the user named it: nothing else will do


class Runtimes:
    """The one place that knows the active runtime. Thread-safe; searches take turns."""

    def __init__(
        self,
        folder: Path,
        cache: Path,
        publish: Callable[[Event], object],
        *,
        server_path: Callable[[], str | None] = lambda: None,
        environ: Mapping[str, str] | None = None,
        registry: ChildRegistry | None = None,
        recipe: Recipe | None = None,
        parts: Parts | None = None,
    ) -> None:
        """`folder` is the home's runtimes/, `server_path` the setting. Touches no disk."""
        self._folder = folder
        self._cache = cache
        self._publish = publish
        self._server_path = server_path
        self._environ = os.environ if environ is None else environ
        self._recipe = recipe or host_recipe()
        self._probes = ProbeCache()
        self._parts = parts or Parts(prove=self._probes.probe, registry=registry)
        self._turn = threading.Lock()  # held by the one search or build
        self._lock = threading.Lock()
        self._status = RuntimeStatus(RuntimeState.MISSING)

    def status(self) -> RuntimeStatus:
        """What is active and what is being done. Never blocks."""
        with self._lock:
            return self._status

    def require(self) -> Runtime:
        """The active runtime. Raises RuntimeMissing."""
        status = self.status()
        if status.active is not None:
            return status.active
        if status.error is not None:
            raise RuntimeMissing(status.error.message, status.error.remedy)
        words = {
            RuntimeState.SEARCHING: "llama.cpp is still being looked for.",
            RuntimeState.BUILDING: "llama.cpp is still being built.",
        }
        raise RuntimeMissing(
            words.get(status.state, "There is no llama.cpp on this machine yet."),
            "Wait for it." if status.state in words else "Build it, or choose a llama-server.",
        )

    def find(self) -> RuntimeStatus:
        """Search and activate the first good runtime. Blocks (0.1 s for each one probed).

        During a build nothing is searched: its end does that.
        """
        if not self._take_turn():
            return self.status()
        try:
            self._become(RuntimeState.SEARCHING, self.status().active)
            return self._search()
        finally:
            self._turn.release()

    def build_job(self, context: JobContext) -> None:
        """The work of a "build_runtime" job. An active runtime stays so until a new one is there.

        Raises as `build.obtain_runtime`.
        """
        with self._turn:
            self._become(RuntimeState.BUILDING, self.status().active, job_id=context.job_id)
            try:
                obtain_runtime(self._recipe, self._folder, self._cache, context, self._parts)
            except (EngineError, OSError) as exc:
                self._search(_view_of(exc))
                raise
            except Cancelled:
                self._search()
                raise
            except BaseException:
                self._search(ErrorView("internal", "The build broke off.", "See the job's log."))
                raise
            self._search()

    def use(self, server: Path) -> Runtime:
        """Activate this llama-server after probing it, until the next search. Blocks.

        Raises RuntimeMissing, and BadRequest during a build.
        """
        if not self._take_turn():
            raise BadRequest("llama.cpp is being built.", "Wait for it, or cancel the build.")
        try:
            runtime = self._examine(_Candidate(server, "settings"))
            self._become(RuntimeState.SEARCHING, self.status().active)
            self._become(RuntimeState.READY, runtime)
            return runtime
        finally:
            self._turn.release()

    def _take_turn(self) -> bool:
        """Wait for a search to end; False at once when a build holds the turn."""
        while not self._turn.acquire(timeout=0.05):
            if self.status().state is RuntimeState.BUILDING:
                return False
        return True

    def _search(self, failure: ErrorView | None = None) -> RuntimeStatus:
        """Look through all candidates; `failure` is told when none is good."""
        rejected: list[Rejected] = []
        for candidate in self._candidates():
            try:
                runtime = self._examine(candidate)
            except (EngineError, OSError) as exc:
                log.info("a llama-server was rejected: %s", exc)
                rejected.append(Rejected(candidate.path, str(exc)))
                if candidate.demanded:
                    return self._settle(None, _demanded_view(candidate, exc), rejected)
                continue
            return self._settle(runtime, None, rejected)
        error = failure
        if rejected and error is None:
            error = RuntimeMissing(
                f"No usable llama.cpp was found. {rejected[0].reason}",
                "Build one here, or choose a newer llama-server.",
            ).view()
        return self._settle(None, error, rejected)

    def _candidates(self) -> Iterator[_Candidate]:
        """In order of preference; the later ones are only looked for when needed."""
        if named := self._server_path():
            yield _Candidate(Path(named).expanduser(), "settings", demanded=True)
        if named := self._environ.get(VARIABLE):
            yield _Candidate(Path(named).expanduser(), "environment", demanded=True)
        yield from self._built()
        target = self._folder / self._recipe.runtime_id
        key = cache_key(self._recipe)
        cached = self._cache / "runtimes" / key
        if restore(cached, target, key, self._recipe, self._parts):
            yield _Candidate(target / SERVER, "built", self._recipe.backend)
        if on_path := shutil.which(SERVER, path=self._environ.get("PATH")):
            yield _Candidate(Path(on_path), "path")
        for folder in usual_folders(self._environ):
            if (folder / SERVER).is_file():
                yield _Candidate(folder / SERVER, "folder")

    def _built(self) -> Iterator[_Candidate]:
        """Ours, the newest build first. A folder whose files changed is not used."""
        found = []
        for path in self._folder.glob("*/manifest.json"):
            manifest = store.verified(path.parent)
            if manifest is not None:
                found.append((manifest.build or 0, path.parent, manifest.backend))
        for _, folder, backend in sorted(found, reverse=True):
            yield _Candidate(folder / SERVER, "built", backend)

    def _examine(self, candidate: _Candidate) -> Runtime:
        """Probe a candidate. Raises RuntimeMissing with the reason it is of no use, OSError."""
        path = candidate.path
        if not path.is_file():
            raise RuntimeMissing(f"There is no llama-server at {path}.", "Choose another path.")
        probe = self._parts.prove(path)
        if probe.lacking:
            raise RuntimeMissing(
                f"{path} is too old (build {probe.build or 'unknown'}): it does not know"
                f" {', '.join(probe.lacking)}.",
                "Update it, or let a new one be built.",
            )
        backend = candidate.backend or probe.backend
        return Runtime(
            id=_identify(path, probe, backend, ours=candidate.origin == "built"),
            build=probe.build,
            backend=backend,
            server_path=path,
            origin=candidate.origin,
            version_text=probe.version_text,
            devices=probe.devices,
        )

    def _settle(
        self, runtime: Runtime | None, error: ErrorView | None, rejected: list[Rejected]
    ) -> RuntimeStatus:
        """A search has ended."""
        state = RuntimeState.READY
        if runtime is None:
            state = RuntimeState.MISSING if error is None else RuntimeState.FAILED
        return self._become(state, runtime, error=error, rejected=tuple(rejected))

    def _become(
        self,
        state: RuntimeState,
        active: Runtime | None,
        *,
        job_id: str | None = None,
        error: ErrorView | None = None,
        rejected: tuple[Rejected, ...] = (),
    ) -> RuntimeStatus:
        """The only place where the status changes, and where that is told."""
        with self._lock:
            if state not in ALLOWED[self._status.state]:
                raise RuntimeError(f"a runtime cannot go from {self._status.state} to {state}")
            self._status = RuntimeStatus(state, active, job_id, error, rejected)
            self._publish(RuntimeChanged(self._status))
            return self._status


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


def _identify(path: Path, probe: Probe, backend: str, *, ours: bool) -> str:
    """The runtime's id. One that is not ours can be replaced in place: its file is part of it."""
    name = f"b{probe.build or 0}-{backend}"
    if ours:
        return name
    status = path.stat()
    text = f"{path}\0{status.st_size}\0{status.st_mtime_ns}"
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _view_of(exc: EngineError | OSError) -> ErrorView:
    if isinstance(exc, EngineError):
        return exc.view()
    return ErrorView("runtime_build_failed", f"The build failed: {exc}.", "Retry.")


def _demanded_view(candidate: _Candidate, exc: Exception) -> ErrorView:
    where = f"variable {VARIABLE}" if candidate.origin == "environment" else "settings"
    return RuntimeMissing(
        f"The llama-server named in the {where} cannot be used. {exc}",
        "Correct that path, or clear it to let one be found.",
    ).view()


def main() -> int:
    """For `make run`: the llama.cpp that is there, or a fresh build; prints its path."""
    home = Home.default()
    home.create()
    found = Runtimes(home.runtimes, cache_folder(), lambda _: None).find().active
    if found is None:
        return build.main()
    sys.stdout.write(f"{found.server_path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
