"""Cases written as a story: pods x/a, x/b, ..., what is applied, labelled and deleted, and the reachability after each.

The reachability is stated as Kubernetes' end-to-end tests state it: all is allowed, then each line overrides what it
matches, in order; a pod always reaches itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.cases import Case, Ends, Probe, Step, ends_of, probes_of_pairs
from tests.objects import Object, to_yaml

NUMBERS = {"x": 1, "y": 2, "z": 3, "a": 11, "b": 12, "c": 13, "d": 14}
PORTS = (80, 81)
PROTOCOLS = ("TCP", "UDP", "SCTP")


def cases(file: Path) -> list[Case]:
    """The stories in a file, each a case named after the file and the story."""
    return [story(f"{file.stem}-{written['case']}", written) for written in yaml.safe_load(file.read_text())]


def story(name: str, written: Mapping[str, Any]) -> Case:
    """One story: `says`, `pods` and `steps`."""
    keys = written["pods"].split()
    objects: dict[tuple[str, str], Object] = {}
    for space in sorted({key.split("/")[0] for key in keys}):
        objects["Namespace", space] = namespace_object(space, {"ns": space})
    for key in keys:
        objects["Pod", key] = pod_object(key, {"pod": key.split("/")[1]})
    steps = []
    for number, step in enumerate(written["steps"], 1):
        for policy in step.get("apply", ()):
            objects["NetworkPolicy", f"{policy['namespace']}/{policy['name']}"] = policy_object(**policy)
        for key in step.get("delete", ()):
            del objects["NetworkPolicy", key]
        for key, labels in step.get("label", {}).items():
            objects["Pod" if "/" in key else "Namespace", key]["metadata"]["labels"] = labels
        steps.append(make_step(str(number), objects.values(), reachability(ends_of(objects.values()), step["expect"])))
    return Case(name, written["says"], tuple(steps))


def make_step(name: str, objects: Iterable[Object], probes: Iterable[Probe]) -> Step:
    """A step whose files are one for each kind."""
    files: dict[str, list[Object]] = {}
    for written in objects:
        files.setdefault(f"{written['kind'].lower()}.yaml", []).append(written)
    return Step(name, {file: to_yaml(group) for file, group in files.items()}, tuple(probes))


def reachability(ends: Ends, expect: Mapping[str, list[Mapping[str, str]]]) -> Iterable[Probe]:
    """The probes for each port: what the last line that matches a pair says, else allowed."""
    for port, lines in expect.items():
        verdicts: dict[tuple[str, str], bool] = {}
        for line in lines:
            [(arrow, verdict)] = line.items()
            source, destination = arrow.split(" -> ")
            pairs = [(one, other) for one in ends for other in ends if meant(source, one) and meant(destination, other)]
            if not pairs:
                raise ValueError(f"{arrow}: no such pods")
            verdicts.update(dict.fromkeys(pairs, {"allow": True, "deny": False}[verdict]))
        yield from probes_of_pairs(ends, [port], verdicts)


def meant(pattern: str, pod: str) -> bool:
    """Whether a pattern means a pod: `any`, `namespace/*` or the pod itself."""
    return pattern in ("any", pod, f"{pod.split('/')[0]}/*")


# The objects of a story -----------------------------------------------------------------------------------------------


def namespace_object(name: str, labels: Mapping[str, str]) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}}


def pod_object(key: str, labels: Mapping[str, str]) -> Object:
    """A pod on 10.72.N.M and fd72:N::M that serves 80 and 81 of each protocol by name."""
    namespace, name = key.split("/")
    place, host = NUMBERS[namespace], NUMBERS[name]
    addresses = [f"10.72.{place}.{host}", f"fd72:{place}::{host}"]
    ports = [
        {"name": f"serve-{port}-{protocol.lower()}", "containerPort": port, "protocol": protocol}
        for port in PORTS
        for protocol in PROTOCOLS
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": dict(labels)},
        "spec": {"containers": [{"name": "server", "image": "registry.example/server", "ports": ports}]},
        "status": {
            "phase": "Running",
            "podIP": addresses[0],
            "podIPs": [{"ip": address} for address in addresses],
        },
    }


def policy_object(name: str, namespace: str, spec: Object) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }
