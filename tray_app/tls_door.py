"""One port for both: TLS where a connection begins with it, plain HTTP for this machine.

A program on this machine goes on with http:// when a certificate is set; what comes from the
network without TLS is refused (access.py). A TLS connection begins with a handshake record,
whose first byte is 22 (RFC 8446, 5.1); no HTTP request does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable

log = logging.getLogger(__name__)

HANDSHAKE = 22
FIRST_BYTE_S = 30.0  # as long as a plain connection may wait with its first request
HANDSHAKE_S = 20.0


class TlsDoor(asyncio.Protocol):
    """Waits for the first byte, then hands the connection to what `make` makes."""

    transport: asyncio.Transport

    def __init__(
        self,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        waiting: set[TlsDoor],
        most: Callable[[], int],
    ) -> None:
        """`waiting` holds the doors that nobody has come through yet, at most `most()`."""
        self._context, self._make = context, make
        self._waiting, self._most = waiting, most
        self._timer: asyncio.TimerHandle | None = None
        self._handshake: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if len(self._waiting) >= self._most():  # whoever they are, they have no key yet
            transport.abort()
            return
        self._waiting.add(self)
        self._timer = asyncio.get_running_loop().call_later(FIRST_BYTE_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._forget_timer()
        if data[0] == HANDSHAKE:
            self.transport.pause_reading()  # the rest is for the layer that comes between
            loop = asyncio.get_running_loop()
            self._handshake = loop.create_task(self._secure(data))
            return
        self._waiting.discard(self)
        protocol = self._make()
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        protocol.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.discard(self)
        self._forget_timer()

    async def _secure(self, hello: bytes) -> None:
        """Shake hands; what has been read already is fed to the layer that wants it."""
        loop = asyncio.get_running_loop()
        early = _Early()
        upgrade = loop.create_task(
            loop.start_tls(
                self.transport,
                early,
                self._context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        )
        await asyncio.sleep(0)  # it puts its own protocol in place of this one, then waits
        await asyncio.sleep(0)
        layer = self.transport.get_protocol()
        if isinstance(layer, asyncio.BufferedProtocol):
            view = memoryview(hello)
            while view:
                buffer = memoryview(layer.get_buffer(len(view)))
                count = min(len(buffer), len(view))
                buffer[:count] = view[:count]
                layer.buffer_updated(count)
                view = view[count:]
        try:
            secured = await upgrade
        except (ssl.SSLError, OSError) as error:  # a port scan, a client that trusts nobody
            log.info("no TLS connection came about: %s", error)
            with contextlib.suppress(RuntimeError):
                self.transport.abort()
            return
        finally:
            self._waiting.discard(self)
        if secured is None or early.gone:
            return
        protocol = self._make()
        secured.set_protocol(protocol)
        protocol.connection_made(secured)
        if early.seen:
            protocol.data_received(bytes(early.seen))

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Early(asyncio.Protocol):
    """Keeps what a client sends with the end of its handshake, before anyone is told of it."""

    def __init__(self) -> None:
        self.seen = bytearray()  # no more than came in one read
        self.gone = False

    def data_received(self, data: bytes) -> None:
        self.seen += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
