"""One packet's way for many at once: packets that differ in one end's address, as the bits of a number.

`walk` takes one packet through a chain.  Here a set of packets goes through: each match cuts from it those that do not
meet it, and the set splits where rules do.  What a match means is `walk.holds` alone, asked once for each address and
remembered; so a chain that many pods share, or a set that many rules look up, costs once what it costs in `walk`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from netpold.rules.audit import lets_through
from netpold.rules.ruleset import Address, Goto, InSet, Jump, Log, Match, NotBetween, Rule, Ruleset, Side
from netpold.rules.walk import Packet, holds

SHARED_CHAIN = "NP-RULES-"  # their rules look at one end alone, but for those that count


class Outcome(NamedTuple):
    """Which packets a chain gives back, and which it drops or accepts; and which passed because policies are audited
    only."""

    returned: int
    dropped: int
    accepted: int
    audited: int = 0


@dataclass(frozen=True, slots=True)
class Fan:
    """Packets to many addresses from one, or from many to one: bit n is the packet with `addresses[n]` at `varying`.

    `packet` is one of them, whichever: what it says of that end does not count.
    """

    packet: Packet
    varying: Side
    addresses: Sequence[str]

    @property
    def everything(self) -> int:
        return (1 << len(self.addresses)) - 1


class Sweeper:
    """Sweeps through one ruleset for one kind of packet (protocol and port) and one order of addresses.

    All fans must have the same `varying`, `addresses`, and the same packet but for the fixed end's address.
    """

    def __init__(self, ruleset: Ruleset, fan: Fan, masks: dict[Match, int]) -> None:
        """`masks` is what was found of matches that do not look at ports, to be handed to the next of other ports."""
        self._ruleset = ruleset
        self._chains = ruleset.chains[fan.packet.family]
        self._addresses = fan.addresses
        self._varying: Side = fan.varying
        self._everything = fan.everything
        self._at: dict[str, int] = {}
        for number, address in enumerate(fan.addresses):
            self._at[address] = self._at.get(address, 0) | 1 << number
        self._packets = [_with(fan.packet, fan.varying, address) for address in fan.addresses]
        self._masks = masks
        self._port_masks: dict[Match, int] = {}
        self._shared: dict[tuple[str, tuple[bool, ...]], Outcome] = {}
        self._fixed_matches: dict[str, tuple[Match, ...]] = {}

    def sweep(self, chain: str, fixed: str, known: Mapping[str, Outcome] | None = None) -> Outcome:
        """What becomes of all packets with the address `fixed` at the other end that come to a chain.

        `known`: of chains, what is known to become of all packets; they are not looked into.
        """
        packet = _with(self._packets[0], "dst" if self._varying == "src" else "src", fixed)
        return self._chain(chain, self._everything, packet, known or {})

    def _chain(self, name: str, packets: int, packet: Packet, known: Mapping[str, Outcome]) -> Outcome:
        if name in known:
            return _only(known[name], packets)
        if name.startswith(SHARED_CHAIN):
            fixed = self._fixed_matches.get(name)
            if fixed is None:
                fixed = self._fixed_matches[name] = self._fixed(self._chains.get(name, ()))
            key = name, tuple(holds(match, packet, self._ruleset) for match in fixed)
            if key not in self._shared:
                self._shared[key] = self._rules(self._chains.get(name, ()), self._everything, packet, known)
            return _only(self._shared[key], packets)
        return self._rules(self._chains.get(name, ()), packets, packet, known)

    def _rules(self, rules: Sequence[Rule], packets: int, packet: Packet, known: Mapping[str, Outcome]) -> Outcome:
        returned = dropped = accepted = audited = 0
        for rule in rules:
            hit = packets
            for match in rule.matches:
                hit &= self._mask(match, packet)
                if not hit:
                    break
            if hit and lets_through(rule):
                audited |= hit
            if not hit or isinstance(rule.target, Log):
                continue
            packets &= ~hit
            match rule.target:
                case Jump(chain):
                    inner = self._chain(chain, hit, packet, known)
                    packets |= inner.returned
                    dropped, accepted, audited = _add(inner, dropped, accepted, audited)
                case Goto(chain):
                    inner = self._chain(chain, hit, packet, known)
                    returned |= inner.returned
                    dropped, accepted, audited = _add(inner, dropped, accepted, audited)
                case "RETURN":
                    returned |= hit
                case "DROP":
                    dropped |= hit
                case "ACCEPT":
                    accepted |= hit
            if not packets:
                break
        return Outcome(returned | packets, dropped, accepted, audited)

    def _mask(self, match: Match, packet: Packet) -> int:
        """The packets that meet a match."""
        match match:
            case Address(side, host, negate) if side == self._varying and "/" not in host:
                here = self._at.get(host, 0)  # as each pod's own address is looked at
                return self._everything & ~here if negate else here
            case Address(side) | InSet(_, "src" | "dst" as side) if side == self._varying:
                return self._varied(match, self._masks)
            case InSet(_, "dst,dst") if self._varying == "dst":
                return self._varied(match, self._port_masks)
            case InSet(_, "src,src,dst") | NotBetween():
                return self._bits(match, packet)
            case _:  # one answer for all
                return self._everything if holds(match, packet, self._ruleset) else 0

    def _varied(self, match: Match, masks: dict[Match, int]) -> int:
        mask = masks.get(match)
        if mask is None:
            mask = masks[match] = self._bits(match, None)
        return mask

    def _bits(self, match: Match, packet: Packet | None) -> int:
        """Ask of each address; `packet` where the match looks at both ends."""
        bits = 0
        for number, each in enumerate(self._packets):
            whole = each if packet is None else _with(packet, self._varying, self._addresses[number])
            if holds(match, whole, self._ruleset):
                bits |= 1 << number
        return bits

    def _fixed(self, rules: Sequence[Rule]) -> tuple[Match, ...]:
        """The matches of the rules that look at the fixed end."""
        found = {match: None for rule in rules for match in rule.matches if self._looks_at_fixed(match)}
        return tuple(found)

    def _looks_at_fixed(self, match: Match) -> bool:
        match match:
            case Address(side) | InSet(_, "src" | "dst" as side):
                return side != self._varying
            case InSet(_, "dst,dst"):
                return self._varying == "src"
            case _:
                return False


def _only(outcome: Outcome, packets: int) -> Outcome:
    return Outcome(*(each & packets for each in outcome))


def _add(inner: Outcome, dropped: int, accepted: int, audited: int) -> tuple[int, int, int]:
    return dropped | inner.dropped, accepted | inner.accepted, audited | inner.audited


def _with(packet: Packet, side: Side, address: str) -> Packet:
    return replace(packet, source=address) if side == "src" else replace(packet, destination=address)
