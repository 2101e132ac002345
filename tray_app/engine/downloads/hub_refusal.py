"""What the Hub's refusals mean and which page helps. Pure.

The codes are those that huggingface_hub 2.4.0 reads (X-Error-Code, X-Error-Message); a missing
repository and a private one look the same without a token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from tray_app.engine.errors import DownloadFailed, EngineError, NotFound

from .retry import RETRY_STATUSES, Unreachable

TOKENS_PAGE = "https://huggingface.co/settings/tokens"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for."""

    repo: str | None = None  # None: a search
    revision: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is none."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    endpoint: str
    signed_in: bool  # a token went along
    wanted: Wanted
    wait_s: float | None = None  # which the hub asked for

    @property
    def code(self) -> str:
        return self.headers.get("x-error-code", "")

    @property
    def page(self) -> str:
        """The model's page, for people."""
        return f"{self.endpoint}/{self.wanted.repo or ''}".rstrip("/")


def is_pause(status: int) -> bool:
    """Whether the hub wants no questions for a while."""
    return status == 429


def refusal(said: Refusal) -> EngineError:
    """The error that explains it."""
    if is_pause(said.status):
        return _too_many(said)
    if said.wanted.repo is None:
        return _other(said)
    if said.code == "GatedRepo":
        return _gated(said)
    if "disabled" in _words(said).lower() and said.status in (401, 403):
        return DownloadFailed(
            f"Hugging Face has taken {said.wanted.repo} down.", f"{said.page} may say why."
        )
    if said.code == "RevisionNotFound":
        return NotFound(
            f"{said.wanted.repo} has no revision {said.wanted.revision or 'main'}.",
            f"Look for branches and tags at {said.page}/tree/main, or leave the revision out.",
        )
    if said.code == "EntryNotFound":
        what = said.wanted.path or "such file"
        return NotFound(
            f"{said.wanted.repo} has no {what}.", f"Its files are listed at {said.page}/tree/main."
        )
    if said.status in (401, 403, 404) or said.code == "RepoNotFound":
        return _not_found(said)
    return _other(said)


def _gated(said: Refusal) -> DownloadFailed:
    repo = said.wanted.repo
    if said.signed_in:
        return DownloadFailed(
            f"{repo} is gated, and your Hugging Face account may not read it (yet).",
            f"Open {said.page}, accept its terms, and retry when access is granted. A fine-grained"
            f" token needs “read access to public gated repos” too: {TOKENS_PAGE}.",
        )
    return DownloadFailed(
        f"{repo} is gated: its owner wants you to sign in and accept terms first.",
        f"Open {said.page} and accept them, make a token at {TOKENS_PAGE}, and set it as HF_TOKEN"
        " or in the settings.",
    )


def _not_found(said: Refusal) -> EngineError:
    repo = said.wanted.repo
    if said.signed_in and said.status == 401 and said.code != "RepoNotFound":
        return DownloadFailed(
            f"The hub does not accept the token: {_words(said) or 'it answered 401'}.",
            f"Look at {TOKENS_PAGE} whether it is still valid, or leave it out for public models.",
        )
    if said.signed_in:
        return NotFound(
            f"There is no {repo}, or your account may not see it.",
            f"Check the name: {said.page} shows the model in a browser that is signed in.",
        )
    return NotFound(
        f"There is no {repo}, or it is private.",
        f"Check the name at {said.page}. For a private model, set a token ({TOKENS_PAGE}).",
    )


def _too_many(said: Refusal) -> Unreachable:
    wait = f"; it asks to wait for {said.wait_s:.0f} s" if said.wait_s else ""
    hint = "" if said.signed_in else " With a token, more are allowed."
    return Unreachable(
        f"The hub got too many questions from this address{wait}.",
        f"Wait a few minutes, then retry.{hint}",
    )


def _other(said: Refusal) -> DownloadFailed:
    words = _words(said)
    kind = Unreachable if said.status in RETRY_STATUSES else DownloadFailed
    return kind(
        f"The hub at {said.endpoint} answered {said.status}{f': {words}' if words else ''}.",
        "Retry later." if kind is Unreachable else f"Look at {said.page}.",
    )


def _words(said: Refusal) -> str:
    """What the hub says itself, as it may be shown."""
    text = said.headers.get("x-error-message", "")
    if not text:
        try:
            row = json.loads(said.body)
        except (ValueError, RecursionError):
            row = None
        found = row.get("error") if isinstance(row, dict) else None
        text = found if isinstance(found, str) else ""
    plain = "".join(char if char.isprintable() else " " for char in text[:200])
    return plain.strip().rstrip(".")
