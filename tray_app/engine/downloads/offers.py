"""A repository's files as what a user can choose from, each judged for a machine. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING
from urllib.parse import quote

from tray_app.engine import naming
from tray_app.engine.errors import BadRequest
from tray_app.engine.gguf import Header
from tray_app.engine.values import Model

from . import hub_files
from .badge import Machine, judge
from .hub_files import HubFile, Variant
from .quantizations import explain
from .references import parse
from .values import Badge, Fits, Offer, safe_name

if TYPE_CHECKING:
    from .huggingface import Listing

MAX_LEFT_OUT = 100  # lines that a page shows
_WHY = {
    "mmproj": "a projector, and no model here that it belongs to",
    "draft": "a draft head, which guesses ahead for a model and is none itself",
    "imatrix": "an importance matrix, which helps to quantize a model and is none itself",
    "other": "a vocabulary, which holds no weights",
}


@dataclass(frozen=True, slots=True)
class Shelf:
    """The models of a repository, and what comes along with each."""

    listing: Listing
    variants: tuple[Variant, ...]
    projectors: Mapping[Variant, HubFile | None]
    recommended: Variant | None  # what a plan for no quantization takes
    left_out: tuple[str, ...]

    @property
    def shown(self) -> Variant | None:
        """Whose header is read."""
        whole = (each for each in self.variants if each.complete)
        return self.recommended or next(whole, None)

    def offers(
        self, header: Header | None, context_length: int, machine: Machine, models: Sequence[Model]
    ) -> tuple[Offer, ...]:
        """All of them, the smallest first. `header` is that of `shown`."""
        named = _Names(self.listing, self.variants)
        here = _Here(self.listing, models)
        known = stem_of(self.shown.files[0].name) if self.shown else None

        def offer(each: Variant) -> Offer:
            projector = self.projectors[each]
            same = stem_of(each.files[0].name) == known
            cache = header.kv_bytes_per_token if header and same else None
            return Offer(
                reference=named.reference(each),
                label=each.label,
                quantization=each.quantization,
                about=explain(each.quantization),
                files=tuple(file.path for file in each.files),
                size_bytes=each.size_bytes,
                projector_bytes=projector.size_bytes if projector else None,
                complete=each.complete,
                badge=_badge(each, projector, cache, context_length, machine),
                recommended=each is self.recommended,
                model_id=here.model_id(each),
            )

        by_size = sorted(self.variants, key=lambda each: (each.size_bytes or 0, each.label))
        return tuple(offer(each) for each in by_size)


def _badge(
    variant: Variant,
    projector: HubFile | None,
    kv_bytes_per_token: int | None,
    context_length: int,
    machine: Machine,
) -> Badge:
    if not variant.complete:
        sentence = (
            f"Only {len(variant.files)} of its {variant.shard_count} parts are at the hub, so how"
            " large it is is not known."
        )
        return Badge(Fits.UNKNOWN, sentence, context_length)
    weights = variant.size_bytes
    if projector is not None and weights is not None:
        weights = None if projector.size_bytes is None else weights + projector.size_bytes
    return judge(weights, kv_bytes_per_token, context_length, machine)


class _Names:
    """References that a plan reads as the variant they are of."""

    def __init__(self, listing: Listing, variants: Sequence[Variant]) -> None:
        self._id = listing.id
        self._labels = Counter(each.quantization for each in variants)
        self._names = Counter(file.name for each in variants for file in each.files)

    def reference(self, variant: Variant) -> str:
        """The shortest one; an address where the file's name could be read as something else."""
        first = variant.files[0]
        if variant.quantization is not None and self._labels[variant.quantization] == 1:
            return f"{self._id}:{variant.quantization}"
        alone = self._names[first.name] == 1
        file = first.name if alone else first.path
        short = f"{self._id}:{file}" if alone else f"{self._id}/{file}"
        try:
            if parse(short).file == file:
                return short
        except BadRequest:
            pass
        return f"https://huggingface.co/{self._id}/blob/main/{quote(first.path)}"


class _Here:
    """The library's models by size: a place is made out only for those that could be one."""

    def __init__(self, listing: Listing, models: Sequence[Model]) -> None:
        self._listing = listing
        self._by_size: dict[int, list[Model]] = {}
        for model in models:
            self._by_size.setdefault(model.size_bytes, []).append(model)

    def model_id(self, variant: Variant) -> str | None:
        """The library's model at the place where a plan would put this one."""
        found = self._by_size.get(variant.size_bytes or -1, ())
        if not found or not variant.complete:
            return None
        inner = hub_files.local_name(variant.files[0], self._listing.files).split("/")
        try:
            parts = tuple(safe_name(part) for part in (*self._listing.id.split("/"), *inner))
        except BadRequest:
            return None
        ends = (model.id for model in found if PurePath(model.path).parts[-len(parts) :] == parts)
        return next(ends, None)


def read(listing: Listing, budget_bytes: int | None) -> Shelf:
    """The models of a listing; one is recommended as HuggingFace.plan would choose it."""
    models = hub_files.variants(listing.files)
    found = hub_files.projectors(listing.files)
    beside = {each: hub_files.projector_for(each, found) for each in models}
    needs = {each: _added(each.size_bytes, beside[each]) for each in models}
    recommended = None
    if any(each.complete for each in models):
        recommended = hub_files.best(models, needs, budget_bytes, listing.id)
    return Shelf(listing, models, beside, recommended, _left_out(listing, beside))


def stem_of(name: str) -> str:
    """What models of one kind share in their names: all but the quantization."""
    return naming.squash(naming.parse_file_name(name).stem)


def _added(size_bytes: int | None, projector: HubFile | None) -> int | None:
    if projector is None or size_bytes is None:
        return size_bytes
    return size_bytes + (projector.size_bytes or 0)


def _left_out(listing: Listing, beside: Mapping[Variant, HubFile | None]) -> tuple[str, ...]:
    used = {each.path for each in beside.values() if each is not None}
    taken = bool(used)
    lines = []
    for file in listing.files:
        if file.role in ("model", "shard"):
            continue
        why = _WHY[file.role]
        if file.role == "mmproj" and file.path in used:
            why = "the projector of the models here, which comes along with them"
        elif file.role == "mmproj" and taken:
            why = "a projector in another precision than the one that comes along"
        lines.append(f"{file.path}: {why}.")
    if len(lines) > MAX_LEFT_OUT:
        more = len(lines) - MAX_LEFT_OUT
        lines = [*lines[:MAX_LEFT_OUT], f"and {more:,} more."]
    return tuple(lines)
