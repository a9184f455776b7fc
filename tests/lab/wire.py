"""Packets that the kernel does not write for us: SCTP INIT, ICMP echo, and a payload for any other IP protocol.

Every probe has a tag, a number that is its source port (TCP, SCTP) or its ICMP identifier, and that stands in the
payload elsewhere; what arrives is told apart by it.  The kernel here may have no SCTP, so a probe of it is
a real INIT (RFC 9260, 3.3.2) with the right CRC32c, which conntrack checks, and the answer a real INIT ACK.
"""

from __future__ import annotations

import struct

SYN_ONLY_V4 = ((0x30, 0, 0, 0), (0x54, 0, 0, 0x0F), (0x64, 0, 0, 2), (0x07, 0, 0, 0), (0x50, 0, 0, 13))
SYN_ONLY_V6 = ((0x30, 0, 0, 13),)
_KEEP_SYN = ((0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0))

_INIT, _INIT_ACK = 1, 2
_COOKIE = struct.pack("!HHI", 7, 8, 0x6E702D6C)
_ECHO = {4: (8, 0), 6: (128, 129)}  # ICMP type of request and reply by family
_MARK = b"\0\0\0\0np-lab"  # zeros first: to conntrack it is a GRE header without options
_QUESTION, _ANSWER = b"?", b"!"


def syn_filter(family: int) -> bytes:
    """Classic BPF program (struct sock_filter) for a raw TCP socket: SYN without ACK passes, nothing else does.

    The packet starts with the IP header in IPv4, with the TCP header in IPv6 (raw(7), ipv6(7)).
    """
    program = (SYN_ONLY_V4 if family == 4 else SYN_ONLY_V6) + _KEEP_SYN
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def question(protocol: int, family: int, tag: int, port: int) -> bytes:
    """What a probe sends over a raw socket of that IP protocol."""
    if protocol == 132:
        return _sctp(tag, port, 0, _INIT, _initiate(tag), b"")
    if protocol in (1, 58):
        return _echo(_ECHO[family][0], tag)
    return _MARK + _QUESTION + struct.pack("!H", tag)


def asked(protocol: int, family: int, payload: bytes) -> tuple[int, int] | None:
    """Tag and destination port (0: none) of a probe that arrived; None for everything else."""
    if protocol == 6 and len(payload) >= 4:
        tag, port = struct.unpack_from("!HH", payload)
        return tag, port
    if protocol == 132 and len(payload) >= 32 and payload[12] == _INIT and _sound(payload):
        tag, port = struct.unpack_from("!HH", payload)
        return tag, port
    if protocol in (1, 58) and len(payload) >= 8 and payload[0] == _ECHO[family][0]:
        return struct.unpack_from("!H", payload, 4)[0], 0
    return _marked(payload, _QUESTION)


def answer(protocol: int, payload: bytes) -> bytes | None:
    """What the receiver sends back; None where its kernel does that (TCP, ICMP)."""
    if protocol in (1, 6, 58):
        return None
    if protocol == 132:
        source, destination = struct.unpack_from("!HH", payload)
        verification = struct.unpack_from("!I", payload, 16)[0]
        return _sctp(destination, source, verification, _INIT_ACK, _initiate(source ^ 0xFFFF), _COOKIE)
    return payload.replace(_MARK + _QUESTION, _MARK + _ANSWER, 1)


def answered(protocol: int, family: int, payload: bytes) -> int | None:
    """Tag of the probe that this answers; None for everything else."""
    if protocol == 132:
        if len(payload) < 32 or payload[12] != _INIT_ACK or not _sound(payload):
            return None
        tag, verification = struct.unpack_from("!HI", payload, 2)
        return tag if verification == _initiate(tag) else None
    if protocol in (1, 58):
        echo = len(payload) >= 8 and payload[0] == _ECHO[family][1]
        return struct.unpack_from("!H", payload, 4)[0] if echo else None
    found = _marked(payload, _ANSWER)
    return found[0] if found else None


def returned(protocol: int, payload: bytes) -> int | None:
    """Tag of the probe that an ICMP error carries back."""
    if protocol == 132:
        return struct.unpack_from("!H", payload)[0] if len(payload) >= 2 else None
    if protocol in (1, 58):
        return struct.unpack_from("!H", payload, 4)[0] if len(payload) >= 6 else None
    found = _marked(payload, _QUESTION)
    return found[0] if found else None


def crc32c(data: bytes) -> int:
    """CRC32c (Castagnoli) as RFC 9260, appendix A has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _marked(payload: bytes, kind: bytes) -> tuple[int, int] | None:
    head = _MARK + kind
    if not payload.startswith(head) or len(payload) < len(head) + 2:
        return None
    return struct.unpack_from("!H", payload, len(head))[0], 0


def _initiate(tag: int) -> int:
    return 0x4E500000 | tag


def _sctp(source: int, destination: int, verification: int, kind: int, initiate: int, parameters: bytes) -> bytes:
    head = struct.pack("!HHI", source, destination, verification)
    chunk = struct.pack("!BBHIIHHI", kind, 0, 20 + len(parameters), initiate, 65536, 1, 1, initiate) + parameters
    return head + struct.pack("<I", crc32c(head + b"\0\0\0\0" + chunk)) + chunk


def _sound(packet: bytes) -> bool:
    return packet[8:12] == struct.pack("<I", crc32c(packet[:8] + b"\0\0\0\0" + packet[12:]))


def _echo(kind: int, tag: int) -> bytes:
    """An echo request; the checksum is that of ICMP, the kernel writes ICMPv6's itself."""
    words = (kind << 8, tag, 1, 0x6E70, 0x6C61)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!HHHHHH", words[0], total ^ 0xFFFF, *words[1:])


def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC = _table()
