"""From a model's id to what would run: model, settings, runtime and fit put together."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from . import launch, memory, pools
from .conversations import KV_BYTES_PER_TOKEN, Conversation, key_of
from .errors import ModelUnavailable, SettingsInvalid
from .launch import Endpoint, Placement
from .llama_server import ServerChild, free_endpoint
from .resident import Plan
from .runtime.known_arguments import KnownArguments
from .settings import ModelSettings
from .values import Model, ModelKind, Runtime

if TYPE_CHECKING:
    from .core import Engine

MIB = 1 << 20
PROMPT_CACHE_MIB = (256, 4096)  # llama-server's own bound is 8192, however small the machine


class Planner:
    """Plans are made in a thread, because the first of a model measures its fit (0.1 to 2 s)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known_arguments = KnownArguments()

    def plan(self, model_id: str) -> Plan:
        """How the model would be started now. Blocks.

        A measurement of speed that runs is ended first: fit and load find the memory it held. A
        model that was never fitted to its GPU wants that one empty first: a fit is remembered, and
        beside another model it would keep part of the layers on the processor for ever.

        Raises ModelNotFound, ModelUnavailable, SettingsInvalid, RuntimeMissing.
        """
        self._engine.bench.make_way()
        model, settings, runtime = self._parts(model_id)
        if runtime.backend != "cpu" and self._is_first_fit(model, settings, runtime):
            on_gpus = pools.gpu_budgets(runtime.devices, self._engine.runtime.machine.hardware)
            if on_gpus and self._others_in_memory(model_id):
                return Plan(
                    sum(on_gpus.values()),
                    0,
                    settings.pinned,
                    _not_measured,
                    runtime.id,
                    on_gpus=on_gpus,
                    measure=lambda: self._measured(model_id),
                )
        return self._measured(model_id)

    def _is_first_fit(self, model: Model, settings: ModelSettings, runtime: Runtime) -> bool:
        chosen = settings.gpu_layers is not None  # then there is nothing to measure
        return not chosen and self._engine.runtime.known_fit(model, settings, runtime) is None

    def _others_in_memory(self, model_id: str) -> bool:
        statuses = self._engine.residency.statuses().values()
        return any(s.pid is not None and s.model_id != model_id for s in statuses)

    def _measured(self, model_id: str) -> Plan:
        """The plan by a fit: one that is known, or made now. Raises as `plan`."""
        model, settings, runtime = self._parts(model_id)
        if not model.path.is_file():
            raise ModelUnavailable(
                f"The file of {model.id} is not there: {model.path}.",
                "Connect its drive, or scan the folders again.",
            )
        draft_path = self.draft_path(model, settings)
        beside_bytes = _sizes(model, launch.files_beside(settings, model, draft_path))
        placement = self._engine.runtime.place(model, settings, runtime)
        own = pools.gpu_budgets(runtime.devices, self._engine.runtime.machine.hardware)
        on_gpus = {name: size for name, size in placement.on_devices.items() if name in own}

        conversation = self._conversation(model, settings, runtime, placement, draft_path)

        def start() -> ServerChild:
            endpoint = free_endpoint(self._engine.home.socket_folder())
            argv = self._arguments(model, settings, runtime, placement, endpoint, draft_path)
            log_path = self._engine.home.logs / log_name(model.id)
            return ServerChild(argv, endpoint, log_path, self._engine.registry)

        return Plan(
            placement.memory_bytes + beside_bytes,
            placement.context_length,
            settings.pinned,
            start,
            runtime_id=runtime.id,
            gpu_layers=settings.gpu_layers,
            conversation=conversation,
            on_gpus=on_gpus,
        )

    def command(self, model_id: str) -> tuple[str, ...]:
        """The command line that runs the model, or that would run it. Raises as `plan`."""
        running = self._engine.residency.command(model_id)
        if running is not None:
            return running
        model, settings, runtime = self._parts(model_id)
        placement = self._engine.runtime.place(model, settings, runtime)
        endpoint = Endpoint(socket_path=self._engine.home.socket_folder() / "m0.sock")
        draft_path = self.draft_path(model, settings)
        return self._arguments(model, settings, runtime, placement, endpoint, draft_path)

    def check(self, model: Model, settings: ModelSettings) -> None:
        """Whether these settings can be carried out here and now. Blocks for 0.05 s.

        Raises SettingsInvalid, RuntimeMissing. While no runtime is known, nothing is refused.
        """
        self.draft_path(model, settings)
        if (
            settings.mmproj_path is not None
            and not Path(settings.mmproj_path).expanduser().is_file()
        ):
            raise SettingsInvalid(
                f"models.{model.id}.mmproj_path is {settings.mmproj_path!r}, which is no file.",
                "Choose a projector of this model's family, or clear the setting.",
            )
        if settings.runtime is not None or self._engine.runtime.ready:
            self._check_arguments(model, settings, self._engine.runtime.require(settings.runtime))

    def _parts(self, model_id: str) -> tuple[Model, ModelSettings, Runtime]:
        model = self._engine.library.get(model_id)
        settings = self._engine.store.for_model(model_id)
        runtime = self._engine.runtime.require(settings.runtime)
        self._check_arguments(model, settings, runtime)
        return model, settings, runtime

    def _check_arguments(self, model: Model, settings: ModelSettings, runtime: Runtime) -> None:
        words = [*settings.extra_args, *launch.answer_arguments(settings)]
        words += launch.computing_arguments(settings)
        self._known_arguments.check(runtime, words, f"models.{model.id}.extra_args")

    def draft_path(self, model: Model, settings: ModelSettings) -> Path | None:
        """The file of its draft model. Raises SettingsInvalid, ModelUnavailable."""
        wished = settings.draft_model
        if wished is None:
            return None
        key = f"models.{model.id}.draft_model"
        known = {each.id: each for each in self._engine.library.models()}
        path = known[wished].path if wished in known else Path(wished).expanduser()
        if path == model.path:
            raise SettingsInvalid(
                f"{key} is the model itself.", "Choose a smaller model of the same family."
            )
        if not path.is_file():
            raise SettingsInvalid(
                f"{key} is {wished!r}, which is neither a model of the library nor a file.",
                "Choose another draft model, or clear the setting.",
            )
        return path

    def _conversation(
        self,
        model: Model,
        settings: ModelSettings,
        runtime: Runtime,
        placement: Placement,
        draft_path: Path | None,
    ) -> Conversation | None:
        """What is kept of the model's conversations; None where nothing is to be."""
        if not settings.keep_conversations or model.kind is ModelKind.EMBEDDING:
            return None
        nowhere = Endpoint(port=0)
        argv = self._arguments(model, settings, runtime, placement, nowhere, draft_path)
        per_token = model.kv_bytes_per_token or KV_BYTES_PER_TOKEN
        key = key_of(model, runtime.id, argv[1:])
        return Conversation(self._engine.conversations, key, per_token)

    def _arguments(
        self,
        model: Model,
        settings: ModelSettings,
        runtime: Runtime,
        placement: Placement,
        endpoint: Endpoint,
        draft_path: Path | None,
    ) -> tuple[str, ...]:
        return launch.arguments(
            model,
            settings,
            runtime,
            placement,
            endpoint,
            self._engine.conversations.prepare(),
            _prompt_cache_mib(),
            draft_path,
        )


def _not_measured() -> ServerChild:
    raise RuntimeError("a plan that only makes room starts nothing")


def _sizes(model: Model, paths: list[Path]) -> int:
    """Bytes of the files that are loaded beside the model. Raises ModelUnavailable."""
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except OSError:
            raise ModelUnavailable(
                f"{model.id} is to be loaded with {path}, which is not there.",
                "Connect its drive, or take it out of the model's settings.",
            ) from None
    return total


def _prompt_cache_mib() -> int:
    """RAM that llama-server may keep old prompts in: a sixteenth of memory, within bounds."""
    low, high = PROMPT_CACHE_MIB
    return int(min(max(memory.total_and_available()[0] // 16 // MIB, low), high))


def log_name(model_id: str) -> str:
    """The name of a model's log: readable, unique, and safe as a file name on every system."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", model_id).strip("-.")[:60]
    return f"model-{plain}-{hashlib.sha256(model_id.encode()).hexdigest()[:6]}.log"
