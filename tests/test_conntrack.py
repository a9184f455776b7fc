"""Open flows in the real kernel: what is listed, and that exactly the flows that are asked for are gone.

What the table holds is read by the conntrack program, so that one reading is checked against another.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address

import pytest

from netpold.host import conntrack
from netpold.host.kernel.backend import KernelError
from netpold.policy.model import Family
from netpold.rules.revoke import Flow
from tests.lab import Lab, Node
from tests.lab.namespace import ip
from tests.lab.wire import question

pytestmark = pytest.mark.kernel

FAMILIES: tuple[Family, ...] = (4, 6)
A: Mapping[Family, str] = {4: "10.1.0.1", 6: "fd01::1"}
B: Mapping[Family, str] = {4: "10.1.0.2", 6: "fd01::2"}
C: Mapping[Family, str] = {4: "10.1.0.3", 6: "fd01::3"}
AF = {4: socket.AF_INET, 6: socket.AF_INET6}
PROTOCOLS = ("tcp", "udp", "sctp", "icmp", "47", "50", "253")
_CHANGING = re.compile(r"^(\S+ +\d+) \d+(?= )|\b(use|mark)=\d+|\[\S+\]")


@pytest.fixture
def node(lab: Lab) -> Node:
    """A host whose own addresses talk to each other, with their flows tracked."""
    made = lab.node("n1")
    ip(made.netns, [f"addr add {each[family]} dev lo" for each in (A, B, C) for family in FAMILIES])
    for family in FAMILIES:
        made.iptables("nft", family, "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
    made.flush_conntrack()
    return made


def number(protocol: str, family: Family) -> int:
    if protocol == "icmp":
        return 1 if family == 4 else 58
    return int(protocol) if protocol.isdigit() else socket.getprotobyname(protocol)


def name(protocol: str, family: Family) -> str:
    """As a flow has it."""
    return "ipv6-icmp" if protocol == "icmp" and family == 6 else protocol


def talk(node: Node, protocol: str, source: str, destination: str, tag: int, port: int = 80) -> None:
    """One packet (TCP: a connection tried) from port `tag`, or with `tag` as ICMP's id."""
    family: Family = 6 if ":" in source else 4
    with node.netns.entered(), contextlib.ExitStack() as stack:
        if protocol in ("tcp", "udp"):
            kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
            if protocol == "tcp":
                server = stack.enter_context(socket.socket(AF[family], kind))
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind((destination, port))
                server.listen()
            client = stack.enter_context(socket.socket(AF[family], kind))
            client.bind((source, tag))
            client.connect((destination, port))
            client.send(b"x")
        else:
            which = number(protocol, family)
            raw = stack.enter_context(socket.socket(AF[family], socket.SOCK_RAW, which))
            raw.bind((source, 0))
            raw.sendto(question(which, family, tag, port), (destination, 0))


def table(node: Node, family: Family) -> set[str]:
    """The lines of `conntrack -L` without what changes by itself."""
    lines = node.run(["conntrack", "-L", "-f", f"ipv{family}"]).splitlines()
    return {re.sub(r" +", " ", _CHANGING.sub(r"\1", line)) for line in lines}


def listed(node: Node, family: Family, *addresses: str) -> list[Flow]:
    with node.netns.entered():
        return list(conntrack.flows(family, frozenset(addresses)))


def forget(node: Node, *gone: Flow) -> int:
    with node.netns.entered():
        return conntrack.forget(gone)


@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_the_flow_that_is_asked_for_is_gone(node: Node, family: Family) -> None:
    """Of each protocol two flows between the same addresses (or, without ports, to another one)."""
    for protocol in PROTOCOLS:
        for tag, destination in ((2001, B[family]), (2002, C[family] if protocol.isdigit() else B[family])):
            talk(node, protocol, A[family], destination, tag)
    before = table(node, family)
    assert len(before) == 2 * len(PROTOCOLS), before
    flows = listed(node, family, A[family])
    assert len(flows) == len(before)
    for protocol in PROTOCOLS:
        mine = [flow for flow in flows if flow.protocol == name(protocol, family)]
        assert len(mine) == 2, protocol
        for flow in mine:
            assert (flow.source, flow.peer) == (A[family], flow.destination)
            ports = (flow.source_port, flow.destination_port, flow.peer_port)
            if protocol in ("tcp", "udp", "sctp"):
                assert flow.source_port in (2001, 2002)
                assert ports[1:] == (80, 80)
            else:
                assert ports == (None, None, None)
            assert forget(node, flow) == 1
            after = table(node, family)
            (line,) = before - after
            assert after < before
            assert line.split()[1] == str(number(protocol, family))
            assert f"src={flow.source} dst={flow.destination} " in line
            assert flow.source_port is None or f"sport={flow.source_port} dport=80" in line
            before = after
    assert not before


