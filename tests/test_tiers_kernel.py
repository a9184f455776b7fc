"""Mixtures of all three tiers by real packets, on two nodes, to pods, nodes and hosts outside; and `matrix` agrees.

What is expected is what the oracle over plain manifests says (tests/tiers/oracle.py).  A mixture that fails can be made
again by its number.  `-m slow` takes many.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from tests.lab import BACKENDS, Backend, Host, Lab, Outside, Pod, Probe
from tests.lab.daemon import Daemon
from tests.lab.host import family_of
from tests.tiers.mixtures import PORTS, Object, Place, mixture
from tests.tiers.oracle import Cluster, Question

pytestmark = pytest.mark.kernel

DEFAULT = (11, 12)  # mixtures of the default run, other ones on each backend
MANY = 40
OTHER_NODE = ("192.0.2.1", "2001:db8::1")  # of a node that only has a Node object


def numbers() -> Iterator[object]:
    for place, backend in enumerate(BACKENDS):
        for number in DEFAULT:
            yield pytest.param(backend, number + 10 * place, id=f"{backend}-{number + 10 * place}")
        for number in range(1000, 1000 + MANY):
            yield pytest.param(backend, number, id=f"{backend}-{number}", marks=pytest.mark.slow)


JUDGED = 'host_access = "policy"\nhost_to_pods = "policy"\naccept = true\n'  # what is free, or goes on, by default


class Ground:
    """Two nodes with pods of both wirings, a host outside, and a daemon on each node.  `config`: '' or JUDGED."""

    def __init__(self, backend: Backend, config: str = "") -> None:
        self.lab = Lab()
        self.config = config
        try:
            near, far = self.nodes = [self.lab.node("near"), self.lab.node("far")]
            self.lab.connect(near, far)
            self.pods: list[Pod] = []
            for number in range(4):
                make = near.routed_pod if number % 2 else near.bridged_pod
                self.pods.append(make("lab", f"near{number}"))
            self.pods += [far.routed_pod("lab", "far0"), far.bridged_pod("lab", "far1")]
            self.outside: Outside = self.lab.outside(near, (*OTHER_NODE, "203.0.113.9", "2001:db8:9::9"))
            settings = near.site.directory / "netpold.toml"
            settings.write_text(config)
            self.daemons = [Daemon(node, backend, args=["--config", str(settings)]) for node in self.nodes]
            for daemon in self.daemons:
                daemon.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.lab.close()

    def objects(self, number: int) -> list[Object]:
        places = [Place(pod.node.name, pod.addresses) for pod in self.pods]
        nodes = {node.name: node.addresses for node in self.nodes}
        return mixture(number, places, {**nodes, "away": OTHER_NODE}, self.networks(), steady=True)

    def networks(self) -> list[str]:
        """Everything, all pods, half of them, one pod, one node, hosts outside, in each family."""
        pod, node = self.pods[1], self.nodes[1]
        near = (str(ip_network("10.72.0.0/20")), str(ip_network("fd72::/60")))
        single = [f"{address}/{32 if '.' in address else 128}" for address in (*pod.addresses, *node.addresses)]
        return ["0.0.0.0/0", "::/0", "10.72.0.0/16", "fd72::/16", *near, *single, "203.0.113.0/24", "2001:db8:9::/48"]

    def enforce(self, objects: list[Object]) -> None:
        for daemon in self.daemons:
            daemon.write("all.yaml", *objects)
        for daemon in self.daemons:
            daemon.wait(30)
            status = daemon.status()
            assert not status["policies"]["rejected"], status
        for node in self.nodes:
            node.flush_conntrack()

    def probes(self) -> Iterator[Probe]:
        """From pods to pods, nodes and the host outside, and from these to pods."""
        pods: list[tuple[Host, str]] = [(pod, address) for pod in self.pods for address in pod.addresses]
        others: list[tuple[Host, str]] = [(node, address) for node in self.nodes for address in node.addresses]
        others += [(self.outside, address) for address in self.outside.addresses]
        pairs = [*itertools.product(pods, (*pods, *others)), *itertools.product(others, pods)]
        for (source, own), (_, address) in pairs:
            if family_of(own) == family_of(address):
                yield from self._each(source, own, address)

    def _each(self, source: Host, own: str, address: str) -> Iterator[Probe]:
        for protocol, port in PORTS:
            yield Probe(source, address, protocol, port, family_of(own), source_address=own)

    def expected(self, cluster: Cluster, probe: Probe) -> bool:
        """What both ends' nodes say.  A node reaches its own pods whatever the policies say, but for other settings."""
        source, address = probe.source_address or "", probe.address
        asked = Question(source, address, str(probe.protocol), probe.port or None)
        home = {own: pod.node for pod in self.pods for own in pod.addresses}
        if self.config:
            return cluster.allows(asked)
        from_own_node = address in home and source in home[address].addresses
        sends = cluster.side(asked, "egress", source in home and address in home[source].addresses).allowed
        return sends and (from_own_node or cluster.side(asked, "ingress").allowed)


