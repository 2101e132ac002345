"""What is at a path: one report, from content, within a second and bounded memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tray_app.engine import gguf, naming
from tray_app.engine.errors import BadGguf

from . import folder as folders
from . import pickles, safetensors
from .bounded import Unreadable, read_json, read_start
from .code import code_in
from .converter import Known
from .values import Action, Format, Report

_GGML_MAGICS = {b"lmgg": "ggml", b"fmgg": "ggmf", b"tjgg": "ggjt", b"algg": "ggla"}
_NO_MODEL = {
    "adapter": "A LoRA adapter: it changes a model and is none itself.",
    "imatrix": "An importance matrix: it helps to quantize a model.",
    "mmproj": "A projector: it comes along with a model that sees pictures.",
}
OTHER = "Look for a GGUF of the same model on the Discover page."


def inspect(path: Path, known: Known | None = None) -> Report:
    """What is at `path` and what can be done with it; never raises for what it finds.

    `known` is what the converter at hand reads; None: not known, and said so. Blocks for small
    reads, headers of weights included (0.1 s for a folder of ten shards).
    """
    try:
        if path.is_dir():
            return _folder(path, known)
        return _file(path)
    except Unreadable as exc:
        return _problem(path, Format.UNKNOWN, f"{exc}.", OTHER)
    except OSError as exc:
        return _problem(path, Format.UNKNOWN, f"{path.name} cannot be read: {exc.strerror}.", "")


def _problem(path: Path, kind: Format, problem: str, remedy: str, **fields: object) -> Report:
    report = Report(path, kind, problem, problem=problem, remedy=remedy)
    return replace(report, **fields)  # type: ignore[arg-type]


# -- files


def _file(path: Path) -> Report:
    start = read_start(path, 16)
    size = path.stat().st_size
    if start[:4] == b"GGUF":
        return _gguf(path, size)
    if start[:4] in _GGML_MAGICS:
        name = _GGML_MAGICS[start[:4]]
        return _problem(
            path,
            Format.GGML,
            f"A file in the {name} format, which llama.cpp has not read since August 2023.",
            OTHER,
            size_bytes=size,
        )
    if safetensors.is_safetensors(start):
        tensors, _ = safetensors.read_tensors(path)
        return Report(
            path,
            Format.SAFETENSORS,
            f"Weights with {tensors.count:,} tensors, without the files that tell what they are.",
            size_bytes=size,
            tensors=tensors,
            missing=("config.json", "a tokenizer"),
            problem="One safetensors file alone says not what model it is.",
            remedy="Choose the folder it is in, with its config.json and tokenizer.",
        )
    if pickles.is_pickle(start):
        return _pickle(path, size)
    if start[:1] == b"\x08" and path.suffix.lower() == ".onnx":
        return _problem(path, Format.ONNX, "An ONNX model, which llama.cpp cannot use.", OTHER)
    if not start:
        return _problem(path, Format.UNKNOWN, f"{path.name} is empty.", "Download it again.")
    return _problem(path, Format.UNKNOWN, f"{path.name} is no model of a kind known here.", OTHER)


def _gguf(path: Path, size: int) -> Report:
    kind = Format.OLLAMA if path.name.startswith("sha256-") else Format.GGUF
    try:
        header = gguf.read_details(path)
    except BadGguf as error:
        return _problem(path, kind, error.message, error.remedy, size_bytes=size)
    facts = (("Version", str(header.version)), ("Tensors", f"{header.tensor_count:,}"))
    what = "mmproj" if header.architecture == "clip" else header.general_type
    report = Report(
        path,
        kind,
        f"A GGUF model{f' in {header.quantization}' if header.quantization else ''}.",
        size_bytes=size,
        architecture=header.architecture,
        quantization=header.quantization,
        context_length=header.context_length,
        facts=facts,
    )
    if what in _NO_MODEL:
        return replace(report, title=_NO_MODEL[what])
    name = naming.parse_file_name(path.name)
    actions = [Action.RUN, Action.IMPORT, Action.QUANTIZE]
    warnings = []
    if name.shard_count > 1:
        actions.append(Action.MERGE)
    else:
        actions.append(Action.SPLIT)
    if header.has_chat_template is False:
        warnings.append("It has no chat template: llama.cpp takes a general one for chats.")
    return replace(report, actions=tuple(actions), warnings=tuple(warnings))


def _pickle(path: Path, size: int) -> Report:
    found = pickles.look(path)
    if found.dangerous:
        names = ", ".join(found.foreign[:3])
        return _problem(
            path,
            Format.PICKLE,
            f"A PyTorch file that would run code when it is loaded: {names}.",
            "Do not open it. Look for the same model as safetensors or GGUF.",
            size_bytes=size,
        )
    return _problem(
        path,
        Format.PICKLE,
        "PyTorch weights, without the files that tell what they are.",
        "Choose the folder it is in, with its config.json and tokenizer.",
        size_bytes=size,
    )


# -- folders


def _folder(path: Path, known: Known | None) -> Report:
    names = folders.names_in(path)
    if "adapter_config.json" in names:
        return _lora(path, names)
    if "config.json" not in names:
        return _without_config(path, names)
    config = read_json(path / "config.json")
    weights = folders.find_weights(path, names)
    tokenizer = folders.find_tokenizer(path, names)
    quantized = folders.quantization_of(config)
    report = Report(
        path,
        Format.MLX if folders.is_mlx(config) else Format.HUGGINGFACE,
        "",
        files=tuple(weights.files),
        size_bytes=weights.size_bytes,
        architecture=folders.architecture_of(config),
        quantization=quantized[0] if quantized else None,
        tensors=weights.tensors,
        tokenizer=tokenizer,
        context_length=folders.context_of(config),
        vision=folders.sees(config),
        missing=tuple(weights.missing[:20]),
    )
    problem, remedy = _against(report, weights, quantized, known)
    if problem:
        return replace(report, title=problem, problem=problem, remedy=remedy)
    name = report.architecture or "a model"
    title = f"Original weights of {name}, which can be converted to GGUF."
    return replace(report, title=title, actions=(Action.CONVERT,), warnings=_doubts(path, report))


def _against(
    report: Report,
    weights: folders.Weights,
    quantized: tuple[str, bool] | None,
    known: Known | None,
) -> tuple[str, str]:
    """Why it cannot be converted, and what helps; empty when nothing stands against it."""
    if report.format is Format.MLX:
        return "A model for Apple's MLX, in a quantization that only MLX reads.", OTHER
    if weights.missing:
        some = ", ".join(weights.missing[:3])
        return f"{len(weights.missing)} of its weight files are missing: {some}.", "Download them."
    if weights.broken:
        return f"{weights.broken[0]}.", "Download that file again."
    if not weights.files:
        return "A model's folder without weights.", "Download its weights, too."
    if quantized and not quantized[1]:
        return f"Weights quantized as {quantized[0]}, which the converter cannot undo.", OTHER
    if report.architecture is None:
        return "Its config.json names no architecture.", OTHER
    if known is not None and not known.knows(report.architecture):
        return f"This llama.cpp cannot convert {report.architecture}.", (
            "A newer llama.cpp may: see the Runtimes page."
        )
    if report.tokenizer is None:
        return "Its tokenizer is missing.", "Download tokenizer.json or tokenizer.model, too."
    return "", ""


def _doubts(path: Path, report: Report) -> tuple[str, ...]:
    lines = []
    if code := code_in(path):
        more = f" and {len(code) - 1} more" if len(code) > 1 else ""
        lines.append(f"Program code lies in it ({code[0]}{more}): it is not run.")
    pickled = [name for name in report.files if name.endswith(".bin")]
    for name in pickled[:1]:
        found = pickles.look(path / name)
        lines.append(
            f"{name} would call {found.foreign[0]}: the converter refuses to."
            if found.dangerous
            else "Its weights are PyTorch files; the converter loads tensors from them only."
        )
    if report.tokenizer is not None and report.tokenizer.has_chat_template is False:
        lines.append("It has no chat template: llama.cpp takes a general one for chats.")
    return tuple(lines)


def _lora(path: Path, names: list[str]) -> Report:
    config = read_json(path / "adapter_config.json")
    kind = str(config.get("peft_type", ""))[:40]
    weights = [n for n in ("adapter_model.safetensors", "adapter_model.bin") if n in names]
    base = config.get("base_model_name_or_path")
    facts = (("Base model", base[:200]),) if isinstance(base, str) and base.isprintable() else ()
    report = Report(
        path,
        Format.LORA,
        "A LoRA adapter, which can be converted to GGUF.",
        (Action.CONVERT_LORA,),
        tuple(weights),
        facts=facts,
    )
    if kind != "LORA":
        problem = f"An adapter of the kind {kind or 'unknown'}; only LoRA can be converted."
        return replace(report, title=problem, actions=(), problem=problem, remedy=OTHER)
    if not weights:
        problem = "A LoRA adapter without its weights."
        return replace(report, title=problem, actions=(), problem=problem, remedy="Download them.")
    size = (path / weights[0]).stat().st_size
    if weights[0].endswith(".safetensors"):
        tensors, _ = safetensors.read_tensors(path / weights[0])
        report = replace(report, tensors=tensors)
    return replace(report, size_bytes=size)


def _without_config(path: Path, names: list[str]) -> Report:
    ggufs = [name for name in names if naming.is_gguf(name)]
    if ggufs:
        return Report(
            path,
            Format.GGUF,
            f"A folder with {len(ggufs)} GGUF files: add it to the library.",
            (Action.IMPORT,),
            tuple(ggufs[:100]),
        )
    if any(name.endswith(".onnx") for name in names):
        return _problem(path, Format.ONNX, "An ONNX model, which llama.cpp cannot use.", OTHER)
    weights = [name for name in names if name.endswith((".safetensors", ".bin"))]
    if weights:
        return _problem(
            path,
            Format.HUGGINGFACE,
            "A folder with weights and without config.json.",
            "Download config.json and the tokenizer of the same repository, too.",
            files=tuple(weights[:100]),
            missing=("config.json",),
        )
    return _problem(path, Format.UNKNOWN, "There is no model in this folder.", OTHER)
