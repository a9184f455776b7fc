"""What is held of namespaces whose objects are gone while pods of theirs are not, on whatever node.

A cluster has no pod without its namespace, so that files that say so are late or early: while any pod of it that takes
part has a manifest, a namespace keeps the labels that it had.  Policies of the cluster are about its pods by these, and
deny to such pods by these alone.  What grants has to select them by these and without them, too: nobody is granted
anything by labels that are gone, and nothing opens as they go (policy/index.py).  It ends when the object is there
again, or the last of the pods is gone.

Only what the manifests say is held: an object that was tried alone goes with the trial.  Over a restart all that they
said is known, so that an object that goes while the daemon does not run is one that goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from netpold.policy.changes import Changes
from netpold.policy.model import NAME_LABEL, AnyPolicy, ClusterPolicy, Namespace, PodPeer, World

_MOST_NAMED = 3


class KeptNamespaces:
    """`found`: by name, as they were; another object when anything in it changed."""

    def __init__(self, before: Iterable[Namespace] = ()) -> None:
        """`before`: those of which there were objects when the daemon ran last, and those that it kept."""
        self._before = {each.name: each for each in before}
        self._kept: Mapping[str, Namespace] = {}  # with those of which objects are tried
        self.found: Mapping[str, Namespace] = {}
        self._matter = False  # whether any policy goes by their labels

    def update(self, changes: Changes, world: World, written: Mapping[str, Namespace] | None = None) -> None:
        """Take in a change of what is written; `world` is the one in force after it, and `written` are the namespaces
        that are written then (None: these are in force)."""
        objects = world.namespaces if written is None else written
        gone = {name: old for name, (old, new) in changes.namespaces.items() if old is not None and new is None}
        gone, self._before = {**self._before, **gone}, {}
        if not gone and not self._kept:
            return
        bare = World()
        kept = {
            name: space
            for name, space in {**self._kept, **gone}.items()
            if name not in objects and space != bare.namespace(name)
        }
        left = {old.namespace for old, _ in changes.pods.values() if old is not None}
        doubtful = kept.keys() & (gone.keys() | left)
        empty = doubtful - _inhabited(doubtful, world) if doubtful else doubtful
        self._kept = {name: space for name, space in kept.items() if name not in empty}
        now = {name: space for name, space in self._kept.items() if name not in world.namespaces}
        if now != self.found:
            self.found = now
        self._matter = any(map(_goes_by_labels, world.policies.values()))

    def remains(self, written: Mapping[str, Namespace]) -> tuple[Namespace, ...]:
        """What is to be known after a restart; `written`: what the manifests say."""
        return tuple({**self._kept, **written}.values())

    def warnings(self) -> list[str]:
        """What a person should look at, one sentence each."""
        if not self.found or not self._matter:
            return []
        names = sorted(self.found)
        named, more = names[:_MOST_NAMED], len(names) - _MOST_NAMED
        if more > 0:
            named.append(f"{more} more")
        one = len(names) == 1
        said = named[0] if one else f"{', '.join(named[:-1])} and {named[-1]}"
        are, theirs, they, them = ("is", "it", "it", "it") if one else ("are", "theirs", "they", "them")
        return [
            f"the Namespace object{'' if one else 's'} {said} {are} gone and pods of {theirs} are not: what is denied "
            f"goes by the labels that {they} had, and nothing is allowed by these alone; put {them} back, or take the "
            "pods away"
        ]


def _goes_by_labels(policy: AnyPolicy) -> bool:
    """Whether it may ask for labels of namespaces that only an object says."""
    if isinstance(policy, ClusterPolicy):
        return True
    peers = (peer for rules in (policy.ingress, policy.egress) for rule in rules or () for peer in rule.peers or ())
    spaces = (peer.namespaces for peer in peers if isinstance(peer, PodPeer))
    return any(asked.key != NAME_LABEL for each in spaces if each for asked in each.requirements)


def _inhabited(names: Set[str], world: World) -> set[str]:
    return {pod.namespace for pod in world.pods.values() if pod.namespace in names and pod.takes_part}
