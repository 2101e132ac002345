"""Original weights become GGUF for real: proven, served, and numerically what they were."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest
import tomli_w
from PIL import Image

from tests.converting import kit
from tests.converting.kit import Served, cosine, script
from tests.engine.test_engine_real import Product, running_product
from tray_app.client import Client
from tray_app.engine.convert.without_code import without_code

SENTENCE = "A llama is a mild animal that carries wool over the mountains."
TYPES = ("Q8_0", "Q5_K_M", "Q4_K_M")
TOKENS = (1, 40, 77, 300, 512, 19, 7)


@pytest.fixture
def product(home: Path, free_port: int, llama_server: Path, converter: Path) -> Iterator[Product]:
    kit.use(converter, home)
    table = {
        "version": 1,
        "server": {"port": free_port, "context_length": 512},
        "runtime": {"server_path": str(llama_server), "auto_build": False},
    }
    (home / "settings.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    with running_product(home, free_port) as made:
        yield made


def models_of(product: Product) -> dict[str, dict[str, Any]]:
    """The library by quantization."""
    client = Client.connect(product.home)
    return {model["quantization"]: model for model in client.snapshot()["models"]}


def is_clean(product: Product) -> bool:
    """Whether nothing hidden is left in the models folder."""
    models = product.home / "models"
    return not models.exists() or not [p for p in models.rglob("*") if p.name.startswith(".")]


def test_a_real_embedding_model_and_three_quantizations_embed_alike(
    product: Product, converter: Path, minilm: Path
) -> None:
    plan = product.json("convert", str(minilm), "--plan")
    assert plan["problem"] == ""
    assert plan["architecture"] == "BertModel"
    assert 20_000_000 < plan["parameters"] < 25_000_000
    job = product.json("convert", str(minilm), *TYPES, "--output", "f16", "--name", "MiniLM")
    assert (job["state"], job["error"]) == ("done", None)
    assert job["step_number"] == len(job["steps"]) == 6
    models = models_of(product)
    assert set(models) == {"F16", *TYPES}
    assert abs(models["F16"]["size_bytes"] - plan["full_bytes"]) < 3_000_000
    original = script(converter, "embed.py", minilm, SENTENCE)
    other = script(converter, "embed.py", minilm, "The stock market fell sharply.")
    Client.connect(product.home).call("keep_running", mode="serve")
    found = {}
    for label, model in models.items():
        status, answer = product.ask("/v1/embeddings", {"model": model["id"], "input": SENTENCE})
        assert status == 200, answer
        found[label] = cosine(original, answer["data"][0]["embedding"])
    with ollama.Client(f"http://127.0.0.1:{product.port}") as client:
        vectors = client.embed(models["F16"]["id"], [SENTENCE, "Stocks."]).embeddings
        assert len(vectors) == 2
        assert cosine(original, list(vectors[0])) > 0.9999
        older = list(client.embeddings(models["F16"]["id"], SENTENCE).embedding)
        assert cosine(original, older) > 0.9999
        assert client.show(models["F16"]["id"]).capabilities == ["embedding"]
    assert found["F16"] > 0.9999
    assert found["Q8_0"] > 0.999
    assert found["Q4_K_M"] > 0.98
    assert cosine(original, other) < 0.5  # or all of this would say nothing
    assert is_clean(product)
    assert not (product.home / "models" / "originals").exists()


def test_a_llama_keeps_its_logits_and_is_not_converted_twice(
    product: Product, converter: Path, small_llama: Path, llama_server: Path
) -> None:
    job = product.json("convert", str(small_llama), *TYPES, "--output", "f32", "--name", "tiny")
    assert (job["state"], job["error"]) == ("done", None)
    models = models_of(product)
    assert set(models) == {"F32", *TYPES}
    expected = script(converter, "logits.py", small_llama, *map(str, TOKENS))
    worst = {}
    for label, model in models.items():
        with Served(llama_server, Path(model["path"])) as served:
            found = served.log_probabilities(TOKENS, len(expected))
        assert len(found) == len(expected)
        worst[label] = max(abs(expected[token] - value) for token, value in found.items())
    assert worst["F32"] < 0.01
    assert worst["F32"] < worst["Q8_0"] < worst["Q4_K_M"] < 3.0
    full = Path(models["F32"]["path"])
    before = full.stat().st_mtime_ns
    again = product.json("convert", str(small_llama), "Q6_K", "--output", "f32", "--name", "tiny")
    assert (again["state"], again["error"]) == ("done", None)
    assert full.stat().st_mtime_ns == before
    log = (product.home / "logs" / "convert.log").read_text(encoding="utf-8")
    assert log.count("Model successfully exported") == 1
    assert set(models_of(product)) == {"F32", "Q6_K", *TYPES}


def test_an_importance_matrix_overrides_and_perplexity(
    product: Product, small_llama: Path, tmp_path: Path
) -> None:
    job = product.json(
        "convert",
        str(small_llama),
        *("IQ2_XXS", "Q8_0", "--name", "tiny", "--drop-full"),
        *("--imatrix", "compute", "--perplexity", "--tensor-type", "attn_v=q8_0"),
    )
    assert (job["state"], job["error"]) == ("done", None)
    models = models_of(product)
    assert set(models) == {"IQ2_XXS", "Q8_0"}  # the unquantized one was not to stay
    client = Client.connect(product.home)
    quality = {
        label: client.call("model_quality", model_id=model["id"]) for label, model in models.items()
    }
    assert quality["IQ2_XXS"]["perplexity"] > quality["Q8_0"]["perplexity"]
    assert quality["Q8_0"]["reference"] == "F16"
    assert "short text" in quality["IQ2_XXS"]["sentence"]
    origin = client.call("model_origin", model_id=models["IQ2_XXS"]["id"])
    assert origin["overrides"] == "attn_v=q8_0"
    matrix = next((product.home / "models" / "local" / "tiny").glob("*.imatrix"))
    named = product.json("quantize", models["Q8_0"]["id"], "IQ2_M", "--imatrix", str(matrix))
    assert (named["state"], named["error"]) == ("done", None)
    refused = product.run("quantize", models["Q8_0"]["id"], "IQ1_S")
    assert refused.returncode == 1
    assert "needs an importance matrix" in refused.stderr
    odd = product.run("quantize", models["Q8_0"]["id"], "Q4_0", "--tensor-type", "attn_v=q9_9")
    assert odd.returncode == 1
    assert "invalid ggml_type 'q9_9'" in odd.stderr
    bad = tmp_path / "matrix.dat"
    bad.write_bytes(b"\x00" * 100)
    broken = product.run("quantize", models["Q8_0"]["id"], "Q4_0", "--imatrix", str(bad))
    assert broken.returncode == 1
    assert "matrix.dat is no importance matrix" in broken.stderr
    assert is_clean(product)


def test_program_code_beside_the_weights_is_never_run(
    product: Product, converter: Path, minilm: Path, tmp_path: Path
) -> None:
    """The converter reads some tokenizers with trust_remote_code, which imports what they name."""
    folder, mark = tmp_path / "trap", tmp_path / "it-was-run"
    shutil.copytree(minilm, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["auto_map"] = {"AutoTokenizer": ["trap.Tokenizer", "trap.Tokenizer"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "trap.py").write_text(
        f"open({str(mark)!r}, 'w').close()\n"
        "from transformers import BertTokenizerFast as Tokenizer\n",
        encoding="utf-8",
    )
    words = script(converter, "read_tokenizer.py", folder)
    assert mark.exists(), "or this would show nothing"
    mark.unlink()
    view = without_code(folder, tmp_path / "view")
    assert script(converter, "read_tokenizer.py", view) == words
    assert not mark.exists()

    plan = product.json("convert", str(folder), "--plan")
    assert "Program code lies in it (trap.py): it is not run." in plan["warnings"]
    job = product.json("convert", str(folder), "--output", "f16", "--name", "trapped")
    assert (job["state"], job["error"]) == ("done", None)
    assert not mark.exists()
    assert "trap.py" in {path.name for path in folder.iterdir()}


def test_what_sees_comes_with_its_projector(
    product: Product, converter: Path, small_llama: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "seer"
    script(converter, "make_vision.py", folder, small_llama)
    job = product.json("convert", str(folder), "Q8_0", "--name", "seer")
    assert (job["state"], job["error"]) == ("done", None)
    assert "Convert the projector" in job["steps"]
    models = models_of(product)
    assert set(models) == {"F16", "Q8_0"}
    for model in models.values():
        assert model["mmproj_path"].endswith("mmproj-seer-F16.gguf")
    Client.connect(product.home).call("keep_running", mode="serve")
    status, answer = product.chat(models["Q8_0"]["id"])
    assert status == 200, answer
    Client.connect(product.home).call(
        "change_model_settings",
        model_id=models["F16"]["id"],
        changes={"mmproj_path": models["Q8_0"]["mmproj_path"]},
    )
    assert product.chat(models["F16"]["id"])[0] == 200
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    seer = models["Q8_0"]["id"]
    url = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": url}}]
    asked = {"model": seer, "messages": [{"role": "user", "content": parts}], "max_tokens": 4}
    status, answer = product.ask("/v1/chat/completions", asked)
    # This model's vocabulary ends before the marks of a picture: what matters is that it was seen.
    assert (status, answer["error"]["message"]) == (400, "Invalid token")
    message = {"role": "user", "content": "Look:", "images": [picture.getvalue()]}
    with ollama.Client(f"http://127.0.0.1:{product.port}") as client:
        assert "vision" in (client.show(seer).capabilities or [])
        with pytest.raises(ollama.ResponseError, match="Invalid token"):
            client.chat(seer, [message])


def test_an_adapter_is_tried_with_its_base_and_changes_what_it_says(
    product: Product, converter: Path, small_llama: Path, llama_server: Path, tmp_path: Path
) -> None:
    assert product.json("convert", str(small_llama), "--name", "tiny")["state"] == "done"
    folder = tmp_path / "adapter"
    script(converter, "make_lora.py", folder, small_llama)
    plan = product.json("convert", str(folder), "--plan")
    assert plan["lora"]
    assert plan["base"] == str(small_llama)
    job = product.json("convert", str(folder), "--name", "spin")
    assert (job["state"], job["error"]) == ("done", None)
    made = product.home / "models" / "local" / "spin" / "spin-lora.F16.gguf"
    base = Path(models_of(product)["F16"]["path"])
    log = (product.home / "logs" / "convert.log").read_text(encoding="utf-8")
    assert "was not tried together" not in log
    with Served(llama_server, base) as served:
        plain = served.log_probabilities(TOKENS, 50)
    with Served(llama_server, base, "--lora", str(made)) as served:
        changed = served.log_probabilities(TOKENS, 50)
    assert plain != changed
    lost = product.run("convert", str(folder), "--name", "lost", "--base", str(tmp_path))
    assert lost.returncode == 1
    assert "has no config.json" in lost.stderr


def test_smollm2_goes_to_its_original_form_and_back(
    product: Product, converter: Path, smollm2: Path, llama_server: Path, tmp_path: Path
) -> None:
    """The closest there is to a real causal model in its original form: made of its GGUF.

    Q4_1 weights are what they are in any form. What is made again must compute as PyTorch does, and
    say what the first one says, whose Q4_1 arithmetic rounds what goes through it to 8 bits.
    """
    folder = tmp_path / "smollm2"
    gguf = kit.with_gguf(converter, tmp_path / "packages")
    script(converter, "gguf_to_folder.py", smollm2, folder, beside=gguf)
    job = product.json("convert", str(folder), "--output", "f16", "--name", "Back")
    assert (job["state"], job["error"]) == ("done", None)
    back = Path(models_of(product)["F16"]["path"])
    with Served(llama_server, smollm2) as first:
        tokens = kit.post(first.port, "/tokenize", {"content": SENTENCE})["tokens"]
        expected = first.log_probabilities(tokens, 100)
        said = first.text("The capital of France is")
    with Served(llama_server, back) as second:
        again = kit.post(second.port, "/tokenize", {"content": SENTENCE})["tokens"]
        found = second.log_probabilities(tokens, 100)
        says = second.text("The capital of France is")
    assert again == tokens
    common = set(expected) & set(found)
    assert len(common) > 90
    assert max(abs(expected[token] - found[token]) for token in common) < 0.6
    torch = script(converter, "logits.py", folder, *map(str, tokens))
    assert max(abs(torch[token] - value) for token, value in found.items()) < 0.05
    assert "Paris" in said
    assert "Paris" in says
