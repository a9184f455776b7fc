"""Open flows, by ctnetlink: a dump lists those of some addresses, and flows are forgotten many to a message.

Where few IPv4 addresses are wanted, the kernel picks their flows out (CTA_FILTER, from Linux 5.8), by a dump for each
address and side: it then neither writes down nor hands over the others.  Else it hands over all flows of the family,
and the others are passed over here; so they are, too, where an older kernel does not heed the filter.  For IPv6 the
kernel leaves out just the flows that are asked for (ctnetlink_filter_match_tuple compares the wrong way round).

A flow keeps its entry as the kernel wrote it down, and the entry's tuple, zone and id are sent back to delete it: so
every protocol is met, and exactly that entry.  TCP connections that have ended (CLOSE, TIME_WAIT) are flows as others:
conntrack goes on to pass what the answering side sends, and every such packet prolongs the entry.  Layouts and
constants: linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c.

Why not the conntrack program: its batches look for each flow by a dump of the whole table (14 ms or more a flow).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from itertools import islice

from netpold.host.kernel.backend import KernelError
from netpold.policy.model import Family
from netpold.rules.revoke import Flow

_NETLINK_NETFILTER, _SUBSYSTEM = 12, 1  # NFNL_SUBSYS_CTNETLINK
_GET, _DELETE = 1, 2
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x01, 0x04, 0x300
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_NEW_FLOWS = 1  # NF_NETLINK_CONNTRACK_NEW, a bit
_RECEIVE = 1 << 17  # the kernel never fills more than 32 KiB at once
_BATCH = 128  # their answers have to fit the socket's receive buffer (208 KiB), 1 KiB each

_HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr: length, type, flags, sequence, port; nfgenmsg: family, version, 0
_START = struct.Struct("=IH")  # nlmsghdr: length, type
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")

_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_NESTED = 0x8000
_IP, _IPV4_SOURCE = 1, 1  # CTA_TUPLE_IP, CTA_IP_V4_SRC
_FILTER_FLAGS = {_TUPLE_ORIG: 1, _TUPLE_REPLY: 2}  # CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS
_FILTER_BY_SOURCE = 1  # CTA_FILTER_FLAG(CTA_IP_SRC)
_FEW = 4  # addresses; with more, the two dumps for each cost the kernel more than one of all flows

# A tuple as the kernel has always written it (ctnetlink_dump_tuples): in CTA_TUPLE_ORIG or _REPLY first CTA_TUPLE_IP
# with source and destination, then CTA_TUPLE_PROTO with the protocol's number, and the ports where it has some.
_TUPLE: dict[Family, struct.Struct] = {
    4: struct.Struct("=HHHHHH4sHH4sHHHHBxxx"),
    6: struct.Struct("=HHHHHH16sHH16sHHHHBxxx"),
}
_TUPLE_LAYOUT: dict[tuple[Family, int], tuple[int, ...]] = {
    (4, _TUPLE_ORIG): (0x8001, 0x8001, 1, 2, 0x8002, 1),
    (4, _TUPLE_REPLY): (0x8002, 0x8001, 1, 2, 0x8002, 1),
    (6, _TUPLE_ORIG): (0x8001, 0x8001, 3, 4, 0x8002, 1),
    (6, _TUPLE_REPLY): (0x8002, 0x8001, 3, 4, 0x8002, 1),
}
_PORTS = struct.Struct("!4xHxx4xHxx")  # CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT

_AF: dict[Family, int] = {4: socket.AF_INET, 6: socket.AF_INET6}
_FAMILIES: dict[int, Family] = {number: family for family, number in _AF.items()}
_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}  # iptables' names, of those that rules have
_WITH_PORTS = {6, 17, 132}
_NO_CTNETLINK = "the kernel has no ctnetlink, open flows can't be cut: modprobe nf_conntrack_netlink"


def flows(family: Family, addresses: frozenset[str], *, link_local: bool = False) -> Iterator[Flow]:
    """The flows of a family that any of these addresses takes part in, as who began it or as who answers; with
    `link_local` also those of any IPv6 link-local address.

    Raises KernelError.
    """
    wanted = frozenset(socket.inet_pton(_AF[family], each) for each in addresses if (":" in each) == (family == 6))
    if link_local:
        wanted = _WithLinkLocal(wanted)
    elif not wanted:
        return
    with _opened() as channel:
        if family == 6 or len(wanted) > _FEW:
            yield from _listed(channel, family, b"", wanted, wanted)
            return
        for address in wanted:
            yield from _listed(channel, family, _filter(_TUPLE_ORIG, address), {address}, ())
        for address in wanted:
            for flow in _listed(channel, family, _filter(_TUPLE_REPLY, address), (), {address}):
                if flow.source not in addresses:  # it was listed as the source's
                    yield flow


class NewFlows:
    """Flows as they come about: their first packets have been let through.  In the network namespace of the thread that
    makes it; raises KernelError.  Where they come faster than they are read, some are lost."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        except OSError as error:
            raise KernelError(f"new flows can't be followed by netlink: {error.strerror}") from error
        try:
            self._socket.bind((0, _NEW_FLOWS))
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise KernelError(f"new flows can't be followed by netlink: {error.strerror}") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[Flow]:
        """Those that wait, a message's worth; nothing where there is none.  Raises KernelError."""
        try:
            data = self._socket.recv(_RECEIVE)
            return [flow for flow in _heard(data) if flow is not None]
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return []
            raise KernelError(f"new flows can't be followed by netlink: {error.strerror}") from error
        except (struct.error, LookupError) as error:
            raise KernelError("a new flow can't be read") from error


