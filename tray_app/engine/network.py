"""Whether the connection to the internet is metered, where the system can tell."""

from __future__ import annotations

import re

from .hardware.system import System

TIMEOUT_S = 5.0
NAME = "org.freedesktop.NetworkManager"
OBJECT = "/org/freedesktop/NetworkManager"
BUSCTL = ("busctl", "--system", "--auto-start=no", "get-property", NAME, OBJECT, NAME, "Metered")
GDBUS = (
    *("gdbus", "call", "--system", "--dest", NAME, "--object-path", OBJECT),
    *("--method", "org.freedesktop.DBus.Properties.Get", NAME, "Metered"),
)
# NMMetered: unknown 0, yes 1, no 2, guessed yes 3, guessed no 4. Its documentation says that
# most applications should treat a guessed yes as a yes.
NETWORK_MANAGER = {"1": True, "2": False, "3": True, "4": False}
POWERSHELL = (
    "powershell",
    "-NoProfile",
    "-NonInteractive",
    "-Command",
    "[void][Windows.Networking.Connectivity.NetworkInformation,"
    "Windows.Networking.Connectivity,ContentType=WindowsRuntime];"
    "$p=[Windows.Networking.Connectivity.NetworkInformation]::GetInternetConnectionProfile();"
    "if($p){$c=$p.GetConnectionCost();"
    "'{0} {1} {2}' -f $c.NetworkCostType,$c.Roaming,$c.OverDataLimit}",
)


def metered(system: System | None = None) -> bool | None:
    """True when traffic costs or is capped, False when it is not, None when nobody knows.

    Blocks for some milliseconds on Linux, for about a second on Windows. macOS tells it only to
    programs that ask with its own network framework.
    """
    system = system or System()
    if system.platform == "linux":
        text = system.run(BUSCTL, TIMEOUT_S) or system.run(GDBUS, TIMEOUT_S) or ""
        # busctl writes "u 4", gdbus "(<uint32 4>,)".
        found = re.fullmatch(r"\s*(?:u|\(<uint32) ([0-9])(?:>,\))?\s*", text)
        return NETWORK_MANAGER.get(found.group(1)) if found else None
    if system.platform == "windows":
        return _windows_cost((system.run(POWERSHELL, 4 * TIMEOUT_S) or "").split())
    return None


def _windows_cost(words: list[str]) -> bool | None:
    """NetworkCostType (Unknown, Unrestricted, Fixed, Variable), Roaming, OverDataLimit."""
    if len(words) != 3 or words[0] not in ("Unknown", "Unrestricted", "Fixed", "Variable"):
        return None
    if words[0] in ("Fixed", "Variable") or "True" in words[1:]:
        return True
    return False if words[0] == "Unrestricted" else None
