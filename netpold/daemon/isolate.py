"""Which objects are to blame for a plan that the kernel refuses: found by trials that no packet can meet, in halves.

Only where a trial of nothing works is the plan itself to blame, and not the machine.  Then all parts are tried at once,
and, where that is refused, each half of them, down to single objects: of n objects one bad one takes some log2(n)
trials.  Where no object is refused alone nobody is to blame.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from netpold.host.kernel import ipset
from netpold.host.kernel.backend import Backend, Commit, KernelError, Trouble
from netpold.policy.model import Family
from netpold.rules.plan import CreateSet, Plan
from netpold.rules.render import Options, options
from netpold.rules.ruleset import FAMILIES, IPSet
from netpold.rules.suspects import MARK, Part, Suspect, created, each_named, parts, users

MOST_S = 15.0  # for one search; what it did not get to is found by the next one

log = logging.getLogger("netpold")


@dataclass(frozen=True, slots=True)
class Culprit:
    """An object that the kernel refuses: `policy` (key) or `interface` (name).  `said`: what the kernel said.

    `suspect`: a rule that is refused, or `ipset`: a set that is; with it, it can be tried again.
    """

    said: str
    policy: str = ""
    interface: str = ""
    suspect: Suspect | None = None
    ipset: IPSet | None = None


class Trials:
    """Tries rules and sets out.  `alive` is called between trials.  For the loop's thread."""

    def __init__(self, backend: Backend, alive: Callable[[], None]) -> None:
        self._backend = backend
        self._alive = alive
        self._end = 0.0
        self._left: frozenset[str] = frozenset()

    def culprits(self, plan: Plan) -> list[Culprit]:
        """The objects to blame for a refusal of this plan, none of whose new sets is in the kernel.

        Raises KernelError when it is not the plan that is refused: then also the trial of nothing is.
        """
        self._end = time.monotonic() + MOST_S
        made: list[str] = []
        try:
            self._commit([])
            found, refused = self._sets(plan, made)
            found += self._rules(plan, refused)
        finally:
            self._take_away(made)
        return found

    def is_refused(self, culprit: Culprit) -> bool:
        """Whether the kernel still refuses it."""
        self._end = time.monotonic() + MOST_S
        made: list[str] = []
        try:
            if culprit.ipset is not None:
                self._create(CreateSet(culprit.ipset.name + MARK, culprit.ipset, "a trial"), made)
            if culprit.suspect is not None:
                there = ipset.names()
                for name, each in culprit.suspect.sets.items():
                    empty = replace(each, members=frozenset())
                    if culprit.suspect.names[name] not in there:
                        self._create(CreateSet(culprit.suspect.names[name], empty, "a trial"), made)
                self._commit([culprit.suspect])
        except KernelError:
            return True
        finally:
            self._take_away(made)
        return False

    def take_left(self) -> frozenset[str]:
        """Sets that could not be taken away again, since the last time: nf_tables gives them free some time later."""
        left, self._left = self._left, frozenset()
        return left

    # Sets ---------------------------------------------------------------------------------------------------------

    def _sets(self, plan: Plan, made: list[str]) -> tuple[list[Culprit], frozenset[str]]:
        """Make all sets; who is to blame for those that are refused, and their logical names."""
        found: list[Culprit] = []
        refused: set[str] = set()
        there = ipset.names()  # those that rules of the other family refer to already
        for step in created(plan):
            if step.name in there:
                continue
            try:
                self._create(step, made)
            except Trouble:
                raise
            except KernelError as error:
                refused.add(step.ipset.name)
                found += [
                    Culprit(str(error), policy=key, ipset=step.ipset) for key in sorted(users(plan, step.ipset.name))
                ]
        return found, frozenset(refused)

    def _create(self, step: CreateSet, made: list[str]) -> None:
        made.append(step.name)
        ipset.create([step])

    def _take_away(self, made: list[str]) -> None:
        try:
            self._left |= ipset.destroy(made)
        except KernelError as error:
            log.warning("sets of a trial can't be taken away: %s", error)
            self._left |= frozenset(made)

    # Rules --------------------------------------------------------------------------------------------------------

    def _rules(self, plan: Plan, refused_sets: frozenset[str]) -> list[Culprit]:
        of_one, of_several = parts(plan, refused_sets)
        found = [self._culprit(part) for part in self._search(of_one)]
        bad = {each.policy for each in found}
        rest = [part for part in of_several if bad.isdisjoint(each.policy for each in each_named(part))]
        for part in self._search(rest):
            found += [self._culprit(each) for each in self._search(list(each_named(part)))]
        return [each for each in found if each.policy or each.interface]

    def _search(self, suspected: Sequence[Part], surely: bool = False) -> Iterator[Part]:
        """The parts that are refused alone; `surely`: these are refused together."""
        if not suspected or time.monotonic() > self._end:
            return
        if (not surely or len(suspected) == 1) and self._refusal(suspected) is None:
            return
        if len(suspected) == 1:
            yield suspected[0]
            return
        half = len(suspected) // 2
        found = list(self._search(suspected[:half]))
        yield from found
        yield from self._search(suspected[half:], surely=not found)

    def _culprit(self, part: Part) -> Culprit:
        """With one of its rules that is refused."""
        alone = [replace(part, suspects=(each,)) for each in part.suspects]
        one = next(self._search(alone), part) if len(alone) > 1 else part
        said = str(self._refusal([one]) or self._refusal([part]) or "it was refused, and now no more")
        return Culprit(said, part.policy, part.interface, one.suspects[0])

    def _refusal(self, suspected: Iterable[Part]) -> KernelError | None:
        """What the kernel says against these rules.  Raises Trouble."""
        try:
            self._commit([each for part in suspected for each in part.suspects])
        except Trouble:
            raise
        except KernelError as error:
            return error
        return None

    def _commit(self, suspects: Sequence[Suspect]) -> None:
        """Write the rules into chains that no packet meets, and take these away again.  Raises KernelError."""
        self._alive()
        chains: dict[Family, dict[str, tuple[Options, ...]]] = {family: {} for family in FAMILIES}
        for each in suspects:
            rule = options(each.trial_rule, each.family, each.names.__getitem__)
            of_family = chains[each.family]
            of_family[each.trial_chain] = (*of_family.get(each.trial_chain, ()), rule)
        for family, replaced in chains.items():
            if replaced or not suspects:
                written = replaced or {f"NP-RULES-{MARK}": ()}
                self._backend.commit(Commit(family, replace=written))
                self._backend.commit(Commit(family, remove=tuple(written)))
