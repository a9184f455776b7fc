"""Policies of the cluster in a daemon's life, by packets: what breaks, goes, comes back, moves, and is tried."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from netpold.daemon.wording import reason, way
from tests.lab import BACKENDS, Backend, Host, Lab, Node, Probe, namespace_manifest
from tests.lab.daemon import Daemon
from tests.lab.datagram import DOMAIN
from tests.lab.host import family_of
from tests.test_daemon import eventually, policy
from tests.test_last_good import kill
from tests.tiers.oracle import Object

pytestmark = pytest.mark.kernel

SLOW = pytest.mark.slow
NOTHING_OUT = policy("out", "  podSelector: {matchLabels: {app: a}}\n  policyTypes: [Egress]\n")
BOTH = pytest.mark.parametrize(
    ("backend", "wiring"), [("nft", "routed"), pytest.param("legacy", "bridged", marks=SLOW)]
)
OTHERWISE = pytest.mark.parametrize(
    ("backend", "wiring"), [pytest.param("nft", "routed", marks=SLOW), ("legacy", "bridged")]
)


def tiered(name: str, tier: str, app: str, *rules: str, priority: int = 10) -> str:
    """A policy about the pods of an app ('*': all) in namespaces of team x.  Rules as `ingress Deny b 80`: pods of an
    app in all namespaces, at a port of TCP and UDP."""
    text = (
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
        f"metadata: {{name: {name}}}\nspec:\n  tier: {tier}\n  priority: {priority}\n"
        f"  subject: {pods(app, 'team: x')}\n"
    )
    for direction in ("ingress", "egress"):
        own = [rule.split()[1:] for rule in rules if rule.startswith(direction)]
        text += f"  {direction}:\n" if own else ""
        for action, peer, *ports in own:
            text += f"  - action: {action}\n    {'from' if direction == 'ingress' else 'to'}: [{pods(peer)}]\n"
            at = (
                ", ".join(f"{{{each}: {{destinationPort: {{number: {ports[0]}}}}}}}" for each in ("tcp", "udp"))
                if ports
                else ""
            )
            text += f"    protocols: [{at}]\n" if ports else ""
    return text


def pods(app: str, spaces: str = "") -> str:
    """A subject or a peer."""
    selector = "{}" if app == "*" else f"{{matchLabels: {{app: {app}}}}}"
    return f"{{pods: {{namespaceSelector: {{matchLabels: {{{spaces}}}}}, podSelector: {selector}}}}}"


class Scene:
    """A node with the pods a, b and c of a namespace, in files of their own, and a daemon."""

    def __init__(self, lab: Lab, backend: Backend, wiring: str = "routed") -> None:
        self.lab = lab
        self.node: Node = lab.node("n1")
        make = self.node.routed_pod if wiring == "routed" else self.node.bridged_pod
        self.a, self.b, self.c = (make("x", name, labels={"app": name}) for name in "abc")
        self.daemon = Daemon(self.node, backend)
        self.daemon.write("x.json", namespace_manifest("x", {"team": "x"}))
        for pod in (self.a, self.b, self.c):
            self.daemon.write(f"{pod.pod_name}.json", pod.manifest())

    def enforce(self, **files: str) -> None:
        """Write these, '' for none, and wait until they are in force or rejected."""
        for name, text in files.items():
            path = self.daemon.manifests / f"{name}.yaml"
            if text:
                self.daemon.write(path.name, text)
            else:
                path.unlink()
        self.settle()

    def settle(self) -> None:
        if not self.daemon.running:
            self.daemon.start()
        self.daemon.wait(20)

    def status(self) -> dict[str, Any]:
        """Also where it is degraded."""
        found: dict[str, Any] = json.loads(self.daemon.ctl("status", "-o", "json").stdout)
        return found

    def expect(self, passing: str, ports: tuple[int, ...] = (80,)) -> None:
        """Of all ways between the pods those named (`ab bc`: a to b, b to c) pass, the others do not."""
        self.node.flush_conntrack()
        here = {pod.pod_name: pod for pod in (self.a, self.b, self.c)}
        expected = {
            Probe(source, destination, protocol, port, family): f"{one}{other}" in passing.split()
            for one, source in here.items()
            for other, destination in here.items()
            if one != other
            for protocol in ("TCP", "UDP")
            for port in ports
            for family in (4, 6)
        }
        assert not self.lab.differences(expected)


ALL = "ab ac ba bc ca cb"
NO_C_TO_A = tiered("guard", "Admin", "a", "ingress Deny c")
NOT_READ = NO_C_TO_A.replace("action: Deny", "action: Deny\n    colour: red")


# Manifests that break -------------------------------------------------------------------------------------------------


@BOTH
def test_a_policy_that_breaks_stays_as_it_was_over_a_kill(lab: Lab, backend: Backend, wiring: str) -> None:
    scene = Scene(lab, backend, wiring)
    with scene.daemon:
        scene.enforce(guard=NO_C_TO_A)
        scene.expect("ab ac ba bc cb")
        scene.enforce(guard=NO_C_TO_A.replace("action: Deny", "action: Refuse"))
        scene.expect("ab ac ba bc cb")
        found = scene.status()
        assert found["last_good"] == {"count": 1, "objects": ["ClusterNetworkPolicy guard"]}
        assert found["policies"] == {"accepted": 0, "rejected": 1}
        scene.enforce(guard=NO_C_TO_A)
        kill(scene)  # type: ignore[arg-type]
        scene.daemon.write("guard.yaml", NO_C_TO_A.replace("subject", "subjects"))
        scene.settle()
        scene.expect("ab ac ba bc cb")
        assert scene.status()["last_good"]["objects"] == ["ClusterNetworkPolicy guard"]
        scene.enforce(guard="")
        scene.expect(ALL)


EGRESS = tiered("guard", "Admin", "a", "ingress Deny c", "egress Accept b")
NEVER_GOOD = {
    "deny": (NOT_READ, "ab ac bc cb"),  # a Deny that could not be read whole denies all to its subject
    "accept": (EGRESS.replace("Accept", "Allow"), "ab ac ba bc cb"),
    "action": (EGRESS.replace("Accept", "Let"), "ba bc cb"),
    "pass": (tiered("guard", "Admin", "a", "ingress Pass b", "ingress Deny c").replace("Pass", "Pas"), "ab ac bc cb"),
    "tier": (NO_C_TO_A.replace("tier: Admin", "tier: admin"), "ab ac ba bc cb"),
    "subject": (NO_C_TO_A.replace("subject: {pods", "subject: {pod"), "ab ac ba bc"),  # every pod is its subject
    "peers": (NO_C_TO_A.replace("    from:", "    to:"), "ab ac bc cb"),
    "priority": (NO_C_TO_A.replace("priority: 10", "priority: 1001"), "ab ac ba bc cb"),
}


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        pytest.param(*case, id=name, marks=[] if name in ("deny", "subject") else SLOW)
        for name, case in NEVER_GOOD.items()
    ],
)
def test_what_was_never_good_is_closed(lab: Lab, text: str, passing: str) -> None:
    """Rules that deny stay, what could not be read denies; nothing is granted: the Accept of `free` comes after."""
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(
            guard=text, free=tiered("free", "Admin", "*", "ingress Accept *", "egress Accept *", priority=900)
        )
        scene.expect(passing)
        found = scene.status()
        assert found["quarantined"] == 1 and found["policies"]["rejected"] == 1
        scene.enforce(guard=NO_C_TO_A)
        scene.expect("ab ac ba bc cb")


def test_a_broken_accept_grants_nothing(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    opens = tiered("opens", "Admin", "a", "ingress Accept b")
    with scene.daemon:
        scene.enforce(
            opens=opens.replace("tier: Admin", "tier: Admin\n  tear: Admin"),
            deny=tiered("deny", "Admin", "a", "ingress Deny *", priority=20),
        )
        scene.expect("ab ac bc cb")
        scene.enforce(opens=opens)
        scene.expect("ab ac bc cb ba")
        scene.enforce(opens=opens.replace("Accept", "Allow"))  # the last good version still grants
        scene.expect("ab ac bc cb ba")


@SLOW
def test_copies_that_differ_close(lab: Lab) -> None:
    scene = Scene(lab, "legacy")
    with scene.daemon:
        scene.enforce(
            one=tiered("same", "Admin", "a", "ingress Accept b", "ingress Deny c"),
            other=tiered("same", "Baseline", "a", "ingress Deny b"),
        )
        scene.expect("ab ac bc cb")


# Pods and namespaces --------------------------------------------------------------------------------------------------


def test_what_is_suggested_can_work(lab: Lab) -> None:
    """What the Admin tier denies at the end that is asked about is said; what Baseline denies is allowed."""
    scene = Scene(lab, "nft")
    guard = tiered("guard", "Admin", "b", "ingress Deny a 81")
    shut = tiered("shut", "Baseline", "*", "ingress Deny *", "egress Deny *")
    try:
        scene.enforce(guard=guard, shut=shut, out=NOTHING_OUT)
        for source, port in ((scene.a, 81), (scene.c, 80)):
            assert not lab.differences({Probe(source, scene.b, "TCP", port, 4): False})
        assert eventually(lambda: len(scene.daemon.ctl("monitor", "-o", "json").stdout.splitlines()) >= 2)
        text = scene.daemon.ctl("suggest", "x/b", "--direction", "ingress").stdout
        assert "# ingress from x/a 81/TCP (" in text
        assert "is NOT allowed: Admin guard ingress[0] denies it, whatever NetworkPolicies say" in text
        scene.enforce(suggested=text, more=scene.daemon.ctl("suggest", "x/c").stdout)
        assert not lab.differences({Probe(scene.c, scene.b, "TCP", 80, 4): True})
        assert not lab.differences({Probe(scene.a, scene.b, "TCP", 81, 4): False})
    finally:
        scene.daemon.kill()


@OTHERWISE
def test_a_pod_keeps_what_is_denied_to_it_until_its_interface_is_gone(lab: Lab, backend: Backend, wiring: str) -> None:
    """Its manifest, its namespace and the policy go, together or not."""
    scene = Scene(lab, backend, wiring)
    with scene.daemon:
        scene.enforce(
            out=tiered("out", "Admin", "a", "egress Deny c"), into=tiered("into", "Baseline", "b", "ingress Deny c")
        )
        assert eventually(lambda: scene.status()["without_interface"]["count"] == 0, 20)
        scene.expect("ab ba bc ca")
        (scene.daemon.manifests / "a.json").unlink()
        scene.settle()
        scene.expect("ab ba bc ca")
        assert scene.status()["pods"]["lingering"] == 1
        a, b, c = (each.addresses[0] for each in (scene.a, scene.b, scene.c))
        told = json.loads(scene.daemon.ctl("explain", a, c, "80/TCP", "-o", "json").stdout)["egress"]
        assert (told["isolating"], told["denied_by"]["policy"]) == ([], "out")
        assert json.loads(scene.daemon.ctl("explain", a, b, "80/TCP", "-o", "json").stdout)["egress"]["isolating"] == []
        assert eventually(lambda: "is left of x/a" in scene.daemon.ctl("monitor").stdout)
        events = map(json.loads, scene.daemon.ctl("monitor", "-o", "json").stdout.splitlines())
        event = next(each for each in events if each["judged_lingers"])
        assert (event["judged"], event["isolating"]) == ("x/a", []) and event["denied_by"] == told["denied_by"]
        assert reason(event).endswith(": Admin out egress[0] denies it")
        (scene.daemon.manifests / "x.json").unlink()
        scene.settle()
        scene.expect("ab ba bc ca")  # while its pods are here, subjects go by what the namespace's object said
        scene.daemon.write("x.json", namespace_manifest("x", {"team": "x"}))
        scene.daemon.write("a.json", scene.a.manifest())
        scene.settle()
        scene.expect("ab ba bc ca")


@OTHERWISE
def test_a_pod_that_goes_is_still_one_that_is_denied(lab: Lab, backend: Backend, wiring: str) -> None:
    """While its interface is there; its manifest goes, or that of its namespace before."""
    scene = Scene(lab, backend, wiring)
    with scene.daemon:
        into = tiered("into", "Admin", "b", "ingress Deny a").replace("{matchLabels: {}}", "{matchLabels: {team: x}}")
        scene.enforce(into=into, out=tiered("out", "Baseline", "c", "egress Deny a"))
        assert eventually(lambda: scene.status()["without_interface"]["count"] == 0, 20)
        scene.expect("ac ba bc cb")
        for gone in ("a.json", "x.json"):
            (scene.daemon.manifests / gone).unlink()
            scene.settle()
            scene.expect("ac ba bc cb")
        scene.daemon.write("x.json", namespace_manifest("x", {"team": "y"}))
        scene.settle()
        scene.expect("ab ac ba bc ca cb")
        scene.daemon.write("x.json", namespace_manifest("x", {"team": "x"}))
        scene.daemon.write("a.json", scene.a.manifest())
        scene.settle()
        scene.expect("ac ba bc cb")


@pytest.mark.parametrize(("backend", "wiring"), [("nft", "bridged"), ("legacy", "routed")])
def test_no_link_local_address_passes_by_what_is_denied(lab: Lab, backend: Backend, wiring: str) -> None:
    """Whose they are no manifest tells: one may be that of any pod or node that is meant."""
    scene = Scene(lab, backend, wiring)
    with scene.daemon:
        home = tiered("home", "Admin", "a", "egress Deny *").replace("[{pods", '[{networks: ["::/0"]}, {pods')
        cloud = tiered("cloud", "Admin", "c", "egress Deny *").replace(pods("*"), "{networks: [203.0.113.5/32]}")
        scene.enforce(home=home, cloud=cloud, into=tiered("into", "Admin", "b", "ingress Deny *"))
        assert eventually(lambda: scene.status()["without_interface"]["count"] == 0, 20)
        assert heard(scene.c, scene.node) and heard(scene.c, scene.a) == (wiring == "bridged")
        assert not heard(scene.a, scene.node) and not heard(scene.c, scene.b)
        if wiring == "bridged":
            assert heard(scene.b, scene.c) and not heard(scene.a, scene.c)
            assert heard(scene.b, scene.c, "ff02::1%eth0") and not heard(scene.a, scene.c, "ff02::1%eth0")
            assert not heard(scene.a, scene.c, link_local(scene.c))


@pytest.mark.parametrize("backend", ["nft", pytest.param("legacy", marks=SLOW)])
def test_answers_of_flows_that_link_local_addresses_opened_stop(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend, "bridged")
    with scene.daemon, ExitStack() as sockets:
        scene.enforce(guard=tiered("guard", "Admin", "a", "ingress Deny db"))
        assert eventually(lambda: scene.status()["without_interface"]["count"] == 0, 20)
        client, server = (sockets.enter_context(udp_socket(each)) for each in (scene.b, scene.c))
        with scene.b.netns.entered():
            there = socket.getaddrinfo(link_local(scene.c), server.getsockname()[1])[0][4]
        client.sendto(b"hello", there)
        _, who = server.recvfrom(10)

        def answered() -> bool:
            server.sendto(b"answer", who)
            with suppress(TimeoutError):
                return bool(client.recv(10))
            return False

        assert answered()
        scene.enforce(guard=tiered("guard", "Admin", "*", "egress Deny *"))
        assert eventually(lambda: not answered(), 10)


def udp_socket(host: Host) -> socket.socket:
    """At a port of the host's own link-local address."""
    with host.netns.entered():
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        made.bind(socket.getaddrinfo(link_local(host), 0)[0][4])
    made.settimeout(0.5)
    return made


