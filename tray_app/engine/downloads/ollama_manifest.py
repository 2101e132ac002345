"""The manifest and the config of a model in Ollama's registry, read without trust. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tray_app.engine.errors import BadRequest, DownloadFailed

from .oci_request import read_json

PREFIX = "application/vnd.ollama.image."
MAX_LAYER_BYTES = 1 << 44  # 16 TiB, beyond any model
MAX_WORD = 100  # characters of a family, a size, a version
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob of a model."""

    kind: str  # "model", "projector", "license" …; the whole media type where it is not Ollama's
    digest: str  # "sha256:…"
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a tag stands for now."""

    digest: str  # of the manifest itself, "sha256:…"
    config: Layer
    layers: tuple[Layer, ...]  # each once

    def of(self, kind: str) -> tuple[Layer, ...]:
        """The layers of a kind, in order."""
        return tuple(layer for layer in self.layers if layer.kind == kind)


@dataclass(frozen=True, slots=True)
class Config:
    """What the config blob says; None where it says nothing that can be shown."""

    model_format: str | None
    family: str | None
    parameters: str | None  # "134.52M"
    file_type: str | None  # "Q4_1"
    requires: str | None  # the oldest Ollama that runs it
    remote: str | None  # where a model runs that is not in the registry at all


def read_manifest(data: bytes) -> Manifest:
    """Raises DownloadFailed naming what is wrong."""
    row = read_json(data)
    if not isinstance(row, dict):
        raise _bad("it is not a JSON object")
    listed = row.get("layers")
    if not isinstance(listed, list):
        why = "it lists other manifests" if "manifests" in row else "it has no list of layers"
        raise _bad(why)
    config = _read_layer(row.get("config"))
    layers = tuple(_each_once(_read_layer(each) for each in listed))
    return Manifest(f"sha256:{hashlib.sha256(data).hexdigest()}", config, layers)


def read_config(data: bytes) -> Config:
    """Raises DownloadFailed when it is no JSON object."""
    row = read_json(data)
    if not isinstance(row, dict):
        raise _bad("the config that it names is not a JSON object")
    return Config(
        model_format=_word(row.get("model_format")),
        family=_word(row.get("model_family")),
        parameters=_word(row.get("model_type")),
        file_type=_word(row.get("file_type")),
        requires=_word(row.get("requires")),
        remote=_word(row.get("remote_model")) or _word(row.get("remote_host")),
    )


def the_model(manifest: Manifest, config: Config, shown: str) -> Layer:
    """The one GGUF layer. Raises BadRequest when llama.cpp cannot run what is there.

    Ollama itself joins a split GGUF into one layer when a model is made
    (create_split_gguf.go), so several are nothing that it makes.
    """
    if config.remote is not None:
        raise BadRequest(
            f"{shown} runs on Ollama's servers ({config.remote}): there is no model to download.",
            "Choose a tag without “cloud”.",
        )
    models = manifest.of("model")
    tensors = manifest.of("tensor")
    if tensors or (config.model_format or "gguf").lower() != "gguf":
        kind = config.model_format or "safetensors"
        raise BadRequest(
            f"{shown} is stored as {kind}, which llama.cpp cannot load.",
            "Choose a tag that is a GGUF, or the GGUF of the same model on Hugging Face.",
        )
    if not models:
        raise BadRequest(f"{shown} holds no GGUF model.", "Check the name: it may be no model.")
    if len(models) > 1:
        raise BadRequest(
            f"{shown} has {len(models)} model files in one, and which is meant is not told.",
            "Look for the same model on Hugging Face.",
        )
    return models[0]


def _read_layer(row: Any) -> Layer:
    if not isinstance(row, dict):
        raise _bad("a layer is not an object")
    media, digest, size = row.get("mediaType"), row.get("digest"), row.get("size")
    if not isinstance(media, str) or not 0 < len(media) <= 1024 or not media.isprintable():
        raise _bad("a layer has no media type")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise _bad("a layer is not named by its sha256")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_LAYER_BYTES:
        raise _bad("a layer has no size that can be true")
    if size == 0:
        raise _bad("a layer is empty")
    kind = media.partition(";")[0].strip()  # tensors carry "; name=…; dtype=…"
    return Layer(kind.removeprefix(PREFIX), digest, size)


def _each_once(layers: Iterator[Layer]) -> Iterator[Layer]:
    """Raises DownloadFailed when one content has two sizes."""
    seen: set[Layer] = set()
    sizes: dict[str, int] = {}
    for layer in layers:
        if sizes.setdefault(layer.digest, layer.size_bytes) != layer.size_bytes:
            raise _bad("it gives two sizes for the same layer")
        if layer not in seen:
            seen.add(layer)
            yield layer


def _word(value: Any) -> str | None:
    if isinstance(value, str) and 0 < len(value) <= MAX_WORD and value.isprintable():
        return value
    return None


def _bad(why: str) -> DownloadFailed:
    return DownloadFailed(
        f"The registry's manifest cannot be used: {why}.",
        "Check the name; if it is right, the registry has to put it right.",
    )
