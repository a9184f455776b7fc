"""Pods that start, stop and follow each other, by packets: nothing passes that neither the manifests before nor those
after allow."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack, suppress
from copy import copy
from functools import partial
from itertools import permutations
from typing import Any

import pytest

from tests.lab import Backend, Host, Lab, Node, Outside, Pod, Probe, namespace_manifest
from tests.lab.daemon import Daemon
from tests.test_daemon import DENY_ALL, eventually, policy

pytestmark = pytest.mark.kernel

CLOSING = 'pod_interfaces = ["veth*", "br0"]\n'
slow = partial(pytest.param, marks=pytest.mark.slow)

ONLY_TO_B = policy(
    "only-to-b",
    """  podSelector: {matchLabels: {app: a}}
  policyTypes: [Ingress, Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: b}}}]
""",
)
FROM_A = policy(
    "from-a",
    """  podSelector: {matchLabels: {app: b}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: a}}}]
""",
)


class Scene:
    """A node, a host outside, and a daemon; `write` says which pods there are manifests of."""

    def __init__(self, lab: Lab, backend: Backend, wiring: str, config: str = "") -> None:
        self.lab = lab
        self.node: Node = lab.node("n1")
        self.outside: Outside = lab.outside(self.node)
        self.wiring = wiring
        settings = self.node.site.directory / "netpold.toml"
        settings.write_text(config)
        self.daemon = Daemon(self.node, backend, args=["--config", str(settings)])

    def pod(self, name: str, app: str = "", **more: Any) -> Pod:
        make = self.node.routed_pod if self.wiring == "routed" else self.node.bridged_pod
        return make("x", name, labels={"app": app or name}, **more)

    def write(self, *pods: Pod | dict[str, Any], policies: tuple[str, ...] = ()) -> None:
        """One file with all that there is: one change.  Waits until it is in force."""
        self.put(*pods, policies=policies)
        if not self.daemon.running:
            self.daemon.start()
        self.daemon.wait(20)

    def put(self, *pods: Pod | dict[str, Any], policies: tuple[str, ...] = ()) -> None:
        self.daemon.write(
            "all.yaml", *policies, *(each if isinstance(each, dict) else each.manifest() for each in pods)
        )

    def found(self) -> None:
        """Wait until every pod's interface is known; behind a bridge that takes a question and its answer."""
        assert eventually(lambda: self.daemon.status()["pods"]["without_interface"] == 0, 20)

    def expect(self, ways: dict[tuple[Host, Host], bool], families: tuple[int, ...] = (4, 6)) -> None:
        """What passes, by TCP and UDP."""
        expected = {
            Probe(source, destination, protocol, 80, family): passes
            for (source, destination), passes in ways.items()
            for family in families
            for protocol in ("TCP", "UDP")
        }
        assert not self.lab.differences(expected)


EACH = pytest.mark.parametrize(
    ("backend", "wiring"),
    [("nft", "routed"), ("legacy", "bridged"), *(slow(*each) for each in (("nft", "bridged"), ("legacy", "routed")))],
)


@EACH
def test_an_interface_that_no_pod_claims_is_closed(lab: Lab, backend: Backend, wiring: str) -> None:
    scene = Scene(lab, backend, wiring, CLOSING)
    node, outside = scene.node, scene.outside
    a, b, c = (scene.pod(name) for name in "abc")
    node.iptables(backend, 4, "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID")  # so that flows are known
    open_before = lab.flow(outside, c, "UDP")
    answers = lab.flow(c, outside, "UDP", sender="server")
    closed = {(a, c): False, (c, a): False, (c, outside): False, (outside, c): False}
    claimed = {(a, b): True, (a, outside): True, (outside, b): True, (c, node): True, (node, c): True, (node, a): True}
    with scene.daemon:
        scene.write(a, b)
        assert open_before.stopped() is not None
        assert answers.stopped() is not None
        scene.expect(closed | claimed)
        assert scene.daemon.status()["unclaimed_interfaces"] == [c.interface]
        d = scene.pod("d")  # nobody tells the daemon before the packets are sent
        scene.expect({(a, d): False, (d, outside): False, (outside, d): False, (d, a): False, (a, b): True})
        scene.write(a, b, c, d)
        scene.expect({(a, c): True, (c, outside): True, (outside, c): True, (d, a): True})
        assert scene.daemon.status()["unclaimed_interfaces"] == []
        scene.write(a, b, c, policies=(ONLY_TO_B,))
        scene.expect({(a, c): False, (a, b): True, (c, b): True, (outside, c): True, (node, c): True})


