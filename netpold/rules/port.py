"""Ports as people write them: `80/TCP`, `53/UDP`, `7/SCTP`, and `ICMP` for ping."""

from __future__ import annotations

import re

PROTOCOLS = ("TCP", "UDP", "SCTP")

Port = tuple[str, int | None]  # protocol, number

_RANGE = re.compile("[0-9]+ *[-:] *[0-9]+")


class NoPort(Exception):
    """A text that is no port; `hint` says what to write."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(f"{text!r} is no port")
        self.hint = hint


def parse(text: str) -> Port:
    """One port.  Raises NoPort."""
    number, slash, protocol = text.strip().partition("/")
    if not slash and number.upper() == "ICMP":
        return "ICMP", None
    if not slash:
        raise NoPort(text, f"write its protocol too: {number}/TCP" if number.isdecimal() else "write 80/TCP")
    if protocol.upper() not in PROTOCOLS:
        raise NoPort(text, f"the protocols are {', '.join(PROTOCOLS)}, and ICMP without a port")
    if _RANGE.fullmatch(number):
        hint = "ask about one port of the range; `netpoldctl test` and `netpoldctl diff` are about all of them"
        raise NoPort(text, hint)
    if not number.isascii() or not number.isdecimal():
        raise NoPort(text, "write the port's number: a name means a different one on each pod")
    if not 1 <= int(number) <= 65535:
        raise NoPort(text, "ports are 1 to 65535")
    return protocol.upper(), int(number)


def show(port: Port) -> str:
    protocol, number = port
    return protocol if number is None else f"{number}/{protocol}"


def as_json(port: Port) -> dict[str, str | int | None]:
    protocol, number = port
    return {"protocol": protocol, "port": number}
