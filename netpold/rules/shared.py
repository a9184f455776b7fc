"""The chains of policy rules, which pods share that have the same policies, each made once.

A chain is named by what it says.  Of the NetworkPolicies that isolate a pod each rule allows, and behind them is what
becomes of everything else: it is dropped, or where all of the policies are audited it is let through (audit.py); in
both cases it is logged right before.

Tiers are chains of their own, each leading to what comes after it:

    Admin rules:     Accept returns, Deny goes to the chain that drops, Pass goes to what comes after the tier
      then           the chain of the NetworkPolicies, if any isolates the pod: the same one as without tiers
      or else        Baseline rules: Accept and Pass return, Deny goes to the chain that drops

What no rule of the tiers says anything of is allowed.  A pod that no ClusterNetworkPolicy is about has none of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from netpold.policy.isolation import Isolation
from netpold.policy.model import Action, ClusterPolicy, ContainerPort, Direction, Family
from netpold.rules.audit import all_audited, let_through, reported
from netpold.rules.count import dropped
from netpold.rules.local import Local
from netpold.rules.peers import PolicyRules, Targets
from netpold.rules.render import text
from netpold.rules.ruleset import COMMENT_LIMIT, Goto, Log, Rule, Target, Unknown, short_hash


class Shared(NamedTuple):
    """The chain that judges, and all chains that it leads to, itself included."""

    name: str
    chains: Mapping[str, tuple[Rule, ...]]


_FREE = Shared("", {})  # nothing is judged: what comes here returns


class SharedRules:
    """Those of one family, as long as policies and sets are the same.  `nflog_group`: 0 for none."""

    def __init__(self, family: Family, nflog_group: int, rules: PolicyRules) -> None:
        self._family = family
        self._nflog_group = nflog_group
        self._policy_rules = rules
        self._made: dict[object, Shared] = {}  # by what they are made from

    def of(self, each: Local, direction: Direction, at_home: bool = False) -> Shared:
        """The chain that judges for a pod in a direction; `at_home`: what goes to its own node, which NetworkPolicies
        leave free."""
        isolation = each.isolation[direction]
        audited = frozenset(policy.key for policy in isolation.all if policy.key in each.audited)
        keys = tuple(policy.key for policy in isolation.all)
        inputs = direction, isolation.grants, isolation.denying, each.ports, keys, audited, at_home
        if inputs not in self._made:
            self._made[inputs] = _Making(self, each.ports, isolation, direction, audited, self._family).made(at_home)
        return self._made[inputs]

    @property
    def nflog_group(self) -> int:
        return self._nflog_group

    @property
    def policy_rules(self) -> PolicyRules:
        return self._policy_rules


class _Making:
    """The chains for pods with these ports, in a direction."""

    def __init__(
        self,
        shared: SharedRules,
        ports: tuple[ContainerPort, ...],
        isolation: Isolation,
        direction: Direction,
        audited: frozenset[str],
        family: Family,
    ) -> None:
        self._rules = shared.policy_rules
        self._group = shared.nflog_group
        self._ports = ports
        self._isolation = isolation
        self._direction = direction
        self._audited = audited
        self._family = family
        self._chains: dict[str, tuple[Rule, ...]] = {}

    def made(self, at_home: bool) -> Shared:
        """The first chain, and all of them."""
        isolation = self._isolation
        if not isolation.policies:
            then = self._tier(isolation.baseline, "")
        elif at_home:
            then = ""
        else:
            then = self._isolated()
        first = self._tier(isolation.admin, then)
        return Shared(first, dict(self._reached(first))) if first else _FREE

    def _reached(self, chain: str) -> Iterator[tuple[str, tuple[Rule, ...]]]:
        """The chain, and those that it leads to; one may come twice."""
        yield chain, self._chains[chain]
        for rule in self._chains[chain]:
            if isinstance(rule.target, Goto):
                yield from self._reached(rule.target.chain)

    def _only_reports(self) -> bool:
        return all_audited(self._isolation.policies, self._audited)

    def _isolated(self) -> str:
        """The chain of the policies that isolate; where these only report, with the rules of the Baseline tier."""
        isolation, rules = self._isolation, list[Rule]()
        if isolation.grants:
            for policy in isolation.policies:
                if policy.quarantined:
                    continue  # it has no rules anyway; should it ever have, they are not to be trusted
                rules += self._rules.of(policy, self._direction, self._ports, self._family)
        everything = next((rule for rule in rules if not rule.matches), None)
        if everything is not None:
            rules = [everything]
        elif self._only_reports():
            behind = self._rules_of(isolation.baseline, "")
            rules += let_through(self._direction, isolation.policies, self._group, behind)
        else:
            # not those that grant nothing anyway: it may be the name that the tool refuses (daemon/quarantine.py)
            keys = " ".join(policy.key for policy in isolation.policies if not policy.quarantined)
            rules += self._dropping(f"no rule allows: {keys or 'quarantined'}")
        return self._chain(rules)

    def _tier(self, policies: Iterable[ClusterPolicy], then: str) -> str:
        """The chain of a tier; `then`: what comes after it, which is the answer where the tier has no rules."""
        rules = self._rules_of(policies, then)
        return self._chain(rules) if rules else then

    def _rules_of(self, policies: Iterable[ClusterPolicy], then: str) -> list[Rule]:
        """The rules of a tier, which say what becomes of everything; none where the tier has none."""
        rules: list[Rule] = []
        for policy in policies:
            rules += self._of(policy, then)
        last = next((number for number, rule in enumerate(rules) if not rule.matches and _ends(rule)), None)
        if last is not None:
            return rules[: last + 1]
        end = Rule((), Goto(then)) if then else Rule((), "RETURN", "no tier denies it")
        return [*rules, end] if rules else []

    def _of(self, policy: ClusterPolicy, then: str) -> Iterable[Rule]:
        sure = self._isolation.grants and policy.key not in self._isolation.denying and not policy.quarantined
        onwards: Target = Goto(then) if then else "RETURN"
        deny: Target | None = None
        if policy.key not in self._audited:
            deny = Goto(self._denied())
        elif self._group:
            deny = reported(self._direction, self._group)
        targets = Targets("RETURN" if sure else None, deny, onwards if sure else None)
        ports = self._ports if self._isolation.grants else None
        rules = self._rules.of(policy, self._direction, ports, self._family, targets)
        return rules if policy.key not in self._audited else map(_first_packets, rules)

    def _denied(self) -> str:
        return self._chain(self._dropping("denied by a rule of a tier"))

    def _dropping(self, comment: str) -> list[Rule]:
        log = [Rule((), Log(self._group, f"netpold drop {self._direction}"))] if self._group else []
        return [*log, *dropped(self._family, self._direction, comment[:COMMENT_LIMIT])]

    def _chain(self, rules: list[Rule]) -> str:
        content = "\n".join(text(rule, self._family) for rule in rules)
        name = f"NP-RULES-{short_hash(content)}"
        self._chains[name] = tuple(rules)
        return name


def _ends(rule: Rule) -> bool:
    return not isinstance(rule.target, Log)


def _first_packets(rule: Rule) -> Rule:
    """What is only reported, is so once for each flow."""
    is_denied = rule.origin is not None and rule.origin.action is Action.DENY
    return replace(rule, matches=(*rule.matches, Unknown())) if is_denied else rule
