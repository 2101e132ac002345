"""Installs a prebuilt runtime: fetched, checked, unpacked aside, proven, and only then in place."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tray_app.engine.errors import (
    EngineError,
    NotEnoughDisk,
    RuntimeBuildFailed,
    RuntimeMissing,
    RuntimeRejected,
)

from . import store
from .archive import unpack
from .feed_rows import is_trusted
from .probe import Probe, probe
from .store import SERVER
from .values import Asset, Prebuilt, Proof, Release

if TYPE_CHECKING:
    from tray_app.engine.fetch import RetryPolicy

    from .build import Reporter

Prove = Callable[[Path, str], Proof]

# Programs and libraries unpack to about three times their archive (b11434: 2.9, CPU build).
EXPANSION = 5
# What an archive may hold: far more than any does, far less than fills a disk.
MOST_EXPANSION = 12
LEAST_BOUND_BYTES = 256 << 20
MAX_MEMBERS = 20_000  # a ROCm archive for Windows has some thousand kernels
DISK_MARGIN_BYTES = 64 << 20
KEEP_DOWNLOADS_S = 7 * 24 * 3600.0  # of an installation that was broken off
REMEDY = (
    "Check the connection and the proxy settings and retry: it goes on where it stopped."
    " Or build it from source."
)
OTHER = "Choose another release, or build it from source."

_LIBRARY = re.compile(r".*\.(?:dll|dylib|so(?:\.\d+)*)", re.IGNORECASE)
_NOTICE = re.compile(r"(?:licen[cs]e|notice|copying|eula).*", re.IGNORECASE)


def runtime_id(build: int, backend: str) -> str:
    """The folder below runtimes/ for a prebuilt one, e.g. "b11500-vulkan-release"."""
    return f"b{build}-{backend}-release"


def install_prebuilt(
    release: Release,
    prebuilt: Prebuilt,
    runtimes: Path,
    cache: Path,
    reporter: Reporter,
    prove: Prove,
    policy: RetryPolicy | None = None,
) -> Path:
    """The folder `runtimes`/b<build>-<backend>-release; one that is there and whole is kept.

    Blocks for the download. A cancel leaves nothing but the part of the download that is there,
    which the next call resumes. Raises RuntimeRejected when what came does not prove itself,
    RuntimeBuildFailed for an archive that cannot be used, RuntimeMissing, DownloadFailed,
    NotEnoughDisk, Cancelled, OSError.
    """
    _check_assets(prebuilt)
    target = runtimes / runtime_id(release.build, prebuilt.backend)
    store.clear_staging(runtimes)
    clear_downloads(cache, prebuilt)
    if store.verified(target, _key(prebuilt)) is not None:
        _proven(target, release, prebuilt, reporter, prove)
        return target
    work = store.new_staging(runtimes)
    try:
        _check_disk(prebuilt, work, cache)
        archives = _fetch(prebuilt, cache, reporter, policy)
        try:
            staged = _stage(archives, work, reporter)
            found = _proven(staged, release, prebuilt, reporter, prove)
        except (RuntimeRejected, RuntimeBuildFailed):
            _forget(prebuilt, cache)  # the same bytes would come again
            raise
        reporter.check()
        store.seal(
            staged,
            runtime_id=target.name,
            build=release.build,
            backend=prebuilt.backend,
            key=_key(prebuilt),
            version_text=found.version_text,
            origin="downloaded",
            made_from=_provenance(release, prebuilt),
        )
        store.put_in_place(staged, target)
        _forget(prebuilt, cache)
        return target
    finally:
        shutil.rmtree(work, ignore_errors=True)


def clear_downloads(cache: Path, keep: Prebuilt | None = None) -> None:
    """Remove downloads that nobody has gone on with for a week. Raises nothing."""
    kept = {asset.sha256 for asset in keep.assets} if keep else set()
    for folder in (cache / "downloads").glob("*"):
        try:
            times = [path.stat().st_mtime for path in (folder, *folder.iterdir())]
        except OSError:
            continue
        if folder.name not in kept and time.time() - max(times) > KEEP_DOWNLOADS_S:
            shutil.rmtree(folder, ignore_errors=True)


def _check_assets(prebuilt: Prebuilt) -> None:
    if not prebuilt.assets:
        raise RuntimeMissing("This release has nothing to install.", OTHER)
    for asset in prebuilt.assets:
        if asset.sha256 is None or not is_trusted(asset.url):
            why = "no sha256" if asset.sha256 is None else "no https address"
            raise RuntimeMissing(
                f"{asset.name} is not installed: the feed tells {why} for it.", OTHER
            )


def _check_disk(prebuilt: Prebuilt, work: Path, cache: Path) -> None:
    """Room for the archives where they are kept, and for what is in them."""
    folder = cache / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    missing = sum(max(0, a.size_bytes - _present_bytes(a, cache)) for a in prebuilt.assets)
    unpacked = prebuilt.size_bytes * EXPANSION
    if folder.stat().st_dev == work.stat().st_dev:
        needs = [(work.parent, missing + unpacked)]
    else:
        needs = [(folder, missing), (work.parent, unpacked)]
    for place, needed in needs:
        free = shutil.disk_usage(place).free
        if free < needed + DISK_MARGIN_BYTES:
            raise NotEnoughDisk(
                f"Installing this runtime needs about {needed / 1e6:.0f} MB for a while;"
                f" {free / 1e6:.0f} MB are free.",
                f"Free some space on the disk of {place}, then retry.",
            )


def _present_bytes(asset: Asset, cache: Path) -> int:
    path = _download_path(asset, cache)
    for candidate in (path, path.with_name(path.name + ".part")):
        if candidate.is_file():
            return candidate.stat().st_size
    return 0


def _download_path(asset: Asset, cache: Path) -> Path:
    return cache / "downloads" / str(asset.sha256) / asset.name


def _fetch(
    prebuilt: Prebuilt, cache: Path, reporter: Reporter, policy: RetryPolicy | None
) -> list[Path]:
    """All archives, verified. Their progress is told as that of one download."""
    from tray_app.engine.fetch import RemoteFile, fetch_file  # urllib and its kin

    before = 0
    total = prebuilt.size_bytes
    archives = []
    reporter.progress(0, total, "bytes", "Downloading")
    for asset in prebuilt.assets:
        reporter.check()
        base = before

        def tell(done: int, _: int | None, base: int = base) -> None:
            reporter.progress(base + done, total, "bytes")

        remote = RemoteFile(asset.url, asset.name, str(asset.sha256), asset.size_bytes)
        path = _download_path(asset, cache)
        archives.append(
            fetch_file(
                remote, path, progress=tell, cancel=reporter.cancel, policy=policy, remedy=REMEDY
            )
        )
        before += asset.size_bytes
        reporter.progress(before, total, "bytes")
    return archives


def _stage(archives: list[Path], work: Path, reporter: Reporter) -> Path:
    """One folder with the llama-server in it and the companions' libraries beside it."""
    reporter.progress(0, None, "steps", "Unpacking")
    trees = []
    with _disk_told(work):
        for number, archive in enumerate(archives):
            tree = work / f"archive-{number}"
            bound = archive.stat().st_size * MOST_EXPANSION + LEAST_BOUND_BYTES
            unpack(archive, tree, reporter.check, max_members=MAX_MEMBERS, max_total_bytes=bound)
            trees.append(tree)
    staged = work / "runtime"
    os.replace(_server_folder(trees[0], archives[0].name), staged)
    for tree in trees[1:]:
        _add_libraries(tree, staged)
    _check_links(staged)
    if os.name == "posix":
        for path in staged.iterdir():  # a zip made on Windows knows no such thing
            if path.is_file() and not path.is_symlink() and _is_program(path.name):
                path.chmod(0o755)
    return staged


