"""What a packet costs: nanoseconds for each new one and for one of an open flow, and the speed of a TCP stream.

    sudo python3 -m tests.bench.packets [--backend nft|legacy] [--pods 1,10,110,500] [--policies 1,10,50]
                                        [--rounds 9] [--bursts 50] [--tcp-rounds 3] [--tcp-s 2] [--quick] [--json]

Many nodes beside each other: one with no rule at all, one with a single rule, and for each number of local pods and of
policies a pod one whose rules the real daemon made (it has ended when the measurement begins: the rules stay).
conntrack is on everywhere, also without rules.  They are measured in turn, round after round, each round in another
order; figures are medians of the rounds.

`isolated`: between two pods of the node that all the policies isolate in both directions; only the last policy allows
the packet, so it passes the rules of all of them, twice.  Where there is one pod only, the other end is a host outside.
`free`: between two pods that no policy isolates, on the same nodes (where these have ten pods or more).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.way import COUNT, Way
from tests.lab import BACKENDS, Backend, Host, Lab, LabError, Node
from tests.lab.daemon import Daemon
from tests.lab.namespace import ip
from tests.lab.pod import Pod
from tests.objects import Object

PATIENCE_S = 40.0
MEASURES = ("new", "open", "tcp")
_PEERS = 10  # pods elsewhere that each of the other policies allows
_FREE_FROM = 10  # nodes with so many pods have two that no policy isolates


@dataclass(frozen=True)
class Variant:
    """A node and the ways through it that are measured, by name."""

    name: str
    ways: Mapping[str, Way]


Figures = Mapping[tuple[str, str], Mapping[str, float]]  # by name of the variant and of the way; by measure


def main() -> int:
    arguments = _arguments()
    with contextlib.ExitStack() as stack:

        def lab() -> Lab:
            return stack.enter_context(Lab())  # one for each node: one alone has room for few

        variants = [_bare(lab(), name, arguments.backend) for name in ("no rules", "one rule")]
        failures = []
        for pods, policies in itertools.product(arguments.pods, arguments.policies):
            try:
                variants.append(_enforced(lab(), pods, policies, arguments.backend))
            except LabError as error:
                failures.append(f"{_name(pods, policies)}: {error}")
        figures = measure(variants, arguments)
        for variant in variants:
            for way in variant.ways.values():
                way.check()
                way.close()
    if arguments.json:
        print(json.dumps([{"node": node, "way": way, **found} for (node, way), found in figures.items()], indent=1))
    else:
        print(f"{arguments.backend}: ns a packet and what it is more than with no rules; Gbit/s of TCP and its share")
        print("\n".join(_table(variants, figures)))
    for failure in failures:
        print(f"not measured: {failure}", file=sys.stderr)
    return 1 if failures else 0


def measure(variants: Sequence[Variant], arguments: Any) -> Figures:
    """Medians of ns a packet (`new`, `open`) and Gbit/s (`tcp`)."""
    taken: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    ways = [(variant.name, name, way) for variant in variants for name, way in variant.ways.items()]
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(processors)})
    chance = random.Random(1)
    for _ in range(arguments.rounds):
        for node, name, way in chance.sample(ways, len(ways)):
            taken[node, name, "new"].append(way.new_ns(arguments.bursts))
            taken[node, name, "open"].append(way.open_ns(arguments.bursts))
    os.sched_setaffinity(0, processors)
    for _ in range(arguments.tcp_rounds):
        for node, name, way in ways:
            taken[node, name, "tcp"].append(way.tcp_gbit(arguments.tcp_s))
    return {
        (node, name): {each: statistics.median(taken[node, name, each] or [0.0]) for each in MEASURES}
        for node, name, _ in ways
    }


# The nodes ------------------------------------------------------------------------------------------------------------


def _bare(lab: Lab, name: str, backend: Backend) -> Variant:
    """Two pods and no netpold."""
    node = _node(lab)
    source, destination = (node.routed_pod("bench", pod, interface=_interface(pod)) for pod in ("source", "sink"))
    if name == "one rule":
        node.iptables(backend, 4, "-A", "FORWARD", "-m", "conntrack", "--ctdir", "REPLY", "-j", "RETURN")
    way = Way(node, source, destination)
    return Variant(name, {"isolated": way, "free": way})


def _enforced(lab: Lab, pods: int, policies: int, backend: Backend) -> Variant:
    """A node with netpold's rules for so many pods, each isolated by so many policies in both directions.

    Raises LabError when they do not come into force.
    """
    node = _node(lab)
    source = node.routed_pod("bench", "source", labels={"role": "real"}, interface=_interface("source"))
    ends: list[Pod] = [source]
    if pods == 1:
        sink: Host = lab.outside(node)
    else:
        sink = node.routed_pod("bench", "sink", labels={"role": "real"}, interface=_interface("sink"))
        ends.append(sink)
    free = [node.routed_pod("free", each, interface=_interface(each)) for each in ("one", "two") if pods >= _FREE_FROM]
    objects = [pod.manifest() for pod in (*ends, *free)]
    objects += _others(node, pods - len(ends) - len(free))
    objects += [_policy(number, policies, sink.address(4)) for number in range(policies)]
    objects += [
        _pod(f"peer-{number}-{each}", f"10.80.{number}.{each}", "elsewhere", {"peer": str(number)})
        for number in range(policies - 1)
        for each in range(_PEERS)
    ]
    daemon = Daemon(node, backend)
    daemon.write("all.yaml", *objects)
    with daemon:
        daemon.wait(PATIENCE_S)
        status = daemon.status()
        if (status["policies"]["accepted"], status["pods"]["local"]) != (policies, pods):
            raise LabError(f"{status} is not what {pods} pods and {policies} policies should come to")
        daemon.stop()
    ways = {"isolated": Way(node, source, sink)}
    if free:
        ways["free"] = Way(node, *free)
    return Variant(_name(pods, policies), ways)


def _name(pods: int, policies: int) -> str:
    return f"{pods} pods, {policies} policies"


def _node(lab: Lab) -> Node:
    """A node with conntrack on: some rule has to ask for it, here one that no forwarded packet passes."""
    node = lab.node("bench")
    node.iptables("nft", 4, "-t", "raw", "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW")
    return node


def _interface(pod: str) -> str:
    """A name as Calico makes them."""
    return f"cali{random.Random(pod).getrandbits(44):011x}"


def _others(node: Node, count: int) -> list[Object]:
    """Pods that nobody sends to: an interface with a route is all there is of them."""
    lines, objects = [], []
    for number in range(count):
        name, address = f"pod-{number}", f"10.81.{number // 250}.{number % 250 + 1}"
        interface = _interface(name)
        lines += [f"link add {interface} type veth peer name peer{number}", f"link set {interface} up"]
        lines += [f"link set peer{number} up", f"route add {address}/32 dev {interface}"]
        objects.append(_pod(name, address, node.name, {"role": "other"}))
    ip(node.netns, lines)
    return objects


def _pod(name: str, address: str, node: str, labels: Mapping[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "bench", "name": name, "labels": dict(labels)},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    }


def _policy(number: int, count: int, outside: str) -> Object:
    """The last of `count` allows the pods that are measured (and `outside`), the others allow pods elsewhere."""
    peers: list[Object] = [{"podSelector": {"matchLabels": {"peer": str(number)}}}]
    if number == count - 1:
        peers = [{"podSelector": {"matchLabels": {"role": "real"}}}, {"ipBlock": {"cidr": f"{outside}/32"}}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "bench", "name": f"policy-{number:03}"},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": peers}],
            "egress": [{"to": peers}],
        },
    }


# What comes out -------------------------------------------------------------------------------------------------------


def _table(variants: Sequence[Variant], figures: Figures) -> list[str]:
    lines = []
    for way in ("isolated", "free"):
        base = figures[variants[0].name, way]
        lines.append(f"{way:<22} {'new packet':>16} {'open flow':>16} {'TCP':>14}")
        for variant in variants:
            if way in variant.ways:
                found = figures[variant.name, way]
                costs = "".join(f" {found[each]:>8,.0f} {found[each] - base[each]:>+7,.0f}" for each in ("new", "open"))
                share = found["tcp"] / base["tcp"] if base["tcp"] else 0.0
                lines.append(f"{variant.name:<22}{costs} {found['tcp']:>8.1f} {share:>5.2f}")
    return lines


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def _arguments() -> Any:
    parser = argparse.ArgumentParser(prog="packets", description="Measures what a packet costs.")
    parser.add_argument("--backend", choices=BACKENDS, default="nft")
    parser.add_argument("--pods", type=_numbers, default="1,10,110,500", help="numbers of local pods")
    parser.add_argument("--policies", type=_numbers, default="1,10,50", help="numbers of policies a pod")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--bursts", type=int, default=50, help=f"of {COUNT} packets, in each round")
    parser.add_argument("--tcp-rounds", type=int, default=3)
    parser.add_argument("--tcp-s", type=float, default=2.0, help="seconds of each TCP stream")
    parser.add_argument("--quick", action="store_true", help="few and short: 10 and 110 pods, 1 and 10 policies")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.pods, arguments.policies = [10, 110], [1, 10]
        arguments.rounds, arguments.tcp_rounds, arguments.tcp_s = 3, 1, 0.5
    return arguments


if __name__ == "__main__":
    sys.exit(main())
