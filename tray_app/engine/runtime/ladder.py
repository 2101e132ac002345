"""Which backends of llama.cpp this machine can use, in order, and why. Pure.

What each backend needs is llama.cpp's own rule, as of b11434; the sources stand at the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tray_app.engine.hardware.seen import version_key

from .values import BACKENDS, Gpu, Hardware, Rung

# ggml/src/ggml-cuda/CMakeLists.txt: 50 is the lowest architecture it builds for (CUDA 12); with
# CUDA 13 it is 75.
LEAST_CAPABILITY = (5, 0)
# GPU_TARGETS of .github/workflows/release.yml on Linux, and gfx906, which ggml-cuda/common.cuh
# has code for (VEGA20) and rocBLAS of ROCm 6 has kernels for.
ROCM_TARGETS = frozenset({
    "gfx906", "gfx908", "gfx90a", "gfx942", "gfx950",
    "gfx1010", "gfx1011", "gfx1012",
    "gfx1030", "gfx1031", "gfx1032", "gfx1033", "gfx1034", "gfx1035", "gfx1036",
    "gfx1100", "gfx1101", "gfx1102", "gfx1103", "gfx1150", "gfx1151", "gfx1152",
    "gfx1200", "gfx1201",
})  # fmt: skip
# The same of its Windows job: cards from RDNA 1 on.
ROCM_TARGETS_WINDOWS = frozenset(
    target for target in ROCM_TARGETS if target.startswith(("gfx10", "gfx11", "gfx12"))
) | {"gfx1153"}
LEAST_VULKAN = (1, 2)  # ggml_vk_instance_init refuses older loaders

Verdict = tuple[tuple[Gpu, ...], str]  # the GPUs it would use (none: not usable), the reason


def ladder(hardware: Hardware) -> tuple[Rung, ...]:
    """All backends of this system, most capable first, each with one plain sentence.

    macOS has Metal and the CPU; Linux and Windows all but Metal.
    """
    return tuple(_rung(hardware, backend) for backend in _backends(hardware))


def best(rungs: Sequence[Rung]) -> str:
    """The first backend that is usable; the CPU always is."""
    return next((rung.backend for rung in rungs if rung.usable), "cpu")


def promised(hardware: Hardware, backend: str) -> tuple[Gpu, ...]:
    """The GPUs that a runtime of this backend must list; it may list more.

    Empty for the CPU, for a backend that this machine cannot use and for an unknown one.
    """
    if backend not in _backends(hardware) or backend == "cpu":
        return ()
    return CHECKS[backend](hardware)[0]


def _backends(hardware: Hardware) -> tuple[str, ...]:
    if hardware.system == "darwin":
        return ("metal", "cpu")
    return tuple(backend for backend in BACKENDS if backend != "metal")


def _rung(hardware: Hardware, backend: str) -> Rung:
    if backend == "cpu":
        return Rung("cpu", True, "The CPU backend runs on every machine.")
    gpus, reason = CHECKS[backend](hardware)
    return Rung(backend, bool(gpus), reason, tuple(gpu.name for gpu in gpus))


def _cuda(hardware: Hardware) -> Verdict:
    nvidia = _of(hardware, "nvidia")
    if not nvidia:
        return (), "There is no NVIDIA GPU."
    driven = [gpu for gpu in nvidia if gpu.driver is not None]
    if not driven and hardware.cuda is not None:
        driven = list(nvidia)  # a Tegra whose tools tell CUDA's version but no driver's
    if not driven:
        return (), "The NVIDIA driver is not loaded: install or start it."
    able = tuple(gpu for gpu in driven if _capable(gpu))
    if not able:
        gpu = driven[0]
        needed = ".".join(str(part) for part in LEAST_CAPABILITY)
        return (), (
            f"{gpu.name} has compute capability {gpu.compute_capability}; "
            f"llama.cpp needs {needed} or newer."
        )
    runs = "runs" if len(able) == 1 else "run"
    upto = f"CUDA up to {hardware.cuda}" if hardware.cuda else "CUDA of an unknown version"
    driver = f" with driver {able[0].driver}" if able[0].driver else ""
    return able, f"{_names(able)}{driver} {runs} {upto}."


def _capable(gpu: Gpu) -> bool:
    """Old drivers do not tell the compute capability: the proof decides then."""
    capability = gpu.compute_capability
    return capability is None or version_key(capability) >= LEAST_CAPABILITY


def _rocm(hardware: Hardware) -> Verdict:
    amd = _of(hardware, "amd")
    if not amd:
        return (), "There is no AMD GPU."
    linux = hardware.system == "linux"
    if linux and hardware.kfd is None:
        return (), "The AMD compute driver is not there: /dev/kfd is missing."
    known = [gpu for gpu in amd if gpu.gfx_target is not None]
    if not known:
        return (), f"Which ROCm target {amd[0].name} is, is not known."
    targets = ROCM_TARGETS if linux else ROCM_TARGETS_WINDOWS
    able = _used([gpu for gpu in known if gpu.gfx_target in targets])
    if not able:
        return (), f"llama.cpp is not built with ROCm for {known[0].gfx_target}, {known[0].name}."
    if linux and not hardware.kfd:
        return (), (
            "This user may not open /dev/kfd: join the group render "
            "(sudo usermod -aG render,video $USER), then log in again."
        )
    if hardware.rocm is None:
        what = "ROCm" if linux else "AMD's HIP library, which comes with its display driver,"
        return (), f"{what} is not installed; {able[0].name} could use it."
    kinds = ", ".join(dict.fromkeys(gpu.gfx_target or "" for gpu in able))
    return able, f"{_names(able)} ({kinds}) with ROCm {hardware.rocm}."


def _vulkan(hardware: Hardware) -> Verdict:
    software = _of(hardware, "software")
    gpus = [gpu for gpu in hardware.gpus if gpu.vendor not in ("software", "apple")]
    if not gpus and software:
        return (), (
            f"The only Vulkan device is software ({software[0].name}): "
            "the CPU backend is faster than it."
        )
    if not gpus:
        return (), "There is no GPU."
    if hardware.vulkan is None:
        return (), f"There is no Vulkan loader: install it to use {gpus[0].name}."
    if "." in hardware.vulkan and version_key(hardware.vulkan) < LEAST_VULKAN:
        return (), f"The Vulkan loader is {hardware.vulkan}; llama.cpp needs 1.2 or newer."
    shown = _used([gpu for gpu in gpus if gpu.vulkan])
    if shown:
        return shown, f"{_names(shown)} with Vulkan {hardware.vulkan}."
    # Nobody could say which of them have a Vulkan driver: promise no more than the best one.
    unknown = [gpu for gpu in gpus if gpu.vulkan is None][:1]
    if unknown:
        return tuple(unknown), (
            f"{unknown[0].name} may have a Vulkan driver: the Vulkan loader "
            f"({hardware.vulkan}) is there, but vulkaninfo is not."
        )
    return (), f"No Vulkan driver shows {_names(gpus)}: install its Vulkan driver."


def _sycl(hardware: Hardware) -> Verdict:
    intel = _of(hardware, "intel")
    if not intel:
        return (), "There is no Intel GPU."
    if hardware.arch != "x86_64":
        return (), "SYCL is for x86-64 machines."
    if not hardware.level_zero:
        return (), f"Intel's Level Zero driver is not installed; {intel[0].name} needs it for SYCL."
    used = _used(intel)
    return used, f"{_names(used)} with Intel's Level Zero driver."


def _opencl(hardware: Hardware) -> Verdict:
    # ggml-opencl.cpp: "Unsupported GPU Family: only Adreno and Intel are supported."
    gpus = _of(hardware, "qualcomm") or _of(hardware, "intel")
    if not gpus:
        return (), "llama.cpp's OpenCL backend is for Qualcomm Adreno and Intel GPUs."
    if not hardware.opencl:
        return (), f"No OpenCL driver is installed for {gpus[0].name}."
    return gpus, f"{_names(gpus)} with OpenCL."


def _metal(hardware: Hardware) -> Verdict:
    apple = _of(hardware, "apple")
    if not apple or hardware.arch != "arm64":
        return (), "llama.cpp uses Metal on Apple Silicon only."
    return apple, f"{_names(apple)} runs Metal."


CHECKS: dict[str, Callable[[Hardware], Verdict]] = {
    "cuda": _cuda,
    "rocm": _rocm,
    "vulkan": _vulkan,
    "sycl": _sycl,
    "opencl": _opencl,
    "metal": _metal,
}


def _used(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Cards, or integrated GPUs where there is no card: so does llama.cpp (src/llama.cpp).

    Builds before that rule do not even list a processor's graphics beside a card.
    """
    return tuple(gpu for gpu in gpus if not gpu.integrated) or tuple(gpus)


def _of(hardware: Hardware, vendor: str) -> tuple[Gpu, ...]:
    return tuple(gpu for gpu in hardware.gpus if gpu.vendor == vendor)


def _names(gpus: Iterable[Gpu]) -> str:
    """ "A", "A and B", "2 x A and B"."""
    counts: dict[str, int] = {}
    for gpu in gpus:
        counts[gpu.name] = counts.get(gpu.name, 0) + 1
    words = [name if count == 1 else f"{count} x {name}" for name, count in counts.items()]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
