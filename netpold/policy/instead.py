"""Policies that are tried: in force instead of those that the manifests say, for a while.

Between what the files say and what is to be in force.  Pods and nodes are always those of the manifests: where they
are is no matter of opinion, and a pod that comes meanwhile is isolated by what is tried.  Policies are those that are
tried alone; of namespaces those that are tried stand for the written ones of the same name.  As soon as the files say
something else of a policy or a namespace, the trial is over: what is written counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from netpold.policy.changes import Changes, difference
from netpold.policy.model import AnyPolicy, Namespace, World

_T = TypeVar("_T", bound=Namespace | AnyPolicy)


class Instead:
    """`world`: what is to be in force, always the same object.  `tried`: the world whose policies and namespaces are in
    it; None: those that are written."""

    def __init__(self, written: World) -> None:
        self._written = written
        self._namespaces = dict(written.namespaces)
        self._policies = dict(written.policies)
        self.tried: World | None = None
        self.world = World(written.pods, self._namespaces, self._policies, written.nodes)

    def update(self, changes: Changes) -> Changes:
        """What the changes of what is written mean to what is to be in force."""
        if self.tried is None:
            _apply(self._namespaces, changes.namespaces)
            _apply(self._policies, changes.policies)
            return changes
        if not _says_something_else(changes):
            return Changes(pods=changes.pods, nodes=changes.nodes)
        ended = self.put(None)
        return Changes(changes.pods, ended.namespaces, ended.policies, changes.nodes)

    def put(self, tried: World | None) -> Changes:
        """Try these from now on, or no more; what that changes."""
        self.tried = tried
        namespaces, policies = self._written.namespaces, self._written.policies
        if tried is not None:
            namespaces, policies = {**namespaces, **tried.namespaces}, tried.policies
        before = World({}, self._namespaces, self._policies)
        changes = difference(before, World({}, namespaces, policies))
        _apply(self._namespaces, changes.namespaces)
        _apply(self._policies, changes.policies)
        return changes


def _says_something_else(changes: Changes) -> bool:
    """Whether any policy or namespace is another one, and not only at another place in its file."""
    pairs: tuple[tuple[object, object], ...] = (*changes.policies.values(), *changes.namespaces.values())
    return any(before != now for before, now in pairs)


def _apply(table: dict[str, _T], changes: Mapping[str, tuple[_T | None, _T | None]]) -> None:
    for key, (_, now) in changes.items():
        if now is None:
            table.pop(key, None)
        else:
            table[key] = now
