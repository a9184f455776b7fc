"""The last step from data to what iptables and ipset take.

`options` gives a rule as extension names with their options, once for both backends: `text` joins them to a line for
iptables-restore, `host/kernel/legacy` hands them to libiptc.  Set names are translated by the caller, who knows which
generation of a set the kernel holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from netpold.policy.model import Family
from netpold.rules.ruleset import (
    Address,
    BridgePort,
    Goto,
    HopLimit,
    IcmpType,
    InSet,
    Interface,
    IPSet,
    Jump,
    Log,
    Match,
    NoSyn,
    NotBetween,
    OwnSource,
    Ports,
    Proto,
    Related,
    Reply,
    Routed,
    Rule,
    Ruleset,
    SourcePort,
    Translated,
    Unknown,
)

MOST_MEMBERS = 4194304  # `maxelem` is no allocation; the default of 65,536 would overflow in a large cluster
LEAST_COUNTING = 1024  # to make room, the kernel copies members, and loses what is counted meanwhile

# (option without its dashes, value or None, negated)
Option = tuple[str, str | None, bool]


@dataclass(frozen=True, slots=True)
class Extension:
    """`-m name` with its options; the name is '' for ip(6)tables' own (protocol, interfaces, addresses)."""

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """One rule: its matches in order, and its target: a chain (jumped to or, with `goto`, gone to) or an extension."""

    matches: tuple[Extension, ...]
    target: str
    target_options: tuple[Option, ...] = ()
    goto: bool = False


def options(rule: Rule, family: Family, kernel_name: Callable[[str], str]) -> Options:
    """A rule as options; `kernel_name` gives the name in the kernel for the logical name of a set."""
    matches: list[Extension] = []
    protocol = ""
    for match in rule.matches:
        if isinstance(match, Proto):
            protocol = match.name
        matches.append(_extension(match, family, protocol, kernel_name))
    if rule.comment:
        matches.append(Extension("comment", (("comment", rule.comment, False),)))
    match rule.target:
        case Jump(chain):
            return Options(tuple(matches), chain)
        case Goto(chain):
            return Options(tuple(matches), chain, goto=True)
        case Log(group, prefix):
            nflog: tuple[Option, ...] = (("nflog-group", str(group), False), ("nflog-prefix", prefix, False))
            return Options(tuple(matches), "NFLOG", nflog)
        case verdict:
            return Options(tuple(matches), verdict)


def _extension(match: Match, family: Family, protocol: str, kernel_name: Callable[[str], str]) -> Extension:
    match match:
        case Proto(name):
            return Extension("", (("protocol", name, False),))
        case Ports(ranges):
            if len(ranges) == 1:
                return Extension(protocol, (("dport", _range(ranges[0]), False),))
            return Extension("multiport", (("dports", ",".join(map(_range, ranges)), False),))
        case SourcePort(port):
            return Extension(protocol, (("sport", str(port), False),))
        case Address(side, network, negate):
            return Extension("", (("source" if side == "src" else "destination", network, negate),))
        case InSet(name, side, negate):
            return Extension("set", (("match-set", f"{kernel_name(name)} {side}", negate),))
        case Interface(side, name, prefix):
            return Extension(
                "", (("in-interface" if side == "src" else "out-interface", _pattern(name, prefix), False),)
            )
        case BridgePort(side, name, prefix):
            option = "physdev-in" if side == "src" else "physdev-out"
            # physdev-out is meaningful for bridged packets only; the kernel complains when it is not said so
            bridged: tuple[Option, ...] = (("physdev-is-bridged", None, False),) if side == "dst" else ()
            return Extension("physdev", ((option, _pattern(name, prefix), False), *bridged))
        case Routed():
            return Extension("physdev", (("physdev-is-bridged", None, True),))
        case Reply():
            return Extension("conntrack", (("ctstate", "ESTABLISHED", False), ("ctdir", "REPLY", False)))
        case Unknown():
            return Extension("conntrack", (("ctstate", "INVALID,NEW,UNTRACKED", False),))
        case NoSyn():
            return Extension("tcp", (("syn", None, True),))
        case Related():
            return Extension("conntrack", (("ctstate", "RELATED", False),))
        case IcmpType(number, negate):
            name, option = ("icmp", "icmp-type") if family == 4 else ("icmp6", "icmpv6-type")
            return Extension(name, ((option, str(number), negate),))
        case HopLimit(value):
            return Extension("hl", (("hl-eq", str(value), False),))
        case NotBetween(address):
            return Extension("conntrack", (("ctorigsrc", address, True), ("ctreplsrc", address, True)))
        case Translated():
            return Extension("conntrack", (("ctstate", "DNAT", False),))
        case OwnSource():
            return Extension("addrtype", (("src-type", "LOCAL", False), ("limit-iface-in", None, False)))


def _range(ports: tuple[int, int]) -> str:
    low, high = ports
    return str(low) if low == high else f"{low}:{high}"


def _pattern(name: str, prefix: bool) -> str:
    return f"{name}+" if prefix else name


def text(rule: Rule, family: Family, kernel_name: Callable[[str], str] = str) -> str:
    """A rule as iptables-restore takes it behind `-A CHAIN `."""
    return line(options(rule, family, kernel_name))


def line(data: Options) -> str:
    """Options as iptables-restore takes them behind `-A CHAIN `."""
    words: list[str] = []
    for extension in data.matches:
        if extension.name:
            words += ["-m", extension.name]
        words += _words(extension.options)
    words += ["-g" if data.goto else "-j", data.target, *_words(data.target_options)]
    return " ".join(words)


def _words(all_options: tuple[Option, ...]) -> list[str]:
    words: list[str] = []
    for name, value, negated in all_options:
        if negated:
            words.append("!")
        words.append(f"--{name}")
        if value is not None:
            words.append(f'"{value}"' if name in ("comment", "nflog-prefix") else value)
    return words


def set_header(ipset: IPSet) -> str:
    """Type and options of a set, as `ipset create NAME` takes them behind the name."""
    family = "inet" if ipset.family == 4 else "inet6"
    counters = " counters" if ipset.larger == "counts" else ""
    return f"{ipset.kind} family {family} hashsize {hash_size(ipset)} maxelem {MOST_MEMBERS}{counters}"


def hash_size(ipset: IPSet) -> int:
    """The `hashsize` with room for all members from the start."""
    least = LEAST_COUNTING if ipset.larger == "counts" else 64
    return max(least, 1 << (len(ipset.members) - 1).bit_length())


def ruleset_text(ruleset: Ruleset) -> str:
    """The whole ruleset for a person, in the form of `ipset save` and `iptables-save` (logical set names)."""
    lines: list[str] = []
    for ipset in sorted(ruleset.sets.values(), key=lambda each: each.name):
        lines.append(f"# {ipset.meaning}")
        lines.append(f"create {ipset.name} {set_header(ipset)}")
        lines += [f"add {ipset.name} {member}" for member in sorted(ipset.members)]
    for family, chains in ruleset.chains.items():
        lines += ["", f"# IPv{family}", "*filter"]
        lines += [f":{name} - [0:0]" for name in sorted(chains)]
        lines += [f"-I {builtin} 1 -j {own}" for builtin, own in sorted(ruleset.hooks.items())]
        lines += [f"-A {name} {text(rule, family)}" for name in sorted(chains) for rule in chains[name]]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"
