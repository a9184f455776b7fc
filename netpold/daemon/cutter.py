"""Makes open flows that the ruleset no longer allows stop, beside the loop: a table of flows takes long to read.

The loop says after each change whose flows to look at (`look`).  A thread of its own lists and judges them, and hands
those that seem refused back in blocks, each with a call of `found`, which wakes the loop.  The loop then takes a block
(`settle`), judges its flows again by the ruleset that is in force now, and cuts.  So a flow is only ever cut by what
the kernel enforces, whatever half of a later change the thread has seen; and a flow that only seemed allowed to the
thread is one that the later change looks at.

What is cut and how: see netpold/rules/revoke.  The members of the sets of revoked connections are kept here, with one
writer, the loop.  A member goes when its connection is allowed again (`release`), or has no open flow any more: each
look is also one at the flows of all members' servers.
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
from netpold.rules.plan import ChangeSet
from netpold.rules.revoke import REVOKED, Connection, Enforced, Flow, Judge, connection
from netpold.rules.ruleset import FAMILIES, Ruleset

_BLOCK = 250  # flows that the loop judges and cuts at once
_LONGEST_PAUSE_S = 0.25


@dataclass(frozen=True, slots=True)
class _Block:
    """What the thread hands over: flows that seem refused, revoked connections that have no flow any more, or why
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
        for flow in chain.from_iterable(conntrack.flows(family, addresses) for family in FAMILIES):
            if self._stop:
                return
            if (each := connection(flow)) in revoked and each:
                still.add(each)
            elif judge.refuses(flow):
                refused.append(flow)
            if len(refused) == _BLOCK:
                yield _Block(tuple(refused))
                refused.clear()
        if refused or still != revoked:
            yield _Block(tuple(refused), revoked - still)

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