class _Everything(Collection[bytes]):
    def __contains__(self, each: object) -> bool:
        return True

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def __len__(self) -> int:
        return 0


_ALL = _Everything()


class _WithLinkLocal(frozenset[bytes]):
    """Addresses, and all of fe80::/10."""

    def __contains__(self, each: object) -> bool:
        return super().__contains__(each) or (isinstance(each, bytes) and each[0] == 0xFE and each[1] & 0xC0 == 0x80)


def _heard(data: bytes) -> Iterator[Flow | None]:
    for kind, start, end in _split(data):
        if kind == _SUBSYSTEM << 8 and data[start] in _FAMILIES:
            yield _flow(_FAMILIES[data[start]], _ALL, _ALL, data, start + 4, end)


def forget(gone: Iterable[Flow]) -> int:
    """Delete the entries of these flows; how many there still were.

    Raises KernelError where the kernel refuses some (the others are deleted).
    """
    remaining = iter(gone)
    forgotten, refused = 0, 0
    with _opened() as channel:
        while batch := list(islice(remaining, _BATCH)):
            for code in _delete(channel, batch):
                forgotten += not code
                if code and code != errno.ENOENT:  # no such entry: the flow ended by itself meanwhile
                    refused = code
    if refused:
        raise KernelError(f"the kernel refused to forget open flows: {os.strerror(refused)}")
    return forgotten


def _listed(
    channel: socket.socket, family: Family, only: bytes, sources: Collection[bytes], peers: Collection[bytes]
) -> Iterator[Flow]:
    """The flows of one dump that come from one of `sources` or that one of `peers` answers."""
    channel.send(_message(_GET, _NLM_F_REQUEST | _NLM_F_DUMP, family, only))
    while True:
        data = channel.recv(_RECEIVE)
        for kind, start, end in _split(data):
            if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                _check_listing(-_ERROR.unpack_from(data, start)[0])
                return
            try:
                flow = _flow(family, sources, peers, data, start + 4, end)
            except (struct.error, LookupError) as error:
                raise KernelError(f"an entry of conntrack can't be read: {data[start:end].hex()}") from error
            if flow is not None:
                yield flow


def _filter(side: int, address: bytes) -> bytes:
    """The attributes of a dump of the flows that have this IPv4 address as source in the tuple of that side."""
    source = _attribute(_NESTED | _IP, _attribute(_IPV4_SOURCE, address))
    flags = _attribute(_FILTER_FLAGS[side], struct.pack("=I", _FILTER_BY_SOURCE))
    return _attribute(_NESTED | side, source) + _attribute(_NESTED | _FILTER, flags)


