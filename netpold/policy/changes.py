"""What became of a world's objects: the one shape in which a change goes from the files to the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from netpold.policy.model import AnyPolicy, Namespace, Node, Pod, World

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Changes:
    """By key, each object before and after; None where there was or is none.

    Objects that only stand at another place in their file now are among them: positions tell people where to look.
    """

    pods: Mapping[str, tuple[Pod | None, Pod | None]] = field(default_factory=dict)
    namespaces: Mapping[str, tuple[Namespace | None, Namespace | None]] = field(default_factory=dict)
    policies: Mapping[str, tuple[AnyPolicy | None, AnyPolicy | None]] = field(default_factory=dict)
    nodes: Mapping[str, tuple[Node | None, Node | None]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pods or self.namespaces or self.policies or self.nodes)


def then(first: Changes, second: Changes) -> Changes:
    """Both, one after the other."""
    if not first or not second:
        return first or second
    return Changes(
        _then(first.pods, second.pods),
        _then(first.namespaces, second.namespaces),
        _then(first.policies, second.policies),
        _then(first.nodes, second.nodes),
    )


def _then(first: Mapping[str, tuple[_T, _T]], second: Mapping[str, tuple[_T, _T]]) -> Mapping[str, tuple[_T, _T]]:
    return {**first, **{key: (first.get(key, pair)[0], pair[1]) for key, pair in second.items()}}


def difference(old: World, new: World) -> Changes:
    """What leads from one world to another."""
    return Changes(
        _difference(old.pods, new.pods),
        _difference(old.namespaces, new.namespaces),
        _difference(old.policies, new.policies),
        _difference(old.nodes, new.nodes),
    )


def _difference(old: Mapping[str, _T], new: Mapping[str, _T]) -> dict[str, tuple[_T | None, _T | None]]:
    changed: dict[str, tuple[_T | None, _T | None]] = {
        key: (old.get(key), each) for key, each in new.items() if old.get(key) is not each
    }
    changed.update((key, (each, None)) for key, each in old.items() if key not in new)
    return changed
