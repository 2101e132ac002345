"""What there is to download and how it would run here: search, details, cards, suggestions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tray_app.engine import naming
from tray_app.engine.errors import EngineError, ErrorView
from tray_app.engine.gguf import Header
from tray_app.engine.values import Model

from . import catalog, offers
from .badge import Machine, judge, weights_budget
from .catalog import Suggested
from .model_card import fetch_card
from .quantizations import all_known
from .references import parse
from .remembered import Remembered
from .values import Badge, Hub, Plan, Remote, RepoDetails, Suggestion

if TYPE_CHECKING:
    from .hub_files import HubFile, Variant
    from .hub_models import HubModel
    from .huggingface import HuggingFace, Listing
    from .remote_header import Peeked

KEEP_S = 300.0  # the Hub counts questions in windows of five minutes
MAX_SEARCHES = 64
MAX_LISTINGS = 64  # one of 2,000 files takes 1 MB
MAX_CARDS = 16  # of 256 KB at most
MAX_HEADERS = 512


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search."""

    models: tuple[HubModel, ...]
    asked_at: float  # Unix seconds: when the hub said so


@dataclass(frozen=True, slots=True)
class Card:
    """A repository's description."""

    markdown: str  # untrusted
    truncated: bool
    page: str  # address for people


class Discover:
    """Asks the hub little: answers are kept, and the same question is asked once. From any thread.

    What depends on this machine (badges, what is in the library) is made anew each time.
    """

    def __init__(
        self,
        hub: Callable[[], HuggingFace],
        machine: Callable[[], Machine],
        models: Callable[[], Sequence[Model]],
        context_length: Callable[[], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`context_length()` is what models are loaded with, in tokens. Asks nobody."""
        self._hub_now, self._machine, self._models = hub, machine, models
        self._context_length = context_length
        self._last_hub: HuggingFace | None = None
        self._lock = threading.Lock()
        self._searches: Remembered[tuple[str, str, str, int], tuple[HubModel, ...]]
        self._searches = Remembered(MAX_SEARCHES, KEEP_S, clock)
        self._listings: Remembered[str, Listing] = Remembered(MAX_LISTINGS, KEEP_S, clock)
        self._cards: Remembered[str, Card] = Remembered(MAX_CARDS, KEEP_S, clock)
        # A commit's files never change: these need no end.
        self._headers: Remembered[tuple[str, ...], Peeked] = Remembered(MAX_HEADERS, None, clock)

    def search(
        self,
        query: str = "",
        sort: str = "trendingScore",
        filter: str = "gguf",
        limit: int = 20,
    ) -> Found:
        """Models for `query`, as HuggingFace.search. Blocks for seconds.

        Raises BadRequest, DownloadFailed (Unreachable for what may pass).
        """
        hub = self._hub()
        key = (" ".join(query.split()), sort, filter, limit)
        asked_at, models = self._searches.get(key, lambda: hub.search(key[0], sort, limit, filter))
        return Found(models, asked_at)

    def details(self, repo: str, context_length: int | None = None) -> RepoDetails:
        """All that "org/repo" offers, with badges for `context_length` tokens (None: as loaded).

        One header, of the offer that is recommended, serves all that are named as it is; where
        it cannot be read, `problem` says why and the badges know sizes only. Blocks for seconds.
        Raises BadRequest, NotFound, DownloadFailed.
        """
        hub, machine = self._hub(), self._machine()
        _, listing = self._listings.get(repo, lambda: hub.listing(repo))
        shelf = offers.read(listing, weights_budget(machine))
        header, problem = None, None
        if shelf.shown is not None:
            header, problem = self._header_of(hub, listing, shelf.shown)
        context = self._context(context_length, header)
        return RepoDetails(
            id=listing.id,
            revision=listing.commit,
            page=listing.page,
            license=listing.license or (header.license if header else None),
            gated=listing.gated,
            offers=shelf.offers(header, context, machine, self._models()),
            left_out=shelf.left_out,
            architecture=header.architecture if header else None,
            parameters=header.parameter_count if header else None,
            context_length=header.context_length if header else None,
            has_chat_template=header.has_chat_template if header else None,
            problem=problem,
        )

    def card(self, repo: str) -> Card:
        """The description of "org/repo", untrusted; empty where it has none.

        Blocks for seconds. Raises BadRequest, DownloadFailed.
        """
        hub = self._hub()
        return self._cards.get(repo, lambda: Card(*fetch_card(hub, repo), hub.page(repo)))[1]

    def suggestions(self) -> Suggested:
        """The curated list, judged for this machine. Asks no hub. Raises EngineError."""
        told, machine, models = catalog.load(), self._machine(), self._models()
        wanted = self._context_length()
        listed = tuple(
            Suggestion(
                entry.reference,
                entry.title,
                entry.about,
                entry.size_bytes,
                entry.parameters,
                entry.license,
                entry.tags,
                judge(
                    entry.size_bytes,
                    entry.kv_bytes_per_token,
                    min(wanted, entry.context_length),
                    machine,
                ),
                _model_like(entry.reference, models),
            )
            for entry in told.entries
        )
        return Suggested(listed, told.ollama_names, all_known())

    def badge_for(self, plan: Plan, context_length: int | None = None) -> Badge | None:
        """How what `plan` brings would run here; None when it brings no model.

        A header that cannot be read leaves the KV cache out, as the sentence says. Blocks for
        seconds, for 30 s at worst. Raises nothing of the hub's.
        """
        first = next((file for file in plan.files if file.role == "model"), None)
        if first is None:
            return None
        remote, size = first.remote, first.remote.size_bytes
        key = _key_of(plan, remote)
        try:
            peeked: Peeked | None = self._peek(key, remote)
        except EngineError:
            peeked = None
        header = peeked.header if peeked else None
        if size is None and peeked is not None:
            size = peeked.size_bytes  # of an address alone nobody told it before
        others = [file.remote.size_bytes for file in plan.files if file is not first]
        known = size is not None and None not in others
        weights = (size or 0) + sum(each or 0 for each in others) if known else None
        context = self._context(context_length, header)
        return judge(
            weights, header.kv_bytes_per_token if header else None, context, self._machine()
        )

    def forget(self) -> None:
        """Ask everything anew: another account may see other things."""
        for kept in (self._searches, self._listings, self._cards):
            kept.forget()

    # -- what is kept

    def _hub(self) -> HuggingFace:
        """The hub of now; what another one said is forgotten."""
        hub = self._hub_now()
        with self._lock:
            changed = self._last_hub is not None and self._last_hub is not hub
            self._last_hub = hub
        if changed:
            self.forget()
        return hub

    def _header_of(
        self, hub: HuggingFace, listing: Listing, variant: Variant
    ) -> tuple[Header | None, ErrorView | None]:
        file: HubFile = variant.files[0]
        try:
            key = (listing.page, listing.commit, offers.stem_of(file.name))
            return self._peek(key, hub.remote(listing, file)).header, None
        except EngineError as exc:
            return None, exc.view()

    def _peek(self, key: tuple[str, ...] | None, remote: Remote) -> Peeked:
        from . import remote_header

        if key is None:
            return remote_header.peek(remote)
        return self._headers.get(key, lambda: remote_header.peek(remote))[1]

    def _context(self, wanted: int | None, header: Header | None) -> int:
        """Tokens, as a launch would choose: no more than the model was trained for."""
        tokens = wanted or self._context_length()
        trained = header.context_length if header else None
        return min(tokens, trained) if trained else tokens


def _key_of(plan: Plan, remote: Remote) -> tuple[str, ...] | None:
    """Names the content of a plan's model file; None where nobody tells what it is."""
    origin = plan.origin
    if origin.get("hub") == Hub.HUGGINGFACE and {"page", "revision"} <= origin.keys():
        return origin["page"], origin["revision"], offers.stem_of(remote.filename)
    return ("sha256", remote.sha256) if remote.sha256 else None


def _model_like(reference: str, models: Sequence[Model]) -> str | None:
    """A library model of this repository and quantization."""
    asked = parse(reference)
    for model in models:
        folders = "/".join(model.path.parts[-3:-1])
        label = naming.parse_file_name(model.path.name).label
        if folders.casefold() == asked.name.casefold() and label == asked.tag:
            return model.id
    return None
