"""Rules of any chain, also of others: where a rule stands among them, and how its program's tool writes it."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netpold.host.kernel.backend import KernelError
from netpold.host.kernel.nfnetlink import Refused, Request, attribute, attributes, opened
from netpold.host.run import run

NAMES = {1: "inet", socket.AF_INET: "ip", 3: "arp", 5: "netdev", 7: "bridge", socket.AF_INET6: "ip6"}
TABLES = frozenset(("raw", "mangle", "nat", "filter", "security"))  # of iptables

_GETRULE = 10 << 8 | 7
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE = 1, 2, 3
_LISTED = re.compile(r"(.*) # handle (\d+)")


def handles(nfproto: int, table: str) -> dict[str, list[int]]:
    """By chain of an nf_tables table, the handles of its rules in their order.  Raises KernelError."""
    found: dict[str, list[int]] = {}
    wanted = attribute(_RULE_TABLE, table.encode() + b"\0")
    try:
        with opened() as channel:
            for data, start, end in channel.dump(Request(_GETRULE, wanted, family=nfproto)):
                values = {kind: data[first:last] for kind, first, last in attributes(data, start, end)}
                if values[_RULE_TABLE].rstrip(b"\0").decode(errors="replace") == table:
                    chain = values[_RULE_CHAIN].rstrip(b"\0").decode(errors="replace")
                    found.setdefault(chain, []).append(int.from_bytes(values[_RULE_HANDLE], "big"))
    except Refused as error:
        if error.code != errno.ENOENT:
            raise KernelError(f"the rules of the table {table} can't be read: error {error.code}") from error
    return found


@dataclass(frozen=True, slots=True)
class Saved:
    """A table of iptables': by chain its policy (`-`: none), and its rules as they stand behind `-A CHAIN `."""

    policies: Mapping[str, str]
    rules: Mapping[str, Sequence[str]]


def saved(tool: str, table: str) -> Saved | None:
    """The table as `tool`-save writes it; None where that can't show all of it.  Raises KernelError."""
    text = run([f"{tool}-save", "-t", table])
    if "incompatible" in text:  # in a comment
        return None
    policies: dict[str, str] = {}
    rules: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(":"):
            chain, policy, *_ = line[1:].split()
            policies[chain], rules[chain] = policy, []
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            rules[chain].append(rule)
    return Saved(policies, rules)


def listed(nfproto: int, table: str, chain: str) -> dict[int, str]:
    """By handle, the rules of a chain as nft writes them.  Raises KernelError."""
    text = run(["nft", "-a", "list", "chain", NAMES.get(nfproto, "ip"), table, chain])
    rules = (_LISTED.fullmatch(line.strip()) for line in text.splitlines() if not line.strip().startswith("chain "))
    return {int(each[2]): each[1] for each in rules if each}
