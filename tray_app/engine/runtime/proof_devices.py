"""Holds the devices that a runtime lists against the GPUs that this machine has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tray_app.engine.errors import RuntimeRejected
from tray_app.engine.values import Gpu

from .libraries import in_words, missing_libraries, where_from
from .probe import backend_of
from .values import backend_name

# Variables that hide devices from a backend, and so may be why it sees none. llama.cpp's
# docs/backend/ and the vendors' own documentation.
HIDING: dict[str, tuple[str, ...]] = {
    "cuda": ("CUDA_VISIBLE_DEVICES",),
    "rocm": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "vulkan": ("GGML_VK_VISIBLE_DEVICES",),
    "sycl": ("ONEAPI_DEVICE_SELECTOR", "ZE_AFFINITY_MASK"),
    "opencl": ("GGML_OPENCL_PLATFORM", "GGML_OPENCL_DEVICE"),
}
_SOFTWARE = re.compile(r"llvmpipe|lavapipe|softpipe|SwiftShader|Basic Render", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of it. With an error the runtime may not be used."""

    warnings: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # libraries, looked for when something is not seen
    error: RuntimeRejected | None = None


def compare_devices(
    server: Path,
    backend: str,
    devices: Sequence[str],
    gpus: Sequence[Gpu],
    environ: Mapping[str, str],
) -> Compared:
    """An error when `devices` has none of `backend`, a warning for `gpus` that it lacks.

    Devices are lines of --list-devices. Blocks only when something is missing (5 s at most).
    """
    listed = [device for device in devices if backend_of(device) == backend]
    name = backend_name(backend)
    soft = listed and all(_SOFTWARE.search(device) for device in listed)
    slow = (f"{name} has only a renderer in software here, which is slow.",) if soft else ()
    if len(listed) >= max(1, len(gpus)):
        return Compared(slow)
    missing = missing_libraries(server)
    hiding = [variable for variable in HIDING.get(backend, ()) if variable in environ]
    hidden = " and ".join(f"{variable}={environ[variable]}" for variable in hiding)
    if not listed:
        return Compared((), missing, _none_seen(name, gpus, missing, hidden))
    unseen = _unseen(gpus, listed)
    count = len(gpus) - len(listed)
    names = ", ".join(unseen)
    which = names if len(unseen) == count else f"{count} of {names}"
    hint = f" The environment has {hidden}." if hidden else ""
    fewer = f"It sees {len(listed)} of {len(gpus)} GPUs; not seen: {which}.{hint}"
    return Compared((*slow, fewer), missing)


def _none_seen(
    name: str, gpus: Sequence[Gpu], missing: Sequence[str], hidden: str
) -> RuntimeRejected:
    names = ", ".join(gpu.name for gpu in gpus)
    sees = f"The {name} build sees no GPU" + (f" ({names})" if names else "")
    if missing:
        return RuntimeRejected(f"{sees}: {in_words(missing)}.", where_from(missing))
    if hidden:
        return RuntimeRejected(
            f"{sees}, and the environment has {hidden}.",
            "Remove that from the environment and start Llama Wrangler again.",
        )
    return RuntimeRejected(
        f"{sees}.", f"Check the GPU's driver, or choose another backend than {name}."
    )


def _unseen(gpus: Sequence[Gpu], listed: Sequence[str]) -> list[str]:
    """The names of GPUs that no listed device stands for; all that may be meant if unclear.

    A driver may call a GPU otherwise than the system does, so a name decides only if it is found.
    """
    left, unseen = [_plain(device) for device in listed], []
    for gpu in gpus:
        match = next((device for device in left if _plain(gpu.name) in device), None)
        if match is None:
            unseen.append(gpu.name)
        else:
            left.remove(match)
    return unseen


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9]+", " ", name.lower()).split())
