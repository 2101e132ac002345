"""The commands about downloads and hubs; part of the engine's one table (`engine.commands`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tray_app.engine import routes, secrets
from tray_app.engine.conversations import model_key
from tray_app.engine.errors import BadRequest
from tray_app.engine.events import SettingsChanged
from tray_app.engine.values import ModelState

from . import origins, removal
from .adopt import drop_aliases
from .catalog import Suggested
from .discover import Found
from .values import Download, DownloadState, HubAccount, Preview, RepoDetails

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

MAX_RESULTS = 100


class DownloadCommands:
    """Public methods are commands. Those that ask a hub may take 15 s."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- the queue

    def pull(self, reference: str) -> Download:
        """Queue a model by its reference, or join the download of the same."""
        return self._engine.downloads.pull(reference)

    def preview_download(self, reference: str) -> Preview:
        """What a reference comes to; nothing is fetched."""
        return self._engine.downloads.preview(reference)

    def pause_download(self, download_id: str) -> Download:
        """Stop a download until it is resumed."""
        return self._engine.downloads.queue.pause(download_id)

    def resume_download(self, download_id: str) -> Download:
        """Let a paused or waiting download go on."""
        return self._engine.downloads.queue.resume(download_id)

    def cancel_download(self, download_id: str) -> Download:
        """End a download and delete what it has fetched."""
        return self._engine.downloads.queue.cancel(download_id)

    def retry_download(self, download_id: str) -> Download:
        """Try a failed or cancelled download again."""
        return self._engine.downloads.queue.retry(download_id)

    def remove_download(self, download_id: str) -> bool:
        """Take a finished download off the list; its model stays."""
        self._engine.downloads.queue.remove(download_id)
        return True

    def move_download(self, download_id: str, before: str | None = None) -> Download:
        """Give a download its place before another, or at the end of the queue."""
        return self._engine.downloads.queue.move(download_id, before)

    def pause_downloads(self) -> list[Download]:
        """Pause all that are not finished."""
        return list(self._engine.downloads.queue.pause_all())

    def resume_downloads(self) -> list[Download]:
        """Resume all that are paused or wait."""
        return list(self._engine.downloads.queue.resume_all())

    def clear_downloads(self) -> int:
        """Take what is done or cancelled off the list; how many were taken."""
        queue = self._engine.downloads.queue
        ended = (DownloadState.DONE, DownloadState.CANCELLED)
        gone = [each.id for each in queue.list() if each.state in ended]
        for download_id in gone:
            queue.remove(download_id)
        return len(gone)

    # -- looking around

    def search_models(
        self, query: str = "", sort: str = "trendingScore", filter: str = "gguf", limit: int = 20
    ) -> Found:
        """Repositories of Hugging Face."""
        if not 1 <= limit <= MAX_RESULTS:
            raise BadRequest(f"{limit} models cannot be shown.", f"Ask for 1 to {MAX_RESULTS}.")
        return self._engine.downloads.discover.search(query, sort, filter, limit)

    def repo_details(self, repo: str, context_length: int | None = None) -> RepoDetails:
        """What a repository offers, and how each would fit this machine."""
        if context_length is not None and not 0 < context_length <= 1 << 24:
            raise BadRequest(f"{context_length} tokens are no context length.")
        return self._engine.downloads.discover.details(repo, context_length)

    def model_card(self, repo: str) -> dict[str, Any]:
        """A repository's own words. Untrusted Markdown."""
        card = self._engine.downloads.discover.card(repo)
        return {"markdown": card.markdown, "truncated": card.truncated, "page": card.page}

    def suggested_models(self) -> Suggested:
        """A few good first models, names for completion, and what quantizations mean."""
        return self._engine.downloads.discover.suggestions()

    # -- the account at Hugging Face

    def hub_account(self) -> HubAccount:
        """Whether there is a token, and where it is kept."""
        return secrets.account(self._engine.settings.downloads.token_stored)

    def set_hub_token(self, token: str | None = None) -> HubAccount:
        """Keep a token in the system's keychain, or remove it from there."""
        engine, key = self._engine, "downloads.token_stored"
        secrets.set_hub_token(token)
        engine.store.change({key: True if token else None})
        engine.publish(SettingsChanged((key,)))
        engine.downloads.discover.forget()
        return self.hub_account()

    # -- files

    def import_model(self, path: str, how: str = "auto") -> dict[str, str]:
        """Start bringing a local GGUF into the library."""
        return {"job_id": self._engine.downloads.importer.start(path, how).id}

    def model_origin(self, model_id: str) -> dict[str, Any] | None:
        """Where a downloaded model is from."""
        engine = self._engine
        model = routes.find(
            model_id, engine.library.models(), engine.settings.aliases, engine.active.model_id
        )
        return origins.read(model.path)

    def delete_model(self, model_id: str) -> dict[str, int]:
        """Delete a model's files, where they are the home's own and it is not in memory."""
        engine = self._engine
        model = engine.library.get(model_id)  # by its id alone: no alias, no guess
        status = engine.residency.statuses().get(model.id)
        idle = (ModelState.UNLOADED, ModelState.FAILED)
        if status is not None and status.state not in idle:
            raise BadRequest(f"{model.name} is in memory.", "Unload it first.")
        freed = removal.delete(model, engine.home.models, engine.library.models())
        engine.conversations.forget(model_key(model.path))
        if drop_aliases(engine.store, model.id):
            engine.publish(SettingsChanged(("aliases",)))
        engine.library.rescan()
        return {"freed_bytes": freed}
