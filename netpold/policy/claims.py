"""Which pods claim which address: one, as a rule; several where manifests of pods that are gone were left behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from netpold.policy.model import Finding, Pod, Position

_NOWHERE = Position("", 0)
_MOST_NAMED = 3  # of the pods that claim one address


class Claims:
    """The keys of the pods by address.  Pods on the host's network and finished ones claim nothing."""

    def __init__(self) -> None:
        self._one: dict[str, str] = {}
        self.contested: dict[str, set[str]] = {}  # these addresses are not in _one

    def of(self, address: str) -> tuple[str, ...]:
        """The keys of the pods that claim an address, sorted."""
        only = self._one.get(address)
        return (only,) if only is not None else tuple(sorted(self.contested.get(address, ())))

    def add(self, key: str, addresses: Iterable[str]) -> None:
        for address in addresses:
            if address in self.contested:
                self.contested[address].add(key)
            elif self._one.get(address, key) == key:
                self._one[address] = key
            else:
                self.contested[address] = {self._one.pop(address), key}

    def remove(self, key: str, addresses: Iterable[str]) -> None:
        for address in addresses:
            if self._one.get(address) == key:
                del self._one[address]
            elif address in self.contested:
                keys = self.contested[address]
                keys.discard(key)
                if len(keys) == 1:
                    del self.contested[address]
                    self._one[address] = keys.pop()

    def findings(self, pods: Mapping[str, Pod]) -> list[Finding]:
        """One for each address that several pods claim."""
        return [claim_finding(address, [pods[key] for key in keys]) for address, keys in self.contested.items()]


def _place(pod: Pod) -> Position:
    return pod.position or _NOWHERE


def claim_finding(address: str, claimants: list[Pod]) -> Finding:
    """That these pods claim one address."""
    claimants.sort(key=lambda pod: (_place(pod), pod.key))
    last = claimants[-1]
    names = [f"{pod.key} ({_place(pod)})" for pod in claimants[:_MOST_NAMED]]
    if len(claimants) > _MOST_NAMED:
        names.append(f"{len(claimants) - _MOST_NAMED} more")
    fault = f"the address {address} is claimed by {', '.join(names[:-1])} and {names[-1]}"
    cure = "give each live pod its own address, or take out the manifest of the one that is gone"
    return Finding(_place(last), "address-claimed-twice", "status.podIPs", fault, cure, f"Pod {last.key}")
