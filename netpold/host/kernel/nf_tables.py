"""nf_tables' `filter` tables by netlink, as far as netpold reads and changes them: which chains and rules there are.

A rule in nf_tables never changes, but another one may take its place and its handle.  So of a chain's rules a digest is
read beside the handles, of all but their counters.  A table made anew has another handle.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

from netpold.host.kernel.nf_netlink import (
    CHAIN_HANDLE,
    CHAIN_HOOK,
    CHAIN_NAME,
    CHAIN_POLICY,
    CHAIN_TYPE,
    DELCHAIN,
    DELRULE,
    FILTER,
    GETCHAIN,
    GETRULE,
    GETTABLE,
    NEWCHAIN,
    NEWRULE,
    NEWTABLE,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_HANDLE,
    TABLE_FLAGS,
    TABLE_HANDLE,
    Asker,
    as_number,
    as_text,
    asked,
    decoded,
)
from netpold.host.kernel.nf_rules import EXPRESSION_DATA, EXPRESSION_NAME, Doing, counted
from netpold.host.kernel.nfnetlink import attribute, attributes
from netpold.policy.model import Family
from netpold.rules.count import Count
from netpold.rules.ruleset import CHAIN_PREFIXES

_LIST_ELEMENT, _VERDICT_REGISTER = 1, 0
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_IMMEDIATE_REGISTER, _IMMEDIATE_DATA, _DATA_VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 1, 2, 2, 1, 2
_JUMP = (-3) & 0xFFFFFFFF
_DORMANT = 1
_ACCEPT = (1).to_bytes(4, "big")
_NLM_F_CREATE, _NESTED = 0x400, 0x8000
_OWN = tuple(each.encode() for each in CHAIN_PREFIXES)
_HOOKS = {"INPUT": 1, "FORWARD": 2, "OUTPUT": 3}  # NF_INET_


class Rules(NamedTuple):
    """Those of a chain, in their order: their handles, and a digest of what they do."""

    handles: tuple[int, ...]
    digest: bytes


class Table(NamedTuple):
    """A `filter` table at one moment: its own handle, and netpold's chains."""

    handle: int
    chains: Mapping[str, Rules]


def contents(family: Family) -> Table:
    """What the filter table holds of netpold's; where there is no table, nothing.  Raises KernelError."""
    return asked(family, _contents)


def counters(family: Family) -> Mapping[str, list[Count]]:
    """What each rule of netpold's chains has matched; a rule without a counter, nothing.  Raises KernelError."""
    return asked(family, _counters)


class Lead(NamedTuple):
    """A rule, by its chain and handle: which own chain it leads to (else empty), and whether with every packet, and
    back again (a plain jump)."""

    chain: str
    handle: int
    own: str
    is_plain: bool


def leads(family: Family, builtin: str = "") -> list[Lead]:
    """All rules of a chain of the filter table, or of all its chains but netpold's.  Raises KernelError."""
    body = FILTER + attribute(RULE_CHAIN, builtin.encode() + b"\0") if builtin else FILTER
    return asked(
        family,
        lambda asker: [_lead(*each) for each in asker.dump(GETRULE, body) if not _is_of_own_chain(*each)],
    )


def led_to(family: Family) -> frozenset[tuple[str, str]]:
    """The chains with rules that lead to own chains, each with the own one.  Raises KernelError."""
    return asked(
        family,
        lambda asker: frozenset(
            (lead.chain, lead.own)
            for each in asker.dump(GETRULE, FILTER)
            if not _is_of_own_chain(*each) and any(each[0].find(own, *each[1:]) >= 0 for own in _OWN)
            for lead in (_lead(*each),)
            if lead.own
        ),
    )


def others_in_force(family: Family) -> bool:
    """Whether the filter table has rules of other programs, or a built-in chain drops what no rule decides.
    Raises KernelError."""
    return asked(family, _others_in_force)


def dormant(family: Family) -> bool:
    """Whether the filter table is switched off, so that no packet meets it.  Raises KernelError."""
    return asked(
        family,
        lambda asker: any(
            bool(decoded(data, start, end)[TABLE_FLAGS][-1] & _DORMANT)
            for data, start, end in asker.dump(GETTABLE)
            if data.startswith(FILTER, start)
        ),
    )


