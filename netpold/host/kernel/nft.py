"""The nft backend: iptables' own tools over nf_tables.

A commit is one transaction of an iptables-nft-restore that stays open (`restore`): most of what a small commit takes is
the start of the process, and its end, after which nf_tables lets the next one wait (`python3 -m tests.bench.writers`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from netpold.host.kernel import nf_tables
from netpold.host.kernel.backend import Commit, Content, KernelError
from netpold.host.kernel.restore import Restore
from netpold.host.kernel.watch_nft import NftWatcher
from netpold.host.run import run
from netpold.policy.model import Family
from netpold.rules.render import line
from netpold.rules.ruleset import CHAIN_PREFIXES, FAMILIES

TOOL: dict[Family, str] = {4: "iptables-nft", 6: "ip6tables-nft"}


class Nft:
    """`Backend` by iptables-nft and ip6tables-nft, in the network namespace of the first commit."""

    name = "nft"

    def __init__(self) -> None:
        self._restore = {family: Restore(f"{TOOL[family]}-restore") for family in FAMILIES}

    def chains(self, family: Family) -> frozenset[str]:
        return frozenset(
            name
            for each in self._save(family)
            if each.startswith(":") and (name := each[1:].split()[0]).startswith(CHAIN_PREFIXES)
        )

    def contents(self, family: Family) -> Mapping[str, Content]:
        table = nf_tables.contents(family)
        return {name: Content(len(rules), (table.handle, rules)) for name, rules in table.chains.items()}

    def watcher(self) -> NftWatcher:
        return NftWatcher(lambda: frozenset(pid for each in self._restore.values() for pid in each.pids))

    def hooked(self, family: Family, builtin: str, own: str) -> bool:
        leads = nf_tables.leads(family, builtin)
        is_first = leads[:1] == [(own, True)] and all(each != own for each, _ in leads[1:])
        return is_first and _is_met(family, builtin)

    def leads(self, family: Family, builtin: str, own: str) -> bool:
        return (own, True) in nf_tables.leads(family, builtin) and _is_met(family, builtin)

    def commit(self, commit: Commit) -> None:
        lines = ["*filter"]
        lines += [f":{chain} - [0:0]" for chain in (*commit.replace, *commit.remove)]
        for chain, rules in commit.replace.items():
            lines += [f"-A {chain} {line(options)}" for options in rules]
        for builtin in commit.hook:
            _take_away_strayed(commit.family, builtin)
        if commit.hook or commit.unhook:
            saved = self._save(commit.family)
            if nf_tables.dormant(commit.family):
                nf_tables.wake_up(commit.family)
            for builtin, own in commit.hook.items():
                lines += _rehook(saved, builtin, own)
            lines += [f"-D {rule}" for own in commit.unhook for _, rule in _jumps(saved, own)]
        lines += [f"-X {chain}" for chain in commit.remove]
        lines.append("COMMIT\n")
        self._restore[commit.family].commit("\n".join(lines))

    def close(self) -> None:
        """End the processes that are kept open; rules stay."""
        for restore in self._restore.values():
            restore.close()

    def _save(self, family: Family) -> list[str]:
        tool = f"{TOOL[family]}-save"
        lines = run([tool, "-t", "filter"]).splitlines()
        if any("incompatible" in each for each in lines if each.startswith("#")):
            raise KernelError(f"{tool}: the filter table holds rules that only nft can show; remove them with nft")
        return lines


def _is_met(family: Family, builtin: str) -> bool:
    """Whether packets meet the rules of a built-in chain that is there."""
    return not nf_tables.dormant(family) and not nf_tables.strayed(family, builtin)


def _take_away_strayed(family: Family, builtin: str) -> None:
    """A chain in the place of a built-in one that packets do not pass, so that the commit makes the right one."""
    if not nf_tables.strayed(family, builtin):
        return
    if all(own for own, _ in nf_tables.leads(family, builtin)):
        nf_tables.delete(family, builtin)
        return
    table = "ip" if family == 4 else "ip6"
    chain = f"chain {table} filter {builtin}"
    raise KernelError(
        f"IPv{family}: another program has made the {chain} anew without its hook, so nothing is enforced there: "
        f"delete it (nft 'flush {chain}; delete {chain}'); netpold then makes it as it should be"
    )


def _rehook(saved: list[str], builtin: str, own: str) -> Iterator[str]:
    """What makes the jump the built-in chain's first rule, and the only one that goes there; nothing where it is."""
    jumps = [(place, rule) for place, rule in _jumps(saved, own) if rule.split()[0] == builtin]
    if jumps != [(0, f"{builtin} -j {own}")]:
        yield from (f"-D {rule}" for _, rule in jumps)
        yield f"-I {builtin} 1 -j {own}"


def _jumps(saved: list[str], own: str) -> list[tuple[int, str]]:
    """The rules of foreign chains that go to an own chain: place in the chain, and text behind `-A`."""
    found: list[tuple[int, str]] = []
    places: Counter[str] = Counter()
    for each in saved:
        if each.startswith("-A "):
            rule = each.removeprefix("-A ")
            chain = rule.split()[0]
            if not chain.startswith(CHAIN_PREFIXES) and rule.endswith((f" -j {own}", f" -g {own}")):
                found.append((places[chain], rule))
            places[chain] += 1
    return found
