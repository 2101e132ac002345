"""Gets a llama.cpp source tree: from the index, else the release's, else a clone of its tag."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from tray_app.engine.checksum import file_sha256
from tray_app.engine.errors import DownloadFailed, RuntimeBuildFailed
from tray_app.engine.process import ChildRegistry

from .archive import unpack
from .recipe import Source, unpinned
from .reporter import Reporter, note
from .steps import Step

if TYPE_CHECKING:
    from tray_app.engine.fetch import RemoteFile

log = logging.getLogger(__name__)

RELEASE_URL = "https://github.com/ggml-org/llama.cpp/archive/refs/tags/b{build}.tar.gz"
GIT_URL = "https://github.com/ggml-org/llama.cpp"
MAX_ARCHIVE_BYTES = 500_000_000  # b11434's has 37 MB
STALL_S = 15.0
ATTEMPTS = 3


def locate(source: Source) -> RemoteFile:
    """The source on the package index, with the index's hash where we hold none. Blocks."""
    from tray_app.engine.package_index import (
        find_distribution,  # 2.4 MB that an idle engine does not need
    )

    return find_distribution(
        source.project, source.filename, source.sha256, size_bytes=source.size_bytes
    )


@dataclass(frozen=True, slots=True)
class Origins:
    """Where sources come from; None is not tried."""

    locate: Callable[[Source], RemoteFile] = locate
    release_url: str | None = RELEASE_URL
    git_url: str | None = GIT_URL
    git: Callable[[], str | None] = lambda: shutil.which("git")


@dataclass(frozen=True, slots=True)
class Tree:
    """A source tree on the disk."""

    folder: Path  # holds CMakeLists.txt
    made_from: str  # where it came from and how far that is checked, in a few words
    source: Source  # what may be claimed about it: no hash but one that was checked


@dataclass(frozen=True, slots=True)
class Fetching:
    """What fetching a source works with."""

    work: Path  # a private folder
    cache: Path
    reporter: Reporter
    origins: Origins
    registry: ChildRegistry | None = None


def obtain_tree(source: Source, fetching: Fetching) -> Tree:
    """The source tree of `source` below `fetching.work`, from the first place that has it.

    Only what matched a hash known beforehand is kept in the cache. Blocks: 2 s from the cache,
    else as long as 40 MB take. Raises DownloadFailed with each place's reason, NotEnoughDisk,
    Cancelled, OSError.
    """
    reasons: list[str] = []
    for name, way in (
        ("the package index", _from_index),
        ("the release archive", _from_release),
        ("git", _from_git),
    ):
        folder = fetching.work / f"source-{len(reasons)}"
        try:
            tree = way(source, folder, fetching)
        except (DownloadFailed, RuntimeBuildFailed) as exc:
            shutil.rmtree(folder, ignore_errors=True)
            reasons.append(f"{name}: {exc.message}")
            note(fetching.reporter, reasons[-1])
            continue
        if tree is not None:
            return tree
    raise DownloadFailed(
        f"The source of llama.cpp b{source.build} cannot be had. {' '.join(reasons)}",
        "Check the connection, or choose another build.",
    )


def _from_index(source: Source, folder: Path, fetching: Fetching) -> Tree:
    from tray_app.engine.fetch import fetch_file  # urllib and its kin: only for a build

    reporter = fetching.reporter
    archive = _cached(source, fetching.cache)
    if archive is None:
        reporter.progress(0, source.size_bytes, "bytes", "Downloading the source")
        remote = fetching.origins.locate(source)
        archive = fetch_file(
            remote,
            fetching.cache / "sources" / remote.sha256 / source.filename,
            progress=lambda done, total: reporter.progress(done, total, "bytes"),
            cancel=reporter.cancel,
        )
    digest = archive.parent.name
    told = "" if source.sha256 else " (as the index tells it)"
    reporter.progress(0, None, "steps", "Unpacking")
    unpack(archive, folder, reporter.check)
    made_from = f"{source.filename}, sha256 {digest}{told}"
    return Tree(_root(folder, source.root), made_from, source)


