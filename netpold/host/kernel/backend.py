"""What a backend has to do: a few functions, the same for `nft`, `legacy` and the in-memory kernel of the tests.

A commit changes one family's filter table in one transaction: every packet meets all of it or nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from netpold.policy.model import Family
from netpold.rules.render import Options


class KernelError(Exception):
    """The kernel or its tool refused; nothing was changed.  One sentence, with what the tool said."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One transaction on the filter table of one family.

    `replace`: own chains to create or to empty and refill, with their rules (sets named as the kernel has them).
    `remove`: own chains to delete; nothing refers to them any more.
    `hook`: built-in chain -> own chain: afterwards the built-in chain's first rule is a plain jump there, and no
    other jump to it is left in that chain.  `unhook`: all jumps to these own chains are taken out of built-in chains.
    """

    family: Family
    replace: Mapping[str, tuple[Options, ...]] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    hook: Mapping[str, str] = field(default_factory=dict)
    unhook: tuple[str, ...] = ()


class Backend(Protocol):
    """How rules get into the kernel of the current network namespace."""

    name: str

    def chains(self, family: Family) -> frozenset[str]:
        """The names of netpold's own chains that the filter table holds (CHAIN_PREFIXES).  Raises KernelError."""
        ...

    def rule_counts(self, family: Family) -> Mapping[str, int]:
        """How many rules each of netpold's own chains holds.  Raises KernelError."""
        ...

    def hooked(self, family: Family, builtin: str, own: str) -> bool:
        """Whether a plain jump to `own` is the first rule of the built-in chain, and no other rule goes there.
        Raises KernelError."""
        ...

    def commit(self, commit: Commit) -> None:
        """Carry one commit out, whole or not at all.  Raises KernelError."""
        ...

    def close(self) -> None:
        """Give back what is held between commits (processes); rules stay."""
        ...
