"""The explanations that travel with a matrix are those of `explain`, cell by cell."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from netpold.policy.changes import Changes
from netpold.policy.index import Index
from netpold.policy.model import Direction, Operator, Pod, Policy, Requirement, Selector, World
from netpold.policy.steps import finished
from netpold.rules.answers import explain_json, matrix_json
from netpold.rules.compile import Compiler
from netpold.rules.endpoint import Endpoint
from netpold.rules.ends import NOWHERE, Home, Lingerer, end, judges
from netpold.rules.matrix import matrix, matrix_in_steps
from netpold.rules.offline import offline_ruleset
from netpold.rules.page import FAR, NEAR, explained, explained_in_steps
from netpold.rules.past import Gone, Past
from netpold.rules.reasons import REACHES_ITSELF
from netpold.rules.ruleset import Ruleset
from netpold.rules.settings import CompileSettings
from tests.strategies import EVERYTHING_GOES, NODES, OUTSIDE, worlds

PORTS = [("TCP", 80), ("TCP", 8080), ("UDP", 80), ("ICMP", None)]
Json = Any

SETTINGS = st.builds(
    CompileSettings,
    mode=st.sampled_from(("enforce", "enforce", "audit")),
    host_access=st.sampled_from(("allow", "allow", "policy")),
    host_to_pods=st.sampled_from(("allow", "allow", "policy")),
    nflog_group=st.sampled_from((92, 92, 0)),
)


@st.composite
def homes(draw: st.DrawFn, world: World) -> Home:
    """The node that is asked: it has an address that is outside else, and some of the pods."""
    pods = sorted(key for key, pod in world.pods.items() if pod.takes_part)
    here = draw(st.sets(st.sampled_from(pods))) if pods else set()
    return Home("here", frozenset((OUTSIDE[0], OUTSIDE[4])), here)


def page_of(world: World, compiled: CompileSettings, home: Home = NOWHERE) -> tuple[Index, Any, Json]:
    index = Index(world)
    return index, *told_by(index, offline_ruleset(index, settings=compiled), home)


def told_by(index: Index, ruleset: Ruleset, home: Home) -> tuple[Ruleset, Json]:
    pods = sorted(key for key, pod in index.world.pods.items() if not pod.finished and pod.addresses)
    others = (OUTSIDE[0], OUTSIDE[4], *NODES, *home.lingering)
    ends = [end(index, name, home) for name in (*pods, *others)]
    found = finished(matrix_in_steps(index, ruleset, ends, PORTS))
    value = matrix_json(found) | {"explained": explained(index, ruleset, found)}
    return ruleset, json.loads(json.dumps(value))


def judge(page: Json, direction: str, near: int, far: int, family: str, port: int) -> Json:
    """What the page's script does (netpold/ctl/matrix.html), in Python."""
    table = page["explained"]
    here = table["near"][family][direction][near]
    if "home" in here and has(table, here["home"]["ends"], far):
        here = here["home"]
    answer: Json = {
        "verdict": "allow",
        "audit": False,
        "isolating": [table["policies"][each]["policy"] for each in here.get("isolating", ())],
        "allowed_by": None,
        "denied_by": None,
        "tiers": [],
        "nearest_miss": None,
    }
    if "free" in here:
        return answer | {"reason": here["free"]}
    if page["ends"][far]["addresses"][family] in here["self"]:
        return answer | {"reason": REACHES_ITSELF}
    way, first = Way(table, far, port, answer["tiers"]), None
    for number, reason in here["judges"]:
        who = table["judges"][number]
        rule = way.through(who, reason)
        if rule == "none":
            miss = missed(page, who, direction, near, far, family, port) if here["miss"] else None
            return told(here, answer | {"verdict": "deny", "nearest_miss": miss}, reason)
        if rule and rule["action"] == "Deny":
            closed = "; the policy is closed: its manifest failed the checks" if rule["closed"] else ""
            return told(here, answer | {"verdict": "deny", "denied_by": rule}, f"{place(rule)} denies it{closed}")
        first = first or rule
    if way.reported and way.reported[0]:
        who, reason = way.reported
        miss = missed(page, who, direction, near, far, family, port) if here["miss"] else None
        return told(here, answer | {"audit": True, "nearest_miss": miss}, reason)
    answer |= {"allowed_by": first}
    reason = f"{place(first)} allows it" if first else here["unsaid"]
    if way.reported:
        _, rule = way.reported
        then = reason if first else "nothing that is enforced denies it"
        return told(here, answer | {"audit": True, "denied_by": rule}, f"audited: {place(rule)} would deny it; {then}")
    return told(here, answer, reason)


