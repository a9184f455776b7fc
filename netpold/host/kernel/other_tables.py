"""Filter tables of the backend that is not in use: what is in force there, another program's, is in force as well.

To look must change nothing.  Who looks into a legacy table makes it, so only the list of those that are there is read.
Who asks nf_tables has its module loaded, so first it is found out whether nf_tables is there without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from netpold.host.kernel import nf_tables
from netpold.host.kernel.backend import KernelError
from netpold.policy.model import Family
from netpold.rules.ruleset import FAMILIES

OTHER = {"nft": "legacy", "legacy": "nft"}  # by the backend in use
_NAMES: dict[Family, str] = {4: "proc/net/ip_tables_names", 6: "proc/net/ip6_tables_names"}
# what the kernel itself consists of: the first is there for the service, too, but not in every kernel
_CONTENTS = ("sys/kernel/btf/vmlinux", "proc/kallsyms")
_FUNCTION = b"nft_register_expr"  # of nf_tables


def other_in_use(backend: str) -> Iterator[Family]:
    """The families in which the other backend than that one has something in force, too (of iptables-legacy, a
    table)."""
    if backend == "nft":
        yield from legacy_in_use()
    elif nf_tables_is_there():
        for family in FAMILIES:
            with suppress(KernelError):
                if nf_tables.others_in_force(family):
                    yield family


def legacy_in_use() -> Iterator[Family]:
    """The families that have a legacy filter table in the current network namespace."""
    for family, path in _NAMES.items():
        with suppress(OSError):
            if "filter" in Path("/", path).read_text().split():
                yield family


def nf_tables_is_there(root: Path = Path("/")) -> bool:
    """Whether nf_tables can be asked without loading a module: it is loaded, or built in, or no module can be.  False
    where that can't be found out.  `root`: where proc and sys are."""
    loaded, modules = root / "sys/module/nf_tables", root / "proc/modules"
    return loaded.exists() or not modules.exists() or _is_built_in(root)


@cache
def _is_built_in(root: Path) -> bool:
    for path in _CONTENTS:
        with suppress(OSError):
            return _FUNCTION in (root / path).read_bytes()
    return False
