"""The daemon on a real kernel: what it does to its rules, and to nobody else's, over its whole life."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.lab import Backend, Lab, Node, Outcome, Pod, Probe, every
from tests.lab.daemon import Daemon

pytestmark = pytest.mark.kernel

FOREIGN = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:OTHER - [0:0]
-A INPUT -p tcp -m tcp --dport 22 -m comment --comment "another program's" -j ACCEPT
-A FORWARD -s 198.51.100.0/24 -j OTHER
-A FORWARD -m conntrack --ctstate INVALID -j OTHER
-A OTHER -m limit --limit 3/min -j RETURN
-A OTHER -j DROP
COMMIT
"""


def policy(name: str, body: str, namespace: str = "x") -> str:
    head = (
        f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
    )
    return f"{head}spec:\n{body}"


DENY_ALL = policy("deny-all", "  podSelector: {}\n  policyTypes: [Ingress, Egress]\n")
A_TO_B = policy(
    "a-to-b",
    """  podSelector: {matchLabels: {app: b}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: a}}}]
    ports: [{port: 80}, {port: 80, protocol: UDP}]
""",
)
A_OUT = policy(
    "a-out",
    """  podSelector: {matchLabels: {app: a}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: b}}}]
""",
)


class Scene:
    """A node with the pods a and b, one way or another, and a daemon that has not started yet."""

    def __init__(self, lab: Lab, backend: Backend, wiring: str = "routed", config: str = "") -> None:
        self.lab = lab
        self.node: Node = lab.node("n1")
        make = self.node.routed_pod if wiring == "routed" else self.node.bridged_pod
        self.a, self.b, self.c = (make("x", name, labels={"app": name}) for name in "abc")
        settings = self.node.site.directory / "netpold.toml"
        settings.write_text(config)
        self.daemon = Daemon(self.node, backend, args=["--config", str(settings)])
        self.inventory()

    def inventory(self) -> None:
        self.daemon.write("pods.json", *(pod.manifest(node=False) for pod in (self.a, self.b, self.c)))

    def enforce(self, **files: str) -> None:
        for name, text in files.items():
            self.daemon.write(f"{name}.yaml", text)
        if not self.daemon.running:
            self.daemon.start()
        self.daemon.wait(20)

    def state(self) -> str:
        """What the daemon says, also where `status` exits with 1 because it is degraded."""
        text: str = json.loads(self.daemon.ctl("status", "-o", "json").stdout)["state"]
        return text

    def passes(self, source: Pod | Node, destination: Pod | Node, protocol: str = "TCP", family: int = 4) -> bool:
        probe = Probe(source, destination, protocol, 80, family)
        return self.lab.probe([probe], attempts=2)[probe] is Outcome.OK


def eventually(condition: Callable[[], bool], timeout: float = 5.0) -> bool:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@contextmanager
def foreign_rules(node: Node, backend: Backend) -> Iterator[Callable[[], list[str]]]:
    """Rules and a set of another program; gives what of the kernel is not netpold's, without counters and comments."""
    node.run(["ipset", "restore"], "create other hash:ip\nadd other 198.51.100.7\n")
    for family in (4, 6):
        tool = f"{'ip6tables' if family == 6 else 'iptables'}-{backend}-restore"
        node.run([tool], FOREIGN.replace("198.51.100.0/24", "2001:db8:7::/64") if family == 6 else FOREIGN)

    def others() -> list[str]:
        text = [line for family in (4, 6) for line in node.iptables_save(backend, family).splitlines()]
        own = ("NETPOLD-", "NP-", "NP4-", "NP6-")
        lines = [
            line.split("[")[0] if line.startswith(":") else line for line in (*text, *node.ipset_save().splitlines())
        ]
        return [
            line
            for line in lines
            if line[:1] != "#" and not any(word.startswith(own) for word in line.replace(":", " ").split())
        ]

    yield others


