"""The chains of policy rules, which pods share that have the same policies, each made once.

A chain is named by what it says.  Of the NetworkPolicies that isolate a pod each rule allows, and behind them is what
becomes of everything else: it is dropped, or where all of the policies are audited it is let through (audit.py); in
both cases it is logged right before.

Tiers are chains of their own, each leading to what comes after it:

    Admin rules:     Accept returns, Deny goes to the chain that drops, Pass goes to what comes after the tier
      then           the chain of the NetworkPolicies, if any isolates the pod: the same one as without tiers
      or else        Baseline rules: Accept and Pass return, Deny goes to the chain that drops

What no rule of the tiers says anything of is allowed.  A pod that no ClusterNetworkPolicy is about has none of this.

The Admin rules stand once for each chain that can come after them, and for each set of policies that pods have.
Several Deny rules of a policy in a row say the same whatever comes, so they are a chain that is jumped to, which all
share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from netpold.policy.isolation import Isolation
from netpold.policy.model import Action, ClusterPolicy, ContainerPort, Direction, Family
from netpold.rules.audit import all_audited, let_through, reported
from netpold.rules.count import dropped
from netpold.rules.local import Local
from netpold.rules.peers import PolicyRules
from netpold.rules.render import text
from netpold.rules.ruleset import COMMENT_LIMIT, Goto, Jump, Log, Rule, Target, Unknown, short_hash


class Shared(NamedTuple):
    """The chain that judges, and all chains that it leads to, itself included."""

    name: str
    chains: Mapping[str, tuple[Rule, ...]]


class TierRules(NamedTuple):
    """What a tier says, whatever comes after it: Pass is a RETURN.  `is_all`: of everything.  `chains`: those that the
    rules lead to."""

    rules: tuple[Rule, ...]
    is_all: bool
    chains: Mapping[str, tuple[Rule, ...]]


_FREE = Shared("", {})  # nothing is judged: what comes here returns
_ALLOWED = Rule((), "RETURN", "no tier denies it")
_WORTH_A_CHAIN = 3  # rules: a jump and back cost a packet as much as two of them


class SharedRules:
    """Those of one family, as long as policies and sets are the same.  `nflog_group`: 0 for none."""

    def __init__(self, family: Family, nflog_group: int, rules: PolicyRules) -> None:
        self._family = family
        self._nflog_group = nflog_group
        self._policy_rules = rules
        self._made: dict[object, Shared] = {}  # by what they are made from
        self._tiers: dict[object, TierRules] = {}
        self._denied: dict[Direction, tuple[str, tuple[Rule, ...]]] = {}

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

    def tier(self, making: _Making, policies: tuple[ClusterPolicy, ...], gather: bool) -> TierRules:
        """What `making` says of a tier, once for all that say the same."""
        key = *making.inputs, tuple(policy.key for policy in policies), gather
        if key not in self._tiers:
            self._tiers[key] = making.anew().of_tier(policies, gather)
        return self._tiers[key]

    def denied(self, making: _Making) -> tuple[str, tuple[Rule, ...]]:
        """The chain that drops what a tier denies, and its rules."""
        if making.direction not in self._denied:
            self._denied[making.direction] = making.denying()
        return self._denied[making.direction]

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
        self._shared = shared
        self._rules = shared.policy_rules
        self._group = shared.nflog_group
        self._ports = ports
        self._isolation = isolation
        self.direction = direction
        self._audited = audited
        self._family = family
        self._chains: dict[str, tuple[Rule, ...]] = {}
        named = ports if direction is Direction.INGRESS else ()
        self.inputs = direction, isolation.grants, isolation.denying, named, audited

    def anew(self) -> _Making:
        """The same, with no chains so far."""
        other = copy(self)
        other._chains = {}
        return other

    def made(self, at_home: bool) -> Shared:
        """The first chain, and all of them."""
        isolation = self._isolation
        if not isolation.policies:
            then = self._baseline()
        elif at_home:
            then = ""
        else:
            then = self._isolated()
        first = self._admin(then)
        return Shared(first, dict(self._reached(first))) if first else _FREE

    def _reached(self, chain: str) -> Iterator[tuple[str, tuple[Rule, ...]]]:
        """The chain, and those that it leads to; one may come twice."""
        yield chain, self._chains[chain]
        for rule in self._chains[chain]:
            if isinstance(rule.target, Goto | Jump):
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
                rules += self._rules.of(policy, self.direction, self._ports, self._family)
        everything = next((rule for rule in rules if not rule.matches), None)
        if everything is not None:
            rules = [everything]
        elif self._only_reports():
            behind = self._rules_of(isolation.baseline, "", gather=False)
            rules += let_through(self.direction, isolation.policies, self._group, behind)
        else:
            # not those that grant nothing anyway: it may be the name that the tool refuses (daemon/quarantine.py)
            keys = " ".join(policy.key for policy in isolation.policies if not policy.quarantined)
            rules += self._dropping(f"no rule allows: {keys or 'quarantined'}")
        return self._chain(rules)

    def _admin(self, then: str) -> str:
        """The chain of the Admin tier; `then`: what comes after it, which is the answer where the tier has no rules."""
        rules = self._rules_of(self._isolation.admin, then, gather=True)
        return self._chain(rules) if rules else then

    def _baseline(self) -> str:
        """The chain of the Baseline tier; '' for none.  It may come behind Admin, so it leads nowhere but to what
        drops: nf_tables has a limit (dispatch.py)."""
        rules = self._rules_of(self._isolation.baseline, "", gather=False)
        return self._chain(rules) if rules else ""

    def _rules_of(self, policies: tuple[ClusterPolicy, ...], then: str, *, gather: bool) -> list[Rule]:
        """The rules of a tier, which say what becomes of everything; none where the tier has none."""
        found = self._shared.tier(self, policies, gather)
        self._chains.update(found.chains)
        onwards: Target = Goto(then) if then else "RETURN"
        rules = [replace(rule, target=onwards) if action_of(rule) is Action.PASS else rule for rule in found.rules]
        if not rules or found.is_all:
            return rules
        return [*rules, Rule((), Goto(then)) if then else _ALLOWED]

    def of_tier(self, policies: tuple[ClusterPolicy, ...], gather: bool) -> TierRules:
        """What a tier says, whatever comes after it.  `gather`: Deny rules in a row go into a chain of their own."""
        rules: list[Rule] = []
        for policy in policies:
            rules += self._of(policy)
        last = next((number for number, rule in enumerate(rules) if not rule.matches and _ends(rule)), None)
        kept = rules if last is None else rules[: last + 1]
        return TierRules(tuple(self._gathered(kept) if gather else kept), last is not None, self._chains)

    def _gathered(self, rules: list[Rule]) -> Iterator[Rule]:
        for (target, _), row in groupby(rules, key=lambda rule: (rule.target, rule.origin and rule.origin.policy)):
            same = list(row)
            if isinstance(target, Goto) and len(same) >= _WORTH_A_CHAIN:
                yield Rule((), Jump(self._chain(same)))
            else:
                yield from same

    def _of(self, policy: ClusterPolicy) -> Iterator[Rule]:
        """The rules of a policy; Pass is a RETURN here."""
        sure = self._isolation.grants and policy.key not in self._isolation.denying and not policy.quarantined
        ports = self._ports if self._isolation.grants else None
        for rule in self._rules.of(policy, self.direction, ports, self._family):
            if action_of(rule) is not Action.DENY:
                if sure:
                    yield rule
            elif policy.key not in self._audited:
                yield replace(rule, target=Goto(self._denied()))
            elif self._group:  # what is only reported, is so once for each flow
                target = reported(self.direction, self._group)
                yield replace(rule, target=target, matches=(*rule.matches, Unknown()))

    def _denied(self) -> str:
        name, rules = self._shared.denied(self)
        self._chains[name] = rules
        return name

    def denying(self) -> tuple[str, tuple[Rule, ...]]:
        """The chain that drops what a tier denies."""
        name = self._chain(self._dropping("denied by a rule of a tier"))
        return name, self._chains[name]

    def _dropping(self, comment: str) -> list[Rule]:
        log = [Rule((), Log(self._group, f"netpold drop {self.direction}"))] if self._group else []
        return [*log, *dropped(self._family, self.direction, comment[:COMMENT_LIMIT])]

    def _chain(self, rules: list[Rule]) -> str:
        content = "\n".join(text(rule, self._family) for rule in rules)
        name = f"NP-RULES-{short_hash(content)}"
        self._chains[name] = tuple(rules)
        return name


def _ends(rule: Rule) -> bool:
    return not isinstance(rule.target, Log)


def action_of(rule: Rule) -> Action | None:
    """What the policy rule does that it was made from; None: it was made from none."""
    return rule.origin.action if rule.origin else None
