"""A world that changes in place, as the daemon's does."""

from __future__ import annotations

from netpold.policy.changes import Changes, difference
from netpold.policy.manifest import Object
from netpold.policy.model import World


class Live:
    def __init__(self, world: World) -> None:
        self._pods, self._namespaces, self._policies = dict(world.pods), dict(world.namespaces), dict(world.policies)
        self.world = World(self._pods, self._namespaces, self._policies)

    def become(self, world: World) -> Changes:
        changes = difference(self.world, world)
        for mine in (self._pods, self._namespaces, self._policies):
            mine.clear()
        self._pods.update(world.pods)
        self._namespaces.update(world.namespaces)
        self._policies.update(world.policies)
        return changes


class Kept:
    """A world as it was in force before a restart."""

    def __init__(self, world: World) -> None:
        self._objects: dict[tuple[str, str], Object] = {
            (kind, key): each
            for kind, table in (
                ("Pod", world.pods),
                ("Namespace", world.namespaces),
                ("NetworkPolicy", world.policies),
            )
            for key, each in table.items()
        }

    def version(self, kind: str, key: str) -> Object | None:
        return self._objects.get((kind, key))

    def names(self) -> list[tuple[str, str]]:
        return list(self._objects)
