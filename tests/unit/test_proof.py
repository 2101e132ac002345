"""A runtime's proof against servers that misbehave: each fault by name, nothing left running."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.runtime_kit import HELP
from tray_app.engine.errors import Cancelled
from tray_app.engine.runtime.proof import KEPT, Proofs, prove
from tray_app.engine.runtime.proof_model import ANSWER
from tray_app.engine.state import StateDb
from tray_app.engine.values import Gpu, Hardware, Proof

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stand-ins are scripts")

# A llama-server in a few lines. What it does is in `how`.
SCRIPT = """\
#!{python} -IS
import json, os, signal, socket, sys, time
how = json.loads({how!r})
with open(how["runs"], "a") as runs:
    runs.write(sys.argv[1] + "\\n")
if sys.argv[1] == how.get("hangs_at"):
    time.sleep(60)
if sys.argv[1] == "--version":
    print(how.get("version", "version: 0.1 (build 11434, commit x)"))
elif sys.argv[1] == "--help":
    print(how["help"])
elif sys.argv[1] == "--list-devices":
    print("Available devices:")
    print("\\n".join("  " + device for device in how["devices"]) or "  (none)")
else:
    if how.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in how.get("log", []):
        print(line, flush=True)
    if "exit" in how:
        sys.exit(how["exit"])
    if "signal" in how:
        os.kill(os.getpid(), how["signal"])
    if how.get("hangs_at") == "load":
        time.sleep(60)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[sys.argv.index("--host") + 1])
    listener.listen()
    while True:
        connection, _ = listener.accept()
        request = connection.recv(65536)
        head, _, body = request.partition(b"\\r\\n\\r\\n")
        for line in head.splitlines():
            if line.lower().startswith(b"content-length:"):
                while len(body) < int(line.split()[1]):
                    body += connection.recv(65536)
        if request.startswith(b"GET /health"):
            body = "{{}}"
        elif how.get("hangs_at") == "answer":
            time.sleep(60)
        elif how.get("dies_at") == "answer":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif how.get("drops"):
            connection.close()
            continue
        else:
            body = json.dumps({{"content": how["answer"]}})
        head = "HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body)
        connection.sendall((head + body).encode())
        connection.close()
"""

DEVICE = "CUDA0: NVIDIA GeForce RTX 4090 (24217 MiB, 23800 MiB free)"
RTX_4090 = Gpu("NVIDIA GeForce RTX 4090", "nvidia")
RTX_3060 = Gpu("NVIDIA GeForce RTX 3060", "nvidia")
LOADED = "0.00.101.276 I load_tensors: offloaded 3/3 layers to GPU"


def scripted(folder: Path, **how: Any) -> Path:
    """A server that does all right but for `how`."""
    folder.mkdir(parents=True, exist_ok=True)
    row = {"help": HELP, "devices": [], "answer": ANSWER, "runs": str(folder / "runs.txt"), **how}
    path = folder / "llama-server"
    path.write_text(SCRIPT.format(python=sys.executable, how=json.dumps(row)))
    path.chmod(0o755)
    return path


def tried(server: Path, backend: str | None = "cpu", **more: Any) -> Proof:
    """Its proof, and that nothing of it is left: no process and no file."""
    folder = server.parent / "run"
    more.setdefault("promised", ())
    more.setdefault("environ", {})
    proof = prove(server, backend, None, folder, **more)
    assert list(folder.iterdir()) == [] if folder.exists() else True
    assert running(server) == []
    return proof


def running(server: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(server) in word for word in process.cmdline()):
                found.append(process.pid)
    return found


def refusal(proof: Proof) -> str:
    """The error's message; it has a remedy, and the proof is not good."""
    assert not proof.ok
    assert proof.error is not None
    assert proof.error.code == "runtime_rejected"
    assert proof.error.remedy
    return proof.error.message