def strayed(family: Family, builtin: str) -> bool:
    """Whether there is a chain of that name which the packets do not pass that the built-in one is for: who makes a
    chain anew may make it without its hook, or with another.  Raises KernelError."""
    return asked(family, lambda asker: any(not _is_built_in(each, builtin) for each in _named(asker, builtin)))


def is_out_of_reach(family: Family, builtin: str) -> bool:
    """Whether there is a chain of that name that iptables does not take for the built-in one, since it stands in
    another order among others.  Raises KernelError."""
    return asked(family, lambda asker: any(_priority(each) for each in _named(asker, builtin)))


class Names(NamedTuple):
    """What the chains of a `filter` table are called, by their handles; without a table, 0 and none."""

    handle: int
    names: Mapping[int, str]


def chain_names(family: Family) -> Names:
    """Of all chains.  Raises KernelError."""
    return asked(family, _chain_names)


def rename(family: Family, names: Mapping[int, str]) -> None:
    """Give chains, by their handles, names that no chain has, all or none.  Raises KernelError."""
    messages = [
        (
            NEWCHAIN,
            FILTER + attribute(CHAIN_HANDLE, handle.to_bytes(8, "big")) + attribute(CHAIN_NAME, name.encode() + b"\0"),
        )
        for handle, name in names.items()
    ]
    if messages:
        asked(family, lambda asker: asker.change(*messages))


def wake_up(family: Family) -> None:
    """Switch a dormant filter table on again.  Raises KernelError."""
    asked(family, lambda asker: asker.change((NEWTABLE, FILTER + attribute(TABLE_FLAGS, bytes(4)))))


def delete(family: Family, chain: str) -> None:
    """Delete a chain with its rules.  Raises KernelError, also where a rule leads there."""
    name = chain.encode() + b"\0"
    asked(
        family,
        lambda asker: asker.change(
            (DELRULE, FILTER + attribute(RULE_CHAIN, name)), (DELCHAIN, FILTER + attribute(CHAIN_NAME, name))
        ),
    )


def delete_rules(family: Family, rules: Iterable[Lead]) -> None:
    """Delete these rules, all or none.  Raises KernelError."""
    messages = [
        (DELRULE, FILTER + _in_chain(each.chain) + attribute(RULE_HANDLE, each.handle.to_bytes(8, "big")))
        for each in rules
    ]
    if messages:
        asked(family, lambda asker: asker.change(*messages))


def insert_jump(family: Family, builtin: str, own: str) -> None:
    """Make a plain jump the first rule of a chain.  Raises KernelError."""
    verdict = attribute(_VERDICT_CODE, _JUMP.to_bytes(4, "big")) + attribute(_VERDICT_CHAIN, own.encode() + b"\0")
    data = attribute(_DATA_VERDICT | _NESTED, verdict)
    register = attribute(_IMMEDIATE_REGISTER, _VERDICT_REGISTER.to_bytes(4, "big"))
    expression = attribute(EXPRESSION_NAME, b"immediate\0") + attribute(
        EXPRESSION_DATA | _NESTED, register + attribute(_IMMEDIATE_DATA | _NESTED, data)
    )
    expressions = attribute(RULE_EXPRESSIONS | _NESTED, attribute(_LIST_ELEMENT | _NESTED, expression))
    body = FILTER + _in_chain(builtin) + expressions
    asked(family, lambda asker: asker.change((NEWRULE, body), flags=_NLM_F_CREATE))


def _in_chain(chain: str) -> bytes:
    return attribute(RULE_CHAIN, chain.encode(errors="surrogateescape") + b"\0")


def _named(asker: Asker, chain: str) -> list[dict[int, bytes]]:
    """What the kernel says of the chain of that name, if there is one."""
    chains = (decoded(*each) for each in asker.dump(GETCHAIN) if each[0].startswith(FILTER, each[1]))
    return [each for each in chains if as_text(each[CHAIN_NAME]) == chain]


def _is_built_in(values: Mapping[int, bytes], builtin: str) -> bool:
    hook = decoded(values.get(CHAIN_HOOK, b"")).get(_HOOK_NUMBER, b"")
    return int.from_bytes(hook, "big") == _HOOKS[builtin] and as_text(values.get(CHAIN_TYPE, b"")) == "filter"


