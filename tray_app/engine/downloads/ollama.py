"""Models from Ollama's registry, or another of its protocol: from a name to files and settings."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tray_app.engine import naming
from tray_app.engine.errors import BadRequest
from tray_app.engine.runtime.feed_rows import is_trusted

from .oci_request import Registry, read_json
from .ollama_manifest import Config, Layer, Manifest, read_config, read_manifest, the_model
from .ollama_params import read_params
from .values import MODELS, Plan, PlannedFile, Reference, safe_name

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

MAX_CONFIG_BYTES = 1 << 20
MAX_TEXT_BYTES = 64 << 10  # a system prompt, parameters
MAX_LICENSE_BYTES = 256 << 10  # the GPL is 35 kB
MAX_LICENSES = 8
MAX_ADAPTERS = 8

_OFFICIAL = frozenset({DEFAULT_HOST, "ollama.com", "www.ollama.com"})
_HOST = re.compile(
    r"(?P<scheme>https?://)?"
    r"(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:]{2,39}\])"
    r"(?::[0-9]{1,5})?)"
)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")  # 80: Ollama's own bound
# What is taken over, or left out without a word: a template is read from the GGUF itself.
_KNOWN = frozenset({"model", "projector", "adapter", "system", "params", "license"})
_SILENT = frozenset({"template", "prompt"})
_LEFT_OUT = {
    "draft": "Its draft model is left out.",
    "messages": "Its example messages are left out.",
}


@dataclass(frozen=True, slots=True)
class _Name:
    """`host/namespace/model:tag`, every part checked."""

    host: str
    base: str  # "https://registry.ollama.ai"
    namespace: str
    model: str
    tag: str

    @property
    def repository(self) -> str:
        return f"{self.namespace}/{self.model}"

    @property
    def shown(self) -> str:
        """As Ollama's users write it: "llama3.2:1b", "user/model:tag", "host/…"."""
        official = self.host == DEFAULT_HOST
        plain = official and self.namespace == DEFAULT_NAMESPACE
        name = self.model if plain else self.repository
        return f"{'' if official else f'{self.host}/'}{name}:{self.tag}"

    @property
    def publisher(self) -> str:
        """The folder of the library. A name of Ollama's holds no blank or "+"; hosts hold ":"."""
        if self.host != DEFAULT_HOST:
            return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', self.host).strip('_')}_{self.namespace}"
        return "ollama" if self.namespace == DEFAULT_NAMESPACE else self.namespace


def plan(reference: Reference) -> Plan:
    """All that the model comes to, asked of its registry now.

    `--lora` in the plan's extra_args names its file below "{models}", which whoever knows the
    models folder replaces. Blocks for 60 s at most. Raises BadRequest (also for what llama.cpp
    cannot run), NotFound, DownloadFailed.
    """
    name = _read_name(reference)
    registry = Registry(name.base, name.repository)
    manifest = read_manifest(registry.manifest(name.tag))
    config = read_config(registry.blob(manifest.config.digest, MAX_CONFIG_BYTES))
    model = the_model(manifest, config, name.shown)
    files = _files(name, _stem(name, config), model, manifest, registry)
    settings, warnings = _settings(registry, manifest)
    lora = [w for f in files if f.role == "adapter" for w in ("--lora", f"{MODELS}/{f.path}")]
    if lora:
        settings["extra_args"] = (*lora, *_words(settings))
    origin = _origin(name, manifest, config)
    licenses = manifest.of("license")[:MAX_LICENSES]
    titles = [line for each in licenses if (line := _first_line(registry, each))]
    if titles:
        origin["license"] = "; ".join(dict.fromkeys(titles))
    return Plan(name.shown, name.shown, files, origin, settings, warnings)


def _files(
    name: _Name, stem: str, model: Layer, manifest: Manifest, registry: Registry
) -> tuple[PlannedFile, ...]:
    """What is fetched, the model first. Raises BadRequest for names that cannot be files."""
    projectors = manifest.of("projector")
    folder = f"{safe_name(name.publisher)}/{safe_name(name.model)}"
    if projectors:
        # A folder of its own, so that no other tag's model can take this projector. The library
        # passes over a folder that is called like the file in it.
        folder = f"{folder}/{safe_name(stem)}"

    def place(layer: Layer, file_name: str, role: str) -> PlannedFile:
        remote = registry.remote(layer.digest, layer.size_bytes, safe_name(file_name))
        return PlannedFile(f"{folder}/{remote.filename}", remote, role)

    files = [place(model, f"{stem}.gguf", "model")]
    files += [place(each, _projector_name(stem), "mmproj") for each in projectors[:1]]
    for number, each in enumerate(manifest.of("adapter")[:MAX_ADAPTERS], 1):
        files.append(place(each, f"{stem}.lora-{number}.gguf", "adapter"))
    for number, each in enumerate(manifest.of("license")[:MAX_LICENSES], 1):
        files.append(place(each, f"{stem}.LICENSE{'' if number == 1 else f'-{number}'}", "other"))
    return tuple(files)