@pytest.mark.parametrize("family", FAMILIES)
def test_the_addresses_take_part_as_source_or_as_the_one_that_answers(node: Node, family: Family) -> None:
    talk(node, "udp", A[family], B[family], 2001)
    talk(node, "udp", B[family], C[family], 2002)
    talk(node, "udp", C[family], A[family], 2003)
    assert {flow.source_port for flow in listed(node, family, A[family])} == {2001, 2003}
    assert {flow.source_port for flow in listed(node, family, A[family], B[family])} == {2001, 2002, 2003}
    assert listed(node, family) == []
    assert listed(node, family, A[10 - family]) == []  # type: ignore[index]
    assert listed(node, family, str(ip_address(A[family]) + 100)) == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("heeded", [True, False])
def test_each_flow_is_listed_once_however_many_addresses_are_wanted(
    node: Node, family: Family, heeded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For few the kernel picks the flows out, if it heeds the filter."""
    if not heeded:
        monkeypatch.setattr(conntrack, "_filter", lambda side, address: b"")
    names = (A[family], B[family], C[family])
    pairs = [(source, destination) for source in names for destination in names]
    for tag, (source, destination) in enumerate(pairs, start=2001):
        talk(node, "udp", source, destination, tag)
    for wanted in (names[:1], names[:2], names, (*names, *A.values(), *B.values(), *C.values())):
        nobody = [str(ip_address(A[family]) + number) for number in range(100, 120)]
        few, many = listed(node, family, *wanted), listed(node, family, *wanted, *nobody)
        expected = sorted(tag for tag, pair in enumerate(pairs, start=2001) if set(pair) & set(wanted))
        assert sorted(flow.source_port or 0 for flow in few) == expected
        assert sorted(flow.source_port or 0 for flow in many) == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_translated_flow_has_who_answers_as_its_peer(node: Node, family: Family, protocol: str) -> None:
    to = f"[{B[family]}]:80" if family == 6 else f"{B[family]}:80"
    rule = ("-p", protocol, "-d", C[family], "--dport", "8080", "-j", "DNAT", "--to-destination", to)
    node.iptables("nft", family, "-t", "nat", "-A", "OUTPUT", *rule)
    with node.netns.entered(), socket.socket(AF[family], socket.SOCK_STREAM) as server:
        server.bind((B[family], 80))
        server.listen()
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        for tag in (2001, 2002):
            with socket.socket(AF[family], kind) as client:
                client.bind((A[family], tag))
                client.connect((C[family], 8080))
                client.send(b"x")
    before = table(node, family)
    flows = listed(node, family, B[family])
    assert {replace(flow, entry=b"") for flow in flows} == {
        Flow(protocol, A[family], C[family], tag, 8080, B[family], 80) for tag in (2001, 2002)
    }
    assert listed(node, family, C[family]) == []
    assert forget(node, flows[0]) == 1
    (line,) = before - table(node, family)
    assert f"dst={C[family]} sport={flows[0].source_port} dport=8080" in line


def test_the_same_tuple_in_several_zones_is_several_flows(node: Node) -> None:
    """A zone is for both directions or for the original one, where the answers share a zone."""
    zones = (("--zone", "7", 2001), ("--zone", "8", 2001), ("--zone-orig", "9", 2002))
    talk(node, "udp", A[4], B[4], 2001)
    for option, zone, tag in zones:
        node.iptables("nft", 4, "-t", "raw", "-I", "OUTPUT", "-j", "CT", option, zone)
        talk(node, "udp", A[4], B[4], tag)
    before = table(node, 4)
    flows = listed(node, 4, A[4])
    assert len(before) == len(set(flows)) == 1 + len(zones), before
    for flow in flows:
        assert forget(node, flow) == 1
        after = table(node, 4)
        assert after < before
        assert len(before - after) == 1
        before = after


def test_flows_that_ended_by_themselves_are_not_counted(node: Node) -> None:
    for tag in (2001, 2002, 2003):
        talk(node, "udp", A[4], B[4], tag)
    flows = sorted(listed(node, 4, A[4]), key=lambda flow: flow.source_port or 0)
    assert forget(node, flows[1]) == 1
    assert forget(node, *flows) == 2
    assert forget(node, *flows) == 0
    assert forget(node) == 0


def test_a_later_flow_with_the_same_tuple_stays(node: Node) -> None:
    talk(node, "udp", A[4], B[4], 2001)
    old = listed(node, 4, A[4])
    node.flush_conntrack()
    talk(node, "udp", A[4], C[4], 2009)  # takes the place in memory, from which the kernel makes the id
    talk(node, "udp", A[4], B[4], 2001)
    before = table(node, 4)
    assert forget(node, *old) == 0
    assert table(node, 4) == before


def test_a_flow_without_its_entry_deletes_nothing(node: Node) -> None:
    """To the kernel a request without a tuple means: all of them."""
    talk(node, "udp", A[4], B[4], 2001)
    (flow,) = listed(node, 4, A[4])
    before = table(node, 4)
    with pytest.raises(ValueError, match="tuple"):
        forget(node, replace(flow, entry=b""))
    assert table(node, 4) == before


def test_what_the_kernel_refuses_is_told_when_the_rest_is_done(node: Node) -> None:
    for tag in (2001, 2002):
        talk(node, "udp", A[4], B[4], tag)
    good, bad = listed(node, 4, A[4])
    source = socket.inet_pton(socket.AF_INET, A[4])
    with pytest.raises(KernelError, match="refused to forget open flows: Invalid argument"):
        # an IPv4 tuple that is asked for as IPv6 has no addresses there
        forget(node, replace(bad, source=A[6]), good)
    assert source in good.entry
    assert listed(node, 4, A[4])[0].source_port == bad.source_port
    assert len(table(node, 4)) == 1


def test_many_flows_go_in_batches_while_they_are_listed(node: Node) -> None:
    with node.netns.entered():
        for source in (A[4], C[4]):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.bind((source, 2001))
                for port in range(3000, 4000):
                    client.sendto(b"x", (B[4], port))
        began = time.process_time()
        assert conntrack.forget(conntrack.flows(4, frozenset({C[4]}))) == 1000
        spent = time.process_time() - began
    left = table(node, 4)
    assert len(left) == 1000
    assert all(f" src={A[4]} dst={B[4]} " in line for line in left)
    assert spent < 0.5  # one look at the table for each flow would take seconds


@pytest.mark.parametrize("end", ["reset", "finished"])
def test_a_connection_that_was_ended_is_listed_too(node: Node, end: str) -> None:
    """In CLOSE and TIME_WAIT conntrack still passes what the answering side sends, and each packet prolongs it."""
    with node.netns.entered(), socket.socket() as server, socket.socket() as client:
        server.bind((B[4], 80))
        server.listen()
        client.bind((A[4], 2001))
        client.connect((B[4], 80))
        accepted, _ = server.accept()
        if end == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        accepted.close()
    state = "CLOSE" if end == "reset" else "TIME_WAIT"
    assert state in node.run(["conntrack", "-L", "-p", "tcp"])
    (flow,) = listed(node, 4, B[4])
    assert forget(node, flow) == 1


def test_a_kernel_without_ctnetlink_is_a_clear_sentence(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    talk(node, "udp", A[4], B[4], 2001)
    monkeypatch.setattr(conntrack, "_SUBSYSTEM", 31)  # a number that no module answers to
    with pytest.raises(KernelError, match="modprobe nf_conntrack_netlink"):
        listed(node, 4, A[4])
    monkeypatch.setattr(conntrack, "_NETLINK_NETFILTER", 30)  # a protocol that the kernel has not
    with pytest.raises(KernelError, match="modprobe nf_conntrack_netlink"):
        listed(node, 4, A[4])


def test_without_the_right_to_it_the_kernel_refuses(node: Node) -> None:
    code = (
        "from netpold.host import conntrack\n"
        "from netpold.host.kernel.backend import KernelError\n"
        "try: list(conntrack.flows(4, frozenset({'10.1.0.1'})))\n"
        "except KernelError as error: print(error)\n"
    )
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--clear-groups"]
    said = node.run([*drop, "/usr/bin/python3", "-c", code])
    assert said.strip() == f"the kernel refused to list open flows: {os.strerror(errno.EPERM)}"
