"""The laboratory itself, proved with iptables rules put in by hand: what it says a packet did, the packet did."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import BACKENDS, Backend, Host, Lab, LabError, Node, Outcome, Pod, Probe, every, wire
from tests.lab.daemon import Daemon
from tests.lab.namespace import owner, pids_in

pytestmark = pytest.mark.kernel

SERVICES: list[tuple[str | int, int]] = [("TCP", 80), ("UDP", 53), ("SCTP", 99), ("ICMP", 0), (253, 0)]
KINDS = ("routed", "bridged", "cni-bridge", "cni-ptp")
QUICK = 0.15


def pod_of(node: Node, kind: str, name: str) -> Pod:
    if kind.startswith("cni-"):
        return node.cni_pod("default", name, "ptp" if kind == "cni-ptp" else "bridge")
    return node.routed_pod("default", name) if kind == "routed" else node.bridged_pod("default", name)


def match(probe: Probe, reply: bool = False) -> list[str]:
    """iptables' words for a probe's request, or for its reply."""
    source, destination = probe.source.address(probe.family), probe.address
    ends = ["-s", destination, "-d", source] if reply else ["-s", source, "-d", destination]
    if probe.protocol == "ICMP" and probe.family == 4:
        return [*ends, "-p", "icmp", "--icmp-type", "echo-reply" if reply else "echo-request"]
    if probe.protocol == "ICMP":
        return [*ends, "-p", "ipv6-icmp", "--icmpv6-type", "echo-reply" if reply else "echo-request"]
    if isinstance(probe.protocol, int):
        return [*ends, "-p", str(probe.protocol)]
    return [*ends, "-p", probe.protocol.lower(), "--sport" if reply else "--dport", str(probe.port)]


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Node, dict[str, tuple[Pod, Pod]], Lab]]:
    """A node with two pods of each kind; tests leave it as they found it."""
    with Lab() as lab:
        node = lab.node("n1")
        yield node, {kind: (pod_of(node, kind, f"{kind}-a"), pod_of(node, kind, f"{kind}-b")) for kind in KINDS}, lab


@pytest.fixture
def rules(shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab]) -> Iterator[Node]:
    """The shared node; its rules and the laboratory's flows are gone afterwards."""
    node, _, lab = shared
    yield node
    lab.close_flows()
    for backend in BACKENDS:
        for family in (4, 6):
            node.iptables(backend, family, "-F")
            node.iptables(backend, family, "-t", "nat", "-F")
    node.flush_conntrack()


def test_every_kind_of_pod_reaches_every_other_on_two_nodes(lab: Lab) -> None:
    near, far = lab.node("near"), lab.node("far")
    lab.connect(near, far)
    hosts: list[Host] = [pod_of(node, kind, f"{node}-{kind}") for node in (near, far) for kind in KINDS]
    hosts += [lab.outside(near), lab.outside(far, ["10.72.200.7", "fd72:0:0:c8::7"]), near, far]
    probes = every(hosts, hosts, SERVICES)
    assert len(probes) == 12 * 11 * 2 * len(SERVICES)
    assert lab.differences(dict.fromkeys(probes, True)) == []