def link_local(host: Host) -> str:
    words = host.run(["ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"]).split()
    return f"{words[words.index('inet6') + 1].partition('/')[0]}%eth0"


def heard(sender: Host, receiver: Host, there: str = "") -> bool:
    """Whether what is sent from a link-local address arrives."""
    with receiver.netns.entered():
        listener = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        listener.bind(("::", 5999))
        listener.settimeout(0.2)
    with listener, sender.netns.entered(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as outgoing:
        outgoing.bind(socket.getaddrinfo(link_local(sender), 0)[0][4])
        for _ in range(5):
            outgoing.sendto(b"hello", socket.getaddrinfo(there or receiver.address(6), 5999)[0][4])
            with suppress(TimeoutError):
                return bool(listener.recv(10))
    return False


def test_what_a_removed_policy_accepted_for_a_pod_that_goes_opens_nothing(lab: Lab) -> None:
    """A policy that is still there denies it; where none does, the pod keeps it while it goes."""
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(
            accept=tiered("accept", "Admin", "a", "egress Accept c", priority=1),
            deny=tiered("deny", "Admin", "a", "egress Deny *", priority=2),
        )
        assert eventually(lambda: scene.status()["without_interface"]["count"] == 0, 20)
        scene.expect("ac ba bc ca cb")
        (scene.daemon.manifests / "a.json").unlink()
        scene.settle()
        scene.expect("ac ba bc ca cb")
        scene.enforce(accept="")
        scene.expect("ba bc ca cb")
        scene.enforce(deny="")
        scene.expect("ac ba bc ca cb")


@SLOW
def test_a_namespace_that_ends_changes_nothing(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(guard=NO_C_TO_A)
        scene.daemon.write("x.json", {**namespace_manifest("x", {"team": "x"}), "status": {"phase": "Terminating"}})
        scene.settle()
        scene.expect("ab ac ba bc cb")


def test_a_namespace_whose_object_goes_before_its_pods_takes_no_policy_along(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    scene.enforce(deny=tiered("deny", "Admin", "b", "ingress Deny a"))
    scene.expect("ac ba bc ca cb")
    (scene.daemon.manifests / "x.json").unlink()
    scene.settle()
    scene.expect("ac ba bc ca cb")
    assert any("Namespace object x is gone" in each for each in scene.status()["warnings"])
    assert json.loads(scene.daemon.ctl("explain", "x/a", "x/b", "80/TCP", "-o", "json").stdout)["verdict"] == "deny"
    scene.daemon.stop()
    scene.settle()
    scene.expect("ac ba bc ca cb")
    scene.daemon.write("x.json", namespace_manifest("x", {"team": "y"}))
    scene.settle()
    scene.expect("ab ac ba bc ca cb")


@BOTH
def test_pods_of_other_nodes_stay_denied_when_their_namespaces_object_goes(
    lab: Lab, backend: Backend, wiring: str
) -> None:
    """Whether a pod of theirs is on this node or not; also over a restart, and when it goes before one."""
    scene = Scene(lab, backend, wiring)
    far = scene.c.manifest()
    far["metadata"]["namespace"] = "far"
    far["spec"]["nodeName"] = "elsewhere"
    scene.daemon.write("c.json", far)
    scene.daemon.write("far.json", namespace_manifest("far", {"team": "far"}))
    guard = tiered("guard", "Admin", "a", "ingress Deny c", "egress Deny c")
    team = guard.replace(pods("c"), "{namespaces: {matchLabels: {team: far}}}")
    scene.enforce(guard=team)
    with scene.daemon:
        scene.expect("ab ba bc cb")
        (scene.daemon.manifests / "far.json").unlink()
        scene.settle()
        scene.expect("ab ba bc cb")
        assert any("Namespace object far is gone" in each for each in scene.status()["warnings"])
        verdict = json.loads(scene.daemon.ctl("explain", "far/c", "x/a", "80/TCP", "-o", "json").stdout)["verdict"]
        assert verdict == "deny"
        scene.daemon.stop()
        scene.settle()
        scene.expect("ab ba bc cb")
        scene.daemon.write("far.json", namespace_manifest("far", {"team": "near"}))
        scene.settle()
        scene.expect(ALL)
        scene.daemon.write("far.json", namespace_manifest("far", {"team": "far"}))
        scene.settle()
        scene.daemon.stop()
        (scene.daemon.manifests / "far.json").unlink()
        scene.settle()
        scene.expect("ab ba bc cb")
        (scene.daemon.manifests / "c.json").unlink()
        scene.settle()
        assert not any("Namespace object" in each for each in scene.status()["warnings"])


def test_pods_that_cannot_be_read_are_among_those_denied_and_no_others(lab: Lab) -> None:
    """A pod's manifest that was never good: rules that deny hold for it, those that accept do not."""
    scene = Scene(lab, "nft")
    broken = scene.c.manifest()
    broken["spec"]["containers"][0]["ports"] = [{"containerPort": "eighty"}]
    scene.daemon.write("c.json", broken)
    with scene.daemon:
        scene.enforce(
            a=tiered("a", "Admin", "a", "ingress Accept c", "ingress Deny db"),
            b=tiered("b", "Admin", "b", "ingress Accept c"),
            deny=tiered("deny", "Baseline", "b", "ingress Deny *"),
        )
        scene.expect("ba")  # c may be any of the subjects, too


def test_an_address_of_two_pods_is_denied_if_one_is_and_accepted_if_both_are(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    twin = scene.c.manifest()
    twin["metadata"] |= {"name": "twin", "labels": {"app": "twin"}}
    twin["spec"]["nodeName"] = "elsewhere"
    with scene.daemon:
        scene.enforce(
            a=tiered("a", "Admin", "a", "ingress Deny twin"),
            b=tiered("b", "Admin", "b", "ingress Accept c", "ingress Deny *"),
        )
        scene.expect("ac ba bc ca cb")
        scene.daemon.write("twin.json", twin)
        scene.settle()
        scene.expect("ac ba bc")


# What is told of packets ----------------------------------------------------------------------------------------------

GRE, ICMP, ICMPV6 = 47, socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6
EVERYTHING_OUT = policy("np", "  podSelector: {}\n  policyTypes: [Egress]\n  egress: [{}]\n")
TIMESTAMP, INFORMATION = (bytes([each, 0]) + bytes(18) for each in (13, 139))


def send_raw(source: Host, destination: Host, protocol: int, data: bytes = b"\0\0\x08\0hello") -> None:
    family = 6 if protocol == ICMPV6 else 4
    with source.netns.entered():
        sender = socket.socket(DOMAIN[family], socket.SOCK_RAW, protocol)
    with sender:
        sender.sendto(data, (destination.address(family), 0))


def told(scene: Scene, *verdicts: str) -> list[dict[str, Any]]:
    """The events of these verdicts, but for those of forged addresses."""
    more = ("--allowed",) if "allow" in verdicts else ()
    events = map(json.loads, scene.daemon.ctl("monitor", "-o", "json", *more).stdout.splitlines())
    return [each for each in events if each["verdict"] in verdicts and each["why"] != "spoofed"]


@BOTH
def test_packets_of_any_protocol_are_told_with_the_rule_that_denies_them(
    lab: Lab, backend: Backend, wiring: str
) -> None:
    """And a NetworkPolicy that allows them is not blamed."""
    scene = Scene(lab, backend, wiring)
    with scene.daemon:
        scene.enforce(
            out=tiered("out", "Admin", "a", "egress Accept b", "egress Deny c"),
            into=tiered("into", "Baseline", "b", "ingress Deny c"),
            np=EVERYTHING_OUT,
        )
        assert eventually(lambda: scene.status()["without_interface"]["count"] == 0, 20)
        for protocol, data in ((GRE, b"\0\0\x08\0hello"), (ICMP, TIMESTAMP), (ICMPV6, INFORMATION)):
            send_raw(scene.a, scene.c, protocol, data)
            send_raw(scene.c, scene.b, protocol, data)
        assert eventually(lambda: len(told(scene, "drop")) >= 6)
        found = {
            (each["source"]["pod"], each["protocol"], each["icmp_type"]): reason(each) for each in told(scene, "drop")
        }
        ways = (("x/a", "Admin out egress[1] denies it"), ("x/c", "Baseline into ingress[0] denies it"))
        assert found == {
            (source, *seen): why for source, why in ways for seen in (("47", None), ("ICMP", 13), ("ICMP", 139))
        }
        scene.enforce(np=EVERYTHING_OUT.replace("  egress: [{}]\n", ""))
        send_raw(scene.b, scene.c, GRE)
        send_raw(scene.a, scene.c, 50, bytes(12))
        assert eventually(lambda: len(told(scene, "drop")) >= 8)
        assert {reason(each) for each in told(scene, "drop")[6:]} == {
            "x/np isolates x/b for egress, and no rule allows it",
            "Admin out egress[1] denies it",
        }


def test_of_an_address_of_two_pods_the_rule_that_denies_is_told(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    ghost = scene.a.manifest()
    ghost["metadata"] |= {"name": "ghost", "labels": {"app": "ghost"}}
    with scene.daemon:
        scene.daemon.write("ghost.json", ghost)
        scene.enforce(
            out=tiered("out", "Admin", "ghost", "egress Deny b"),
            np=policy("np", "  podSelector: {matchLabels: {app: ghost}}\n  policyTypes: [Ingress]\n"),
        )
        assert eventually(lambda: scene.status()["without_interface"]["count"] == 0, 20)
        scene.expect("ac bc cb")
        assert eventually(lambda: len({each["direction"] for each in told(scene, "drop")}) == 2)
        assert {reason(each) for each in told(scene, "drop") if each["protocol"] == "TCP"} == {
            "Admin out egress[0] denies it",
            *(f"x/np isolates {each} for ingress, and no rule allows it" for each in scene.a.addresses),
        }


def test_what_is_allowed_is_told_with_why(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(out=NOTHING_OUT, too=tiered("too", "Admin", "a", "egress Accept b"))
        assert eventually(lambda: scene.status()["without_interface"]["count"] == 0, 20)
        node = scene.node.address(4)

        def seen() -> dict[str, str]:
            """What is told of each way: from when on it was asked for."""
            for there in (node, scene.b.addresses[0]):
                scene.a.run(["ping", "-c1", "-W1", there])
            scene.b.run(["ping", "-c1", "-W1", scene.c.addresses[0]])
            return {way(each): reason(each) for each in told(scene, "allow")}

        assert eventually(lambda: len(seen()) >= 3), seen()
        assert seen() == {
            f"x/a -> {node} ICMP": "no tier denies it, and NetworkPolicies leave traffic between a node and its own "
            "pods free",
            "x/a -> x/b ICMP": "by Admin too egress[0]",
            "x/b -> x/c ICMP": "no policy isolates x/b for egress; no policy isolates x/c for ingress",
        }


@OTHERWISE
def test_what_is_judged_for_the_own_node_is_counted_as_judged(lab: Lab, backend: Backend, wiring: str) -> None:
    """Whether a tier denies it or not; nothing that is dropped is missing there."""
    scene = Scene(lab, backend, wiring)
    away, node = scene.b.addresses[0], scene.node.address(4)
    with scene.daemon:
        denied = ", ".join(f"{each}/32" for each in (away, node))
        out = tiered("out", "Admin", "a", "egress Deny *").replace(pods("*"), f"{{networks: [{denied}]}}")
        scene.enforce(out=out)
        assert eventually(lambda: scene.status()["without_interface"]["count"] == 0, 20)
        with scene.a.netns.entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            for there in (away, *[node] * 10, scene.c.addresses[0]):
                sender.sendto(b"x", (there, 9))

        def counts() -> tuple[int, int]:
            found = json.loads(scene.daemon.ctl("pod", "x/a", "-o", "json").stdout)["egress"]
            assert any(name.startswith("NP-HOST-") for name in found["chains"]["IPv4"])
            return found["judged"]["packets"], found["dropped"]["packets"]

        assert eventually(lambda: counts()[1] >= 11), counts()
        assert eventually(lambda: counts()[0] > counts()[1]), counts()
        assert {way(each): reason(each) for each in told(scene, "drop")} == {
            f"x/a -> {end} 9/UDP": "Admin out egress[0] denies it" for end in ("x/b", node)
        }


AUDITED = "metadata: {annotations: {netpold.io/mode: audit}, "


@OTHERWISE
def test_a_packet_that_two_audited_policies_report_is_one(lab: Lab, backend: Backend, wiring: str) -> None:
    scene = Scene(lab, backend, wiring)
    with scene.daemon:
        scene.enforce(
            out=tiered("out", "Admin", "a", "egress Deny c").replace("metadata: {", AUDITED),
            too=tiered("too", "Baseline", "a", "egress Deny c").replace("metadata: {", AUDITED),
            np=NOTHING_OUT.replace("metadata: {", AUDITED),
        )
        assert eventually(lambda: scene.status()["without_interface"]["count"] == 0, 20)
        send_raw(scene.a, scene.c, GRE)
        send_raw(scene.a, scene.b, 50, bytes(12))
        assert eventually(lambda: len(told(scene, "audit")) >= 2)
        assert [(each["protocol"], each["packets"], reason(each)) for each in told(scene, "audit")] == [
            ("47", 1, "Admin out egress[0] would deny it"),
            ("50", 1, "x/out isolates x/a for egress, and no rule allows it"),
        ]
        rows = json.loads(scene.daemon.ctl("audit", "-o", "json").stdout)["rows"]
        assert {(row["protocol"], row["packets"], *row["isolating"], row["now"]) for row in rows} == {
            ("47", 1, "out", "audit"),
            ("50", 1, "x/out", "audit"),
        }


def test_what_an_audit_suggests_takes_nothing_away(lab: Lab) -> None:
    """It is in audit mode as what it stands beside; what is said of a tier alone isolates nobody."""
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(
            guard=tiered("guard", "Admin", "b", "ingress Deny a").replace("metadata: {", AUDITED),
            base=tiered("base", "Baseline", "c", "egress Deny b").replace("metadata: {", AUDITED),
            np=NOTHING_OUT.replace("metadata: {", AUDITED),
        )
        scene.expect("ab ac ba bc ca cb")

        def audit() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(scene.daemon.ctl("audit", "-o", "json").stdout)
            return found

        def why_not() -> dict[tuple[str, str, str], str | None]:
            return {
                (row["source"]["pod"], row["destination"]["pod"], row["direction"]): row["not_suggested"]
                for row in audit()["rows"]
                if row["port"] == 80 and row["protocol"] == "TCP"
            }

        assert eventually(lambda: len(why_not()) >= 4)
        told, why = audit(), why_not()
        assert why == {
            ("x/a", "x/b", "ingress"): "Admin guard ingress[0] would deny it, whatever NetworkPolicies say",
            ("x/c", "x/b", "egress"): "Baseline base egress[0] would deny it, and no NetworkPolicy isolates x/c for "
            "egress: one that allowed it would shut out all else; let a rule before that one accept it",
            ("x/a", "x/b", "egress"): None,
            ("x/a", "x/c", "egress"): None,
        }
        (suggestion,) = told["suggestions"]
        assert suggestion["pods"] == ["x/a"]
        assert suggestion["policy"]["metadata"]["annotations"] == {"netpold.io/mode": "audit"}
        scene.enforce(suggested=suggestion["yaml"])
        assert not lab.differences({Probe(scene.a, scene.b, "UDP", 7, 4): True})  # which nobody had seen
        text = scene.daemon.ctl("audit").stdout
        assert "x/c -> x/b 80/TCP\n" in text
        assert f"    {why['x/c', 'x/b', 'egress']}\n" in text
        scene.expect("ab ac ba bc ca cb")
        # enforced again: what was dropped while it was so is no reason to allow it, and nor is what audits it now
        assert "is NOT allowed" not in scene.daemon.ctl("suggest", "x/b").stdout
        scene.enforce(guard=tiered("guard", "Admin", "b", "ingress Deny a"))
        assert not lab.differences({Probe(scene.a, scene.b, "TCP", 80, 4): False})
        assert eventually(lambda: "is NOT allowed: Admin guard" in scene.daemon.ctl("suggest", "x/b").stdout)
        scene.enforce(guard=tiered("guard", "Admin", "b", "ingress Deny a").replace("metadata: {", AUDITED))
        assert "is NOT allowed" not in scene.daemon.ctl("suggest", "x/b").stdout


# Changes under traffic ------------------------------------------------------------------------------------------------


class Sprayer:
    """Sends to a port by UDP from fresh source ports all the time, a new connection each; counts what arrives."""

    def __init__(self, source: Host, destination: Host, port: int, family: int = 4) -> None:
        kind = socket.AF_INET6 if family == 6 else socket.AF_INET
        self._to = (destination.address(family), port)
        with destination.netns.entered():
            self._server = socket.socket(kind, socket.SOCK_DGRAM)
        self._server.bind(self._to)
        self._server.setblocking(False)
        with source.netns.entered():
            self._clients = [socket.socket(kind, socket.SOCK_DGRAM) for _ in range(400)]
        for number, client in enumerate(self._clients):
            client.bind((source.address(family), 20000 + number))
        self.sent = self.arrived = 0

    def spray(self) -> None:
        """One from each of some ports that were not used for a while."""
        for _ in range(20):
            self._clients[self.sent % len(self._clients)].sendto(struct.pack("!Q", self.sent), self._to)
            self.sent += 1
        try:
            while True:
                self._server.recv(64)
                self.arrived += 1
        except BlockingIOError:
            pass

    def close(self) -> None:
        for each in (self._server, *self._clients):
            each.close()


@contextmanager
def spraying(*several: Sprayer) -> Iterator[None]:
    """While the block runs, and until all of it has arrived."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            for each in several:
                each.spray()
            time.sleep(0.002)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        time.sleep(0.05)
        for each in several:
            each.spray()
            each.close()


GENTLE = {"guard": tiered("guard", "Admin", "a", "ingress Deny c", priority=10)}
CHANGES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    # what is denied (c to a) and what is allowed (b to a) before and after
    "renamed": (GENTLE, {"guard": GENTLE["guard"].replace("name: guard", "name: warden")}),
    "to another file": ({**GENTLE, "warden": ""}, {"guard": "", "warden": GENTLE["guard"]}),
    "priorities": (
        {"guard": GENTLE["guard"] + "---\n" + tiered("free", "Admin", "a", "ingress Accept *", priority=20)},
        {
            "guard": GENTLE["guard"].replace("10", "5")
            + "---\n"
            + tiered("free", "Admin", "a", "ingress Accept *", priority=7)
        },
    ),
    "tier": (
        {"guard": tiered("guard", "Baseline", "a", "ingress Deny c")},
        {
            "guard": tiered("guard", "Admin", "a", "ingress Deny c")
            + "---\n"
            + policy("all", "  podSelector: {}\n  ingress: [{}]\n")
        },
    ),
    "peers": (
        {"guard": tiered("guard", "Admin", "a", "ingress Deny c")},
        {"guard": tiered("guard", "Admin", "a", "ingress Deny c", "ingress Accept b", "ingress Deny *")},
    ),
}


@pytest.mark.parametrize(
    ("backend", "change"),
    [
        pytest.param(each, change, marks=[] if (each, change) == ("legacy", "tier") else SLOW)
        for each in BACKENDS
        for change in CHANGES
    ],
)
def test_packets_see_the_old_or_the_new(lab: Lab, backend: Backend, change: str) -> None:
    """Ten changes to and fro: what both deny never arrives, what both allow always does."""
    scene = Scene(lab, backend)
    old, new = CHANGES[change]
    with scene.daemon:
        scene.enforce(**{name: text for name, text in old.items() if text})
        denied, allowed = Sprayer(scene.c, scene.a, 80), Sprayer(scene.b, scene.a, 81)
        with spraying(denied, allowed):
            for number in range(10):
                put(scene, (new, old)[number % 2])
                scene.settle()
        assert denied.sent > 1000 and denied.arrived == 0
        assert allowed.arrived == allowed.sent


def put(scene: Scene, files: dict[str, str]) -> None:
    """First what is new, then what goes: two files can't change at once."""
    for name, text in sorted(files.items(), key=lambda each: not each[1]):
        if text:
            scene.daemon.write(f"{name}.yaml", text)
        else:
            (scene.daemon.manifests / f"{name}.yaml").unlink(missing_ok=True)


@BOTH
def test_open_connections_end_when_a_tier_denies_them(lab: Lab, backend: Backend, wiring: str) -> None:
    """A rule that is new, a pod that comes among a Deny's peers, a policy that moves up and overtakes an Accept."""
    scene = Scene(lab, backend, wiring)
    free = tiered("free", "Admin", "a", "ingress Accept *", priority=5)
    with scene.daemon:
        scene.enforce(guard=tiered("guard", "Admin", "a", "ingress Deny db"))
        for how in ("rule", "peer", "priority", "egress"):
            scene.enforce(
                guard=tiered("guard", "Admin", "a", "ingress Deny db"), free=free if how == "priority" else "# none\n"
            )
            scene.daemon.write("c.json", scene.c.manifest())
            scene.settle()
            flow = lab.flow(scene.c, scene.a)
            udp = lab.flow(scene.c, scene.a, "UDP", 81, "client")  # the other way is free
            other = lab.flow(scene.b, scene.a, port=82)
            assert flow.moving() and udp.moving() and other.moving()
            if how == "peer":
                relabelled = scene.c.manifest()
                relabelled["metadata"]["labels"] = {"app": "db"}
                scene.daemon.write("c.json", relabelled)
            elif how == "egress":
                scene.daemon.write("guard.yaml", tiered("guard", "Admin", "c", "egress Deny a"))
            else:
                first = 1 if how == "priority" else 10
                scene.daemon.write("guard.yaml", tiered("guard", "Admin", "a", "ingress Deny c", priority=first))
            scene.settle()
            assert flow.stopped() is not None and udp.stopped() is not None, how
            assert other.moving(), how
            lab.close_flows()


# Trials and rollbacks -------------------------------------------------------------------------------------------------


def test_a_trial_of_tiers_ends_and_a_rollback_brings_them_back(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    directory = scene.node.site.directory / "tried"
    directory.mkdir()
    (directory / "policies.yaml").write_text(tiered("guard", "Admin", "b", "ingress Deny a"))
    with scene.daemon:
        scene.enforce(guard=NO_C_TO_A)
        scene.expect("ab ac ba bc cb")
        done = scene.daemon.ctl("try", str(directory), "--for", "60s")
        assert done.returncode == 0, done.stderr
        scene.expect("ac ba bc ca cb")
        assert scene.daemon.ctl("try", "--end").returncode == 0
        scene.expect("ab ac ba bc cb")
        scene.enforce(guard=tiered("guard", "Admin", "c", "ingress Deny a"))
        scene.expect("ab ba bc ca cb")
        done = scene.daemon.ctl("rollback")
        assert done.returncode == 0, done.stderr
        scene.expect("ab ac ba bc cb")


# Nodes as peers -------------------------------------------------------------------------------------------------------


def node_object(node: Node, **labels: str) -> Object:
    addresses = [{"type": "InternalIP", "address": address} for address in node.addresses]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "status": {"addresses": addresses},
    }


ON_NODES = """apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: nodes}
spec:
  tier: Admin
  priority: 75
  subject: {namespaces: {matchLabels: {team: x}}}
  egress:
  - action: Accept
    to: [{nodes: {matchLabels: {os: linux}}}]
    protocols: [{tcp: {destinationPort: {number: 36363}}}]
  - action: Deny
    to: [{nodes: {}}]
"""


@OTHERWISE
def test_a_server_on_a_nodes_network_is_a_node(lab: Lab, backend: Backend, wiring: str) -> None:
    """On the pod's own node, and on another one; the node itself reaches its pods, whatever is denied to these."""
    near, far = lab.node("near"), lab.node("far")
    lab.connect(near, far)
    make = near.routed_pod if wiring == "routed" else near.bridged_pod
    client = make("x", "client", labels={"app": "client"})
    servers = [near.host_pod("x", "near-server", {"app": "s"}), far.host_pod("x", "far-server", {"app": "s"})]
    isolated = policy("isolated", "  podSelector: {}\n  policyTypes: [Ingress, Egress]\n")
    baseline = ON_NODES.replace("Admin", "Baseline")
    with Daemon(near, backend) as daemon:
        daemon.write("x.json", namespace_manifest("x", {"team": "x"}))
        daemon.write("pods.json", client.manifest(), *(each.manifest() for each in servers))
        daemon.write("nodes.json", node_object(near, os="linux"), node_object(far, os="linux"))

        def reached(text: str, port: int, expected: tuple[bool, bool], **nodes: str) -> None:
            daemon.write("policies.yaml", text)
            daemon.write("nodes.json", node_object(near, **nodes), node_object(far, os="linux"))
            daemon.wait(20)
            near.flush_conntrack()
            probes = {
                Probe(client, address, protocol, port, family_of(address)): each
                for server, each in zip(servers, expected, strict=True)
                for address in server.addresses
                for protocol in (("TCP",) if port == 36363 else ("TCP", "UDP", "SCTP"))
            }
            backwards = {Probe(near, client, "TCP", 80, family): True for family in (4, 6)}
            assert not lab.differences(probes | backwards)

        linux = {"os": "linux"}
        reached(ON_NODES, 36363, (True, True), **linux)
        reached(ON_NODES, 36364, (False, False), **linux)
        reached(ON_NODES, 36363, (False, True), os="windows")
        reached(baseline, 36363, (True, True), **linux)
        reached(baseline, 36364, (False, False), **linux)
        # a NetworkPolicy that isolates the pod leaves its own node to it; the tier above does not
        reached(isolated, 36364, (True, False), **linux)
        reached(f"{isolated}---\n{baseline}", 36364, (True, False), **linux)
        reached(f"{isolated}---\n{ON_NODES}", 36364, (False, False), **linux)
        reached(f"{isolated}---\n{ON_NODES}", 36363, (True, True), **linux)


@OTHERWISE
def test_all_addresses_are_those_of_the_own_node_too(lab: Lab, backend: Backend, wiring: str) -> None:
    """A gateway, too, which no Node object names; what the pod is asked it may answer."""
    scene = Scene(lab, backend, wiring)
    everywhere = """apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: nowhere}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {podSelector: {matchLabels: {app: a}}}}
  egress:
  - action: Accept
    to: [{networks: [0.0.0.0/0]}]
    protocols: [{tcp: {destinationPort: {number: 53}}}]
  - action: Deny
    to: [{networks: [0.0.0.0/0, "::/0"]}]
"""
    gateways = {"routed": ["10.99.0.1", "fd99::1"], "bridged": ["10.99.0.1", "fd99::1", "10.72.8.1", "fd72:0:0:8::1"]}
    with scene.daemon:
        scene.enforce(nowhere=everywhere)
        expected = {
            Probe(pod, address, protocol, port, family_of(address), arrives_at=scene.node): pod is scene.b
            or (protocol, port, family_of(address)) == ("TCP", 53, 4)
            for pod in (scene.a, scene.b)
            for address in gateways[wiring]
            for protocol, port in (("TCP", 53), ("UDP", 53), ("TCP", 80), ("ICMP", 0))
        }
        assert not lab.differences(expected)
        scene.expect("ba bc ca cb")