@EACH
def test_a_pod_keeps_its_policies_until_its_interface_is_gone(lab: Lab, backend: Backend, wiring: str) -> None:
    scene = Scene(lab, backend, wiring)
    a, b, c = (scene.pod(name) for name in "abc")
    as_before = {(a, b): True, (a, c): False, (c, a): False, (c, b): True}
    with scene.daemon:
        scene.write(a, b, c, policies=(ONLY_TO_B,))
        scene.expect(as_before)
        scene.found()
        scene.write(b, c)  # with its policy
        scene.expect(as_before)
        pods = scene.daemon.status()["pods"]
        assert (pods["lingering"], pods["local"], pods["isolated"]) == (1, 2, 0)
        scene.write(b, c, policies=(DENY_ALL.replace("{}", "{matchLabels: {app: a}}"),))  # as tight as its policies are
        scene.expect(as_before | {(a, b): True})
        scene.write(b, c, policies=(ONLY_TO_B.replace("app: b", "app: c"),))
        scene.expect({(a, b): False, (a, c): True, (c, a): False})
        scene.node.remove(a)
        assert eventually(lambda: scene.daemon.status()["pods"]["lingering"] == 0)
        heir = scene.pod("d", interface=a.interface or None)
        scene.expect({(heir, c): True, (c, heir): True})


def test_explain_of_what_is_left_of_a_pod_says_what_packets_find(lab: Lab) -> None:
    scene = Scene(lab, "nft", "routed")
    a, b, c = (scene.pod(name) for name in "abc")
    with scene.daemon:
        scene.write(a, b, c, policies=(ONLY_TO_B,))
        scene.found()
        scene.write(b, c)  # with its policy
        assert scene.daemon.status()["lingering"] == {"count": 1, "names": ["x/a"]}
        for words in (("pod", "x/a"), ("explain", "x/a", "x/b", "80/TCP"), ("suggest", "x/a")):
            done = scene.daemon.ctl(*words)
            assert done.returncode == 2 and f"address: {a.addresses[0]}" in done.stderr
            assert "its manifest is gone, and it keeps its policies while its interface is there" in done.stderr
        assert scene.daemon.ctl("monitor", "--pod", "x/a").returncode == 0  # nothing was seen of it yet
        ends: dict[Host, str] = {each: each.addresses[0] for each in (a, b, c, scene.node)}
        for source, destination in permutations(ends, 2):
            said = scene.daemon.ctl("explain", ends[source], ends[destination], "80/TCP", "-o", "json")
            passes = json.loads(said.stdout)["verdict"] == "allow"
            scene.expect({(source, destination): passes}, (4,))
        judged = json.loads(scene.daemon.ctl("explain", ends[a], ends[c], "80/TCP", "-o", "json").stdout)["egress"]
        assert judged["verdict"] == "deny" and judged["in_force"] and len(judged["isolating"]) == 1
        assert "left of x/a, whose manifest is gone" in judged["reason"]
        assert judged["reason"].endswith(
            f": {ends[a]} is isolated for egress by x/only-to-b, and no rule of it allows it"
        )
        assert judged["nearest_miss"]["but_for"] == "pod-labels" and judged["nearest_miss"]["file"] is None
        assert eventually(lambda: ends[a] in scene.daemon.ctl("monitor", "--pod", "x/a").stdout)
        events = map(json.loads, scene.daemon.ctl("monitor", "--pod", "x/a", "-o", "json").stdout.splitlines())
        event = next(
            each for each in events if each["destination"]["pod"] == "x/c" and ":" not in each["source"]["address"]
        )
        assert (event["judged"], event["judged_lingers"], event["source"]["pod"]) == ("x/a", True, None)
        assert (event["isolating"], event["denied_by"]) == (["x/only-to-b"], None)
        assert event["nearest_miss"] == judged["nearest_miss"]


