"""The explanations that travel with a matrix are those of `explain`, cell by cell."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.index import Index
from netpold.policy.model import Direction, World
from netpold.rules.answers import explain_json, matrix_json
from netpold.rules.matrix import matrix
from netpold.rules.offline import offline_ruleset
from netpold.rules.page import FAR, NEAR, explained, explained_in_steps
from netpold.rules.settings import CompileSettings
from tests.strategies import EVERYTHING_GOES, OUTSIDE, worlds

PORTS = [("TCP", 80), ("TCP", 8080), ("UDP", 80), ("ICMP", None)]
Json = Any


def page_of(world: World, mode: str = "enforce") -> tuple[Index, Any, Json]:
    index = Index(world)
    ruleset = offline_ruleset(index, settings=CompileSettings(mode=mode))  # type: ignore[arg-type]
    pods = sorted(key for key, pod in world.pods.items() if pod.takes_part and pod.addresses)
    found = matrix(index, ruleset, pods, [OUTSIDE[0], OUTSIDE[4]], PORTS)
    value = matrix_json(found) | {"explained": explained(index, ruleset, found)}
    return index, ruleset, json.loads(json.dumps(value))


def judge(page: Json, direction: str, near: int, far: int, family: str, port: int) -> Json:
    """What the page's script does (netpold/ctl/matrix.html), in Python."""
    table = page["explained"]
    n = table["near"][family][direction][near]
    answer: Json = {"verdict": "allow", "audit": False, "isolating": [], "allowed_by": None, "nearest_miss": None}
    if "free" in n:
        return answer | {"reason": n["free"]}
    answer["isolating"] = [table["policies"][each]["policy"] for each in n["isolating"]]
    if not n["judges"]:
        return answer | {"reason": n["elsewhere"]}
    if page["ends"][far]["addresses"][family] in n["self"]:
        return answer | {"reason": "the pod itself"}
    first = held = None
    for number, reason in n["judges"]:
        who = table["judges"][number]
        rule, misses = who["everything"], []
        for clause in () if rule is not None else (table["clauses"][each] for each in who["clauses"]):
            owner = who["owner"] if direction == "ingress" else table["far"][family][far]["owner"]
            ports = clause["ports"].get("", clause["ports"].get(str(owner)))[port]
            peers = peer_status(table, clause, family, far)
            if peers == 0 and ports == 0:
                rule = clause["rule"]
                break
            if peers is not None and (peers == 0 or ports == 0):
                lack = table["lacks"][(peers or ports) - 1]
                misses.append((lack["rank"], len(misses), clause["rule"], lack))
        if rule is not None:
            first = first if first is not None else rule
            continue
        answer |= {"reason": reason, "audit": who["audit"], "verdict": "allow" if who["audit"] else "deny"}
        if n["miss"] and misses:
            _, _, missed, lack = min(misses, key=lambda each: each[:2])
            where = table["rules"][missed]
            lacking = (
                lack["text"].replace(FAR, table["far"][family][far]["pod"]).replace(NEAR, page["ends"][near]["pod"])
            )
            text = f"{where['policy']} {direction}[{where['rule']}] would allow it but for {lacking}"
            answer["nearest_miss"] = where | {"but_for": lack["but_for"], "text": text}
        if not who["audit"]:
            return answer
        held = held or dict(answer)
    if held:
        return held
    where = table["rules"][first]
    return answer | {"allowed_by": where, "reason": f"{where['policy']} {direction}[{where['rule']}] allows it"}


def peer_status(table: Json, clause: Json, family: str, far: int) -> int | None:
    if clause["peers"] is None:
        return 0
    masks = ((status, int(table["masks"][mask], 16)) for status, mask in clause["peers"][family])
    return next((status for status, mask in masks if mask >> far & 1), None)


@settings(max_examples=40, deadline=None)
@given(world=worlds(EVERYTHING_GOES), mode=st.sampled_from(("enforce", "enforce", "audit")))
def test_each_cell_is_what_explain_says(world: World, mode: str) -> None:
    index, ruleset, page = page_of(world, mode)
    ends = page["ends"]
    for source, here in enumerate(ends):
        for destination, there in enumerate(ends):
            families = [each for each in here["addresses"] if each in there["addresses"]]
            if not families or not (here["pod"] or there["pod"]):
                continue
            for port, words in enumerate(PORTS):
                expected = explain_json(index, ruleset, here["name"], there["name"], *words)
                got = {
                    "egress": judge(page, "egress", source, destination, families[0], port),
                    "ingress": judge(page, "ingress", destination, source, families[0], port),
                }
                for direction in map(str, Direction):
                    assert got[direction] == {key: expected[direction][key] for key in got[direction]}, expected
                row = int(page["rows"][page["reach"][families[0]][port][source]], 16)
                assert ("deny", "allow")[row >> destination & 1] == expected["verdict"]


@settings(max_examples=5, deadline=None)
@given(worlds())
def test_a_step_is_about_one_end_or_one_clause(world: World) -> None:
    """The loop that answers can see after what changed between any two of them."""
    index, ruleset = Index(world), offline_ruleset(Index(world))
    pods = sorted(key for key, pod in world.pods.items() if pod.takes_part and pod.addresses)
    found = matrix(index, ruleset, pods, [OUTSIDE[0]], PORTS)
    clauses = explained(index, ruleset, found)["clauses"]
    assert len(list(explained_in_steps(index, ruleset, found))) == 4 * len(found.ends) + len(clauses)
