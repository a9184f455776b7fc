"""Everything about one pod, or one policy: against the manifests, and against the packets that were sent."""

from __future__ import annotations

import json
import re
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlencode

import pytest

from netpold.ctl.client import ask
from netpold.policy.model import (
    EVERYTHING,
    Direction,
    IPBlock,
    Operator,
    PodPeer,
    PolicyPort,
    PolicyRule,
    Requirement,
    Selector,
)
from netpold.policy.words import rule_text
from netpold.rules.count import Count
from netpold.rules.counted import by_pod, by_rule
from netpold.rules.ruleset import Goto, Jump, Origin, Rule, Ruleset
from tests.lab import Backend, Lab
from tests.test_daemon import A_OUT, A_TO_B, DENY_ALL, Scene, policy

WEB = Selector((Requirement("app", Operator.IN, ("web",)),))
IN, OUT = Direction.INGRESS, Direction.EGRESS


@pytest.mark.parametrize(
    ("rule", "direction", "text"),
    [
        (PolicyRule(None, None), IN, "from anybody, on every port and protocol"),
        (
            PolicyRule((PodPeer(WEB),), (PolicyPort("TCP", 80), PolicyPort("UDP", 10, 20))),
            IN,
            "from pods app=web of shop, on 80/TCP, 10-20/UDP",
        ),
        (
            PolicyRule((PodPeer(EVERYTHING, EVERYTHING), IPBlock(ip_network("10.0.0.0/8"))), (PolicyPort("TCP"),)),
            OUT,
            "to all pods of all namespaces or 10.0.0.0/8, on every TCP port",
        ),
        (
            PolicyRule(
                (PodPeer(EVERYTHING, WEB), IPBlock(ip_network("fd00::/8"), (ip_network("fd00:1::/32"),))),
                (PolicyPort("TCP", "http"),),
            ),
            OUT,
            "to all pods of namespaces app=web or fd00::/8 but for fd00:1::/32, on http/TCP",
        ),
    ],
)
def test_rules_in_words(rule: PolicyRule, direction: Direction, text: str) -> None:
    assert rule_text(rule, direction, "shop") == text


def test_what_is_counted_in_several_chains_is_added_up() -> None:
    allow = Rule((), "RETURN", "", Origin("x/p", IN, 0))
    chains = {
        "NP-RULES-one": (allow, Rule((), "DROP")),
        "NP-RULES-two": (allow,),
        "NP-IN-veth1": (Rule((), "RETURN"), Rule((), Goto("NP-RULES-one"))),
        "NP-IN-@shared": (Rule((), Jump("NP-RULES-one")), Rule((), Goto("NP-RULES-two"))),
    }
    ruleset = Ruleset({4: chains, 6: {}}, {}, {})
    counts = {
        "NP-RULES-one": [Count(5, 500), Count(1, 60)],
        "NP-RULES-two": [Count(2, 200)],
        "NP-IN-veth1": [Count(9, 900), Count(4, 400)],
        "NP-IN-@shared": [Count(3, 300), Count(2, 200)],
    }
    assert by_rule(ruleset, {4: counts}) == {Origin("x/p", IN, 0): Count(7, 700)}
    pods = {("x/a", IN): ("NP-IN-veth1", "NP-IN-@shared")}
    assert by_pod(ruleset, {4: counts}, pods) == {("x/a", IN): Count(7, 700)}
    changed = {**counts, "NP-RULES-two": [Count(1, 1), Count(2, 2)]}
    assert by_rule(ruleset, {4: changed})[Origin("x/p", IN, 0)] == Count(5, 500), "another program changed that one"