def _cached(source: Source, cache: Path) -> Path | None:
    """The pinned archive, checked anew."""
    if source.sha256 is None:
        return None
    archive = cache / "sources" / source.sha256 / source.filename
    right = archive.is_file() and file_sha256(archive) == source.sha256
    return archive if right else None


def _from_release(source: Source, folder: Path, fetching: Fetching) -> Tree | None:
    """GitHub makes this archive on demand and publishes no digest: its TLS has to do."""
    if fetching.origins.release_url is None:
        return None
    url = fetching.origins.release_url.format(build=source.build)
    archive = fetching.work / f"b{source.build}.tar.gz"
    fetching.reporter.progress(0, None, "bytes", "Downloading the release's source")
    try:
        digest = _download(url, archive, fetching.reporter)
        fetching.reporter.progress(0, None, "steps", "Unpacking")
        unpack(archive, folder, fetching.reporter.check)
    finally:
        archive.unlink(missing_ok=True)
    made_from = f"{url}, sha256 {digest} as it arrived (no digest is published)"
    return Tree(_root(folder), made_from, unpinned(source.build))


def _from_git(source: Source, folder: Path, fetching: Fetching) -> Tree | None:
    url = fetching.origins.git_url
    if url is None:
        return None
    git = fetching.origins.git()
    if git is None:
        raise DownloadFailed("git is not installed.", "Install git.")
    tag = f"b{source.build}"
    fetching.reporter.progress(0, None, "steps", "Cloning the source")
    step = Step(
        fetching.reporter,
        str(folder),
        # Never a question on a terminal that nobody sees.
        {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS": ""},
        fetching.registry,
        f"Cloning {tag}",
    )
    stall = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60")
    quiet = ("-c", "advice.detachedHead=false")
    step.run((git, *stall, *quiet, "clone", "--depth", "1", "--branch", tag, url, str(folder)))
    lines: list[str] = []
    step.run((git, "-C", str(folder), "rev-parse", "HEAD"), lines.append)
    shutil.rmtree(folder / ".git", ignore_errors=True)
    commit = lines[-1].strip() if lines else "unknown"
    return Tree(_root(folder), f"{url} tag {tag}, commit {commit}", unpinned(source.build))


def _root(folder: Path, named: str = "") -> Path:
    """Where the tree's CMakeLists.txt is: where it should be, or the only folder inside."""
    found = [folder / named, *(p for p in sorted(folder.iterdir()) if p.is_dir())]
    for root in found:
        if (root / "CMakeLists.txt").is_file():
            return root
    raise RuntimeBuildFailed("What was fetched holds no CMakeLists.txt.", "Choose another build.")


def _download(url: str, target: Path, reporter: Reporter) -> str:
    """Bring a file of unknown size and hash to `target`; its sha256. Raises DownloadFailed."""
    from tray_app.engine.fetch import open_url, without_credentials

    reason = ""
    for _ in range(ATTEMPTS):
        reporter.check()
        try:
            with open_url(url, {}, STALL_S) as response, target.open("wb") as file:
                return _copy(response.read1, file.write, reporter)
        except (OSError, HTTPException, ValueError) as exc:
            if isinstance(exc, OSError) and exc.filename == os.fspath(target):
                raise
            log.info("a release archive was not to be had", exc_info=exc)
            reason = str(exc) or type(exc).__name__
            if getattr(exc, "code", 500) in (400, 401, 403, 404, 410):
                break
    raise DownloadFailed(
        f"{without_credentials(url)} cannot be downloaded: {reason}.", "Check the connection."
    )


def _copy(
    read: Callable[[int], bytes], write: Callable[[bytes], object], reporter: Reporter
) -> str:
    digest, done = hashlib.sha256(), 0
    while chunk := read(1 << 18):
        reporter.check()
        done += len(chunk)
        if done > MAX_ARCHIVE_BYTES:
            raise ValueError(f"it has more than {MAX_ARCHIVE_BYTES / 1e6:.0f} MB")
        digest.update(chunk)
        write(chunk)
        reporter.progress(done, None, "bytes")
    return digest.hexdigest()
