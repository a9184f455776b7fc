"""From what the kernel counts for each of its rules to what people ask about: policy rules, and pods.

A rule of a pod's policies is met by the packets that go in the direction in which a flow was begun; answers pass
before.  So all counts here are of such packets: a flow of a thousand packets to a pod and a thousand back counts a
thousand.  Chains with the policies' rules are shared by pods, and a policy rule may be several rules in the kernel, in
several chains: they are added up.  The rules that lead from a pod's own chain to the policies' tell how much of it was
judged for the pod; of what it sends to its own node likewise, where its tiers judge that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

from netpold.policy.model import Direction, Family
from netpold.rules import at_home
from netpold.rules.count import Count, Isolated
from netpold.rules.endpoint import Endpoint
from netpold.rules.places import address_chain, interface_chain
from netpold.rules.ruleset import FAMILIES, Goto, Jump, Match, Origin, Rule, Ruleset

RULES_PREFIX = "NP-RULES-"

Readings = Mapping[Family, Mapping[str, Sequence[Count]]]  # by chain, for each of its rules
PodChains = Mapping[tuple[str, Direction], tuple[str, ...]]


def pod_chains(isolated: Iterable[Isolated], endpoints: Mapping[str, Endpoint]) -> PodChains:
    """The names that the chains of isolated pods may have, by pod and direction: by interface, then by address; then
    those for what is sent to the own node."""
    isolated = list(isolated)
    claimed: dict[tuple[Direction, str], set[str]] = defaultdict(set)
    at: dict[str, set[str]] = defaultdict(set)
    for each in isolated:
        for address in each.addresses:
            claimed[each.direction, address].add(each.pod)
    for endpoint in endpoints.values():
        for address in endpoint.judged_at:
            at[address].add(endpoint.pod)
    found: dict[tuple[str, Direction], tuple[str, ...]] = {}
    for each in isolated:
        interfaces = endpoints[each.pod].interfaces if each.pod in endpoints else ()
        names = [interface_chain(interface.name, each.direction) for interface in interfaces]
        names += [
            address_chain(address, sorted(claimed[each.direction, address]), each.direction)
            for address in each.addresses
        ]
        if each.direction is Direction.EGRESS:
            names += [at_home.interface_chain(interface.name) for interface in interfaces]
            names += [at_home.chain(address, sorted(at[address])) for address in each.addresses]
        found[each.pod, each.direction] = tuple(names)
    return found


def by_rule(ruleset: Ruleset, readings: Readings) -> dict[Origin, Count]:
    """What each policy rule has let pass, of those that are in the kernel."""
    found: dict[Origin, Count] = {}
    for family in FAMILIES:
        counted = readings.get(family, {})
        for chain, rules in ruleset.chains[family].items():
            if chain.startswith(RULES_PREFIX):
                for rule, count in _paired(rules, counted.get(chain, ())):
                    if rule.origin is not None:
                        found[rule.origin] = add(found.get(rule.origin, Count()), count)
    return found


def by_pod(ruleset: Ruleset, readings: Readings, chains: PodChains) -> dict[tuple[str, Direction], Count]:
    """What was judged for each isolated pod, whatever came of it; `chains` as `pod_chains` gives them."""
    found: dict[tuple[str, Direction], Count] = {}
    for key, names in chains.items():
        total = Count()
        for family in FAMILIES:
            for name in names:
                rules = ruleset.chains[family].get(name, ())
                counts = _paired(rules, readings.get(family, {}).get(name, ()))
                # where several pods have the address, the first one's policies see all of it
                firsts: dict[tuple[Match, ...], Count] = {}
                for rule, count in counts:
                    if _judges(rule):
                        firsts.setdefault(rule.matches, count)
                total = reduce(add, firsts.values(), total)
        found[key] = total
    return found


def rules_chains(chains: Mapping[str, Sequence[Rule]], first: str) -> list[str]:
    """The chains with the policies' rules that a pod's own chain leads to, in the order in which they are met."""
    found: dict[str, None] = {}
    coming = [first]
    while coming:
        targets = (rule.target for rule in chains.get(coming.pop(0), ()) if _judges(rule))
        new = [each.chain for each in targets if isinstance(each, Jump | Goto) and each.chain not in found]
        found.update(dict.fromkeys(new))
        coming += dict.fromkeys(new)
    return list(found)


def add(one: Count, other: Count) -> Count:
    return Count(one.packets + other.packets, one.bytes + other.bytes)


def _judges(rule: Rule) -> bool:
    return isinstance(rule.target, Jump | Goto) and rule.target.chain.startswith(RULES_PREFIX)


def _paired(rules: Sequence[Rule], counts: Sequence[Count]) -> list[tuple[Rule, Count]]:
    """The rules with their counts; nothing where another program has changed the chain."""
    return list(zip(rules, counts, strict=True)) if len(rules) == len(counts) else []
