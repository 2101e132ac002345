"""What a conversion costs beyond llama.cpp's bare tools.

    python -m tests.benchmarks.bench_convert [--runs 3]

The real all-MiniLM-L6-v2 is converted to F16 and quantized to Q8_0 by the bare scripts and tools,
and by the product with its steps, progress and records; the proof of each result (a load and an
answer, which the bare tools do not have) is told apart. Same interpreter, same threads, best of the
runs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests import parts
from tests.converting import kit
from tests.unit.engine_kit import running_engine, wait_until
from tray_app.engine.convert import making
from tray_app.engine.convert.convert_tool import tree_of
from tray_app.engine.convert.environment import Environment
from tray_app.engine.core import Engine


def bare(python: Path, tree: Path, quantize: Path, weights: Path, folder: Path) -> float:
    """Seconds of the two tools alone."""
    full, small = folder / "bare.F16.gguf", folder / "bare.Q8_0.gguf"
    env = {**os.environ, "PYTHONPATH": str(tree / "gguf-py"), "PYTHONNOUSERSITE": "1"}
    env |= {"OMP_NUM_THREADS": str(making.threads()), "HF_HUB_OFFLINE": "1"}
    script = str(tree / "convert_hf_to_gguf.py")
    began = time.perf_counter()
    words = [str(python), script, str(weights), "--outfile", str(full), "--outtype", "f16"]
    subprocess.run(words, check=True, capture_output=True, env=env)
    threads = str(making.threads())
    subprocess.run([quantize, full, small, "Q8_0", threads], check=True, capture_output=True)
    took = time.perf_counter() - began
    full.unlink()
    small.unlink()
    return took


def product(engine: Engine, weights: Path, proofs: list[float]) -> float:
    """Seconds of the whole job, without its proofs, which it appends."""
    proofs.clear()
    began = time.perf_counter()
    args = {"source": str(weights), "output": "f16", "types": ["Q8_0"], "name": "bench"}
    job_id = engine.call("convert_model", args)["job_id"]
    wait_until(lambda: not engine.jobs.get(job_id).state.in_progress, 300)
    took = time.perf_counter() - began
    assert engine.jobs.get(job_id).state == "done", engine.jobs.get(job_id).error
    for path in (engine.home.models / "local" / "bench").iterdir():
        path.unlink()
    return took - sum(proofs)


def timed(prove: Callable[..., None], proofs: list[float]) -> Callable[..., None]:
    """`Making.prove`, whose seconds are written down."""

    def run(*args: object, **named: object) -> None:
        began = time.perf_counter()
        prove(*args, **named)
        proofs.append(time.perf_counter() - began)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    server, weights, converter = parts.llama_server(), parts.minilm(), parts.converter()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        home.mkdir()
        kit.use(converter, home)
        with running_engine(home) as engine:
            engine.call("change_settings", {"changes": {"runtime.server_path": str(server)}})
            runtime = engine.runtime.require(None)
            python, tree = Environment(converter).python, tree_of(runtime)
            proofs: list[float] = []
            making.Making.prove = timed(making.Making.prove, proofs)  # type: ignore[method-assign]
            alone, ours, proof = [], [], []
            for _ in range(runs):  # in turns: a machine's pace changes
                alone.append(bare(python, tree, parts.llama_quantize(), weights, Path(name)))
                ours.append(product(engine, weights, proofs))
                proof.append(sum(proofs))
    print(f"bare tools        {min(alone):6.2f} s   (MiniLM to F16 and Q8_0, best of {runs})")
    print(f"product           {min(ours):6.2f} s   {min(ours) / min(alone):.3f} x the bare tools")
    print(
        f"its two proofs    {min(proof):6.2f} s   header, a load, a vector: what others leave out"
    )


if __name__ == "__main__":
    main()
