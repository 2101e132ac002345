"""Who may use the gateway: a loopback Host and Origin, against DNS rebinding and web pages.

Any page the user visits can send requests to 127.0.0.1. What tells it apart is what browsers
add and pages cannot change: Host, Origin and Sec-Fetch-Site.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Protocol

from .http_wire import BadWire, Headers, Request

LOOPBACK_NAMES = frozenset((b"localhost", b"127.0.0.1", b"[::1]"))
# What containers call this machine where Docker Desktop or Podman bring them to its loopback.
# A page under such a name is still told apart by its Origin.
CONTAINER_NAMES = frozenset((b"host.docker.internal", b"host.containers.internal"))
_LOOPBACK_ORIGIN = re.compile(rb"https?://(?:localhost|127\.0\.0\.1|\[::1\])(?::\d{1,5})?")
_HOST = re.compile(rb"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::\d{0,5})?")
_PREFLIGHT_AGE_S = b"600"


class Keys(Protocol):
    """The API keys as the gateway needs them."""

    @property
    def required(self) -> bool: ...
    def accepts(self, given: str, local: bool) -> bool: ...


class Access:
    """The rules for one listening address.

    As soon as there is a key, each request needs one, from this machine too: a server on the
    network answers to any Host, so that only the key keeps web pages out. With
    `local_without_key` programs on this machine need none, if they call it by a loopback name.
    """

    def __init__(
        self,
        host: str,
        allowed_origins: Iterable[str] = (),
        keys: Keys | None = None,
        local_without_key: bool = False,
        tls: bool = False,
    ) -> None:
        self._keys = keys
        self._tls = tls
        self._local_without_key = local_without_key
        bound = b"[%s]" % host.encode() if ":" in host else host.encode()
        loopback = bound in LOOPBACK_NAMES or bound.startswith(b"127.")
        # Bound to a network address, a request's Host can be any of this machine's names.
        self._hosts = LOOPBACK_NAMES | CONTAINER_NAMES | {bound} if loopback else None
        self._loopback = loopback
        self._origins = frozenset(origin.encode() for origin in allowed_origins)

    @property
    def keyed(self) -> bool:
        """Whether requests need a key."""
        return not self._loopback or (self._keys is not None and self._keys.required)

    @property
    def may_listen(self) -> bool:
        """Whether the address may be listened on: beyond this machine only with a key."""
        return self._loopback or (self._keys is not None and self._keys.required)

    def check(self, request: Request, peer: str = "", secured: bool = False) -> None:
        """Raises `BadWire` with status 400, 401, 403 or 426.

        `peer` is the address that asks, `secured` whether by TLS.
        """
        if self._tls and not secured and not _is_local(peer):
            raise BadWire(426, "This server is reached by https:// from the network.")
        self._check_host(request)
        origins = request.all(b"origin")
        if len(origins) > 1 or (origins and not self._origin_allowed(origins[0])):
            raise BadWire(
                403,
                f"Pages from {origins[0].decode('latin-1')} may not use this server.",
                "Only pages served from this machine may, or origins allowed in the settings.",
            )
        # Pictures, scripts and frames of a page come without an Origin.
        if not origins and request.get(b"sec-fetch-site") == b"cross-site":
            raise BadWire(403, "Pages from other sites may not use this server.")

        self._check_key(request, peer)

    def _check_key(self, request: Request, peer: str) -> None:
        """Preflights carry no key by the standard (Fetch, CORS preflight); health tells nothing."""
        if request.method == b"OPTIONS" or request.path in ("/health", "/v1/health"):
            return
        # The last key may have been taken back a moment ago: then the network is shut out.
        if not self.keyed:
            return
        local = _is_local(peer)
        if local and self._local_without_key and self._named_loopback(request):
            return
        given = _given_key(request)
        if given and self._keys is not None and self._keys.accepts(given, local):
            return
        said = "is not one of this server's" if given else "is missing"
        raise BadWire(
            401,
            f"The API key {said}.",
            "Send it as “Authorization: Bearer …” or “x-api-key”. The Server page makes keys.",
        )

    @staticmethod
    def _named_loopback(request: Request) -> bool:
        hosts = [*request.all(b"host"), *([request.authority] if request.authority else [])]
        matches = [_HOST.fullmatch(host) for host in hosts]
        return bool(matches) and all(m and m.group(1).lower() in LOOPBACK_NAMES for m in matches)

    def headers(self, request: Request) -> Headers:
        """The CORS headers of the answer to a request that passed `check`."""
        origin = request.get(b"origin")
        if origin is None or not self._origin_allowed(origin):
            return [(b"Vary", b"Origin")]
        return [
            (b"Vary", b"Origin"),
            (b"Access-Control-Allow-Origin", origin),
            (b"Access-Control-Expose-Headers", b"X-Llama-Wrangler-Model"),
        ]

    def preflight_headers(self, request: Request) -> Headers:
        """What a browser wants to know before it sends the real request."""
        asked = request.get(b"access-control-request-headers") or b"Content-Type"
        headers: Headers = [(b"Allow", b"GET, POST, DELETE, HEAD, OPTIONS")]
        if request.get(b"origin") is not None:
            headers += [
                (b"Access-Control-Allow-Methods", b"GET, POST, DELETE, HEAD, OPTIONS"),
                (b"Access-Control-Allow-Headers", asked),
                (b"Access-Control-Max-Age", _PREFLIGHT_AGE_S),
            ]
        if request.get(b"access-control-request-private-network") == b"true":
            headers.append((b"Access-Control-Allow-Private-Network", b"true"))
        return headers

    def _check_host(self, request: Request) -> None:
        hosts = request.all(b"host")
        if len(hosts) > 1 or (not hosts and request.version == "1.1"):
            raise BadWire(400, "A request needs exactly one Host header.")
        if request.authority is not None:
            hosts = [*hosts, request.authority]
        for host in hosts:
            match = _HOST.fullmatch(host)
            name = match.group(1).lower() if match else None
            if self._hosts is not None and name not in self._hosts:
                raise BadWire(
                    403,
                    f"The host name {host.decode('latin-1')} is not this machine's.",
                    "Use http://127.0.0.1 or http://localhost.",
                )

    def _origin_allowed(self, origin: bytes) -> bool:
        return origin in self._origins or bool(_LOOPBACK_ORIGIN.fullmatch(origin))


def _given_key(request: Request) -> str:
    """OpenAI's clients send a bearer token, Anthropic's x-api-key, Azure's api-key."""
    bearer = request.get(b"authorization") or b""
    if bearer[:7].lower() == b"bearer ":
        return bearer[7:].strip().decode("latin-1")
    key = request.get(b"x-api-key") or request.get(b"api-key") or b""
    return key.strip().decode("latin-1")


def _is_local(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
