"""How far a quantization is from its original: perplexity on a short text, kept with the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tray_app.engine.downloads import origins

from .values import Quality

KEY = "quality"


@dataclass(frozen=True, slots=True)
class Measured:
    """Two perplexities of one run on the same text."""

    perplexity: float
    reference_perplexity: float
    reference: str


def note_quality(model: Path, found: Measured) -> None:
    """Write it into the note beside the model. Raises OSError."""
    told = {
        "perplexity": found.perplexity,
        "reference_perplexity": found.reference_perplexity,
        "reference": found.reference,
    }
    origins.write(model, {**(origins.read(model) or {}), KEY: told})


def read_quality(model: Path) -> Quality | None:
    """What was measured of a model; None when nothing was, or the note is none of ours."""
    told = (origins.read(model) or {}).get(KEY)
    if not isinstance(told, dict):
        return None
    own, reference = told.get("perplexity"), told.get("reference_perplexity")
    if not isinstance(own, int | float) or not isinstance(reference, int | float):
        return None
    if own <= 0 or reference <= 0:
        return None
    name = str(told.get("reference", "the original"))[:40]
    return Quality(sentence(Measured(own, reference, name)), own, reference, name)


def sentence(found: Measured) -> str:
    """In one plain sentence. Perplexity: how many words it hesitates between, on average."""
    worse = found.perplexity / found.reference_perplexity - 1
    told = f"{found.perplexity:.4g} against {found.reference_perplexity:.4g} of {found.reference}"
    if abs(worse) < 0.005:
        return f"Perplexity {told}: no difference on a short text."
    how = "worse" if worse > 0 else "better"
    return f"Perplexity {told}: {abs(worse):.1%} {how} on a short text."
