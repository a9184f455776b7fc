"""What is to be known of this node's pods after a restart of the daemon, should their manifests be gone by then.

One line of JSON, for the snapshot: the pods with their interfaces, the policies that isolate them, and what lingers
already; and all namespaces, whose objects may go while the daemon does not run.  Interfaces are told by their indexes,
which a reboot gives to others, and so does the restart of a node that is a container itself, in another network
namespace: then nothing of it holds but what namespaces were.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from netpold.policy.canonical import read_back, written
from netpold.policy.model import AnyPolicy, ClusterPolicy, Namespace, Pod, Policy, Position, World

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SO_NETNS_COOKIE = 71  # since Linux 5.14; another one for each network namespace, until the next boot
_NOWHERE = Position("", 1)


@dataclass(frozen=True, slots=True)
class Left:
    """A pod that has left interfaces behind, or would if its manifest went: `links` are their indexes by name.
    `namespace`: its own, as it was then.  `closed`: its address is another's."""

    pod: Pod
    namespace: Namespace
    addresses: tuple[str, ...]
    links: Mapping[str, int]
    closed: bool = False

    @property
    def name(self) -> str:
        return f"{self.pod.key}@{next(iter(self.links))}"


@dataclass(frozen=True, slots=True)
class Remains:
    """`policies`: those that isolate any of the pods.  `ending`: see Past.  `namespaces`: see KeptNamespaces."""

    pods: tuple[Left, ...] = ()
    policies: tuple[AnyPolicy, ...] = ()
    ending: frozenset[str] = frozenset()
    namespaces: tuple[Namespace, ...] = ()


NO_REMAINS = Remains()


def remains_line(remains: Remains) -> str:
    """As one line of text, which begins with a brace."""
    return json.dumps(
        {
            "boot": _boot(),
            "network": _network(),
            "pods": [
                {
                    "addresses": each.addresses,
                    "links": dict(each.links),
                    "closed": each.closed,
                    "namespace": _packed(each.namespace),
                    **_packed(each.pod),
                }
                for each in remains.pods
            ],
            "policies": [_packed(each) for each in remains.policies],
            "ending": sorted(remains.ending),
            "namespaces": [_packed(each) for each in remains.namespaces],
        }
    )


def read_remains(line: str) -> Remains:
    """What a line says; of another boot only the namespaces, and nothing where it can't be read."""
    try:
        found = json.loads(line)
        is_here = found["boot"] == _boot() and found["network"] == _network()
        spaces = [_unpacked(each) for each in found.get("namespaces", ())]  # older releases did not keep them
        namespaces = tuple(each for each in spaces if isinstance(each, Namespace))
        if not is_here:
            return Remains(namespaces=namespaces)
        policies = [_unpacked(each) for each in found["policies"]]
        pods = [(_unpacked(each), each) for each in found["pods"]]
        return Remains(
            tuple(
                Left(pod, _namespace(pod, each), tuple(each["addresses"]), dict(each["links"]), each["closed"])
                for pod, each in pods
                if isinstance(pod, Pod) and each["links"]
            ),
            tuple(each for each in policies if isinstance(each, Policy | ClusterPolicy)),
            frozenset(found["ending"]),
            namespaces,
        )
    except (ValueError, KeyError, TypeError):
        return NO_REMAINS


def _packed(each: Pod | Namespace | AnyPolicy) -> dict[str, Any]:
    place = each.position or _NOWHERE
    where = [place.file, place.line, place.column]
    return {"manifest": written(each), "position": where, "quarantined": each.quarantined}


def _unpacked(packed: dict[str, Any]) -> object:
    return read_back(packed["manifest"].encode(), Position(*packed["position"]), packed["quarantined"])


def _namespace(pod: Pod, packed: dict[str, Any]) -> Namespace:
    """The pod's; releases before there were policies of the cluster did not keep it."""
    found = _unpacked(packed["namespace"]) if "namespace" in packed else None
    return found if isinstance(found, Namespace) else World().namespace(pod.namespace)


def _boot() -> str:
    return _BOOT_ID.read_text().strip()


@cache
def _network() -> str:
    """The network namespace that this process is in; '' where the kernel does not tell."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        return any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8).hex()
    return ""
