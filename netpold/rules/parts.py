"""Parts of a ruleset that are made again only when what they are made from has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar, cast

from netpold.rules.ruleset import Rule, sets_used

_T = TypeVar("_T")


class _Made(NamedTuple):
    """A part: what it was made from, and its outcome with the chains that belong to it."""

    inputs: object
    outcome: object
    chains: dict[str, tuple[Rule, ...]]


class Parts:
    """Chains in the making, from `begin` on; what `make` functions add to `chains` belongs to their part."""

    def __init__(self) -> None:
        self.chains: dict[str, tuple[Rule, ...]] = {}
        self._common: object = None
        self._made: dict[object, _Made] = {}
        self._before: dict[object, _Made] = {}  # as of the last time
        self._uses: dict[str, frozenset[str]] = {}
        self._chains_before: Mapping[str, tuple[Rule, ...]] = {}

    def begin(self, common: object) -> None:
        """Begin anew.  `common` is what all parts are made from, besides their own inputs."""
        self._before, self._made = (self._made, {}) if common == self._common else ({}, {})
        self._common = common
        self._chains_before, self.chains = self.chains, {}

    def once(self, part: object, inputs: object, make: Callable[[], _T]) -> _T:
        """What `make` returns, and the chains that it adds: those of the last time, where `inputs` are the same.

        `inputs` are all that `make` depends on; nobody may change them afterwards.
        """
        made = self._before.get(part)
        if made is None or made.inputs != inputs:
            around, self.chains = self.chains, {}
            made = _Made(inputs, make(), self.chains)
            self.chains = around
        self._made[part] = made
        self.chains.update(made.chains)
        return cast(_T, made.outcome)

    def uses(self) -> Mapping[str, frozenset[str]]:
        """By chain, the names of the sets that it refers to; without the chains that refer to none."""
        before, names = self._chains_before, self._uses
        self._uses = {}
        for chain, rules in self.chains.items():
            used = names.get(chain, frozenset()) if before.get(chain) is rules else sets_used((rules,))
            if used:
                self._uses[chain] = used
        return self._uses
