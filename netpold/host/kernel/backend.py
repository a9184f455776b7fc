"""What a backend has to do: a few functions, the same for `nft`, `legacy` and the in-memory kernel of the tests.

A commit changes one family's filter table in one transaction: every packet meets all of it or nothing of it.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from netpold.policy.model import Family
from netpold.rules.count import Count
from netpold.rules.render import Options

ASIDE = "NETPOLD-ASIDE-"  # and a number: a chain that has no right to the name that it had


class KernelError(Exception):
    """The kernel or its tool refused; nothing was changed.  One sentence, with what the tool said."""


class Trouble(KernelError):
    """It is the machine that can't, whatever it was asked for: no memory, no process, no time, no permission."""


# Of the kernel's refusals those that say nothing of what was asked for.
MACHINE = frozenset(
    (
        errno.ENOMEM,
        errno.EAGAIN,
        errno.ENOBUFS,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOSPC,
        errno.EPERM,
        errno.EACCES,
        errno.EINTR,
        errno.EIO,
    )
)


_CURES = {
    errno.EMFILE: "let the daemon open more files (LimitNOFILE= of the service)",
    errno.ENFILE: "let the machine open more files (sysctl fs.file-max)",
    errno.EAGAIN: "let the daemon have more processes and threads (TasksMax= of the service)",
    errno.ENOMEM: "let the daemon have more memory (MemoryMax= of the service), or the machine",
}


def said(error: OSError) -> str:
    """What an error says; and what to do, where it is the machine that has no more to give."""
    cure = _CURES.get(error.errno or 0)
    return f"{error.strerror}; {cure}" if cure else str(error.strerror)


def refused(code: int | None, text: str) -> KernelError:
    """For an errno of the kernel's."""
    return Trouble(text) if code in MACHINE else KernelError(text)


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


class Content(NamedTuple):
    """How many rules a chain has, and what is another one when any of them is: to be compared, and nothing else."""

    rules: int
    mark: Hashable


class Program(NamedTuple):
    """Who changed something, as far as the kernel tells; `pid` as the initial namespace of processes has it."""

    name: str
    pid: int


class Misnamed(NamedTuple):
    """A chain that another program gave another name.  `name`: the one that it should have; `key`: what tells it from
    others, whatever they are called (nft: the handle of its table and its own; legacy: nothing, but `now` does)."""

    family: Family
    name: str
    key: tuple[int, int] = (0, 0)
    now: str = ""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What in the kernel may be other than netpold left it.

    `chains`: own chains that another program has touched; `tables`: the families whose own chains have to be looked at;
    `hooks`: those whose jumps from built-in chains have to be.  `lost`: the kernel has lost its own account of what
    happened, so that only what was read before tells.  `misnamed`: chains that have other names now.  `headers`: the
    sets have to be looked at; `members`: these sets (by their names in the kernel) to the last member.  `by`: who did
    it.
    """

    chains: Mapping[Family, frozenset[str]] = field(default_factory=dict)
    tables: frozenset[Family] = frozenset()
    hooks: frozenset[Family] = frozenset()
    lost: bool = False
    misnamed: frozenset[Misnamed] = frozenset()
    headers: bool = False
    members: frozenset[str] = frozenset()
    by: tuple[Program, ...] = ()

    def __bool__(self) -> bool:
        chains = any(self.chains.values()) or self.misnamed
        return bool(chains or self.tables or self.hooks or self.headers or self.members)

    def __or__(self, other: Suspicion) -> Suspicion:
        return Suspicion(
            {
                family: self.chains.get(family, frozenset()) | other.chains.get(family, frozenset())
                for family in self.chains.keys() | other.chains.keys()
            },
            self.tables | other.tables,
            self.hooks | other.hooks,
            self.lost or other.lost,
            self.misnamed | other.misnamed,
            self.headers or other.headers,
            self.members | other.members,
            tuple(dict.fromkeys((*self.by, *other.by))),
        )


class Watcher(Protocol):
    """Notices what others change.  For one thread, in the network namespace in which it is to watch.

    `due`: when (time.monotonic()) to `look` even if nothing can be read from `fileno` (None: there is nothing to wait
    for).
    """

    due: float

    def fileno(self) -> int | None: ...

    def look(self) -> Suspicion:
        """What has been noticed since the last time.  Raises KernelError."""
        ...

    def close(self) -> None: ...


class Backend(Protocol):
    """How rules get into the kernel of the current network namespace."""

    name: str

    def chains(self, family: Family) -> frozenset[str]:
        """The names of netpold's own chains that the filter table holds (CHAIN_PREFIXES).  Raises KernelError."""
        ...

    def contents(self, family: Family) -> Mapping[str, Content]:
        """What each of netpold's own chains holds.  Raises KernelError."""
        ...

    def counters(self, family: Family) -> Mapping[str, Sequence[Count]]:
        """What each rule of netpold's own chains has matched since it was written.  Raises KernelError."""
        ...

    def hooked(self, family: Family, builtin: str, own: str) -> bool:
        """Whether a plain jump to `own` is the first rule of the built-in chain, and no other rule goes there.
        Raises KernelError."""
        ...

    def leads(self, family: Family, builtin: str, own: str) -> bool:
        """Whether any rule of the built-in chain is a plain jump to `own`.  Raises KernelError."""
        ...

    def led_to(self, family: Family) -> frozenset[tuple[str, str]]:
        """What leads to netpold's own chains from other chains: each with the own one.  Raises KernelError."""
        ...

    def watcher(self) -> Watcher:
        """One that passes over this object's own commits.  Raises KernelError."""
        ...

    def commit(self, commit: Commit) -> None:
        """Carry one commit out, whole or not at all.  Raises KernelError."""
        ...

    def rename(self, misnamed: Collection[Misnamed]) -> bool:
        """Give these chains their names back, as far as they are still there and have others; whether any had another.
        An own chain that has such a name meanwhile gets another (ASIDE), and is left over.  Raises KernelError."""
        ...

    def close(self) -> None:
        """Give back what is held between commits (processes); rules stay."""
        ...
