"""The frozen values about machines and their llama.cpp builds; re-exported by `engine.values`.

Units are in the names, as there: `_bytes`, `_s`, `_at`. `None` always means "not known".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tray_app.engine.errors import ErrorView

# Every backend we know, most capable first; the ladder of a machine is in this order.
BACKENDS = ("cuda", "rocm", "vulkan", "sycl", "opencl", "metal", "cpu")
_NAMES = {
    "cuda": "CUDA",
    "rocm": "ROCm",
    "vulkan": "Vulkan",
    "sycl": "SYCL",
    "opencl": "OpenCL",
    "metal": "Metal",
    "cpu": "CPU",
}


def backend_name(backend: str) -> str:
    """A backend as people write it."""
    return _NAMES.get(backend, backend)


class RuntimeState(StrEnum):
    """Whether a llama.cpp build is there to use."""

    SEARCHING = "searching"
    MISSING = "missing"
    BUILDING = "building"  # or being installed: there is none to use yet
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics processor as the system's own tools describe it."""

    name: str
    vendor: str  # "nvidia", "amd", "intel", "apple", "qualcomm", "software" or "unknown"
    memory_bytes: int | None = None  # its own; for an integrated one what it may take
    integrated: bool | None = None  # shares main memory
    driver: str | None = None  # version
    compute_capability: str | None = None  # NVIDIA, "8.9"
    gfx_target: str | None = None  # AMD, "gfx1100"
    bus_id: str | None = None  # PCI, "0000:01:00.0"
    vulkan: bool | None = None  # a Vulkan driver shows it


@dataclass(frozen=True, slots=True)
class Hardware:
    """What this machine computes with. GPUs: discrete ones first, then by memory."""

    system: str  # "linux", "windows", "darwin"
    arch: str  # "x86_64", "arm64", or as the system says
    cpu_name: str | None = None
    cpu_cores: int | None = None  # physical
    cpu_threads: int | None = None
    cpu_features: tuple[str, ...] = ()  # those that llama.cpp has code for, e.g. "avx2"
    memory_bytes: int | None = None
    gpus: tuple[Gpu, ...] = ()
    cuda: str | None = None  # newest CUDA version that the driver runs, "12.8"
    rocm: str | None = None  # version of the installed ROCm
    vulkan: str | None = None  # version of the Vulkan loader
    level_zero: bool | None = None  # Intel's compute runtime, which SYCL needs
    opencl: bool | None = None
    kfd: bool | None = None  # this user may open /dev/kfd, which ROCm needs; None: it is not there
    problems: tuple[str, ...] = ()  # what could not be read, in plain words
    read_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Rung:
    """One backend for this machine, and why it would or would not do."""

    backend: str
    usable: bool
    reason: str  # one plain sentence
    gpus: tuple[str, ...] = ()  # names of those it would use


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of running a runtime before it is used."""

    ok: bool
    proved_at: float
    devices: tuple[str, ...] = ()  # as --list-devices tells them
    layers_on_gpu: int | None = None  # of the proof's own small model
    layers: int | None = None
    load_s: float | None = None
    error: ErrorView | None = None  # why it may not be used
    warnings: tuple[str, ...] = ()  # what works less well than it should
    missing_libraries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Runtime:
    """One build of llama.cpp."""

    id: str  # e.g. "b11434-cpu", "b11500-cuda-release"
    build: int | None
    backend: str  # one of BACKENDS
    server_path: Path
    origin: str  # "settings", "environment", "built", "downloaded", "path", "folder", "adopted"
    version_text: str
    devices: tuple[str, ...] = ()
    proof: Proof | None = None  # None: not tried yet
    size_bytes: int | None = None  # on the disk; of our own ones
    installed_at: float | None = None  # of our own ones
    made_from: str | None = None  # its provenance in one line

    @property
    def ours(self) -> bool:
        """Whether it lies in our folder, so that we may remove it."""
        return self.origin in ("built", "downloaded")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A llama-server that was found and is of no use, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A new runtime that failed on the user's model, and what took its place."""

    runtime_id: str
    model_id: str
    error: ErrorView
    back_to: str
    at: float


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of a release."""

    name: str
    size_bytes: int
    sha256: str | None  # as the feed tells it
    url: str


@dataclass(frozen=True, slots=True)
class Release:
    """One release of llama.cpp."""

    tag: str  # "b11434"
    build: int
    published_at: float | None
    notes: str  # Markdown, untrusted
    url: str  # its page
    assets: tuple[Asset, ...] = ()


@dataclass(frozen=True, slots=True)
class Prebuilt:
    """What of a release makes one runtime here: its archive, then companions (cudart)."""

    backend: str
    variant: str  # "12.8" of CUDA 12.8; "" where there is one only
    assets: tuple[Asset, ...]

    @property
    def size_bytes(self) -> int:
        """To download, all together."""
        return sum(asset.size_bytes for asset in self.assets)


@dataclass(frozen=True, slots=True)
class Update:
    """A newer release than the runtime in use."""

    build: int
    tag: str
    backend: str
    published_at: float | None
    notes: str
    url: str
    size_bytes: int | None = None
    told: bool = False  # whether tray and window speak of it by themselves


@dataclass(frozen=True, slots=True)
class Offload:
    """What a model's load said about the GPU. Layers count the output layer, as llama.cpp does."""

    requested: int | None  # None: as many as there is room for
    actual: int
    total: int

    @property
    def on_cpu(self) -> bool:
        """Whether nothing at all went to a GPU."""
        return self.actual == 0


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """The runtimes of this machine: which is active, what else is there, what is being done."""

    state: RuntimeState = RuntimeState.SEARCHING
    active: Runtime | None = None
    job_id: str | None = None  # the build or installation in progress
    error: ErrorView | None = None
    rejected: tuple[Rejected, ...] = ()
    installed: tuple[Runtime, ...] = ()  # the active one too; newest build first
    previous_id: str | None = None  # what was active before, and is still there
    on_trial: bool = False  # the active one has not answered with the user's model yet
    rolled_back: RolledBack | None = None
    hardware: Hardware | None = None
    ladder: tuple[Rung, ...] = ()
    stepped_down: tuple[str, ...] = ()  # backends that were tried in vain for the active one, why
    update: Update | None = None
