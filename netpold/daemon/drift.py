"""Whether the kernel still holds what was put there: read back in a thread of its own, beside the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

from netpold.host.kernel import ipset
from netpold.host.kernel.backend import Backend, KernelError
from netpold.policy.model import Family
from netpold.rules.plan import Installed
from netpold.rules.ruleset import FAMILIES

MOST_FAILURES = 3


class _Answer(NamedTuple):
    expected: Installed
    hooked: bool
    intact: bool


class DriftCheck:
    """One look at a time.  `done` is called from the thread when there is an answer."""

    def __init__(self, backend: Backend, done: Callable[[], None]) -> None:
        self._backend = backend
        self._done = done
        self._thread: threading.Thread | None = None
        self._answer: _Answer | KernelError | None = None
        self._failures = 0  # in a row

    def begin(self, expected: Installed) -> None:
        """Look whether all chains, sets and jumps of `expected` are there, and no others with netpold's names."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._look, args=(expected,), name="drift", daemon=True)
            self._thread.start()

    def drifted(self, now: Installed | None) -> bool:
        """Whether the look that ended last found something else.  Chains and sets have to be those that are installed
        `now`: if anything was written since, the look says nothing of them, and another one begins; the jumps to them
        are always the same.  Raises KernelError where it failed MOST_FAILURES times in a row: a program that writes at
        the same moment can make one look fail."""
        answer, self._answer = self._answer, None
        if answer is None or now is None:
            return False
        if isinstance(answer, KernelError):
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                raise answer
            self.begin(now)
            return False
        self._failures = 0
        if answer.expected is now:
            return not (answer.hooked and answer.intact)
        if answer.hooked:
            self.begin(now)
        return not answer.hooked

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _look(self, expected: Installed) -> None:
        try:
            self._answer = _look(self._backend, expected)
        except KernelError as error:
            self._answer = error
        self._done()


def _look(backend: Backend, expected: Installed) -> _Answer:
    """Whether the kernel holds the chains, sets and jumps that it should: by their names, and by how many rules and
    members they have.  Raises KernelError."""
    ruleset = expected.ruleset
    counts = {family: backend.rule_counts(family) for family in FAMILIES}
    chains = {
        family: ruleset.chains[family].keys() | expected.stray_chains.get(family, frozenset()) for family in FAMILIES
    }
    sets = frozenset(expected.names.values()) | expected.stray_sets
    hooked = all(backend.hooked(family, builtin, own) for family in FAMILIES for builtin, own in ruleset.hooks.items())
    named = ipset.names() == sets and all(counts[family].keys() == chains[family] for family in FAMILIES)
    return _Answer(expected, hooked, named and _is_full(counts, expected))


def _is_full(counts: Mapping[Family, Mapping[str, int]], expected: Installed) -> bool:
    """Whether no chain and no set has lost anything, or got something that is not netpold's."""
    ruleset = expected.ruleset
    for family in FAMILIES:
        if any(counts[family].get(chain) != len(rules) for chain, rules in ruleset.chains[family].items()):
            return False
    sizes = ipset.sizes()
    # of the others the members come and go beside the ruleset
    compared = [(expected.names[name], each) for name, each in ruleset.sets.items() if each.larger in ("allows", None)]
    return all(sizes.get(name, len(each.members)) == len(each.members) for name, each in compared)
