"""Makes a folder in Hugging Face form of SmolLM2's GGUF file, in float16: `GGUF FOLDER`.

transformers reads weights, vocabulary and merges from it. How text is cut before that is only
named in a GGUF ("smollm"), so it is put in here as the original tokenizer has it: digits one by
one, then GPT-2's pattern.
"""

import sys
from pathlib import Path

import torch
from tokenizers import decoders, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast


def main() -> None:
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    named = {"gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float16, **named)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **named)
    inner = tokenizer.backend_tokenizer
    cut = [pre_tokenizers.Digits(individual_digits=True)]
    cut.append(pre_tokenizers.ByteLevel(add_prefix_space=False))
    inner.pre_tokenizer = pre_tokenizers.Sequence(cut)
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    inner.decoder = decoders.ByteLevel()
    inner.normalizer = None
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    plain = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    plain.chat_template = tokenizer.chat_template
    plain.save_pretrained(folder)


main()