def test_a_good_cpu_runtime_is_proven(tmp_path: Path) -> None:
    proof = tried(scripted(tmp_path), clock=lambda: 12.0)
    assert proof.ok
    assert (proof.proved_at, proof.error, proof.warnings) == (12.0, None, ())
    assert proof.load_s is not None


def test_a_good_gpu_runtime_is_proven_with_all_layers(tmp_path: Path) -> None:
    proof = tried(scripted(tmp_path, devices=[DEVICE], log=[LOADED]), "cuda", promised=(RTX_4090,))
    assert proof.ok
    assert (proof.layers_on_gpu, proof.layers) == (3, 3)
    assert proof.devices == (DEVICE,)
    assert proof.warnings == ()


def test_without_a_backend_the_build_says_which(tmp_path: Path) -> None:
    proof = tried(scripted(tmp_path, devices=[DEVICE], log=["offloaded 0/3 layers to GPU"]), None)
    assert "CUDA build put none of 3 layers on the GPU" in refusal(proof)
    assert tried(scripted(tmp_path, devices=["BLAS: Accelerate (0 MiB, 0 MiB free)"]), None).ok


def test_a_gpu_runtime_that_lists_no_device_is_refused(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    assert refusal(tried(server, "cuda")) == "The CUDA build sees no GPU."
    named = refusal(tried(server, "cuda", promised=(RTX_4090,)))
    assert named == "The CUDA build sees no GPU (NVIDIA GeForce RTX 4090)."
    assert "--model" not in (tmp_path / "runs.txt").read_text()


def test_a_device_of_another_backend_is_none_of_its_own(tmp_path: Path) -> None:
    server = scripted(tmp_path, devices=["Vulkan0: NVIDIA GeForce RTX 4090 (24 MiB, 23 MiB free)"])
    assert "The CUDA build sees no GPU" in refusal(tried(server, "cuda"))


@pytest.mark.parametrize(
    ("backend", "variable"),
    [("cuda", "CUDA_VISIBLE_DEVICES"), ("vulkan", "GGML_VK_VISIBLE_DEVICES")],
)
def test_a_variable_that_hides_the_gpu_is_named(
    tmp_path: Path, backend: str, variable: str
) -> None:
    proof = tried(scripted(tmp_path), backend, environ={variable: "-1"})
    assert f"the environment has {variable}=-1" in refusal(proof)


def test_a_gpu_that_is_not_seen_is_a_warning(tmp_path: Path) -> None:
    server = scripted(tmp_path, devices=[DEVICE], log=[LOADED])
    proof = tried(server, "cuda", promised=(RTX_4090, RTX_3060))
    assert proof.ok
    assert proof.warnings == ("It sees 1 of 2 GPUs; not seen: NVIDIA GeForce RTX 3060.",)
    unclear = tried(server, "cuda", promised=(Gpu("Navi 31", "amd"), Gpu("Navi 33", "amd")))
    assert unclear.warnings == ("It sees 1 of 2 GPUs; not seen: 1 of Navi 31, Navi 33.",)


def test_more_devices_than_promised_are_welcome(tmp_path: Path) -> None:
    server = scripted(tmp_path, devices=[DEVICE, DEVICE.replace("CUDA0", "CUDA1")], log=[LOADED])
    assert tried(server, "cuda", promised=(RTX_4090,)).warnings == ()


def test_the_ladder_promises_the_gpus_of_the_hardware(tmp_path: Path) -> None:
    pytest.importorskip("tray_app.engine.runtime.ladder")
    server = scripted(tmp_path, devices=[DEVICE], log=[LOADED])
    gpus = tuple(
        Gpu(name, "nvidia", 24 << 30, integrated=False, driver="570.86", compute_capability="8.9")
        for name in ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 3060")
    )
    hardware = Hardware("linux", "x86_64", gpus=gpus, cuda="12.8")
    proof = prove(server, "cuda", hardware, tmp_path / "run", environ={})
    assert proof.ok
    assert "not seen: NVIDIA GeForce RTX 3060" in proof.warnings[0]


def test_a_renderer_in_software_is_a_warning(tmp_path: Path) -> None:
    device = "Vulkan0: llvmpipe (LLVM 15.0.6, 256 bits) (2048 MiB, 2048 MiB free)"
    proof = tried(scripted(tmp_path, devices=[device], log=[LOADED]), "vulkan")
    assert proof.ok
    assert "renderer in software" in proof.warnings[0]


def test_a_gpu_runtime_that_loads_on_the_processor_is_refused(tmp_path: Path) -> None:
    log = ["print_info: n_layer = 2", "load_tensors: CPU model buffer size = 1 MiB"]
    proof = tried(scripted(tmp_path, devices=[DEVICE], log=log), "cuda")
    assert "put none of 3 layers on the GPU" in refusal(proof)
    assert (proof.layers_on_gpu, proof.layers) == (0, 3)


def test_a_log_that_tells_no_layers_is_a_warning_not_a_zero(tmp_path: Path) -> None:
    proof = tried(scripted(tmp_path, devices=[DEVICE]), "cuda")
    assert proof.ok
    assert (proof.layers_on_gpu, proof.layers) == (None, None)
    assert "does not tell" in proof.warnings[0]


def test_a_runtime_that_computes_wrongly_is_refused(tmp_path: Path) -> None:
    proof = tried(scripted(tmp_path, devices=[DEVICE], log=[LOADED], answer="de?"), "cuda")
    assert "computes wrong results" in refusal(proof)
    assert "“de?”" in refusal(proof)
    assert "driver" in proof.error.remedy  # type: ignore[union-attr]


def test_a_crash_while_loading_says_why(tmp_path: Path) -> None:
    log = ["0.00.1 E ggml_cuda: out of memory"]
    proof = tried(scripted(tmp_path, devices=[DEVICE], log=log, exit=1), "cuda")
    assert "failed while loading its proof model: There was not enough memory" in refusal(proof)
    assert "memory of the GPU" in proof.error.remedy  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGILL, "instructions that this processor does not have"),
        (signal.SIGSEGV, "crashed (SIGSEGV)"),
    ],
)
def test_a_load_that_ends_by_a_signal_says_which(tmp_path: Path, number: int, words: str) -> None:
    message = refusal(tried(scripted(tmp_path, signal=int(number))))
    assert "while loading" in message
    assert words in message


