"""Ports as they are written on the command line: `80/TCP`, `53/UDP`, `7/SCTP`, and `ICMP` for ping."""

from __future__ import annotations

from netpold.ctl.failure import Exit, Failure

PROTOCOLS = ("TCP", "UDP", "SCTP")

Port = tuple[str, int | None]  # protocol, number


def parse(text: str) -> Port:
    """One port.  Raises Failure."""
    number, slash, protocol = text.strip().partition("/")
    if not slash and number.upper() == "ICMP":
        return "ICMP", None
    if not slash:
        raise _failure(text, f"write its protocol too: {number}/TCP" if number.isdecimal() else "write 80/TCP")
    if protocol.upper() not in PROTOCOLS:
        raise _failure(text, f"the protocols are {', '.join(PROTOCOLS)}, and ICMP without a port")
    if not number.isascii() or not number.isdecimal():
        raise _failure(text, "write the port's number: a name means a different one on each pod")
    if not 1 <= int(number) <= 65535:
        raise _failure(text, "ports are 1 to 65535")
    return protocol.upper(), int(number)


def parse_list(text: str) -> list[Port]:
    """Ports separated by commas, without repeats.  Raises Failure."""
    return list(dict.fromkeys(parse(each) for each in text.split(",")))


def show(port: Port) -> str:
    protocol, number = port
    return protocol if number is None else f"{number}/{protocol}"


def _failure(text: str, hint: str) -> Failure:
    return Failure(f"{text!r} is no port", hint, Exit.USAGE)
