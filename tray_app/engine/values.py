"""The frozen values that cross the engine's edge, and their JSON form.

Units are in the names: `_bytes`, `_s` (seconds), `_at` (Unix time in seconds).
`None` always means "not known", never zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

from .app_update.values import AppUpdateStatus
from .downloads.values import Download
from .errors import ErrorView
from .measures import (
    ChildFigures,
    Histogram,
    Measures,
    ModelCounts,
    ModelDetails,
    ModelUsage,
    Running,
    Slot,
    Usage,
    UsageBucket,
)
from .runtime.values import (
    BACKENDS,
    Asset,
    Gpu,
    Hardware,
    Offload,
    Prebuilt,
    Proof,
    Rejected,
    Release,
    RolledBack,
    Rung,
    Runtime,
    RuntimeState,
    RuntimeStatus,
    Update,
)

__all__ = [
    "BACKENDS",
    "Asset",
    "ChildFigures",
    "Download",
    "Folder",
    "FolderState",
    "GatewayState",
    "GatewayStatus",
    "Gpu",
    "Hardware",
    "Histogram",
    "Job",
    "JobState",
    "LeftOut",
    "Measures",
    "Memory",
    "Model",
    "ModelCounts",
    "ModelDetails",
    "ModelKind",
    "ModelState",
    "ModelStatus",
    "ModelUsage",
    "Notice",
    "Offload",
    "Prebuilt",
    "Proof",
    "Rejected",
    "Release",
    "RequestRecord",
    "RolledBack",
    "Rung",
    "Running",
    "Runtime",
    "RuntimeState",
    "RuntimeStatus",
    "ServerState",
    "Slot",
    "Snapshot",
    "Update",
    "Usage",
    "UsageBucket",
    "to_json",
]


class ModelState(StrEnum):
    """Where one model is between the disk and an answer."""

    UNLOADED = "unloaded"
    WAITING = "waiting"  # wanted, but memory is held by models that are still answering
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    BACKOFF = "backoff"  # it died; the next try starts after a pause
    FAILED = "failed"


class ServerState(StrEnum):
    """The one word the tray icon shows."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    ERROR = "error"


class GatewayState(StrEnum):
    """Whether the front door is open."""

    STOPPED = "stopped"
    LISTENING = "listening"
    BLOCKED = "blocked"  # another process holds the port


class JobState(StrEnum):
    """The life of a long task."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  # the engine process ended while it ran

    @property
    def in_progress(self) -> bool:
        """Whether it may still change."""
        return self in (JobState.QUEUED, JobState.RUNNING)


class FolderState(StrEnum):
    """Whether a library folder can be read right now."""

    OK = "ok"
    MISSING = "missing"
    UNREADABLE = "unreadable"


class ModelKind(StrEnum):
    """What a model is for; decides which endpoints make sense."""

    CHAT = "chat"
    COMPLETION = "completion"  # generates text but carries no chat template
    EMBEDDING = "embedding"
    UNKNOWN = "unknown"  # the whole header has not been read yet


@dataclass(frozen=True, slots=True)
class Model:
    """One model in the library: a GGUF file, or all shards of one."""

    id: str
    name: str
    publisher: str | None
    path: Path  # the file to load; the first shard of a sharded model
    folder: Path  # the library folder it was found in
    size_bytes: int  # all shards together
    shard_count: int
    modified_at: float
    architecture: str | None = None
    parameter_count: int | None = None
    size_label: str | None = None  # general.size_label, e.g. "135M"
    quantization: str | None = None
    context_length: int | None = None  # tokens the model was trained for
    kv_bytes_per_token: int | None = None  # KV cache at F16, all layers
    has_chat_template: bool | None = None
    kind: ModelKind = ModelKind.UNKNOWN
    mmproj_path: Path | None = None
    available: bool = True  # False while its drive is missing
    details_known: bool = False  # the whole header was read and checked
    license: str | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file a scan saw and did not list, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Folder:
    """One library folder."""

    path: Path
    state: FolderState
    model_count: int
    is_home: bool  # the folder downloads go to


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What one model is doing now. A model never touched has the default status."""

    model_id: str
    state: ModelState = ModelState.UNLOADED
    in_flight: int = 0  # requests being answered
    waiting: int = 0  # requests that wait for it to be ready
    pid: int | None = None
    loaded_at: float | None = None
    last_used_at: float | None = None
    load_s: float | None = None  # how long the last load took
    memory_bytes: int | None = None  # estimate of weights + KV cache + compute
    context_length: int | None = None  # tokens it really runs with
    runtime_id: str | None = None  # the llama.cpp it runs on
    offload: Offload | None = None  # None: not told, as builds without a GPU do
    retry_at: float | None = None  # in BACKOFF
    error: ErrorView | None = None  # why it failed, or last died


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """The public front door."""

    state: GatewayState = GatewayState.STOPPED
    host: str = "127.0.0.1"
    port: int = 7070
    base_url: str = "http://127.0.0.1:7070/v1"
    requests_total: int = 0
    error: ErrorView | None = None
    key_required: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A long task. `done`/`total` are in `unit`; a total of None is not known yet."""

    id: str
    kind: str  # "build_runtime", ...
    title: str
    state: JobState
    step: str = ""
    done: int = 0
    total: int | None = None
    unit: str = ""  # "bytes", "steps"
    rate_per_s: float | None = None
    eta_s: float | None = None
    created_at: float = 0.0
    finished_at: float | None = None
    log_name: str | None = None  # for read_log
    error: ErrorView | None = None
    steps: tuple[str, ...] = ()  # what it goes through, in words, where it is known beforehand
    step_number: int = 0  # of `steps`, the one that runs; all of them when it is done


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory, for residency."""

    total_bytes: int
    available_bytes: int
    budget_bytes: int  # what resident models may hold together
    models_bytes: int  # what they are estimated to hold


@dataclass(frozen=True, slots=True)
class Notice:
    """A standing line for tray and window, gone when its cause is."""

    code: str
    level: str  # "info", "warning", "error"
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One answered request as the gateway saw it."""

    model_id: str
    path: str
    status: int
    started_at: float
    wait_s: float  # until the model was ready
    first_token_s: float | None
    duration_s: float
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    tokens_per_s: float | None = None
    prompt_tokens_per_s: float | None = None  # of the prompt tokens that were not cached
    cached_tokens: int | None = None  # prompt tokens that an earlier request had left


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a face needs, at one moment. `seq` is that of the last event it includes."""

    seq: int
    version: str
    pid: int
    started_at: float
    home: Path
    mode: str  # "tray" or "serve"
    server_state: ServerState
    status_text: str  # one plain sentence for the tray's status line
    active_model_id: str | None
    recent_model_ids: tuple[str, ...]
    gateway: GatewayStatus
    runtime: RuntimeStatus
    models: tuple[Model, ...]
    statuses: tuple[ModelStatus, ...]  # only of models that are not plainly unloaded
    folders: tuple[Folder, ...]
    left_out: tuple[LeftOut, ...]
    scanning: bool
    jobs: tuple[Job, ...]
    downloads: tuple[Download, ...]  # unfinished in their order, then the newest finished
    memory: Memory
    notices: tuple[Notice, ...]
    settings: Mapping[str, Any]
    last_request: RequestRecord | None = None
    app_update: AppUpdateStatus = field(default_factory=AppUpdateStatus)


def to_json(value: Any) -> Any:
    """`value` as plain JSON types: dataclasses become objects, enums their value, paths text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return value
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(v) for v in value]
    raise TypeError(f"{type(value).__name__} has no JSON form here")