def test_a_pod_reaches_itself(shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab]) -> None:
    _, pods, lab = shared
    probes = [
        Probe(pods[kind][0], pods[kind][0], *service, family)
        for kind in KINDS
        for service in SERVICES
        for family in (4, 6)
    ]
    assert lab.differences(dict.fromkeys(probes, True)) == []


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: str(service[0]))
def test_a_rule_stops_exactly_its_probe(
    shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab], rules: Node, backend: Backend, service: tuple[str | int, int]
) -> None:
    _, pods, lab = shared
    probes = [probe for kind in KINDS for probe in every(pods[kind], pods[kind], SERVICES)]
    first = {pods[kind][0] for kind in KINDS}
    denied = {probe for probe in probes if (probe.protocol, probe.port) == service and probe.source in first}
    assert len(denied) == len(KINDS) * 2
    for probe in denied:
        rules.iptables(backend, probe.family, "-A", "FORWARD", *match(probe), "-j", "DROP")
    outcomes = lab.probe(probes, QUICK)
    assert {probe for probe, outcome in outcomes.items() if outcome is Outcome.NO_REQUEST} == denied
    back = {
        Probe(p.destination, p.source, p.protocol, p.port, p.family) for p in denied if isinstance(p.destination, Pod)
    }
    unanswered = (
        back if service[0] == 253 else set()
    )  # with no ports the rule drops the answers to the other pod as well
    assert {probe for probe, outcome in outcomes.items() if outcome is Outcome.NO_ANSWER} == unanswered
    assert set(outcomes.values()) <= {Outcome.OK, Outcome.NO_REQUEST, Outcome.NO_ANSWER}


def test_a_dropped_reply_is_told_from_a_dropped_request(
    shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab], rules: Node, backend: Backend
) -> None:
    _, pods, lab = shared
    probes = [Probe(*pods[kind], *service, family) for kind in KINDS for service in SERVICES for family in (4, 6)]
    for probe in probes:
        rules.iptables(backend, probe.family, "-A", "FORWARD", *match(probe, reply=True), "-j", "DROP")
    assert set(lab.probe(probes, QUICK).values()) == {Outcome.NO_ANSWER}
    assert len(lab.differences(dict.fromkeys(probes, False), QUICK)) == len(probes), "it arrived: a leak"


def test_a_connection_that_is_cut_after_its_handshake_is_not_ok(
    shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab], rules: Node, backend: Backend
) -> None:
    _, pods, lab = shared
    probe = Probe(*pods["routed"], "TCP", 80)
    rules.iptables(backend, 4, "-A", "FORWARD", *match(probe), "!", "--syn", "-j", "DROP")
    assert lab.probe([probe], QUICK) == {probe: Outcome.NO_ANSWER}


@pytest.mark.parametrize("how", [["--reject-with", "tcp-reset"], []], ids=["reset", "icmp"])
def test_a_reject_is_seen(
    shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab], rules: Node, backend: Backend, how: list[str]
) -> None:
    _, pods, lab = shared
    services = [("TCP", 80)] if how else [("TCP", 80), ("UDP", 53), ("SCTP", 99)]
    for family in (4, 6):
        for service in services:  # one at a time: the kernel limits the rate of ICMP errors to one host
            probe = Probe(*pods["routed"], *service, family)
            rules.iptables(backend, family, "-A", "FORWARD", *match(probe), "-j", "REJECT", *how)
            assert lab.probe([probe], attempts=3) == {probe: Outcome.REFUSED}


def test_input_and_output_of_the_node(
    shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab], rules: Node, backend: Backend
) -> None:
    node, pods, lab = shared
    probes = [
        Probe(source, destination, *service, family)
        for kind in KINDS
        for source, destination in ((pods[kind][0], node), (node, pods[kind][0]))
        for service in SERVICES
        for family in (4, 6)
    ]
    assert lab.differences(dict.fromkeys(probes, True)) == []
    for probe in probes:
        if probe.destination is node:
            rules.iptables(backend, probe.family, "-A", "INPUT", *match(probe), "-j", "DROP")
        else:
            to = match(probe)[2:]  # its source is the node's, whichever address of it
            rules.iptables(backend, probe.family, "-A", "OUTPUT", *to, "-j", "DROP")
    assert lab.differences(dict.fromkeys(probes, False), QUICK) == []


