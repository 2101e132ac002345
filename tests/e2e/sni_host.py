"""A desktop without a screen for tests: X server, session bus, tray host and notifications.

`private_session()` gives a process environment of its own; `TrayHost` plays the panel on it.
Two things to know: every rebuilt menu has new ids, so `click` reads the menu anew and finds
its entry by label; and pystray calls Notifications synchronously, so a test that waits for the
tray while it serves them must not block its own event loop.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from dbus_fast import BusType, Message, MessageType, PropertyAccess, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusBool, DBusInt32, DBusSignature, DBusStr, DBusUInt32
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

WATCHER = "org.kde.StatusNotifierWatcher"
ITEM = "org.kde.StatusNotifierItem"
MENU = "com.canonical.dbusmenu"
NOTIFICATIONS = "org.freedesktop.Notifications"
PROPERTIES = "org.freedesktop.DBus.Properties"
DBusStrList = Annotated[list[str], DBusSignature("as")]
DBusHints = Annotated[dict[str, Variant], DBusSignature("a{sv}")]
DBusServer = Annotated[list[str], DBusSignature("ssss")]
_POLL_S = 0.02
_STILL_S = 0.1
_GONE = "does not refer to a menu item"  # libdbusmenu, about an id of before a rebuild


@contextmanager
def private_session() -> Iterator[dict[str, str]]:
    """An environment with an X display and a session bus that nobody else uses.

    Skips the test where Xvfb or dbus-daemon is not installed.
    """
    for program in ("Xvfb", "dbus-daemon"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    with tempfile.TemporaryDirectory(prefix="lw-session-") as folder, _x_server() as display:
        environ = {
            name: value
            for name, value in os.environ.items()
            if name not in ("WAYLAND_DISPLAY", "XDG_CURRENT_DESKTOP", "PYSTRAY_BACKEND")
        }
        environ |= {
            "DISPLAY": display,
            "HOME": folder,
            "XDG_CONFIG_HOME": f"{folder}/config",
            "XDG_RUNTIME_DIR": folder,
            "NO_AT_BRIDGE": "1",
        }
        os.chmod(folder, 0o700)
        with _session_bus(environ) as address:
            yield environ | {"DBUS_SESSION_BUS_ADDRESS": address}


@contextmanager
def _x_server() -> Iterator[str]:
    # The server picks a free number itself and writes it when it is ready.
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x800x24", "-nolisten", "tcp"],
        pass_fds=[writing],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            number = pipe.readline().strip()
        assert number, "Xvfb did not start"
        yield f":{number}"
    finally:
        _end(server)


@contextmanager
def _session_bus(environ: Mapping[str, str]) -> Iterator[str]:
    bus = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(environ),
        text=True,
    )
    try:
        assert bus.stdout is not None
        with bus.stdout as output:
            address = output.readline().strip()
            assert address, "dbus-daemon did not start"
            yield address
    finally:
        _end(bus)


def _end(process: "subprocess.Popen[Any]") -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Watcher(ServiceInterface):
    def __init__(self) -> None:
        super().__init__(WATCHER)
        self.items: list[str] = []

    @dbus_method()
    def RegisterStatusNotifierItem(self, service: DBusStr) -> None:
        self.items.append(service)
        self.StatusNotifierItemRegistered(service)

    @dbus_method()
    def RegisterStatusNotifierHost(self, service: DBusStr) -> None:
        """There is one host: this test."""

    @dbus_property(access=PropertyAccess.READ)
    def RegisteredStatusNotifierItems(self) -> DBusStrList:
        return self.items

    @dbus_property(access=PropertyAccess.READ)
    def IsStatusNotifierHostRegistered(self) -> DBusBool:
        return True

    @dbus_property(access=PropertyAccess.READ)
    def ProtocolVersion(self) -> DBusInt32:
        return 0

    @dbus_signal()
    def StatusNotifierItemRegistered(self, service: str) -> DBusStr:
        return service


class _Notifications(ServiceInterface):
    def __init__(self) -> None:
        super().__init__(NOTIFICATIONS)
        self.shown: list[tuple[str, str]] = []

    @dbus_method()
    def Notify(
        self,
        app: DBusStr,
        replaces: DBusUInt32,
        icon: DBusStr,
        summary: DBusStr,
        body: DBusStr,
        actions: DBusStrList,
        hints: DBusHints,
        timeout: DBusInt32,
    ) -> DBusUInt32:
        self.shown.append((summary, body))
        return len(self.shown)

    @dbus_method()
    def CloseNotification(self, number: DBusUInt32) -> None:
        """Nothing is on a screen here."""

    @dbus_method()
    def GetCapabilities(self) -> DBusStrList:
        return ["body"]

    @dbus_method()
    def GetServerInformation(self) -> DBusServer:
        return ["tests", "Llama Wrangler", "1", "1.2"]


@dataclass(frozen=True)
class Entry:
    """One line of the tray menu as the panel sees it; `label` without mnemonic marks."""

    id: int
    label: str
    enabled: bool
    checked: bool | None  # None: it has no mark
    radio: bool
    separator: bool
    children: "tuple[Entry, ...]" = ()

    def lines(self, depth: int = 0) -> list[str]:
        """This part of the menu as indented text, for messages of failed tests."""
        mark = {None: " ", False: "o", True: "x"}[self.checked]
        text = "---" if self.separator else self.label + ("" if self.enabled else "  (grey)")
        own = [f"{'    ' * depth}[{mark}] {text}"] if depth >= 0 else []
        return own + [line for child in self.children for line in child.lines(depth + 1)]

    def find(self, *path: str) -> "Entry | None":
        """The entry under these labels; a label that ends in `*` is a prefix."""
        entry = self
        for label in path:
            for child in entry.children:
                if child.label == label or (
                    label.endswith("*") and child.label.startswith(label[:-1])
                ):
                    entry = child
                    break
            else:
                return None
        return entry


@dataclass
class TrayHost:
    """The panel: waits for tray items, reads their menu and clicks in it."""

    bus: MessageBus
    watcher: _Watcher = field(default_factory=_Watcher)
    notifications: _Notifications = field(default_factory=_Notifications)
    items: list[tuple[str, str]] = field(default_factory=list)  # (bus name, object path)
    service: str = ""
    path: str = ""

    @classmethod
    @asynccontextmanager
    async def on(cls, environ: Mapping[str, str]) -> "AsyncIterator[TrayHost]":
        """A host on the session bus of `environ`."""
        address = environ["DBUS_SESSION_BUS_ADDRESS"]
        bus = await MessageBus(bus_address=address, bus_type=BusType.SESSION).connect()
        host = cls(bus)
        bus.add_message_handler(host._see)
        bus.export("/StatusNotifierWatcher", host.watcher)
        bus.export("/org/freedesktop/Notifications", host.notifications)
        await bus.request_name(WATCHER)
        await bus.request_name(NOTIFICATIONS)
        try:
            yield host
        finally:
            bus.disconnect()
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]  # its own gap

    def _see(self, message: Message) -> None:
        if message.member == "RegisterStatusNotifierItem" and message.sender:
            (service,) = message.body
            named = not service.startswith("/")  # KDE's items send a name, ayatana's a path
            item = (service, "/StatusNotifierItem") if named else (message.sender, service)
            if item not in self.items:  # libayatana registers more than once
                self.items.append(item)

    async def wait_item(self, count: int = 1, timeout_s: float = 30.0) -> None:
        """Wait until `count` items have come in all, and use the last one."""
        await wait_until(lambda: len(self.items) >= count, "a tray item", timeout_s)
        self.service, self.path = self.items[-1]

    async def properties(self) -> dict[str, Any]:
        """All properties of the item: Title, IconName, Status, Menu, ..."""
        (values,) = await self._call(self.path, PROPERTIES, "GetAll", "s", ITEM)
        return {name: value.value for name, value in values.items()}

    async def title(self) -> str:
        """The item's title."""
        return str((await self.properties())["Title"])

    async def picture(self) -> bytes:
        """The icon's PNG: ayatana names a file instead of sending pixels."""
        return Path((await self.properties())["IconName"]).read_bytes()

    async def menu(self) -> Entry:
        """The whole menu, read now."""
        path = (await self.properties())["Menu"]
        _, layout = await self._call(path, MENU, "GetLayout", "iias", 0, -1, [])
        return _entry(layout)

    async def wait_menu(
        self, accept: Callable[[Entry], Any], what: str, timeout_s: float = 30.0
    ) -> Entry:
        """Read the menu until `accept` likes it. `what` names the wish in the failure."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            menu = await self.menu()
            if accept(menu):
                return menu
            if loop.time() > deadline:
                text = "\n".join(menu.lines(-1))
                raise AssertionError(f"the menu never showed {what}; it is\n{text}")
            await asyncio.sleep(_POLL_S)

    async def click(self, *path: str, timeout_s: float = 30.0) -> None:
        """Click the entry under these labels, once the menu is not being rebuilt.

        pystray rebuilds it after each change, and gives new ids. A click on an id of before is
        refused and has no effect, so it is made again, as a user would.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            menu = await self._still_menu()
            entry = menu.find(*path)
            assert entry is not None, f"no {path} in the menu\n" + "\n".join(menu.lines(-1))
            address = (await self.properties())["Menu"]
            arguments = (entry.id, "clicked", Variant("i", 0), 0)
            try:
                await self._call(address, MENU, "Event", "isvu", *arguments)
                return
            except RuntimeError as error:
                if _GONE not in str(error) or loop.time() > deadline:
                    raise

    async def _still_menu(self) -> Entry:
        """The menu, once two readings of it are the same."""
        menu, before = await self.menu(), None
        while menu != before:
            await asyncio.sleep(_STILL_S)
            menu, before = await self.menu(), menu
        return menu

    async def _call(self, path: str, interface: str, member: str, sig: str, *body: Any) -> Any:
        message = Message(
            destination=self.service,
            path=path,
            interface=interface,
            member=member,
            signature=sig,
            body=list(body),
        )
        reply = await self.bus.call(message)
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            raise RuntimeError(f"{member} failed: {reply.error_name} {reply.body}")
        return reply.body


async def wait_until(ready: Callable[[], Any], what: str, timeout_s: float = 30.0) -> None:
    """Wait until `ready()` is true while the bus goes on being served."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not ready():
        assert loop.time() < deadline, f"waited {timeout_s} s for {what}"
        await asyncio.sleep(_POLL_S)


def _entry(layout: Any) -> Entry:
    number, properties, children = layout
    values = {name: value.value for name, value in properties.items()}
    toggle = values.get("toggle-type", "")
    return Entry(
        id=number,
        # A single underscore marks a mnemonic; a doubled one is an underscore.
        label=values.get("label", "").replace("__", "\0").replace("_", "").replace("\0", "_"),
        enabled=values.get("enabled", True),
        checked=values.get("toggle-state") == 1 if toggle else None,
        radio=toggle == "radio",
        separator=values.get("type") == "separator",
        children=tuple(_entry(child.value) for child in children),
    )
