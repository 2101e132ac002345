"""A conversion of real weights killed or cancelled at each step, and one that begins at a hub.

The tools are the real ones behind a pause, so that each step is there long enough to be met.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w

from tests.converting import kit
from tests.engine.test_engine_real import Product, running_product
from tests.hub_server import HubServer, hub_server
from tests.unit.engine_kit import wait_until
from tray_app.client import Client
from tray_app.engine.process_tree import is_running

PAUSE_S = 1.5
SLOW = """#!/bin/sh
case " $* " in
*" --help "*|*" --version "*|*" --dry-run "*|*" --list-devices "*) ;;
*) sleep {pause} ;;
esac
exec "{program}" "$@"
"""
TOOLS = ("llama-server", "llama-quantize", "llama-imatrix")
STEPS = ("Convert to GGUF", "Check it", "Importance matrix", "Quantize to Q8_0", "Perplexity of Q8")
REPO = "herders/small-llama"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the pause is a shell script")


@pytest.fixture(scope="module")
def slow_server(llama_server: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real runtime, whose tools think before they work."""
    folder = tmp_path_factory.mktemp("slow")
    for path in llama_server.parent.iterdir():
        if path.name in TOOLS:
            made = folder / path.name
            made.write_text(SLOW.format(pause=PAUSE_S, program=path), encoding="utf-8")
            made.chmod(made.stat().st_mode | stat.S_IXUSR)
        else:
            (folder / path.name).symlink_to(path)
    return folder / llama_server.name


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as made:
        yield made


