"""Notices by nf_tables' own events what other programs do to netpold's chains, and who did it.

A transaction of another process that touched an own chain is told with that chain: that it was touched is enough,
nothing needs to be compared.  So are chains that it gave other names (`chain_names`).  One that touched another chain
of the same table, or the table itself, may have taken a jump to an own chain away, or put something before it.  All
others cost the decoding of a header.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

from netpold.host.kernel.backend import Misnamed, Program, Suspicion
from netpold.host.kernel.chain_names import BUILTIN, ChainNames
from netpold.host.kernel.nf_events import Events, Lost, Transaction
from netpold.host.kernel.nf_netlink import own_ports
from netpold.policy.model import Family
from netpold.rules.ruleset import FAMILIES

_ALL = frozenset(FAMILIES)


class NftWatcher:
    """A `Watcher`.  `own`: the processes that carry out netpold's own commits, each the first of a group."""

    due = math.inf  # events tell all

    def __init__(self, own: Callable[[], frozenset[int]]) -> None:
        self._own = own
        self._events = Events()
        self._names = ChainNames()

    def fileno(self) -> int:
        return self._events.fileno()

    def look(self) -> Suspicion:
        found = Suspicion()
        try:
            for transaction in self._events.transactions():
                is_own = self._is_own(transaction.port)
                misnamed = self._names.told(transaction.named, is_own=is_own)
                if not is_own:
                    found |= _suspicion(transaction, misnamed)
        except Lost:
            found |= Suspicion(tables=_ALL, hooks=_ALL, lost=True, misnamed=self._names.read())
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


def _suspicion(transaction: Transaction, misnamed: frozenset[Misnamed]) -> Suspicion:
    hooks: set[Family] = set(transaction.tables)
    hooks |= {family for family, chains in transaction.others.items() if not chains.isdisjoint(BUILTIN)}
    tables = frozenset(each.family for each in misnamed)
    if not hooks and not misnamed and not any(transaction.own.values()):
        return Suspicion()
    by = (Program(transaction.name, transaction.pid),) if transaction.name else ()
    return Suspicion(transaction.own, tables, frozenset(hooks | tables), misnamed=misnamed, by=by)
