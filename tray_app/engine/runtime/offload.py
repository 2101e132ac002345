"""How many layers a load put on the GPU, and the likely cause when there are none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tray_app.engine.values import Hardware, Notice, Offload, Rung, Runtime

from .values import backend_name

# src/llama-model.cpp of b11434, at level "trace" (-lv 4); the output layer counts as one.
_OFFLOADED = re.compile(r"offloaded (\d{1,5})/(\d{1,5}) layers to GPU")
# A build without a GPU, or that sees none, leaves that line out, but not these.
_LAYERS = re.compile(r"print_info: n_layer\s*= (\d{1,5})\b")
_LOADED = re.compile(r"model buffer size =")


def read_offload(lines: Iterable[str]) -> tuple[int, int] | None:
    """(layers on the GPU, layers) of the model that a llama-server's log tells of.

    None when the log does not say, as without `-lv 4`. Where it tells of several models (a draft
    model beside the main one) the one with the most layers counts, and the last load of it.
    """
    best: tuple[int, int] | None = None
    layers: int | None = None
    loaded = False
    for line in lines:
        if match := _OFFLOADED.search(line):
            found = int(match[1]), int(match[2])
            if best is None or found[1] >= best[1]:
                best = found
        elif match := _LAYERS.search(line):
            layers = max(layers or 0, int(match[1]) + 1)
        elif _LOADED.search(line):
            loaded = True
    if best is None and loaded and layers is not None:
        return 0, layers
    return best


def likely_cause(
    offload: Offload | None, runtime: Runtime, hardware: Hardware | None, rungs: Sequence[Rung]
) -> Notice | None:
    """What tray and window say when a model computes on the processor and need not.

    "gpu_unused" (info) when the runtime is a CPU build and a better rung is usable;
    "cpu_fallback" (warning) when a GPU build put nothing on the GPU. None when all is as it
    should be, when the user asked for no layers on the GPU, and when nothing is known.
    """
    if offload is not None and offload.requested == 0:
        return None
    if runtime.backend == "cpu":
        return _gpu_unused(rungs)
    if offload is None or not offload.on_cpu:
        return None
    name = backend_name(runtime.backend)
    message = (
        f"The model runs on the processor: none of its {offload.total} layers went to the GPU."
    )
    rung = next((rung for rung in rungs if rung.backend == runtime.backend), None)
    if hardware is not None and not _has_gpu(hardware):
        cause = f" The {name} runtime is in use, but this machine shows no GPU now."
        remedy = "Check that the GPU is there and its driver runs, then look again for hardware."
    elif rung is not None and not rung.usable:
        cause = f" {rung.reason}"
        remedy = f"Repair what {name} needs, then look again, or use another runtime."
    elif runtime.proof is not None and not runtime.proof.devices and not runtime.devices:
        cause = f" The {name} runtime sees no GPU."
        remedy = "Its driver may have changed: look again for hardware, or restart the machine."
    else:
        gpus = _names(rung, hardware)
        cause = f" Most likely the memory of the GPU{gpus} is too small or taken."
        remedy = (
            "Choose a smaller quantization or context length, or end what else uses the GPU."
            if offload.requested is None
            else f"{offload.requested} layers were asked for: set fewer, or leave it to the fit."
        )
    return Notice("cpu_fallback", "warning", message + cause, remedy)


def _gpu_unused(rungs: Sequence[Rung]) -> Notice | None:
    better = next((rung for rung in rungs if rung.usable and rung.backend != "cpu"), None)
    if better is None:
        return None
    name = backend_name(better.backend)
    gpus = " and ".join(better.gpus) or "a GPU"
    return Notice(
        "gpu_unused",
        "info",
        f"The runtime computes on the processor only, although {name} would use {gpus}.",
        f"Install the {name} runtime on the Runtimes page.",
    )


def _has_gpu(hardware: Hardware) -> bool:
    return any(gpu.vendor != "software" for gpu in hardware.gpus)


def _names(rung: Rung | None, hardware: Hardware | None) -> str:
    names = rung.gpus if rung is not None else ()
    if not names and hardware is not None:
        names = tuple(gpu.name for gpu in hardware.gpus)
    return f" ({', '.join(names)})" if names else ""
