"""Which chains another program has given other names.

In nf_tables a rule that leads to a chain leads there whatever the chain is called later, and nothing is told of such a
rule.  What tells a chain from another is its handle, which it has for as long as it is there.  So from the events it is
kept which name each chain was made with: netpold's own, and the built-in ones, where netpold's jumps stand.
"""

from __future__ import annotations

from netpold.host.kernel import nf_tables
from netpold.host.kernel.backend import Misnamed
from netpold.host.kernel.nf_events import Named
from netpold.policy.model import Family
from netpold.rules.ruleset import CHAIN_PREFIXES, FAMILIES

BUILTIN = frozenset(("INPUT", "FORWARD", "OUTPUT"))


class ChainNames:
    """Of the network namespace in which it is made.  For one thread."""

    def __init__(self) -> None:
        """Raises KernelError."""
        self._tables: dict[Family, int] = {}  # handle of the table whose chains these are
        self._given: dict[Family, dict[int, str]] = {family: {} for family in FAMILIES}  # by handle
        self.read()

    def read(self) -> frozenset[Misnamed]:
        """Look which names there are, where not all events were told; those with another than before.
        Raises KernelError."""
        found: set[Misnamed] = set()
        for family in FAMILIES:
            table = nf_tables.chain_names(family)
            self._table(family, table.handle)
            before = self._given[family]
            found |= {
                Misnamed(family, before[handle], (table.handle, handle))
                for handle, name in table.names.items()
                if before.get(handle, name) != name
            }
            self._given[family] = {
                handle: before.get(handle, name)
                for handle, name in table.names.items()
                if handle in before or _is_kept(name)
            }
        return frozenset(found)

    def told(self, events: tuple[Named, ...], *, is_own: bool) -> frozenset[Misnamed]:
        """What a transaction did, netpold's own or another's; the chains that it gave other names."""
        found: set[Misnamed] = set()
        for each in events:
            given = self._given[each.family]
            if each.is_table:
                self._table(each.family, each.handle)
            elif not each.name:
                given.pop(each.handle, None)
            elif is_own or each.handle not in given:
                given.pop(each.handle, None)
                if _is_kept(each.name):
                    given[each.handle] = each.name
            elif given[each.handle] != each.name:
                found.add(Misnamed(each.family, given[each.handle], (self._tables.get(each.family, 0), each.handle)))
        return frozenset(found)

    def _table(self, family: Family, handle: int) -> None:
        """In another table, handles say nothing of the chains that were in the one before."""
        if self._tables.get(family) != handle:
            self._tables[family] = handle
            self._given[family] = {}


def _is_kept(name: str) -> bool:
    return name in BUILTIN or name.startswith(CHAIN_PREFIXES)
