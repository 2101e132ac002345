"""What users type or paste, read into a Reference. Pure: no server is asked.

    name, name:tag                                  Ollama, from its library
    ollama:ns/name[:tag], ollama.com/…              Ollama
    HOST[:port]/ns/name[:tag]                       another registry of Ollama's protocol
    org/repo[:QUANTIZATION][@REVISION], hf.co/…     Hugging Face
    org/repo/folder/file.gguf                       one file there
    https://HOST/…/file.gguf                        that file
    ollama run …, hf download …, llama-server -hf … what the command names

Where two readings are possible:
- A name without "/" is Ollama's, `a/b` is Hugging Face's; `ollama:a/b` is Ollama's.
- `ollama:x` is the model x, never the tag x of a model called ollama.
- Three parts and more are a registry's where the first is like a host (it has a dot or a port,
  or is localhost); a host and a name that ends with .gguf is a plain file.
- `:latest` at Hugging Face names no quantization, `:file.gguf` a file: Ollama's habits.
- What follows the address of a model's page (its tags, its discussions) is passed over.
"""

from __future__ import annotations

import re
import urllib.parse

from tray_app.engine.errors import BadRequest
from tray_app.engine.runtime.feed_rows import is_trusted

from .pasted import named_by_command
from .values import Hub, Reference, safe_name

MAX_TEXT = 2048  # characters; addresses beyond this are refused by many servers too
MAX_PATH = 1024  # characters of a file's path in a repository
HUGGINGFACE_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co"})
OLLAMA_HOSTS = frozenset({"ollama.com", "www.ollama.com", "registry.ollama.ai"})

HELP = (
    "Write `org/repo` or `org/repo:Q4_K_M` for Hugging Face, `name:tag` for Ollama, or paste the"
    " address of a model's page or of a .gguf file."
)

# The rule of huggingface_hub's validate_repo_id.
_REPO_PART = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_OLLAMA_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")  # 80: Ollama's own bound
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_REVISION = re.compile(r"(?!.*(?:\.\.|//))[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}(?<![/.])")
_HOST = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:]{2,39}\])(?::[0-9]{1,5})?"
)
_QUOTES = "\"'`<>"
_LOCAL_PATH = re.compile(r"[.~/\\]|[A-Za-z]:[\\/]")
_HF_PAGE = re.compile(
    r"(?i)api|blog|chat|collections|datasets|docs|join|learn|login|models|organizations|papers"
    r"|posts|pricing|search|settings|spaces|tasks"
)
_OLLAMA_PAGE = re.compile(
    r"(?i)api|blog|cloud|docs|download|install|models|pricing|public|search|settings|signin|v2"
)
_WHOLE_REPO = frozenset({"tree", "commit", "commits", "discussions"})
_ONE_FILE = frozenset({"blob", "resolve", "raw"})


def parse(text: str) -> Reference:
    """What `text` names. Raises BadRequest that says what to write instead.

    The reference's own text is what was typed, without blanks and quotes around it, or what a
    pasted command names; it can be parsed again and gives the same.
    """
    plain = _one_line(text)
    if " " in plain:
        plain = _one_line(named_by_command(plain))
    lower = plain.lower()
    if lower.startswith(("http://", "https://")):
        return _read_address(plain, plain)
    if "://" in plain:
        raise _wrong(plain, "is an address of a kind that cannot be used")
    if lower.startswith("ollama:"):
        return _read_ollama(plain, plain[len("ollama:") :])
    if _LOCAL_PATH.match(plain):
        raise _wrong(
            plain,
            "looks like a file on this computer",
            "Drop it on the window, or add its folder to the library.",
        )
    return _read_name(plain)


def canonical(reference: Reference) -> str:
    """One text for all ways of writing the same reference; it can be parsed again."""
    if reference.hub is Hub.URL or reference.file or reference.folder:
        return reference.text
    tag = f":{reference.tag}" if reference.tag else ""
    if reference.hub is Hub.HUGGINGFACE:
        text = reference.name + tag + (f"@{reference.revision}" if reference.revision else "")
    else:
        name = reference.name.removeprefix("library/")
        tag = "" if tag == ":latest" else tag
        prefix = f"{reference.host}/" if reference.host else "ollama:" if "/" in name else ""
        text = prefix + (reference.name if reference.host else name) + tag
    try:
        again = parse(text)
    except BadRequest:  # a revision with slashes
        return reference.text
    same = (again.hub, again.name, again.host) == (reference.hub, reference.name, reference.host)
    return text if same and again.revision == reference.revision else reference.text


