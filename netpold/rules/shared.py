"""The chains of policy rules, which pods share that have the same policies, each made once.

A chain is named by what it says.  Each of its rules allows, and behind them is what becomes of everything else: it is
dropped, or where all of the policies are audited it is let through (audit.py); in both cases it is logged right before.
"""

from __future__ import annotations

from netpold.policy.index import Isolation
from netpold.policy.model import ContainerPort, Direction, Family
from netpold.rules.audit import all_audited, let_through
from netpold.rules.count import dropped
from netpold.rules.local import Local
from netpold.rules.peers import PolicyRules
from netpold.rules.render import text
from netpold.rules.ruleset import COMMENT_LIMIT, Log, Rule, short_hash


class SharedRules:
    """Those of one family, as long as policies and sets are the same.  `nflog_group`: 0 for none."""

    def __init__(self, family: Family, nflog_group: int, rules: PolicyRules) -> None:
        self._family = family
        self._nflog_group = nflog_group
        self._policy_rules = rules
        self._made: dict[object, tuple[str, tuple[Rule, ...]]] = {}  # by what they are made from

    def of(self, each: Local, direction: Direction) -> tuple[str, tuple[Rule, ...]]:
        """Name and rules of the chain with the rules of all policies that isolate a pod in a direction."""
        isolation = each.isolation[direction]
        is_audited = all_audited(isolation.policies, each.audited)
        keys = tuple(policy.key for policy in isolation.policies)
        inputs = direction, isolation.grants, each.ports, keys, is_audited
        if inputs not in self._made:
            self._made[inputs] = self._make(each.ports, isolation, direction, is_audited)
        return self._made[inputs]

    def _make(
        self, ports: tuple[ContainerPort, ...], isolation: Isolation, direction: Direction, is_audited: bool
    ) -> tuple[str, tuple[Rule, ...]]:
        rules: list[Rule] = []
        if isolation.grants:
            for policy in isolation.policies:
                if policy.quarantined:
                    continue  # it has no rules anyway; should it ever have, they are not to be trusted
                rules += self._policy_rules.of(policy, direction, ports, self._family)
        everything = next((rule for rule in rules if not rule.matches), None)
        if everything is not None:
            rules = [everything]
        elif is_audited:
            rules += let_through(direction, isolation.policies, self._nflog_group)
        else:
            if self._nflog_group:
                rules = [*rules, Rule((), Log(self._nflog_group, f"netpold drop {direction}"))]
            # not those that grant nothing anyway: it may be the name that the tool refuses (daemon/quarantine.py)
            keys = " ".join(policy.key for policy in isolation.policies if not policy.quarantined)
            rules += dropped(self._family, direction, f"no rule allows: {keys or 'quarantined'}"[:COMMENT_LIMIT])
        content = "\n".join(text(rule, self._family) for rule in rules)
        return f"NP-RULES-{short_hash(content)}", tuple(rules)
