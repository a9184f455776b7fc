"""The kernel against the model, chain by chain and set by set: what is different, for a person.

The daemon itself compares handles and digests, which is fast and says where, but not what (drift.py).  Here the rules
are read by iptables' own save program, another way than they came in, and compared word by word.  The table for frames
between ports of bridges is compared line by line with what nft showed when it was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from netpold.host.kernel import ipset
from netpold.host.kernel.backend import Backend, KernelError
from netpold.host.kernel.bridge_frames import TABLE, listed
from netpold.host.kernel.watch_sets import is_known, is_of_another_kind
from netpold.host.run import run
from netpold.policy.model import Family
from netpold.rules.plan import Installed
from netpold.rules.render import text
from netpold.rules.ruleset import FAMILIES
from netpold.rules.saved import chains, difference, jumps

MOST_SHOWN = 50  # rules of one chain, or members of one set

Json = dict[str, Any]


def verify(installed: Installed, backend: Backend, frames: str | None = None) -> Json:
    """How the kernel differs from `installed`, where all members are known, and from `frames`, the table for frames
    between ports of bridges (see BridgeFrames.listing).  Raises KernelError."""
    unread: list[Json] = []
    found_chains: list[Json] = []
    hooks: list[Json] = []
    for family in FAMILIES:
        hooks += _hooks(installed, backend, family)
        try:
            saved = _saved(backend, family)
        except KernelError as error:
            unread.append({"family": f"IPv{family}", "why": str(error)})
            continue
        extra = sorted(set(jumps(saved)) - installed.ruleset.hooks.items())
        hooks += [_hook(family, *each, "extra") for each in extra]
        found_chains += _chains(installed, family, saved, {own for _, own in extra})
    sets = list(_sets(installed))
    tables: list[Json] = []
    if frames is not None:
        try:
            tables.append(_bridge_table(frames))
        except KernelError as error:
            unread.append({"family": "bridge", "why": str(error)})
    parts = (*hooks, *found_chains, *sets, *tables)
    return {
        "backend": backend.name,
        "same": not unread and all(each["state"] == "ok" for each in parts),
        "hooks": hooks,
        "chains": found_chains,
        "sets": sets,
        "tables": tables,
        "unread": unread,
    }


def _hooks(installed: Installed, backend: Backend, family: Family) -> Iterator[Json]:
    """The jumps from built-in chains."""
    for builtin, own in sorted(installed.ruleset.hooks.items()):
        if backend.hooked(family, builtin, own):
            state = "ok"
        else:
            state = "not-first" if backend.leads(family, builtin, own) else "missing"
        yield _hook(family, builtin, own, state)


def _hook(family: Family, chain: str, own: str, state: str) -> Json:
    return {"family": f"IPv{family}", "builtin": chain, "chain": own, "state": state}


def _saved(backend: Backend, family: Family) -> str:
    """The filter table as iptables' own program prints it.  Raises KernelError."""
    tool = f"{'ip6tables' if family == 6 else 'iptables'}-{backend.name}-save"
    saved = run([tool, "-t", "filter"])
    if "incompatible" in saved:  # in a comment: the table holds what only nft can show
        raise KernelError(f"{tool} can't show the filter table: another program has put rules of nft's own there")
    return saved


def _chains(installed: Installed, family: Family, saved: str, led_to: Set[str]) -> Iterator[Json]:
    """All own chains.  Those left over are about to go, but for such as rules of others lead to (`led_to`)."""
    found = chains(saved)
    wanted = installed.ruleset.chains[family]
    for name in sorted(wanted):
        rules = [text(rule, family, lambda each: installed.names[each]) for rule in wanted[name]]
        yield {"family": f"IPv{family}", "chain": name, **_chain(rules, found.get(name))}
    about_to_go = installed.stray_chains.get(family, frozenset()) - led_to
    for name in sorted(found.keys() - wanted.keys() - about_to_go):
        yield {"family": f"IPv{family}", "chain": name, **_told("extra", 0, (), found[name])}


def _chain(wanted: list[str], found: list[str] | None) -> Json:
    if found is None:
        return _told("missing", len(wanted), wanted, ())
    other = difference(wanted, found)
    if other is None:
        return _told("ok", len(wanted), (), ())
    return _told("different", len(wanted), other.missing, other.extra)


def _bridge_table(frames: str) -> Json:
    family, name = TABLE.split()
    wanted, found = ([line.strip() for line in text.splitlines()] for text in (frames, listed()))
    other = difference(wanted, found, str)
    state = "ok" if found else "missing"
    if found and other is not None:
        state = "different"
    missing, extra = (other.missing, other.extra) if other else ((), ())
    return {"family": family, "table": name, **_told(state, len(wanted), missing, extra)}


def _told(state: str, size: int, missing: tuple[str, ...] | list[str], extra: tuple[str, ...] | list[str]) -> Json:
    return {
        "state": state,
        "size": size,
        "missing": {"count": len(missing), "some": list(missing[:MOST_SHOWN])},
        "extra": {"count": len(extra), "some": list(extra[:MOST_SHOWN])},
    }


def _sets(installed: Installed) -> Iterator[Json]:
    headers = ipset.headers(ipset.headers_listing())
    for logical, name in sorted(installed.names.items()):
        wanted = installed.ruleset.sets[logical]
        yield {
            "family": f"IPv{wanted.family}",
            "set": name,
            "meaning": wanted.meaning,
            **_set(headers, installed, logical),
        }
    for name in sorted(headers.keys() - set(installed.names.values()) - installed.stray_sets):
        meaning = "none of what is in force"
        yield {
            "family": f"IPv{headers[name].family}",
            "set": name,
            "meaning": meaning,
            **_told("extra", headers[name].size or 0, (), ()),
        }


def _set(headers: Mapping[str, ipset.Header], installed: Installed, logical: str) -> Json:
    wanted, name = installed.ruleset.sets[logical], installed.names[logical]
    members: Set[str] = frozenset(wanted.members)
    if name not in headers:
        return _told("missing", len(members), (), ())
    if is_of_another_kind(headers[name], wanted):
        return _told("another-kind", len(members), (), ())
    found = ipset.members(name)
    missing, extra = sorted(members - found), sorted(found - members) if is_known(wanted) else []
    return _told("different" if missing or extra else "ok", len(members), missing, extra)
