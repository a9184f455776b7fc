"""Rules that count: what they cost packets that are allowed (nothing), and what becomes of their sets in a plan."""

from __future__ import annotations

from hypothesis import given, settings

from netpold.policy.index import Index
from netpold.policy.model import EVERYTHING, Direction, Pod, Policy, PolicyPort, PolicyRule, World
from netpold.rules.compile import Compiler, compile_ruleset
from netpold.rules.count import DROPPED, SPOOFED, Isolated, counting_sets
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.offline import offline_ruleset
from netpold.rules.plan import ChangeSet, CreateSet, Installed, Plan, leftovers, plan
from netpold.rules.ruleset import FAMILIES, InSet, Rule
from netpold.rules.settings import CompileSettings
from netpold.rules.walk import Packet, walk
from tests.live import Live
from tests.strategies import EVERYTHING_GOES, histories

IN4 = DROPPED[4, Direction.INGRESS]


def counts(rule: Rule) -> bool:
    names = {*DROPPED.values(), *SPOOFED.values()}
    return any(isinstance(match, InSet) and match.name in names for match in rule.matches)


@given(histories(EVERYTHING_GOES, steps=1))
@settings(max_examples=60, deadline=None)
def test_only_packets_that_are_dropped_get_to_a_rule_that_counts(history: list[World]) -> None:
    """Behind it nothing but a plain DROP, so whatever comes that far is not allowed, in the set or not."""
    index = Index(history[-1])
    local = {
        key: Endpoint(key, pod.addresses, (Interface(f"veth{number}"),))
        for number, (key, pod) in enumerate(index.world.pods.items())
        if pod.takes_part
    }
    ruleset = compile_ruleset(index, local, CompileSettings())
    found = 0
    for family in FAMILIES:
        for rules in ruleset.chains[family].values():
            for place, rule in enumerate(rules):
                if counts(rule):
                    found += 1
                    assert rule.target == "DROP"
                    assert rules[place + 1 :] == (Rule((), "DROP", rule.comment),)
    assert bool(found) == any(ipset.larger == "counts" for ipset in ruleset.sets.values())


def world(pods: dict[str, str], *policies: Policy) -> World:
    people = [Pod("x", name, {"app": name}, (address,)) for name, address in pods.items()]
    return World({pod.key: pod for pod in people}, {}, {policy.key: policy for policy in policies})


def deny(name: str, *ports: int) -> Policy:
    rules = tuple(PolicyRule(None, (PolicyPort("TCP", port),)) for port in ports)
    return Policy("x", name, EVERYTHING, rules, None)


class Kernel:
    """What plans lead to; `members` of the set that counts for IPv4 ingress."""

    def __init__(self) -> None:
        self.installed = Installed()
        self.live = Live(World())
        self.compiler = Compiler(Index(self.live.world), CompileSettings())
        self.members: set[str] = set()

    def become(self, new: World) -> Plan:
        local = {key: Endpoint(key, pod.addresses) for key, pod in new.pods.items()}
        compiled = self.compiler.update(self.live.become(new), local)
        self.isolated = compiled.isolated
        return self._do(plan(self.installed, compiled.ruleset, compiled.changed))

    def clean_up(self) -> Plan:
        return self._do(leftovers(self.installed))

    def _do(self, steps: Plan) -> Plan:
        for step in steps.steps:
            if isinstance(step, CreateSet) and step.ipset.name == IN4:
                self.members = set(step.ipset.members)
            if isinstance(step, ChangeSet) and step.name == self.installed.names.get(IN4):
                self.members |= step.add
                self.members -= step.remove
        self.installed = steps.result
        return steps


def test_a_set_that_counts_is_never_made_anew_and_new_members_come_first() -> None:
    kernel = Kernel()
    kernel.become(world({"a": "10.0.0.1"}, deny("one", 80)))
    assert kernel.members == {"10.0.0.1"}
    for policies in ((deny("one", 81),), (deny("one", 81), deny("two"))):  # rules change
        assert CreateSet not in map(type, kernel.become(world({"a": "10.0.0.1"}, *policies)).steps)
    steps = kernel.become(world({"a": "10.0.0.1", "b": "10.0.0.2"}, deny("one", 80))).steps
    assert steps[0] == ChangeSet(IN4, frozenset({"10.0.0.2"}), frozenset(), "it only counts what is dropped")
    assert kernel.members == {"10.0.0.1", "10.0.0.2"}
    assert kernel.installed.names[IN4] == IN4


def test_members_stay_until_everything_is_cleaned_up() -> None:
    kernel = Kernel()
    both, one = {"a": "10.0.0.1", "b": "10.0.0.2"}, {"a": "10.0.0.1"}
    kernel.become(world(both, deny("one")))
    kernel.become(world(one, deny("one")))
    assert kernel.members == {"10.0.0.1", "10.0.0.2"}
    assert kernel.installed.stray_members == {IN4: frozenset({"10.0.0.2"})}
    kernel.become(world(both, deny("one")))  # back before that
    assert kernel.installed.stray_members == {}
    kernel.become(world(one, deny("one")))
    kernel.become(world(one, deny("two")))
    kernel.clean_up()
    assert kernel.members == {"10.0.0.1"}
    assert kernel.installed.stray_members == {}


def test_a_set_that_goes_takes_its_left_over_members_along() -> None:
    kernel = Kernel()
    kernel.become(world({"a": "10.0.0.1", "b": "10.0.0.2"}, deny("one")))
    kernel.become(world({"a": "10.0.0.1"}, deny("one")))
    kernel.become(world({"a": "10.0.0.1"}))
    assert kernel.installed.stray_members == {}
    assert IN4 in kernel.installed.stray_sets
    kernel.become(world({"a": "10.0.0.1"}, deny("one")))
    assert kernel.installed.names[IN4] == f"{IN4}.1"


def test_isolated_pods_are_told_by_direction_with_all_their_policies() -> None:
    kernel = Kernel()
    kernel.become(world({"a": "10.0.0.1"}, deny("one"), deny("two"), Policy("x", "out", EVERYTHING, None, ())))
    assert set(kernel.isolated) == {
        Isolated("x/a", Direction.INGRESS, ("10.0.0.1",), ("x/one", "x/two")),
        Isolated("x/a", Direction.EGRESS, ("10.0.0.1",), ("x/out",)),
    }


def test_the_sets_hold_the_addresses_by_family_and_direction() -> None:
    sets = counting_sets([Isolated("x/a", Direction.EGRESS, ("10.0.0.1", "fd00::1"), ())])
    held = {name: set(ipset.members) for name, ipset in sets.items() if ipset.kind == "hash:ip" and ipset.members}
    assert held == {"NP4-DROPPED-OUT": {"10.0.0.1"}, "NP6-DROPPED-OUT": {"fd00::1"}}
    assert {ipset.larger for ipset in sets.values()} == {"counts"}


def test_a_walk_names_the_rule_that_counts_and_its_policies() -> None:
    ruleset = offline_ruleset(Index(world({"a": "10.0.0.1", "b": "10.0.0.2"}, deny("one"))))
    found = walk(ruleset, "NETPOLD-FORWARD", Packet("10.0.0.1", "10.0.0.2", "tcp", 80))
    assert found.verdict == "DROP"
    assert found.rule is not None
    assert counts(found.rule)
    assert found.rule.comment == "no rule allows: x/one"
