"""The frozen values of downloads. Units are in the names; `None` always means "not known"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tray_app.engine.errors import BadRequest, ErrorView

MODELS = "{models}"  # stands for the models folder in a plan's settings
MAX_NAME = 200  # characters of one folder or file name; common file systems take 255 bytes
_RESERVED = re.compile(r"(?i)^(con|prn|aux|nul|com\d|lpt\d)(\.|$)")  # Windows


class Hub(StrEnum):
    """Where a reference points."""

    HUGGINGFACE = "huggingface"
    OLLAMA = "ollama"  # or another registry of its protocol
    URL = "url"  # one GGUF file


@dataclass(frozen=True, slots=True)
class Reference:
    """What a user typed, taken apart; nothing was asked of any server yet."""

    text: str  # as typed
    hub: Hub
    name: str  # "org/repo", "library/llama3", or the URL
    host: str | None = None  # another than the default
    revision: str | None = None  # of Hugging Face
    file: str | None = None  # one file of the repository
    tag: str | None = None  # quantization ("Q4_K_M") or Ollama tag
    folder: str | None = None  # of a Hugging Face repository, to choose within


@dataclass(frozen=True, slots=True)
class Remote:
    """One file to fetch: its content is known by size and hash where the hub tells them."""

    url: str
    filename: str
    size_bytes: int | None = None
    sha256: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)  # never sent to another origin
    # Asks the hub again when a signed address has expired (401, 403, 404, 410).
    renew: Callable[[], Remote] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file of a plan and where it goes."""

    path: str  # below the models folder, "/" between parts, each part safe
    remote: Remote
    role: str = "model"  # "model", "shard", "mmproj", "adapter", "other"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything one reference comes to, pinned: the same bytes today and after a restart."""

    reference: str  # canonical, pinned: "org/repo:Q4_K_M@0123abc", "llama3:latest"
    title: str
    files: tuple[PlannedFile, ...]
    origin: Mapping[str, str] = field(default_factory=dict)  # hub, repo, revision, tag, license …
    settings: Mapping[str, object] = field(default_factory=dict)  # for the model's own settings
    warnings: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int | None:
        """To fetch, all together; None when a server does not tell."""
        sizes = [each.remote.size_bytes for each in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)


class DownloadState(StrEnum):
    """The life of a download."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"  # by the user
    WAITING = "waiting"  # for the network, until `retry_at`
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def unfinished(self) -> bool:
        """Whether it may still bring something."""
        return self not in (DownloadState.DONE, DownloadState.FAILED, DownloadState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Download:
    """One download as faces see it."""

    id: str
    reference: str  # as asked for
    title: str
    state: DownloadState = DownloadState.QUEUED
    step: str = ""  # "Asking the hub", "Checking" …
    done_bytes: int = 0  # never goes back
    total_bytes: int | None = None
    rate_bytes_s: float | None = None
    eta_s: float | None = None
    created_at: float = 0.0  # Unix seconds
    finished_at: float | None = None
    retry_at: float | None = None
    model_path: str | None = None  # of the finished model's first file
    error: ErrorView | None = None
    warnings: tuple[str, ...] = ()
    order: float = 0.0  # the place among the unfinished: smaller comes earlier


class Fits(StrEnum):
    """How a model would run on this machine, the best first."""

    GPU = "gpu"  # weights, KV cache and compute buffers fit one or several GPUs
    PARTLY = "partly"  # some layers on a GPU, the rest in main memory: slower
    PROCESSOR = "processor"  # in main memory, there is no GPU that could take it
    TIGHT = "tight"  # only if other programs or models make room
    TOO_LARGE = "too_large"
    UNKNOWN = "unknown"  # a size or the machine's memory is not known


@dataclass(frozen=True, slots=True)
class Badge:
    """An honest estimate before anything is downloaded."""

    fits: Fits
    sentence: str  # "Fits your GPU with 8,192 tokens of context: 5.6 of 11.8 GB."
    context_length: int  # tokens it was estimated for
    weights_bytes: int | None = None  # with the projector
    kv_cache_bytes: int | None = None
    compute_bytes: int | None = None
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """One thing a repository offers: a quantization with all its files."""

    reference: str  # for `pull`
    label: str  # "Q4_K_M", or the file's name
    quantization: str | None
    about: str  # the quantization in one plain sentence
    files: tuple[str, ...]
    size_bytes: int | None  # all parts
    projector_bytes: int | None  # of the mmproj that comes along; None: there is none
    complete: bool  # all parts are there
    badge: Badge
    recommended: bool = False  # what `pull org/repo` would take
    model_id: str | None = None  # of the library, if it is there already


@dataclass(frozen=True, slots=True)
class RepoDetails:
    """What the Discover page shows of one repository."""

    id: str  # "org/repo"
    revision: str  # commit
    page: str  # address for people
    license: str | None
    gated: str | None
    offers: tuple[Offer, ...]
    left_out: tuple[str, ...] = ()  # GGUF files that are no model, each with why
    architecture: str | None = None
    parameters: int | None = None
    context_length: int | None = None  # tokens it was trained for
    has_chat_template: bool | None = None
    problem: ErrorView | None = None  # its header could not be read: badges know sizes only


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One line of the short curated list."""

    reference: str
    title: str
    about: str  # what it is good for, one plain sentence
    size_bytes: int
    parameters: int | None
    license: str | None
    tags: tuple[str, ...]  # "chat", "vision", "tools", "code", "embedding"
    badge: Badge
    model_id: str | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a reference comes to, for a dialog that asks before anything is fetched."""

    reference: str  # for `pull`
    title: str
    hub: Hub
    page: str | None
    files: tuple[PreviewFile, ...]
    total_bytes: int | None
    free_bytes: int  # on the disk of the models folder
    license: str | None
    warnings: tuple[str, ...]
    badge: Badge | None = None
    model_id: str | None = None  # of the library, if it is there already


@dataclass(frozen=True, slots=True)
class PreviewFile:
    """One file of a preview."""

    path: str  # below the models folder
    size_bytes: int | None
    role: str


@dataclass(frozen=True, slots=True)
class HubAccount:
    """Whether there is a Hugging Face token, never the token itself."""

    source: str  # "keychain", "environment" (HF_TOKEN), "file" (`hf auth login`) or "none"
    keychain: str | None  # name of the system's keychain; None: there is none that works
    problem: str = ""  # why the keychain cannot be used


def safe_name(name: str) -> str:
    """`name` as one folder or file name that every system takes. Raises BadRequest.

    A hub's names are plain already; what is not is refused, never altered: two names must not
    become one.
    """
    plain = unicodedata.normalize("NFC", name)
    bad = (
        not plain
        or plain != name
        or len(plain) > MAX_NAME
        or plain.strip(" .") != plain
        or any(c in '<>:"/\\|?*' or unicodedata.category(c).startswith("C") for c in plain)
        or _RESERVED.match(plain) is not None
    )
    if bad:
        raise BadRequest(f"{name[:80]!r} cannot be a file name.", "Download it by hand.")
    return plain
