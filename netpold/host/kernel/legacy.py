"""The legacy backend: commits to the kernel's xtables filter tables from this process, as iptables-legacy would.

A commit takes the xtables lock, reads the table, changes own chains and the jumps to them, and puts the table back in
one step.  Rules are packed before the lock is taken (`xt_entry`), so other programs wait for libiptc only.  Of foreign
rules nothing is looked at but where they jump to, and nothing is changed but jumps to own chains.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping, Sequence

from netpold.host.kernel import xt_entry, xt_table
from netpold.host.kernel.backend import ASIDE, Commit, Content, KernelError, Misnamed, refused
from netpold.host.kernel.libiptc import SetIndexes, Table, filter_table, kernel_knows
from netpold.host.kernel.watch_legacy import Account, LegacyWatcher
from netpold.host.kernel.xtables_lock import lock_path, xtables_lock
from netpold.policy.model import Family
from netpold.rules.count import Count
from netpold.rules.render import Options, line
from netpold.rules.ruleset import CHAIN_NAME_LIMIT, CHAIN_PREFIXES

_TRIES = 3  # a program that takes no lock may come between read and write

# chain -> its rules with their binary form
Entries = dict[str, list[tuple[Options, bytes]]]


class Legacy:
    """The filter tables of the current network namespace, as iptables-legacy sees them.

    `lock_wait`: for how many seconds a commit waits for other programs to release the xtables lock.
    """

    name = "legacy"

    def __init__(self, lock_wait: float = 10.0) -> None:
        self._lock_wait = lock_wait
        self._account = Account()

    def chains(self, family: Family) -> frozenset[str]:
        """The names of netpold's own chains that the filter table holds.  Raises KernelError."""
        with filter_table(family) as table:
            return frozenset(name for name in table.chains() if name.startswith(CHAIN_PREFIXES))

    def contents(self, family: Family) -> Mapping[str, Content]:
        """What each of netpold's own chains holds.  Raises KernelError."""
        with xt_table.opened(family) as reader:
            return _contents(reader.entries(), family)

    def counters(self, family: Family) -> Mapping[str, Sequence[Count]]:
        """What each rule of netpold's own chains has matched since it was written.  Raises KernelError."""
        with xt_table.opened(family) as reader:
            return xt_table.counters(reader.entries(), family)

    def led_to(self, family: Family) -> frozenset[tuple[str, str]]:
        """What leads to netpold's own chains from other chains: each with the own one.  Raises KernelError."""
        with xt_table.opened(family) as reader:
            return xt_table.led_to(reader.entries(), family)

    def watcher(self) -> LegacyWatcher:
        return LegacyWatcher(self._account, lock_path())

    def hooked(self, family: Family, builtin: str, own: str) -> bool:
        """Whether the built-in chain's first rule, and no other, is the plain jump.  Raises KernelError."""
        with filter_table(family) as table:
            rules = table.targets(builtin)
            return rules[:1] == [(own, True)] and own not in (target for target, _ in rules[1:])

    def leads(self, family: Family, builtin: str, own: str) -> bool:
        """Whether any rule of the built-in chain is the plain jump.  Raises KernelError."""
        with filter_table(family) as table:
            return (own, True) in table.targets(builtin)

    def commit(self, commit: Commit) -> None:
        """Carry one commit out, whole or not at all.  Raises KernelError."""
        if not (commit.replace or commit.remove or commit.hook or commit.unhook):
            return
        _check_names(commit)
        entries = _encode(commit)
        with xtables_lock(self._lock_wait), self._account.commit(commit.family):
            for tries_left in reversed(range(_TRIES)):
                with filter_table(commit.family) as table:
                    _change(table, commit, entries)
                    try:
                        table.commit()
                        return
                    except OSError as error:
                        if error.errno != errno.EAGAIN or not tries_left:
                            raise refused(error.errno, _refusal(commit, error)) from error

    def rename(self, misnamed: Collection[Misnamed]) -> bool:
        """See Backend."""
        renamed = False
        for family in {each.family for each in misnamed}:
            renamed |= self._rename(family, {each.now: each.name for each in misnamed if each.family == family})
        return renamed

    def _rename(self, family: Family, names: Mapping[str, str]) -> bool:
        """`names`: what chains are called now, and should be."""
        with xtables_lock(self._lock_wait), self._account.commit(family), filter_table(family) as table:
            try:
                found = {now: name for now, name in names.items() if table.has_chain(now)}
                for number, (now, name) in enumerate(found.items()):
                    if table.has_chain(name):
                        table.rename(name, f"{ASIDE}{number}")
                    table.rename(now, name)
                if found:
                    table.commit()
            except OSError as error:
                raise refused(
                    error.errno, f"IPv{family} chains can't have their names back: {error.strerror}"
                ) from error
        return bool(found)

    def close(self) -> None:
        """Nothing is held between commits."""


