"""Everything of netpold's out of the kernel: both backends, both families, all sets.  Opens what it closed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from shutil import which

from netpold.host.kernel import bridge_frames, ipset
from netpold.host.kernel.backend import Backend, Commit, KernelError
from netpold.host.kernel.legacy import Legacy
from netpold.host.kernel.nft import TOOL, Nft
from netpold.host.kernel.other_tables import legacy_in_use
from netpold.policy.model import Family
from netpold.rules.ruleset import FAMILIES

TRIES = 20  # tenths of a second for nf_tables to give sets free


def flush() -> None:
    """Remove all own jumps, chains and sets of the current network namespace.  Raises KernelError."""
    for backend, family in _in_use():
        _remove_chains(backend, family)
    bridge_frames.remove()
    busy = ipset.names()
    for _ in range(TRIES):
        busy = ipset.destroy(busy) if busy else busy
        if not busy:
            return
        time.sleep(0.1)
    raise KernelError(f"the sets {' '.join(sorted(busy))} are still in use: by rules that another program made?")


def retire_other(current: Backend) -> None:
    """Remove the own chains of the backend that is not in use any more.  Raises KernelError."""
    for backend, family in _in_use():
        if backend.name != current.name:
            _remove_chains(backend, family)


def _remove_chains(backend: Backend, family: Family) -> None:
    chains = backend.chains(family)
    if chains:
        heads = tuple(sorted(chain for chain in chains if chain.startswith("NETPOLD-")))
        backend.commit(Commit(family, replace=dict.fromkeys(chains, ()), unhook=heads))
        backend.commit(Commit(family, remove=tuple(sorted(chains))))


def _in_use() -> Iterator[tuple[Backend, Family]]:
    """Which tables there are; looking into one that is not there would make it."""
    if which(f"{TOOL[4]}-save"):
        with closing(Nft()) as nft:
            yield from ((nft, family) for family in FAMILIES)
    yield from ((Legacy(), family) for family in legacy_in_use())
