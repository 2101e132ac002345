"""Prints the log probabilities that a model in Hugging Face form gives for the next token.

`FOLDER TOKEN…`: a JSON list over the whole vocabulary, computed in float32.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    folder, tokens = sys.argv[1], [int(word) for word in sys.argv[2:]]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens])).logits[0, -1]
    print(json.dumps(torch.log_softmax(logits, -1).tolist()))


main()
