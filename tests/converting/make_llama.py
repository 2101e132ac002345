"""Makes a small Llama in Hugging Face form, trained a little on a text: `FOLDER TEXT`.

Its tokenizer is a real SentencePiece model of that text. Weights are trained for some seconds, so
that its answers depend on what is asked and quantizing it changes something.
"""

import json
import sys
from pathlib import Path

import sentencepiece
import torch
from transformers import LlamaConfig, LlamaForCausalLM

WORDS, SIZE, LAYERS, HEADS, CONTEXT = 1024, 256, 4, 4, 512


def main() -> None:
    folder, text = Path(sys.argv[1]), Path(sys.argv[2])
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 30
    torch.manual_seed(7)
    torch.set_num_threads(2)
    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=WORDS,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
        max_sentence_length=20000,
    )
    (folder / "tokenizer.vocab").unlink()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=SIZE,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=pieces.bos_id(),
        eos_token_id=pieces.eos_id(),
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    tokens = torch.tensor(pieces.encode(text.read_text(encoding="utf-8")))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        starts = torch.randint(0, len(tokens) - 129, (8,))
        batch = torch.stack([tokens[start : start + 128] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().to(torch.float32).save_pretrained(folder, max_shard_size="8MB")
    template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n"
        "{% endfor %}assistant:"
    )
    told = {
        "tokenizer_class": "LlamaTokenizer",
        "chat_template": template,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    print(json.dumps({"loss": loss.item(), "tokens": len(tokens)}))


main()
