"""A rule in the binary form that the kernel's legacy tables hold: struct ipt_entry or ip6t_entry, matches, target.

The structs are kernel ABI (linux/netfilter_ipv4/ip_tables.h, linux/netfilter/xt_*.h) and are packed here, each in the
revision that iptables 1.8 picks too.  The plugins of xtables, which python-iptables' Rule drives, would do the same at
1 ms a rule, from global state, and report a bad value by longjmp over Python's frames.  Pure: nothing is asked of the
kernel; the index of a set, which the struct holds instead of its name, comes from the caller.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from netpold.policy.model import Family
from netpold.rules.render import Extension, Option, Options
from netpold.rules.ruleset import CHAIN_NAME_LIMIT

SetIndex = Callable[[str], int]
# option name -> (value or None, negated)
Given = Mapping[str, tuple[str | None, bool]]

# targets that are not chains
TARGETS = frozenset({"ACCEPT", "DROP", "RETURN", "NFLOG"})

_ALIGNMENT = struct.calcsize("@BQ") - struct.calcsize("@Q")  # XT_ALIGN
# src, dst, their masks, in- and out-interface, their masks, protocol, (tos,) flags, invflags
_IP = {4: struct.Struct("@4s4s4s4s16s16s16s16sHBB"), 6: struct.Struct("@16s16s16s16s16s16s16s16sHxBB3x")}
# nfcache, target_offset, next_offset, comefrom, packet and byte counters
_REST = "IHHIQQ"
_ENTRY = {4: struct.Struct(f"@{_IP[4].size}s{_REST}"), 6: struct.Struct(f"@{_IP[6].size}s{_REST}")}
_HEADER = struct.Struct("@H29sB")  # xt_entry_match, xt_entry_target
_IPV6_HAS_PROTOCOL = 1
_GOTO = {4: 2, 6: 4}
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "ipv6-icmp": 58, "icmpv6": 58}
_INVERT = {"in-interface": 0x01, "out-interface": 0x02, "source": 0x08, "destination": 0x10, "protocol": 0x40}


class BadRule(ValueError):
    """A rule has no binary form: what is wrong with it, in words."""


def encode(rule: Options, family: Family, set_index: SetIndex) -> bytes:
    """The entry for one rule with zero counters.

    A target that is no verdict and no extension known here is taken for the name of a chain, which libiptc resolves.
    Raises BadRule, and what `set_index` raises for a set that is not there.
    """
    own = _given([option for extension in rule.matches if not extension.name for option in extension.options])
    protocol = own.get("protocol", (None, False))
    matches = b"".join(_match(extension, family, protocol, set_index) for extension in rule.matches if extension.name)
    target = _target(rule)
    header = _ip(own, family, rule.goto)
    target_offset = _ENTRY[family].size + len(matches)
    return _ENTRY[family].pack(header, 0, target_offset, target_offset + len(target), 0, 0, 0) + matches + target


def jump(chain: str, family: Family) -> bytes:
    """The entry for a jump to a chain with no condition."""
    target = _target(Options((), chain))
    size = _ENTRY[family].size
    return _ENTRY[family].pack(b"", 0, size, size + len(target), 0, 0, 0) + target


def is_plain(entry: bytes, family: Family) -> bool:
    """Whether an entry (its first part at least) matches every packet and does not `goto`."""
    header, _, target_offset, *_ = _ENTRY[family].unpack_from(entry)
    return target_offset == _ENTRY[family].size and not any(header)


def entry_size(family: Family) -> int:
    return _ENTRY[family].size


def offsets_at(family: Family) -> int:
    """Where in an entry target_offset and next_offset stand, two bytes each."""
    return struct.calcsize(f"@{_IP[family].size}sI")


def changing(family: Family) -> tuple[int, int]:
    """Where in an entry that stands which changes with packets and with the chains that lead there: comefrom, counters
    (first byte, and behind the last)."""
    return struct.calcsize(f"@{_IP[family].size}sIHH"), entry_size(family)


def extensions(rule: Options) -> list[tuple[bool, str, int]]:
    """The kernel's extensions that a rule needs: whether a target, name, revision."""
    needed = [(False, each.name, _MATCHES[each.name].revision) for each in rule.matches if each.name]
    return [*needed, (True, "NFLOG", 0)] if rule.target == "NFLOG" else needed


# The parts -----------------------------------------------------------------------------------------------------------


def _given(options: list[Option] | tuple[Option, ...]) -> Given:
    given = {name: (value, negated) for name, value, negated in options}
    if len(given) != len(options):
        raise BadRule("an option is given twice")
    return given


