"""Sets in the kernel, by the ipset program: one process a batch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from netpold.host.kernel.backend import KernelError
from netpold.host.run import run
from netpold.rules.plan import ChangeSet, CreateSet
from netpold.rules.render import set_header
from netpold.rules.ruleset import SET_PREFIXES

MOST_BUSY = 5  # a batch ends at a set that is in use; after so many, the rest waits for the next time
_FAILED_LINE = re.compile(r"Error in line (\d+)")


def names() -> frozenset[str]:
    """The names of netpold's own sets in the current network namespace.  Raises KernelError."""
    return frozenset(name for name in run(["ipset", "list", "-name"]).split() if name.startswith(SET_PREFIXES))


def create(steps: Iterable[CreateSet]) -> None:
    """Make sets with their members.  Raises KernelError; some of them may then be there."""
    run(["ipset", "restore"], "".join(_create(steps)))


def change(steps: Iterable[ChangeSet]) -> None:
    """Add and delete members.  Raises KernelError; some of the changes may then be done."""
    # `-exist` before the command: within the input it is ignored
    run(["ipset", "-exist", "restore"], "".join(_change(steps)))


def destroy(sets: Iterable[str]) -> frozenset[str]:
    """Remove sets that no rule refers to; those that are still in use are left and returned.

    nf_tables gives a rule's sets free some time after the commit that removed it, so "in use" may pass by itself.
    Raises KernelError.
    """
    left = sorted(sets)
    busy: list[str] = []
    while left and len(busy) < MOST_BUSY:
        try:
            run(["ipset", "restore"], "".join(f"destroy {name}\n" for name in left))
            left = []
        except KernelError as error:
            line = _FAILED_LINE.search(str(error))
            if line is None:
                raise
            number = int(line[1])  # those before are destroyed, this one is in use, go on behind it
            busy.append(left[number - 1])
            left = left[number:]
    return frozenset((*busy, *left))


def _create(steps: Iterable[CreateSet]) -> Iterator[str]:
    for step in steps:
        yield f"create {step.name} {set_header(step.ipset)}\n"
        yield from (f"add {step.name} {member}\n" for member in step.ipset.members)


def _change(steps: Iterable[ChangeSet]) -> Iterator[str]:
    for step in steps:
        yield from (f"add {step.name} {member}\n" for member in step.add)
        yield from (f"del {step.name} {member}\n" for member in step.remove)
