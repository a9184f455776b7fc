"""The nft backend: iptables' own tools over nf_tables.  One `iptables-nft-restore --noflush` is one transaction."""

from __future__ import annotations

from collections.abc import Iterator

from netpold.host.kernel.backend import Commit, KernelError
from netpold.host.run import run
from netpold.policy.model import Family
from netpold.rules.render import line
from netpold.rules.ruleset import CHAIN_PREFIXES

TOOL: dict[Family, str] = {4: "iptables-nft", 6: "ip6tables-nft"}


class Nft:
    """`Backend` by iptables-nft and ip6tables-nft."""

    name = "nft"

    def chains(self, family: Family) -> frozenset[str]:
        names = (line[1:].split()[0] for line in self._save(family) if line.startswith(":"))
        return frozenset(name for name in names if name.startswith(CHAIN_PREFIXES))

    def hooked(self, family: Family, builtin: str, own: str) -> bool:
        """Whether the built-in chain's first rule, and no other, is the plain jump."""
        jumps = self._jumps(family, own)
        return jumps == [(0, f"{builtin} -j {own}")]

    def commit(self, commit: Commit) -> None:
        lines = ["*filter"]
        lines += [f":{chain} - [0:0]" for chain in (*commit.replace, *commit.remove)]
        for chain, rules in commit.replace.items():
            lines += [f"-A {chain} {line(options)}" for options in rules]
        for builtin, own in commit.hook.items():
            lines += self._rehook(commit.family, builtin, own)
        for own in commit.unhook:
            lines += [f"-D {rule}" for _, rule in self._jumps(commit.family, own)]
        lines += [f"-X {chain}" for chain in commit.remove]
        lines.append("COMMIT\n")
        run([f"{TOOL[commit.family]}-restore", "--noflush"], "\n".join(lines))

    def close(self) -> None:
        pass

    def _rehook(self, family: Family, builtin: str, own: str) -> Iterator[str]:
        jumps = [(place, rule) for place, rule in self._jumps(family, own) if rule.split()[0] == builtin]
        if jumps == [(0, f"{builtin} -j {own}")]:
            return
        yield from (f"-D {rule}" for _, rule in jumps)
        yield f"-I {builtin} 1 -j {own}"

    def _jumps(self, family: Family, own: str) -> list[tuple[int, str]]:
        """The rules of built-in (or foreign) chains that jump to an own chain: place in the chain, and its text."""
        found: list[tuple[int, str]] = []
        places: dict[str, int] = {}
        for each in self._save(family):
            if not each.startswith("-A "):
                continue
            rule = each.removeprefix("-A ")
            chain = rule.split()[0]
            place = places.get(chain, 0)
            places[chain] = place + 1
            if not chain.startswith(CHAIN_PREFIXES) and rule.endswith((f" -j {own}", f" -g {own}")):
                found.append((place, rule))
        return found

    def _save(self, family: Family) -> list[str]:
        tool = f"{TOOL[family]}-save"
        lines = run([tool, "-t", "filter"]).splitlines()
        if any("incompatible" in each for each in lines if each.startswith("#")):
            raise KernelError(f"{tool}: the filter table holds rules that only nft can show; remove them with nft")
        return lines
