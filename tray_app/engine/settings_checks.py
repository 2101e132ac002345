"""Which values a setting may have, and what is said of the others."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from .errors import SettingsInvalid
from .settings_values import (
    KV_CACHE_TYPES,
    AppSettings,
    DownloadSettings,
    ModelSettings,
    RuntimeSettings,
    ServerSettings,
    Settings,
    UiSettings,
)
from .values import BACKENDS


def _range(low: float, high: float, unit: str) -> Callable[[str, Any], None]:
    def check(key: str, value: Any) -> None:
        if value is not None and not low <= value <= high:
            raise SettingsInvalid(
                f"{key} is {value}; it must be {low} to {high} {unit}.".replace(" .", ".")
            )

    return check


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(key: str, value: Any) -> None:
    """An address of an interface; that sharing needs a key is checked where keys are known."""
    if value == "localhost":
        return
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise SettingsInvalid(
            f"{key} is {value!r}, which is no address of a network interface.",
            "Use 127.0.0.1 for this machine alone, or 0.0.0.0 to share on the network.",
        ) from None


def _origins(key: str, value: Any) -> None:
    for origin in value:
        if not _ORIGIN.fullmatch(origin):
            raise SettingsInvalid(
                f"{key} holds {origin!r}, which is not the origin of a page.",
                "Write it as the browser does: https://example.org, without a path.",
            )


def _one_line(key: str, value: Any) -> None:
    if value is not None and (not value.strip() or any(c in value for c in "\x00\r\n")):
        raise SettingsInvalid(f"{key} is {value!r}, which is neither a name nor a path.")


def _lora(key: str, value: Any) -> None:
    for path, scale in value.items():
        _one_line(key, path)
        if not -100 <= scale <= 100:
            raise SettingsInvalid(f"{key} has the scale {scale} for {path}; it is -100 to 100.")
        if scale != 1.0 and ":" in path:  # llama.cpp splits FNAME:SCALE at each colon (arg.cpp)
            raise SettingsInvalid(
                f"{key}: llama.cpp takes no scale for a path with a colon: {path}.",
                "Use the scale 1, or a path relative to the drive.",
            )


def _aliases(key: str, value: Any) -> None:
    for name in value:
        if not name.strip() or name == "default":
            raise SettingsInvalid(
                f"{key} holds the name “{name}”, which cannot be an alias.",
                "`default` always means the active model; give another name.",
            )


def _one_of(*words: str) -> Callable[[str, Any], None]:
    def check(key: str, value: Any) -> None:
        if value is not None and value not in words:
            known = f"{', '.join(words[:-1])} or {words[-1]}"
            raise SettingsInvalid(f"{key} is {value!r}; it must be {known}.")

    return check


def _address(of_what: str) -> Callable[[str, Any], None]:
    def check(key: str, value: Any) -> None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise SettingsInvalid(
                f"{key} is {value!r}, which is no address.",
                f"Give the address of {of_what}, or clear it.",
            )

    return check


_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]{1,255}")

# Arguments the engine itself decides; overriding them would break switching or safety.
RESERVED_ARGS = frozenset(
    {
        *("-m", "--model", "-mu", "--model-url", "-hf", "-hfr", "--hf-repo", "-a", "--alias"),
        *("--host", "--port", "--api-key", "--api-key-file", "--ssl-key-file", "--ssl-cert-file"),
        *("--models-dir", "--models-preset", "--models-max", "--models-autoload"),
        *("--slot-save-path", "--fit", "-fit", "--path", "--api-prefix", "--cors-origins"),
        *("--log-file", "--log-disable"),
    }
)


def _extra_args(key: str, value: Any) -> None:
    for word in value:
        name = word.split("=", 1)[0]
        # llama.cpp takes --slot_save_path for --slot-save-path.
        if (name.replace("_", "-") if name.startswith("--") else name) in RESERVED_ARGS:
            raise SettingsInvalid(
                f"{key} holds {name}, which Llama Wrangler sets itself.",
                "Remove it; context length, GPU layers and threads have their own fields.",
            )
        if "\x00" in word or len(word) > 4096:
            raise SettingsInvalid(f"{key} holds a word that no command line can carry.")


CHECKS: dict[tuple[type, str], Callable[[str, Any], None]] = {
    (Settings, "aliases"): _aliases,
    (ServerSettings, "host"): _host,
    (ServerSettings, "port"): _range(1024, 65535, ""),
    (ServerSettings, "context_length"): _range(256, 16_777_216, "tokens"),
    (ServerSettings, "memory_budget_bytes"): _range(64 << 20, 1 << 50, "bytes"),
    (ServerSettings, "parallel"): _range(1, 256, "slots"),
    (ServerSettings, "max_queue"): _range(1, 10_000, "requests"),
    (ServerSettings, "idle_unload_s"): _range(0, 30 * 86_400, "seconds"),
    (ServerSettings, "conversations_bytes"): _range(0, 1 << 50, "bytes"),
    (ServerSettings, "cors_origins"): _origins,
    (ServerSettings, "tls_certificate"): _one_line,
    (ServerSettings, "tls_key"): _one_line,
    (RuntimeSettings, "backend"): _one_of(*BACKENDS),
    (RuntimeSettings, "updates"): _one_of("off", "notify", "auto"),
    (RuntimeSettings, "feed_url"): _address("the releases in the form of GitHub's API"),
    (AppSettings, "updates"): _one_of("off", "notify", "auto"),
    (AppSettings, "manifest_url"): _address("the manifest of this app's releases"),
    (DownloadSettings, "concurrent"): _range(1, 8, "downloads"),
    (DownloadSettings, "connections"): _range(1, 8, "connections"),
    (DownloadSettings, "limit_bytes_s"): _range(16 << 10, 1 << 40, "bytes a second"),
    (DownloadSettings, "hub_endpoint"): _address("a mirror of Hugging Face"),
    (UiSettings, "theme"): _one_of("system", "light", "dark"),
    (ModelSettings, "context_length"): _range(256, 16_777_216, "tokens"),
    (ModelSettings, "gpu_layers"): _range(0, 10_000, "layers"),
    (ModelSettings, "threads"): _range(1, 1024, "threads"),
    (ModelSettings, "parallel"): _range(1, 256, "slots"),
    (ModelSettings, "batch_size"): _range(1, 65_536, "tokens"),
    (ModelSettings, "ubatch_size"): _range(1, 65_536, "tokens"),
    (ModelSettings, "kv_cache_type"): _one_of(*KV_CACHE_TYPES),
    (ModelSettings, "flash_attention"): _one_of("on", "off", "auto"),
    (ModelSettings, "idle_unload_s"): _range(0, 30 * 86_400, "seconds"),
    (ModelSettings, "draft_model"): _one_line,
    (ModelSettings, "mmproj_path"): _one_line,
    (ModelSettings, "lora"): _lora,
    (ModelSettings, "temperature"): _range(0, 100, ""),
    (ModelSettings, "top_p"): _range(0, 1, ""),
    (ModelSettings, "top_k"): _range(0, (1 << 31) - 1, "tokens"),
    (ModelSettings, "min_p"): _range(0, 1, ""),
    (ModelSettings, "repeat_penalty"): _range(0, 100, ""),
    (ModelSettings, "max_tokens"): _range(1, (1 << 31) - 1, "tokens"),
    (ModelSettings, "chat_template"): _one_line,
    (ModelSettings, "reasoning"): _one_of("on", "off", "auto"),
    (ModelSettings, "extra_args"): _extra_args,
}