def _extension(kind: str, revision: int, data: bytes) -> bytes:
    padded = data.ljust(-(-len(data) // _ALIGNMENT) * _ALIGNMENT, b"\0")
    return _HEADER.pack(_HEADER.size + len(padded), kind.encode(), revision) + padded


def _target(rule: Options) -> bytes:
    given = _given(rule.target_options)
    if rule.goto and rule.target in TARGETS:
        raise BadRule(f"-g {rule.target}: not a chain")
    if rule.target == "NFLOG":
        _only(given, "-j NFLOG", {"nflog-group", "nflog-prefix"})
        return _extension("NFLOG", 0, _nflog(given))
    _only(given, f"-j {rule.target}", set())
    if not 0 < len(rule.target.encode()) <= CHAIN_NAME_LIMIT:
        raise BadRule(f"-j {rule.target}: a chain's name has 1 to {CHAIN_NAME_LIMIT} characters")
    return _extension(rule.target, 0, struct.pack("@i", 0))


def _match(extension: Extension, family: Family, protocol: tuple[str | None, bool], set_index: SetIndex) -> bytes:
    kind = _MATCHES.get(extension.name)
    if kind is None or family not in kind.families:
        raise BadRule(f"-m {extension.name} is not known for IPv{family}")
    given = _given(extension.options)
    _only(given, f"-m {extension.name}", kind.options)
    if kind.protocols and (protocol[0] not in kind.protocols or protocol[1]):
        raise BadRule(f"-m {extension.name} needs --protocol {' or '.join(sorted(kind.protocols))}")
    return _extension(extension.name, kind.revision, kind.pack(given, set_index))


def _only(given: Given, where: str, known: set[str] | frozenset[str]) -> None:
    for name in given:
        if name not in known:
            raise BadRule(f"{where} has no option --{name}")


def _value(given: Given, name: str) -> tuple[str, bool]:
    value, negated = given[name]
    if value is None:
        raise BadRule(f"--{name} needs a value")
    return value, negated


def _number(text: str, limit: int, what: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= limit):
        raise BadRule(f"--{what} {text}: not a number from 0 to {limit}")
    return int(text)


def _text(given: Given, name: str, limit: int) -> bytes:
    value, negated = _value(given, name)
    data = value.encode()
    if negated or b"\0" in data or len(data) > limit:
        raise BadRule(f"--{name} takes at most {limit} bytes, no NUL, and can't be negated")
    return data


def _ip(own: Given, family: Family, goto: bool) -> bytes:
    _only(own, "a rule", frozenset(_INVERT))
    source, source_mask = _network(own, "source", family)
    destination, destination_mask = _network(own, "destination", family)
    in_name, in_mask = _interface(own, "in-interface")
    out_name, out_mask = _interface(own, "out-interface")
    protocol, flags = 0, _GOTO[family] if goto else 0
    if "protocol" in own:
        name, _ = _value(own, "protocol")
        if name not in _PROTOCOLS:
            raise BadRule(f"--protocol {name} is not known")
        protocol = _PROTOCOLS[name]
        flags |= _IPV6_HAS_PROTOCOL if family == 6 else 0
    inverted = sum(_INVERT[name] for name, (_, negated) in own.items() if negated)
    addresses = (source, destination, source_mask, destination_mask)
    return _IP[family].pack(*addresses, in_name, out_name, in_mask, out_mask, protocol, flags, inverted)


def _network(own: Given, name: str, family: Family) -> tuple[bytes, bytes]:
    if name not in own:
        return b"", b""
    text, _ = _value(own, name)
    try:
        network = ipaddress.IPv4Network(text, False) if family == 4 else ipaddress.IPv6Network(text, False)
    except ValueError as error:
        raise BadRule(f"--{name} {text}: {error}") from None
    return network.network_address.packed, network.netmask.packed


def _interface(given: Given, name: str) -> tuple[bytes, bytes]:
    """Name and mask; `+` at the end is any rest (xtables_parse_interface keeps it in the name)."""
    if name not in given:
        return b"", b""
    text, _ = _value(given, name)
    data = text.encode()
    if not 0 < len(data) <= 15 or b"\0" in data:
        raise BadRule(f"--{name} {text}: an interface's name has 1 to 15 bytes")
    return data, b"\xff" * (len(data) - 1 if data.endswith(b"+") else len(data) + 1)


def _port_range(text: str, option: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    first = _number(low, 65535, option)
    last = _number(high, 65535, option) if colon else first
    if first > last:
        raise BadRule(f"--{option} {text}: the range is empty")
    return first, last


# The extensions ------------------------------------------------------------------------------------------------------


def _ports(given: Given) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Source range, destination range, and which of them are inverted (1, 2)."""
    ranges, inverted = {"sport": (0, 65535), "dport": (0, 65535)}, 0
    for bit, name in ((1, "sport"), (2, "dport")):
        if name in given:
            text, negated = _value(given, name)
            ranges[name] = _port_range(text, name)
            inverted |= bit if negated else 0
    return ranges["sport"], ranges["dport"], inverted


def _tcp(given: Given, _: SetIndex) -> bytes:
    source, destination, inverted = _ports(given)
    mask = compared = 0
    if "syn" in given:
        value, negated = given["syn"]
        if value is not None:
            raise BadRule("--syn takes no value")
        mask, compared = _FIN | _SYN | _RST | _ACK, _SYN
        inverted |= 4 if negated else 0  # XT_TCP_INV_FLAGS
    return struct.pack("@HHHHBBBB", *source, *destination, 0, mask, compared, inverted)


def _udp(given: Given, _: SetIndex) -> bytes:
    source, destination, inverted = _ports(given)
    return struct.pack("@HHHHBx", *source, *destination, inverted)


def _sctp(given: Given, _: SetIndex) -> bytes:
    source, destination, inverted = _ports(given)
    used = (1 if "sport" in given else 0) | (2 if "dport" in given else 0)
    # ports not asked for stay 0:0; no chunks, so each of the four xt_sctp_flag_info names none (-1)
    ports = (*(destination if used & 2 else (0, 0)), *(source if used & 1 else (0, 0)))
    return struct.pack("@HHHH256sI12siII", *ports, b"", 0, b"\xff\0\0" * 4, 0, used, inverted)


def _multiport(given: Given, _: SetIndex) -> bytes:
    if "dports" not in given:
        raise BadRule("-m multiport needs --dports")
    text, negated = _value(given, "dports")
    ports, begins = [], []
    for part in text.split(","):
        low, high = _port_range(part, "dports")
        ranged = ":" in part
        ports += [low, high] if ranged else [low]
        begins += [1, 0] if ranged else [0]
    if len(ports) > 15:
        raise BadRule(f"--dports {text}: more than 15 ports (a range counts two)")
    gap = [0] * (15 - len(ports))
    return struct.pack("@BB15H15BB", 1, len(ports), *ports, *gap, *begins, *gap, negated)


def _set(given: Given, set_index: SetIndex) -> bytes:
    if "match-set" not in given:
        raise BadRule("-m set needs --match-set")
    text, negated = _value(given, "match-set")
    name, _, sides = text.partition(" ")
    flags, parts = 1 if negated else 0, sides.split(",")
    if len(parts) > 6 or not {"src", "dst"}.issuperset(parts):
        raise BadRule(f"--match-set {text}: not a set and up to six of src and dst")
    for dimension, side in enumerate(parts, start=1):
        flags |= 1 << dimension if side == "src" else 0
    return struct.pack("@HBB4xQB7xQB7xI4x", set_index(name), len(parts), flags, 0, 0, 0, 0, 0)


def _physdev(given: Given, _: SetIndex) -> bytes:
    used = inverted = 0
    for name, (value, negated) in given.items():
        if name not in ("physdev-in", "physdev-out") and value is not None:
            raise BadRule(f"--{name} takes no value")
        used |= _PHYSDEV[name]
        inverted |= _PHYSDEV[name] if negated else 0
    if not used:
        raise BadRule("-m physdev needs an option")
    in_name, in_mask = _interface(given, "physdev-in")
    out_name, out_mask = _interface(given, "physdev-out")
    return struct.pack("@16s16s16s16sBB", in_name, in_mask, out_name, out_mask, inverted, used)


def _conntrack(given: Given, _: SetIndex) -> bytes:
    used = inverted = states = 0
    if "ctstate" in given:
        text, negated = _value(given, "ctstate")
        for state in text.split(","):
            if state not in _STATES:
                raise BadRule(f"--ctstate {state} is not known")
            states |= _STATES[state]
        used |= 1
        inverted |= 1 if negated else 0
    if "ctdir" in given:
        text, negated = _value(given, "ctdir")
        if text not in ("ORIGINAL", "REPLY") or negated:
            raise BadRule(f"--ctdir {text} is not known, or negated")
        used |= 1 << 12
        inverted |= 1 << 12 if text == "REPLY" else 0
    addresses = b""
    for bit, name in _CONNECTION_ENDS.items():
        text, negated = _value(given, name) if name in given else ("", False)
        addresses += _host(text, name)
        used |= bit if text else 0
        inverted |= bit if negated else 0
    if not used:
        raise BadRule("-m conntrack needs an option")
    return struct.pack("@128sII5H2H2H4H2x", addresses, 0, 0, *[0] * 5, used, inverted, states, 0, *[0] * 4)


def _host(text: str, option: str) -> bytes:
    """One address and its mask, of either family; zeros for ''."""
    if not text:
        return bytes(32)
    try:
        packed = ipaddress.ip_address(text).packed
    except ValueError as error:
        raise BadRule(f"--{option} {text}: {error}") from None
    return packed.ljust(16, b"\0") + b"\xff" * 16


def _addrtype(given: Given, _: SetIndex) -> bytes:
    text, negated = _value(given, "src-type") if "src-type" in given else ("", False)
    if text != "LOCAL":
        raise BadRule("-m addrtype needs --src-type LOCAL")
    flags = (1 if negated else 0) | (4 if "limit-iface-in" in given else 0)
    return struct.pack("@HHI", 1 << 2, 0, flags)


def _icmp(given: Given, _: SetIndex) -> bytes:
    if len(given) != 1:
        raise BadRule("-m icmp and -m icmp6 need a type")
    (name,) = given
    text, negated = _value(given, name)
    return struct.pack("@BBBB", _number(text, 255, name), 0, 255, negated)


def _hl(given: Given, _: SetIndex) -> bytes:
    if "hl-eq" not in given:
        raise BadRule("-m hl needs --hl-eq")
    text, negated = _value(given, "hl-eq")
    return struct.pack("@BB", negated, _number(text, 255, "hl-eq"))


def _comment(given: Given, _: SetIndex) -> bytes:
    if "comment" not in given:
        raise BadRule("-m comment needs --comment")
    return struct.pack("@256s", _text(given, "comment", 255))


def _nflog(given: Given) -> bytes:
    group = _number(_value(given, "nflog-group")[0], 65535, "nflog-group") if "nflog-group" in given else 0
    prefix = _text(given, "nflog-prefix", 63) if "nflog-prefix" in given else b""
    return struct.pack("@IHHHH64s", 0, group, 0, 0, 0, prefix)


@dataclass(frozen=True, slots=True)
class _Match:
    revision: int
    options: frozenset[str]
    pack: Callable[[Given, SetIndex], bytes]
    protocols: frozenset[str] = frozenset()
    families: frozenset[int] = frozenset({4, 6})


_PORTS = frozenset({"sport", "dport"})
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_PHYSDEV = {"physdev-in": 1, "physdev-out": 2, "physdev-is-bridged": 4, "physdev-is-in": 8, "physdev-is-out": 16}
_STATES = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "DNAT": 128, "UNTRACKED": 256}
_CONNECTION_ENDS = {1 << 2: "ctorigsrc", 1 << 3: "ctorigdst", 1 << 4: "ctreplsrc", 1 << 5: "ctrepldst"}  # as they lie
_MATCHES = {
    "tcp": _Match(0, _PORTS | {"syn"}, _tcp, frozenset({"tcp"})),
    "udp": _Match(0, _PORTS, _udp, frozenset({"udp"})),
    "sctp": _Match(0, _PORTS, _sctp, frozenset({"sctp"})),
    "multiport": _Match(1, frozenset({"dports"}), _multiport, frozenset({"tcp", "udp", "sctp"})),
    "set": _Match(4, frozenset({"match-set"}), _set),
    "physdev": _Match(0, frozenset(_PHYSDEV), _physdev),
    "conntrack": _Match(3, frozenset({"ctstate", "ctdir", *_CONNECTION_ENDS.values()}), _conntrack),
    "addrtype": _Match(1, frozenset({"src-type", "limit-iface-in"}), _addrtype),
    "icmp": _Match(0, frozenset({"icmp-type"}), _icmp, frozenset({"icmp"}), frozenset({4})),
    "icmp6": _Match(0, frozenset({"icmpv6-type"}), _icmp, frozenset({"ipv6-icmp", "icmpv6"}), frozenset({6})),
    "hl": _Match(0, frozenset({"hl-eq"}), _hl, families=frozenset({6})),
    "comment": _Match(0, frozenset({"comment"}), _comment),
}