def asked(scene: Scene, what: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(scene.daemon.socket, "GET", f"/v1/{what}?{urlencode({'name': name})}")
    return found


@pytest.mark.kernel
def test_pods_and_policies_say_what_packets_met(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        assert scene.passes(scene.a, scene.b) and not scene.passes(scene.c, scene.b)
        assert scene.passes(scene.a, scene.b, family=6)
        a, b, c = (asked(scene, "pod", f"x/{name}") for name in "abc")
        (out,), (into,) = a["egress"]["rules"], b["ingress"]["rules"]
        assert (out["policy"], into["policy"]) == ("x/a-out", "x/a-to-b")
        assert into["peer_pods"] == {"count": 1, "names": ["x/a"]}
        assert out["passed"] == into["passed"] and into["passed"]["packets"] > 1
        assert b["ingress"]["judged"] == into["passed"] and b["ingress"]["dropped"]["packets"] == 0
        assert 0 < c["egress"]["dropped"]["packets"] <= asked(scene, "pod", "x/c")["egress"]["judged"]["packets"]
        assert not c["egress"]["rules"] and c["egress"]["isolated"] and not c["egress"]["audited"]
        (interface,) = (each["name"] for each in b["interfaces"])
        assert f"NP-IN-{interface}" in b["ingress"]["chains"]["IPv4"]
        saved = scene.node.iptables_save(backend, 4)
        for chain in (
            *b["ingress"]["chains"]["IPv4"],
            *asked(scene, "policy", "x/a-to-b")["ingress"]["chains"]["IPv4"],
        ):
            assert f":{chain} " in saved
        told = scene.daemon.ctl("pod", "x/b").stdout
        assert "; passed of all pods here: " in told and ", since netpold started" in told
        assert "of these pods, by whichever policy" in scene.daemon.ctl("policy", "x/deny-all").stdout
        deny = asked(scene, "policy", "x/deny-all")
        assert deny["selects"]["count"] == deny["here"] == 3
        assert (
            deny["egress"]["dropped"]["packets"] >= c["egress"]["dropped"]["packets"] and deny["egress"]["rules"] == []
        )
        allow = asked(scene, "policy", "x/a-to-b")
        assert allow["egress"] is None and allow["ingress"]["pods_here"]["names"] == ["x/b"]
        assert {each["members"] for each in allow["sets"]} == {1}
        kernel = scene.node.ipset_save()
        assert all(f"create {each['name']} " in kernel for each in allow["sets"])


@pytest.mark.kernel
def test_pods_that_claim_one_address_name_each_other(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    twin = json.loads(json.dumps(scene.a.manifest()))
    twin["metadata"] = {"namespace": "x", "name": "twin", "labels": {"app": "other"}}
    twin["spec"]["nodeName"] = "elsewhere"
    with scene.daemon:
        scene.daemon.write("twin.json", twin)
        scene.enforce(deny=A_TO_B)
        assert not scene.passes(scene.a, scene.b)
        said = scene.daemon.ctl("explain", "x/a", "x/b", "80/TCP").stdout
        address = scene.a.addresses[0]
        assert f"but for the address: several pods claim {address}, and not all of them are peers" in said
        for pod, other in (("x/a", "x/twin"), ("x/twin", "x/a")):
            found = asked(scene, "pod", pod)
            assert found["also_claimed_by"] == {each: [other] for each in found["addresses"]}
            assert f"{address} is claimed by {other}, too: rules that mean" in scene.daemon.ctl("pod", pod).stdout
        assert asked(scene, "pod", "x/b")["also_claimed_by"] == {}


@pytest.mark.kernel
def test_what_is_not_in_force_as_it_is_written_says_so(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B)
        (scene.daemon.manifests / "allow.yaml").write_text(A_TO_B.replace("app: a", "app: [a]"))
        (scene.daemon.manifests / "new.yaml").write_text(policy("new", "  podSelector: {}\n  ingres: []\n"))
        scene.daemon.wait(20)
        allow, new = asked(scene, "policy", "x/a-to-b"), asked(scene, "policy", "x/new")
        assert (allow["in_force_as"], new["in_force_as"]) == ("last-good", "closed")
        assert [each["severity"] for each in (*allow["findings"], *new["findings"])] == ["error", "error"]
        text = scene.daemon.ctl("policy", "x/a-to-b").stdout
        assert "in its last good version" in text and "allow.yaml" in text
        shown = scene.daemon.ctl("pod", "x/b").stdout
        assert re.search(r"x/new \(\S*new.yaml:\d+\) \(closed: the manifest failed the checks", shown)
        assert re.search(r"x/a-to-b \(\S*allow.yaml:\d+\) \(in its last good version", shown)
        said = scene.daemon.ctl("status").stdout
        assert "quarantined  1 policy of which no good version is known: all that it may select is closed\n" in said
        done = scene.daemon.ctl("pod", "x/bb")
        assert done.returncode == 2 and "did you mean x/b?" in done.stderr
        printed = json.loads(scene.daemon.ctl("pod", "x/b", "-o", "json").stdout)
        assert printed["version"] == 1 and printed["pod"] == "x/b"
