"""Reads a folder's tokenizer as llama.cpp's converter does for several architectures: `FOLDER`."""

import json
import sys

from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
print(json.dumps({"words": len(tokenizer)}))
