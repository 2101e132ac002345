"""Commands that model pages tell people to copy, and the model each names. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from urllib.parse import quote

from tray_app.engine import naming
from tray_app.engine.errors import BadRequest

_REMEDY = (
    "Paste the name or the address of the model alone. `ollama run NAME`, `hf download REPO` and"
    " `llama-server -hf REPO` are understood too."
)
# Options of `hf download` and `ollama run` that are followed by a value.
_WITH_VALUE = re.compile(
    "--(?:include|exclude|revision|repo-type|local-dir|cache-dir|token|max-workers|format|keepalive)"
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*")


def named_by_command(text: str) -> str:
    """The model that a command names, in a form without blanks. Raises BadRequest.

    Nothing else of the command is kept: it may hold a token.
    """
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    while words and (words[0] in ("$", ">", "sudo") or _ASSIGNMENT.fullmatch(words[0])):
        words.pop(0)
    program = re.split(r"[/\\]", words[0])[-1].lower().removesuffix(".exe") if words else ""
    found = None
    if program == "ollama" and words[1:2] and words[1] in ("run", "pull", "show"):
        found = _of_ollama(words[2:])
    elif program in ("hf", "huggingface-cli") and words[1:2] == ["download"]:
        found = _of_hf_download(words[2:])
    elif program == "llama-wrangler" and words[1:2] == ["pull"]:
        found = next((word for word in words[2:] if not word.startswith("-")), None)
    elif program.startswith("llama"):
        found = _of_llama(words[1:])
    if not found or " " in found:
        raise BadRequest("This holds blanks, and is no command that names a model.", _REMEDY)
    return found


def _of_ollama(words: Sequence[str]) -> str | None:
    plain, _ = _sorted_out(words)
    return f"ollama:{re.sub('^https?://', '', plain[0])}" if plain else None


def _of_llama(words: Sequence[str]) -> str | None:
    """`-hf REPO[:QUANT]`, with `-hff FILE` or without, or `-mu URL` (llama.cpp, arg.cpp)."""
    repo = _value(words, "-hf", "-hfr", "--hf-repo")
    file = _value(words, "-hff", "--hf-file")
    if repo is None:
        return _value(words, "-mu", "--model-url")
    if file is None:
        return f"hf.co/{repo}"
    return _address(repo.partition(":")[0], "main", file)


def _of_hf_download(words: Sequence[str]) -> str | None:
    plain, options = _sorted_out(words)
    if options.get("--repo-type", "model") not in ("model", "models"):
        raise BadRequest(f"`--repo-type {options['--repo-type'][:40]}` is no model.", _REMEDY)
    if not plain:
        return None
    repo, *files = plain
    models = [name for name in files if "mmproj" not in name.lower()] or files
    stems = {naming.parse_file_name(name).whole_stem for name in models}
    if len(stems) > 1:
        raise BadRequest(f"The command names {len(models)} models at once.", _REMEDY)
    revision = options.get("--revision", "")
    if models:
        return _address(repo, revision or "main", models[0])
    label = naming.parse_file_name(options.get("--include", "").strip("*")).label
    tag = f":{label}" if label else ""
    if tag:
        return f"hf.co/{repo}{tag}" + (f"@{revision}" if revision else "")
    return _address(repo, revision, None) if revision else f"hf.co/{repo}"


def _address(repo: str, revision: str, file: str | None) -> str:
    kind = "tree" if file is None else "blob"
    end = "" if file is None else f"/{quote(file)}"
    return f"https://huggingface.co/{quote(repo)}/{kind}/{quote(revision, safe='')}{end}"


def _sorted_out(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Words that are no options, and options with their values."""
    plain: list[str] = []
    options: dict[str, str] = {}
    waiting = None
    for word in words:
        if waiting is not None:
            options[waiting], waiting = word, None
        elif _WITH_VALUE.fullmatch(word):
            waiting = word
        elif word.startswith("-"):
            name, _, value = word.partition("=")
            options[name] = value
        else:
            plain.append(word)
    return plain, options


def _value(words: Sequence[str], *names: str) -> str | None:
    """The value of an option, written `--name value` or `--name=value`."""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else next(iter(words[index + 1 : index + 2]), None)
    return None
