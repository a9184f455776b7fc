"""Counters that another program sets to zero, as `iptables -Z` does, are no change of rules; in nf_tables it looks like
one, since rules are replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from netpold.host.kernel.backend import Commit
from netpold.host.kernel.nft import Nft
from netpold.host.kernel.watch_nft import NftWatcher
from tests.lab import Backend, Lab, Node
from tests.test_daemon import A_OUT, A_TO_B, DENY_ALL, Scene, eventually
from tests.test_drift import Rules

pytestmark = pytest.mark.kernel


def test_they_are_not_put_back_but_a_rule_that_was_changed_with_them_is(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        rules = Rules(scene, backend)
        right, revision = rules.saved(), scene.daemon.status()["revision"]
        for _ in range(3):
            assert scene.passes(scene.a, scene.b) and scene.passes(scene.a, scene.b, family=6)
            for family in (4, 6):
                scene.node.iptables(backend, family, "-Z")
            scene.daemon.wait(20)
        status = scene.daemon.status()
        assert (status["drift"], status["revision"], status["warnings"]) == (None, revision, [])
        assert scene.passes(scene.a, scene.b)  # so that there is something to set to zero
        batch = "*filter\n-Z NETPOLD-FORWARD\n-R NETPOLD-TO 1 -j RETURN\n-Z NP-IN-a\nCOMMIT\n"
        batch = batch.replace("NP-IN-a", next(word for word in right.split() if word.startswith("NP-RULES-")))
        scene.node.run([f"iptables-{backend}-restore", "--noflush"], batch)
        assert eventually(lambda: scene.daemon.status()["drift"] is not None and rules.saved() == right)
        assert scene.daemon.status()["drift"]["repairs"] == 1


@pytest.fixture
def counted(lab: Lab) -> Iterator[tuple[Node, Nft, NftWatcher]]:
    """Two own chains, whose rules have counted packets."""
    node, backend = lab.node("n1"), Nft()
    with node.netns.entered(), contextlib.closing(backend):
        backend.commit(Commit(4, replace={"NETPOLD-TO": (), "NP-IN-a": ()}))
        for chain in ("NETPOLD-TO", "NP-IN-a"):
            for number in (1, 2):
                rule = f"-s 10.0.0.{number} -m comment --comment n{number} -c {number} 60 -j RETURN"
                node.iptables("nft", 4, "-A", chain, *rule.split())
        with contextlib.closing(NftWatcher(frozenset)) as watcher:
            yield node, backend, watcher


def handles(node: Node, chain: str) -> list[str]:
    lines = node.run(["nft", "-a", "list", "chain", "ip", "filter", chain]).splitlines()
    return [line.split("# handle ")[1] for line in lines if "10.0.0." in line]


@pytest.mark.parametrize("words", ["-Z", "-Z NP-IN-a", "-Z NP-IN-a 2"])
def test_nothing_is_told_and_nothing_reads_differently(counted: tuple[Node, Nft, NftWatcher], words: str) -> None:
    node, backend, watcher = counted
    before = backend.contents(4)
    node.iptables("nft", 4, *words.split())
    assert backend.counters(4)["NP-IN-a"][1].packets == 0
    assert not watcher.look() and backend.contents(4) == before


@pytest.mark.parametrize(
    "words",
    [
        "-R NP-IN-a 1 -s 10.0.0.1 -m comment --comment n1 -j ACCEPT",
        "-R NP-IN-a 1 -s 10.0.0.1 -m comment --comment n3 -j RETURN",
        "-R NP-IN-a 2 -s 10.0.0.1 -m comment --comment n2 -j RETURN",
        "-D NP-IN-a 1\n-A NP-IN-a -s 10.0.0.1 -m comment --comment n1 -j RETURN",
        "-D NP-IN-a 1\n-I NP-IN-a -s 10.0.0.1 -m comment --comment n1 -j RETURN",
        "-A NP-IN-a -s 10.0.0.2 -m comment --comment n2 -j RETURN",
        "-R NP-IN-a 1 -s 10.0.0.9 -j RETURN\n-D NP-IN-a 1",
        "-D NP-IN-a 2",
        "-F NP-IN-a",
        "-X NP-IN-a",
    ],
)
def test_of_a_transaction_that_does_more_the_rest_is_told(counted: tuple[Node, Nft, NftWatcher], words: str) -> None:
    node, _, watcher = counted
    flush = "-F NP-IN-a\n" if words.startswith("-X") else ""
    node.run(["iptables-nft-restore", "--noflush"], f"*filter\n-Z NETPOLD-TO\n{flush}{words}\nCOMMIT\n")
    assert watcher.look().chains == {4: {"NP-IN-a"}, 6: frozenset()}


def test_a_rule_in_the_place_of_another_with_its_handle_reads_differently(
    counted: tuple[Node, Nft, NftWatcher],
) -> None:
    node, backend, watcher = counted
    before, its = backend.contents(4), handles(node, "NP-IN-a")
    node.run(["nft", f"replace rule ip filter NP-IN-a handle {its[1]} ip saddr 10.0.0.2 counter drop"])
    assert handles(node, "NP-IN-a") == its
    now = backend.contents(4)
    assert [name for name in before if now[name] != before[name]] == ["NP-IN-a"]
    assert watcher.look().chains[4] == {"NP-IN-a"}