def _server_folder(tree: Path, archive: str) -> Path:
    """Where the llama-server lies: build/bin/, llama-b11434/, or the root of the archive."""
    found = [path for path in tree.rglob(SERVER) if path.is_file()]
    if not found:
        raise RuntimeRejected(f"{archive} holds no {SERVER}.", OTHER)
    return min(found, key=lambda path: (len(path.parts), path)).parent


def _add_libraries(tree: Path, staged: Path) -> None:
    """Move the libraries of a companion, and the words of their licences, beside the server."""
    wanted = [
        path
        for path in sorted(tree.rglob("*"))
        if path.is_file()
        and (_LIBRARY.fullmatch(path.name) or _NOTICE.fullmatch(path.name))
        and not (staged / path.name).exists()
    ]
    for path in wanted:
        if path.is_symlink() and "/" in os.readlink(path):  # it would lead nowhere from there
            shutil.copy2(path, staged / path.name)
    for path in wanted:
        if not (staged / path.name).is_symlink() and not (staged / path.name).exists():
            os.replace(path, staged / path.name)


def _check_links(staged: Path) -> None:
    """A link may have pointed to a part of the archive that the runtime does not keep."""
    root = staged.resolve()
    for path in staged.rglob("*"):
        if path.is_symlink() and not (path.exists() and path.resolve().is_relative_to(root)):
            raise RuntimeRejected(f"The archive's {path.name} is a link to nothing.", OTHER)


def _is_program(name: str) -> bool:
    return name == SERVER or (name.startswith(("llama", "ggml-rpc", "rpc-")) and "." not in name)


def _proven(
    folder: Path, release: Release, prebuilt: Prebuilt, reporter: Reporter, prove: Prove
) -> Probe:
    """Run it. Raises RuntimeRejected unless it works and is the build it is said to be."""
    reporter.check()
    reporter.progress(0, None, "steps", "Trying it")
    server = folder / SERVER
    proof = prove(server, prebuilt.backend)
    if not proof.ok:
        error = proof.error
        raise RuntimeRejected(
            error.message if error else f"{prebuilt.assets[0].name} does not work here.",
            (error.remedy if error else "") or OTHER,
        )
    reporter.check()
    try:
        found = probe(server)
    except EngineError as exc:
        raise RuntimeRejected(exc.message, OTHER) from exc
    if found.build != release.build:
        raise RuntimeRejected(
            f"{prebuilt.assets[0].name} says it is build {found.build or 'unknown'},"
            f" not {release.build}.",
            OTHER,
        )
    return found


def _key(prebuilt: Prebuilt) -> str:
    return str(prebuilt.assets[0].sha256)


def _provenance(release: Release, prebuilt: Prebuilt) -> str:
    """What it was made from, in one line."""
    parts = [f"{asset.name}, sha256 {asset.sha256}" for asset in prebuilt.assets]
    return f"release {release.tag}: {'; '.join(parts)}"


def _forget(prebuilt: Prebuilt, cache: Path) -> None:
    for asset in prebuilt.assets:
        shutil.rmtree(_download_path(asset, cache).parent, ignore_errors=True)


@contextmanager
def _disk_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(folder).free
        raise NotEnoughDisk(
            f"The disk filled up while the runtime was unpacked; {free / 1e6:.0f} MB are free.",
            f"Free some space on the disk of {folder.parent}, then retry.",
        ) from exc