def test_a_crash_while_answering_says_so(tmp_path: Path) -> None:
    message = refusal(tried(scripted(tmp_path, dies_at="answer")))
    assert "failed while answering: llama-server crashed (SIGSEGV)." in message


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("load", "did not load its proof model within 2 s"),
        ("answer", "did not answer within 2 s"),
        ("--version", "did not answer --version within 2 s"),
        ("--list-devices", "did not answer --list-devices within"),
    ],
)
def test_a_runtime_that_hangs_is_given_up_in_time(tmp_path: Path, place: str, words: str) -> None:
    started = time.monotonic()
    message = refusal(tried(scripted(tmp_path, hangs_at=place, deaf=True), timeout_s=2.0))
    assert words in message
    assert time.monotonic() - started < 10


def test_one_that_ignores_sigterm_is_good_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tray_app.engine.runtime.proof_load.STOP_GRACE_S", 0.2)
    assert tried(scripted(tmp_path, deaf=True)).ok


@pytest.mark.parametrize("place", ["--help", "load", "answer"])
def test_a_cancel_comes_through_at_once_and_leaves_nothing(tmp_path: Path, place: str) -> None:
    server = scripted(tmp_path, hangs_at=place)
    runs = tmp_path / "runs.txt"
    started = time.monotonic()

    def check() -> None:
        first = "--model" if place in ("load", "answer") else place
        if runs.exists() and first in runs.read_text():
            raise Cancelled

    with pytest.raises(Cancelled):
        tried(server, check=check)
    assert time.monotonic() - started < 10
    assert running(server) == []
    left = tmp_path / "run"
    assert not left.exists() or list(left.iterdir()) == []


