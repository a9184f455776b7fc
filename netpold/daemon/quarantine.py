"""What the kernel refuses object by object: kept out of what is to be in force, told, and tried again.

A policy that is refused is replaced (policy/refusals.py); an interface that is refused is not used, so its pods are
enforced by address.  Each is tried again, as the trial that was refused, with growing pauses; and as soon as the
policy is another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from netpold.daemon.isolate import Culprit
from netpold.policy.changes import Changes
from netpold.policy.model import AnyPolicy, ClusterPolicy, Finding, Position, World, policy_title
from netpold.policy.refusals import Refusals
from netpold.rules.endpoint import Endpoint

FIRST_S, LAST_S = 10.0, 240.0  # pauses before an object is tried again
MOST_NAMED = 3  # objects in one sentence

_NOWHERE = Position("", 0)


@dataclass(slots=True)
class _Held:
    culprit: Culprit
    due: float  # time.monotonic()
    pause: float = FIRST_S


class Quarantine:
    """`world`: what is to be in force.  `interfaces`: those that are not to be used.  For the loop alone."""

    def __init__(self, written: World, recall: Callable[[str], AnyPolicy | None] = lambda key: None) -> None:
        """`recall`: see Refusals."""
        self._refusals = Refusals(written, recall)
        self._held: dict[tuple[str, str], _Held] = {}  # by policy and interface, one of which is empty
        self.world = self._refusals.world
        self.interfaces: frozenset[str] = frozenset()

    def update(self, changes: Changes) -> Changes:
        """What the changes of what is written mean to what is to be in force."""
        found = self._refusals.update(changes)
        for key in changes.policies:
            if key not in self._refusals.refused:
                self._held.pop((key, ""), None)
        return found

    def refuse(self, culprits: Iterable[Culprit]) -> Changes | None:
        """Keep these out; what that changes.  None where they are out already."""
        culprits = [each for each in culprits if not self._is_out(each)]
        if not culprits:
            return None
        policies: dict[str, tuple[AnyPolicy | None, AnyPolicy | None]] = {}
        for each in culprits:
            name = each.policy, each.interface
            if each.policy and each.policy not in policies:
                policies.update(self._refusals.refuse(each.policy).policies)
            if name not in self._held:
                self._held[name] = _Held(each, time.monotonic() + FIRST_S)
        self._take_down()
        return Changes(policies=policies)

    def _is_out(self, culprit: Culprit) -> bool:
        if culprit.policy:
            return culprit.policy in self._refusals.closed or culprit.policy not in self.world.policies
        return culprit.interface in self.interfaces

    def try_again(self, is_refused: Callable[[Culprit], bool]) -> Changes | None:
        """Ask for each that is due whether it still is; what it changes that some are not, None where all are."""
        released: dict[str, tuple[AnyPolicy | None, AnyPolicy | None]] = {}
        any_released = False
        for name, held in list(self._held.items()):
            if held.due > time.monotonic():
                continue
            if is_refused(held.culprit):
                held.pause = min(held.pause * 2, LAST_S)
                held.due = time.monotonic() + held.pause
                continue
            any_released = True
            del self._held[name]
            if held.culprit.policy:
                released.update(self._refusals.release(held.culprit.policy).policies)
        self._take_down()
        return Changes(policies=released) if any_released else None

    def in_force(self) -> None:
        """All that is to be in force is."""
        self._refusals.in_force()

    @property
    def due(self) -> float | None:
        """When (time.monotonic()) to try something again."""
        return min((held.due for held in self._held.values()), default=None)

    def placed(self, endpoints: Mapping[str, Endpoint]) -> Mapping[str, Endpoint]:
        """The same endpoints without the interfaces that are not to be used."""
        return {key: self._without(each) for key, each in endpoints.items()} if self.interfaces else endpoints

    def _without(self, endpoint: Endpoint) -> Endpoint:
        left = tuple(each for each in endpoint.interfaces if each.name not in self.interfaces)
        return endpoint if len(left) == len(endpoint.interfaces) else replace(endpoint, interfaces=left)

    def _take_down(self) -> None:
        self.interfaces = frozenset(interface for _, interface in self._held if interface)

    # What people are told -----------------------------------------------------------------------------------------

    @property
    def refused(self) -> frozenset[str]:
        """The keys of the policies that are not in force as they are written."""
        return frozenset(self._refusals.refused)

    @property
    def closed(self) -> int:
        """Of these, those that grant nothing."""
        return len(self._refusals.closed)

    @property
    def error(self) -> str | None:
        """In one sentence, what is not enforced as it is written; None: everything is."""
        if not self._held:
            return None
        names = [self._name(held.culprit) for held in self._held.values()]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        said = next(iter(self._held.values())).culprit.said
        return f"the kernel refuses {', '.join(names[:MOST_NAMED])}{more}; everything else is in force: {said}"

    def findings(self, endpoints: Mapping[str, Endpoint]) -> Iterator[Finding]:
        """One for each object that is refused; `endpoints`: with all interfaces."""
        for held in self._held.values():
            culprit = held.culprit
            if culprit.policy:
                yield self._policy_finding(culprit)
            else:
                yield from self._interface_findings(culprit, endpoints)

    def _policy_finding(self, culprit: Culprit) -> Finding:
        key = culprit.policy
        policy = self._refusals.refused[key]
        where, path = policy.position or _NOWHERE, ""
        origin = culprit.suspect.rule.origin if culprit.suspect else None
        rules = policy.rules(origin.direction) if origin else None
        if origin and rules and origin.index < len(rules):
            path = f"spec.{origin.direction}[{origin.index}]"
            where = rules[origin.index].position or where
        instead = "its last good version is in force"
        if key in self._refusals.closed:
            instead = "the pods that it selects are isolated, and it grants nothing"
            if isinstance(policy, ClusterPolicy):
                instead = "it grants nothing, and denies all in each direction in which it denies anything"
        fault = f"the kernel of this node refuses it ({culprit.said}); {instead}"
        cure = "write it another way, or mend what refuses it on the node (dmesg, lsmod); it is tried again by itself"
        return Finding(where, "refused-by-kernel", path, fault, cure, policy_title(key))

    def _interface_findings(self, culprit: Culprit, endpoints: Mapping[str, Endpoint]) -> Iterator[Finding]:
        for key, endpoint in endpoints.items():
            if culprit.interface in (each.name for each in endpoint.interfaces):
                pod = self.world.pods.get(key)
                where = (pod.position if pod else None) or _NOWHERE
                fault = (
                    f"the kernel refuses rules for its interface {culprit.interface} ({culprit.said}); it is enforced "
                    "by its address, without the check of what it sends"
                )
                cure = "mend what refuses it on the node (dmesg, lsmod); it is tried again by itself"
                yield Finding(where, "interface-refused-by-kernel", "", fault, cure, f"Pod {key}", "warning")

    def _name(self, culprit: Culprit) -> str:
        if not culprit.policy:
            return f"the interface {culprit.interface}"
        policy = self._refusals.refused[culprit.policy]
        return f"{policy_title(culprit.policy)} ({policy.position or _NOWHERE})"