@dataclass
class Way:
    """A packet's through the steps of those who judge.  `reported`: who would deny it first, but only reports: the
    judge whose NetworkPolicies would, and why; or None and the rule of a tier."""

    table: Json
    far: int
    port: int
    tiers: list[Json]
    reported: tuple[Json, Json] | None = None

    def through(self, who: Json, reason: str) -> Json:
        """The rule that decides; "none": no NetworkPolicy allows it; None: nobody says anything."""
        found = self.first(who["admin"])
        if found and found["action"] != "Pass":
            return found
        found = self.first(who["policies"])
        if found or who["otherwise"] == "deny":
            return found or "none"
        if who["otherwise"] == "audit":
            self.reported = self.reported or (who, reason)
        found = self.first(who["baseline"])
        return found if found and found["action"] != "Pass" else None

    def first(self, steps: list[int]) -> Json:
        for step in (self.table["steps"][each] for each in steps):
            if not has(self.table, step["ends"], self.far) or not has(self.table, step["ports"], self.port):
                continue
            rule = self.table["rules"][step["rule"]]
            if rule["tier"] != "NetworkPolicy" and rule not in self.tiers:
                self.tiers.append(rule)
            if not step["audit"]:
                return rule
            self.reported = self.reported or (None, rule)
        return None


def has(table: Json, mask: int, number: int) -> bool:
    return bool(int(table["masks"][mask], 16) >> number & 1)


def place(rule: Json) -> str:
    where = f"{rule['policy']} {rule['direction']}[{rule['rule']}]"
    return where if rule["tier"] == "NetworkPolicy" else f"{rule['tier']} {where}"


def told(here: Json, answer: Json, reason: str) -> Json:
    passed = [f"{place(each)} passes it on" for each in answer["tiers"] if each["action"] == "Pass"]
    return answer | {"reason": here["before"] + "; ".join((*passed, reason))}


def missed(page: Json, who: Json, direction: str, near: int, far: int, family: str, port: int) -> Json:
    """The rule that lacks least."""
    table = page["explained"]
    misses: list[Json] = []
    for clause in (table["clauses"][each] for each in who["clauses"]):
        owner = who["owner"] if direction == "ingress" else table["far"][family][far]["owner"]
        ports = clause["ports"].get("", clause["ports"].get(str(owner)))[port]
        peers = peer_status(table, clause, family, far)
        if peers is not None and (peers == 0 or ports == 0):
            lack = table["lacks"][(peers or ports) - 1]
            misses.append((lack["rank"], len(misses), clause["rule"], lack))
    if not misses:
        return None
    _, _, rule, lack = min(misses, key=lambda each: each[:2])
    where = {key: value for key, value in table["rules"][rule].items() if key not in ("name", "closed")}
    own = table["near"][family][direction][near].get("pod") or page["ends"][near]["pod"]
    lacking = lack["text"].replace(FAR, table["far"][family][far]["pod"]).replace(NEAR, own)
    text = f"{where['policy']} {direction}[{where['rule']}] would allow it but for {lacking}"
    return where | {"but_for": lack["but_for"], "text": text}


def peer_status(table: Json, clause: Json, family: str, far: int) -> int | None:
    if clause["peers"] is None:
        return 0
    masks = ((status, int(table["masks"][mask], 16)) for status, mask in clause["peers"][family])
    return next((status for status, mask in masks if mask >> far & 1), None)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), world=worlds(EVERYTHING_GOES), compiled=SETTINGS)
def test_each_cell_is_what_explain_says(data: st.DataObject, world: World, compiled: CompileSettings) -> None:
    home = data.draw(st.one_of(st.just(NOWHERE), homes(world)))
    same_as_explain(*page_of(world, compiled, home), home)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), world=worlds(EVERYTHING_GOES), compiled=SETTINGS)