def _contents(entries: xt_table.Entries, family: Family) -> Mapping[str, Content]:
    found = xt_table.chains(entries, family)
    return {name: Content(*each[:2]) for name, each in found.items() if name.startswith(CHAIN_PREFIXES)}


def _check_names(commit: Commit) -> None:
    for chain in (*commit.replace, *commit.remove, *commit.hook.values(), *commit.unhook):
        if not chain.startswith(CHAIN_PREFIXES):
            raise KernelError(f"IPv{commit.family} chain {chain}: not one of netpold's, so it is left alone")
        if not chain.isascii() or len(chain) > CHAIN_NAME_LIMIT:
            raise KernelError(f"IPv{commit.family} chain {chain}: a name has at most {CHAIN_NAME_LIMIT} characters")


def _encode(commit: Commit) -> Entries:
    entries: Entries = {}
    with SetIndexes() as set_index:
        for chain, rules in commit.replace.items():
            packed = entries[chain] = []
            for rule in rules:
                try:
                    packed.append((rule, xt_entry.encode(rule, commit.family, set_index)))
                except (xt_entry.BadRule, LookupError) as error:
                    raise KernelError(f"{_where(commit.family, chain, rule)}: {error.args[0]}") from error
    return entries


def _where(family: Family, chain: str, rule: Options) -> str:
    return f"IPv{family} -A {chain} {line(rule)}"


def _change(table: Table, commit: Commit, entries: Entries) -> None:
    """Every chain is there before a rule refers to it, and no rule does any more when it goes."""
    where = ""
    try:
        old = [chain for chain in commit.remove if table.has_chain(chain)]
        for chain in commit.replace:
            where = f"IPv{commit.family} chain {chain}"
            if not table.has_chain(chain):
                table.create(chain)
        for chain in (*commit.replace, *old):
            where = f"IPv{commit.family} chain {chain}"
            table.flush(chain)
        for chain, rules in entries.items():
            for rule, entry in rules:
                _append(table, commit.family, chain, rule, entry)
        if commit.unhook:
            for chain in table.chains():
                where = f"IPv{commit.family} chain {chain}"
                if not chain.startswith(CHAIN_PREFIXES):
                    _remove_jumps(table, chain, commit.unhook)
        for chain, own in commit.hook.items():
            where = f"IPv{commit.family} -I {chain} -j {own}"
            _hook(table, commit.family, chain, own)
        for chain in old:
            where = f"IPv{commit.family} chain {chain}: something still jumps to it"
            table.delete(chain)
    except OSError as error:
        raise refused(error.errno, f"{where}: {error.strerror}") from error


def _append(table: Table, family: Family, chain: str, rule: Options, entry: bytes) -> None:
    # libiptc would take the name of a chain that is not there for an extension
    if rule.target not in xt_entry.TARGETS and not table.has_chain(rule.target):
        raise KernelError(f"{_where(family, chain, rule)}: there is no chain {rule.target}")
    try:
        table.append(chain, entry)
    except OSError as error:
        raise refused(error.errno, f"{_where(family, chain, rule)}: {error.strerror}") from error


def _hook(table: Table, family: Family, builtin: str, own: str) -> None:
    if not (table.is_builtin(builtin) and table.has_chain(own)):
        raise KernelError(f"IPv{family} -I {builtin} -j {own}: no such built-in chain, or no such own one")
    in_place = table.targets(builtin)[:1] == [(own, True)]  # and stays, with its counters
    _remove_jumps(table, builtin, (own,), start=1 if in_place else 0)
    if not in_place:
        table.insert(builtin, 0, xt_entry.jump(own, family))


def _remove_jumps(table: Table, chain: str, targets: Collection[str], start: int = 0) -> None:
    for position, (target, _) in reversed(list(enumerate(table.targets(chain)))[start:]):
        if target in targets:
            table.delete_rule(chain, position)


def _refusal(commit: Commit, error: OSError) -> str:
    """Why the kernel refused a table.  It only gives a number; the commonest reason can be asked for."""
    if error.errno == errno.EAGAIN:
        return f"IPv{commit.family} filter table: a program that takes no lock keeps changing it; try again"
    for chain, rules in commit.replace.items():
        for rule in rules:
            for is_target, name, revision in xt_entry.extensions(rule):
                if not kernel_knows(commit.family, is_target, name, revision):
                    lacks = f"{'-j' if is_target else '-m'} {name}"
                    return f"{_where(commit.family, chain, rule)}: this kernel lacks {lacks} (revision {revision})"
    some = ", ".join(list(commit.replace)[:5]) + (", ..." if len(commit.replace) > 5 else "")
    chains = f"chains {some}: " if some else ""
    return f"IPv{commit.family} filter table: {chains}the kernel refused it: {error.strerror} (dmesg may say why)"