def test_requests_with_another_source_address(lab: Lab) -> None:
    node = lab.node("n1")
    a, b = node.routed_pod("default", "a"), node.routed_pod("default", "b")
    many = lab.outside(node, [f"10.200.{i}.9" for i in range(20)] + [f"fd20::{i:x}:9" for i in range(20)])
    probes = [
        Probe(many, a, *service, 6 if ":" in address else 4, address)
        for address in many.addresses
        for service in SERVICES
    ]
    probes += [Probe(a, address, *service) for address in many.addresses for service in SERVICES]
    assert lab.differences(dict.fromkeys(probes, True)) == []
    spoofed = {4: "203.0.113.5", 6: "2001:db8:5::5"}
    lies = [Probe(a, b, *service, family, spoofed[family]) for service in SERVICES for family in (4, 6)]
    assert set(lab.probe(lies, QUICK).values()) == {Outcome.NO_ANSWER}
    for family in (4, 6):
        node.iptables("nft", family, "-A", "FORWARD", "-s", spoofed[family], "-i", a.interface, "-j", "DROP")
    assert set(lab.probe(lies, QUICK).values()) == {Outcome.NO_REQUEST}


def test_a_translated_destination(
    shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab], rules: Node, backend: Backend
) -> None:
    _, pods, lab = shared
    client, server = pods["routed"]
    probe = Probe(client, "10.96.0.10", "TCP", 80, arrives_at=server, arrives_port=8080)
    assert lab.probe([probe], QUICK) == {probe: Outcome.NO_REQUEST}
    to = f"{server.address(4)}:8080"
    nat = ["-t", "nat", "-A", "PREROUTING", "-d", "10.96.0.10", "-p", "tcp", "--dport", "80", "-j", "DNAT"]
    rules.iptables(backend, 4, *nat, "--to-destination", to)
    assert lab.probe([probe]) == {probe: Outcome.OK}


def test_nothing_that_is_sent_is_invalid_to_conntrack(
    shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab], rules: Node
) -> None:
    node, pods, lab = shared
    probes = [probe for kind in KINDS for probe in every(pods[kind], pods[kind], [*SERVICES, (47, 0)])]
    for family in (4, 6):
        rules.iptables("nft", family, "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
    assert lab.differences(dict.fromkeys(probes, True)) == []
    for which in ("ipv4", "ipv6"):
        assert "sctp" in node.run(["conntrack", "-L", "-f", which, "-p", "sctp"])


def test_crc32c_as_rfc_3720_has_it() -> None:
    assert wire.crc32c(b"\0" * 32) == 0x8A9136AA
    assert wire.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert wire.crc32c(bytes(range(32))) == 0x46DD794E


def test_a_bridge_that_does_not_call_iptables(lab: Lab, backend: Backend) -> None:
    node = lab.node("n1", bridge_nf_call=False)
    probes = every(pods := [node.bridged_pod("default", name) for name in "ab"], pods, SERVICES)
    for family in (4, 6):
        node.iptables(backend, family, "-P", "FORWARD", "DROP")
    assert lab.differences(dict.fromkeys(probes, True)) == []


def test_an_address_that_nobody_has(shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab]) -> None:
    _, pods, lab = shared
    probes = [
        Probe(pods["routed"][0], address, *service)
        for address in ("198.51.100.1", "2001:db8:9::1")
        for service in SERVICES
    ]
    assert lab.differences(dict.fromkeys(probes, False), QUICK) == []


def test_a_neighbour_whose_first_answer_is_lost_is_no_denial(lab: Lab) -> None:
    """The kernel asks again after a second, and until then has room for one packet here."""
    one, other = lab.node("n1"), lab.node("n2")
    lab.connect(one, other)
    source, destination = one.routed_pod("default", "a"), other.routed_pod("default", "b")
    link = f"to{other.number}"
    lost = "icmpv6 type nd-neighbor-advert limit rate 1/hour burst 1 packets drop"
    chain = f"chain late {{\n type filter hook ingress device {link} priority 0\n {lost}\n }}"
    one.run(["nft", "-f", "-"], f"table netdev lab {{\n {chain}\n}}\n")
    one.netns.sysctl({f"ipv6/neigh/{link}/unres_qlen_bytes": 1})
    assert lab.differences(dict.fromkeys(every([source], [destination], SERVICES, [6]), True)) == []


