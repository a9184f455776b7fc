"""The nft backend: iptables' own tools over nf_tables.

A commit is one transaction of an iptables-nft-restore that stays open (`restore`): most of what a small commit takes is
the start of the process, and its end, after which nf_tables lets the next one wait (`python3 -m tests.bench.writers`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from netpold.host.kernel import nf_tables
from netpold.host.kernel.backend import ASIDE, Commit, Content, KernelError, Misnamed
from netpold.host.kernel.chain_names import BUILTIN
from netpold.host.kernel.restore import Restore
from netpold.host.kernel.watch_nft import NftWatcher
from netpold.policy.model import Family
from netpold.rules.count import Count
from netpold.rules.render import line
from netpold.rules.ruleset import FAMILIES

TOOL: dict[Family, str] = {4: "iptables-nft", 6: "ip6tables-nft"}


class Nft:
    """`Backend` by iptables-nft and ip6tables-nft, in the network namespace of the first commit."""

    name = "nft"

    def __init__(self) -> None:
        self._restore = {family: Restore(f"{TOOL[family]}-restore") for family in FAMILIES}

    def chains(self, family: Family) -> frozenset[str]:
        return frozenset(nf_tables.contents(family).chains)

    def contents(self, family: Family) -> Mapping[str, Content]:
        table = nf_tables.contents(family)
        return {name: Content(len(rules.handles), (table.handle, rules)) for name, rules in table.chains.items()}

    def counters(self, family: Family) -> Mapping[str, Sequence[Count]]:
        return nf_tables.counters(family)

    def led_to(self, family: Family) -> frozenset[tuple[str, str]]:
        return nf_tables.led_to(family)

    def watcher(self) -> NftWatcher:
        return NftWatcher(lambda: frozenset(pid for each in self._restore.values() for pid in each.pids))

    def hooked(self, family: Family, builtin: str, own: str) -> bool:
        return _is_first_alone(nf_tables.leads(family, builtin), own) and _is_met(family, builtin)

    def leads(self, family: Family, builtin: str, own: str) -> bool:
        leads = nf_tables.leads(family, builtin)
        return any(each.own == own and each.is_plain for each in leads) and _is_met(family, builtin)

    def commit(self, commit: Commit) -> None:
        lines = ["*filter"]
        lines += [f":{chain} - [0:0]" for chain in (*commit.replace, *commit.remove)]
        for chain, rules in commit.replace.items():
            lines += [f"-A {chain} {line(options)}" for options in rules]
        family = commit.family
        if (commit.hook or commit.unhook) and nf_tables.dormant(family):
            nf_tables.wake_up(family)
        if commit.unhook:
            nf_tables.delete_rules(family, (each for each in nf_tables.leads(family) if each.own in commit.unhook))
        for builtin, own in commit.hook.items():
            _take_away_strayed(family, builtin)
            within_reach = not nf_tables.is_out_of_reach(family, builtin)
            if within_reach and not _is_first_alone(nf_tables.leads(family, builtin), own):
                lines.append(f"-I {builtin} 1 -j {own}")
        lines += [f"-X {chain}" for chain in commit.remove]
        lines.append("COMMIT\n")
        self._restore[family].commit("\n".join(lines))
        for builtin, own in commit.hook.items():
            _have_first_alone(family, builtin, own)

    def rename(self, misnamed: Collection[Misnamed]) -> bool:
        renamed = False
        for family in {each.family for each in misnamed}:
            renamed |= _rename(family, [each for each in misnamed if each.family == family])
        return renamed

    def close(self) -> None:
        """End the processes that are kept open; rules stay."""
        for restore in self._restore.values():
            restore.close()


def _rename(family: Family, misnamed: Collection[Misnamed]) -> bool:
    """See Backend.  In one transaction no chain gets a name that another one has: what is in the way, which may be
    chains that exchanged their names, is called something else first."""
    table = nf_tables.chain_names(family)
    wanted: dict[str, int] = {}
    for each in sorted(misnamed, key=lambda each: each.key):
        of_table, handle = each.key
        if of_table == table.handle and handle in table.names:
            wanted.setdefault(each.name, handle)  # the oldest, where one of that name was made anew
    aside: dict[int, str] = {}
    for handle, name in table.names.items():
        if wanted.get(name, handle) == handle:
            continue
        if name in BUILTIN:  # packets pass it: it stays, and netpold's jumps go from what was called so before
            before = table.names[wanted.pop(name)]
            nf_tables.delete_rules(family, (each for each in nf_tables.leads(family, before) if each.own))
        else:
            aside[handle] = f"{ASIDE}{handle}"
    back = {handle: name for name, handle in wanted.items() if table.names[handle] != name}
    nf_tables.rename(family, aside)
    nf_tables.rename(family, back)
    return bool(back)


def _is_met(family: Family, builtin: str) -> bool:
    """Whether packets meet the rules of a built-in chain that is there."""
    return not nf_tables.dormant(family) and not nf_tables.strayed(family, builtin)


def _take_away_strayed(family: Family, builtin: str) -> None:
    """A chain in the place of a built-in one that packets do not pass, so that the commit makes the right one."""
    if not nf_tables.strayed(family, builtin):
        return
    if all(each.own for each in nf_tables.leads(family, builtin)):
        nf_tables.delete(family, builtin)
        return
    table = "ip" if family == 4 else "ip6"
    chain = f"chain {table} filter {builtin}"
    raise KernelError(
        f"IPv{family}: another program has made the {chain} anew without its hook, so nothing is enforced there: "
        f"delete it (nft 'flush {chain}; delete {chain}'); netpold then makes it as it should be"
    )


def _is_first_alone(leads: Sequence[nf_tables.Lead], own: str) -> bool:
    """Whether the first of a chain's rules is a plain jump to the own chain, and no other one leads there."""
    return [each.own for each in leads].count(own) == 1 and leads[0].own == own and leads[0].is_plain


def _have_first_alone(family: Family, builtin: str, own: str) -> None:
    """Take away what leads to the own chain besides a chain's first rule: until then packets meet it twice, which does
    no harm.  That rule is inserted here where iptables could not."""
    leads = nf_tables.leads(family, builtin)
    if not (leads and leads[0].own == own and leads[0].is_plain):
        nf_tables.insert_jump(family, builtin, own)
        leads = nf_tables.leads(family, builtin)
    nf_tables.delete_rules(family, (each for each in leads[1:] if each.own == own))
