"""The changes that `latency` makes, and the small world that they happen in, beside the made-up cluster.

Namespace `probe` has three pods on the measured node: `server`, isolated, which every flow but two goes to; `free`,
which no policy isolates at first; `late`, which a policy waits for.
Their peers are pods of other nodes: some in `probe`; a hundred in `crowd`; a hundred in `bundle`, whose objects are one
file whatever the layout.  One host outside plays the peers: it sends from any address.

A change is what one manifest says before and after it, and a flow whose verdict flips between the two.  It is made
forth and back, again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.manifests import Layout, text
from tests.lab import Node, Pod, namespace_manifest

Manifest = dict[str, Any]
MANY = 100  # pods in `crowd` and in `bundle`
_RED, _ADDED = "192.0.2.10", "192.0.2.11"
ELSEWHERE = "192.0.2.1"


@dataclass(frozen=True)
class Change:
    """`forth` and `back` name the two ways: the object `key` from `before` to `after` (None: there is none), and back.

    `opens`: the way forth lets the datagrams from `source` to the receiver's port through; the way back stops them.
    """

    forth: str
    back: str
    key: str
    before: Manifest | None
    after: Manifest | None
    opens: bool
    source: str
    receiver: Pod
    port: int


class World:
    """The manifests beside the cluster's, as files below `directory`; new versions are drafted in `drafts`.

    `drafts` is on the same file system and not watched.
    """

    def __init__(self, directory: Path, drafts: Path, layout: Layout) -> None:
        self._directory, self._drafts, self._layout = directory, drafts, layout
        self._objects: dict[str, Manifest | None] = {}

    @property
    def pods(self) -> int:
        return self._count("Pod")

    @property
    def policies(self) -> int:
        return self._count("NetworkPolicy")

    def put(self, manifests: Mapping[str, Manifest | None]) -> None:
        """Change the files at once."""
        for key, manifest in manifests.items():
            replace(*self.draft(key, manifest))

    def draft(self, key: str, manifest: Manifest | None) -> tuple[Path | None, Path]:
        """Change or remove an object: gives the new version of its file (None: the file goes) and the file's place."""
        self._objects[key] = manifest
        path = self._path(key)
        objects = [each for other, each in self._objects.items() if each is not None and self._path(other) == path]
        if not objects:
            return None, path
        draft = self._drafts / "next.yaml"
        draft.write_text(text(objects))
        path.parent.mkdir(exist_ok=True)
        return draft, path

    def _count(self, kind: str) -> int:
        return sum(each is not None and each["kind"] == kind for each in self._objects.values())

    def _path(self, key: str) -> Path:
        namespace, kind, name = key.split("/")
        whole = self._layout == "namespace" or namespace == "bundle"
        return self._directory / namespace / ("all.yaml" if whole else f"{kind}-{name}.yaml")


def replace(draft: Path | None, path: Path) -> None:
    """Rename the draft into place; without one, remove what is there."""
    if draft:
        draft.rename(path)
    else:
        path.unlink()


def keyed(*manifests: Manifest) -> dict[str, Manifest | None]:
    """Manifests by their keys."""
    return {_key(each): each for each in manifests}


def standing(server: Pod, free: Pod) -> dict[str, Manifest | None]:
    """The manifests that no change touches."""
    return keyed(
        namespace_manifest("probe", {"own": "yes"}),
        namespace_manifest("bundle", {"bundled": "yes"}),
        *(_remote("crowd", f"member-{number}", f"198.51.100.{number}") for number in range(1, MANY + 1)),
        *(_remote("bundle", f"member-{number}", f"203.0.113.{number}") for number in range(1, MANY)),
        server.manifest(),
        free.manifest(),
        _policy("deny-server", "server"),
        _policy("deny-late", "late"),
        _policy("from-added", "server", {"from": [_pods(role="added")], "ports": _ports(7001)}),
        _policy("from-red", "server", {"from": [_pods(role="red")], "ports": _ports(7002)}),
        _policy("from-blue", "server", {"from": [_pods(role="blue")], "ports": _ports(7102)}),
        _policy("from-bundle", "server", {"from": [_namespaces(bundled="yes")], "ports": _ports(7003)}),
        _policy("from-audience", "server", {"from": [_namespaces(audience="yes")], "ports": _ports(7007)}),
    )


def changes(server: Pod, free: Pod, late: Pod) -> list[Change]:
    """Every change that is measured, in the order of the table."""
    last = f"203.0.113.{MANY}"
    added, bundled = _remote("probe", "added", _ADDED, role="added"), _remote("bundle", f"member-{MANY}", last)
    red, blue = (_remote("probe", "moving", _RED, role=role) for role in ("red", "blue"))
    policy, first = _policy("opened", "server", {"ports": _ports(7004)}), _policy("first", "free")
    closed, opened = (_policy("ports", "server", {"ports": _ports(port)}) for port in (7105, 7005))
    alone, heard = (namespace_manifest("crowd", labels) for labels in ({}, {"audience": "yes"}))
    member = "198.51.100.1"
    # not removed: it would keep its policies, for its interface stays
    nobody = late.manifest() | {"metadata": {**late.manifest()["metadata"], "labels": {"app": "nobody"}}}

    def change(
        names: tuple[str, str], states: tuple[Manifest | None, Manifest], opens: bool, source: str, to: Pod, port: int
    ) -> Change:
        before, after = states
        return Change(*names, _key(after), before, after, opens, source, to, port)

    return [
        change(("pod added", "pod removed"), (None, added), True, _ADDED, server, 7001),
        change(("pod added to a file of 100", "pod removed from it"), (None, bundled), True, last, server, 7003),
        change(("pod relabelled", "pod relabelled"), (red, blue), True, _RED, server, 7102),
        change(("local pod labelled", "its label changed"), (nobody, late.manifest()), False, ELSEWHERE, late, 7008),
        change(("policy added", "policy removed"), (None, policy), True, ELSEWHERE, server, 7004),
        change(("policy's ports changed", "policy's ports changed"), (closed, opened), True, ELSEWHERE, server, 7005),
        change(("first policy on a pod", "last policy off a pod"), (None, first), False, ELSEWHERE, free, 7006),
        change(("namespace of 100 labelled", "its label removed"), (alone, heard), True, member, server, 7007),
    ]


def wired(node: Node) -> tuple[Pod, Pod, Pod]:
    """Server, free and late, wired to their node."""
    server, free, late = (node.routed_pod("probe", name, labels={"app": name}) for name in ("server", "free", "late"))
    return server, free, late


def _key(manifest: Manifest) -> str:
    metadata, kind = manifest["metadata"], manifest["kind"].lower()
    return f"{metadata.get('namespace', metadata['name'])}/{kind}/{metadata['name']}"


def _remote(namespace: str, name: str, address: str, **labels: str) -> Manifest:
    six = f"fd01::{address.replace('.', ':')}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": "elsewhere", "containers": [{"name": "main", "image": "lab"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}, {"ip": six}]},
    }


def _policy(name: str, app: str, *ingress: Manifest) -> Manifest:
    spec = {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"], "ingress": list(ingress)}
    metadata = {"namespace": "probe", "name": name}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def _pods(**labels: str) -> Manifest:
    return {"podSelector": {"matchLabels": labels}}


def _namespaces(**labels: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": labels}}


def _ports(number: int) -> list[Manifest]:
    return [{"port": number, "protocol": "UDP"}]