@EACH
def test_a_pod_that_is_gone_is_nobodys_peer(lab: Lab, backend: Backend, wiring: str) -> None:
    scene = Scene(lab, backend, wiring)
    a, b, c = (scene.pod(name) for name in "abc")
    with scene.daemon:
        scene.write(a, b, c, policies=(FROM_A,))
        flow = lab.flow(a, b)
        scene.expect({(a, b): True, (c, b): False})
        scene.write(b, c, policies=(FROM_A,))
        assert flow.stopped() is not None
        scene.expect({(a, b): False, (c, b): False, (a, c): True})


@EACH
@pytest.mark.parametrize("order", ["at once", slow("new first"), slow("finished")])
def test_an_address_that_moves_takes_no_rights_along(lab: Lab, backend: Backend, wiring: str, order: str) -> None:
    """The new pod goes on with the old one's connection: same addresses, same ports, known to conntrack."""
    scene = Scene(lab, backend, wiring)
    a, b = scene.pod("a"), scene.pod("b")
    with scene.daemon:
        scene.write(a, b, policies=(FROM_A,))
        flow = lab.flow(a, b)
        assert flow.moving()
        c = as_another(a, "c")  # the same place in the network, so that it can send just what the old one would
        new = c.manifest(interface=wiring == "bridged")  # what is said on a bridge does not give it the old one's port
        if order == "new first":
            scene.write(a, b, new, policies=(FROM_A,))
        elif order == "finished":
            scene.write(a.manifest(phase="Succeeded"), b, new, policies=(FROM_A,))
        else:
            scene.write(b, new, policies=(FROM_A,))
        assert flow.stopped() is not None
        scene.expect({(c, b): False, (b, c): True})
        scene.write(b, new, policies=(FROM_A,))
        scene.expect({(c, b): False})
        assert not flow.moving(0.5)


@EACH
def test_what_is_left_of_a_pod_whose_address_is_anothers_is_closed(lab: Lab, backend: Backend, wiring: str) -> None:
    scene = Scene(lab, backend, wiring)
    a, b, c = (scene.pod(name) for name in "abc")
    out = scene.outside
    with scene.daemon:
        scene.write(a, b, c, policies=(ONLY_TO_B,))
        scene.expect({(a, b): True, (a, c): False, (out, a): False})
        scene.found()
        elsewhere = as_another(a, "d").manifest() | {}
        elsewhere["spec"]["nodeName"] = "n2"
        scene.write(b, c, elsewhere)
        closed = {(a, b): False, (a, c): False, (c, a): False, (out, a): False, (b, c): True, (out, b): True}
        scene.expect(closed)
        assert scene.daemon.status()["unclaimed_interfaces"] == [a.interface]
        assert scene.daemon.ctl("verify").returncode == 0
        assert scene.daemon.stop() == 0
        scene.daemon.start()
        scene.daemon.wait(20)
        scene.expect(closed)
        scene.write(b, c)
        scene.expect({(a, b): False, (a, c): False, (out, a): False, (b, c): True})
        scene.write(a, b, c)
        scene.expect({(a, b): True, (a, c): True, (c, a): True, (out, a): True})


@pytest.mark.parametrize("backend", ["nft", slow("legacy")])
def test_a_pod_is_found_again_behind_the_port_of_a_bridge_that_was_closed(lab: Lab, backend: Backend) -> None:
    """By the daemon's question and the pod's answer: these pass."""
    scene = Scene(lab, backend, "bridged")
    a, b = (scene.pod(name) for name in "ab")
    out = scene.outside
    with scene.daemon:
        scene.write(a, b)
        scene.found()
        elsewhere = as_another(a, "d").manifest()
        elsewhere["spec"]["nodeName"] = "n2"
        scene.write(b, elsewhere)
        scene.node.run(["ip", "neigh", "flush", "dev", "br0"])
        scene.expect({(a, b): False, (b, a): False, (out, a): False, (scene.node, a): False, (out, b): True})
        assert scene.daemon.stop() == 0
        scene.node.run(["ip", "neigh", "flush", "dev", "br0"])
        scene.write(a, b)
        scene.found()
        scene.expect({(a, b): True, (b, a): True, (out, a): True, (scene.node, a): True})
        assert scene.daemon.status()["unclaimed_interfaces"] == []


