"""The Connect page's texts, run as they stand: in a shell, in Python, in Node.js, in parsers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine.test_engine_real import FIRST, ROOT, Product, product
from tray_app.client import Client

__all__ = ["product"]

NODE = shutil.which("node")
KEY_WORD = "YOUR-KEY"
WRITE = """
import { PROGRAMS } from '%s';
const ask = JSON.parse(process.argv[1]);
console.log(JSON.stringify(Object.fromEntries(PROGRAMS.map((p) => [p.id, p.write(ask)]))));
"""


def texts(**ask: Any) -> dict[str, str]:
    """Each program's text, as the page writes it."""
    assert NODE, "the page's tests need Node.js"
    module = (ROOT / "tray_app" / "web" / "connect-snippets.js").as_uri()
    argv = [NODE, "--input-type=module", "-e", WRITE % module, json.dumps(ask)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    return {name: row["text"] for name, row in json.loads(done.stdout).items()}


def run(argv: list[str], text: str, **env: str) -> str:
    done = subprocess.run(
        argv, input=text, capture_output=True, text=True, timeout=60, env=env or None, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(params=[False, True], ids=["open", "keyed"])
def written(request: pytest.FixtureRequest, product: Product) -> dict[str, str]:
    """The texts for a running engine, with a real key in its place where one is needed."""
    client = product.start()
    client.call("switch_model", model_id=FIRST)
    client.call("change_model_settings", model_id=FIRST, changes={"max_tokens": 12})
    key = client.call("create_api_key", name="all")["new_key"]["key"] if request.param else ""
    found = texts(
        base=f"http://127.0.0.1:{product.port}/v1",
        model="default",
        follows=FIRST,
        keyed=bool(key),
        embedding=False,
        linux=True,
    )
    assert (KEY_WORD in found["curl"]) == bool(key)
    return {name: text.replace(KEY_WORD, key) for name, text in found.items()}


def test_what_is_run_runs(written: dict[str, str], tmp_path: Path) -> None:
    answer = json.loads(run(["bash", "-eu"], written["curl"].replace("curl ", "curl -sSf ", 1)))
    assert answer["choices"][0]["message"]["content"]
    for name in ("python", "ollama"):
        assert run([sys.executable, "-"], written[name]), name
    module = tmp_path / "ask.mjs"
    module.write_text(written["javascript"], encoding="utf-8")
    assert NODE
    assert run([NODE, str(module)], "") not in ("", "undefined")


def test_what_is_a_file_is_one_and_leads_here(written: dict[str, str], product: Product) -> None:
    codex = tomllib.loads(written["codex"])
    provider = codex["model_providers"][codex["model_provider"]]
    # The only protocol that Codex still speaks (0.169); the answer comes as a stream.
    assert provider["wire_api"] == "responses"
    zed = json.loads(written["zed"])["language_models"]["openai_compatible"]["Llama Wrangler"]
    (model,) = yaml.safe_load(written["continue"])["models"]
    base = f"http://127.0.0.1:{product.port}/v1"
    assert provider["base_url"] == zed["api_url"] == model["apiBase"] == base
    assert codex["model"] == zed["available_models"][0]["name"] == model["model"] == "default"
    assert json.loads(written["copilot"]) == {
        "github.copilot.chat.byok.ollamaEndpoint": base.removesuffix("/v1")
    }
    assert f"Base URL: {base}\n" in written["cline"]
    assert f"OPENAI_API_BASE_URL={base} " in written["open-webui"]


def test_claude_codes_variables_open_the_anthropic_endpoint(written: dict[str, str]) -> None:
    """The program itself is stood in for by a request as it sends them."""
    stand_in = """
claude() {
  curl -sSf "$ANTHROPIC_BASE_URL/v1/messages" -H "Authorization: Bearer $ANTHROPIC_AUTH_TOKEN" \\
    -H "anthropic-version: 2023-06-01" -H "Content-Type: application/json" \\
    -d '{"model": "'"$2"'", "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}]}'
}
"""
    answer = json.loads(run(["bash", "-eu"], stand_in + written["claude"]))
    assert answer["type"] == "message"
    assert answer["model"] == FIRST
    assert answer["content"][0]["text"]


def test_the_responses_endpoint_streams(product: Product) -> None:
    client: Client = product.start()
    client.call("switch_model", model_id=FIRST)
    status, answer = product.ask(
        "/v1/responses", {"model": "default", "input": "Say hello.", "max_output_tokens": 8}
    )
    assert status == 200
    assert answer["output"][-1]["content"][0]["text"]
