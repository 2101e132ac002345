"""The commands about runtimes; part of the engine's one table (`engine.commands`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tray_app.engine.diagnostics import Check
from tray_app.engine.errors import BadRequest
from tray_app.engine.values import Job

from .doctor import runtime_checks
from .offers import Available
from .values import BACKENDS, Hardware, RuntimeStatus, Update

if TYPE_CHECKING:
    from tray_app.engine.core import Engine


class RuntimeCommands:
    """Public methods are commands. Those that ask the feed may take 15 s."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find_runtime(self) -> RuntimeStatus:
        """Search for llama.cpp again."""
        return self._engine.runtime.find()

    def available_runtimes(self, refresh: bool = False) -> Available:
        """Releases and builds for this machine; `refresh` asks the feed now."""
        return self._engine.runtime.offers.available(refresh)

    def install_runtime(
        self, backend: str | None = None, build: int | None = None, activate: bool = True
    ) -> dict[str, str]:
        """Start installing llama.cpp: prebuilt where it fits, else from source."""
        _known(backend, build)
        return _started(self._engine.runtime.acquisition.install(backend, build, activate))

    def build_runtime(
        self,
        backend: str | None = None,
        build: int | None = None,
        portable: bool = False,
        activate: bool = True,
    ) -> dict[str, str]:
        """Start building llama.cpp from source, or join the build that runs."""
        _known(backend, build)
        acquisition = self._engine.runtime.acquisition
        return _started(acquisition.build(backend, build, portable, activate))

    def use_runtime(self, name: str) -> dict[str, str]:
        """Start trying a runtime by id, or a llama-server by path, and use it if it is good."""
        return _started(self._engine.runtime.use(name))

    def roll_back_runtime(self) -> dict[str, str]:
        """Start going back to the runtime before."""
        return _started(self._engine.runtime.roll_back())

    def remove_runtime(self, runtime_id: str) -> dict[str, int]:
        """Take a runtime away that is not in use."""
        return {"freed_bytes": self._engine.runtime.remove(runtime_id)}

    def check_updates(self) -> Update | None:
        """Ask the feed now for a newer release than the active runtime."""
        return self._engine.runtime.offers.check()

    def skip_update(self, build: int) -> bool:
        """Say no more of updates up to this build."""
        self._engine.runtime.offers.skip(build)
        return True

    def read_hardware(self) -> Hardware | None:
        """Read the hardware anew."""
        return self._engine.runtime.read_hardware()

    def runtime_doctor(self) -> list[Check]:
        """What was looked at of runtimes and hardware, and what to do where it is wrong."""
        return runtime_checks(self._engine.runtime.status())


def _started(job: Job) -> dict[str, str]:
    return {"job_id": job.id}


def _known(backend: str | None, build: int | None) -> None:
    if backend is not None and backend not in BACKENDS:
        raise BadRequest(f"There is no backend “{backend}”.", f"Known: {', '.join(BACKENDS)}.")
    if build is not None and not 0 < build < 1_000_000:
        raise BadRequest(f"{build} is no build number of llama.cpp.", "Give one like 11434.")
