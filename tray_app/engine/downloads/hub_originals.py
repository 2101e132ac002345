"""The original weights of a Hugging Face repository: which files a conversion needs. Pure.

What the converter reads (llama.cpp b11434): the weights, JSON files, tokenizers and their
merges, the chat template, and the modules of sentence-transformers in numbered folders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from tray_app.engine.errors import BadRequest

from .hub_files import HubFile, original_weights
from .huggingface import Listing
from .values import Plan, PlannedFile, Remote, safe_name

FOLDER = "originals"  # below the models folder
LARGEST_BESIDE_BYTES = 256 << 20  # a tokenizer.json has up to 35 MB
_BESIDE = re.compile(
    r"(?:[^/]+\.(?:json|jinja|model|tiktoken)|(?:vocab|merges|added_tokens)[^/]*\.txt"
    r"|README\.md|LICENSE[^/]*)",
    re.IGNORECASE,
)
_MODULE = re.compile(r"\d+_[A-Za-z]+")  # "1_Pooling", "2_Dense"


def chosen(files: Iterable[HubFile], folder: str | None = None) -> tuple[HubFile, ...]:
    """The files to fetch, by path; none when there are no weights to convert."""
    below = f"{folder}/" if folder else ""
    inner = [file for file in files if file.path.startswith(below)]
    top, modules = [], []
    for file in inner:
        parts = file.path[len(below) :].split("/")
        if len(parts) == 1:
            top.append(file)
        elif len(parts) == 2 and _MODULE.fullmatch(parts[0]):
            modules.append(file)
    weights = _weights(top)
    if not weights:
        return ()
    beside = [file for file in top if _BESIDE.fullmatch(file.name) and _is_small(file)]
    module_files = [*_weights(modules), *(f for f in modules if f.name.endswith(".json"))]
    found = {file.path: file for file in (*weights, *beside, *module_files)}
    return tuple(found[path] for path in sorted(found))


def _weights(files: list[HubFile]) -> list[HubFile]:
    found = [file for file in original_weights(files) if not _is_no_model(file.name)]
    # Mistral's repositories hold the same weights twice, "consolidated" for its own programs.
    plain = [file for file in found if not file.name.startswith("consolidated")]
    return plain or found


def _is_no_model(name: str) -> bool:
    """Training state lies beside weights, and adapters have a plan of their own."""
    return name.startswith(("optimizer", "scheduler", "rng_state", "training_args"))


def _is_small(file: HubFile) -> bool:
    return (file.size_bytes or 0) <= LARGEST_BESIDE_BYTES


def plan_of(
    listing: Listing,
    files: tuple[HubFile, ...],
    remote: Callable[[Listing, HubFile], Remote],
    folder: str | None = None,
) -> Plan:
    """How they are fetched, below `originals/org/repo`. Raises BadRequest for names no disk takes.

    `remote` tells where a file is fetched from.
    """
    if not files:
        raise BadRequest(
            f"{listing.id} holds no original weights.", f"Look at its files: {listing.page}."
        )
    org, _, name = listing.id.partition("/")
    planned = []
    for file in files:
        inner = file.path[len(folder) + 1 :] if folder else file.path
        path = "/".join(safe_name(part) for part in (FOLDER, org, name, *inner.split("/")))
        planned.append(PlannedFile(path, remote(listing, file), "other"))
    origin = {
        "hub": "huggingface",
        "repo": listing.id,
        "revision": listing.commit,
        "license": listing.license,
        "page": listing.page,
    }
    told = {key: value for key, value in origin.items() if value is not None}
    reference = f"{listing.id}@{listing.commit[:7]}"
    return Plan(reference, name, tuple(planned), told)
