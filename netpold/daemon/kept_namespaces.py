"""What is held of namespaces whose objects are gone while pods of theirs are not, on whatever node.

A cluster has no pod without its namespace, so that files that say so are late or early: while any pod of it that takes
part has a manifest, a namespace keeps the labels that it had.  Policies of the cluster are about its pods by these, and
what they deny to such pods stays denied; nobody is granted anything by them (policy/index.py).  It ends when the object
is there again, or the last of the pods is gone.

Only what the manifests say is held: an object that was tried alone goes with the trial.  Over a restart all that they
said is known, so that an object that goes while the daemon does not run is one that goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from netpold.policy.changes import Changes
from netpold.policy.model import ClusterPolicy, Namespace, World

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
        self._matter = any(isinstance(each, ClusterPolicy) for each in world.policies.values())

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
        return [
            f"the Namespace object{'' if one else 's'} {said} {'is' if one else 'are'} gone and pods of "
            f"{'it' if one else 'theirs'} are not: policies of the cluster go by the labels that "
            f"{'it' if one else 'they'} had; put {'it' if one else 'them'} back, or take the pods away"
        ]


def _inhabited(names: Set[str], world: World) -> set[str]:
    return {pod.namespace for pod in world.pods.values() if pod.namespace in names and pod.takes_part}
