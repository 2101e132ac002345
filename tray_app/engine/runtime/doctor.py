"""What is right and wrong with the runtimes and the hardware they run on. Pure."""

from __future__ import annotations

from tray_app.engine.diagnostics import Check

from .values import Hardware, Runtime, RuntimeStatus


def runtime_checks(status: RuntimeStatus) -> list[Check]:
    """One line for each thing that can be wrong."""
    return [
        _active(status),
        *([_proof(status.active)] if status.active else []),
        *([_trial(status)] if status.on_trial or status.rolled_back else []),
        *(Check("stepped_down", True, line) for line in status.stepped_down),
        *_hardware(status.hardware),
        *(
            Check(
                f"backend_{rung.backend}",
                True,
                f"{'Can' if rung.usable else 'Cannot'} be used here: {rung.reason}",
            )
            for rung in status.ladder
        ),
        *(_shelved(runtime) for runtime in status.installed if runtime != status.active),
        *(Check("rejected", True, f"Not used: {r.path}. {r.reason}") for r in status.rejected),
    ]


def _active(status: RuntimeStatus) -> Check:
    active = status.active
    if active is not None:
        where = f"{active.id} ({active.origin}), {active.server_path}"
        return Check("runtime", True, f"llama.cpp in use: {where}")
    error = status.error
    if error is not None:
        return Check("runtime", False, error.message, error.remedy)
    return Check("runtime", False, "There is no llama.cpp.", "llama-wrangler runtime install")


def _proof(active: Runtime) -> Check:
    proof = active.proof
    if proof is None:
        return Check("proof", False, f"{active.id} was never tried.", "Use it once more.")
    if not proof.ok:
        message = proof.error.message if proof.error else "It failed."
        return Check("proof", False, message, proof.error.remedy if proof.error else "")
    layers = ""
    if active.backend != "cpu" and proof.layers:
        layers = f", {proof.layers_on_gpu} of {proof.layers} layers on the GPU"
    if proof.warnings:
        return Check("proof", False, " ".join(proof.warnings), "See the hardware below.")
    return Check("proof", True, f"It loaded a model and answered right{layers}.")


def _trial(status: RuntimeStatus) -> Check:
    back = status.rolled_back
    if back is None:
        return Check("trial", True, "It is on trial until it has answered with your model.")
    return Check(
        "trial",
        False,
        f"{back.runtime_id} failed with {back.model_id}: {back.error.message}"
        f" {back.back_to} is in use again.",
        back.error.remedy,
    )


def _hardware(hardware: Hardware | None) -> list[Check]:
    if hardware is None:
        return [Check("hardware", False, "The hardware was not read.", "Look again.")]
    memory = f", {hardware.memory_bytes / 1e9:.0f} GB memory" if hardware.memory_bytes else ""
    cpu = Check("cpu", True, f"{hardware.cpu_name or 'unknown processor'}{memory}")
    gpus = [
        Check(
            "gpu",
            True,
            f"{gpu.name}"
            + (f", {gpu.memory_bytes / 1e9:.0f} GB" if gpu.memory_bytes else "")
            + (f", driver {gpu.driver}" if gpu.driver else ""),
        )
        for gpu in hardware.gpus
    ]
    problems = [Check("hardware", False, problem) for problem in hardware.problems]
    return [cpu, *gpus, *problems]


def _shelved(runtime: Runtime) -> Check:
    proof = runtime.proof
    word = "not tried yet" if proof is None else "good" if proof.ok else "failed"
    size = f", {runtime.size_bytes / 1e6:.0f} MB" if runtime.size_bytes else ""
    return Check("installed", True, f"{runtime.id} ({runtime.origin}{size}): {word}")