def test_a_connection_that_is_dropped_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tray_app.engine.runtime.proof_load.CRASH_S", 0.05)
    assert "gave no answer" in refusal(tried(scripted(tmp_path, drops=True)))


def test_a_runtime_too_old_is_not_loaded(tmp_path: Path) -> None:
    server = scripted(tmp_path, help="--alias\n--offline", version="version: 3000 (0abc)")
    message = refusal(tried(server))
    assert "too old (build 3000)" in message
    assert "--slot-save-path" in message
    assert "--model" not in (tmp_path / "runs.txt").read_text()


def shell(folder: Path, body: str) -> Path:
    path = folder / "llama-server"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_a_program_that_is_no_llama_server_is_refused(tmp_path: Path) -> None:
    assert "is not a llama-server" in refusal(tried(shell(tmp_path, "echo hello")))


def test_one_that_cannot_start_names_the_library(tmp_path: Path) -> None:
    says = "error while loading shared libraries: libgomp.so.1: cannot open shared object file"
    proof = tried(shell(tmp_path, f"echo '{says}: No such file' >&2; exit 127"))
    assert "cannot start: libgomp.so.1 is missing." in refusal(proof)
    assert "libgomp1 on Debian" in proof.error.remedy  # type: ignore[union-attr]


def test_one_for_another_processor_is_refused(tmp_path: Path) -> None:
    assert "instructions" in refusal(tried(shell(tmp_path, "kill -ILL $$")))
    arm = tmp_path / "llama-server"  # the head of an ELF file for AArch64
    arm.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(100))
    assert "is no program for this machine" in refusal(tried(arm))


