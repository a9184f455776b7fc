"""Rules of other programs that lead to netpold's chains: they are told of, and stay.

They are not netpold's, however little sense they make: its chains judge there what they are not made for, and one that
is led to can't be taken away.
"""

from __future__ import annotations

import logging

from netpold.host.kernel.backend import Backend
from netpold.printable import printable
from netpold.rules.plan import Installed
from netpold.rules.ruleset import FAMILIES

MOST_NAMED = 5

log = logging.getLogger(__name__)


class StrangeJumps:
    """`warning`: where there are any; for any thread."""

    def __init__(self) -> None:
        self.warning: str | None = None

    def look(self, backend: Backend, expected: Installed) -> None:
        """Raises KernelError."""
        found = [
            f"IPv{family} {printable(chain)} to {printable(own)}"
            for family in FAMILIES
            for chain, own in sorted(backend.led_to(family) - expected.ruleset.hooks.items())
        ]
        self.warning, before = _words(found) if found else None, self.warning
        if self.warning and self.warning != before:
            log.warning("%s", self.warning)


def _words(found: list[str]) -> str:
    some = ", ".join(found[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED} more (`netpoldctl verify` has all)" if len(found) > MOST_NAMED else ""
    return (
        f"rules of other programs jump to netpold's chains, which judge there what is not theirs: {some}{more}; "
        "netpold leaves these rules as they are: take them out"
    )
