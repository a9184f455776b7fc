"""Carries a plan out, step by step, and reads what the kernel holds where nothing is known of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import groupby

from netpold.host.kernel import ipset
from netpold.host.kernel.backend import Backend, Commit, KernelError, Trouble
from netpold.host.run import run
from netpold.policy.model import Family
from netpold.rules.plan import (
    ChangeSet,
    CreateSet,
    DestroySets,
    Installed,
    Plan,
    RemoveChains,
    ReplaceChains,
    leftovers,
)
from netpold.rules.render import options
from netpold.rules.ruleset import FAMILIES


def apply(plan: Plan, backend: Backend) -> Installed:
    """Carry out all steps; returns what the kernel then holds.

    Raises KernelError at the first step that fails: up to then every packet met the old ruleset or, family by family,
    the new one; the caller starts over from what `installed` reads.
    """
    try:
        busy = _carry_out(plan, backend)
    except KernelError:
        # else every attempt would leave another copy; those that rules use already, the kernel keeps
        with suppress(KernelError):
            ipset.destroy(step.name for step in plan.steps if isinstance(step, CreateSet))
        raise
    return replace(plan.result, stray_sets=plan.result.stray_sets | busy)


def _carry_out(plan: Plan, backend: Backend) -> frozenset[str]:
    """All steps; returns the sets that were to go and are still in use.  Where the rules of one family are refused,
    those of the other one still come."""
    busy: frozenset[str] = frozenset()
    refused: KernelError | None = None
    for _, group in groupby(plan.steps, key=type):
        steps = list(group)
        match steps[0]:
            case CreateSet():
                ipset.create(step for step in steps if isinstance(step, CreateSet))
            case ChangeSet():
                ipset.change(step for step in steps if isinstance(step, ChangeSet))
        for step in steps:
            match step:
                case ReplaceChains():
                    try:
                        backend.commit(_commit(step, plan))
                    except Trouble:
                        raise
                    except KernelError as error:
                        refused = refused or error
                case RemoveChains(family, chains):
                    backend.commit(Commit(family, remove=chains))
                case DestroySets(names):
                    busy |= ipset.destroy(names)
        if refused:
            raise refused
    return busy


def clean_up(installed: Installed, backend: Backend) -> Installed:
    """Remove the stray chains and sets, as far as nothing refers to them any more; returns what is then left.

    Not for what `installed` read: there the chains that are in force are strays, too.  Raises KernelError; where a rule
    refers to a chain, the chains of that family are all still there, and the sets.
    """
    return apply(leftovers(installed), backend)


def _commit(step: ReplaceChains, plan: Plan) -> Commit:
    replace = {
        chain: tuple(options(rule, step.family, plan.names.__getitem__) for rule in rules)
        for chain, rules in step.chains.items()
    }
    return Commit(step.family, replace=replace, hook=step.hooks, unhook=step.unhook)


def installed(backend: Backend) -> Installed:
    """What the kernel holds of netpold's, as far as its names say: content is unknown.  Raises KernelError."""
    chains: dict[Family, frozenset[str]] = {family: backend.chains(family) for family in FAMILIES}
    return Installed(stray_chains=chains, stray_sets=ipset.names())


def choose(wanted: str) -> str:
    """The backend for a setting: `auto` is what `iptables -V` names.  Raises KernelError."""
    if wanted != "auto":
        return wanted
    version = run(["iptables", "-V"])
    if "nf_tables" in version:
        return "nft"
    if "legacy" in version:
        return "legacy"
    raise KernelError(f"iptables -V says {version.strip()!r}; choose with --backend nft or --backend legacy")
