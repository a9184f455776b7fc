"""Logged packets: what the kernel says of them, by real ones, and what headers say, however they are cut."""

from __future__ import annotations

import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.sctp import SCTP
from scapy.packet import Packet

from netpold.host.nflog import FLUSH_S, Busy, Group, Heading, Logged, heading
from tests.lab import Backend, Lab

A4, B4 = "10.0.0.1", "10.0.0.2"
A6, B6 = "2001:db8::1", "2001:db8::2"
IP4, IP6 = IP(src=A4, dst=B4), IPv6(src=A6, dst=B6)
TCP80 = TCP(sport=1234, dport=80)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (IP4 / TCP80, Heading(A4, B4, "tcp", 1234, 80)),
        (IP4 / UDP(sport=53, dport=5353), Heading(A4, B4, "udp", 53, 5353)),
        (IP4 / SCTP(sport=7, dport=9), Heading(A4, B4, "sctp", 7, 9)),
        (IP4 / ICMP(type=8), Heading(A4, B4, "icmp", icmp_type=8)),
        (IP(src=A4, dst=B4, proto=47) / b"gre", Heading(A4, B4, "47")),
        (IP(src=A4, dst=B4, options=b"\x01" * 8) / TCP80, Heading(A4, B4, "tcp", 1234, 80)),
        (IP(src=A4, dst=B4, flags="MF") / TCP80, Heading(A4, B4, "tcp", 1234, 80)),
        (IP(src=A4, dst=B4, frag=5, proto=6) / TCP80, Heading(A4, B4, "tcp")),
        (IP6 / TCP80, Heading(A6, B6, "tcp", 1234, 80)),
        (IP6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / TCP80, Heading(A6, B6, "tcp", 1234, 80)),
        (IP6 / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2), Heading(A6, B6, "udp", 1, 2)),
        (IP6 / AH(nh=6, payloadlen=4, spi=1, icv=b"0" * 12) / TCP80, Heading(A6, B6, "tcp", 1234, 80)),
        (IP6 / IPv6ExtHdrFragment(offset=0, m=1) / TCP80, Heading(A6, B6, "tcp", 1234, 80)),
        (IP6 / IPv6ExtHdrFragment(offset=9) / TCP80, Heading(A6, B6, "tcp")),
        (IPv6(src=A6, dst=B6, nh=58) / b"\x80\x00\x00\x00", Heading(A6, B6, "ipv6-icmp", icmp_type=128)),
    ],
    ids=str,
)
def test_headers(packet: Packet, expected: Heading) -> None:
    data = bytes(packet)
    assert heading(data) == expected
    for length in range(len(data)):  # the kernel copies only the beginning
        found = heading(data[:length])
        assert found is None or (found.source, found.destination) == (expected.source, expected.destination)
        assert found is None or found.port in (None, expected.port)


@given(st.binary(max_size=128))
def test_whatever_comes(data: bytes) -> None:
    found = heading(data)
    assert found is None or data[0] >> 4 in (4, 6)


def read(group: Group, wanted: int) -> list[Logged]:
    found: list[Logged] = []
    end = time.monotonic() + 5
    while len(found) < wanted and time.monotonic() < end:
        found += group.read()
        time.sleep(0.01)
    return found


@pytest.mark.kernel
def test_by_real_packets(lab: Lab, backend: Backend) -> None:
    node = lab.node("n1")
    for family in (4, 6):
        tool = f"{'ip6tables' if family == 6 else 'iptables'}-{backend}"
        log = ["-j", "NFLOG", "--nflog-group", "92", "--nflog-prefix", "netpold drop egress"]
        node.run([tool, "-A", "OUTPUT", "-o", "lo", "-p", "udp", "--dport", "99", *log])
    with node.netns.entered():
        group = Group(92)
        with pytest.raises(Busy):
            Group(92)
        loopback = socket.if_nametoindex("lo")
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"x" * 2000, (address, 99))
        found = read(group, 2)
        assert [each.heading.source for each in found] == ["127.0.0.1", "::1"]
        for number, each in enumerate(found):
            assert each.prefix == "netpold drop egress" and each.hook == "OUTPUT"
            assert (each.incoming, each.outgoing, each.sequence) == (0, loopback, number)
            assert each.heading.protocol == "udp" and each.heading.port == 99

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:  # nobody reads: buffers are thrown away
            for _ in range(20_000):
                sender.sendto(b"", ("127.0.0.1", 99))
        time.sleep(3 * FLUSH_S)  # the last of them are handed over, and thrown away, before any is read
        many = len(drained(group))
        assert (group.lost, group.uncounted) == (0, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", ("127.0.0.1", 99))
        many += len(read(group, 1))
        assert 0 < many < 20_001
        assert (many + group.lost, group.uncounted) == (20_001, 0)
        group.close()
        Group(92).close()  # it is free again


def drained(group: Group) -> list[Logged]:
    """All that waits, with what the kernel hands over a moment later."""
    found: list[Logged] = []
    empty = 0
    while empty < 30:
        more = group.read()
        found += more
        empty = 0 if more else empty + 1
        time.sleep(0.01 if not more else 0)
    return found
