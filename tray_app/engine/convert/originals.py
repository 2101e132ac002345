"""Where original weights are, here or on the Hub, and what is known of them before any download."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tray_app.engine.downloads import hub_originals
from tray_app.engine.downloads.huggingface import HuggingFace
from tray_app.engine.downloads.references import canonical, parse
from tray_app.engine.downloads.values import Hub, Plan, Reference, safe_name
from tray_app.engine.errors import BadRequest
from tray_app.engine.formats import folder as folders
from tray_app.engine.formats.bounded import Unreadable, parse_object, read_json, whole_path
from tray_app.engine.formats.converter import Known
from tray_app.engine.formats.inspect import OTHER, inspect
from tray_app.engine.formats.values import Action, Format, Report

CONFIG_BYTES = 4 << 20
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tiktoken.model")


@dataclass(frozen=True, slots=True)
class Originals:
    """Original weights, looked at."""

    source: str  # a whole path, or a reference
    owner: str  # folder of the results below the models folder
    name: str
    report: Report
    parameters: int | None
    plan: Plan | None = None  # how they are fetched; None: they are here
    base: str | None = None  # of a LoRA adapter, as its config names it

    @property
    def lora(self) -> bool:
        """Whether it is an adapter."""
        return self.report.format is Format.LORA

    @property
    def mark(self) -> str:
        """Changes with the weights."""
        if self.plan is not None:
            rows = [(f.path, f.remote.size_bytes, f.remote.sha256) for f in self.plan.files]
            told = repr([self.plan.reference, rows])
        else:
            stats = [(self.report.path / name).stat() for name in self.report.files]
            told = repr([self.source, [(each.st_size, each.st_mtime_ns) for each in stats]])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def full_bytes(self, output: str) -> int | None:
        """How large the GGUF becomes. The tokenizer's few MB are left out."""
        if self.parameters is None:
            return None
        bits = {"f32": 32.0, "q8_0": 8.5}.get(output, 16.0)
        return round(self.parameters * bits / 8)


def look(source: str, name: str, known: Known | None, hub: Callable[[], HuggingFace]) -> Originals:
    """Look at a folder, or ask the hub. Blocks for a small read, or seconds.

    What cannot be converted says so in its report. Raises BadRequest, NotFound, DownloadFailed.
    """
    path = whole_path(source)
    if path is not None:
        return _folder(path, name, known)
    reference = parse(source)
    if reference.hub is not Hub.HUGGINGFACE:
        raise BadRequest(
            f"{source[:120]} is no folder, and no repository of the Hugging Face Hub.",
            "Give a whole path, or a name like org/repo.",
        )
    return _hub(reference, name, known, hub())


def _folder(path: Path, name: str, known: Known | None) -> Originals:
    path = Path(os.path.normpath(path))
    if not path.is_dir():
        what = "is no folder" if path.exists() else "is not there"
        raise BadRequest(f"{path} {what}.", "Choose the folder that holds the weights.")
    report = inspect(path, known)
    parameters = report.tensors.parameters if report.tensors else None
    if parameters is None and report.files:
        parameters = report.size_bytes // 2
    return Originals(
        str(path), "local", plain_name(name or path.name), report, parameters, base=_base(path)
    )


def _base(path: Path) -> str | None:
    try:
        told = read_json(path / "adapter_config.json").get("base_model_name_or_path")
    except Unreadable:
        return None
    return told[:300] if isinstance(told, str) and told.isprintable() else None


def plain_name(name: str) -> str:
    """A name for files, of one that a folder may have. Raises BadRequest for an empty one."""
    kept = "".join(c if c.isprintable() and c not in '<>:"/\\|?*' else "-" for c in name)
    return safe_name(kept.strip(" .-")[:120] or "model")


# -- the hub


def _hub(reference: Reference, name: str, known: Known | None, hub: HuggingFace) -> Originals:
    listing = hub.everything(reference)
    files = hub_originals.chosen(listing.files, reference.folder)
    plan = hub_originals.plan_of(listing, files, hub.remote, reference.folder)
    names = [file.path.rpartition("/")[2] for file in files]
    lora = "adapter_config.json" in names and "config.json" not in names
    config_name = "adapter_config.json" if lora else "config.json"
    report = Report(Path(plan.files[0].path).parent, Format.HUGGINGFACE, "")
    config: dict[str, object] = {}
    if config_name in names:
        below = f"{reference.folder}/" if reference.folder else ""
        data, _ = hub.text(listing.id, listing.commit, below + config_name, CONFIG_BYTES)
        try:
            config = parse_object(data, config_name)
        except Unreadable as exc:
            report = _against(report, f"{exc}.")
    report = _remote_report(report, config, names, lora, known, plan)
    told = config.get("base_model_name_or_path")
    base = told if lora and isinstance(told, str) and told.isprintable() else None
    org, _, repo = listing.id.partition("/")
    if reference.folder:  # one of several models of the repository
        name = name or reference.folder.rpartition("/")[2]
    owner = "local" if name else org
    return Originals(
        canonical(reference),
        owner,
        plain_name(name or repo),
        report,
        _parameters(config, plan),
        plan,
        base,
    )


def _parameters(config: dict[str, object], plan: Plan) -> int | None:
    size = weights_bytes(plan)
    kind = config.get("dtype") or config.get("torch_dtype")
    return size // _BYTES.get(str(kind), 2) if size else None


def weights_bytes(plan: Plan) -> int:
    """What the weights of a plan take."""
    ends = (".safetensors", ".bin", ".pt", ".pth")
    return sum(f.remote.size_bytes or 0 for f in plan.files if f.path.lower().endswith(ends))


def _against(report: Report, problem: str, remedy: str = OTHER) -> Report:
    return replace(report, title=problem, problem=problem, remedy=remedy)


def _remote_report(
    report: Report,
    config: dict[str, object],
    names: list[str],
    lora: bool,
    known: Known | None,
    plan: Plan,
) -> Report:
    """As `inspect` would say of the folder, as far as names and config tell."""
    quantized = folders.quantization_of(config)
    architecture = folders.architecture_of(config)
    report = replace(
        report,
        format=Format.LORA if lora else report.format,
        size_bytes=plan.total_bytes or weights_bytes(plan),
        architecture=architecture,
        quantization=quantized[0] if quantized else None,
        context_length=folders.context_of(config),
        vision=folders.sees(config),
    )
    if report.problem:
        return report
    if lora:
        title = "A LoRA adapter, which can be converted to GGUF."
        return replace(report, title=title, actions=(Action.CONVERT_LORA,))
    if not config:
        return _against(report, "Its weights come without config.json.")
    if folders.is_mlx(config):
        return _against(report, "A model for Apple's MLX, in a quantization that only MLX reads.")
    if quantized and not quantized[1]:
        what = f"Weights quantized as {quantized[0]}, which the converter cannot undo."
        return _against(report, what)
    if architecture is None:
        return _against(report, "Its config.json names no architecture.")
    if known is not None and not known.knows(architecture):
        return _against(
            report,
            f"This llama.cpp cannot convert {architecture}.",
            "A newer llama.cpp may: see the Runtimes page.",
        )
    if not any(name in _TOKENIZERS or name.endswith(".tiktoken") for name in names):
        return _against(report, "Its tokenizer is missing.", "Look for it in its base model.")
    title = f"Original weights of {architecture}, which can be converted to GGUF."
    return replace(report, title=title, actions=(Action.CONVERT,))
