"""The processor and main memory: name, cores, and the features that llama.cpp has code for.

Feature names are those of ggml's CPU variants (ggml/src/CMakeLists.txt of b11434), in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .seen import clean, memory, number
from .system import System
from .windows import entries

# ggml's variant and the flags of /proc/cpuinfo that it asks for: ggml-cpu/arch/x86/cpu-feats.cpp
# and ggml-cpu/arch/arm/cpu-feats.cpp.
LINUX_FLAGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("sse42", ("sse4_2",)),
    ("avx", ("avx",)),
    ("f16c", ("f16c",)),
    ("fma", ("fma",)),
    ("avx2", ("avx2",)),
    ("bmi2", ("bmi2",)),
    ("avx_vnni", ("avx_vnni",)),
    ("avx512", ("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl")),
    ("avx512_vbmi", ("avx512vbmi",)),
    ("avx512_vnni", ("avx512_vnni",)),
    ("avx512_bf16", ("avx512_bf16",)),
    ("amx_tile", ("amx_tile",)),
    ("amx_int8", ("amx_int8",)),
    ("dotprod", ("asimddp",)),
    ("fp16_vector_arithmetic", ("asimdhp",)),
    ("sve", ("sve",)),
    ("matmul_int8", ("i8mm",)),
    ("sve2", ("sve2",)),
    ("sme", ("sme",)),
)
MAC_FLAGS = (
    ("sse42", "SSE4.2"),
    ("avx", "AVX1.0"),
    ("f16c", "F16C"),
    ("fma", "FMA"),
    ("avx2", "AVX2"),
    ("bmi2", "BMI2"),
    ("avx512", "AVX512F"),
)
MAC_ARM = (
    ("dotprod", "hw.optional.arm.FEAT_DotProd"),
    ("fp16_vector_arithmetic", "hw.optional.arm.FEAT_FP16"),
    ("matmul_int8", "hw.optional.arm.FEAT_I8MM"),
    ("sme", "hw.optional.arm.FEAT_SME"),
)
# PF_… of winnt.h; Windows has no numbers for FMA, F16C and BMI2.
WINDOWS_FEATURES = (("sse42", 38), ("avx", 39), ("avx2", 40), ("avx512", 41), ("dotprod", 43))
MOST_THREADS = 1 << 16


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor and the memory beside it."""

    name: str | None = None
    cores: int | None = None  # physical
    threads: int | None = None
    features: tuple[str, ...] = ()
    memory_bytes: int | None = None


def read_linux_cpu(system: System) -> Cpu:
    """From /proc and sysfs."""
    text = system.read("/proc/cpuinfo") or ""
    values: dict[str, str] = {}
    for line in text.splitlines()[:200]:
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), value.strip())
    flags = frozenset((values.get("flags") or values.get("Features") or "").split())
    siblings = system.glob("/sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list")
    cores = {shared for path in siblings if (shared := clean(system.read(path)))}
    threads = len(re.findall(r"^processor\s*:", text, re.MULTILINE))
    found = re.search(r"^MemTotal:\s*([0-9]+) kB", system.read("/proc/meminfo") or "", re.M)
    return Cpu(
        name=clean(values.get("model name")),
        cores=len(cores) or None,
        threads=threads or None,
        features=tuple(name for name, needed in LINUX_FLAGS if flags.issuperset(needed)),
        memory_bytes=memory(found.group(1), 1024) if found else None,
    )


def read_mac_cpu(sysctl: Mapping[str, str]) -> Cpu:
    """From what `read_sysctl` told."""
    lists = ("machdep.cpu.features", "machdep.cpu.leaf7_features")
    flags = {flag for name in lists for flag in sysctl.get(name, "").upper().split()}
    intel = [name for name, flag in MAC_FLAGS if flag in flags]
    arm = [name for name, key in MAC_ARM if sysctl.get(key) == "1"]
    return Cpu(
        name=clean(sysctl.get("machdep.cpu.brand_string")),
        cores=number(sysctl.get("hw.physicalcpu"), 1, MOST_THREADS),
        threads=number(sysctl.get("hw.logicalcpu"), 1, MOST_THREADS),
        features=(*intel, *arm),
        memory_bytes=memory(sysctl.get("hw.memsize")),
    )


def read_windows_cpu(system: System, told: Mapping[str, object]) -> Cpu:
    """From what `read_windows` told, and from the kernel's own feature bits."""
    sockets = list(entries(told.get("cpu")))
    cores = [number(one.get("NumberOfCores"), 1, MOST_THREADS) for one in sockets]
    threads = [number(one.get("NumberOfLogicalProcessors"), 1, MOST_THREADS) for one in sockets]
    present = system.processor_features()
    return Cpu(
        name=next((name for one in sockets if (name := clean(one.get("Name")))), None),
        cores=sum(n for n in cores if n) or None,
        threads=sum(n for n in threads if n) or None,
        features=tuple(name for name, code in WINDOWS_FEATURES if code in present),
        memory_bytes=memory(told.get("memory")),
    )