@EACH
def test_a_pod_whose_manifest_gets_another_address_keeps_its_policies(lab: Lab, backend: Backend, wiring: str) -> None:
    """The new address is nowhere yet: a StatefulSet's next pod while the old one still ends, or a slip of the pen."""
    scene = Scene(lab, backend, wiring)
    a, b, c = (scene.pod(name) for name in "abc")
    with scene.daemon:
        scene.write(a, b, c, policies=(ONLY_TO_B,))
        scene.found()
        scene.expect({(a, b): True, (a, c): False})
        new = a.manifest()
        new["status"] = {"podIPs": [{"ip": "10.72.99.99"}, {"ip": "fd72:0:0:99::99"}]}
        for _ in ("at once", "after a restart"):
            scene.write(new, b, c, policies=(ONLY_TO_B,))
            scene.expect({(a, b): True, (a, c): False, (c, b): True})
            assert scene.daemon.status()["pods"]["lingering"] == 1
            assert scene.daemon.stop() == 0
        scene.write(a, b, c, policies=(ONLY_TO_B,))
        scene.expect({(a, b): True, (a, c): False, (c, b): True})


@EACH
def test_the_interface_that_a_pod_leaves_for_a_new_one_is_closed(lab: Lab, backend: Backend, wiring: str) -> None:
    """As CNI plugins do it: the new one comes while the old one is there, and before the manifests change."""
    scene = Scene(lab, backend, wiring)
    a, b, c = (scene.pod(name) for name in "abc")
    with scene.daemon:
        scene.write(a, b, c, policies=(ONLY_TO_B,))
        scene.expect({(a, b): True, (a, c): False})
        scene.found()
        a.netns.sysctl({"ipv4/conf/eth0/arp_ignore": 8})  # on a bridge the new one is found when it is heard
        a.run(["ip6tables", "-A", "OUTPUT", "-p", "icmpv6", "--icmpv6-type", "neighbour-advertisement", "-j", "DROP"])
        d = scene.pod("d", addresses=a.addresses)
        if wiring == "bridged":
            d.run(["ping", "-c", "1", "-W", "5", "10.72.8.1"])
        for _ in ("at once", "after a restart"):
            scene.write(b, c, d, policies=(ONLY_TO_B,))
            scene.found()
            scene.expect({(a, b): False, (a, c): False, (b, c): True})
            if wiring == "routed":  # on a bridge, c may still answer to the old one
                scene.expect({(d, c): True, (c, d): True})
            assert scene.daemon.status()["unclaimed_interfaces"] == [a.interface]
            assert scene.daemon.stop() == 0
        scene.node.remove(a)
        scene.write(b, c, d, policies=(ONLY_TO_B,))
        assert scene.daemon.status()["unclaimed_interfaces"] == []


def as_another(pod: Pod, name: str) -> Pod:
    """Another pod that has the pod's namespace, interface and addresses."""
    twin = copy(pod)
    twin.pod_name, twin.labels = name, {"app": name}
    return twin


