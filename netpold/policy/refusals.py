"""Policies that are right as they are written, and that the kernel of this node refuses all the same.

Between what the files say and who asks what is in force: for a refused policy that is the version that was in force
before, where there is one and it was not refused itself; else its closed version, which isolates what the policy
selects in its directions and grants nothing.  It counts until the policy is another one, or is released.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from netpold.policy.changes import Changes
from netpold.policy.model import Action, AnyPolicy, ClusterPolicy, TierRule, World


class Refusals:
    """`world`: what is to be in force, always the same object.  `refused`: by key, the policies as they are written."""

    def __init__(self, written: World, recall: Callable[[str], AnyPolicy | None] = lambda key: None) -> None:
        """`recall`: the version of a policy (by key) that was in force before a restart, until all is in force."""
        self._written = written
        self._recall = recall
        self._policies = dict(written.policies)
        self._before: dict[str, AnyPolicy | None] = {}  # of those that changed since all was in force
        self.refused: dict[str, AnyPolicy] = {}
        self.world = World(written.pods, written.namespaces, self._policies, written.nodes)

    def update(self, changes: Changes) -> Changes:
        """What the changes of what is written mean to what is to be in force."""
        if not changes.policies:
            return changes
        policies: dict[str, tuple[AnyPolicy | None, AnyPolicy | None]] = {}
        for key, (_, now) in changes.policies.items():
            if key in self.refused:
                if now == self.refused[key]:
                    self.refused[key] = now  # it stands at another place now
                    continue
                del self.refused[key]
            policies[key] = self._put(key, now)
        return replace(changes, policies=policies)

    def refuse(self, key: str) -> Changes:
        """The kernel does not take what is to be in force as this policy."""
        now = self._policies[key]
        if key not in self.refused:
            self.refused[key] = now
            before = self._before.get(key) or self._recall(key)
            instead = before if before is not None and before != now and not before.quarantined else closed(now)
        else:
            instead = closed(self.refused[key])
        return Changes(policies={key: self._put(key, instead)})

    def release(self, key: str) -> Changes:
        """The kernel takes it again."""
        del self.refused[key]
        return Changes(policies={key: self._put(key, self._written.policies[key])})

    def in_force(self) -> None:
        """All that is to be in force is."""
        self._before.clear()

    def _put(self, key: str, now: AnyPolicy | None) -> tuple[AnyPolicy | None, AnyPolicy | None]:
        before = self._policies.get(key)
        self._before.setdefault(key, before)
        if now is None:
            self._policies.pop(key, None)
        else:
            self._policies[key] = now
        return before, now

    @property
    def closed(self) -> Mapping[str, AnyPolicy]:
        """Of the refused ones, those of which the closed version counts."""
        return {key: policy for key, policy in self.refused.items() if self._policies[key].quarantined}


def closed(policy: AnyPolicy) -> AnyPolicy:
    """What isolates as the policy does, and grants nothing; or, of one of the cluster, what denies all where the policy
    denies anything."""
    if isinstance(policy, ClusterPolicy):
        return replace(policy, ingress=_denial(policy.ingress), egress=_denial(policy.egress), quarantined=True)
    return replace(
        policy,
        ingress=None if policy.ingress is None else (),
        egress=None if policy.egress is None else (),
        quarantined=True,
    )


def _denial(rules: tuple[TierRule, ...]) -> tuple[TierRule, ...]:
    """Nothing of what they say: any of it may be what the kernel refuses."""
    first = next((rule for rule in rules if rule.action is Action.DENY), None)
    return (TierRule(Action.DENY, None, None, position=first.position),) if first else ()
