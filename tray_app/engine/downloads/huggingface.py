"""Models from the Hugging Face Hub or a mirror of it: searched, listed, planned.

Four JSON endpoints, measured against huggingface_hub 2.4.0; its transfer is not used.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlencode

from tray_app.engine import naming
from tray_app.engine.errors import BadRequest, DownloadFailed, NeedsConversion

from . import hub_files
from .hub_files import HubFile, Variant
from .hub_models import HubModel, read_gated, read_license, read_model, read_tags
from .hub_refusal import Wanted
from .hub_request import HubRequests
from .references import is_repo_id
from .retry import Unreachable
from .values import Plan, PlannedFile, Reference, Remote, safe_name

MAX_PAGES = 40
MAX_FILES = 20_000
LIST_S = 180.0  # for all pages of one list; a page takes a second
MAX_GGUF = 2_000
LARGEST_PLAIN_BYTES = 50 * 10**9  # huggingface_hub, MAX_HTTP_DOWNLOAD_SIZE
SORTS = ("trendingScore", "downloads", "likes", "lastModified", "createdAt")
MAX_RESULTS = 100
_EXPAND = (
    *("author", "createdAt", "downloads", "gated", "gguf", "lastModified", "likes"),
    *("pipeline_tag", "private", "tags"),
)
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<commit>[0-9a-f]+)/(?P<path>[^?#]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True, slots=True)
class _Repo:
    """A repository at one commit."""

    id: str
    commit: str
    gated: str | None
    license: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit, with files of it by path."""

    id: str  # "org/repo"; its name now, if it was renamed
    commit: str
    gated: str | None
    license: str | None
    page: str  # address for people
    files: tuple[HubFile, ...]


