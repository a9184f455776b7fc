"""Audit mode: policies that say what they would drop, and let it through.

A policy is audited when its annotation netpold.io/mode says so; where it has none, its namespace's, else the settings.
One that is quarantined never is: what it says is not known.

What an audited NetworkPolicy grants counts as ever.  What it isolates, it isolates in name only: where all that
isolate a pod in a direction are audited, what none of them allows is let through, and reported.  Where one of them is
enforced, that one isolates, and the grants of all add up as ever.  So what is dropped with a policy in audit mode is
dropped both when it is enforced and when it is not there.

Of an audited ClusterNetworkPolicy Accept and Pass count as ever; what its Deny rules match is reported, and asked about
the rules behind them.  No namespace says its mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from netpold.policy.changes import Changes
from netpold.policy.model import Action, AnyPolicy, Direction, Mode, Policy, World
from netpold.rules.ruleset import COMMENT_LIMIT, Log, Rule, Unknown

_LET_THROUGH = "audited, no rule allows: "
PREFIX = "netpold audit "  # of NFLOG; the direction follows


def is_audited(policy: AnyPolicy, world: World, default: Mode) -> bool:
    """Whether the policy is in audit mode; `default`: that of the settings."""
    if policy.quarantined:
        return False
    other = inherited(policy.namespace, world, default) if isinstance(policy, Policy) else default
    return (policy.mode or other) == "audit"


def inherited(namespace: str, world: World, default: Mode) -> Mode:
    """The mode of a NetworkPolicy of that namespace that has none of its own."""
    return world.namespace(namespace).mode or default


def all_audited(policies: Iterable[AnyPolicy], audited: Set[str]) -> bool:
    """Whether none of these policies is enforced; `audited`: the keys of those that are not."""
    return all(policy.key in audited for policy in policies)


def let_through(
    direction: Direction, policies: Iterable[Policy], nflog_group: int, behind: Sequence[Rule] = ()
) -> list[Rule]:
    """Lets everything pass that no rule before allows, and has the first packet of each flow reported.  `behind`: the
    rules that are asked about it next."""
    comment = f"{_LET_THROUGH}{' '.join(policy.key for policy in policies)}"[:COMMENT_LIMIT]
    log = [Rule((Unknown(),), reported(direction, nflog_group), comment if behind else "")] if nflog_group else []
    return [*log, *(behind or [Rule((), "RETURN", comment)])]


def reported(direction: Direction, nflog_group: int) -> Log:
    """The target that reports what is let through."""
    return Log(nflog_group, f"{PREFIX}{direction}")


def lets_through(rule: Rule | None) -> bool:
    """Whether it is a rule that lets pass what enforced policies would drop."""
    if rule is None:
        return False
    if isinstance(rule.target, Log) and rule.origin is not None:
        return rule.origin.action is Action.DENY
    return rule.comment.startswith(_LET_THROUGH)


def modes_changed(changes: Changes) -> set[str]:
    """The names of the namespaces that say another mode now."""
    found = set()
    for name, (before, after) in changes.namespaces.items():
        if (before and before.mode) != (after and after.mode):
            found.add(name)
    return found


class Audited:
    """`keys`: of the audited policies of a world; `namespaces`: those that say so of their policies.  Kept current."""

    def __init__(self, world: World, default: Mode) -> None:
        self._world = world
        self._default = default
        self._undecided: dict[str, set[str]] = {}  # by namespace, the policies without a mode of their own
        self.keys: set[str] = set()
        self.namespaces: set[str] = set()
        self.update(
            Changes(
                policies={key: (None, policy) for key, policy in world.policies.items()},
                namespaces={key: (None, namespace) for key, namespace in world.namespaces.items()},
            )
        )

    def update(self, changes: Changes) -> None:
        """Take in what changed in the world."""
        look_at: dict[str, AnyPolicy | None] = {key: now for key, (_, now) in changes.policies.items()}
        for key, (before, now) in changes.policies.items():
            if isinstance(before, Policy):
                self._undecided.get(before.namespace, set()).discard(key)
            if isinstance(now, Policy) and now.mode is None:
                self._undecided.setdefault(now.namespace, set()).add(key)
        for name in modes_changed(changes):
            look_at.update({key: self._world.policies[key] for key in self._undecided.get(name, ())})
            if self._world.namespace(name).mode == "audit":
                self.namespaces.add(name)
            else:
                self.namespaces.discard(name)
        for key, policy in look_at.items():
            if policy is not None and is_audited(policy, self._world, self._default):
                self.keys.add(key)
            else:
                self.keys.discard(key)
