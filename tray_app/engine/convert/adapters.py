"""LoRA adapters: what the converter has to know of their base model, and their proof."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tray_app.engine import gguf
from tray_app.engine.downloads.references import parse
from tray_app.engine.downloads.service import DownloadService
from tray_app.engine.downloads.values import Hub
from tray_app.engine.errors import BadRequest, ConversionFailed, EngineError
from tray_app.engine.formats.bounded import Unreadable, read_json, whole_path
from tray_app.engine.jobs import JobContext
from tray_app.engine.values import Model, Runtime

from .making import Making

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

CONFIG = "config.json"
# Configuration alone: the converter needs no weights of the base model (b11434).
NEEDED = (CONFIG, "tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json")
LARGEST_BYTES = 64 << 20
MAX_NUMBER = 1 << 24  # of a configuration; real ones stay below 300,000


def fetch_base(service: DownloadService, adapter: Path, wished: str, folder: Path) -> list[Path]:
    """The base model's configuration, copied or asked of the hub. Blocks for seconds.

    `wished` is a folder or a name; empty: what the adapter names. Raises BadRequest, NotFound,
    DownloadFailed.
    """
    base = wished or _named(adapter)
    place = whole_path(base)
    if place is not None and place.is_dir():
        found = [place / name for name in NEEDED if (place / name).is_file()]
        if not any(path.name == CONFIG for path in found):
            raise BadRequest(f"{place} has no {CONFIG}.", "Choose the base model's folder.")
        return [Path(shutil.copyfile(path, folder / path.name)) for path in found]
    reference = parse(base)
    if reference.hub is not Hub.HUGGINGFACE:
        raise BadRequest(f"{base[:120]} is no base model.", "Give its folder, or org/repo.")
    hub = service.hub()
    listing = hub.everything(reference)
    names = {file.path for file in listing.files}
    if CONFIG not in names:
        raise BadRequest(f"{listing.id} has no {CONFIG}.", "Name another base model.")
    made = []
    for name in NEEDED:
        if name in names:
            data, more = hub.text(listing.id, listing.commit, name, LARGEST_BYTES)
            if not more:
                (folder / name).write_bytes(data)
                made.append(folder / name)
    return made


def _named(adapter: Path) -> str:
    try:
        told = read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
    except Unreadable:
        told = None
    if not isinstance(told, str) or not told:
        raise BadRequest(
            "The adapter does not tell its base model.", "Name it: a folder, or org/repo."
        )
    return told


def check(
    engine: Engine, making: Making, runtime: Runtime, made: Path, base: Path, context: JobContext
) -> None:
    """Header and tensors; and a real load together with its base model, if that is in the library.

    Raises ConversionFailed, Cancelled, OSError.
    """
    header = gguf.read_details(made)
    if header.general_type != "adapter" or not header.tensor_count:
        raise ConversionFailed(f"{made.name} is no adapter.", "The job's log has the details.")
    model = base_model(engine.library.models(), base)
    if model is None:
        context.log("Its base model is not in the library: it was not tried together with it.")
        return
    making.prove(model.path, runtime, context, adapters=(made,))


def base_model(models: Sequence[Model], base: Path) -> Model | None:
    """A model of the library with the shape that the base model's configuration tells."""
    try:
        shape = _shape(read_json(base / CONFIG))
    except Unreadable:
        return None
    if shape is None:
        return None
    for model in models:
        with contextlib.suppress(EngineError, OSError):
            header = gguf.read_summary(model.path)
            if (header.embedding_length, header.kv_bytes_per_token) == shape:
                return model
    return None


def _shape(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """(length of an embedding, bytes of F16 KV cache for a token), as a GGUF's header has them."""
    heads = config.get("num_attention_heads")
    told = [
        *(config.get("hidden_size"), heads, config.get("num_hidden_layers")),
        *(config.get("num_key_value_heads") or heads, config.get("head_dim") or 1),
    ]
    numbers = [x for x in told if isinstance(x, int) and 0 < x < MAX_NUMBER]  # anybody wrote it
    if len(numbers) < len(told):
        return None
    size, count, layers, kv_heads, length = numbers
    if config.get("head_dim") is None:
        length = size // count
    return size, 2 * 2 * layers * kv_heads * length