def _priority(values: Mapping[int, bytes]) -> int:
    hook = decoded(values.get(CHAIN_HOOK, b""))
    return int.from_bytes(hook.get(_HOOK_PRIORITY, b""), "big", signed=True)


def _table_handle(asker: Asker) -> int:
    handle = 0
    for data, start, end in asker.dump(GETTABLE):
        if data.startswith(FILTER, start):
            handle = as_number(decoded(data, start, end)[TABLE_HANDLE])
    return handle


def _chain_names(asker: Asker) -> Names:
    handle = _table_handle(asker)
    chains = [decoded(*each) for each in asker.dump(GETCHAIN) if each[0].startswith(FILTER, each[1])]
    return Names(handle, {as_number(each[CHAIN_HANDLE]): as_text(each[CHAIN_NAME]) for each in chains})


def _contents(asker: Asker) -> Table:
    handle = _table_handle(asker)
    handles: dict[str, list[int]] = {}
    digests: defaultdict[str, blake2b] = defaultdict(partial(blake2b, digest_size=16))
    for data, start, end in asker.dump(GETCHAIN):
        if data.startswith(FILTER, start):
            name = decoded(data, start, end)[CHAIN_NAME]
            if name.startswith(_OWN):
                handles[as_text(name)] = []
    for data, start, end in asker.dump(GETRULE, FILTER):
        first = start + len(FILTER)  # the chain's name always stands second
        if data.startswith(_OWN, first + 4):
            (length,) = struct.unpack_from("=H", data, first)
            chain = as_text(data[first + 4 : first + length])
            rule = Doing.of(data, first, end)
            handles.setdefault(chain, []).append(as_number(rule.handle))
            digests[chain].update(b"%d %d " % (len(rule.expressions), len(rule.notes)) + rule.expressions + rule.notes)
    return Table(handle, {name: Rules(tuple(each), digests[name].digest()) for name, each in handles.items()})


def _others_in_force(asker: Asker) -> bool:
    if any(not _is_of_own_chain(*each) for each in asker.dump(GETRULE, FILTER)):
        return True
    chains = (decoded(*each) for each in asker.dump(GETCHAIN) if each[0].startswith(FILTER, each[1]))
    return any(as_number(each.get(CHAIN_POLICY, _ACCEPT)) == 0 for each in chains)


def _counters(asker: Asker) -> dict[str, list[Count]]:
    found: dict[str, list[Count]] = {}
    for data, start, end in asker.dump(GETRULE, FILTER):
        if _is_of_own_chain(data, start, end):
            values = decoded(data, start, end)
            count = counted(values.get(RULE_EXPRESSIONS, b""))
            found.setdefault(as_text(values[RULE_CHAIN]), []).append(count)
    return found


def _is_of_own_chain(data: bytes, start: int, _: int) -> bool:
    return data.startswith(_OWN, start + len(FILTER) + 4)  # the chain's name always stands second


def _lead(data: bytes, start: int, end: int) -> Lead:
    values = decoded(data, start, end)
    handle = int.from_bytes(values[RULE_HANDLE], "big")
    return Lead(as_text(values[RULE_CHAIN]), handle, *_leads_to(values.get(RULE_EXPRESSIONS, b"")))


def _leads_to(expressions: bytes) -> tuple[str, bool]:
    """See Lead.  `-j CHAIN` alone is a counter and an immediate verdict."""
    parts = [decoded(expressions, start, end) for _, start, end in attributes(expressions, 0, len(expressions))]
    if not parts or parts[-1][EXPRESSION_NAME] != b"immediate\0":
        return "", False
    data = decoded(decoded(parts[-1][EXPRESSION_DATA]).get(_IMMEDIATE_DATA, b""))
    verdict = decoded(data.get(_DATA_VERDICT, b""))
    chain = verdict.get(_VERDICT_CHAIN, b"")
    is_plain = all(each[EXPRESSION_NAME] == b"counter\0" for each in parts[:-1])
    is_jump = int.from_bytes(verdict.get(_VERDICT_CODE, b""), "big") == _JUMP
    return (as_text(chain), is_plain and is_jump) if chain.startswith(_OWN) else ("", False)
