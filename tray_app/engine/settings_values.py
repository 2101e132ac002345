"""What can be set: the frozen tables of settings.toml with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

VERSION = 1
# `llama-server --help` of b11434, --cache-type-k.
KV_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How models are served. Lengths in tokens, memory in bytes."""

    host: str = "127.0.0.1"  # address to listen on; others than loopback only with an API key
    port: int = 7070  # where programs reach the models
    context_length: int = 8192  # for models without one of their own; no more than they know
    memory_budget_bytes: int | None = None  # for all models; None: what is free, less a reserve
    parallel: int | None = None  # requests at once, by model; None: llama-server decides
    max_queue: int = 64  # requests that may wait for one model
    start_with: str = "last"  # "nothing", "last" or a model id
    preload: tuple[str, ...] = ()  # ids of further models that are loaded at the start
    idle_unload_s: int = 300  # a model leaves memory this long after its last request; 0: never
    yield_memory: bool = True  # idle models leave when other programs need the memory
    rest_model: str | None = None  # id: comes when idleness has emptied memory, and stays
    keep_conversations: bool = True  # the KV cache of a model that leaves is kept on the disk
    conversations_bytes: int = 8 << 30  # at most, for all models together
    local_without_key: bool = False  # programs on this machine need no key
    cors_origins: tuple[str, ...] = ()  # pages that may use the server besides those of localhost
    tls_certificate: str | None = None  # a PEM file; with it the network is answered by https alone
    tls_key: str | None = None  # the PEM file of its key; None: in the same file


@dataclass(frozen=True, slots=True)
class LibrarySettings:
    """Folders scanned besides the home's own `models/`."""

    folders: tuple[str, ...] = ()  # whole paths, read with all their subfolders


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """Which llama.cpp is used."""

    server_path: str | None = None  # the llama-server to use; None: the best one found
    auto_build: bool = True  # get one, prebuilt or from source, when none is found
    backend: str | None = None  # the rung of the ladder to take; None: the best that works
    updates: str = "notify"  # "off", "notify" or "auto": installed when proved and nothing runs
    feed_url: str | None = None  # list of releases, as GitHub's API has it; None: the official


@dataclass(frozen=True, slots=True)
class AppSettings:
    """Newer versions of this app."""

    updates: str = "notify"  # "off", "notify" or "auto": fetched, tried and used when nothing runs
    manifest_url: str | None = None  # where they are asked for; None: where this one is from


@dataclass(frozen=True, slots=True)
class DownloadSettings:
    """How models are fetched."""

    concurrent: int = 2  # downloads at a time
    connections: int = 4  # at most, for each of them
    limit_bytes_s: int | None = None  # of all together; None: as fast as it goes
    hub_endpoint: str | None = None  # a mirror of Hugging Face; None: HF_ENDPOINT, or the Hub
    token_stored: bool = False  # a token is in the keychain; the token itself is never here


@dataclass(frozen=True, slots=True)
class UiSettings:
    """What the window remembers."""

    theme: str = "system"  # how the window looks
    close_to_tray: bool = True  # the app goes on in the tray when the window is closed


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Wishes for one model; None means "as the server settings say"."""

    context_length: int | None = None  # tokens
    gpu_layers: int | None = None  # layers on the GPU; None: what the fit says
    threads: int | None = None  # of the processor; None: llama-server decides
    parallel: int | None = None  # slots: requests that are answered at once
    batch_size: int | None = None  # tokens of a prompt that are taken in one go (logical)
    ubatch_size: int | None = None  # of these, what is computed at once (physical)
    kv_cache_type: str | None = None  # of keys and values alike; None: F16
    flash_attention: str | None = None  # "on", "off" or "auto"
    pinned: bool = False  # stays in memory
    never_keep: bool = False  # leaves memory as soon as nobody uses it
    idle_unload_s: int | None = None  # its own time; 0: never
    mmproj: bool = True  # use a projector: the paired one, or the next
    mmproj_path: str | None = None  # of another projector than the paired one
    draft_model: str | None = None  # id or path of a small model for speculative decoding
    lora: Mapping[str, float] = field(default_factory=dict)  # path of an adapter -> scale
    temperature: float | None = None  # sampling: defaults for requests that do not say
    top_p: float | None = None  # sampling: the likeliest tokens that come to this much
    top_k: int | None = None  # sampling: so many of the likeliest tokens; 0: all
    min_p: float | None = None  # sampling: at least this part of the likeliest one
    repeat_penalty: float | None = None  # 1: none
    max_tokens: int | None = None  # of an answer; None: until the model ends it
    chat_template: str | None = None  # a name that llama.cpp knows, or the path of a .jinja file
    reasoning: str | None = None  # whether it thinks before it answers
    keep_conversations: bool | None = None  # on the disk, when it leaves memory
    runtime: str | None = None  # id of the runtime to run on; None: the active one
    system_prompt: str | None = None  # offered by the window's chat
    extra_args: tuple[str, ...] = ()  # appended to llama-server's arguments


@dataclass(frozen=True, slots=True)
class Settings:
    """All of settings.toml."""

    version: int = VERSION  # of the file's form; newer ones are set aside
    server: ServerSettings = field(default_factory=ServerSettings)
    library: LibrarySettings = field(default_factory=LibrarySettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    downloads: DownloadSettings = field(default_factory=DownloadSettings)
    app: AppSettings = field(default_factory=AppSettings)
    ui: UiSettings = field(default_factory=UiSettings)
    aliases: Mapping[str, str] = field(default_factory=dict)  # name -> model id, or "default"
    models: Mapping[str, ModelSettings] = field(default_factory=dict)
