"""The token of Hugging Face: where it is read, where it is kept, and that nobody else sees it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tray_app.engine.downloads.values import HubAccount
from tray_app.engine.errors import BadRequest, EngineError
from tray_app.engine.secrets import SERVICE, USER, HubToken

TOKEN = "hf_abcdefghijklmnop"


class Keychain:
    """A back end of keyring, as keyring's own are: three methods and a name."""

    name = "Test Keychain"

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}
        self.asked = 0
        self.refuses = False

    def get_password(self, service: str, user: str) -> str | None:
        self.asked += 1
        if self.refuses:
            raise RuntimeError(f"the prompt for {TOKEN} was dismissed")
        return self.kept.get((service, user))

    def set_password(self, service: str, user: str, password: str) -> None:
        self.kept[service, user] = password

    def delete_password(self, service: str, user: str) -> None:
        del self.kept[service, user]


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def token(keychain: Any, environ: dict[str, str] | None = None, **options: Any) -> HubToken:
    return HubToken(environ or {}, lambda: keychain, **options)


def test_a_token_is_kept_read_and_removed() -> None:
    keychain = Keychain()
    hub = token(keychain)
    assert hub.read(True) is None
    hub.keep(TOKEN)
    assert keychain.kept == {(SERVICE, USER): TOKEN}
    assert hub.read(True) == TOKEN
    assert hub.account(True) == HubAccount("keychain", "Test Keychain")
    hub.keep(None)
    assert keychain.kept == {}
    assert hub.read(True) is None
    hub.keep(None)  # removing what is not there is no error


def test_the_environment_comes_first_and_the_file_of_hf_last(tmp_path: Path) -> None:
    keychain = Keychain()
    file = tmp_path / ".cache" / "huggingface" / "token"
    file.parent.mkdir(parents=True)
    file.write_text("hf_of_the_file\n")
    assert token(keychain).read(True) == "hf_of_the_file"
    assert token(keychain).account(True).source == "file"
    keychain.set_password(SERVICE, USER, TOKEN)
    assert token(keychain).read(True) == TOKEN
    hub = token(keychain, {"HF_TOKEN": "hf_of_the_environment"})
    assert hub.read(True) == "hf_of_the_environment"
    assert hub.account(True).source == "environment"


def test_a_file_that_is_no_token_is_none(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"\xff\xfe" * 100)
    assert token(Keychain(), {"HF_TOKEN_PATH": str(path)}).read(True) is None
    path.write_text("two words")
    assert token(Keychain(), {"HF_TOKEN_PATH": str(path)}).read(True) is None


def test_the_keychain_is_asked_once_a_minute() -> None:
    keychain, now = Keychain(), [0.0]
    hub = token(keychain, clock=lambda: now[0])
    for _ in range(5):
        hub.read(True)
    assert keychain.asked == 1
    now[0] = 61.0
    hub.read(True)
    assert keychain.asked == 2


def test_a_keychain_that_holds_nothing_of_ours_is_not_asked() -> None:
    keychain = Keychain()
    hub = token(keychain)
    assert hub.read(False) is None
    assert hub.account(False).source == "none"
    assert keychain.asked == 0


@pytest.mark.parametrize("module", ["keyring.backends.fail", "keyrings.alt.file"])
def test_a_back_end_that_keeps_no_secret_is_no_keychain(module: str) -> None:
    kind = type("Keyring", (Keychain,), {"__module__": module})
    hub = token(kind())
    account = hub.account(True)
    assert (account.source, account.keychain) == ("none", None)
    assert account.problem
    with pytest.raises(EngineError) as error:
        hub.keep(TOKEN)
    assert "HF_TOKEN" in error.value.remedy


def test_a_keychain_that_nobody_unlocks_does_not_hold_a_download_up() -> None:
    never = threading.Event()
    hub = HubToken({}, lambda: never.wait(10), prompt_s=0.05)
    assert hub.read(True) is None
    assert "locked" in hub.account(True).problem
    assert hub.read(False) is None
    never.set()


@pytest.mark.parametrize(
    "bad", ["", "short", "two words here", "x" * 600, "hf_\nnewline", "hf_ü" * 4]
)
def test_a_token_that_cannot_be_one_is_refused_and_not_repeated(bad: str) -> None:
    with pytest.raises(BadRequest) as error:
        token(Keychain()).keep(bad)
    assert not bad or bad not in error.value.message + error.value.remedy


def test_the_token_is_in_no_message_and_no_representation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keychain = Keychain()
    hub = token(keychain)
    hub.keep(TOKEN)
    keychain.refuses = True
    with pytest.raises(EngineError) as error:
        hub.keep(None)
    shown = [str(error.value), error.value.remedy, repr(hub.account(True)), repr(hub)]
    assert not any(TOKEN in text for text in shown)
    assert not any(TOKEN in record.getMessage() for record in caplog.records)