class HuggingFace:
    """One endpoint, and what it said lately: keep it. From any thread."""

    def __init__(
        self,
        endpoint: str | None,
        token: Callable[[], str | None],
        environ: Mapping[str, str],
        *,
        requests: HubRequests | None = None,
    ) -> None:
        """As HubRequests. Asks nobody. Raises BadRequest for an unusable endpoint."""
        self._hub = requests or HubRequests(endpoint, token, environ)

    def plan(self, ref: Reference, budget_bytes: int | None) -> Plan:
        """All that `ref` comes to, pinned to the commit it has now.

        `budget_bytes` is what weights may take where no quantization is named (less what the
        caller wants for the KV cache); None: not known. Blocks for seconds, minutes at worst.
        Raises BadRequest, NotFound, DownloadFailed (Unreachable for what may pass).
        """
        repo = self._repo(ref.name, ref.revision)
        everything = self._tree(repo, ref.folder)
        ggufs = _ggufs(everything)
        models = hub_files.variants(ggufs)
        if ref.file is not None:
            _check_asked(ref.file, ggufs, self._page(repo.id))
        if not models:
            raise self._nothing_to_run(repo, everything, ref.folder)
        projectors = hub_files.projectors(ggufs)
        beside = {each: hub_files.projector_for(each, projectors) for each in models}
        needs = {each: _added(each.size_bytes, beside[each]) for each in models}
        chosen, warnings = _choose(ref, repo.id, models, needs, budget_bytes)
        taken = [each for each in (*chosen.files, beside[chosen]) if each is not None]
        if repo.gated:  # lists are for everybody: better now than in the middle of a queue
            self._check_access(repo, taken[0])
        planned = tuple(self._planned(repo, each, ggufs) for each in taken)
        warnings += [line for each in planned for line in _doubts(each)]
        alone = sum(each.label == chosen.label for each in models) == 1
        pinned = chosen.label if alone else chosen.files[0].name
        title = f"{repo.id.partition('/')[2]} {chosen.quantization or ''}".strip()
        origin = self._origin(repo, chosen)
        reference = f"{repo.id}:{pinned}@{repo.commit[:7]}"
        return Plan(reference, title, planned, origin, warnings=tuple(warnings))

    def revived(self, remote: Remote) -> Remote:
        """A planned file as it was kept over a restart, signed in and renewable again.

        Tokens are not for keeping: keep address, name, size and hash. One of another endpoint
        comes back as it is. Asks nobody. Raises BadRequest for an unusable token.
        """
        found = _RESOLVE.fullmatch(remote.url.removeprefix(self._hub.endpoint))
        if found is None:
            return remote
        wanted = Wanted(found["repo"], found["commit"], unquote(found["path"]))
        return self._remote(wanted, remote.size_bytes, remote.sha256)

    def files(self, repo: str, revision: str | None = None) -> tuple[HubFile, ...]:
        """The GGUF files of "org/repo", by path. Blocks and raises as `plan`."""
        return _ggufs(self._tree(self._repo(repo, revision), None))

    def listing(self, name: str) -> Listing:
        """The repository "org/repo" as it is now. Blocks and raises as `plan`, which also says
        what there is instead where there is no GGUF file.
        """
        repo = self._repo(name, None)
        everything = self._tree(repo, None)
        ggufs = _ggufs(everything)
        if not ggufs:
            raise self._nothing_to_run(repo, everything, None)
        page = self._page(repo.id)
        return Listing(repo.id, repo.commit, repo.gated, repo.license, page, ggufs)

    def remote(self, listing: Listing, file: HubFile) -> Remote:
        """Where `file` of a listing is fetched from. Asks nobody. Raises BadRequest."""
        wanted = Wanted(listing.id, listing.commit, file.path)
        return self._remote(wanted, file.size_bytes, file.sha256)

    def everything(self, ref: Reference) -> Listing:
        """As `listing`, with all files and without asking for a GGUF. Raises as `plan`."""
        repo = self._repo(ref.name, ref.revision)
        files = tuple(self._tree(repo, ref.folder))
        return Listing(repo.id, repo.commit, repo.gated, repo.license, self._page(repo.id), files)

    def readme(self, name: str, most_bytes: int) -> tuple[bytes, bool]:
        """(its README.md up to `most_bytes`, whether there is more). Blocks and raises as `plan`;
        NotFound too where there is none.
        """
        repo = self._repo(name, None)
        return self.text(repo.id, repo.commit, "README.md", most_bytes)

    def text(self, repo: str, commit: str, path: str, most_bytes: int) -> tuple[bytes, bool]:
        """(a small file up to `most_bytes`, whether there is more). Raises as `readme`."""
        wanted = Wanted(repo, commit, path)
        return self._hub.get_text(_resolve(repo, commit, path), wanted, most_bytes)

    def page(self, name: str) -> str:
        """The address of "org/repo" for people. Asks nobody."""
        return self._page(name)

    def search(
        self, query: str, sort: str = "trendingScore", limit: int = 20, filter: str = "gguf"
    ) -> tuple[HubModel, ...]:
        """Models for `query` (empty: any), most first by `sort`, one of SORTS.

        `filter` is one tag or several with commas. Blocks and raises as `plan`.
        """
        if sort not in SORTS:
            raise BadRequest(f"Models cannot be sorted by {sort[:40]!r}.", f"Use: {SORTS}.")
        asked = [("filter", tag) for tag in filter.split(",") if tag]
        if query.strip():
            asked.append(("search", query.strip()[:200]))
        asked += [("sort", sort), ("limit", str(min(max(limit, 1), MAX_RESULTS)))]
        asked += [("expand", each) for each in _EXPAND]
        rows = self._hub.get(f"/api/models?{urlencode(asked)}", Wanted()).value
        if not isinstance(rows, list):
            raise DownloadFailed("The hub's answer to the search is no list.", "Retry later.")
        return tuple(model for row in rows[:MAX_RESULTS] if (model := read_model(row)))

    # -- what the hub knows

    def _repo(self, name: str, revision: str | None) -> _Repo:
        if not is_repo_id(name):
            raise BadRequest(f"{name[:120]!r} is no repository.", "Write it as `org/repo`.")
        asked = revision or "main"
        path = f"/api/models/{name}/revision/{quote(asked, safe='')}"
        row = self._hub.get(path, Wanted(name, asked)).value
        row = row if isinstance(row, dict) else {}
        commit, told = row.get("sha"), row.get("id")
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise DownloadFailed(
                f"The hub does not tell which commit {asked} of {name} is.", "Retry later."
            )
        now = told if isinstance(told, str) and is_repo_id(told) else name  # or renamed
        card = row.get("cardData")
        license_ = read_license(card if isinstance(card, dict) else {}, read_tags(row))
        return _Repo(now, commit, read_gated(row), license_)

    def _tree(self, repo: _Repo, folder: str | None) -> list[HubFile]:
        """Every file, page by page; a list that cannot be had whole is an error."""
        below = f"/{quote(folder)}" if folder else ""
        path = f"/api/models/{repo.id}/tree/{repo.commit}{below}?recursive=true&expand=false"
        found: dict[str, HubFile] = {}
        following, began = path, time.monotonic()
        for _ in range(MAX_PAGES):
            page = self._hub.get(following, Wanted(repo.id, repo.commit, folder))
            rows = page.value
            if not isinstance(rows, list):
                raise DownloadFailed(f"The hub's list of {repo.id} is no list.", "Retry later.")
            before, late = len(found), time.monotonic() - began > LIST_S
            found.update((file.path, file) for file in hub_files.read_rows(rows))
            if page.next is None:
                return list(found.values())
            following = page.next
            if late or len(found) > MAX_FILES or (rows and len(found) == before):
                break
        raise DownloadFailed(
            f"The hub's list of {repo.id} does not end, or repeats itself: {len(found):,} files"
            f" came in {time.monotonic() - began:.0f} s.",
            "Name a folder: paste the address of one in the repository's file list.",
        )

    def _check_access(self, repo: _Repo, file: HubFile) -> None:
        wanted = Wanted(repo.id, repo.commit, file.path)
        self._hub.check_access(_resolve(repo.id, repo.commit, file.path), wanted)

    # -- what a plan is made of

    def _planned(self, repo: _Repo, file: HubFile, ggufs: Sequence[HubFile]) -> PlannedFile:
        org, _, name = repo.id.partition("/")
        inner = hub_files.local_name(file, ggufs).split("/")
        path = "/".join(safe_name(part) for part in (org, name, *inner))
        wanted = Wanted(repo.id, repo.commit, file.path)
        return PlannedFile(path, self._remote(wanted, file.size_bytes, file.sha256), file.role)

    def _remote(self, wanted: Wanted, size_bytes: int | None, sha256: str | None) -> Remote:
        path = wanted.path or ""
        url = f"{self._hub.endpoint}{_resolve(wanted.repo or '', wanted.revision or '', path)}"
        renew = functools.partial(self._renewed, wanted, size_bytes, sha256)
        name = path.rpartition("/")[2]
        return Remote(url, name, size_bytes, sha256, self._hub.secrets(), renew)

    def _renewed(self, wanted: Wanted, size_bytes: int | None, sha256: str | None) -> Remote:
        """The same address, which redirects to a new signed one; refused access is explained."""
        path = _resolve(wanted.repo or "", wanted.revision or "", wanted.path or "")
        with contextlib.suppress(Unreachable):  # the transfer has its own patience
            self._hub.check_access(path, wanted)
        return self._remote(wanted, size_bytes, sha256)

    def _origin(self, repo: _Repo, chosen: Variant) -> dict[str, str]:
        told = {
            "hub": "huggingface",
            "repo": repo.id,
            "revision": repo.commit,
            "quantization": chosen.quantization,
            "license": repo.license,
            "page": self._page(repo.id),
        }
        return {key: value for key, value in told.items() if value is not None}

    def _page(self, repo: str) -> str:
        return f"{self._hub.endpoint}/{repo}"

    def _nothing_to_run(
        self, repo: _Repo, everything: Sequence[HubFile], folder: str | None
    ) -> BadRequest:
        where = f"{repo.id}/{folder}" if folder else repo.id
        weights = hub_files.original_weights(everything)
        search = f"{self._hub.endpoint}/models?{urlencode({'search': repo.id.partition('/')[2]})}"
        look = f"Look for one of its GGUF conversions: {search}&library=gguf."
        if weights:
            size = sum(file.size_bytes or 0 for file in weights)
            return NeedsConversion(
                f"{where} holds original weights ({len(weights)} files, {_size(size)}) and"
                " no GGUF.",
                f"Convert it: on the Convert page, or `llama-wrangler convert {repo.id}`. Or look"
                f" for a GGUF of it: {search}&library=gguf.",
            )
        return BadRequest(f"{where} holds no model that llama.cpp can load.", look)


