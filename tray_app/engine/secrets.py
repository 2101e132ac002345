"""The one place where a secret is read or kept: the token of Hugging Face.

`HF_TOKEN` comes first, then the system's keychain, then the file that `hf auth login` writes
(huggingface_hub, `constants.HF_TOKEN_PATH`), which is only ever read. A keychain may ask its user
to unlock it, so it is asked only where a token was put into it (`stored`, a setting), and a
search or a download does not wait long for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tray_app.engine.downloads.values import HubAccount

from .errors import BadRequest, EngineError

log = logging.getLogger(__name__)

SERVICE, USER = "Llama Wrangler", "huggingface"
FRESH_S = 60.0  # the keychain is asked this often at most
PROMPT_S = 30.0  # a locked keychain asks its user
READ_S = 2.0  # for whoever only wants to read it; an answer that comes later serves the next one
MAX_FILE_BYTES = 4096
_TOKEN = re.compile(r"[\x21-\x7e]{8,500}")
# Back ends of keyring that keep nothing, or keep it for everybody to read.
_NO_KEYCHAIN = ("keyring.backends.fail", "keyring.backends.null", "keyrings.alt")
_INSTALL = (
    "On Linux, install and unlock gnome-keyring or KWallet. Until then, set HF_TOKEN in the"
    " environment of Llama Wrangler."
)


class _NoAnswer(Exception):
    """The keychain cannot be used; the text says why."""


class HubToken:
    """Reads and keeps the token. Thread-safe; the token is never shown or logged."""

    def __init__(
        self,
        environ: Mapping[str, str],
        keychain: Callable[[], Any],
        clock: Callable[[], float] = time.monotonic,
        prompt_s: float = PROMPT_S,
    ) -> None:
        """`keychain()` returns keyring's back end; it is not called before it is needed."""
        self._environ = environ
        self._keychain = keychain
        self._clock = clock
        self._prompt_s = prompt_s
        self._lock = threading.Lock()
        self._known: tuple[float, str | None] | None = None  # when it was read, and what
        self._reading: threading.Thread | None = None

    def read(self, stored: bool) -> str | None:
        """The token to use. Blocks for READ_S at most, once a minute; never raises."""
        kept = self._of_keychain(READ_S) if stored else None
        return self._of_environment() or kept or self._of_file()

    def keep(self, token: str | None) -> None:
        """Keep a token in the keychain; None removes it. Blocks. Raises BadRequest, EngineError."""
        if token is not None and not _TOKEN.fullmatch(token):
            raise BadRequest(
                "This cannot be a token: it has 8 to 500 characters without blanks.",
                "Copy it again from https://huggingface.co/settings/tokens",
            )
        try:
            backend = self._backend()
            if token is not None:
                self._ask(lambda: backend.set_password(SERVICE, USER, token))
            elif self._ask(lambda: backend.get_password(SERVICE, USER)) is not None:
                self._ask(lambda: backend.delete_password(SERVICE, USER))
        except _NoAnswer as error:
            raise EngineError(f"The keychain cannot be used: {error}", _INSTALL) from None
        finally:
            with self._lock:
                self._known = None

    def account(self, stored: bool) -> HubAccount:
        """Where the token comes from. Blocks for PROMPT_S at most."""
        name, problem = None, ""
        try:
            name = str(self._backend().name)
        except _NoAnswer as error:
            problem = str(error)
        if self._of_environment():
            return HubAccount("environment", name, problem)
        if stored and self._of_keychain(self._prompt_s):
            return HubAccount("keychain", name, problem)
        return HubAccount("file" if self._of_file() else "none", name, problem)

    def _of_environment(self) -> str | None:
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            if token := self._environ.get(name, "").strip():
                return token
        return None

    def _of_keychain(self, wait_s: float) -> str | None:
        """What is in it; None too while it has not answered."""
        with self._lock:
            if self._known is not None and self._clock() - self._known[0] < FRESH_S:
                return self._known[1]
            if self._reading is None or not self._reading.is_alive():
                self._reading = threading.Thread(target=self._look, name="token", daemon=True)
                self._reading.start()
            reading = self._reading
        reading.join(wait_s)
        with self._lock:
            return self._known[1] if self._known is not None else None

    def _look(self) -> None:
        token = None
        with contextlib.suppress(_NoAnswer):  # `account` tells it
            backend = self._backend()
            token = self._ask(lambda: backend.get_password(SERVICE, USER))
        with self._lock:
            self._known = self._clock(), token

    def _of_file(self) -> str | None:
        given = self._environ.get("HF_TOKEN_PATH")
        home = self._environ.get("HF_HOME")
        folder = Path(home) if home else Path.home() / ".cache" / "huggingface"
        try:
            with open(given or folder / "token", encoding="utf-8") as file:
                token = file.read(MAX_FILE_BYTES).strip()
        except (OSError, UnicodeDecodeError):
            return None
        return token if _TOKEN.fullmatch(token) else None

    def _backend(self) -> Any:
        """Keyring's back end. Raises _NoAnswer where it is none that keeps a secret."""
        backend = self._ask(self._keychain)
        parts = getattr(backend, "backends", None) or [backend]  # of a chain, the first one counts
        module = type(parts[0]).__module__
        if module.startswith(_NO_KEYCHAIN):
            raise _NoAnswer("this system has none that is running.")
        return parts[0]

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The answer, within the time that a user takes to unlock it. Raises _NoAnswer."""
        answer: list[Any] = []
        problem: list[str] = []

        def ask() -> None:
            try:
                answer.append(question())
            except Exception as error:  # barrier: back ends raise whatever their systems do
                log.warning("the keychain refused", exc_info=True)
                problem.append(type(error).__name__)

        # A daemon thread: a prompt that nobody answers must not keep the engine from ending.
        thread = threading.Thread(target=ask, name="keychain", daemon=True)
        thread.start()
        thread.join(self._prompt_s)
        if problem:
            raise _NoAnswer(f"it refused ({problem[0]}).")
        if not answer:
            raise _NoAnswer(f"it has not answered within {self._prompt_s:.0f} s. Is it locked?")
        return answer[0]


def _keyring() -> Any:
    import keyring

    return keyring.get_keyring()


_token = HubToken(os.environ, _keyring)


def hub_token(stored: bool) -> str | None:
    """The token of Hugging Face, if there is one. Blocks for READ_S at most."""
    return _token.read(stored)


def set_hub_token(token: str | None) -> None:
    """Keep it in the keychain, or remove it there. Raises BadRequest, EngineError."""
    _token.keep(token)


def account(stored: bool) -> HubAccount:
    """Whether there is a token, and where it comes from. Blocks for PROMPT_S at most."""
    return _token.account(stored)
