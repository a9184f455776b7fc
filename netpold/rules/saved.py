"""Rules as iptables-save prints them, held against rules as they should be.

iptables-save writes the same rule in other words than iptables-restore was given: short names, lengths behind
addresses, another order of matches.  So the words of both are brought to one form: a rule is the set of its options,
each with its value in one spelling and whether it is negated.  `-m` and the order of matches mean nothing to a packet.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from ipaddress import ip_network

from netpold.rules.ruleset import CHAIN_PREFIXES

Canonical = frozenset[tuple[str, str, bool]]  # option, value, negated

_LONG = {
    "-p": "protocol",
    "-s": "source",
    "-d": "destination",
    "-i": "in-interface",
    "-o": "out-interface",
    "-j": "jump",
    "-g": "goto",
}
_ADDRESSES = frozenset(("source", "destination", "ctorigsrc", "ctreplsrc"))
_SAME: Mapping[tuple[str, str], tuple[str, str]] = {
    ("protocol", "icmpv6"): ("protocol", "ipv6-icmp"),
    ("syn", ""): ("tcp-flags", "FIN,SYN,RST,ACK SYN"),
}
_LEFT_OUT = frozenset((("nflog-group", "0"),))  # what is so where nothing is said


@dataclass(frozen=True, slots=True)
class Difference:
    """What a chain lacks, and what it has that it should not have; rules as text, in order."""

    missing: tuple[str, ...]
    extra: tuple[str, ...]


def chains(saved: str) -> dict[str, list[str]]:
    """netpold's own chains of `iptables-save -t filter`, each with its rules as text behind `-A CHAIN `."""
    found: dict[str, list[str]] = {}
    for line in saved.splitlines():
        if line.startswith(":"):
            name = line[1:].partition(" ")[0]
            if name.startswith(CHAIN_PREFIXES):
                found[name] = []
        elif line.startswith("-A "):
            name, _, rule = line[3:].partition(" ")
            if name in found:
                found[name].append(rule)
    return found


def jumps(saved: str) -> list[tuple[str, str]]:
    """What leads to netpold's own chains from other chains: each with the own chain, a pair for each rule."""
    found: list[tuple[str, str]] = []
    for line in saved.splitlines():
        if line.startswith("-A "):
            name, _, rule = line[3:].partition(" ")
            if not name.startswith(CHAIN_PREFIXES) and any(each in rule for each in CHAIN_PREFIXES):
                targets = (value for option, value, _ in canonical(rule) if option in ("jump", "goto"))
                found += [(name, target) for target in targets if target.startswith(CHAIN_PREFIXES)]
    return found


def difference(
    wanted: Sequence[str], found: Sequence[str], form: Callable[[str], Hashable] | None = None
) -> Difference | None:
    """How the rules that were found differ from those that are wanted, both as text; None: they say the same.
    `form`: what two rules that say the same have in common; None: `canonical`."""
    form = form or canonical
    forms = [form(each) for each in wanted], [form(each) for each in found]
    if forms[0] == forms[1]:
        return None
    missing: list[str] = []
    extra: list[str] = []
    for what, first, last, start, end in SequenceMatcher(None, *forms, autojunk=False).get_opcodes():
        if what != "equal":
            missing += wanted[first:last]
            extra += found[start:end]
    return Difference(tuple(missing), tuple(extra))


def canonical(rule: str) -> Canonical:
    """One form for all ways to write a rule."""
    found: set[tuple[str, str, bool]] = set()
    name, values, negated = "", list[str](), False
    next_negated = False
    for word, is_quoted in [*_words(rule), ("--", False)]:
        if not is_quoted and word == "!":
            next_negated = True
        elif not is_quoted and word.startswith("-"):
            if name and name != "-m":
                found.add((*_option(name, " ".join(values)), negated))
            name, values, negated, next_negated = word, [], next_negated, False
        else:
            values.append(word)
    return frozenset(each for each in found if each[:2] not in _LEFT_OUT)


def _option(name: str, value: str) -> tuple[str, str]:
    option = _LONG.get(name) or name.lstrip("-")
    if option in _ADDRESSES:
        try:
            value = str(ip_network(value))
        except ValueError:
            return option, value  # nothing of netpold's
    if option == "ctstate":
        value = ",".join(sorted(value.split(",")))
    return _SAME.get((option, value), (option, value))


def _words(rule: str) -> Iterable[tuple[str, bool]]:
    """Words, and whether they stood in double quotes, in which a backslash takes the next character as it is."""
    if '"' not in rule:
        for each in rule.split():
            yield each, False
        return
    word, is_quoted, inside, escaped = "", False, False, False
    for letter in rule:
        if escaped:
            word, escaped = word + letter, False
        elif inside and letter == "\\":
            escaped = True
        elif letter == '"':
            inside, is_quoted = not inside, True
        elif letter == " " and not inside:
            if word or is_quoted:
                yield word, is_quoted
            word, is_quoted = "", False
        else:
            word += letter
    if word or is_quoted:
        yield word, is_quoted