Key = tuple[Backend, str]


@pytest.fixture(scope="module")
def grounds() -> Iterator[dict[Key, Ground]]:
    """At most one, for the next test that needs the same."""
    found: dict[Key, Ground] = {}
    yield found
    for ground in found.values():
        ground.close()


@pytest.mark.parametrize(("backend", "number"), numbers())
def test_mixtures(backend: Backend, number: int, grounds: dict[Key, Ground]) -> None:
    ground = ground_of((backend, ""), grounds)
    cluster = wrong_of(ground, number)
    assert matrix_differences(ground.daemons[0], cluster, ground.objects(number)) == []


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", range(2000, 2010))
def test_mixtures_where_the_nodes_own_packets_are_judged_too(
    backend: Backend, number: int, grounds: dict[Key, Ground]
) -> None:
    wrong_of(ground_of((backend, JUDGED), grounds), number)


def ground_of(key: Key, grounds: dict[Key, Ground]) -> Ground:
    if key not in grounds:
        for other in list(grounds):
            grounds.pop(other).close()
        grounds[key] = Ground(*key)
    return grounds[key]


def wrong_of(ground: Ground, number: int) -> Cluster:
    """Fails where packets fare otherwise than the oracle says."""
    objects = ground.objects(number)
    ground.enforce(objects)
    cluster = Cluster.of(objects)
    expected = {probe: ground.expected(cluster, probe) for probe in ground.probes()}
    wrong = ground.lab.differences(expected)
    if wrong:
        said = "\n".join(f"{daemon.ctl('verify').stdout}{daemon.errors()[-3000:]}" for daemon in ground.daemons)
        pytest.fail(f"mixture {number}: {len(wrong)} of {len(expected)}\n" + "\n".join([*wrong[:100], said]))
    return cluster


def matrix_differences(daemon: Daemon, cluster: Cluster, objects: list[Object]) -> list[str]:
    """Where `netpoldctl matrix` of the same manifests says otherwise, as if all pods were on one node."""
    ports = ",".join(f"{port}/{protocol}" if port else protocol for protocol, port in PORTS)
    outside = "203.0.113.9,2001:db8:9::9"
    words = ["--manifests", str(daemon.manifests), "matrix", "-o", "json", "--ports", ports, "--addresses", outside]
    done = daemon.ctl(*words)
    assert done.returncode == 0, done.stderr
    addresses = {
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": [each["ip"] for each in pod["status"]["podIPs"]]
        for pod in objects
        if pod["kind"] == "Pod" and not pod["spec"].get("hostNetwork")
    }
    wrong, seen = [], 0
    for row in json.loads(done.stdout)["rows"]:
        for family, verdict in row["families"].items():
            ends = [
                next(own for own in addresses.get(row[end], [row[end]]) if family_of(own) == int(family[-1]))
                for end in ("source", "destination")
            ]
            seen += 1
            asked = Question(*ends, row["protocol"], row["port"])
            if cluster.allows(asked) != (verdict == "allow"):
                wrong.append(f"{row['source']} -> {row['destination']} {asked}: matrix says {verdict}")
    assert seen > len(addresses) ** 2 * len(PORTS)
    return wrong[:20]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", (3000, 3010, 3020))
def test_open_connections_end_where_the_next_mixture_denies_them(
    backend: Backend, number: int, grounds: dict[Key, Ground]
) -> None:
    ground = ground_of((backend, ""), grounds)
    ended = 0
    for step in range(number, number + 6):
        before, after = (Cluster.of(ground.objects(each)) for each in (step, step + 1))
        ground.enforce(ground.objects(step))
        flows = {}
        for source, destination in itertools.permutations(ground.pods, 2):
            for family in (4, 6):
                asked = Question(source.address(family), destination.address(family), "TCP", 80)
                if before.allows(asked):
                    flows[asked] = ground.lab.flow(source, destination, port=80, family=family, interval=0.05)
        for daemon in ground.daemons:
            daemon.write("all.yaml", *ground.objects(step + 1))
        for daemon in ground.daemons:
            daemon.wait(30)
        still = [str(asked) for asked, flow in flows.items() if not after.allows(asked) and flow.stopped() is None]
        assert not still, f"{step}: still open: {still}"
        cut = [str(asked) for asked, flow in flows.items() if after.allows(asked) and not flow.moving()]
        assert not cut, f"{step}: cut: {cut}"
        ended += sum(not after.allows(asked) for asked in flows)
        ground.lab.close_flows()
    assert ended > 20