def test_a_neighbour_table_that_is_full_is_no_denial(lab: Lab) -> None:
    others = any(not path.name.startswith(owner()) for path in Path("/run/netns").iterdir())
    if others or "PYTEST_XDIST_WORKER" in os.environ:  # tests that begin meanwhile would lose packets
        pytest.skip("others on this machine use its neighbour table now")
    node = lab.node("n1")
    pods = [node.bridged_pod("default", f"p{number}") for number in range(35)]
    with pytest.raises(LabError, match="neighbour table"):
        lab.probe(every(pods, pods, [("UDP", 53)], [4]))


@pytest.mark.parametrize("kind", ["routed", "bridged"])
def test_pods_move(lab: Lab, kind: str) -> None:
    node = lab.node("n1")
    a, b, c = (pod_of(node, kind, name) for name in "abc")
    old_a, old_b, old_interface = a.addresses, b.addresses, a.interface
    services = SERVICES[:4]

    def all_reach() -> list[str]:
        return lab.differences(dict.fromkeys(every([a, b, c], [a, b, c], services), True))

    assert all_reach() == []
    a.replug("other0")
    assert (a.interface, a.addresses) == ("other0", old_a) and all_reach() == []
    assert old_interface not in node.run(["ip", "link"])
    a.replug()
    assert all_reach() == []
    spare = (old_a[0].rsplit(".", 1)[0] + ".99", old_a[1].rsplit(":", 1)[0] + ":99")
    a.readdress(spare)
    assert lab.probe([Probe(b, old_a[0])], QUICK) == {Probe(b, old_a[0]): Outcome.NO_REQUEST}
    b.readdress(old_a)
    a.readdress(old_b)
    assert all_reach() == []
    node.remove(b)
    again = pod_of(node, kind, "b")
    again.readdress(old_a)
    assert lab.differences(dict.fromkeys(every([a, again, c], [a, again, c], services), True)) == []


def test_a_cni_pod_comes_again_with_its_address(lab: Lab) -> None:
    node = lab.node("n1")
    for plugin in ("bridge", "ptp"):
        first, other = node.cni_pod("default", "a", plugin), node.cni_pod("default", "b", plugin)
        interface, addresses = first.interface, first.addresses
        node.remove(first)
        second = node.cni_pod("default", "a", plugin, addresses)
        assert second.addresses == addresses and second.interface != interface
        assert lab.differences(dict.fromkeys(every([second, other], [second, other], SERVICES), True)) == []


def test_manifests(shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab]) -> None:
    node, pods, _ = shared
    pod = pods["routed"][0]
    pod.labels, pod.ports = {"app": "web"}, (("http", "TCP", 80),)
    assert pod.manifest() == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "routed-a", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "nodeName": "n1",
            "containers": [
                {"name": "main", "image": "lab", "ports": [{"name": "http", "protocol": "TCP", "containerPort": 80}]}
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": pod.addresses[0],
            "podIPs": [{"ip": pod.addresses[0]}, {"ip": pod.addresses[1]}],
        },
    }
    assert pod.manifest(interface=True)["metadata"]["annotations"] == {"netpold.io/interface": pod.interface}
    assert "nodeName" not in pod.manifest(node=False)["spec"]
    assert node.host_pod("kube-system", "proxy").manifest()["spec"]["hostNetwork"] is True


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_flow_is_counted_and_stops_where_a_rule_stops_it(
    shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab], rules: Node, protocol: str, family: int
) -> None:
    _, pods, lab = shared
    client, server = pods["bridged"]
    flow = lab.flow(client, server, protocol, 7000, family=family)
    other = lab.flow(client, server, protocol, 7001, sender="server", family=family)
    assert flow.moving() and other.moving() and other.forward.sent == 0
    assert flow.pause() == 0
    flow.resume()
    sent = flow.forward.sent
    assert flow.moving() and flow.forward.sent > sent
    drop = ["FORWARD", *match(Probe(client, server, protocol, 7000, family)), "-j", "DROP"]
    at = time.monotonic()
    rules.iptables("nft", family, "-I", *drop)
    end = flow.stopped()
    if protocol == "TCP":  # with no acknowledgement from the client the server's own window closes, a while later
        end = end or flow.stopped(8)
        assert end
    else:
        assert end is None and flow.backward.last_received > at, "the other direction is free"
        assert flow.forward.last_received < at + 0.5 and flow.pause() > 0
    assert other.moving() and other.pause() == 0, "the flow beside it is as before"
    rules.iptables("nft", family, "-D", *drop)
    flow.resume()
    assert flow.moving(8)
    assert not flow.broken


