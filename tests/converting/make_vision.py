"""Makes a small model that sees, in Hugging Face form: `FOLDER LLAMA`.

An Idefics3 (SmolVLM) with random weights, around the tokenizer of the Llama at `LLAMA`.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import Idefics3Config, Idefics3ForConditionalGeneration

IMAGE, PATCH = 64, 16


def main() -> None:
    folder, llama = Path(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(11)
    text = json.loads((llama / "config.json").read_text())
    config = Idefics3Config(
        text_config={**text, "model_type": "llama"},
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": IMAGE,
            "patch_size": PATCH,
        },
        image_token_id=3,
        scale_factor=2,
        tie_word_embeddings=False,
    )
    model = Idefics3ForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(llama / name, folder / name)
    told = {"size": {"longest_edge": IMAGE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))


main()
