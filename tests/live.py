"""A world that changes in place, as the daemon's does."""

from __future__ import annotations

from netpold.policy.changes import Changes, difference
from netpold.policy.manifest import Object
from netpold.policy.model import World, policy_kind


class Live:
    def __init__(self, world: World) -> None:
        self._pods, self._namespaces, self._policies = dict(world.pods), dict(world.namespaces), dict(world.policies)
        self._nodes = dict(world.nodes)
        self.world = World(self._pods, self._namespaces, self._policies, self._nodes)

    def become(self, world: World) -> Changes:
        changes = difference(self.world, world)
        for mine in (self._pods, self._namespaces, self._policies, self._nodes):
            mine.clear()
        self._pods.update(world.pods)
        self._namespaces.update(world.namespaces)
        self._policies.update(world.policies)
        self._nodes.update(world.nodes)
        return changes


class Kept:
    """A world as it was in force before a restart."""

    def __init__(self, world: World) -> None:
        self._objects: dict[tuple[str, str], Object] = {
            (kind, key): each
            for kind, table in (
                ("Pod", world.pods),
                ("Namespace", world.namespaces),
                ("Node", world.nodes),
            )
            for key, each in table.items()
        }
        for key, policy in world.policies.items():
            self._objects[policy_kind(key), key] = policy

    def version(self, kind: str, key: str) -> Object | None:
        return self._objects.get((kind, key))

    def names(self) -> list[tuple[str, str]]:
        return list(self._objects)
