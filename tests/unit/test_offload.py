"""What a load said about the GPU, and what is told to the user when it was not used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tray_app.engine.runtime.offload import likely_cause, read_offload
from tray_app.engine.values import Gpu, Hardware, Offload, Proof, Rung, Runtime

# llama-server b11434 with --verbosity 4, a Vulkan build on Mesa's llvmpipe.
VULKAN_LOG = """\
0.00.085.782 I print_info: n_layer               = 30
0.00.085.782 I print_info: n_layer_all           = 30
0.00.101.256 I load_tensors: offloading output layer to GPU
0.00.101.275 I load_tensors: offloading 29 repeating layers to GPU
0.00.101.276 I load_tensors: offloaded 31/31 layers to GPU
0.00.101.285 I load_tensors:   CPU_Mapped model buffer size =    28.69 MiB
0.00.101.286 I load_tensors:      Vulkan0 model buffer size =    92.10 MiB
""".splitlines()
# The same without a device that it may use: the line is left out.
NO_DEVICE_LOG = [line for line in VULKAN_LOG if "offload" not in line and "Vulkan0" not in line]

H100 = Gpu("NVIDIA H100", "nvidia", 80 << 30, integrated=False)
MACHINE = Hardware("linux", "x86_64", gpus=(H100,), cuda="12.8")
CUDA = Rung("cuda", True, "The driver runs CUDA 12.8.", ("NVIDIA H100",))
CPU = Rung("cpu", True, "Every machine has one.")
DEVICE = "CUDA0: NVIDIA H100 (81000 MiB, 80000 MiB free)"


def runtime(backend: str = "cuda", devices: tuple[str, ...] = (DEVICE,)) -> Runtime:
    proof = Proof(ok=True, proved_at=0.0, devices=devices)
    path = Path("/opt/llama/llama-server")
    return Runtime(f"b11434-{backend}", 11434, backend, path, "built", "", devices, proof)


def test_the_layers_are_read_from_the_log() -> None:
    assert read_offload(VULKAN_LOG) == (31, 31)
    assert read_offload(["llm_load_tensors: offloaded 12/33 layers to GPU"]) == (12, 33)


def test_a_load_without_a_device_counts_as_none_of_its_layers() -> None:
    assert read_offload(NO_DEVICE_LOG) == (0, 31)


def test_a_log_that_does_not_say_is_unknown_not_zero() -> None:
    assert read_offload([]) is None
    assert read_offload(["0.00.1 I srv load_model: loading model"]) is None
    # The header was read, the tensors were not: the load may have failed.
    assert read_offload(NO_DEVICE_LOG[:2]) is None


def test_the_main_model_counts_not_the_draft_beside_it() -> None:
    draft = "load_tensors: offloaded 7/7 layers to GPU"
    main = "load_tensors: offloaded 3/49 layers to GPU"
    assert read_offload([draft, main]) == (3, 49)
    assert read_offload([main, draft]) == (3, 49)
    assert read_offload([main, "load_tensors: offloaded 5/49 layers to GPU"]) == (5, 49)


@pytest.mark.parametrize(
    ("offload", "which"),
    [
        (Offload(None, 31, 31), runtime()),
        (Offload(20, 20, 31), runtime()),
        (Offload(0, 0, 31), runtime()),  # as the user wished
        (Offload(0, 0, 31), runtime("cpu", ())),
        (None, runtime()),
    ],
)
def test_nothing_is_said_when_all_is_as_wished(offload: Offload | None, which: Runtime) -> None:
    assert likely_cause(offload, which, MACHINE, (CUDA, CPU)) is None


def test_a_cpu_build_beside_a_usable_gpu_is_told() -> None:
    notice = likely_cause(Offload(None, 0, 31), runtime("cpu", ()), MACHINE, (CUDA, CPU))
    assert notice is not None
    assert (notice.code, notice.level) == ("gpu_unused", "info")
    assert "CUDA would use NVIDIA H100" in notice.message
    assert "CUDA" in notice.remedy
    # Without a load, as when nothing is loaded yet, it is as true.
    assert likely_cause(None, runtime("cpu", ()), MACHINE, (CUDA, CPU)) == notice


def test_a_cpu_build_where_nothing_better_works_is_right() -> None:
    broken = Rung("cuda", False, "The NVIDIA driver does not answer.")
    assert likely_cause(None, runtime("cpu", ()), MACHINE, (broken, CPU)) is None


def test_a_gpu_that_has_gone_is_the_cause() -> None:
    gone = Hardware("linux", "x86_64")
    notice = likely_cause(Offload(None, 0, 31), runtime(), gone, (CPU,))
    assert notice is not None
    assert (notice.code, notice.level) == ("cpu_fallback", "warning")
    assert "none of its 31 layers" in notice.message
    assert "shows no GPU now" in notice.message


def test_a_driver_that_changed_is_the_cause() -> None:
    broken = Rung("cuda", False, "The NVIDIA driver does not answer.")
    notice = likely_cause(Offload(None, 0, 31), runtime(), MACHINE, (broken, CPU))
    assert notice is not None
    assert "The NVIDIA driver does not answer." in notice.message


def test_a_runtime_that_sees_no_device_is_the_cause() -> None:
    notice = likely_cause(Offload(None, 0, 31), runtime(devices=()), MACHINE, (CUDA, CPU))
    assert notice is not None
    assert "The CUDA runtime sees no GPU." in notice.message


def test_too_little_gpu_memory_is_the_cause() -> None:
    notice = likely_cause(Offload(None, 0, 31), runtime(), MACHINE, (CUDA, CPU))
    assert notice is not None
    assert "memory of the GPU (NVIDIA H100)" in notice.message
    assert "smaller quantization" in notice.remedy
    asked = likely_cause(Offload(20, 0, 31), runtime(), MACHINE, (CUDA, CPU))
    assert asked is not None
    assert asked.remedy.startswith("20 layers were asked for")
