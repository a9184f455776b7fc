"""Open flows through a real node, that stop when what is enforced no longer allows them: these, and no others.

Most tests play the daemon's loop with rulesets written by hand; the last ones run the daemon.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

import pytest

from netpold.daemon import cutter
from netpold.daemon.cutter import Cutter
from netpold.host import conntrack
from netpold.host.kernel import ipset
from netpold.host.kernel.apply import apply, installed
from netpold.host.kernel.backend import KernelError
from netpold.host.kernel.legacy import Legacy
from netpold.host.kernel.nft import Nft
from netpold.policy.model import Family
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.plan import Installed, plan
from netpold.rules.revoke import REVOKED, Enforced, forgotten_rule, revoked_rule, revoked_set
from netpold.rules.ruleset import FAMILIES, Address, InSet, IPSet, Match, Reply, Rule, Ruleset
from tests.lab import Backend, Host, Lab, Pod, namespace_manifest
from tests.lab.daemon import Daemon
from tests.lab.datagram import DOMAIN
from tests.lab.wire import question

pytestmark = pytest.mark.kernel

Refused = tuple[Match, ...]
SILENT_WITHIN_S = 1.0
LISTENED_S = 1.5  # a server that is not acknowledged sends again after 0.2, 0.4, 0.8, ... s


class Loop:
    """Three routed pods on a node, and what the daemon's loop does there with a ruleset and a cutter."""

    def __init__(self, lab: Lab, backend: Backend) -> None:
        self.lab = lab
        self.node = lab.node("n1")
        self.a, self.b, self.c = (self.node.routed_pod("x", name) for name in "abc")
        self.backend = Nft() if backend == "nft" else Legacy()
        self.installed = Installed()
        self.endpoints = {
            f"x/{pod.pod_name}": Endpoint(f"x/{pod.pod_name}", pod.addresses, (Interface(pod.interface),))
            for pod in (self.a, self.b, self.c)
        }
        self.found = threading.Event()
        self.cutter = Cutter(self.found.set)
        with self.node.netns.entered():
            self.cutter.start()
        self.enforce()
        self.node.flush_conntrack()

    def close(self) -> None:
        self.cutter.close()
        self.backend.close()

    def ruleset(self, refused: tuple[Refused, ...], sets: tuple[IPSet, ...] = ()) -> Ruleset:
        chains = {
            family: {
                "NETPOLD-FORWARD": (
                    revoked_rule(family),
                    Rule((Reply(),), "RETURN"),
                    forgotten_rule(family),
                    *(Rule(matches, "DROP") for matches in refused if _is_for(matches, family)),
                )
            }
            for family in FAMILIES
        }
        known = {each.name: each for each in (*map(revoked_set, FAMILIES), *sets)}
        return Ruleset(chains, known, {"FORWARD": "NETPOLD-FORWARD"})

    def enforced(self, *refused: Refused) -> Enforced:
        return Enforced(self.ruleset(refused), self.endpoints, frozenset(self.node.addresses))

    def enforce(self, *refused: Refused) -> Enforced:
        """Drop what these matches hold for, and let all else pass."""
        enforced = self.enforced(*refused)
        with self.node.netns.entered():
            self.cutter.release(enforced, self.installed.names)
            self.installed = apply(plan(self.installed, enforced.ruleset), self.backend)
        return enforced

    def cut(self, enforced: Enforced, *pods: Pod) -> int:
        """Look at the flows of these pods, and cut what is found in the first block."""
        self.found.clear()
        self.cutter.look(enforced, frozenset(address for pod in pods for address in pod.addresses))
        return self.settle(enforced)

    def settle(self, enforced: Enforced) -> int:
        assert self.found.wait(5), "nothing was found"
        self.found.clear()
        with self.node.netns.entered():
            return self.cutter.settle(enforced, self.installed.names)

    def revoked(self, family: Family) -> frozenset[str]:
        """The members of the set that the rule refers to, as the ipset program tells them."""
        name = self.installed.names[REVOKED[family]]
        lines = self.node.ipset_save().splitlines()
        return frozenset(line.split(" ", 2)[2] for line in lines if line.startswith(f"add {name} "))

    def entries(self) -> set[str]:
        """The ids of all entries of conntrack."""
        lines = [self.node.run(["conntrack", "-L", "-o", "id", "-f", each]) for each in ("ipv4", "ipv6")]
        return set(re.findall(r"\bid=(\d+)$", "".join(lines), re.MULTILINE))

    def opened(self, source: Pod, destination: Pod, family: Family, protocol: str = "TCP", **how: object):
        """A flow that moves, and the ids of its entries."""
        before = self.entries()
        flow = self.lab.flow(source, destination, protocol, family=family, **how)  # type: ignore[arg-type]
        assert flow.moving()
        return flow, self.entries() - before


