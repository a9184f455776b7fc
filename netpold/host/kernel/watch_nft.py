"""Notices by nf_tables' own events what other programs do to netpold's chains, and who did it.

A transaction of another process that touched an own chain is told with that chain: that it was touched is enough,
nothing needs to be compared.  One that touched another chain of the same table, or the table itself, may have taken a
jump to an own chain away, or put something before it.  All others cost the decoding of a header.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

from netpold.host.kernel.backend import Program, Suspicion
from netpold.host.kernel.nf_tables import Events, Lost, Transaction, own_ports
from netpold.policy.model import Family
from netpold.rules.ruleset import FAMILIES

BUILTIN = frozenset(("INPUT", "FORWARD", "OUTPUT"))
_ALL = frozenset(FAMILIES)


class NftWatcher:
    """A `Watcher`.  `own`: the processes that carry out netpold's own commits, each the first of a group."""

    due = math.inf  # events tell all

    def __init__(self, own: Callable[[], frozenset[int]]) -> None:
        self._own = own
        self._events = Events()

    def fileno(self) -> int:
        return self._events.fileno()

    def look(self) -> Suspicion:
        found = Suspicion()
        try:
            for transaction in self._events.transactions():
                if not self._is_own(transaction.port):
                    found |= _suspicion(transaction)
        except Lost:
            found |= Suspicion(tables=_ALL, hooks=_ALL, lost=True)
        return found

    def close(self) -> None:
        self._events.close()

    def _is_own(self, port: int) -> bool:
        """A port is the process's id, mostly.  A tool may be a script that starts the real one.  Some changes this
        process makes itself."""
        own = self._own()
        try:
            return port in own or port in own_ports or os.getpgid(port) in own
        except (OSError, OverflowError):  # it has ended, or has more than one socket
            return False


def _suspicion(transaction: Transaction) -> Suspicion:
    hooks: set[Family] = set(transaction.tables)
    hooks |= {family for family, chains in transaction.others.items() if not chains.isdisjoint(BUILTIN)}
    tables = frozenset[Family]()
    if transaction.renamed:  # jumps follow a chain to its new name
        hooks, tables = set(FAMILIES), _ALL
    if not hooks and not any(transaction.own.values()):
        return Suspicion()
    by = (Program(transaction.name, transaction.pid),) if transaction.name else ()
    return Suspicion(transaction.own, tables, frozenset(hooks), by=by)
