"""Pods that a peer selects, as a value: what sets of addresses are made from."""

from __future__ import annotations

from dataclasses import dataclass

from netpold.policy.model import EVERYTHING, PodPeer, Policy, Selector
from netpold.policy.selector import describe


@dataclass(frozen=True, slots=True, order=True)
class PodGroup:
    """Pods that one peer selects, told apart by meaning: `namespace` is the policy's own where the peer names none;
    otherwise it is '' and `namespaces` selects by label."""

    namespace: str
    namespaces: Selector
    pods: Selector

    @staticmethod
    def of(peer: PodPeer, policy: Policy) -> PodGroup:
        if peer.namespaces is None:
            return PodGroup(policy.namespace, EVERYTHING, peer.pods)
        return PodGroup("", peer.namespaces, peer.pods)

    def __str__(self) -> str:
        where = f"namespace {self.namespace}" if self.namespace else f"namespaces {describe(self.namespaces)}"
        return f"pods {describe(self.pods)} in {where}"


EVERY_POD = PodGroup("", EVERYTHING, EVERYTHING)