def _read_name(reference: Reference) -> _Name:
    host = _HOST.fullmatch(reference.host or DEFAULT_HOST)
    namespace, slash, model = reference.name.rpartition("/")
    namespace, tag = namespace if slash else DEFAULT_NAMESPACE, reference.tag or DEFAULT_TAG
    parts = (namespace, model, tag)
    if host is None or not all(_PART.fullmatch(part) for part in parts):
        raise BadRequest(
            f"{reference.text[:120]!r} is not a name that a registry can have.",
            "Write it as `model:tag`, `namespace/model:tag` or `host/namespace/model:tag`.",
        )
    where = host["host"].lower()
    if where in _OFFICIAL:
        where = DEFAULT_HOST
    local = is_trusted(f"http://{where}")
    scheme = host["scheme"] or ("http://" if local else "https://")
    if scheme == "http://" and not local:
        raise BadRequest(
            f"{where} is to be asked without https, so anybody in between could change the model.",
            "Use https; only a registry on this computer may do without.",
        )
    return _Name(where, f"{scheme}{where}", namespace, model, tag)


def _stem(name: _Name, config: Config) -> str:
    """The file's name without suffix: "llama3.2-1b-Q8_0". Raises BadRequest.

    The tag often ends with the quantization already; what the config says is added if not.
    """
    model = re.sub(r"(?i)[-_.]gguf$", "", name.model)
    stem = f"{model}-{name.tag}"
    told = naming.parse_file_name(f"x-{config.file_type}.gguf").label if config.file_type else None
    in_name = naming.parse_file_name(f"{stem}.gguf").label
    if told is not None and naming.best_label(in_name, told) != in_name:
        stem = f"{stem}-{told}"
    file_name = f"{stem}.gguf"
    parsed = naming.parse_file_name(file_name)
    if parsed.is_mmproj or parsed.shard_count > 1 or naming.skip_reason(file_name):
        raise BadRequest(
            f"{name.shown} is named so that the library would take {file_name} for a part of a"
            " model.",
            "Download it by hand and give it another name.",
        )
    return stem


def _projector_name(stem: str) -> str:
    """A name that the library pairs with the model's: the same without the quantization."""
    return f"mmproj-{naming.parse_file_name(f'{stem}.gguf').stem or stem}.gguf"


def _settings(registry: Registry, manifest: Manifest) -> tuple[dict[str, object], tuple[str, ...]]:
    """The model's settings, and what could not be taken over, in sentences."""
    settings: dict[str, object] = {}
    warnings: list[str] = []
    for layer in manifest.of("params")[-1:]:
        params = read_json((_text(registry, layer, MAX_TEXT_BYTES) or "").encode("utf-8"))
        dropped: tuple[str, ...] = ()
        if isinstance(params, dict):
            settings, dropped = read_params(params)
        else:
            warnings.append("Its parameters cannot be read and are left out.")
        if dropped:
            warnings.append(f"Parameters that cannot be taken over: {', '.join(dropped)}.")
    for layer in manifest.of("system")[-1:]:
        system = _text(registry, layer, MAX_TEXT_BYTES)
        if system is None or "\x00" in system:
            warnings.append("Its system prompt cannot be used and is left out.")
        elif system.strip():
            settings["system_prompt"] = system
    for kind, most in (("projector", 1), ("adapter", MAX_ADAPTERS), ("license", MAX_LICENSES)):
        if len(manifest.of(kind)) > most:
            found = len(manifest.of(kind))
            warnings.append(f"Only {most} of its {found} layers of kind {kind} came along.")
    kinds = dict.fromkeys(layer.kind for layer in manifest.layers)
    warnings += [sentence for kind, sentence in _LEFT_OUT.items() if kind in kinds]
    strange = [kind for kind in kinds if kind not in {*_KNOWN, *_SILENT, *_LEFT_OUT}]
    if strange:
        listed = ", ".join(kind[:80] for kind in strange[:3])
        warnings.append(f"Layers of a kind that is not known are left out: {listed}.")
    return settings, tuple(warnings)


def _words(settings: dict[str, object]) -> tuple[str, ...]:
    words = settings.get("extra_args", ())
    return words if isinstance(words, tuple) else ()


def _origin(name: _Name, manifest: Manifest, config: Config) -> dict[str, str]:
    """Where the model is from, with what is known only; `template`: Ollama brings one too.

    llama.cpp cannot use that template, so a GGUF without one of its own deserves a warning
    once it is here.
    """
    told = {
        "hub": "ollama",
        "host": name.host,
        "repo": name.repository,
        "tag": name.tag,
        "digest": manifest.digest,
        "family": config.family,
        "parameters": config.parameters,
        "quantization": config.file_type,
        "requires": f"Ollama {config.requires}" if config.requires else None,
    }
    if name.host == DEFAULT_HOST:
        told["page"] = f"https://ollama.com/{name.repository}:{name.tag}"
    if manifest.of("template") or manifest.of("prompt"):
        told["template"] = "ollama"
    return {key: value for key, value in told.items() if value is not None}


def _text(registry: Registry, layer: Layer, limit: int) -> str | None:
    """A small layer as text; None when it is too large or no UTF-8."""
    if layer.size_bytes > limit:
        return None
    try:
        return registry.blob(layer.digest, limit).decode("utf-8")
    except UnicodeDecodeError:
        return None


def _first_line(registry: Registry, layer: Layer) -> str:
    """The first line of a license with something in it: mostly its name."""
    lines = (_text(registry, layer, MAX_LICENSE_BYTES) or "").splitlines()
    first = next((line for line in lines if line.strip()), "")
    return "".join(char if char.isprintable() else " " for char in first.strip())[:200]