def _delete(channel: socket.socket, batch: list[Flow]) -> Iterator[int]:
    """The kernel's answers, 0 or an errno; it has them ready when send() returns."""
    requests = []
    for flow in batch:
        family: Family = 6 if ":" in flow.source else 4
        requests.append(_message(_DELETE, _NLM_F_REQUEST | _NLM_F_ACK, family, _key(flow.entry)))
    channel.send(b"".join(requests))
    missing = len(batch)
    while missing:
        data = channel.recv(_RECEIVE)
        for kind, start, _end in _split(data):
            if kind == _NLMSG_ERROR:
                missing -= 1
                yield -_ERROR.unpack_from(data, start)[0]


@contextlib.contextmanager
def _opened() -> Iterator[socket.socket]:
    """A socket in the network namespace of this thread; what goes wrong with it is a KernelError."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as channel:
            channel.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # answers without the request
            yield channel
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            raise KernelError(_NO_CTNETLINK) from error
        raise KernelError(f"the kernel's list of open flows can't be used: {error.strerror}") from error
    except struct.error as error:
        raise KernelError(f"a message of ctnetlink can't be read: {error}") from error


def _check_listing(code: int) -> None:
    if code in (errno.EINVAL, errno.EOPNOTSUPP):  # what nfnetlink says of a subsystem that it has no module for
        raise KernelError(_NO_CTNETLINK)
    if code:
        raise KernelError(f"the kernel refused to list open flows: {os.strerror(code)}")


def _flow(
    family: Family, sources: Collection[bytes], peers: Collection[bytes], data: bytes, start: int, end: int
) -> Flow | None:
    """An entry whose attributes stand from `start` to `end`; None where it is not from or to one of these."""
    length, protocol, source, destination = _tuple(family, _TUPLE_ORIG, data, start)
    second = start + length
    _, _, peer, _ = _tuple(family, _TUPLE_REPLY, data, second)
    if source not in sources and peer not in peers:
        return None
    source_port = destination_port = peer_port = None
    if protocol in _WITH_PORTS:
        source_port, destination_port = _PORTS.unpack_from(data, start + _TUPLE[family].size)
        peer_port, _ = _PORTS.unpack_from(data, second + _TUPLE[family].size)
    return Flow(
        _NAMES.get(protocol, str(protocol)),
        _text(family, source),
        _text(family, destination),
        source_port,
        destination_port,
        _text(family, peer),
        peer_port,
        data[start:end],
    )


def _tuple(family: Family, kind: int, data: bytes, offset: int) -> tuple[int, int, bytes, bytes]:
    """Length, protocol, source and destination of the tuple that stands there."""
    length, a, _, b, _, c, source, _, d, destination, _, e, _, f, protocol = _TUPLE[family].unpack_from(data, offset)
    if (a, b, c, d, e, f) != _TUPLE_LAYOUT[family, kind]:
        raise struct.error("the attributes of a tuple stand in another order")
    return length, protocol, source, destination


@lru_cache(maxsize=16384)
def _text(family: Family, address: bytes) -> str:
    return socket.inet_ntop(_AF[family], address)


def _key(entry: bytes) -> bytes:
    """Of an entry's attributes those by which the kernel finds it."""
    attributes = _attributes(entry, 0, len(entry))
    if _TUPLE_ORIG not in attributes:
        raise ValueError("a flow without its tuple: a request without one deletes all flows")
    return b"".join(attributes[kind] for kind in (_TUPLE_ORIG, _ZONE, _ID) if kind in attributes)


def _attribute(kind: int, data: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + bytes(-length % 4)


def _attributes(data: bytes, offset: int, end: int) -> dict[int, bytes]:
    """Each attribute by its type, with its header and padding."""
    found = {}
    while offset < end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            raise struct.error("attribute of no length")
        found[kind & 0x3FFF] = data[offset : offset + length] + bytes(-length % 4)
        offset += (length + 3) & ~3
    return found


def _split(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Each message's type, and where what follows its header begins and ends."""
    offset = 0
    while offset < len(data):
        length, kind = _START.unpack_from(data, offset)
        if length < 16 or offset + length > len(data):
            raise struct.error(f"{length} bytes where {len(data) - offset} are left")
        yield kind, offset + 16, offset + length
        offset += (length + 3) & ~3


def _message(kind: int, flags: int, family: Family, attributes: bytes) -> bytes:
    length = _HEADER.size + len(attributes)
    return _HEADER.pack(length, _SUBSYSTEM << 8 | kind, flags, 0, 0, _AF[family], 0, 0) + attributes
