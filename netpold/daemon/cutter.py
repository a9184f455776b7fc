"""Makes open flows that the ruleset no longer allows stop, beside the loop: a table of flows takes long to read.

The loop says after each change whose flows to look at (`look`).  A thread of its own lists and judges them, and hands
those that seem refused back in blocks, each with a call of `found`, which wakes the loop.  The loop then takes a block
(`settle`), judges its flows again by the ruleset that is in force now, and cuts.  So a flow is only ever cut by what
the kernel enforces, whatever half of a later change the thread has seen; and a flow that only seemed allowed to the
thread is one that the later change looks at.

What is cut and how: see netpold/rules/revoke.  The members of the sets of revoked connections are kept here, with one
writer, the loop; those that an earlier daemon has left are taken over.  A member goes when its connection is allowed
again (`release`), or has had no open flow for KEPT_S: each look is also one at the flows of all members' servers.  Not
at once, for another program may have had conntrack forget the flow, and its ends would go on.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import chain

from netpold.host import conntrack
from netpold.host.kernel import ipset
from netpold.host.kernel.backend import KernelError
from netpold.policy.model import Family
from netpold.rules.plan import ChangeSet, Installed
from netpold.rules.revoke import REVOKED, Connection, Enforced, Flow, Judge, connection, revoked_set
from netpold.rules.ruleset import FAMILIES, Ruleset

_BLOCK = 250  # flows that the loop judges and cuts at once
_LONGEST_PAUSE_S = 0.25
KEPT_S = 3 * 3600.0  # longer than TCP waits before it asks whether an idle peer is still there (tcp_keepalive_time)


@dataclass(frozen=True, slots=True)
class _Block:
    """What the thread hands over: flows that seem refused, revoked connections that have had no flow for long, or why
    they could not be listed."""

    refused: tuple[Flow, ...] = ()
    ended: frozenset[Connection] = frozenset()
    error: KernelError | None = None


class Cutter:
    """`found` is called whenever there is something to settle, mostly from the cutter's thread.  `release` and
    `settle` are for the loop alone; the others may be called from any thread."""

    def __init__(self, found: Callable[[], None]) -> None:
        self._found = found
        self._revoked = _Revoked()
        self._known: tuple[Installed, frozenset[Connection], Installed] | None = None
        self._without_flow: dict[Connection, float] = {}  # since when; the thread's own
        self._blocks: deque[_Block] = deque()
        self._thread = threading.Thread(target=self._run, name="cutter", daemon=True)
        self._changed = threading.Condition()  # guards the rest
        self._enforced: Enforced | None = None  # None: nothing to look at
        self._addresses: set[str] = set()
        self._stop = False

    def start(self) -> None:
        """Begin to look, in the network namespace of the calling thread."""
        self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def look(self, enforced: Enforced, addresses: Set[str]) -> None:
        """Judge the flows of these addresses, and those that an earlier look has not come to or failed at.

        `enforced` has to stay as it is but for the members of the ruleset's sets.
        """
        with self._changed:
            self._enforced = enforced
            self._addresses |= addresses
            self._changed.notify_all()

    def release(self, enforced: Enforced, names: Mapping[str, str]) -> None:
        """Let the answers of revoked connections pass again that `enforced` allows: to be called when it has come into
        force, at once.

        `names`: of the sets in the kernel, by logical name.  Raises KernelError.
        """
        if self._revoked.connections:
            judge = Judge(enforced)
            allowed = {each for each in self._revoked.connections if not judge.refuses_connection(each)}
            self._revoked.change(names, remove=allowed)

    def take_over(self) -> None:
        """Take what the sets in the kernel hold for revoked, too: before the first ruleset comes into force, which
        makes them anew.  Raises KernelError."""
        found: set[str] = set()
        for name, header in ipset.headers(ipset.headers_listing()).items():
            if name.split(".")[0] == REVOKED[header.family] and header.kind == revoked_set(header.family).kind:
                found |= ipset.members(name)
        self._revoked.connections |= {each for each in map(Connection.of, found) if each}

    def known(self, installed: Installed) -> Installed:
        """What the kernel should hold, with what is known of revoked connections in its sets; the same object as long
        as both are the same."""
        connections = self._revoked.connections
        if self._known is None or self._known[0] is not installed or self._known[1] != connections:
            filled = dataclasses.replace(installed, ruleset=self.filled(installed.ruleset))
            self._known = installed, connections, filled
        return self._known[2]

    def filled(self, ruleset: Ruleset) -> Ruleset:
        """The ruleset with what is known of revoked connections in its sets: for sets that are made anew."""
        sets = dict(ruleset.sets)
        for family, name in REVOKED.items():
            if name in sets:
                sets[name] = dataclasses.replace(sets[name], members=_members(self._revoked.connections, family))
        return dataclasses.replace(ruleset, sets=sets)

    def settle(self, enforced: Enforced, names: Mapping[str, str]) -> int:
        """Cut what was found and is refused by what is in force, a block of it; the number of flows cut.

        `names` as for `release`; a set of revoked connections that has a new name there is filled anew.
        Raises KernelError; then the next look is also one at the flows that may be left.
        """
        block = self._blocks.popleft() if self._blocks else _Block()
        if self._blocks:
            self._found()
        if block.error:
            self._revoked.change(names)
            raise block.error
        judge = Judge(enforced)
        refused = [flow for flow in block.refused if judge.refuses(flow)]
        stays = {flow: each for flow in refused if judge.would_revive(flow) and (each := connection(flow))}
        try:
            new = self._revoked.change(names, add=set(stays.values()), remove=block.ended)
            forgotten = conntrack.forget(flow for flow in refused if flow not in stays)
        except KernelError:
            self._remember({flow.source for flow in refused})
            raise
        return forgotten + sum(each in new for each in stays.values())

    def _remember(self, addresses: Set[str]) -> None:
        with self._changed:
            self._addresses |= addresses

    # The thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (asked := self._next()) is not None:
            began = time.monotonic()
            enforced, addresses = asked
            try:
                for block in self._look(enforced, addresses):
                    self._hand_over(block)
            except KernelError as error:
                self._remember(addresses)
                self._hand_over(_Block(error=error))
            with self._changed:  # at most half of a processor, however many changes come
                self._changed.wait_for(lambda: self._stop, min(time.monotonic() - began, _LONGEST_PAUSE_S))

    def _next(self) -> tuple[Enforced, frozenset[str]] | None:
        """What to look at next; None when that is the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._enforced is not None or self._stop)
            if self._stop or self._enforced is None:
                return None
            asked = self._enforced, frozenset(self._addresses)
            self._enforced = None
            self._addresses.clear()
            return asked

    def _look(self, enforced: Enforced, addresses: frozenset[str]) -> Iterator[_Block]:
        judge = Judge(enforced)
        revoked = self._revoked.connections
        addresses |= {each.server for each in revoked}
        still: set[Connection] = set()
        refused: list[Flow] = []
        links = bool(addresses) and judge.knows_links
        flows = (conntrack.flows(family, addresses, link_local=links and family == 6) for family in FAMILIES)
        for flow in chain.from_iterable(flows):
            if self._stop:
                return
            if (each := connection(flow)) in revoked and each:
                still.add(each)
            elif judge.refuses(flow):
                refused.append(flow)
            if len(refused) == _BLOCK:
                yield _Block(tuple(refused))
                refused.clear()
        now = time.monotonic()
        self._without_flow = {each: self._without_flow.get(each, now) for each in revoked - still}
        ended = frozenset(each for each, since in self._without_flow.items() if now - since >= KEPT_S)
        if refused or ended:
            yield _Block(tuple(refused), ended)

    def _hand_over(self, block: _Block) -> None:
        self._blocks.append(block)
        self._found()


