"""Metered connections, by NetworkManager's and Windows' own words."""

from __future__ import annotations

import pytest

from tests.fixtures.hardware.machine import Machine
from tray_app.engine import network

BUSCTL, GDBUS = " ".join(network.BUSCTL), " ".join(network.GDBUS)


@pytest.mark.parametrize(
    ("state", "told"), [(0, None), (1, True), (2, False), (3, True), (4, False), (9, None)]
)
def test_network_managers_states_are_told(state: int, told: bool | None) -> None:
    assert network.metered(Machine(f"\n## platform linux\n## run {BUSCTL}\nu {state}\n")) is told
    gdbus = f"\n## platform linux\n## run {GDBUS}\n(<uint32 {state}>,)\n"
    assert network.metered(Machine(gdbus)) is told


def test_gdbus_is_asked_where_busctl_has_no_answer() -> None:
    text = f"\n## platform linux\n## run {BUSCTL}\n\n## run {GDBUS}\n(<uint32 1>,)\n"
    machine = Machine(text.replace(f"{BUSCTL}\n\n", f"{BUSCTL}\n"))
    assert network.metered(machine) is True
    assert machine.asked == [BUSCTL, GDBUS]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Unrestricted False False", False),
        ("Fixed False False", True),
        ("Variable False False", True),
        ("Unrestricted True False", True),
        ("Unrestricted False True", True),
        ("Unknown False False", None),
        ("", None),
        ("Unable to find type [Windows.Networking]", None),
    ],
)
def test_windows_costs_are_told(said: str, told: bool | None) -> None:
    machine = Machine(f"\n## platform windows\n## run powershell\n{said}\r\n")
    assert network.metered(machine) is told


@pytest.mark.parametrize("said", ["u 44", "u", 's "1"', "\ufffd", "u 1\nu 2", "9" * 100_000])
def test_garbage_is_not_known(said: str) -> None:
    assert network.metered(Machine(f"\n## platform linux\n## run {BUSCTL}\n{said}")) is None


def test_a_system_that_cannot_tell_is_not_known() -> None:
    assert network.metered(Machine("\n## platform linux")) is None
    assert network.metered(Machine("\n## platform darwin")) is None
