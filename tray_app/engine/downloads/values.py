"""The frozen values of downloads. Units are in the names; `None` always means "not known"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tray_app.engine.errors import BadRequest, ErrorView

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