def test_one_that_may_not_be_run_or_is_not_there(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    server.chmod(0o644)
    assert "may not be executed" in refusal(tried(server))
    assert "cannot be run" in refusal(tried(tmp_path / "nothing" / "llama-server"))


def test_the_folder_of_model_and_socket_is_private(tmp_path: Path) -> None:
    seen: list[int] = []
    folder = tmp_path / "run"

    def look() -> None:
        seen.extend(stat.S_IMODE(path.stat().st_mode) for path in folder.glob("proof-*"))
        if seen:
            raise Cancelled

    with pytest.raises(Cancelled):
        prove(scripted(tmp_path, hangs_at="load"), "cpu", None, folder, check=look)
    assert set(seen) == {0o700}


def test_a_long_path_does_not_stop_the_proof(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 60) / ("b" * 60)
    proof = prove(scripted(tmp_path), "cpu", None, deep)
    assert proof.ok, proof.error
    assert list(deep.iterdir()) == []


def test_what_a_killed_engine_left_is_removed(tmp_path: Path) -> None:
    old, new = tmp_path / "run" / "proof-old", tmp_path / "run" / "proof-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "proof.gguf").write_bytes(b"x")
    os.utime(old, (0, 0))
    assert prove(scripted(tmp_path), "cpu", None, tmp_path / "run").ok
    assert (old.exists(), new.exists()) == (False, True)


def test_the_output_of_the_load_is_logged(tmp_path: Path) -> None:
    log_path = tmp_path / "prove-runtime.log"
    tried(scripted(tmp_path, log=["a line of the load"]), log_path=log_path)
    assert "a line of the load" in log_path.read_text()


# -- kept proofs


class Kept:
    """`Proofs` on a database of its own, and how often the server was run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 100.0
        self.environ: dict[str, str] = {}
        self.db = StateDb(folder / "state.db")
        self.proofs = self.anew()

    def anew(self) -> Proofs:
        return Proofs(self.db, self.folder / "run", None, lambda: self.now, self.environ)

    def runs(self) -> int:
        runs = self.folder / "runs.txt"
        return runs.read_text().count("--version") if runs.exists() else 0


@pytest.fixture
def kept(tmp_path: Path) -> Any:
    kept = Kept(tmp_path)
    yield kept
    kept.db.close()


def test_a_proof_is_kept_over_a_restart(kept: Kept) -> None:
    server = scripted(kept.folder, devices=[DEVICE])
    assert kept.proofs.known(server, "cuda", "k") is None
    first = kept.proofs.prove(server, "cuda", None, "k")
    assert first.ok
    assert first.warnings
    again = kept.anew()
    assert again.known(server, "cuda", "k") == first
    assert again.prove(server, "cuda", None, "k") == first
    assert kept.runs() == 1


def test_a_failed_proof_is_kept_too_and_made_again_when_asked(kept: Kept) -> None:
    server = scripted(kept.folder, answer="???")
    first = kept.proofs.prove(server, "cpu", None, "k")
    assert "wrong results" in refusal(first)
    assert kept.proofs.prove(server, "cpu", None, "k") == first
    assert kept.proofs.known(server, "cpu", "k") == first
    assert kept.runs() == 1
    kept.now = 200.0
    assert kept.proofs.prove(server, "cpu", None, "k", fresh=True).proved_at == 200.0
    assert kept.runs() == 2
    latest = kept.proofs.known(server, "cpu", "k")
    assert latest is not None
    assert latest.proved_at == 200.0


def test_a_change_of_program_library_backend_or_hardware_asks_for_a_new_proof(kept: Kept) -> None:
    server = scripted(kept.folder)
    library = kept.folder / "libggml-cuda.so"
    library.write_bytes(b"1")
    kept.proofs.prove(server, "cpu", None, "k")
    assert kept.proofs.known(server, "cpu", "k")
    assert kept.proofs.known(server, "cpu", "another driver") is None
    assert kept.proofs.known(server, "cuda", "k") is None
    kept.environ["CUDA_VISIBLE_DEVICES"] = ""
    assert kept.proofs.known(server, "cpu", "k") is None
    kept.environ.clear()
    (kept.folder / "notes.txt").write_text("of no matter")
    assert kept.proofs.known(server, "cpu", "k")
    library.write_bytes(b"22")
    assert kept.proofs.known(server, "cpu", "k") is None
    library.write_bytes(b"1")
    os.utime(server, (1, 1))
    assert kept.proofs.known(server, "cpu", "k") is None


def test_a_forgotten_program_is_proven_anew(kept: Kept) -> None:
    server = scripted(kept.folder)
    kept.proofs.prove(server, "cpu", None, "k")
    kept.proofs.forget(server)
    assert kept.proofs.known(server, "cpu", "k") is None


def test_a_program_that_is_gone_is_not_kept(kept: Kept) -> None:
    server = kept.folder / "llama-server"
    refusal(kept.proofs.prove(server, "cpu", None, "k"))
    assert kept.proofs.known(server, "cpu", "k") is None


def test_a_row_of_another_version_counts_as_none(kept: Kept) -> None:
    server = scripted(kept.folder)
    kept.proofs.prove(server, "cpu", None, "k")
    for row in ("{}", "[1]", "broken", '{"ok": true, "colour": "blue"}'):
        with kept.db.transaction() as db:
            db.execute("UPDATE runtime_proofs SET result = ?", (row,))
        assert kept.proofs.known(server, "cpu", "k") is None


def test_the_kept_proofs_are_bounded(kept: Kept) -> None:
    server = scripted(kept.folder)
    kept.proofs.prove(server, "cpu", None, "the oldest")
    with kept.db.transaction() as db:
        db.executemany(
            "INSERT INTO runtime_proofs VALUES (?, 's', 101.0, '{}')",
            [(str(number),) for number in range(KEPT + 50)],
        )
    kept.now = 200.0
    kept.proofs.prove(server, "cpu", None, "the newest")
    with kept.db.reading() as db:
        (count,) = db.execute("SELECT COUNT(*) FROM runtime_proofs").fetchone()
    assert count == KEPT
    assert kept.proofs.known(server, "cpu", "the oldest") is None
    assert kept.proofs.known(server, "cpu", "the newest")
