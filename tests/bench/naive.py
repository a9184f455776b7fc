"""The daemon with another plan, which mixes old and new.

Sets change in place, then the rules of senders, then those of receivers, whose chains are empty for a moment.

What `python3 -m tests.bench.atomic --break` runs in place of netpold, to see whether the bench sees a mix.  Many
programs that write iptables and ipset do it in such an order.  All else is netpold's own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace

from netpold.daemon import enforce
from netpold.daemon import main as daemon
from netpold.rules.plan import ChangeSet, CreateSet, Installed, Plan, ReplaceChains, Step, plan
from netpold.rules.ruleset import Ruleset

_RECEIVERS = ("NETPOLD-TO", "NP-IN")  # how the names of chains begin that judge what pods receive


class Naive:
    """Plans with the same end as netpold's, but for their order and for the names of sets."""

    def __init__(self) -> None:
        self._members: dict[str, frozenset[str]] = {}  # what was planned last: the sets themselves may change since

    def __call__(self, installed: Installed, desired: Ruleset, *_: object) -> Plan:
        """What is known of changes is passed over: it says what the members say, too."""
        held, self._members = self._members, {name: frozenset(each.members) for name, each in desired.sets.items()}
        old = installed.ruleset
        if not old.hooks:
            return plan(installed, desired)
        names = {name: installed.names.get(name, name) for name in desired.sets}
        steps: list[Step] = []
        for name, ipset in desired.sets.items():
            now, before = self._members[name], held.get(name, frozenset())
            if name not in held:
                steps.append(CreateSet(names[name], ipset, "new"))
            elif now != before:
                steps.append(ChangeSet(names[name], now - before, before - now, "in place"))
        # what netpold plans where the sets are as they should be already: the rules, and what is left over
        sets = Ruleset(old.chains, {**old.sets, **desired.sets}, old.hooks)
        strays = installed.stray_chains, installed.stray_sets - set(names.values())
        rules = plan(Installed(sets, {**installed.names, **names}, *strays), desired)
        return Plan((*steps, *_in_parts(rules.steps)), rules.result)


def _in_parts(steps: Iterable[Step]) -> Iterator[Step]:
    """The same steps with each commit cut in three."""
    for step in steps:
        if isinstance(step, ReplaceChains):
            last = {chain: rules for chain, rules in step.chains.items() if chain.startswith(_RECEIVERS)}
            yield replace(step, chains={chain: rules for chain, rules in step.chains.items() if chain not in last})
            yield replace(step, chains=dict.fromkeys(last, ()), hooks={}, unhook=())
            yield replace(step, chains=last, hooks={}, unhook=())
        else:
            yield step


if __name__ == "__main__":
    if vars(enforce).get("plan") is not plan:
        sys.exit("tests.bench.naive: the daemon no longer takes its plan from netpold.rules.plan")
    vars(enforce)["plan"] = Naive()
    sys.exit(daemon.main())
