"""Attacks by hostile pods, as frames: each is dropped or judged as the policy says (tests/hostile has the table).

The default run tries each attack in one of the combinations of wiring, backend and family, and all kinds in each of
them; `-m slow` tries all attacks in all combinations.  What takes more than some frames stands below the table.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from tests.hostile.attacks import ATTACKS
from tests.hostile.attacks.attack import Attack, about, tagged
from tests.hostile.ground import CONTROL, WIRINGS, Ground, Wiring, ip
from tests.lab import BACKENDS, Backend

pytestmark = pytest.mark.kernel

FAMILIES = (4, 6)
COMBINATIONS = [(wiring, backend) for wiring in WIRINGS for backend in BACKENDS]
FLOOD = 20_000  # flows


def parameters() -> Iterator[object]:
    for wiring, backend in COMBINATIONS:
        for number, attack in enumerate(ATTACKS):
            ways = [(*each, family) for each in COMBINATIONS if each[0] in attack.wirings for family in attack.families]
            for family in attack.families if wiring in attack.wirings else ():
                taken = ways[number % len(ways)] == (wiring, backend, family)
                marks = [] if taken else [pytest.mark.slow]
                name = f"{wiring}-{backend}-v{family}-{attack.name}"
                yield pytest.param(wiring, backend, attack, family, id=name, marks=marks)


class Grounds:
    """The ground of the last test, for the next where that needs the same."""

    def __init__(self) -> None:
        self._ground: Ground | None = None

    def get(self, wiring: Wiring, backend: Backend) -> Ground:
        if self._ground is None or (self._ground.wiring, self._ground.backend) != (wiring, backend):
            self.close()
            self._ground = Ground(wiring, backend)
        return self._ground

    def close(self) -> None:
        if self._ground is not None:
            self._ground.close()
        self._ground = None


@pytest.fixture(scope="module")
def grounds() -> Iterator[Grounds]:
    kept = Grounds()
    yield kept
    kept.close()


@pytest.mark.parametrize(("wiring", "backend", "attack", "family"), parameters())
def test_attack(wiring: Wiring, backend: Backend, attack: Attack, family: int, grounds: Grounds) -> None:
    ground = grounds.get(wiring, backend)
    ground.fresh()
    attack.act(ground, family)
    assert ground.seen(attack.sender, attack.target, family) is attack.passes


# Who is where on a bridge --------------------------------------------------------------------------------------------


def many_macs(ground: Ground) -> None:
    """c and d, which has no egress, speak from six MAC addresses each."""
    for sender in "cd":
        for number in range(6):
            mac = f"02:00:00:00:{ord(sender):02x}:{number:02x}"
            ask = ARP(psrc=ground.address(sender, 4), hwsrc=mac, pdst=ground.address("e", 4))
            ground.send(sender, Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ask)


def claim(ground: Ground, claimant: str, victim: str) -> None:
    """Gratuitous ARP and unsolicited advertisements: the victim's addresses are at the claimant's MAC address."""
    mac = ground.mac(claimant)
    address = ground.address(victim, 4)
    all_macs = "ff:ff:ff:ff:ff:ff"
    told = ARP(op=2, psrc=address, hwsrc=mac, pdst=address, hwdst=all_macs)
    ground.send(claimant, Ether(src=mac, dst=all_macs) / told)
    address = ground.address(victim, 6)
    for destination in ("ff02::1", ground.address("e", 6), ground.gateway(6)):
        header = IPv6(src=address, dst=destination, hlim=255)
        advertisement = ICMPv6ND_NA(tgt=address, R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=mac)
        ground.send(claimant, header / advertisement)


def each_others_addresses(ground: Ground) -> None:
    """c and d, who know each other, claim each other's addresses; c also a's."""
    claim(ground, "c", "d")
    claim(ground, "d", "c")
    claim(ground, "c", "a")


def another_mac(ground: Ground) -> None:
    """c and d speak as a does."""
    speak_as_a(ground, "c")
    speak_as_a(ground, "d")


def speak_as_a(ground: Ground, sender: str) -> None:
    ask = ARP(psrc=ground.address("a", 4), hwsrc=ground.mac("a"), pdst=ground.address("e", 4))
    ground.send(sender, Ether(src=ground.mac("a"), dst="ff:ff:ff:ff:ff:ff") / ask)


@pytest.mark.parametrize("lie", [many_macs, each_others_addresses, another_mac])
def test_nobody_sheds_the_rules_of_its_port(lie: Callable[[Ground], None]) -> None:
    ground = Ground("bridged", "nft")
    try:
        for _ in range(3):
            lie(ground)
            time.sleep(0.4)  # for the daemon to hear of it, and to be misled
        for family in FAMILIES:
            for liar in "cd":
                assert not ground.passes(liar, "e", family, CONTROL, source="a")
            assert not ground.passes("d", "e", family, 80)
            assert not ground.passes("c", "b", family, 80)
        assert ground.daemon.status()["pods"]["without_interface"] == 0
    finally:
        ground.close()


def beginnings(ground: Ground) -> list[str]:
    """MAC addresses of frames that do not come to b, though packets in them are for b; the host's ends of a's and b's
    wires among them, which the bridge takes for itself."""
    ports = [f"/sys/class/net/{ground.pods[name].interface}/address" for name in "ab"]
    groups = ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "33:33:00:00:00:01"]
    return [ground.mac("a"), "02:00:00:00:99:99", *groups, *ground.node.run(["cat", *ports]).split()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_frame_that_goes_elsewhere_begins_a_connection_of_an_isolated_pod(backend: Backend) -> None:
    """Of what begins one the other end's answers are a part, and answers pass.  c and d have no right to b or e's
    answers: c forges what b would send, or sends to b by way of another port; d, which may send nothing, is helped."""
    ground = Ground("bridged", backend)

    def answered(near: str, far: str, family: int, mac: str, forged: bool) -> bool:
        """Whether `near` reaches `far` after a frame by which `far` seems to have begun; one of its own, or forged."""
        ground.fresh()
        begun = ip(ground.address(far, family), ground.address(near, family)) / UDP(sport=4001, dport=4002)
        ground.send_frame(
            near if forged else far, bytes(Ether(src=ground.mac(near if forged else far), dst=mac) / begun)
        )
        time.sleep(0.1)
        header = ip(ground.address(near, family), ground.address(far, family))
        ground.send(near, header / UDP(sport=4002, dport=4001) / Raw(ground.token))
        return ground.seen(near, far, family)

    try:
        for family in FAMILIES:
            for mac in beginnings(ground):
                assert not answered("c", "b", family, mac, forged=True)
                assert not answered("b", "c", family, mac, forged=False)
                assert not answered("d", "b", family, mac, forged=True)
    finally:
        ground.close()


@pytest.mark.parametrize(("wiring", "way"), [("routed", "no route"), ("routed", "taken"), ("bridged", "taken")])
@pytest.mark.parametrize("backend", [BACKENDS[0], pytest.param(BACKENDS[1], marks=pytest.mark.slow)])
def test_nobody_sheds_its_rules_where_the_host_loses_its_place(wiring: Wiring, way: str, backend: Backend) -> None:
    """Its route goes, or the host itself gets its addresses."""
    ground = Ground(wiring, backend)

    def gets_through(sender: str, family: int, port: int, source: str) -> bool:
        ground.fresh()
        header = ip(ground.address(source, family), ground.address("e", family))
        ground.send(sender, header / UDP(sport=1, dport=port) / Raw(ground.token))
        time.sleep(0.05)  # what is allowed is another pod's here, so it takes another way
        return ground.seen("a", "e", family)

    try:
        assert gets_through("c", 4, 80, "c") and gets_through("d", 6, CONTROL, "d")
        for liar in "cd":
            for address in (ground.address(liar, family) for family in FAMILIES):
                if way == "taken":
                    ground.node.run(["ip", "addr", "add", address, "dev", "lo"])
                else:
                    ground.node.run(["ip", "-6" if ":" in address else "-4", "route", "del", address])
        ground.daemon.wait(20)
        for family in FAMILIES:
            for liar in "cd":
                assert not gets_through(liar, family, CONTROL, "a")
            assert not gets_through("d", family, 80, "d")
        assert ground.daemon.status()["pods"]["without_interface"] == 0
    finally:
        ground.close()


def test_nobody_takes_the_place_of_a_pod_that_is_silent() -> None:
    """Once the bridge has forgotten a, over a restart, and while a has no interface."""
    ground = Ground("bridged", "legacy")
    a, c = ground.pods["a"], ground.pods["c"]

    def holds() -> None:
        for _ in range(3):
            claim(ground, "c", "a")
            time.sleep(0.4)
        ground.daemon.wait(20)
        for family in FAMILIES:
            assert not ground.passes("c", "b", family, 80, source="a")
            assert not ground.passes("c", "b", family, 80)

    try:
        for command in ("iptables", "ip6tables"):
            a.run([command, "-A", "OUTPUT", "-j", "DROP"])
        a.run(["ip", "link", "set", "eth0", "arp", "off"])
        speak_as_a(ground, "c")
        time.sleep(0.4)
        c.run(["ip", "link", "set", "eth0", "down"])
        c.run(["ip", "link", "set", "eth0", "up"])
        holds()
        assert ground.daemon.stop() == 0
        claim(ground, "c", "a")
        ground.daemon.start()
        holds()
        a.unplug()
        holds()
    finally:
        ground.close()


@pytest.mark.parametrize("backend", [BACKENDS[0], pytest.param(BACKENDS[1], marks=pytest.mark.slow)])
def test_frames_that_iptables_does_not_see_are_told_and_can_be_stopped(backend: Backend) -> None:
    """What docs/security.md says of tagged frames, and the cure that it names."""
    ground = Ground("bridged", backend)
    try:

        def arrives(*tags: int) -> bool:
            ground.fresh()
            tagged(*tags)(ground, 4)
            return ground.seen("c", "b", 4)

        assert ground.daemon.status()["warnings"] == []
        assert not arrives(0)
        assert arrives(0, 0)
        ground.node.run(["nft", "-f", "-"], CURE)
        assert not arrives(0, 0)
        assert not arrives(7, 0)
        assert ground.passes("a", "b", 4, 80)
        ground.node.run(["nft", "delete", "table", "bridge", "pods"])
        ground.node.netns.sysctl({"bridge/bridge-nf-filter-vlan-tagged": 0})
        end = time.monotonic() + 20
        while "VLAN tags" not in " ".join(warnings := ground.daemon.status()["warnings"]):
            assert time.monotonic() < end, warnings
        assert arrives(0)
    finally:
        ground.close()


CURE = """table bridge pods {
    chain forward {
        type filter hook forward priority -300
        ether type != { ip, ip6, arp } drop
    }
}
"""


# Towards the node, where that is for the policies ---------------------------------------------------------------------


@pytest.mark.parametrize(("wiring", "backend"), [("routed", "legacy"), ("bridged", "nft")])
def test_the_node_is_judged_as_a_peer_where_it_is_one(wiring: Wiring, backend: Backend) -> None:
    ground = Ground(wiring, backend, 'host_access = "policy"\nhost_to_pods = "policy"\n')
    try:
        for family in FAMILIES:
            assert ground.passes("d", "node", family, CONTROL)
            assert not ground.passes("d", "node", family, 80)
            assert not ground.passes("d", "node", family, CONTROL, source="a")
            assert not ground.passes("c", "node", family, 80, source="a")
            assert ground.passes("c", "node", family, 80)
            ground.fresh()
            about("d", "e", "node", "unreachable", to="node", reverse=True)(ground, family)
            assert not ground.seen("d", "node", family)
    finally:
        ground.close()


# Helpers of conntrack, floods -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wiring", "backend"), [("routed", "nft"), ("bridged", "legacy")])
def test_connections_that_a_helper_expects_are_judged_as_any_other(wiring: Wiring, backend: Backend) -> None:
    """a and b make conntrack's FTP helper expect connections to ports that no policy allows."""
    ground = Ground(wiring, backend)
    try:
        rule = ["-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "80", "-j", "CT", "--helper", "ftp"]
        ground.node.iptables(backend, 4, *rule)
        with connected(ground, "a", "b", 80) as (client, server):
            server.sendall(b"220 here\r\n")
            client.recv(100)
            server.sendall(f"227 Entering Passive Mode ({commas(ground, 'b')},200,10).\r\n".encode())
            client.recv(100)
            assert "dport=51210" in expected(ground), "the helper does not work"
            assert not connects(ground, "a", "b", 51210)
            client.sendall(b"NOOP\r\n")
            server.recv(100)
            client.sendall(f"PORT {commas(ground, 'a')},200,11\r\n".encode())
            server.recv(100)
            assert "dport=51211" in expected(ground), "the helper does not work"
            assert not connects(ground, "b", "a", 51211)
            assert connects(ground, "a", "e", 51212)
    finally:
        ground.close()


@contextmanager
def connected(ground: Ground, client: str, server: str, port: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    with ground.hosts[server].netns.entered():
        listener = socket.create_server(("", port))
    with listener:
        with ground.hosts[client].netns.entered():
            one = socket.create_connection((ground.address(server, 4), port), 5)
        with one:
            other, _ = listener.accept()
            with other:
                one.settimeout(5)
                other.settimeout(5)
                yield one, other


def connects(ground: Ground, client: str, server: str, port: int) -> bool:
    with ground.hosts[server].netns.entered():
        listener = socket.create_server(("", port))
    to = (ground.address(server, 4), port)
    with listener, ground.hosts[client].netns.entered(), suppress(TimeoutError), socket.create_connection(to, 0.5):
        return True
    return False


def commas(ground: Ground, name: str) -> str:
    return ground.address(name, 4).replace(".", ",")


def expected(ground: Ground) -> str:
    return ground.node.run(["conntrack", "-L", "expect"])


@pytest.mark.parametrize(("wiring", "backend"), [("routed", "nft"), ("bridged", "legacy")])
def test_a_flood_of_flows_opens_nothing_and_stops_nobody(wiring: Wiring, backend: Backend) -> None:
    ground = Ground(wiring, backend)
    try:
        for target, dropped in (("e", False), ("b", True)):
            flood(ground, "c", target)
            ground.drain()
            flows = int(ground.node.run(["conntrack", "-C"]))
            assert (flows < FLOOD // 2) if dropped else (flows >= FLOOD // 2)
            ground.token = b"once in the flood"
            assert ground.seen("a", "b", 4) is False
            assert ground.daemon.status()["state"] == "enforcing"
            ground.fresh()
        assert not ground.passes("c", "b", 4, 80)
        assert ground.passes("a", "b", 4, 80)
    finally:
        ground.close()


def flood(ground: Ground, sender: str, target: str) -> None:
    """Datagrams between ever other ports, as fast as one processor makes them."""
    packet = ip(ground.address(sender, 4), ground.address(target, 4)) / UDP(sport=1, dport=1)
    frame = bytearray(ground.frame(sender, packet))
    frame[40:42] = b"\0\0"  # no checksum
    for number in range(FLOOD):
        frame[34:38] = struct.pack("!HH", 1024 + number % 60000, 1024 + number * 7 % 60000)
        ground.send_frame(sender, bytes(frame))