def _is_for(matches: Refused, family: Family) -> bool:
    return all((":" in each.network) == (family == 6) for each in matches if isinstance(each, Address)) and all(
        each.name.startswith(f"NP{family}-") for each in matches if isinstance(each, InSet)
    )


def between(source: Pod, destination: Pod, family: Family) -> Refused:
    return Address("src", source.address(family)), Address("dst", destination.address(family))


@pytest.fixture
def loop(lab: Lab, backend: Backend) -> Iterator[Loop]:
    with contextlib.closing(Loop(lab, backend)) as made:
        yield made


@pytest.fixture
def nft_loop(lab: Lab) -> Iterator[Loop]:
    """Where nothing depends on the backend."""
    with contextlib.closing(Loop(lab, "nft")) as made:
        yield made


class Ear:
    """Counts the packets of a protocol that come from an address to a host."""

    def __init__(self, host: Host, address: str, protocol: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind, self._source, self._protocol = (0x86DD, slice(8, 24), 6) if ":" in address else (0x0800, slice(12, 16), 9)
        self._wanted = protocol, socket.inet_pton(family, address)
        with host.netns.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(kind))

    def count(self) -> int:
        """Since the last call."""
        number = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self._socket.recv(200)
                number += (data[self._protocol], data[self._source]) == self._wanted
        return number

    def heard(self) -> int:
        """How many come, from one second from now on."""
        time.sleep(SILENT_WITHIN_S)
        self.count()
        time.sleep(LISTENED_S)
        return self.count()


@pytest.mark.parametrize(("family", "sender"), [(4, "server"), (6, "both")])
def test_a_connection_whose_server_may_connect_to_the_client_is_silent_until_it_is_allowed_again(
    loop: Loop, family: Family, sender: Literal["server", "both"]
) -> None:
    a, b, c = loop.a, loop.b, loop.c
    flow, ids = loop.opened(a, b, family, sender=sender)
    beside = [loop.opened(*ends, family, port=port)[0] for ends, port in (((a, c), 80), ((c, b), 81), ((b, a), 82))]
    entries = loop.entries()
    ear = Ear(a, b.address(family), socket.IPPROTO_TCP)

    enforced = loop.enforce(between(a, b, family))
    assert loop.cut(enforced, b) == 1
    beside[2].pause()  # its packets come from the same server
    assert ear.heard() == 0
    assert loop.revoked(family) == {f"{b.address(family)},tcp:80,{a.address(family)}"}
    assert loop.entries() == entries >= ids
    beside[2].resume()
    for each in beside:
        assert each.moving(), each

    loop.enforce()
    assert loop.revoked(family) == frozenset()
    assert flow.moving(timeout=10)
    assert loop.entries() == entries
    assert loop.lab.flow(a, b, port=83, family=family).moving()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_connection_whose_server_may_not_connect_to_the_client_is_forgotten(loop: Loop, family: Family) -> None:
    a, b = loop.a, loop.b
    _, ids = loop.opened(a, b, family, sender="server")
    other, left = loop.opened(b, loop.c, family)
    ear = Ear(a, b.address(family), socket.IPPROTO_TCP)
    enforced = loop.enforce(between(a, b, family), between(b, a, family))
    assert loop.cut(enforced, a) == len(ids) == 1
    assert ear.heard() == 0
    assert loop.revoked(family) == frozenset()
    assert loop.entries() == left
    assert other.moving()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("back", [True, False])
