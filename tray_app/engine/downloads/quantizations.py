"""Each quantization that llama.cpp writes, in one plain sentence for people who choose. Pure.

Bits per weight are those measured for Llama 3.1 8B, and losses the perplexity gained for Llama 3
8B, in llama.cpp b11434: `tools/quantize/README.md` and `quantize.cpp`. Formats that are not in
these tables have the bits of their blocks (`gguf_types.TENSOR_TYPES`).
"""

from __future__ import annotations

UNKNOWN = "A quantization that this program does not know: its size is all that can be told of it."
_DYNAMIC = "UD-"

_SENTENCES = {
    "F32": "32 bits per weight: full precision; no better in use than 16 bits, at twice the size.",
    "F16": "16 bits per weight: as good as the original, three times the size of Q4_K_M.",
    "BF16": "16 bits per weight: the original's own format; older GPUs compute slowly with it.",
    "Q8_0": "About 8.5 bits per weight: hardly to be told from 16 bits, at about half the size.",
    "Q6_K": "About 6.6 bits per weight: nearly as good as the original.",
    "Q5_K_M": "About 5.7 bits per weight: a very small loss of quality.",
    "Q5_K_S": "About 5.6 bits per weight: a small loss, a little smaller than Q5_K_M.",
    "Q5_1": "About 6 bits per weight: an older format; Q5_K_M is better and smaller.",
    "Q5_0": "About 5.5 bits per weight: an older format; Q5_K_S is a little better.",
    "Q4_K_M": "About 4.9 bits per weight: the usual choice, a small loss at a third of F16's size.",
    "Q4_K_S": "About 4.7 bits per weight: a little smaller than Q4_K_M, and a little worse.",
    "Q4_1": "About 5 bits per weight: an older format; Q4_K_M is better and smaller.",
    "Q4_0": "About 4.5 bits per weight: an older format, fast on many processors, a visible loss.",
    "IQ4_NL": "About 4.7 bits per weight: like Q4_K_S in size, slower on some processors.",
    "IQ4_XS": "About 4.5 bits per weight: a little smaller than Q4_K_S at much the same quality.",
    "Q3_K_L": "About 4.3 bits per weight: a clear loss; for when Q4_K_S does not fit.",
    "Q3_K_M": "About 4.0 bits per weight: a clear loss of quality.",
    "Q3_K_S": "About 3.6 bits per weight: a large loss of quality.",
    "IQ3_M": "About 3.8 bits per weight: a clear loss, often slower on processors.",
    "IQ3_S": "About 3.7 bits per weight: a clear loss, often slower on processors.",
    "IQ3_XS": "About 3.5 bits per weight: a clear loss, often slower on processors.",
    "IQ3_XXS": "About 3.3 bits per weight: a large loss, often slower on processors.",
    "Q2_K": "About 3.2 bits per weight: a very large loss; a smaller model may answer better.",
    "Q2_K_S": "About 3.0 bits per weight: a very large loss; a smaller model may answer better.",
    "IQ2_M": "About 2.9 bits per weight: a very large loss; a smaller model may answer better.",
    "IQ2_S": "About 2.7 bits per weight: a very large loss; a smaller model may answer better.",
    "IQ2_XS": "About 2.6 bits per weight: a very large loss; a smaller model may answer better.",
    "IQ2_XXS": "About 2.4 bits per weight: an extreme loss; only for very large models.",
    "IQ1_M": "About 2.1 bits per weight: an extreme loss; only for very large models.",
    "IQ1_S": "About 2.0 bits per weight: an extreme loss; only for very large models.",
    "TQ2_0": "About 2.1 bits per weight: for models that were trained with three-valued weights.",
    "TQ1_0": "About 1.7 bits per weight: for models that were trained with three-valued weights.",
    "Q2_0": "About 2.25 bits per weight: for models that were trained for so few bits.",
    "Q1_0": "About 1.1 bits per weight: for models that were trained with one-bit weights.",
    "MXFP4": "About 4.3 bits per weight: a 4-bit floating-point format, gpt-oss's own.",
    "NVFP4": "About 4.5 bits per weight: NVIDIA's 4-bit floating-point format.",
}
# Publishers' own mixes: llama-quantize does not know these names, many repositories do.
_MIXES = {
    "Q2_K_L": "Q2_K with better embedding and output weights: a little larger.",
    "Q3_K_XL": "Q3_K with better embedding and output weights: a little larger.",
    "Q4_K_L": "Q4_K_M with better embedding and output weights: a little larger.",
    "Q5_K_L": "Q5_K_M with better embedding and output weights: a little larger.",
    "Q6_K_L": "Q6_K with better embedding and output weights: a little larger.",
    "Q2_K_XL": "Q2_K with more bits for the weights that matter most.",
    "Q4_K_XL": "Q4_K with more bits for the weights that matter most.",
    "Q5_K_XL": "Q5_K with more bits for the weights that matter most.",
    "Q6_K_XL": "Q6_K with more bits for the weights that matter most.",
    "Q8_K_XL": "Q8_0 with more bits for the weights that matter most.",
}
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4_MOE": "MXFP4"}
_ALL = _SENTENCES | _MIXES | {name: _SENTENCES[of] for name, of in _ALIASES.items()}


def explain(label: str | None) -> str:
    """`label` ("Q4_K_M", "UD-Q4_K_XL") in one sentence; of an unknown one nothing is claimed."""
    if label is None:
        return "Its name does not tell which quantization it is."
    upper = label.upper().replace("UD_", _DYNAMIC)
    known = _ALL.get(upper.removeprefix(_DYNAMIC))
    if known is None:
        return UNKNOWN
    if upper.startswith(_DYNAMIC):
        return f"Unsloth's dynamic mix, bits differ from layer to layer. Its base: {known}"
    return known


def all_known() -> dict[str, str]:
    """Every label with its sentence, the most bits first; dynamic ones are told by `explain`."""
    return dict(_ALL)
