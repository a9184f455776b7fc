"""Which node has an address, as Node objects say; else, as pods on their nodes' networks do: they have no other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Set

from netpold.policy.model import Node, Pod


class NodesAt:
    """Kept up to date by what changes."""

    def __init__(self) -> None:
        self._objects: dict[str, set[str]] = {}  # by address, the keys of Node objects
        self._pods = defaultdict[str, Counter[str]](Counter)  # by address, how many pods say which node

    def node_changed(self, key: str, old: Node | None, new: Node | None) -> None:
        for address in old.addresses if old else ():
            self._objects[address].discard(key)
            if not self._objects[address]:
                del self._objects[address]
        for address in new.addresses if new else ():
            self._objects.setdefault(address, set()).add(key)

    def pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        for address, node in _said(old):
            self._pods[address][node] -= 1
            self._pods[address] += Counter()  # without those of none
            if not self._pods[address]:
                del self._pods[address]
        for address, node in _said(new):
            self._pods[address][node] += 1

    def keys(self, address: str) -> Set[str]:
        """The keys of the Node objects that have the address."""
        return self._objects.get(address, frozenset())

    def name(self, address: str) -> str:
        """The first node that has the address, '' for none."""
        return min(self.keys(address) or self._pods.get(address, Counter()).keys(), default="")


def _said(pod: Pod | None) -> Iterator[tuple[str, str]]:
    """The addresses of a node that a pod tells, with the node's name."""
    if pod is not None and pod.host_network and not pod.finished and pod.node:
        yield from ((address, pod.node) for address in pod.addresses)