def _ggufs(files: Sequence[HubFile]) -> tuple[HubFile, ...]:
    found = tuple(file for file in files if naming.is_gguf(file.name))
    if len(found) > MAX_GGUF:
        raise BadRequest(
            f"The repository has {len(found):,} GGUF files, too many to choose from.",
            "Paste the address of one folder of it.",
        )
    return tuple(sorted(found, key=lambda file: file.path))


def _check_asked(path: str, ggufs: Sequence[HubFile], page: str) -> None:
    """Refuse a file that is no model by itself. Raises BadRequest."""
    found = next((file for file in ggufs if path in (file.path, file.name)), None)
    kinds = {
        "mmproj": "the projector of a model, which comes along with it",
        "draft": "a draft head, which is no model by itself",
        "imatrix": "an importance matrix, which is no model",
        "other": "a vocabulary, which is no model",
    }
    if found is not None and found.role in kinds:
        raise BadRequest(f"{path} is {kinds[found.role]}.", f"Choose a model at {page}.")
    if found is None and not path.lower().endswith((".gguf", *hub_files.WEIGHTS)):
        raise BadRequest(f"{path} is no model: only .gguf files are.", f"Choose one at {page}.")


def _choose(
    ref: Reference,
    repo: str,
    models: Sequence[Variant],
    needs: Mapping[Variant, int | None],
    budget_bytes: int | None,
) -> tuple[Variant, list[str]]:
    """The model meant, and what is worth knowing about the choice."""
    warnings = []
    if ref.file is not None:
        chosen = hub_files.asked_file(models, ref.file, repo)
    elif ref.tag is not None:
        chosen, *others = hub_files.asked_quantization(models, ref.tag, repo)
        if others:
            names = ", ".join(each.files[0].path for each in others[:3])
            warnings.append(
                f"{len(others) + 1} models have this quantization; {chosen.files[0].path} is the"
                f" largest. Name a file for another: {names}."
            )
    else:
        chosen = hub_files.best(models, needs, budget_bytes, repo)
    need = needs[chosen]
    if budget_bytes is not None and need is not None and need > budget_bytes:
        size, room = f"{need / 1e9:.1f} GB", f"{budget_bytes / 1e9:.1f} GB"
        none_asked = ref.file is None and ref.tag is None
        what = f"Even the smallest one, {chosen.label}," if none_asked else chosen.label
        warnings.append(f"{what} takes {size}, more than the {room} that models may use here.")
    return chosen, warnings


def _doubts(planned: PlannedFile) -> Iterator[str]:
    """What may go wrong with a file."""
    remote = planned.remote
    if remote.size_bytes is not None and remote.size_bytes > LARGEST_PLAIN_BYTES:
        yield (
            f"{remote.filename} is {remote.size_bytes / 1e9:.0f} GB in one file. The Hub may give"
            " files over 50 GB only to programs that speak its xet protocol, and this one does"
            " not; a quantization in several parts has no such limit."
        )
    if remote.sha256 is None:
        yield f"The hub tells no sha256 of {remote.filename}, so only its size is checked."


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**8 else f"{count / 1e6:.0f} MB"


def _added(size_bytes: int | None, projector: HubFile | None) -> int | None:
    if projector is None or size_bytes is None:
        return size_bytes
    return size_bytes + (projector.size_bytes or 0)


def _resolve(repo: str, revision: str, path: str) -> str:
    return f"/{repo}/resolve/{quote(revision, safe='')}/{quote(path)}"