def test_a_udp_stream_of_the_server_is_then_a_flow_of_its_own(nft_loop: Loop, family: Family, back: bool) -> None:
    a, b = nft_loop.a, nft_loop.b
    flow, ids = nft_loop.opened(a, b, family, "UDP", sender="server")
    ear = Ear(a, b.address(family), socket.IPPROTO_UDP)
    refused = (between(a, b, family),) if back else (between(a, b, family), between(b, a, family))
    assert nft_loop.cut(nft_loop.enforce(*refused), b) == 1
    assert (ear.heard() > 0) == back
    assert not ids & nft_loop.entries()
    assert nft_loop.revoked(family) == frozenset()
    assert flow.broken == ""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", ["icmp", "sctp", "gre"])
def test_flows_of_other_protocols_are_forgotten(nft_loop: Loop, family: Family, protocol: str) -> None:
    a, b, c = nft_loop.a, nft_loop.b, nft_loop.c
    number = 58 if (protocol, family) == ("icmp", 6) else {"icmp": 1, "sctp": 132, "gre": 47}[protocol]
    with a.netns.entered(), socket.socket(DOMAIN[family], socket.SOCK_RAW, number) as raw:
        ids = []
        for pod in (b, c):
            before = nft_loop.entries()
            raw.sendto(question(number, family, 2001, 80), (pod.address(family), 0))
            ids.append(nft_loop.entries() - before)
    assert all(ids)
    assert nft_loop.cut(nft_loop.enforce(between(a, b, family)), a) == len(ids[0])
    assert nft_loop.entries() & (ids[0] | ids[1]) == ids[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_connection_to_a_service_is_known_by_who_answers(loop: Loop, family: Family) -> None:
    """The client only knows the address that is translated (DNAT)."""
    a, b = loop.a, loop.b
    service, to = {4: ("203.0.113.1", b.address(4)), 6: ("2001:db8:1::1", f"[{b.address(6)}]")}[family]
    rule = ("-d", service, "-p", "tcp", "-j", "DNAT", "--to-destination", f"{to}:80")
    loop.node.iptables("nft", family, "-t", "nat", "-A", "PREROUTING", *rule)
    with a.netns.entered():
        client = socket.socket(DOMAIN[family], socket.SOCK_STREAM)
    with b.netns.entered():
        server = socket.create_server((b.address(family), 80), family=DOMAIN[family])
    with client, server:
        client.settimeout(10)
        client.connect((service, 8080))
        ear = Ear(a, service, socket.IPPROTO_TCP)
        answering, _ = server.accept()
        with answering:
            enforced = loop.enforce(between(a, b, family))
            assert loop.cut(enforced, a) == 1
            answering.send(b"answer")
            assert ear.heard() == 0
            assert loop.revoked(family) == {f"{b.address(family)},tcp:80,{a.address(family)}"}
            loop.enforce()
            assert client.recv(10) == b"answer"


def test_a_connection_that_is_allowed_again_in_another_way_is_released_before_that_is_enforced(nft_loop: Loop) -> None:
    a, b = nft_loop.a, nft_loop.b
    flow, _ = nft_loop.opened(a, b, 4)
    held, _ = nft_loop.opened(a, nft_loop.c, 4)
    enforced = nft_loop.enforce(between(a, b, 4), between(a, nft_loop.c, 4))
    assert nft_loop.cut(enforced, a) == 2
    assert flow.stopped() is not None
    nft_loop.enforce(between(a, nft_loop.c, 4))
    assert nft_loop.revoked(4) == {f"{nft_loop.c.address(4)},tcp:80,{a.address(4)}"}
    assert flow.moving(timeout=10)
    assert held.stopped() is not None


def test_a_revoked_connection_is_no_longer_kept_when_it_has_had_no_flow_for_long(
    nft_loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutter, "KEPT_S", 0.0)
    a, b = nft_loop.a, nft_loop.b
    _, ids = nft_loop.opened(a, b, 4)
    nft_loop.opened(a, b, 4, port=81)
    enforced = nft_loop.enforce(between(a, b, 4))
    assert nft_loop.cut(enforced, a) == 2
    assert len(nft_loop.revoked(4)) == 2
    nft_loop.node.run(["conntrack", "-D", "-p", "tcp", "--dport", "80"])
    assert nft_loop.cut(enforced) == 0
    assert nft_loop.revoked(4) == {f"{b.address(4)},tcp:81,{a.address(4)}"}
    assert not ids & nft_loop.entries()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_revoked_connection_that_another_program_has_conntrack_forget_is_not_picked_up(
    loop: Loop, family: Family
) -> None:
    a, b = loop.a, loop.b
    loop.opened(a, b, family, sender="both")
    ears = Ear(a, b.address(family), socket.IPPROTO_TCP), Ear(b, a.address(family), socket.IPPROTO_TCP)
    enforced = loop.enforce(between(a, b, family))
    assert loop.cut(enforced, a) == 1
    member = loop.revoked(family)
    loop.node.flush_conntrack()
    loop.cutter.look(enforced, frozenset(a.addresses))
    assert [ear.heard() for ear in ears] == [0, 0]
    assert loop.revoked(family) == member != frozenset()
    loop.enforce()
    assert loop.lab.flow(b, a, port=83, family=family).moving()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_an_earlier_daemon_has_revoked_is_taken_over(nft_loop: Loop, family: Family) -> None:
    loop, a, b = nft_loop, nft_loop.a, nft_loop.b
    loop.opened(a, b, family)
    held, _ = loop.opened(a, loop.c, family)
    assert loop.cut(loop.enforce(between(a, b, family), between(a, loop.c, family)), a) == 2
    members = loop.revoked(family)
    loop.node.run(["ipset", "create", f"{REVOKED[family]}.7", "hash:net"])  # another's
    enforced = loop.enforced(between(a, loop.c, family))
    with loop.node.netns.entered(), contextlib.closing(Cutter(lambda: None)) as later:
        later.take_over()
        installed_now = apply(plan(installed(loop.backend), later.filled(enforced.ruleset)), loop.backend)
        assert ipset.members(installed_now.names[REVOKED[family]]) == members
        later.release(enforced, installed_now.names)
        left = ipset.members(installed_now.names[REVOKED[family]])
    assert left == {f"{loop.c.address(family)},tcp:80,{a.address(family)}"}
    assert held.stopped() is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_set_that_is_made_anew_is_filled_anew(loop: Loop, family: Family) -> None:
    """So it is when a plan failed half-way and what the kernel holds had to be read."""
    flow, _ = loop.opened(loop.a, loop.b, family)
    enforced = loop.enforce(between(loop.a, loop.b, family))
    assert loop.cut(enforced, loop.a) == 1
    assert flow.stopped() is not None
    members = loop.revoked(family)
    with loop.node.netns.entered():
        loop.installed = apply(plan(installed(loop.backend), enforced.ruleset), loop.backend)
        assert loop.revoked(family) == frozenset()
        assert loop.cutter.settle(enforced, loop.installed.names) == 0
    assert loop.revoked(family) == members
    assert flow.stopped() is not None
    loop.enforce()
    assert flow.moving(timeout=10)


def test_what_is_in_force_when_it_comes_to_cutting_decides(nft_loop: Loop) -> None:
    flows = [nft_loop.opened(nft_loop.a, nft_loop.b, 4, protocol)[0] for protocol in ("TCP", "UDP")]
    entries = nft_loop.entries()
    allowed = nft_loop.enforce()
    nft_loop.cutter.look(nft_loop.enforced(between(nft_loop.a, nft_loop.b, 4)), frozenset(nft_loop.a.addresses))
    assert nft_loop.settle(allowed) == 0
    assert nft_loop.entries() == entries
    assert nft_loop.revoked(4) == frozenset()
    assert all(flow.moving() for flow in flows)


def test_sets_may_change_in_place_while_flows_are_judged(nft_loop: Loop) -> None:
    a, b = nft_loop.a, nft_loop.b
    flow, _ = nft_loop.opened(a, b, 4)
    members: set[str] = {a.address(4)}
    live = IPSet("NP4-live", 4, "hash:ip", "peers", members)  # type: ignore[arg-type]
    outside = (Address("dst", b.address(4)), InSet("NP4-live", "src", negate=True))
    enforced = Enforced(nft_loop.ruleset((outside,), (live,)), nft_loop.endpoints)
    with nft_loop.node.netns.entered():
        nft_loop.installed = apply(plan(nft_loop.installed, enforced.ruleset), nft_loop.backend)
    assert flow.moving()
    members.remove(a.address(4))
    nft_loop.node.run(["ipset", "del", nft_loop.installed.names["NP4-live"], a.address(4)])
    assert nft_loop.cut(enforced, a) == 1
    assert flow.stopped() is not None


def test_many_flows_are_cut_block_by_block(nft_loop: Loop) -> None:
    a, b, c = nft_loop.a, nft_loop.b, nft_loop.c
    with a.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        for pod in (b, c):
            for port in range(3000, 3600):
                sending.sendto(b"x", (pod.address(4), port))
    enforced = nft_loop.enforce(between(a, b, 4))
    cut = nft_loop.cut(enforced, a)
    assert cut < 600
    while cut < 600:
        cut += nft_loop.settle(enforced)
    assert cut == 600
    left = nft_loop.node.run(["conntrack", "-L", "-p", "udp"]).splitlines()
    assert sum(f"dst={b.address(4)} " in line for line in left) == 0
    assert sum(f"dst={c.address(4)} " in line for line in left) == 600


def test_what_could_not_be_listed_is_told_and_looked_at_next_time(
    nft_loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, _ = nft_loop.opened(nft_loop.a, nft_loop.b, 4)
    enforced = nft_loop.enforce(between(nft_loop.a, nft_loop.b, 4))
    with monkeypatch.context() as broken:
        broken.setattr(conntrack, "_SUBSYSTEM", 31)  # a number that no module answers to
        with pytest.raises(KernelError, match="modprobe nf_conntrack_netlink"):
            nft_loop.cut(enforced, nft_loop.a)
    assert nft_loop.cut(enforced) == 1
    assert flow.stopped() is not None


def test_a_set_that_could_not_be_filled_is_filled_next_time(nft_loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = nft_loop.a, nft_loop.b
    flow, _ = nft_loop.opened(a, b, 4)
    enforced = nft_loop.enforce(between(a, b, 4))

    def refuse(steps: object) -> None:
        raise KernelError("no")

    with monkeypatch.context() as broken:
        broken.setattr(ipset, "change", refuse)
        with pytest.raises(KernelError, match="no"):
            nft_loop.cut(enforced, a)
    with nft_loop.node.netns.entered():
        nft_loop.cutter.settle(enforced, nft_loop.installed.names)
    assert nft_loop.revoked(4) == {f"{b.address(4)},tcp:80,{a.address(4)}"}
    assert flow.stopped() is not None


def test_it_ends_when_it_was_never_started() -> None:
    Cutter(lambda: None).close()


# With the daemon ------------------------------------------------------------------------------------------------------

FROM_A = """{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: to-b, namespace: x}, spec: {
  podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]}}"""


class Scene:
    """Pods a, b and c and a daemon that lets only a and those labelled like it reach b; b may reach everybody."""

    def __init__(self, lab: Lab, backend: Backend, wiring: str) -> None:
        node = lab.node("n1")
        make = node.routed_pod if wiring == "routed" else node.bridged_pod
        self.a, self.b, self.c = (make("x", name, labels={"app": name}) for name in "abc")
        self.daemon = Daemon(node, backend)
        self.daemon.write("namespace.json", namespace_manifest("x"))
        self.daemon.write("policy.yaml", FROM_A)
        self.write_pods()

    def write_pods(self) -> None:
        self.daemon.write("pods.json", *(pod.manifest(node=False) for pod in (self.a, self.b, self.c)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wiring", ["routed", "bridged"])
@pytest.mark.parametrize("change", ["policy", "label"])
def test_the_daemon_silences_a_server_that_may_connect_to_its_client(
    lab: Lab, backend: Backend, family: Family, wiring: str, change: str
) -> None:
    scene = Scene(lab, backend, wiring)
    with scene.daemon:
        scene.daemon.start()
        scene.daemon.wait(20)
        flow = lab.flow(scene.a, scene.b, sender="server", family=family)
        beside = lab.flow(scene.b, scene.c, sender="both", family=family)
        assert flow.moving()
        ear = Ear(scene.a, scene.b.address(family), socket.IPPROTO_TCP)
        if change == "policy":
            scene.daemon.write("policy.yaml", FROM_A.replace("app: a}", "app: c}"))
        else:
            scene.a.labels["app"] = "other"
            scene.write_pods()
        scene.daemon.wait(20)
        assert ear.heard() == 0
        assert beside.moving()
        scene.a.labels["app"] = "a"
        scene.write_pods()
        scene.daemon.write("policy.yaml", FROM_A)
        scene.daemon.wait(20)
        assert flow.moving(timeout=10)
        assert lab.flow(scene.a, scene.b, port=81, family=family).moving()


def test_a_daemon_that_starts_finds_what_was_revoked_before(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend, "routed")
    with scene.daemon:
        scene.daemon.start()
        scene.daemon.wait(20)
        flow = lab.flow(scene.a, scene.b, sender="server")
        assert flow.moving()
        scene.daemon.kill()
        scene.daemon.write("policy.yaml", FROM_A.replace("app: a}", "app: c}"))
        ear = Ear(scene.a, scene.b.address(4), socket.IPPROTO_TCP)
        for _ in range(2):
            scene.daemon.start()
            scene.daemon.wait(20)
            assert ear.heard() == 0
            scene.daemon.kill()


def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> bool:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def test_what_is_revoked_outlasts_a_restart_and_what_other_programs_flush(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend, "routed")
    a, b, node = scene.a, scene.b, scene.daemon.node
    member = f"{b.address(4)},tcp:80,{a.address(4)}"

    def in_force() -> str:
        rules = node.iptables(backend, 4, "-S", "NETPOLD-FORWARD")
        return next(word for word in rules.split() if word.startswith(REVOKED[4]))

    def is_revoked() -> bool:
        return f"add {in_force()} {member}" in node.ipset_save().splitlines()

    with scene.daemon:
        scene.daemon.start()
        scene.daemon.wait(20)
        assert lab.flow(a, b, sender="both").moving()
        scene.daemon.write("policy.yaml", FROM_A.replace("app: a}", "app: c}"))
        scene.daemon.wait(20)
        assert eventually(is_revoked)
        node.flush_conntrack()  # so that nobody finds it again
        scene.daemon.kill()
        scene.daemon.start()
        scene.daemon.wait(20)
        assert is_revoked()
        node.run(["ipset", "flush", in_force()])
        assert eventually(is_revoked)
        ears = Ear(a, b.address(4), socket.IPPROTO_TCP), Ear(b, a.address(4), socket.IPPROTO_TCP)
        assert [ear.heard() for ear in ears] == [0, 0]