class _Revoked:
    """The revoked connections, and the sets in the kernel that have them as members."""

    def __init__(self) -> None:
        self.connections: frozenset[Connection] = frozenset()  # each change makes a new one: the thread reads it
        self._filled: dict[Family, str] = {}  # the sets in the kernel that have them all

    def change(
        self, names: Mapping[str, str], add: Set[Connection] = frozenset(), remove: Set[Connection] = frozenset()
    ) -> frozenset[Connection]:
        """Make the sets of these names hold what they held but for `remove`, and `add`; those that are new in it.

        Raises KernelError; what the sets may then hold is kept in mind, and written anew by the next change.
        """
        before = self.connections
        after = (before - remove) | add
        found = {family: names[REVOKED[family]] for family in FAMILIES if REVOKED[family] in names}
        steps = [
            ChangeSet(
                name,
                _members(after if self._filled.get(family) != name else after - before, family),
                _members(before - after, family),
                "what answers a connection that is no longer allowed is dropped",
            )
            for family, name in found.items()
        ]
        self.connections = before | after
        was, self._filled = self._filled, {}
        if after != before or was != found:
            ipset.change(steps)
        self.connections, self._filled = after, found
        return after - before


def _members(connections: Set[Connection], family: Family) -> frozenset[str]:
    return frozenset(each.member for each in connections if each.family == family)