def test_so_is_what_is_said_of_pods_whose_manifests_are_gone(
    data: st.DataObject, world: World, compiled: CompileSettings
) -> None:
    """And of policies that are gone, too, and hold for them alone; and of addresses that pods have lost."""
    home = data.draw(homes(world))
    some = [key for key, pod in sorted(world.pods.items()) if pod.takes_part and pod.addresses]
    pods = data.draw(st.sets(st.sampled_from(some), min_size=1, max_size=2)) if some else set()
    policies = data.draw(st.sets(st.sampled_from(sorted(world.policies)))) if world.policies else set()
    losing = data.draw(st.sets(st.sampled_from(sorted(pods)))) if pods else set()
    left = {key: pod for key, pod in world.pods.items() if key not in pods}
    left |= {key: replace(world.pods[key], addresses=()) for key in losing}
    index = Index(replace(world, pods=left, policies={k: p for k, p in world.policies.items() if k not in policies}))
    free = {key: world.pods[key] for key in sorted(pods) if not any(map(index.claims.of, world.pods[key].addresses))}
    if len({address for each in free.values() for address in each.addresses}) < sum(
        len(each.addresses) for each in free.values()
    ):
        free = dict([next(iter(free.items()))])  # one address lingers once
    gone = {
        f"{key}@v": Gone(pod, Endpoint(f"{key}@v", pod.addresses, ()), world.namespace(pod.namespace))
        for key, pod in free.items()
        if key not in losing
    }
    lost = {key: pod.addresses for key, pod in free.items() if key in losing}
    here = {
        key: Endpoint(key, pod.addresses, (), lost=lost.get(key, ())) for key, pod in left.items() if pod.takes_part
    }
    at = {
        address: ((left[key], world.namespace(left[key].namespace)),)
        for key, addresses in lost.items()
        for address in addresses
    }
    compiler = Compiler(index, compiled)
    past = Past(gone, {key: world.policies[key] for key in policies}, lost=at)
    ruleset = compiler.update(Changes(), here, past).ruleset
    lingering = {
        address: Lingerer(each.pod, compiler.isolation(name))
        for name, each in gone.items()
        for address in each.pod.addresses
    }
    lingering |= {address: Lingerer(pod, compiler.isolation(pod.key), lost=True) for address, ((pod, _),) in at.items()}
    event(f"{min(len(at), 1)} or more are lost")
    home = Home(home.node, home.addresses, home.pods & left.keys(), lingering)
    event(f"{min(len(lingering), 1)} or more linger")
    same_as_explain(index, *told_by(index, ruleset, home), home)


def same_as_explain(index: Index, ruleset: Ruleset, page: Json, home: Home) -> None:
    ends = page["ends"]
    for source, here in enumerate(ends):
        for destination, there in enumerate(ends):
            families = [each for each in here["addresses"] if each in there["addresses"]]
            if not families or not (here["pod"] or there["pod"]):
                continue
            for port, words in enumerate(PORTS):
                expected = explain_json(index, ruleset, here["name"], there["name"], *words, home=home)
                got = {
                    "egress": judge(page, "egress", source, destination, families[0], port),
                    "ingress": judge(page, "ingress", destination, source, families[0], port),
                }
                for direction in map(str, Direction):
                    assert got[direction] == {key: expected[direction][key] for key in got[direction]}, expected
                    assert all("/" in key for key in expected[direction]["isolating"]), "only NetworkPolicies isolate"
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


def test_a_pod_of_another_node_with_the_same_address_does_not_judge_one_of_this() -> None:
    here, there = (Pod("x", name, {"app": name}, ("10.0.0.1",), node=name) for name in ("here", "there"))
    other = Pod("x", "other", {}, ("10.0.0.2",))
    selector = Selector((Requirement("app", Operator.IN, ("there",)),))
    policy = Policy("x", "deny", selector, None, ())
    index = Index(World({each.key: each for each in (here, there, other)}, {}, {policy.key: policy}))
    ruleset = offline_ruleset(index, [here.key])
    home = Home("here", frozenset(), frozenset({here.key}))
    asked = explain_json(index, ruleset, "x/here", "x/other", "TCP", 80, home=home)
    assert (asked["verdict"], asked["egress"]["reason"]) == ("allow", "no policy isolates x/here for egress")
    by_address = explain_json(index, ruleset, "10.0.0.1", "x/other", "TCP", 80, home=home)
    assert by_address["egress"]["isolating"] == ["x/deny"]
    assert judges(index, end(index, "x/here", home)) == {"x/here"}
