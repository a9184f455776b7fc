"""A table of nf_tables that marks packets to be traced, and that the kernel takes away with its owner.

The table belongs to the netlink socket that made it (NFT_TABLE_F_OWNER, since Linux 5.12): it goes when that socket is
closed, however its process ends, and no other program can change it meanwhile.  So nothing of a trace is ever left
behind, and no rule of iptables, netpold's or another's, is touched.

    start     PREROUTING and OUTPUT before everything but defragmentation: marks the packets that are looked for, one a
              second at most
    state     after address translation: marks those that were led here by it, likewise; sends what comes from their
              sources to a chain whose rules match by what conntrack says of a packet
    stations  chains without rules, before and after the filter table and at the end of the way

Of a marked packet the kernel tells by which rules and chains it passes, those of all programs, and also these; nothing
else about it is changed, and of others nothing at all.  The mark (nftrace) is heeded by nf_tables and by legacy tables.

Layouts and constants: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from netpold.host.kernel.backend import KernelError, said
from netpold.host.kernel.nfnetlink import NLA_F_NESTED, attribute

PREFIX = "netpold-trace-"  # of the names of such tables
SAID = "said"  # the chain that tells what conntrack says
STATES = ("new", "established", "related", "invalid")  # each one of its rules, in this order
REPLY = "reply"  # the rule after them

_NFPROTO_INET = 1
_SUBSYSTEM, _NETLINK_NETFILTER = 10 << 8, 12
_NEWTABLE, _NEWCHAIN, _NEWRULE = 0, 3, 6
_BATCH_BEGIN, _BATCH_END = 16, 17
_REQUEST, _ACK, _CREATE, _EXCLUSIVE, _APPEND = 0x01, 0x04, 0x400, 0x200, 0x800
_FOR_NF_TABLES = struct.unpack("=H", struct.pack("!H", 10))[0]  # resource of a batch
_OWNER = 2  # NFT_TABLE_F_OWNER
_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(5)
_HEADER = struct.Struct("=IHHIIBBH")
_ERROR = struct.Struct("=i")

_NETWORK, _TRANSPORT = 1, 2  # NFT_PAYLOAD_
_L4PROTO, _NFPROTO_KEY, _NFTRACE = 16, 15, 12  # NFT_META_
_CT_STATE, _CT_DIRECTION, _CT_STATUS = 0, 1, 2  # NFT_CT_
_STATE_BITS = {"invalid": 1, "established": 2, "related": 4, "new": 8}  # NF_CT_STATE_BIT
_DNAT = 1 << 5  # IPS_DST_NAT
_REGISTER = 8  # NFT_REG32_00
_PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "ipv6-icmp": 58, "sctp": 132}

# Each chain with where it stands: its hook and priority.
CHAINS: Mapping[str, tuple[str, int]] = {
    "start-pre": ("PREROUTING", -350),
    "start-out": ("OUTPUT", -350),
    "state-pre": ("PREROUTING", -90),
    "state-out": ("OUTPUT", -90),
    "before-in": ("INPUT", -1),
    "before-fwd": ("FORWARD", -1),
    "before-out": ("OUTPUT", -1),
    "after-in": ("INPUT", 1),
    "after-fwd": ("FORWARD", 1),
    "after-out": ("OUTPUT", 1),
    "end-in": ("INPUT", 350),
    "end-post": ("POSTROUTING", 350),
}
_HOOKS = {"PREROUTING": _PREROUTING, "INPUT": _INPUT, "FORWARD": _FORWARD, "OUTPUT": _OUTPUT, "POSTROUTING": 4}


@dataclass(frozen=True, slots=True)
class Aim:
    """Which packets: from one address to another (text, of one family), `protocol` as iptables names it, to a port, or
    of an ICMP type."""

    source: str
    destination: str
    protocol: str
    port: int | None = None
    icmp_type: int | None = None


class TraceTable:
    """The table, in the network namespace of the thread that makes it, until it is closed.  Raises KernelError."""

    def __init__(self, aims: Sequence[Aim]) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        except OSError as error:
            raise KernelError(f"nf_tables can't be asked by netlink: {said(error)}") from error
        try:
            self._socket.bind((0, 0))
            self.name = f"{PREFIX}{self._socket.getsockname()[0]}"
            self._make(aims)
        except OSError as error:
            self._socket.close()
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                text = "this kernel can't trace packets as netpold does: that takes nf_tables of Linux 5.12 or later"
                raise KernelError(text) from error
            raise KernelError(f"the table that marks packets can't be made: {said(error)}") from error

    def close(self) -> None:
        """Take the table away."""
        self._socket.close()

    def _make(self, aims: Sequence[Aim]) -> None:
        table = attribute(1, self.name.encode() + b"\0")  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and NFTA_RULE_TABLE
        messages = [(_NEWTABLE, _CREATE | _EXCLUSIVE, table + attribute(2, _OWNER.to_bytes(4, "big")))]
        for name, (hook, priority) in CHAINS.items():
            place = attribute(1, _HOOKS[hook].to_bytes(4, "big")) + attribute(2, struct.pack("!i", priority))
            chain = attribute(3, name.encode() + b"\0") + attribute(4 | NLA_F_NESTED, place)
            accept = attribute(5, (1).to_bytes(4, "big"))
            messages.append((_NEWCHAIN, _CREATE, table + chain + accept + attribute(7, b"filter\0")))
        messages.append((_NEWCHAIN, _CREATE, table + attribute(3, SAID.encode() + b"\0")))
        for name in ("start-pre", "start-out"):
            messages += [_rule(table, name, [*_aimed(aim), *_LIMIT, *_MARK]) for aim in aims]
        for name in ("state-pre", "state-out"):
            translated = [_ct(_CT_STATUS), *_bit(_DNAT)]
            messages += [_rule(table, name, [*_aimed(aim), *translated, *_LIMIT, *_MARK]) for aim in aims]
            messages += [_rule(table, name, [*_from(source), _SAY]) for source in sorted({aim.source for aim in aims})]
        messages += [_rule(table, SAID, [_ct(_CT_STATE), *_bit(_STATE_BITS[state])]) for state in STATES]
        messages.append(_rule(table, SAID, [_ct(_CT_DIRECTION), _compare(b"\1")]))
        self._send(messages)

    def _send(self, messages: Sequence[tuple[int, int, bytes]]) -> None:
        """One transaction.  Raises OSError."""
        begin, end = (_message(kind, _REQUEST, b"", 0, _FOR_NF_TABLES) for kind in (_BATCH_BEGIN, _BATCH_END))
        last = len(messages) - 1
        middle = b"".join(
            _message(_SUBSYSTEM | kind, _REQUEST | flags | (_ACK if place == last else 0), body, _NFPROTO_INET, 0)
            for place, (kind, flags, body) in enumerate(messages)
        )
        self._socket.send(begin + middle + end)
        answer = self._socket.recv(1 << 17)  # the first error, or that there is none
        code = -_ERROR.unpack_from(answer, 16)[0]
        if code:
            raise OSError(code, os.strerror(code))


def _message(kind: int, flags: int, body: bytes, nfproto: int, resource: int) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0, nfproto, 0, resource) + body


def _rule(table: bytes, chain: str, expressions: Iterable[bytes]) -> tuple[int, int, bytes]:
    listed = b"".join(attribute(1 | NLA_F_NESTED, each) for each in expressions)
    body = table + attribute(2, chain.encode() + b"\0") + attribute(4 | NLA_F_NESTED, listed)
    return _NEWRULE, _CREATE | _APPEND, body


# Expressions ----------------------------------------------------------------------------------------------------------


def _aimed(aim: Aim) -> list[bytes]:
    found = [
        *_from(aim.source),
        *_address(aim.destination, is_source=False),
        _meta(_L4PROTO),
        _compare(bytes([_PROTOCOLS[aim.protocol]])),
    ]
    if aim.port is not None:
        found += [_payload(_TRANSPORT, 2, 2), _compare(aim.port.to_bytes(2, "big"))]
    if aim.icmp_type is not None:
        found += [_payload(_TRANSPORT, 0, 1), _compare(bytes([aim.icmp_type]))]
    return found


def _from(source: str) -> list[bytes]:
    nfproto = socket.AF_INET6 if ":" in source else socket.AF_INET
    return [_meta(_NFPROTO_KEY), _compare(bytes([nfproto])), *_address(source, is_source=True)]


def _address(text: str, *, is_source: bool) -> list[bytes]:
    packed = ip_address(text).packed
    offset = (12 if len(packed) == 4 else 8) + (0 if is_source else len(packed))
    return [_payload(_NETWORK, offset, len(packed)), _compare(packed)]


def _expression(name: str, *values: tuple[int, bytes]) -> bytes:
    data = b"".join(attribute(kind, value) for kind, value in values)
    return attribute(1, name.encode() + b"\0") + attribute(2 | NLA_F_NESTED, data)


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _meta(key: int) -> bytes:
    return _expression("meta", (1, _u32(_REGISTER)), (2, _u32(key)))


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression("payload", (1, _u32(_REGISTER)), (2, _u32(base)), (3, _u32(offset)), (4, _u32(length)))


def _ct(key: int) -> bytes:
    return _expression("ct", (1, _u32(_REGISTER)), (2, _u32(key)))


def _compare(value: bytes, operation: int = 0) -> bytes:
    """`operation`: 0 the same, 1 another."""
    return _expression("cmp", (1, _u32(_REGISTER)), (2, _u32(operation)), (3 | NLA_F_NESTED, attribute(1, value)))


def _bit(bit: int) -> list[bytes]:
    """Whether the register, a number as the machine writes it, has that bit."""
    mask, zero = (attribute(1, struct.pack("=I", each)) for each in (bit, 0))
    values = ((1, _u32(_REGISTER)), (2, _u32(_REGISTER)), (3, _u32(4)))
    masked = _expression("bitwise", *values, (4 | NLA_F_NESTED, mask), (5 | NLA_F_NESTED, zero))
    return [masked, _compare(bytes(4), 1)]


_JUMP = attribute(1, struct.pack("!i", -3)) + attribute(2, SAID.encode() + b"\0")  # NFT_JUMP and its chain
_SAY = _expression("immediate", (1, _u32(0)), (2 | NLA_F_NESTED, attribute(2 | NLA_F_NESTED, _JUMP)))
_ONE = attribute(1, b"\1")
_MARK = [
    _expression("immediate", (1, _u32(_REGISTER)), (2 | NLA_F_NESTED, _ONE)),
    _expression("meta", (2, _u32(_NFTRACE)), (3, _u32(_REGISTER))),
]
_LIMIT = [_expression("limit", (1, (1).to_bytes(8, "big")), (2, (1).to_bytes(8, "big")), (3, _u32(1)))]
