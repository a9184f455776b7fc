"""`diff`, `plan` and `test` against a node: what they say of changes and of what is in force, held against packets."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Backend, Lab
from tests.lab.probe import Outcome, Probe
from tests.test_daemon import A_OUT, A_TO_B, DENY_ALL, Scene
from tests.test_unit_test import no_way_to

pytestmark = pytest.mark.kernel

TESTS = """\
tests:
- name: a reaches b
  allow: {from: x/a, to: x/b, ports: [80/TCP, 80/UDP]}
- name: nobody else reaches anybody
  deny: {from: {any: anywhere, except: x/a}, to: every pod}
- name: a reaches nobody else
  deny: {from: x/a, to: {any: anywhere, except: x/b}}
"""


def verdicts(scene: Scene) -> dict[tuple[str, str], bool]:
    """Who reaches whom on 80/TCP, by packets in both families."""
    pods = {"x/a": scene.a, "x/b": scene.b, "x/c": scene.c}
    probes = {
        (one, other): [Probe(pods[one], pods[other], "TCP", 80, family) for family in (4, 6)]
        for one, other in permutations(pods, 2)
    }
    found = scene.lab.probe([each for several in probes.values() for each in several], attempts=2)
    by_pair = {pair: {found[each] is Outcome.OK for each in several} for pair, several in probes.items()}
    assert all(len(each) == 1 for each in by_pair.values()), by_pair
    return {pair: True in each for pair, each in by_pair.items()}


def on_80(change: dict[str, Any], kind: str) -> set[tuple[str, str]]:
    """The pairs that a change opens (or closes) 80/TCP for."""
    spans = [each for each in change[kind] if each["protocol"] == "TCP" and each["port"] <= 80 <= each["end_port"]]
    pods = [change[side]["pods"] for side in ("source", "destination")] if spans else [[], []]
    return {(one, other) for one in pods[0] for other in pods[1] if one != other}


def test_what_is_told_of_a_change_is_what_becomes_of_packets(lab: Lab, backend: Backend, tmp_path: Path) -> None:
    scene = Scene(lab, backend)
    (tmp_path / "t.yaml").write_text(TESTS)
    new = tmp_path / "new"
    new.mkdir()
    allow_c = A_OUT.replace("a-out", "c-out").replace("app: a", "app: c").replace("app: b", "app: a")
    from_c = A_TO_B.replace("a-to-b", "c-to-a").replace("app: a", "app: c").replace("app: b", "app: a")
    texts = {"deny": DENY_ALL, "to_b": A_TO_B, "c_out": allow_c, "to_a": from_c}
    for name, text in texts.items():
        (new / f"{name}.yaml").write_text(text)  # without pods: those of the node are taken
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, to_b=A_TO_B, out=A_OUT)
        live = scene.daemon.ctl("test", "--live", str(tmp_path / "t.yaml"))
        assert (live.returncode, live.stderr) == (0, ""), live.stdout
        before = verdicts(scene)
        assert before == {pair: pair == ("x/a", "x/b") for pair in before}

        told = scene.daemon.ctl("diff", "node", str(new), "-o", "json", "--fail-on", "open")
        assert told.returncode == 1, told.stderr
        changes = json.loads(told.stdout)["changes"]
        steps = json.loads(scene.daemon.ctl("plan", str(new), "-o", "json").stdout)
        assert steps["node"] == "n1" and "commit" in [each["step"] for each in steps["steps"]]

        (scene.daemon.manifests / "out.yaml").unlink()
        scene.enforce(**texts)
        after = verdicts(scene)
        opened = {pair for pair, passes in after.items() if passes and not before[pair]}
        closed = {pair for pair, passes in before.items() if passes and not after[pair]}
        assert opened and closed
        assert opened == set().union(*(on_80(each, "opens") for each in changes))
        assert closed == set().union(*(on_80(each, "closes") for each in changes))

        same = scene.daemon.ctl("diff", "node", str(new))
        assert "nothing opens and nothing closes between 3 pods" in same.stdout, same.stdout + same.stderr
        live = scene.daemon.ctl("test", "--live", str(tmp_path / "t.yaml"))
        assert live.returncode == 1
        assert "x/a -> x/b: should pass, and does not: 80/TCP, 80/UDP" in live.stdout
        assert "egress: x/a is isolated for egress" in live.stdout
        assert "3 tests: 1 passed, 2 failed" in live.stdout


@pytest.mark.parametrize("wiring", ["routed", "bridged"])
def test_a_nodes_own_addresses_are_judged_as_packets_are(
    lab: Lab, backend: Backend, wiring: str, tmp_path: Path
) -> None:
    """Also those of its bridge, and for pods whose manifests name no node: no manifest says whose they are."""
    scene = Scene(lab, backend, wiring)
    gateways = ["10.99.0.1", "fd99::1", *(["10.72.8.1", "fd72:0:0:8::1"] if wiring == "bridged" else [])]
    outside = ["10.99.0.2", "fd99::2"]
    not_the_node = no_way_to("0.0.0.0/0", "::/0", subject="pods: {podSelector: {matchLabels: {app: b}}}")

    def verdicts() -> dict[tuple[str, str], bool]:
        """By end and end, whether a test that denies 80/TCP between the two passes."""
        both = [(key, address) for key in ("x/a", "x/b") for address in (*gateways, *outside)]
        both += [(address, key) for key, address in both]
        each = [f'- deny: {{from: "{one}", to: "{other}", ports: [80/TCP]}}\n' for one, other in both]
        (tmp_path / "t.yaml").write_text(f"tests:\n{''.join(each)}- deny: {{from: anywhere, to: every pod}}\n")
        done = scene.daemon.ctl("test", "--live", str(tmp_path / "t.yaml"), "-o", "json")
        *told, anywhere = json.loads(done.stdout)["tests"]
        assert anywhere["passed"], anywhere
        for test in told:
            assert test["passed"] or test["wrong"], test["reasons"]  # else the daemon contradicts
        return {pair: test["passed"] for pair, test in zip(both, told, strict=True)}

    with scene.daemon:
        for policies in ({"deny": DENY_ALL}, {"deny": DENY_ALL, "tier": not_the_node}):
            scene.enforce(**policies)
            told = verdicts()
            assert {told[pair] for pair in told if not {*pair}.isdisjoint(outside)} == {True}
            expected = {
                Probe(pod, address, "TCP", 80, 6 if ":" in address else 4, arrives_at=scene.node): not told[
                    key, address
                ]
                for key, pod in (("x/a", scene.a), ("x/b", scene.b))
                for address in gateways
            }
            assert not lab.differences(expected)
            assert {told[address, key] for address in gateways for key in ("x/a", "x/b")} == {False}
            assert not lab.differences(
                {Probe(scene.node, pod, "TCP", 80, family): True for pod in (scene.a, scene.b) for family in (4, 6)}
            )
            assert [told["x/a", gateways[0]], told["x/b", gateways[0]]] == [False, "tier" in policies]