@pytest.fixture
def product(
    home: Path, free_port: int, slow_server: Path, converter: Path, hub: HubServer
) -> Iterator[Product]:
    kit.use(converter, home)
    table = {
        "version": 1,
        "server": {"port": free_port, "context_length": 512},
        "runtime": {"server_path": str(slow_server), "auto_build": False},
        "downloads": {"hub_endpoint": hub.url, "limit_bytes_s": 4_000_000},
    }
    (home / "settings.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    with running_product(home, free_port) as made:
        yield made


def begun(client: Client, source: str, **more: Any) -> str:
    """A conversion with every kind of step; the job's id."""
    args = {"types": ["Q8_0"], "imatrix": "compute", "measure": True, "name": "tiny", **more}
    return str(client.call("convert_model", source=source, **args)["job_id"])


def job_of(client: Client, job_id: str) -> dict[str, Any]:
    return next(job for job in client.snapshot()["jobs"] if job["id"] == job_id)


def at_step(client: Client, job_id: str, words: str) -> Callable[[], bool]:
    """Whether the job is at a step; fails when it has gone past its end."""

    def look() -> bool:
        job = job_of(client, job_id)
        assert job["state"] in ("queued", "running"), job
        return bool(job["steps"][job["step_number"]].startswith(words))

    return look


def is_done(product: Product) -> Callable[[], bool]:
    """Whether a later engine has come to the end of what an earlier one began."""

    def look() -> bool:
        client = Client.connect(product.home)
        jobs = [job for job in client.snapshot()["jobs"] if job["kind"] == "convert_model"]
        bad = [job["error"] for job in jobs if job["state"] == "failed"]
        log = product.home / "logs" / "convert.log"
        assert not bad, log.read_text(encoding="utf-8", errors="replace")[-3000:]
        return any(job["state"] == "done" for job in jobs)

    return look


def killed(product: Product) -> None:
    """SIGKILL for the engine."""
    process = product.started.pop()
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


def hidden(product: Product) -> list[str]:
    models = product.home / "models"
    return [p.name for p in models.rglob("*") if p.name.startswith(".")] if models.exists() else []


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_it_goes_on_by_itself(
    product: Product, small_llama: Path, step: str
) -> None:
    client = product.start()
    job_id = begun(client, str(small_llama))
    wait_until(at_step(client, job_id, step), 60)
    children = [each.pid for each in psutil.Process(client.engine_pid).children(recursive=True)]
    killed(product)
    wait_until(lambda: not any(is_running(pid) for pid in children))
    again = product.start()
    wait_until(is_done(product), 90)
    found = {model["quantization"] for model in again.snapshot()["models"]}
    assert found == {"F16", "Q8_0"}
    quality = again.call("model_quality", model_id="local/tiny:Q8_0")
    assert quality["perplexity"] == pytest.approx(quality["reference_perplexity"], rel=0.05)
    assert again.call("conversions")["unfinished"] == []
    assert hidden(product) == []
    log = (product.home / "logs" / "convert.log").read_text(encoding="utf-8", errors="replace")
    assert log.count("Model successfully exported") == 1  # what was done was not done again


@pytest.mark.parametrize("step", STEPS)
def test_cancelled_at_any_step_nothing_is_left(
    product: Product, small_llama: Path, step: str
) -> None:
    client = product.start()
    job_id = begun(client, str(small_llama), keep_full=False)
    wait_until(at_step(client, job_id, step), 60)
    client.call("cancel_job", job_id=job_id)
    wait_until(lambda: job_of(client, job_id)["state"] == "cancelled", 20)
    assert client.call("conversions")["unfinished"] == []
    assert hidden(product) == []
    left = [p.name for p in (product.home / "models").rglob("*") if p.is_file()]
    # A quantization that was made, proven and listed is a model, and stays.
    assert bool(left) == step.startswith(("Quantize", "Perplexity"))
    assert not [name for name in left if ".F16." in name]
    engine = psutil.Process(client.engine_pid)
    wait_until(lambda: not engine.children(recursive=True))


def test_from_a_hub_to_the_library_through_a_kill_and_a_cut_line(
    product: Product, hub: HubServer, small_llama: Path
) -> None:
    hub.put(REPO, {path.name: path for path in small_llama.iterdir()}, card={"license": "mit"})
    asked = product.run("pull", REPO)
    assert asked.returncode == 1
    assert f"llama-wrangler convert {REPO}" in asked.stderr
    plan = product.json("convert", REPO, "--plan")
    assert (plan["place"], plan["problem"], plan["license"]) == ("hub", "", "mit")
    assert plan["download_bytes"] > 11_000_000
    product.run("stop")
    client = product.start()
    job_id = begun(client, REPO, name="", measure=False, imatrix="")
    wait_until(lambda: job_of(client, job_id)["done"] > 2_000_000, 30)
    killed(product)
    client = product.start()
    wait_until(is_done(product), 90)
    models = {model["id"]: model for model in client.snapshot()["models"]}
    assert set(models) == {f"{REPO}:F16", f"{REPO}:Q8_0"}
    origin = client.call("model_origin", model_id=f"{REPO}:Q8_0")
    assert (origin["repo"], origin["license"], origin["made_from"]) == (REPO, "mit", "F16")
    kept = product.home / "models" / "originals" / "herders" / "small-llama"
    assert {path.name for path in kept.iterdir()} == {path.name for path in small_llama.iterdir()}
    assert hidden(product) == []
    fetched = sum(1 for each in hub.seen if each.origin == "cdn" and each.method == "GET")
    job = product.json("convert", REPO, "Q4_K_M", "--drop-originals")
    assert (job["state"], job["error"]) == ("done", None)
    assert sum(1 for e in hub.seen if e.origin == "cdn" and e.method == "GET") == fetched
    assert f"{REPO}:Q4_K_M" in {model["id"] for model in client.snapshot()["models"]}


def test_what_cannot_be_converted_is_told_before_a_download(
    product: Product, hub: HubServer, small_llama: Path
) -> None:
    files: dict[str, Any] = {path.name: path for path in small_llama.iterdir()}
    config = files["config.json"].read_bytes()
    odd = config.replace(b"LlamaForCausalLM", b"UnheardOfForCausalLM")
    hub.put("herders/odd", {**files, "config.json": odd})
    quantized = config.replace(b"{", b'{"quantization_config": {"quant_method": "awq"},', 1)
    hub.put("herders/awq", {**files, "config.json": quantized})
    hub.put("herders/bare", {k: v for k, v in files.items() if k.endswith(".safetensors")})
    hub.put("herders/none", {"README.md": b"# Nothing"})
    for repo, words in (
        ("herders/odd", "cannot convert UnheardOfForCausalLM"),
        ("herders/awq", "AWQ"),
        ("herders/bare", "config.json"),
        ("herders/none", "no original weights"),
    ):
        refused = product.run("convert", repo, "Q8_0")
        assert refused.returncode == 1, repo
        assert words in refused.stderr, repo
    assert not [each for each in hub.seen if each.origin == "cdn"]
    assert hidden(product) == []


def test_a_failed_step_is_kept_and_gone_on_with(
    product: Product, small_llama: Path, slow_server: Path
) -> None:
    client = product.start()
    tool = slow_server.with_name("llama-quantize")
    whole = tool.read_text(encoding="utf-8")
    try:
        tool.write_text(whole.replace(f"sleep {PAUSE_S}", "exit 3"), encoding="utf-8")
        job_id = begun(client, str(small_llama), imatrix="", measure=False)
        wait_until(lambda: job_of(client, job_id)["state"] == "failed", 60)
    finally:
        tool.write_text(whole, encoding="utf-8")
    (left,) = client.call("conversions")["unfinished"]
    assert left["steps"][left["step_number"]] == "Quantize to Q8_0"
    assert "Quantizing to Q8_0 failed: exit code 3" in left["error"]["message"]
    listed = product.run("convert").stdout
    assert left["id"] in listed
    assert "Quantize to Q8_0" in listed
    done = product.run("convert", "--continue", left["id"])
    assert done.returncode == 0, done.stderr
    assert {m["quantization"] for m in client.snapshot()["models"]} == {"F16", "Q8_0"}
    assert client.call("conversions")["unfinished"] == []


def test_an_unfinished_one_is_discarded_with_its_files(product: Product, small_llama: Path) -> None:
    client = product.start()
    job_id = begun(client, str(small_llama))
    wait_until(at_step(client, job_id, "Check it"), 60)
    assert hidden(product) != []
    (left,) = client.call("conversions")["unfinished"]
    client.call("discard_conversion", conversion_id=left["id"])
    wait_until(lambda: job_of(client, job_id)["state"] == "cancelled", 20)
    assert hidden(product) == []
    gone = product.run("convert", "--discard", left["id"])
    assert gone.returncode == 1
    assert "no such conversion" in gone.stderr