@pytest.mark.parametrize("wiring", ["routed", slow("bridged")])
def test_a_pod_that_goes_while_the_daemon_does_not_run(lab: Lab, backend: Backend, wiring: str) -> None:
    scene = Scene(lab, backend, wiring)
    a, b, c = (scene.pod(name) for name in "abc")
    as_before = {(a, b): True, (a, c): False, (c, a): False, (c, b): True}
    with scene.daemon:
        scene.write(a, b, c, policies=(ONLY_TO_B,))
        a.replug()  # another interface of the same name
        scene.found()
        assert scene.daemon.stop() == 0
        scene.put(b, c)
        scene.write(b, c)
        scene.expect(as_before)
        assert scene.daemon.stop() == 0
        scene.write(b, c)
        scene.expect(as_before)
        elsewhere = scene.daemon.status()["pods"]
        assert elsewhere["lingering"] == 1
        assert scene.daemon.stop() == 0
        scene.node.remove(a)
        scene.write(b, c)
        assert scene.daemon.status()["pods"]["lingering"] == 0


@pytest.mark.parametrize("order", [slow("at once"), "policies first"])
def test_policies_that_go_with_their_namespace(lab: Lab, backend: Backend, order: str) -> None:
    scene = Scene(lab, backend, "routed")
    a, b, c = (scene.pod(name) for name in "abc")
    as_before = {(a, b): True, (a, c): False, (c, a): False}
    space = namespace_manifest("x")
    with scene.daemon:
        scene.write(a, b, c, space, policies=(ONLY_TO_B,))
        if order == "policies first":  # as `kubectl delete namespace` does
            scene.write(a, b, c, space | {"status": {"phase": "Terminating"}})
            scene.expect(as_before)
            assert scene.daemon.stop() == 0
        scene.write(a, b, c)
        scene.expect(as_before)
        told = json.loads(scene.daemon.ctl("explain", "x/a", "x/c", "80/TCP", "-o", "json").stdout)
        assert told["verdict"] == told["egress"]["verdict"] == "deny"
        assert told["egress"]["isolating"] == ["x/only-to-b"] and told["egress"]["nearest_miss"]["file"] is None
        assert "isolated, by 1 policy" in scene.daemon.ctl("pod", "x/a").stdout
        html = scene.daemon.ctl("matrix", "-o", "html").stdout
        assert "x/a is isolated for egress by x/only-to-b, and no rule of it allows it" in html
        assert eventually(lambda: "x/only-to-b isolates x/a for egress" in scene.daemon.ctl("monitor").stdout)
        scene.write(b, c)
        scene.expect(as_before)
        scene.write(a, b, c, space)
        scene.expect({(a, b): True, (a, c): True, (c, a): True})


SEND = """
import socket, sys, time
address = sys.argv[1]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
sender = None
while True:
    try:
        sender = sender or socket.socket(family, socket.SOCK_DGRAM)
        sender.sendto(b"x", (address, int(sys.argv[2])))
    except OSError:
        sender = None
    time.sleep(0.001)
"""


class Flood:
    """Sends from one to another for as long as the block lasts, whatever becomes of their interfaces."""

    def __init__(self, source: Host, destination: Host, family: int) -> None:
        self.arrived = 0
        with destination.netns.entered():
            kind = socket.AF_INET if family == 4 else socket.AF_INET6
            self._receiver = socket.socket(kind, socket.SOCK_DGRAM)
        self._receiver.bind((destination.address(family), 0))
        self._receiver.setblocking(False)
        address, port = self._receiver.getsockname()[:2]
        command = ["/usr/bin/python3", "-c", SEND, address, str(port)]
        self._sender = source.spawn(command)

    def count(self) -> int:
        """How many have arrived so far."""
        with suppress(BlockingIOError):
            while True:
                self._receiver.recv(16)
                self.arrived += 1
        return self.arrived

    def __enter__(self) -> Flood:
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.kill()
        self._sender.wait()
        self._receiver.close()


NOT_TO_B = """apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: not-to-b}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress:
  - {action: Deny, to: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: b}}}}]}
"""


