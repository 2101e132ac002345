"""Makes a LoRA adapter in PEFT's form for the Llama at `LLAMA`: `FOLDER LLAMA`.

Two matrices for the queries and values of each layer, of rank 4, large enough to change answers.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

RANK = 4


def main() -> None:
    folder, llama = Path(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(13)
    config = json.loads((llama / "config.json").read_text())
    size, layers = config["hidden_size"], config["num_hidden_layers"]
    out = {
        "q_proj": size,
        "v_proj": size // config["num_attention_heads"] * config["num_key_value_heads"],
    }
    tensors = {}
    for layer in range(layers):
        for name, rows in out.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, size) * 0.3
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(rows, RANK) * 0.3
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    told = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 8,
        "target_modules": list(out),
        "base_model_name_or_path": str(llama),
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(told))


main()
