"""Ports on the command line."""

from __future__ import annotations

from netpold.ctl.failure import Exit, Failure
from netpold.rules import port
from netpold.rules.port import NoPort, Port, as_json, show

__all__ = ["Port", "as_json", "parse", "parse_list", "show"]


def parse(text: str) -> Port:
    """One port.  Raises Failure."""
    try:
        return port.parse(text)
    except NoPort as error:
        raise Failure(str(error), error.hint, Exit.USAGE) from error


def parse_list(text: str) -> list[Port]:
    """Ports separated by commas, without repeats.  Raises Failure."""
    return list(dict.fromkeys(parse(each) for each in text.split(",")))
