"""The kernel against the model: what was put there is found to be the same, and what others changed to be different."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from netpold.daemon.verify import verify
from netpold.host.kernel.apply import apply
from netpold.host.kernel.backend import Backend
from netpold.host.kernel.legacy import Legacy
from netpold.host.kernel.nft import Nft
from netpold.host.run import run
from netpold.rules.compile import compile_ruleset
from netpold.rules.mend import Damage, Members, mend
from netpold.rules.plan import Installed, plan
from netpold.rules.ruleset import Ruleset
from netpold.rules.saved import Difference, canonical, chains, difference
from netpold.rules.settings import CompileSettings
from tests.lab import Backend as Which
from tests.lab import Lab
from tests.lab.namespace import inside
from tests.test_daemon import A_TO_B, DENY_ALL, Scene, eventually
from tests.test_golden import CASES, endpoints_of, index_of

SETTINGS = (
    CompileSettings(),
    CompileSettings(host_access="policy", host_to_pods="policy", accept=True, nflog_group=0),
)


@pytest.mark.parametrize(
    ("given", "saved"),
    [
        ("--source 10.0.0.1 -j RETURN", "-s 10.0.0.1/32 -j RETURN"),
        ("--source 10.0.0.1 -j RETURN", "-j RETURN -s 10.0.0.1/32"),
        ("! --destination fd00::1 -g NP-X", "! -d fd00:0::1/128 -g NP-X"),
        ("--protocol tcp -m tcp ! --syn -j DROP", "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP"),
        ("-m conntrack --ctstate INVALID,NEW -j DROP", "-m conntrack --ctstate NEW,INVALID -j DROP"),
        ('-m comment --comment "it\'s -j own ! way" -j DROP', '-m comment --comment "it\\\'s -j own ! way" -j DROP'),
        ("--protocol ipv6-icmp -j RETURN", "-p icmpv6 -j RETURN"),
        ('-m comment --comment "replies" -j RETURN', "-m comment --comment replies -j RETURN"),
    ],
)
def test_one_rule_in_two_spellings(given: str, saved: str) -> None:
    assert canonical(given) == canonical(saved)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-s 10.0.0.1/32 -j RETURN", "-s 10.0.0.2/32 -j RETURN"),
        ("-s 10.0.0.1/32 -j RETURN", "! -s 10.0.0.1/32 -j RETURN"),
        ("-s 10.0.0.1/32 -j RETURN", "-d 10.0.0.1/32 -j RETURN"),
        ("-s 10.0.0.1/32 -j NP-X", "-s 10.0.0.1/32 -g NP-X"),
        ("-j RETURN", "-p tcp -j RETURN"),
        ("-m set --match-set A src -j DROP", "-m set --match-set A dst -j DROP"),
        ("-p tcp -m tcp --dport 80 -j RETURN", "-p tcp -m tcp --dport 80:81 -j RETURN"),
        ("-i veth1 -j DROP", "-i veth1+ -j DROP"),
        ('-m comment --comment "a" -j DROP', '-m comment --comment "b" -j DROP'),
    ],
)
def test_rules_that_are_not_the_same(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


def test_what_differs_is_named() -> None:
    saved = (
        "*filter\n:INPUT ACCEPT [0:0]\n:NP-IN-x - [0:0]\n:OTHER - [0:0]\n-A INPUT -j OTHER\n-A NP-IN-x -j DROP\nCOMMIT"
    )
    assert chains(saved) == {"NP-IN-x": ["-j DROP"]}
    wanted = ["-j A", "-j B", "-j C"]
    assert difference(wanted, ["-j A", "-j B", "-j C"]) is None
    assert difference(wanted, ["-j A", "-j X", "-j C"]) == Difference(("-j B",), ("-j X",))
    assert difference(wanted, ["-j B", "-j A", "-j C"]) is not None, "order counts"


@pytest.fixture
def kernel(backend: Which, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> Iterator[Backend]:
    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/xtables.lock")
    with inside("verify"), closing(Nft() if backend == "nft" else Legacy()) as chosen:
        yield chosen


def rulesets() -> Iterator[Ruleset]:
    for case in CASES:
        index = index_of(case)
        for settings in SETTINGS:
            yield compile_ruleset(index, endpoints_of(index), settings)


@pytest.mark.kernel
def test_what_is_put_there_is_found_to_be_the_same(kernel: Backend) -> None:
    now = Installed()
    seen: set[str] = set()
    for ruleset in rulesets():
        now = apply(plan(now, ruleset), kernel)
        found = verify(now, kernel)
        assert found["same"], [
            each for kind in ("hooks", "chains", "sets") for each in found[kind] if each["state"] != "ok"
        ]
        assert {each["chain"] for each in found["chains"]} == {
            chain for family in ruleset.chains.values() for chain in family
        }
        seen |= {
            type(match).__name__
            for family in ruleset.chains.values()
            for rules in family.values()
            for rule in rules
            for match in rule.matches
        }
    assert len(seen) >= 14, "rules of almost every kind were there"


def differing(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = {"hooks": "builtin", "chains": "chain", "sets": "set"}
    return [
        (each[name], each["state"]) for kind, name in names.items() for each in found[kind] if each["state"] != "ok"
    ]


@pytest.mark.kernel
def test_what_others_change_is_found(kernel: Backend) -> None:
    ruleset = next(each for each in rulesets() if len(each.sets) > 8)
    now = apply(plan(Installed(), ruleset), kernel)
    tool = f"iptables-{kernel.name}"
    peers = next(
        name
        for name, each in now.ruleset.sets.items()
        if each.family == 4 and each.kind == "hash:ip" and each.larger == "allows" and each.members
    )
    name, member = now.names[peers], min(now.ruleset.sets[peers].members)
    chain = next(
        each for each in sorted(ruleset.chains[4]) if each.startswith("NP-RULES-") and len(ruleset.chains[4][each]) > 2
    )
    hurt = {name: Members(frozenset((member,)), frozenset(("192.0.2.77",)))}
    everything = Damage({4: frozenset((chain,))}, frozenset((4,)), True, hurt)
    for change, undo, expected in (
        ([tool, "-D", chain, "1"], None, (chain, "different")),
        ([tool, "-I", chain, "2", "-j", "RETURN"], [tool, "-D", chain, "2"], (chain, "different")),
        ([tool, "-F", chain], None, (chain, "different")),
        (
            [tool, "-A", "OUTPUT", "-p", "6", "-j", chain],
            [tool, "-D", "OUTPUT", "-p", "6", "-j", chain],
            ("OUTPUT", "extra"),
        ),
        ([tool, "-N", "NP-RULES-strange"], [tool, "-X", "NP-RULES-strange"], ("NP-RULES-strange", "extra")),
        ([tool, "-I", "FORWARD", "-j", "DROP"], [tool, "-D", "FORWARD", "1"], ("FORWARD", "not-first")),
        ([tool, "-D", "FORWARD", "-j", "NETPOLD-FORWARD"], None, ("FORWARD", "missing")),
        (["ipset", "add", name, "192.0.2.77"], None, (name, "different")),
        (["ipset", "del", name, member], None, (name, "different")),
        (["ipset", "create", "NP4-strange", "hash:ip"], ["ipset", "destroy", "NP4-strange"], ("NP4-strange", "extra")),
    ):
        run(change)
        found = verify(now, kernel)
        assert not found["same"] and expected in differing(found), change
        assert len(differing(found)) == 1, change
        json.dumps(found)
        if undo:
            run(undo)
        else:
            apply(mend(now, everything), kernel)
        assert verify(now, kernel)["same"], change


@pytest.mark.kernel
def test_an_old_chain_that_others_lead_to_is_told(kernel: Backend) -> None:
    now = apply(plan(Installed(), next(rulesets())), kernel)
    run([f"iptables-{kernel.name}", "-N", "NETPOLD-OLD"])
    now = replace(now, stray_chains={4: frozenset(("NETPOLD-OLD",))})
    assert verify(now, kernel)["same"], "it is about to go"
    run([f"iptables-{kernel.name}", "-I", "OUTPUT", "-j", "NETPOLD-OLD"])
    assert differing(verify(now, kernel)) == [("OUTPUT", "extra"), ("NETPOLD-OLD", "extra")]


@pytest.mark.kernel
def test_netpoldctl_verify(lab: Lab, backend: Which) -> None:
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B)
        done = scene.daemon.ctl("verify")
        assert done.returncode == 0 and "the same" in done.stdout
        found = json.loads(scene.daemon.ctl("verify", "-o", "json").stdout)
        assert found["same"] and found["version"] == 1 and {each["state"] for each in found["hooks"]} == {"ok"}


@pytest.mark.kernel
def test_what_others_have_jump_to_netpolds_chains_stays_and_is_warned_of(lab: Lab, backend: Which) -> None:
    scene = Scene(lab, backend, config="rescan_s = 1\n")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        jumps = ["OUTPUT -j NETPOLD-FORWARD", "OTHER -p udp -j NETPOLD-TO"]
        node = scene.node
        node.iptables(backend, 6, "-N", "OTHER")

        def warned() -> list[str]:
            return [each for each in scene.daemon.status()["warnings"] if "jump to netpold" in each]

        assert scene.daemon.ctl("verify").returncode == 0 and not warned()
        for family, words in zip((4, 6), jumps, strict=True):
            node.iptables(backend, family, "-A", *words.split())
        assert eventually(lambda: any("OUTPUT" in each and "OTHER" in each for each in warned()))
        (warning,) = warned()
        assert "IPv4 OUTPUT to NETPOLD-FORWARD, IPv6 OTHER to NETPOLD-TO" in warning
        done = scene.daemon.ctl("verify")
        assert done.returncode == 1 and done.stdout.count("should not be there") == 2
        assert warning in scene.daemon.log.read_text()
        scene.enforce(allow=A_TO_B)
        for family, words in zip((4, 6), jumps, strict=True):
            assert f"-A {words}" in node.iptables_save(backend, family)
            node.iptables(backend, family, "-D", *words.split())
        assert eventually(lambda: not warned()) and scene.daemon.ctl("verify").returncode == 0
