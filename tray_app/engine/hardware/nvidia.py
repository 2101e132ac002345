"""NVIDIA GPUs: nvidia-smi on all systems; without it what the Linux driver itself tells.

Formats: nvidia-smi's --query-gpu documentation; Jetson and DGX Spark print "[N/A]" where memory
is unified; /proc/driver/nvidia as of driver 384 and of the open kernel module.
"""

from __future__ import annotations

import re

from tray_app.engine.values import Gpu

from .seen import MIB, Found, Seen, clean, memory, pci_address, version, version_key
from .system import System

TIMEOUT_S = 10.0  # a sleeping laptop GPU takes seconds to wake
FIELDS: tuple[str, ...] = (
    "index",
    "uuid",
    "name",
    "compute_cap",
    "driver_version",
    "memory.total",
    "pci.bus_id",
)
UUID = re.compile(r"(?:GPU-)?[0-9a-fA-F-]{8,40}|\[[A-Za-z/ ]{1,30}\]|N/A")  # no GPU- on Tegra
FORMAT = "--format=csv,noheader,nounits"
# "CUDA UMD Version" in newer drivers.
CUDA_VERSION = re.compile(r"CUDA (?:[A-Z]{1,8} )?Version *: *([0-9]{1,2}\.[0-9]{1,2})\b")
# Driver branch to the newest CUDA that it runs: table 3 of NVIDIA's CUDA release notes; those
# after 590 as people's nvidia-smi showed them.
CUDA_OF_DRIVER = {
    450: "11.0", 455: "11.1", 460: "11.2", 465: "11.3", 470: "11.4", 495: "11.5", 510: "11.6",
    515: "11.7", 520: "11.8", 525: "12.0", 530: "12.1", 535: "12.2", 545: "12.3", 550: "12.4",
    555: "12.5", 560: "12.6", 565: "12.7", 570: "12.8", 575: "12.9", 580: "13.0", 590: "13.1",
    610: "13.3", 615: "13.4",
}  # fmt: skip


def read_nvidia(system: System) -> Found:
    """The GPUs that NVIDIA's driver runs and the CUDA version it goes up to.

    Blocks for as long as nvidia-smi takes twice: 0.1 s, 1 s on a laptop whose GPU sleeps.
    """
    if system.find("nvidia-smi") is None:
        return _jetson(system) if system.platform == "linux" else Found()
    fields = FIELDS
    text = _query(system, fields)
    if text is not None and "compute_cap" in text:  # drivers before 510 do not know that field
        fields = tuple(field for field in FIELDS if field != "compute_cap")
        text = _query(system, fields)
    if text is None:
        problem = f"nvidia-smi did not answer within {TIMEOUT_S:.0f} s."
        return _with_problem(_jetson(system), problem)
    gpus = tuple(seen for line in text.splitlines()[:256] if (seen := _row(line, fields, system)))
    if not gpus:
        said = (clean(text) or "").partition(". ")[0].rstrip(".")
        problem = f"nvidia-smi shows no GPU: {said}." if said else "nvidia-smi shows no GPU."
        return _with_problem(_jetson(system), problem)
    header = CUDA_VERSION.search(system.run(("nvidia-smi",), TIMEOUT_S) or "")
    cuda = header.group(1) if header else cuda_of(gpus[0].gpu.driver)
    return Found(gpus, version=cuda, answered=True)


def read_loaded_driver(system: System) -> str | None:
    """Linux: the version of the NVIDIA kernel module that runs and can be reached, or None.

    A container sees the host's /proc but has the device files only when it was given the GPU.
    """
    text = system.read("/proc/driver/nvidia/version") or ""
    line = next((line for line in text.splitlines() if line.startswith("NVRM version")), "")
    return version(line) if system.exists("/dev/nvidiactl") else None


def read_proc(system: System, seen: Seen) -> Seen:
    """A GPU from the bus with the name that the kernel driver has for it."""
    path = f"/proc/driver/nvidia/gpus/{seen.gpu.bus_id}/information"
    found = re.search(r"^Model:\s*(.+)$", system.read(path) or "", re.MULTILINE)
    name = clean(found.group(1)) if found else None
    gpu = Gpu(
        name=name or "",
        vendor="nvidia",
        integrated=False if system.machine == "x86_64" else None,
        driver=read_loaded_driver(system) if seen.kernel_driver == "nvidia" else None,
        bus_id=seen.gpu.bus_id,
    )
    return Seen(gpu, seen.device_id, seen.kernel_driver)


def cuda_of(driver: str | None) -> str | None:
    """The newest CUDA of that driver's branch, by NVIDIA's table; None for unknown or older."""
    major = version_key(driver)[:1]
    branches = [branch for branch in CUDA_OF_DRIVER if major and branch <= major[0]]
    return CUDA_OF_DRIVER[max(branches)] if branches else None


def _query(system: System, fields: tuple[str, ...]) -> str | None:
    argv = ("nvidia-smi", f"--query-gpu={','.join(fields)}", FORMAT)
    return system.run(argv, TIMEOUT_S)


def _row(line: str, fields: tuple[str, ...], system: System) -> Seen | None:
    """One line of the query. Names may hold commas: the other columns are split off both ends."""
    right = len(fields) - 3  # columns after the name
    parts = [part.strip() for part in line.split(",")]
    if len(line) > 1000 or len(parts) < len(fields) or not parts[0].isdigit():
        return None
    name = clean(",".join(line.split(",")[2:-right]))
    if name is None or not UUID.fullmatch(parts[1]):
        return None
    known = dict(zip(fields[3:], parts[-right:], strict=True))
    own = memory(known["memory.total"], MIB)
    capability = re.fullmatch(r"[0-9]{1,2}\.[0-9]", known.get("compute_cap", ""))
    gpu = Gpu(
        name=name,
        vendor="nvidia",
        memory_bytes=own,
        # Jetson and DGX Spark print no memory, because it is the machine's own.
        integrated=own is None and system.machine == "arm64",
        driver=version(known["driver_version"]) or _l4t(system),
        compute_capability=capability.group() if capability else None,
        bus_id=pci_address(known["pci.bus_id"]),
    )
    return Seen(gpu)


def _jetson(system: System) -> Found:
    """A Jetson without nvidia-smi (before JetPack 6): the board's name is all that is told."""
    driver = _l4t(system)
    if driver is None:
        return Found()
    name = clean((system.read("/proc/device-tree/model") or "").replace("\0", " "))
    gpu = Gpu(name=name or "NVIDIA Tegra", vendor="nvidia", integrated=True, driver=driver)
    return Found((Seen(gpu),), answered=True)


def _l4t(system: System) -> str | None:
    """The driver of a Jetson comes with its Linux for Tegra: "L4T 35.4.1"."""
    text = system.read("/etc/nv_tegra_release") or ""
    found = re.search(r"R([0-9]{1,3}) \(release\), REVISION: ([0-9]{1,3}(?:\.[0-9]{1,3})?)", text)
    return f"L4T {found.group(1)}.{found.group(2)}" if found else None


def _with_problem(found: Found, problem: str) -> Found:
    return Found(found.gpus, (*found.problems, problem), found.version, found.answered)
