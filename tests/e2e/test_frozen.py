"""What only a frozen build can get wrong. LLAMA_WRANGLER_FROZEN names one: `make package` does.

Every test that starts the product through tests/product.py can be run against it the same way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e import kit

PROGRAM = os.environ.get("LLAMA_WRANGLER_FROZEN", "")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not PROGRAM, reason="LLAMA_WRANGLER_FROZEN names no frozen build"),
]


def run(
    *words: str, environ: dict[str, str], folder: Path, path: str = "/usr/bin:/bin"
) -> subprocess.CompletedProcess[str]:
    """The build, with nothing of this Python in its environment."""
    bare = {k: v for k, v in environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [PROGRAM, *words],
        env={**bare, "PATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def test_it_passes_the_self_test(
    display: dict[str, str], llama_server: Path, smollm2: Path, tmp_path: Path
) -> None:
    words = ("--self-test", "--model", str(smollm2), "--llama-server", str(llama_server))
    done = run(*words, environ=display, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a frozen build" in done.stdout


@pytest.mark.skipif(
    shutil.which("python3", path="/usr/local/bin") is not None,
    reason="a Python in /usr/local/bin is found whatever the PATH says",
)
def test_without_a_python_the_converter_says_what_to_install(home: Path, tmp_path: Path) -> None:
    kit.write_settings(home, runtime={"auto_build": False}, server={"port": kit.free_port()})
    environ = {**os.environ, "HOME": str(tmp_path)}
    nowhere = str(tmp_path)
    done = run("converter", "status", environ=environ, folder=tmp_path, path=nowhere)
    assert "There is no Python" in done.stdout
    assert "python.org" in done.stdout
    assert run("stop", environ=environ, folder=tmp_path).returncode == 0


def test_other_programs_do_not_get_its_libraries(two_models_home: Path, free_port: int) -> None:
    kit.write_settings(two_models_home, server={"port": free_port, "context_length": 512})
    with kit.running_engine(two_models_home) as client:
        client.call("switch_model", model_id=client.snapshot()["models"][0]["id"])
        (pid,) = kit.wait_for(lambda: kit.child_pids(client), "llama-server")
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    own = os.fsencode(Path(PROGRAM).parent)
    assert [row for row in environ if row.startswith(b"LD_LIBRARY_PATH") and own in row] == []
