"""Whether the kernel still holds what was put there; if not, only what is hurt is put back.

A thread watches (host/kernel/watch), and wakes the loop with a suspicion.  The loop, which alone changes the kernel,
looks at what is suspected: so nothing of its own doing is ever taken for another's.  From time to time a thread of its
own reads everything back, for what nobody noticed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from netpold.daemon.fight import Fight
from netpold.daemon.strange_jumps import StrangeJumps
from netpold.host.kernel import ipset
from netpold.host.kernel.apply import apply
from netpold.host.kernel.backend import Backend, Content, KernelError, Suspicion
from netpold.host.kernel.watch import EVERYTHING, Watch
from netpold.host.kernel.watch_sets import differing, is_known, is_of_another_kind
from netpold.host.threads import started
from netpold.policy.model import Family
from netpold.rules.mend import Damage, Members, mend
from netpold.rules.plan import Installed
from netpold.rules.ruleset import FAMILIES

MOST_FAILURES = 3
TRIES, AGAIN_S = 5, 0.02  # at putting back what a program is just changing
LATER_S = 2.0  # when to try again where that failed

_Contents = Mapping[Family, Mapping[str, Content]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mended:
    """What the kernel holds now; None: that has to be read."""

    installed: Installed | None


class Drift:
    """`wake` is called from other threads when it is time to `mend`.  All methods are for the loop alone."""

    def __init__(self, backend: Backend, wake: Callable[[], None]) -> None:
        self._backend = backend
        self._watch = Watch(backend, wake)
        self._thread: threading.Thread | None = None
        self._read: tuple[Installed, _Contents] | None = None  # the last time that all was read, and was right
        self._failures = 0  # of reading everything, in a row
        self._suspicion = Suspicion()  # what was not looked at yet
        self._noticed = 0.0
        self._mend_at: float | None = None
        self.fight = Fight()
        self.strange_jumps = StrangeJumps()

    def start(self) -> None:
        """Begin to watch, in the network namespace of the calling thread.  Raises KernelError."""
        self._watch.start()

    def close(self) -> None:
        self._watch.close()
        if self._thread is not None:
            self._thread.join()

    @property
    def due(self) -> float | None:
        """When (time.monotonic()) to `mend` without being woken."""
        times = [each for each in (self._mend_at, self.fight.due) if each is not None]
        return min(times, default=None)

    def expect(self, installed: Installed | None) -> None:
        """What netpold has put into the kernel, all members known; to be called after each round."""
        self._watch.expect(installed)

    def begin(self, expected: Installed) -> None:
        """Read everything back."""
        if self._thread is None or not self._thread.is_alive():
            try:
                self._thread = started(self._look, "drift", expected)
            except OSError as error:
                self._unread(error)

    def forget(self) -> None:
        """Everything is written anew: what was suspected is of no interest any more."""
        self._watch.take()
        self._suspicion, self._mend_at = Suspicion(), None

    def mend(self, installed: Installed, known: Installed) -> Mended | None:
        """Put back what other programs changed; None where there is nothing to do, or not yet.

        `known`: the same, with the members of those sets that come and go beside the ruleset; as in `expect`.
        Raises KernelError; what the kernel holds has to be read then.
        """
        self._take()
        if not self._suspicion:
            return None
        for tries_left in reversed(range(TRIES)):
            try:
                renamed = self._backend.rename(self._suspicion.misnamed)
                damage = self._damage(self._suspicion, known)
                if damage is not None and not damage and not renamed:
                    self._suspicion, self._mend_at = Suspicion(), None
                    return None
                now = time.monotonic()
                opens = damage is None or damage.opens
                at = self.fight.at(now, opens)
                if at > now:
                    self._mend_at = at
                    return None
                left = apply(mend(known, damage), self._backend) if damage is not None else None
                break
            except KernelError:
                if not tries_left:
                    self._mend_at = time.monotonic() + LATER_S
                    raise
                time.sleep(AGAIN_S)  # mostly it has gone on to change things
                self._take()
                self._suspicion |= EVERYTHING
        done, by = time.monotonic(), self._suspicion.by
        self._suspicion, self._mend_at = Suspicion(), None
        self.fight.repaired(done, by, done - self._noticed, opens)
        return Mended(replace(left, ruleset=installed.ruleset) if left else None)

    def _take(self) -> None:
        suspicion, noticed = self._watch.take()
        if not self._suspicion:
            self._noticed = min(noticed, time.monotonic())
        self._suspicion |= suspicion

    def _damage(self, suspicion: Suspicion, known: Installed) -> Damage | None:
        """What is hurt; None where the kernel has to be read and written anew.  Raises KernelError."""
        chains = {
            family: suspicion.chains.get(family, frozenset()) - known.stray_chains.get(family, frozenset())
            for family in FAMILIES
        }
        for each in suspicion.misnamed:  # who renames a chain may have changed it under that name
            chains[each.family] |= {each.name} & known.ruleset.chains[each.family].keys()
        for family in suspicion.tables:
            chains[family] |= self._other_chains(family, known, lost=suspicion.lost)
        hooks = {
            (family, builtin, own)
            for family in suspicion.hooks
            for builtin, own in known.ruleset.hooks.items()
            if not self._backend.hooked(family, builtin, own)
        }
        other: frozenset[str] = frozenset()
        headers = ipset.headers(ipset.headers_listing())
        if suspicion.headers or any(chains.values()):  # who flushes rules may have gone on to destroy sets
            other = differing(headers, known)
        if self._is_of_another_kind(headers, known):
            return None
        named = known.names.values()
        return Damage(
            chains,
            frozenset(family for family, _, _ in hooks),
            not all(self._backend.leads(*each) for each in hooks),
            _members(known, (other | suspicion.members) & headers.keys()),
            frozenset(name for name in other if name in named and name not in headers),
            frozenset(other - set(named)),
        )

    def _other_chains(self, family: Family, installed: Installed, *, lost: bool) -> frozenset[str]:
        """Own chains that may not be as they should be: none but strays, or all of them, for who changed one unnoticed
        may have renamed others, and no rule that leads to a chain tells.  `lost`: where nothing tells, they are
        suspected."""
        found = self._backend.contents(family)
        own = installed.ruleset.chains[family]
        strays = found.keys() - own.keys() - installed.stray_chains.get(family, frozenset())
        right = self._read[1][family] if self._read and self._read[0] is installed else None
        is_hurt = (right is None and lost) or any(
            chain not in found
            or found[chain].rules != len(rules)
            or (right is not None and found[chain] != right.get(chain))
            for chain, rules in own.items()
        )
        return frozenset(own.keys() | strays if is_hurt else strays)

    @staticmethod
    def _is_of_another_kind(headers: Mapping[str, ipset.Header], known: Installed) -> bool:
        """Whether somebody put a set of another type, or with other options, in the place of one of netpold's."""
        return any(
            is_of_another_kind(headers[name], known.ruleset.sets[each])
            for each, name in known.names.items()
            if name in headers
        )

    # The thread ---------------------------------------------------------------------------------------------------

    def _look(self, expected: Installed) -> None:
        """Read everything; what is not as expected is looked at again by the loop.  A program that writes at the same
        moment can make one look fail, so only MOST_FAILURES in a row are told."""
        try:
            contents = {family: self._backend.contents(family) for family in FAMILIES}
            if self._is_right(contents, expected):
                self._read = expected, contents
                hooks = frozenset(
                    family
                    for family in FAMILIES
                    if not all(self._backend.hooked(family, *each) for each in expected.ruleset.hooks.items())
                )
                found = Suspicion(hooks=hooks)
            else:
                found = Suspicion(tables=frozenset(FAMILIES), hooks=frozenset(FAMILIES))
            if differing(ipset.headers(ipset.headers_listing()), expected):
                found |= Suspicion(headers=True)
            self.strange_jumps.look(self._backend, expected)
        except (KernelError, OSError) as error:
            self._unread(error)
            return
        self._failures = 0
        if found:
            self._watch.suspect(found)

    def _unread(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == MOST_FAILURES:
            log.warning("what is in the kernel can't be read back: %s", error)

    def _is_right(self, contents: _Contents, expected: Installed) -> bool:
        if self._read is not None and self._read[0] is expected:
            return self._read[1] == contents
        return all(
            contents[family].keys() == own.keys() | expected.stray_chains.get(family, frozenset())
            and all(contents[family][chain].rules == len(rules) for chain, rules in own.items())
            for family, own in expected.ruleset.chains.items()
        )


def _members(known: Installed, names: frozenset[str]) -> dict[str, Members]:
    """What is wrong with the members of these sets."""
    found: dict[str, Members] = {}
    for each, name in known.names.items():
        if name in names:
            wanted, there = known.ruleset.sets[each], ipset.members(name)
            missing = frozenset(wanted.members) - there
            extra = there - frozenset(wanted.members) if is_known(wanted) else frozenset[str]()
            if missing or extra:
                found[name] = Members(missing, extra)
    return found