def test_a_flow_that_is_reset_says_so(shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab], rules: Node) -> None:
    _, pods, lab = shared
    client, server = pods["routed"]
    flow = lab.flow(client, server, "TCP", 7000, sender="client")
    rules.iptables(
        "nft",
        4,
        "-A",
        "FORWARD",
        *match(Probe(client, server, "TCP", 7000)),
        "-j",
        "REJECT",
        "--reject-with",
        "tcp-reset",
    )
    assert flow.stopped() and flow.broken
    with pytest.raises(LabError, match=r"routed-a -> default/routed-b .* could not be opened"):
        lab.flow(client, server, "TCP", 7000)


def test_probes_beside_a_flow_on_the_same_port(shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab]) -> None:
    _, pods, lab = shared
    pair = pods["routed"]
    flows = [lab.flow(*pair, protocol, port, family=f) for protocol, port in (("TCP", 80), ("UDP", 53)) for f in (4, 6)]
    assert lab.differences(dict.fromkeys(every(pair, pair, SERVICES), True)) == []
    assert all(flow.moving() and flow.pause() == 0 for flow in flows)
    lab.close_flows()


def test_each_node_has_its_own_lock(lab: Lab) -> None:
    locked, free = lab.node("locked"), lab.node("free")
    with Path(locked.environment["XTABLES_LOCKFILE"]).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        free.iptables("legacy", 4, "-A", "FORWARD", "-j", "DROP")
        with pytest.raises(LabError, match="exit 4"):
            locked.run(["iptables-legacy", "-w", "1", "-A", "FORWARD", "-j", "DROP"])
    assert "-A FORWARD -j DROP" in free.iptables_save("legacy", 4)
    assert "FORWARD -j DROP" not in free.iptables_save("nft", 4) + locked.iptables_save("legacy", 4)


def test_ipset_save(lab: Lab) -> None:
    node, other = lab.node("n1"), lab.node("n2")
    node.run(["ipset", "create", "lab", "hash:ip"])
    assert "create lab hash:ip" in node.ipset_save() and other.ipset_save() == ""


POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: default}
spec: {podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress]}
"""


def test_the_daemon_on_a_node(lab: Lab, backend: Backend) -> None:
    node = lab.node("n1")
    a, b = node.routed_pod("default", "a"), node.bridged_pod("default", "b", labels={"app": "b"})
    with Daemon(node, backend) as daemon:
        daemon.write("policies/closed.yaml", POLICY)
        daemon.write("pods.json", *(pod.manifest() for pod in (a, b)))
        daemon.wait(30)
        status = daemon.status()
        assert (status["backend"], status["node"]) == (backend, "n1")
        closed = {probe: probe.source is b for probe in every([a, b], [a, b], SERVICES[:4])}
        assert lab.differences(closed, QUICK) == []
        assert daemon.stop(30) == 0 and not daemon.running
        daemon.start()
        daemon.wait(30)
        assert daemon.kill() == -signal.SIGKILL and not daemon.running
        assert lab.differences(closed, QUICK) == [], "the rules are the kernel's"
        assert daemon.errors()


def test_a_daemon_that_does_not_come_up_says_why(lab: Lab) -> None:
    with Daemon(lab.node("n1"), "nft", args=["--no-such-flag"]) as daemon:
        with pytest.raises(LabError, match="no-such-flag"):
            daemon.wait(10)
        assert not daemon.running


def test_twenty_pods_are_quickly_there() -> None:
    times = []
    for _ in range(3):
        begin = time.monotonic()
        with Lab() as lab:
            node = lab.node("n1")
            for number in range(20):
                pod_of(node, ("routed", "bridged")[number % 2], f"p{number}")
            times.append(time.monotonic() - begin)
    assert min(times) < 1.5


def left_behind(prefix: str) -> list[str]:
    inside = [path.name for path in Path("/run/netns").iterdir() if path.name.startswith(prefix)]
    return inside + [str(path) for path in Path("/tmp").glob(f"{prefix}*")]


def open_files() -> set[str]:
    return {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


@pytest.mark.parametrize("failure", [None, AssertionError, KeyboardInterrupt])
def test_nothing_is_left(failure: type[BaseException] | None) -> None:
    before, files = left_behind(owner()), open_files()
    with pytest.raises(failure or ZeroDivisionError):  # noqa: SIM117 - the laboratory has ended when it is looked at
        with Lab() as lab:
            node = lab.node("n1")
            pods = [pod_of(node, kind, kind) for kind in KINDS]
            lab.probe(every(pods, pods, SERVICES))
            lab.flow(pods[0], pods[1])
            process = pods[0].spawn(["sh", "-c", "sleep 1000 & sleep 1000 & wait"])
            inside = pods[0].netns.pids
            while len(started := inside()) < 3:
                time.sleep(0.01)
            assert process.poll() is None and len(left_behind(owner())) >= 6 + len(before)
            raise failure or ZeroDivisionError
    assert left_behind(owner()) == before
    assert process.poll() is not None
    assert not [pid for pid in started if Path(f"/proc/{pid}/ns/net").exists()]
    assert open_files() <= files


CHILD = """
import time
from tests.lab import Lab
lab = Lab()
pod = lab.node("n1").routed_pod("default", "a")
pod.spawn(["sh", "-c", "sleep 1000 & sleep 1000 & wait"])
while len(pod.netns.pids()) < 3:
    time.sleep(0.01)
print("ready", flush=True)
time.sleep(1000)
"""


def test_what_a_killed_process_left_is_swept_up() -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    assert child.stdout and child.stdout.readline() == "ready\n"
    prefix = f"np-lab-{child.pid}-"
    (pod,) = (name for name in left_behind(prefix) if name.endswith("default.a"))
    with Lab():
        assert len(left_behind(prefix)) == 3, "the laboratory of a living process is left alone"
    assert len(pids_in([pod])) == 3
    child.send_signal(signal.SIGKILL)
    child.wait()
    with Lab():
        assert left_behind(prefix) == []
    assert child.stdout.read() == "", "the last of those that inherited it is gone"
    child.stdout.close()


def test_differences_are_told_in_words(shared: tuple[Node, dict[str, tuple[Pod, Pod]], Lab], rules: Node) -> None:
    _, pods, lab = shared
    a, b = pods["routed"]
    stopped, free = Probe(a, b, "TCP", 80), Probe(a, b, "UDP", 53, 6)
    rules.iptables("nft", 4, "-A", "FORWARD", *match(stopped), "-j", "DROP")
    assert lab.differences({stopped: False, free: True}) == []
    assert lab.differences({stopped: True, free: False}) == [
        f"{a} -> {b} {b.addresses[0]} 80/TCP: expected to be allowed, but the request did not arrive",
        f"{a} -> {b} {b.addresses[1]} 53/UDP: expected to be denied, but the request arrived and was answered",
    ]
