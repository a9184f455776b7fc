"""What a plan leaves for later goes, on both backends, and what is still in use stays."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from netpold.host.kernel import ipset
from netpold.host.kernel.apply import apply, clean_up, installed
from netpold.host.kernel.backend import Backend, Commit, KernelError
from netpold.host.kernel.legacy import Legacy
from netpold.host.kernel.nft import Nft
from netpold.rules.plan import CreateSet, Installed, Plan, ReplaceChains
from netpold.rules.render import options
from netpold.rules.ruleset import FAMILIES, InSet, IPSet, Jump, Rule
from tests.lab import Backend as Which
from tests.lab.namespace import inside

pytestmark = pytest.mark.kernel


@pytest.fixture
def kernel(backend: Which, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> Iterator[Backend]:
    """A backend inside a network namespace of its own, with a set that a rule of chain NP-RULES-used looks up in."""
    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/xtables.lock")
    with inside("clean-up"), closing(Nft() if backend == "nft" else Legacy()) as chosen:
        for name in ("NP4-used", "NP4-free"):
            ipset.create([CreateSet(name, IPSet(name, 4, "hash:ip", "", frozenset({"10.0.0.1"})), "")])
        used = options(Rule((InSet("NP4-used", "src"),), "RETURN"), 4, str)
        jump = options(Rule((), Jump("NP-RULES-used")), 4, str)
        chosen.commit(Commit(4, {"NETPOLD-FORWARD": (jump,), "NP-RULES-used": (used,), "NP-RULES-old": (jump,)}))
        chosen.commit(Commit(6, {"NP-RULES-old": ()}))
        yield chosen


def test_what_one_family_refuses_keeps_nothing_from_the_other(kernel: Backend) -> None:
    for bad, good in ((4, 6), (6, 4)):
        rule = Rule((InSet("NP4-used", "src"),), "RETURN")
        steps = tuple(
            ReplaceChains(family, {"NETPOLD-FORWARD": (rule,) * (family == bad), f"NP-RULES-{bad}": ()}, {}, (), "")
            for family in FAMILIES
        )
        with pytest.raises(KernelError):
            apply(Plan(steps, Installed(names={"NP4-used": "NP4-not-there"})), kernel)
        assert f"NP-RULES-{bad}" in kernel.chains(good)
        assert f"NP-RULES-{bad}" not in kernel.chains(bad)


def test_stray_chains_and_sets_go_and_what_is_in_use_is_left(kernel: Backend) -> None:
    strays = {family: frozenset({"NP-RULES-old"}) for family in FAMILIES}
    found = clean_up(Installed(stray_chains=strays, stray_sets=frozenset({"NP4-used", "NP4-free"})), kernel)
    assert found == Installed(stray_sets=frozenset({"NP4-used"}))
    now = installed(kernel)
    assert now.stray_chains == {4: {"NETPOLD-FORWARD", "NP-RULES-used"}, 6: frozenset()}
    assert now.stray_sets == {"NP4-used"}


def test_nothing_to_clean_up_starts_nothing(kernel: Backend) -> None:
    before = Installed(stray_chains={4: frozenset(), 6: frozenset()})
    assert clean_up(before, kernel) == Installed()


def test_a_chain_that_is_referred_to_stays_as_it_is(kernel: Backend) -> None:
    strays = {4: frozenset({"NP-RULES-used", "NP-RULES-old"})}
    with pytest.raises(KernelError):
        clean_up(Installed(stray_chains=strays), kernel)
    assert kernel.chains(4) == {"NETPOLD-FORWARD", "NP-RULES-used", "NP-RULES-old"}
    tool = f"iptables-{kernel.name}-save"
    assert (
        "-A NP-RULES-used -m set --match-set NP4-used src -j RETURN"
        in subprocess.run([tool], capture_output=True, text=True, check=True, timeout=60).stdout
    )
