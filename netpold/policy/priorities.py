"""Policies of the cluster that stand in one tier with one priority: which of them comes first, the API leaves open."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from netpold.policy.changes import Changes
from netpold.policy.model import AnyPolicy, ClusterPolicy, Finding, Position, Tier, policy_title

_NOWHERE = Position("", 0)


class Priorities:
    """Who has which priority, as of the last `update`."""

    def __init__(self) -> None:
        self._policies: dict[tuple[Tier, int], dict[str, ClusterPolicy]] = defaultdict(dict)

    def update(self, changes: Changes) -> None:
        """Take in what became of the policies."""
        for key, (before, after) in changes.policies.items():
            for place in _places(before):
                self._policies[place].pop(key, None)
            for place in _places(after):
                self._policies[place][key] = after  # type: ignore[assignment]

    def findings(self) -> Iterator[Finding]:
        """A warning about each but the first that has a priority."""
        for (tier, priority), policies in sorted(self._policies.items()):
            if len(policies) > 1:
                first, *others = sorted(policies)
                where = policies[first].position or _NOWHERE
                for key in others:
                    told_by = "name" if policies[first].kind == policies[key].kind else "kind"
                    fault = (
                        f"{policy_title(first)} ({where}) has the priority {priority} in the tier {tier}, too; it "
                        f"comes before this one, as its {told_by} does"
                    )
                    cure = "give each a priority of its own"
                    place = policies[key].position or _NOWHERE
                    yield Finding(place, "equal-priority", "spec.priority", fault, cure, policy_title(key), "warning")


def _places(policy: AnyPolicy | None) -> list[tuple[Tier, int]]:
    """Where it stands; what could not be read may stand elsewhere, and is told of as it is."""
    if not isinstance(policy, ClusterPolicy) or policy.quarantined:
        return []
    return [(policy.tier, policy.priority)]