def is_repo_id(name: str) -> bool:
    """Whether `name` is an "org/repo" as Hugging Face allows it."""
    org, slash, repo = name.partition("/")
    both = _REPO_PART.fullmatch(org) and _REPO_PART.fullmatch(repo)
    return bool(slash and both) and not repo.endswith(".git")


def _one_line(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise BadRequest(
            f"This is too long for the name of a model: {len(text):,} characters, and"
            f" {MAX_TEXT:,} are the most.",
            HELP,
        )
    plain = text.strip()
    if plain[:1] in _QUOTES and plain[-1:] in _QUOTES:
        plain = plain.strip(f"{_QUOTES} ")
    if not plain:
        raise BadRequest("No model is named.", HELP)
    odd = next((char for char in plain if not char.isprintable()), None)
    if odd is not None:
        raise BadRequest(
            f"The name of a model holds the character U+{ord(odd):04X}, which no name has.", HELP
        )
    return plain


def _read_name(text: str) -> Reference:
    """What is no whole address."""
    first, slash, rest = text.partition("/")
    if not slash:
        if text.lower().endswith(".gguf"):
            raise _wrong(text, "is the name of a file, without the place where it is")
        return _ollama(text, [text], None)
    if "@" in first:
        raise _credentials()
    host = first.lower()
    if host in HUGGINGFACE_HOSTS or host in OLLAMA_HOSTS:
        return _read_address(text, f"https://{text}")
    parts = text.split("/")
    if _like_host(host) and re.split("[?#]", rest)[0].lower().endswith(".gguf"):
        scheme = "http" if is_trusted(f"http://{host}") else "https"
        return _read_address(text, f"{scheme}://{text}")
    if _like_host(host) and len(parts) > 2:
        return _ollama(text, parts[1:], host)
    if ":" in first:
        raise _wrong(
            text,
            "is neither a repository nor a model of a registry",
            "Write a registry's model as `host:port/namespace/name:tag`.",
        )
    return _huggingface(text, parts)


def _like_host(first: str) -> bool:
    return first == "localhost" or "." in first or ":" in first


# -- Ollama and other registries


def _read_ollama(text: str, rest: str) -> Reference:
    """What stands behind `ollama:`."""
    parts = rest.split("/")
    first = parts[0].lower()
    if first in HUGGINGFACE_HOSTS or first in OLLAMA_HOSTS:
        return _read_address(text, f"https://{rest}")
    if len(parts) > 2 and _like_host(first):
        return _ollama(text, parts[1:], first)
    return _ollama(text, parts, None)


def _ollama(text: str, parts: list[str], host: str | None) -> Reference:
    model, colon, tag = parts[-1].partition(":")
    namespace = parts[0] if len(parts) == 2 else "library"
    fitting = len(parts) <= 2 and all(_OLLAMA_PART.fullmatch(each) for each in (namespace, model))
    if not fitting or (colon and not _OLLAMA_PART.fullmatch(tag)):
        raise _wrong(text, "is not a name that a model of Ollama or of a registry can have")
    if host is not None and not _is_host(host):
        raise _wrong(text, "does not begin with the name of a server")
    return Reference(text, Hub.OLLAMA, f"{namespace}/{model}", host=host, tag=tag or None)


def _is_host(host: str) -> bool:
    port = host.rpartition(":")[2]
    in_range = not port.isdecimal() or 0 < int(port) < 65536
    return bool(_HOST.fullmatch(host)) and ".." not in host and in_range


# -- addresses


def _read_address(text: str, url: str) -> Reference:
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _wrong(text, "is not a valid address") from None
    if "@" in parts.netloc:
        raise _credentials()
    if "\\" in url or " " in url or not _is_host(parts.netloc.lower()):
        raise _wrong(text, "is not a valid address")
    usual = port in (None, 80, 443)
    if usual and host in HUGGINGFACE_HOSTS:
        return _read_hf_page(text, parts)
    pieces = [urllib.parse.unquote(piece) for piece in parts.path.split("/")]
    if usual and host in OLLAMA_HOSTS:
        return _read_ollama_page(text, [piece for piece in pieces if piece])
    if ".." in pieces or not pieces[-1].lower().endswith(".gguf"):
        raise _wrong(text, "is not the address of a .gguf file or of a model's page")
    if not is_trusted(url):
        raise _wrong(
            text,
            "is an address without https, so anybody in between could change the file",
            "Use its https address; only this computer itself may do without.",
        )
    name = safe_name(pieces[-1])
    return Reference(text, Hub.URL, urllib.parse.urldefrag(url).url, host=parts.netloc, file=name)


def _read_ollama_page(text: str, pieces: list[str]) -> Reference:
    if len(pieces) < 2 or _OLLAMA_PAGE.fullmatch(pieces[0]):
        raise _wrong(text, "is a page of Ollama's, and not of one model")
    return _ollama(text, pieces[:2], None)


def _read_hf_page(text: str, parts: urllib.parse.SplitResult) -> Reference:
    path = parts.path.removeprefix("/").removesuffix("/")
    pieces = [urllib.parse.unquote(piece) for piece in path.split("/")]
    if len(pieces) < 2 or _HF_PAGE.fullmatch(pieces[0]):
        raise _wrong(text, "is a page of Hugging Face, and not of one model")
    # The side panel of a repository's page shows one of its files.
    shown = urllib.parse.parse_qs(parts.query).get("show_file_info", [None])[0]
    return _huggingface(text, pieces, shown)


# -- Hugging Face


def _huggingface(text: str, pieces: list[str], shown: str | None = None) -> Reference:
    """`pieces` of a path: org, repo, and what follows."""
    org, repo, *rest = pieces
    repo, _, revision = repo.partition("@") if not rest else (repo, "", "")
    repo, colon, tag = repo.partition(":") if not rest else (repo, "", "")
    file, folder = shown, None
    kind = rest[0] if rest else ""
    if kind in _ONE_FILE or (kind in ("tree", "commit") and len(rest) > 1):
        revision, inner = _split_revision(rest[1:])
        if kind in _ONE_FILE:
            file = "/".join(inner)
        else:
            folder = "/".join(inner) or None
    elif rest and rest[-1].lower().endswith(".gguf"):
        file = "/".join(rest)
    elif rest and kind not in _WHOLE_REPO:
        raise _wrong(text, "goes on behind the repository, and what it means there is not clear")
    if tag.lower().endswith(".gguf") and file is None:
        file, tag = tag, ""
    _check_huggingface(text, f"{org}/{repo}", revision, file, folder)
    if (colon and not tag and file is None) or (tag and not _TAG.fullmatch(tag)):
        raise _wrong(text, "names no quantization behind the colon")
    return Reference(
        text,
        Hub.HUGGINGFACE,
        f"{org}/{repo}",
        revision=revision or None,
        file=file,
        tag=None if tag.lower() in ("", "latest") else tag,
        folder=folder,
    )


def _split_revision(pieces: list[str]) -> tuple[str, list[str]]:
    """Revision and path: `main`, a commit, or `refs/pr/1`, which may be written with slashes."""
    if len(pieces) > 2 and pieces[0] == "refs":
        return "/".join(pieces[:3]), pieces[3:]
    return (pieces[0], pieces[1:]) if pieces else ("", [])


def _check_huggingface(
    text: str, repo: str, revision: str, file: str | None, folder: str | None
) -> None:
    if not is_repo_id(repo):
        raise _wrong(text, "does not name a repository of Hugging Face as `org/repo`")
    if revision and not _REVISION.fullmatch(revision):
        raise _wrong(text, "names a revision that cannot be one")
    for path in (file, folder):
        if path is None:
            continue
        if not path or len(path) > MAX_PATH:
            raise _wrong(text, "does not name a file")
        for piece in path.split("/"):
            safe_name(piece)


# -- errors


def _wrong(text: str, why: str, remedy: str = HELP) -> BadRequest:
    shown = re.sub(r"[^/\s]*@", "…@", text)  # what may be a password is not repeated
    return BadRequest(f"{shown[:120]!r} {why}.", remedy)


def _credentials() -> BadRequest:
    return BadRequest(
        "The address holds a user or a password, which would be kept and shown with the download.",
        "Leave them out. For Hugging Face, set a token in the settings.",
    )