def test_other_programs_rules_stay_and_a_flush_leaves_nothing(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    with foreign_rules(scene.node, backend) as others, scene.daemon:
        before = others()
        assert len(before) > 15
        scene.enforce(deny=DENY_ALL)
        assert others() == before
        assert not scene.passes(scene.a, scene.b)
        scene.enforce(allow=A_TO_B, out=A_OUT)
        assert scene.passes(scene.a, scene.b)
        done = scene.daemon.ctl("flush")
        assert done.returncode == 0, done.stderr
        assert others() == before
        everything = scene.node.ipset_save() + "".join(scene.node.iptables_save(backend, family) for family in (4, 6))
        assert "NP" not in everything.replace("INPUT", "")
        assert scene.state() == "degraded"
        status = json.loads(scene.daemon.ctl("status", "-o", "json").stdout)
        assert set(status["rules"].values()) == {0} and (status["sets"], status["pods"]["isolated"]) == (0, 0)
        for verb, code in ((("verify",), 1), (("explain", "x/a", "x/b", "80/TCP"), 2)):
            done = scene.daemon.ctl(*verb)
            assert done.returncode == code and "nothing is in force" in done.stderr and "restart" in done.stderr


def test_a_flush_that_the_kernel_refuses_says_so_and_leaves_everything_enforced(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B)
        name = next(line.split()[1] for line in scene.node.ipset_save().splitlines() if line.startswith("create NP4-"))
        scene.node.iptables("nft", 4, "-A", "OUTPUT", "-m", "set", "--match-set", name, "dst")
        done = scene.daemon.ctl("flush")
        assert done.returncode == 1
        assert name in done.stderr
        assert eventually(lambda: scene.state() == "enforcing")
        assert not scene.passes(scene.a, scene.b)
        assert len(re.findall("degraded: .*still in use", scene.daemon.errors())) == 1


def test_flush_works_without_a_daemon_too(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    scene.enforce(deny=DENY_ALL)
    scene.daemon.stop()
    scene.node.run(["/usr/bin/python3", "-m", "netpold.ctl", "--socket", str(scene.daemon.socket), "flush"])
    assert scene.passes(scene.a, scene.b)
    assert "NP4-" not in scene.node.ipset_save()


def test_sigterm_leaves_the_rules_and_a_restart_takes_over_without_a_gap(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
    allowed = lab.flow(scene.a, scene.b, "UDP", 80, interval=0.001)
    assert scene.daemon.stop() == 0
    assert not scene.passes(scene.c, scene.b)
    scene.node.run(["ipset", "create", "NP4-leftover", "hash:ip"])
    scene.node.iptables(backend, 4, "-N", "NP-RULES-leftover")
    leak = Probe(scene.c, scene.b, "UDP", 80)
    scene.daemon.start()
    arrived = []
    while not scene.daemon.socket.exists() or scene.state() == "starting":
        arrived.append(lab.probe([leak], deadline=0.05)[leak])
    scene.daemon.wait()
    assert Outcome.OK not in arrived
    assert Outcome.NO_ANSWER not in arrived
    allowed.pause()
    assert allowed.forward.missing == 0
    assert allowed.backward.missing == 0
    assert "leftover" not in scene.node.ipset_save() + scene.node.iptables_save(backend, 4)


def test_kill_keeps_the_rules(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    scene.enforce(deny=DENY_ALL)
    scene.daemon.kill()
    assert not scene.passes(scene.a, scene.b)
    scene.daemon.start()
    scene.enforce(allow=A_TO_B, out=A_OUT)
    assert scene.passes(scene.a, scene.b)
    scene.daemon.stop()


def test_what_another_program_flushes_is_put_back_by_the_next_look(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend, config="rescan_s = 1\n")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        scene.node.iptables(backend, 4, "-F", "FORWARD")
        assert eventually(lambda: "-A FORWARD -j NETPOLD-FORWARD" in scene.node.iptables_save(backend, 4))
        scene.node.iptables(backend, 4, "-I", "FORWARD", "-j", "ACCEPT")
        assert eventually(lambda: not scene.passes(scene.a, scene.b))
        scene.node.iptables(backend, 4, "-F")  # no -X after it: its chains are full again before that comes
        assert eventually(lambda: "NP-IN-" in scene.node.iptables_save(backend, 4))
        assert eventually(lambda: not scene.passes(scene.a, scene.b))


def test_a_broken_manifest_stops_nothing_else(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        broken = policy(
            "broken", "  podSelector: {matchLabels: {app: c}}\n  ingress:\n    from:\n      podSelector: {}\n"
        )
        scene.enforce(broken=broken, text="spec: [", deny=policy("b", "  podSelector: {matchLabels: {app: b}}\n"))
        status = scene.daemon.status()
        assert status["state"] == "enforcing"
        assert status["policies"]["rejected"] == 1
        fault = next(each for each in status["findings"] if each["subject"].endswith("x/broken"))
        assert fault["line"] > 1
        assert fault["cure"]
        assert not scene.passes(scene.a, scene.b)
        assert not scene.passes(scene.a, scene.c)  # quarantined: isolated, nothing granted
        assert scene.passes(scene.b, scene.a)
        scene.enforce(broken=policy("broken", "  podSelector: {matchLabels: {app: c}}\n  ingress: [{}]\n"))
        assert scene.passes(scene.a, scene.c)
        # an error later on leaves the last good version in force
        scene.enforce(broken=broken)
        assert scene.passes(scene.a, scene.c)


def test_the_manifests_directory_goes_and_comes(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        away = scene.daemon.manifests.with_name("away")
        scene.daemon.manifests.rename(away)
        assert eventually(lambda: scene.state() == "degraded")
        assert not scene.passes(scene.a, scene.b)
        away.rename(scene.daemon.manifests)
        assert eventually(lambda: scene.state() == "enforcing")
        assert not scene.passes(scene.a, scene.b)


@pytest.mark.parametrize("wiring", ["routed", "bridged"])
def test_a_pod_on_another_interface_takes_its_rules_along(lab: Lab, backend: Backend, wiring: str) -> None:
    scene = Scene(lab, backend, wiring)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        assert scene.passes(scene.a, scene.b)
        scene.b.replug("vethother")
        assert eventually(lambda: "NP-IN-vethother" in scene.node.iptables_save(backend, 4))
        assert scene.passes(scene.a, scene.b)
        assert not scene.passes(scene.c, scene.b)


@pytest.mark.parametrize(
    "harm",
    [
        ["{iptables}", "-w", "-F", "NETPOLD-FORWARD"],
        ["{iptables}", "-w", "-D", "NETPOLD-FORWARD", "1"],
        ["{iptables}", "-w", "-I", "NETPOLD-TO", "1", "-j", "RETURN"],
        ["{iptables}", "-w", "-D", "FORWARD", "-j", "NETPOLD-FORWARD"],
        ["ipset", "add", "{set}", "{c}"],
        ["ipset", "flush", "{set}"],
    ],
    ids=" ".join,
)
def test_what_another_program_changed_is_put_back(lab: Lab, backend: Backend, harm: list[str]) -> None:
    scene = Scene(lab, backend, config="rescan_s = 1\n")
    with scene.daemon:
        peer = "  ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]\n"
        scene.enforce(deny=policy("b", "  podSelector: {matchLabels: {app: b}}\n" + peer))
        assert scene.passes(scene.a, scene.b) and not scene.passes(scene.c, scene.b)
        peers = next(
            words[1]
            for words in map(str.split, scene.node.ipset_save().splitlines())
            if words[0] == "add" and words[2] == scene.a.address(4) and "DROPPED" not in words[1]
        )
        named = {"iptables": f"iptables-{backend}", "set": peers, "c": scene.c.address(4)}
        scene.node.run([word.format(**named) for word in harm])
        assert eventually(lambda: "they are put back" in scene.daemon.errors(), 20), scene.daemon.errors()
        assert scene.passes(scene.a, scene.b) and not scene.passes(scene.c, scene.b)
        time.sleep(2.5)  # two more looks find nothing
        assert scene.daemon.errors().count("they are put back") == 1


@pytest.mark.parametrize("wiring", ["routed", "bridged"])
def test_nothing_leaks_while_a_pod_changes_its_interface(lab: Lab, backend: Backend, wiring: str) -> None:
    scene = Scene(lab, backend, wiring)
    with scene.daemon:
        scene.enforce(deny=policy("b", "  podSelector: {matchLabels: {app: b}}\n"))
        receiver, sender = udp(scene.b, 80), udp(scene.c)
        receiver.setblocking(False)
        stop = threading.Event()

        def flood() -> None:
            while not stop.wait(0.0005):
                with suppress(OSError):  # no route while the interface is away
                    sender.sendto(b"denied", (scene.b.address(4), 80))

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            for name in ("vethone", "vethtwo", "veththree"):
                scene.b.replug(name)
                # until a silent pod behind a bridge is found again by asking for it, it is judged by its address
                assert eventually(lambda name=name: f"NP-IN-{name}" in scene.node.iptables_save(backend, 4), 30)
        finally:
            stop.set()
            thread.join()
        with pytest.raises(BlockingIOError):
            receiver.recv(10)
        scene.enforce(deny=policy("b", "  podSelector: {matchLabels: {app: b}}\n  ingress: [{}]\n"))
        assert eventually(lambda: bool(sender.sendto(b"allowed", (scene.b.address(4), 80))) and arrived(receiver))


def arrived(receiver: socket.socket) -> bool:
    with suppress(BlockingIOError):
        return receiver.recv(10) == b"allowed"
    return False


def test_a_connection_from_before_the_first_policy_is_judged_by_who_began_it(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce()
        flow = lab.flow(scene.a, scene.b, "TCP", 80, sender="both")
        assert flow.moving()
        scene.enforce(deny=policy("b", "  podSelector: {matchLabels: {app: b}}\n"))
        assert flow.stopped(timeout=3.0) is not None


@pytest.mark.parametrize("wiring", ["routed", "bridged"])
def test_no_pod_can_use_an_address_that_is_not_its_own(lab: Lab, backend: Backend, wiring: str) -> None:
    scene = Scene(lab, backend, wiring)
    with scene.daemon:
        scene.enforce(allow=A_TO_B)  # neither a nor c is isolated
        assert eventually(lambda: scene.daemon.status()["pods"]["without_interface"] == 0)  # a was found behind its own
        spoofs = []
        for family in (4, 6):
            scene.c.spoof(scene.a.address(family))
            spoofs.append(Probe(scene.c, scene.b, "UDP", 80, family, source_address=scene.a.address(family)))
            spoofs.append(Probe(scene.c, scene.node, "UDP", 80, family, source_address=scene.a.address(family)))
        assert set(lab.probe(spoofs).values()) <= {Outcome.NO_REQUEST, Outcome.UNSENT}
        assert scene.passes(scene.a, scene.b)


def test_node_and_its_pods_are_free_unless_the_settings_say_otherwise(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        pairs = every([scene.node], [scene.a, scene.b], [("TCP", 80), ("ICMP", 0)])
        pairs += every([scene.a, scene.b], [scene.node], [("TCP", 80), ("ICMP", 0)])
        assert set(lab.probe(pairs, attempts=2).values()) == {Outcome.OK}


def test_node_and_its_pods_are_judged_where_the_settings_say_so(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend, config='host_access = "policy"\nhost_to_pods = "policy"\n')
    with scene.daemon:
        block = f"{{ipBlock: {{cidr: {scene.node.address(4)}/32}}}}"
        selects_b = "  podSelector: {matchLabels: {app: b}}\n"
        from_node = policy("from-node", f"{selects_b}  ingress:\n  - from: [{block}]\n")
        scene.enforce(deny=DENY_ALL, node=from_node)
        assert not scene.passes(scene.node, scene.a)
        assert not scene.passes(scene.a, scene.node)
        assert not scene.passes(scene.a, scene.node, family=6)
        assert scene.passes(scene.node, scene.b)
        assert not scene.passes(scene.node, scene.b, family=6)
        # without that setting, the jump from OUTPUT goes too
        Path(scene.daemon.args[-1]).write_text('host_access = "policy"\n')
        scene.daemon.stop()
        scene.enforce()
        assert scene.passes(scene.node, scene.a)
        assert eventually(lambda: "NETPOLD-OUTPUT" not in scene.node.iptables(backend, 4, "-S"))
        assert scene.daemon.ctl("verify").returncode == 0


def test_accept_overrules_a_host_that_drops_forwarded_packets(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend, config="accept = true\n")
    outside = lab.outside(scene.node)
    other = lab.outside(scene.node, ["198.51.100.9", "2001:db8:9::9"])
    with scene.daemon:
        for family in (4, 6):
            scene.node.iptables(backend, family, "-P", "FORWARD", "DROP")
        scene.enforce(allow=A_TO_B)
        for family in (4, 6):
            assert scene.passes(scene.a, scene.b, family=family)
            assert scene.passes(scene.a, scene.c, family=family)
            assert not scene.passes(scene.c, scene.b, family=family)
            foreign = Probe(outside, other, "TCP", 80, family)
            assert lab.probe([foreign])[foreign] is Outcome.NO_REQUEST


def test_neighbour_discovery_passes_on_a_bridge_where_everything_else_is_denied(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend, "bridged")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        for pod in (scene.a, scene.b):
            pod.run(["ip", "neigh", "flush", "dev", "eth0"])
        assert scene.passes(scene.a, scene.b, family=6)
        assert scene.passes(scene.a, scene.b, family=4)
        assert not scene.passes(scene.a, scene.b, "ICMP", family=6)


def udp(pod: Pod, port: int = 0) -> socket.socket:
    with pod.netns.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((pod.address(4), port))
    sock.settimeout(2.0)
    return sock


def test_icmp_errors_about_known_connections_pass_both_ways(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        client = udp(scene.a)
        client.connect((scene.b.address(4), 80))
        client.send(b"nobody listens")
        with pytest.raises(ConnectionRefusedError):  # b may send nothing of its own, but an error about what a sent
            client.recv(10)
        # and an error from a about b's answer
        server = udp(scene.b, 80)
        client = udp(scene.a)
        client.sendto(b"hello", (scene.b.address(4), 80))
        _, peer = server.recvfrom(10)
        client.close()
        server.connect(peer)
        server.send(b"too late")
        with pytest.raises(ConnectionRefusedError):
            server.recv(10)
        server.close()


@pytest.mark.parametrize("sender", ["client", "both"])
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_tighter_policy_stops_open_connections(lab: Lab, backend: Backend, protocol: str, sender: str) -> None:
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        flow = lab.flow(scene.a, scene.b, protocol, 80, sender=sender)  # type: ignore[arg-type]
        assert flow.moving()
        scene.enforce(allow=A_TO_B.replace("app: a}", "app: c}"))
        assert flow.stopped(timeout=3.0) is not None
        scene.enforce(allow=A_TO_B)
        assert scene.passes(scene.a, scene.b, protocol)


def test_a_udp_stream_that_only_the_server_sends_stops_too(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        flow = lab.flow(scene.a, scene.b, "UDP", 80, sender="server")
        assert flow.moving()
        scene.enforce(allow=A_TO_B.replace("app: a}", "app: c}"))
        assert flow.stopped(timeout=3.0) is not None


def test_the_other_backend_s_rules_go_when_the_backend_changes(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    scene.enforce(deny=DENY_ALL)
    scene.daemon.stop()
    legacy = Daemon(scene.node, "legacy", directory=scene.daemon.manifests.parent)
    with legacy:
        legacy.wait(20)
        assert "NETPOLD" not in scene.node.iptables_save("nft", 4)
        assert "NETPOLD-FORWARD" in scene.node.iptables_save("legacy", 4)
        assert not scene.passes(scene.a, scene.b)


def test_a_pod_is_found_where_nothing_is_written_about_it(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    pods = [
        scene.node.cni_pod("x", "d", plugin="bridge", labels={"app": "d"}),
        scene.node.cni_pod("x", "e", plugin="ptp", labels={"app": "e"}),
    ]
    with scene.daemon:
        scene.daemon.write("more.json", *(pod.manifest(node=False) for pod in pods))
        scene.enforce(deny=DENY_ALL)
        assert eventually(lambda: scene.daemon.status()["pods"]["without_interface"] == 0)
        assert scene.daemon.status()["pods"]["local"] == 5
        assert set(lab.probe(every(pods, [*pods, scene.a], [("TCP", 80)])).values()) == {Outcome.NO_REQUEST}


def test_the_socket_answers_while_rules_are_applied(lab: Lab, tmp_path: Path) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        lines = scene.node.run(["curl", "-s", "--unix-socket", str(scene.daemon.socket), "http://netpold/v1/status"])
        assert json.loads(lines)["state"] == "enforcing"
