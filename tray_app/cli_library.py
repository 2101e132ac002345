"""`import`, `delete`, `login`, `logout`, `account`. Documented in docs/cli.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from . import cli_text as text
from .cli_job import FAILED, WRONG, run_job, settled, tell_end
from .client import Client, ClientError, ensure_engine

Json = dict[str, Any]
_SOURCES = {
    "keychain": "There is a Hugging Face token in the system's keychain.",
    "environment": "The Hugging Face token of the environment (HF_TOKEN) is used.",
    "file": "The Hugging Face token that `hf auth login` has stored is used.",
    "none": "There is no Hugging Face token; public models need none.",
}


def add_verbs(verbs: Any) -> None:
    """Add the verbs to what `ArgumentParser.add_subparsers` returned."""

    def add(name: str, verb: Any, about: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about)
        sub.set_defaults(verb=verb)
        sub.add_argument("--json", action="store_true", help="print JSON (docs/cli.md)")
        return sub

    bring = add("import", _import, "bring a .gguf file of this computer into the library")
    bring.add_argument("path", metavar="FILE")
    bring.add_argument("--how", choices=("auto", "link", "copy", "move"), default="auto")
    delete = add("delete", _delete, "delete the files of a downloaded model")
    delete.add_argument("model", metavar="MODEL")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    add("login", _login, "keep a Hugging Face token (read from the terminal) in the keychain")
    add("logout", _logout, "remove the Hugging Face token from the keychain")
    add("account", _account, "say whether there is a Hugging Face token")


def _import(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    path = str(Path(options.path).expanduser().absolute())
    job = run_job(client, "import_model", {"path": path, "how": options.how}, quiet=options.json)
    status = tell_end(job, str(client.snapshot()["home"]))
    if options.json:
        text.print_json(job)
    elif status == 0:
        text.say(f"{job['title']}: done.")
    return status


def _delete(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    model = _model(client, options.model)
    if not options.yes:
        if not sys.stdin.isatty():
            text.say_error(f"{model['id']} would be deleted.", "Confirm it with --yes.")
            return WRONG
        # On stderr, so that stdout stays JSON alone where it is piped.
        size = text.size(model["size_bytes"])
        sys.stderr.write(f"Delete {text.clean(model['id'])} ({size})? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            text.say_error("Nothing was deleted.")
            return FAILED
    freed = client.call("delete_model", model_id=model["id"])["freed_bytes"]
    if options.json:
        return text.print_json({"deleted": model["id"], "freed_bytes": freed})
    text.say(f"Deleted {model['id']}: {text.size(freed)} are free again.")
    return 0


def _model(client: Client, name: str) -> Json:
    """The model of exactly this id: nothing is deleted on a guess. Raises ClientError."""
    models = settled(client)["models"]
    found = next((model for model in models if model["id"] == name), None)
    if found is None:
        raise ClientError(
            "model_not_found", f"There is no model {name}.", "Give an ID of `llama-wrangler list`."
        )
    return dict(found)


def _login(options: argparse.Namespace) -> int:
    import getpass

    if sys.stdin.isatty():
        token = getpass.getpass("Hugging Face token (it is not shown): ")
    else:
        token = sys.stdin.readline(1024)
    if not token.strip():
        text.say_error("No token was given.", "Get one at https://huggingface.co/settings/tokens")
        return WRONG
    client = ensure_engine(mode="once")
    return _tell(client.call("set_hub_token", token=token.strip()), options.json)


def _logout(options: argparse.Namespace) -> int:
    client = ensure_engine(mode="once")
    return _tell(client.call("set_hub_token", token=None), options.json)


def _account(options: argparse.Namespace) -> int:
    return _tell(ensure_engine(mode="once").call("hub_account"), options.json)


def _tell(account: Json, as_json: bool) -> int:
    if as_json:
        return text.print_json(account)
    text.say(_SOURCES[account["source"]])
    if account["problem"]:
        text.say(f"The keychain cannot be used: {account['problem']}")
    return 0