@EACH
def test_a_pod_whose_manifest_loses_an_address_stays_denied_there(lab: Lab, backend: Backend, wiring: str) -> None:
    """By its own policies, and by what tiers deny to others."""
    scene = Scene(lab, backend, wiring)
    a, b, c, d = (scene.pod(name) for name in "abcd")
    own = DENY_ALL.replace("{}", "{matchLabels: {app: a}}")
    a6, b6 = ({**each.manifest(), "status": {"podIPs": [{"ip": each.address(6)}]}} for each in (a, b))

    def write(*pods: Pod | dict[str, Any], policies: tuple[str, ...] = (own, NOT_TO_B)) -> None:
        """And see that nothing comes that is denied, while other packets do."""
        scene.write(*pods, c, d, policies=policies)
        before = allowed.count()
        assert eventually(lambda: allowed.count() > before + 100)
        assert [each.count() for each in denied] == [0, 0]

    with scene.daemon, ExitStack() as floods:
        scene.write(a, b, c, d, policies=(own, NOT_TO_B))
        scene.found()
        denied = [floods.enter_context(Flood(source, to, 4)) for source, to in ((scene.outside, a), (c, b))]
        allowed = floods.enter_context(Flood(c, d, 4))
        write(a6, b6)
        assert scene.daemon.status()["lingering"]["count"] == 0
        assert f"x/a ({a.address(4)}) and x/b ({b.address(4)})" in scene.daemon.status()["warnings"][0]
        for source, to in ((scene.outside, a), (c, b)):
            done = scene.daemon.ctl("explain", source.address(4), to.address(4), "80/TCP", "-o", "json")
            told = json.loads(done.stdout)
            assert told["verdict"] == "deny"
            assert f"was an address of x/{to.pod_name}, whose manifest says it no more" in told["ingress"]["reason"]
        assert f"lost          {a.address(4)}: judged as before" in scene.daemon.ctl("pod", "x/a").stdout
        assert eventually(lambda: a.address(4) in scene.daemon.ctl("monitor", "--direction", "ingress").stdout)
        events = map(json.loads, scene.daemon.ctl("monitor", "--pod", "x/a", "-o", "json").stdout.splitlines())
        event = next(each for each in events if each["destination"]["address"] == a.address(4))
        assert (event["judged"], event["judged_lingers"], event["isolating"]) == ("x/a", False, ["x/deny-all"])
        assert scene.daemon.stop() == 0
        write(a6, b6)
        write(b)  # all of the one goes, and the other regains its address
        assert scene.daemon.status()["pods"]["lingering"] == 1
        write(a6, b6)
        assert scene.daemon.stop() == 0
        write(a, b)
        scene.write(a6, b6, c, d)
        assert eventually(lambda: all(each.count() > 0 for each in denied))


@EACH
def test_no_window_as_a_pod_starts_moves_and_stops(lab: Lab, backend: Backend, wiring: str) -> None:
    """Whatever comes first: what the manifests before and after both forbid never gets through."""
    scene = Scene(lab, backend, wiring)
    a, b, c = (scene.pod(name) for name in "abc")
    a.unplug()
    deny = DENY_ALL.replace("{}", "{matchLabels: {app: a}}")
    with scene.daemon, Flood(a, c, 4) as flood, Flood(a, c, 6) as flood6, Flood(b, c, 4) as other:
        scene.write(a, b, c, policies=(deny,))  # the manifest is there before the interface
        a.plug("veth77", a.addresses)
        scene.write(a.manifest(interface=True), b, c, policies=(deny,))
        a.labels["tier"] = "new"
        scene.write(a, b, c, policies=(deny, ONLY_TO_B))
        a.replug("veth78")  # the same address at another interface, before any manifest says so
        scene.write(a, b, c, policies=(ONLY_TO_B,))
        scene.found()
        scene.write(b, c)  # all of it goes, but the interface
        scene.write(a, b, c, policies=(deny,))
        a.replug()
        heir = as_another(a, "a2").manifest(interface=wiring == "bridged")  # its place is another's
        scene.write(heir, b, c, policies=(deny.replace("app: a", "app: a2"),))
        scene.found()
        assert scene.daemon.stop() == 0
        scene.put(b, c)
        scene.write(b, c)
        assert eventually(lambda: other.count() > 100)
        assert (flood.count(), flood6.count()) == (0, 0)
        a.replug("veth79")  # and nobody's now
        assert eventually(lambda: flood.count() > 0 and flood6.count() > 0)
