"""A made-up cluster of any size, as manifests: the same for the same numbers.

Namespaces of a hundred pods, five applications in each with three tiers; policies of the kinds that people write, in
turn: deny all, one application to another, the tiers of an application, a namespace by label, blocks of addresses with
exceptions, egress to DNS and to a database.  Pods of the node that is measured are spread over all namespaces.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PODS_PER_NAMESPACE = 100
_APPS = ("shop", "search", "cart", "mail", "login")
_TIERS = ("web", "api", "db")
_PORTS = {"web": 80, "api": 8080, "db": 5432}


@dataclass(frozen=True)
class Size:
    """How many of each; `local` of the pods are on the node that is measured.

    `full`: pods are as long as the API server shows them, not only what netpold reads of them.
    """

    pods: int
    policies: int
    local: int
    full: bool = False
    node: str = "bench"

    @property
    def namespaces(self) -> int:
        return -(-self.pods // PODS_PER_NAMESPACE)


def address(number: int) -> str:
    """The IPv4 address of the pod of that number."""
    return str(ipaddress.ip_address("10.64.0.2") + number)


def address6(number: int) -> str:
    """Its IPv6 address."""
    return str(ipaddress.ip_address("fd64::2") + number)


def local_numbers(size: Size) -> list[int]:
    """The numbers of the pods on the node that is measured."""
    return [index * size.pods // size.local for index in range(size.local)]


def manifests(size: Size) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """For each namespace its name and objects: the Namespace, its pods, its policies."""
    chance = random.Random(1)
    local = set(local_numbers(size))
    for number in range(size.namespaces):
        name = f"team-{number:04}"
        labels = {"team": str(number % 10), "stage": ("prod", "test")[number % 2]}
        yield (
            name,
            [
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
                *(
                    _pod(name, each, size.node if each in local else f"node-{each % 90}", size.full)
                    for each in range(number * PODS_PER_NAMESPACE, min((number + 1) * PODS_PER_NAMESPACE, size.pods))
                ),
                *(
                    _policy(name, each // size.namespaces, chance)
                    for each in range(number, size.policies, size.namespaces)
                ),
            ],
        )


def _pod(namespace: str, number: int, node: str, full: bool) -> dict[str, Any]:
    app, tier = _APPS[number % len(_APPS)], _TIERS[number // len(_APPS) % len(_TIERS)]
    labels = {"app": app, "tier": tier, "version": f"v{number % 3}", "pod-template-hash": f"h{number // 10:x}"}
    port = {"name": "main", "containerPort": _PORTS[tier], "protocol": "TCP"}
    own = [{"ip": address(number)}, {"ip": address6(number)}]
    container = {"name": tier, "image": f"registry.example/{app}:1.0", "ports": [port]}
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": f"{app}-{tier}-{number}", "labels": labels},
        "spec": {"nodeName": node, "containers": [container]},
        "status": {"phase": "Running", "podIP": own[0]["ip"], "podIPs": own},
    }
    if full:
        _fill(pod, container, number)
    return pod


def _fill(pod: dict[str, Any], container: dict[str, Any], number: int) -> None:
    """What `kubectl get pods -o yaml` shows of a common pod, beside what netpold reads."""
    uid, when = f"0e6b1c2a-9d55-4f0e-8a57-{number:012}", "2026-01-31T08:15:30Z"
    owner = {"apiVersion": "apps/v1", "blockOwnerDeletion": True, "controller": True, "kind": "ReplicaSet", "uid": uid}
    pod["metadata"] |= {
        "annotations": {"kubectl.kubernetes.io/restartedAt": when, "prometheus.io/scrape": "true"},
        "creationTimestamp": when,
        "generateName": pod["metadata"]["name"].rpartition("-")[0] + "-",
        "ownerReferences": [owner | {"name": pod["metadata"]["name"]}],
        "resourceVersion": str(100_000 + number),
        "uid": uid,
    }
    probe = {
        "failureThreshold": 3,
        "httpGet": {"path": "/healthz", "port": "main", "scheme": "HTTP"},
        "periodSeconds": 10,
    }
    mount = {"mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "name": "kube-api-access", "readOnly": True}
    container |= {
        "env": [{"name": f"SETTING_{index}", "value": f"value of setting {index}"} for index in range(8)],
        "imagePullPolicy": "IfNotPresent",
        "livenessProbe": probe,
        "readinessProbe": probe,
        "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "50m", "memory": "128Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [mount],
    }
    root = {"key": "ca.crt", "path": "ca.crt"}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"items": [root], "name": "kube-root-ca.crt"}},
        {"downwardAPI": {"items": [{"fieldRef": {"fieldPath": "metadata.namespace"}, "path": "namespace"}]}},
    ]
    pod["spec"] |= {
        "dnsPolicy": "ClusterFirst",
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
        "priority": 0,
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "serviceAccount": "default",
        "serviceAccountName": "default",
        "terminationGracePeriodSeconds": 30,
        "tolerations": [
            {"effect": "NoExecute", "key": f"node.kubernetes.io/{what}", "operator": "Exists", "tolerationSeconds": 300}
            for what in ("not-ready", "unreachable")
        ],
        "volumes": [{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": sources}}],
    }
    pod["status"] |= {
        "conditions": [
            {"lastProbeTime": None, "lastTransitionTime": when, "status": "True", "type": kind}
            for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
        ],
        "containerStatuses": [
            {
                "containerID": f"containerd://{number:064x}",
                "image": container["image"],
                "imageID": f"registry.example/image@sha256:{number:064x}",
                "lastState": {},
                "name": container["name"],
                "ready": True,
                "restartCount": 0,
                "started": True,
                "state": {"running": {"startedAt": when}},
            }
        ],
        "hostIP": "192.0.2.10",
        "hostIPs": [{"ip": "192.0.2.10"}],
        "qosClass": "Burstable",
        "startTime": when,
    }


def _policy(namespace: str, number: int, chance: random.Random) -> dict[str, Any]:
    app, other = chance.sample(_APPS, 2)
    spec = (_deny_all, _from_application, _tiers, _from_stage, _from_blocks, _egress)[number % 6](app, other, chance)
    metadata = {"namespace": namespace, "name": f"policy-{number}"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def _labels(**labels: str) -> dict[str, Any]:
    return {"matchLabels": labels}


def _deny_all(app: str, other: str, chance: random.Random) -> dict[str, Any]:
    return {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def _from_application(app: str, other: str, chance: random.Random) -> dict[str, Any]:
    rule = {"from": [{"podSelector": _labels(app=other)}], "ports": [{"port": "main"}]}
    return {"podSelector": _labels(app=app), "ingress": [rule]}


def _tiers(app: str, other: str, chance: random.Random) -> dict[str, Any]:
    rule = {"from": [{"podSelector": _labels(app=app, tier="api")}], "ports": [{"port": 5432}]}
    return {"podSelector": _labels(app=app, tier="db"), "policyTypes": ["Ingress"], "ingress": [rule]}


def _from_stage(app: str, other: str, chance: random.Random) -> dict[str, Any]:
    team = {"key": "team", "operator": "In", "values": [str(each) for each in chance.sample(range(10), 3)]}
    peer = {"namespaceSelector": {"matchExpressions": [team]}, "podSelector": _labels(app=other, tier="web")}
    return {"podSelector": _labels(app=app), "ingress": [{"from": [peer], "ports": [{"port": 80}, {"port": 8080}]}]}


def _from_blocks(app: str, other: str, chance: random.Random) -> dict[str, Any]:
    first = chance.randrange(1, 256)
    block = {"cidr": f"10.{first}.0.0/16", "except": [f"10.{first}.{chance.randrange(256)}.0/24"]}
    six = {"cidr": f"2001:db8:{first:x}::/48"}
    return {"podSelector": _labels(app=app, tier="web"), "ingress": [{"from": [{"ipBlock": block}, {"ipBlock": six}]}]}


def _egress(app: str, other: str, chance: random.Random) -> dict[str, Any]:
    dns = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}
    database = {"to": [{"podSelector": _labels(app=other, tier="db")}], "ports": [{"port": "main"}]}
    return {"podSelector": _labels(app=app), "policyTypes": ["Egress"], "egress": [dns, database]}
