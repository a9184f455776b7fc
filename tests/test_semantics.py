"""The compiled ruleset gives the verdicts that Kubernetes' API text gives: every golden case, and worlds at random.

A packet is walked through the rules that the kernel would get (netpold.rules.walk). Each pod is either known by its
addresses alone, or by a routed interface of its own or one that it shares, or by the port of one of two bridges, or it
runs elsewhere. The node of the test judges for its local pods only, so that the expected verdict is what the local
ends' policies say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.index import Index
from netpold.policy.model import EVERYTHING, Direction, Pod, Policy, World
from netpold.rules import walk
from netpold.rules.compile import compile_ruleset
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.explain import explain
from netpold.rules.offline import offline_ruleset
from netpold.rules.ruleset import CHAIN_NAME_LIMIT, COMMENT_LIMIT, SET_NAME_LIMIT, Goto, InSet, Jump, Ports, Ruleset
from netpold.rules.settings import CompileSettings
from tests.cases import Case, Probe, all_cases
from tests.cases.choices import Choice, choices
from tests.reference import Packet, claimants, pod_allows, verdicts
from tests.strategies import EVERYTHING_GOES, Shape, sample_packets, worlds

Place = Literal["address", "routed", "shared", "bridged", "bridged-2", "remote"]
LOCAL: tuple[Place, ...] = ("address", "routed", "shared", "bridged")
BY_ADDRESS: tuple[Place, ...] = ("address", "shared")
BRIDGES: dict[Place, str] = {"bridged": "cni0", "bridged-2": "br1"}
PLACES: tuple[Place, ...] = (*LOCAL, "bridged-2", "remote")
PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp", "GRE": "gre"}
ICMP = {4: ("icmp", 8), 6: ("ipv6-icmp", 128)}
CASES = all_cases()


@dataclass(frozen=True)
class Node:
    """A node with a compiled ruleset, and where each pod of the world is to it."""

    world: World
    places: Mapping[str, Place]
    ruleset: Ruleset

    @staticmethod
    def of(world: World, places: Mapping[str, Place], compile_settings: CompileSettings | None = None) -> Node:
        here = {key: place for key, place in places.items() if place != "remote" and world.pods[key].takes_part}
        endpoints = {
            key: Endpoint(
                key,
                world.pods[key].addresses,
                () if place == "address" else (Interface(interface(world.pods[key], place), place in BRIDGES),),
            )
            for key, place in here.items()
        }
        return Node(world, here, compile_ruleset(Index(world), endpoints, compile_settings or CompileSettings()))

    def passes(self, packet: Packet, sender: Pod | None, receiver: Pod | None, **more: bool) -> bool:
        """Whether the node lets a packet through that comes from the sender's interface and goes to the receiver's.

        `more`: `reply` or `related`, as conntrack sees the packet.
        """
        source, in_port = self._interface(sender)
        destination, out_port = self._interface(receiver)
        family = 6 if ":" in packet.source else 4
        protocol, icmp_type = ICMP[family] if packet.protocol == "ICMP" else (PROTOCOLS[packet.protocol], None)
        found = walk.walk(
            self.ruleset,
            "NETPOLD-FORWARD",
            walk.Packet(
                packet.source,
                packet.destination,
                protocol,
                packet.port,
                in_interface=source,
                out_interface=destination,
                in_port=in_port,
                out_port=out_port if in_port and source == destination else "",  # known only of what is bridged
                icmp_type=icmp_type,
                **more,
            ),
        )
        return found.verdict != "DROP"

    def _interface(self, pod: Pod | None) -> tuple[str, str]:
        """The interface and the port of a bridge by which a pod's packets come and go."""
        place = self.places.get(pod.key) if pod else None
        if pod is None or place is None or place == "address":
            return "eth0", ""
        name = interface(pod, place)
        return (BRIDGES[place], name) if place in BRIDGES else (name, "")


def interface(pod: Pod, place: Place) -> str:
    return "shared0" if place == "shared" else f"v{pod.namespace}-{pod.name}"[:15]


def expected(node: Node, packet: Packet, sender: Pod | None, receiver: Pod | None) -> bool:
    """What the policies of the local ends say.

    Known by address, all local pods that claim it have a say; known by an interface of its own, the pod itself.
    """
    return all(
        pod_allows(node.world, pod, direction, packet)
        for end, address, direction in (
            (sender, packet.source, Direction.EGRESS),
            (receiver, packet.destination, Direction.INGRESS),
        )
        for pod in _judges(node, end, address)
    )


def _judges(node: Node, end: Pod | None, address: str) -> list[Pod]:
    local = [pod for pod in claimants(node.world, address) if pod.key in node.places]
    place = node.places.get(end.key) if end else None
    if end is None or place in (None, "address"):
        return local  # by no interface of a pod: whoever may have the address has a say
    if place == "shared":
        return [pod for pod in local if node.places[pod.key] == place]
    return [end]


def contested(world: World, packet: Packet) -> bool:
    """Whether several pods claim an end; an interface then says which pod it is, and the other one has no say."""
    return max(len(claimants(world, packet.source)), len(claimants(world, packet.destination))) > 1


def ends(world: World, packet: Packet) -> tuple[Pod | None, Pod | None]:
    """The pods that a packet runs between; the first claimant where there are several."""
    senders, receivers = claimants(world, packet.source), claimants(world, packet.destination)
    return (senders[0] if senders else None, receivers[0] if receivers else None)


# Golden cases ---------------------------------------------------------------------------------------------------------


# Pairs of ports are many, and where a pod is makes no difference to them.
CASES_AND_PLACES = [
    pytest.param(case, place, id=f"{case.name}-{place}")
    for case in CASES
    for place in LOCAL
    if place == "address" or "gress-ports-" not in case.name
]


@pytest.mark.parametrize(("case", "place"), CASES_AND_PLACES)
def test_compiled_rules_give_the_verdicts_of_a_case(case: Case, place: Place) -> None:
    for step in case.steps:
        world = step.world
        node = Node.of(world, dict.fromkeys(world.pods, place))
        fits_a_kernel(node.ruleset)
        asked = [probe for probe in step.probes if place in BY_ADDRESS or not contested(world, probe.packet)]
        wrong = [probe for probe in asked if node.passes(probe.packet, *ends(world, probe.packet)) != probe.allowed]
        assert not wrong, report(step.name, wrong)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_explain_gives_the_verdicts_of_a_case(case: Case) -> None:
    for step in case.steps:
        index = Index(step.world)
        ruleset = offline_ruleset(index)
        wrong = [
            probe
            for probe in step.probes
            if (
                explain(
                    index,
                    ruleset,
                    probe.packet.source,
                    probe.packet.destination,
                    probe.packet.protocol,
                    probe.packet.port,
                ).verdict
                == "allow"
            )
            != probe.allowed
        ]
        assert not wrong, report(step.name, wrong)


def report(step: str, wrong: list[Probe]) -> str:
    return "\n".join([f"step {step}: {len(wrong)} wrong verdicts, expected", *map(str, wrong[:10])])


@pytest.mark.parametrize("choice", choices(), ids=lambda choice: choice.name)
def test_compiled_rules_make_netpolds_choices(choice: Choice) -> None:
    node = Node.of(choice.world, dict.fromkeys(choice.world.pods, "address"))
    for packet, verdict in choice.packets():
        assert node.passes(packet, *ends(choice.world, packet)) == all(verdict), str(packet)


# What a case shows least well -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", LOCAL)
def test_a_pod_reaches_itself_at_each_of_its_addresses(place: Place) -> None:
    first, second = "10.72.0.2", "10.72.0.3"
    pod = Pod("x", "p", {}, (first, second))
    deny = Policy("x", "deny", EVERYTHING, ingress=(), egress=())
    node = Node.of(World({pod.key: pod}, {}, {deny.key: deny}), {pod.key: place})
    for source in pod.addresses:
        for destination in pod.addresses:
            assert node.passes(Packet(source, destination, "TCP", 80), pod, pod), f"{source} -> {destination}"


# Worlds at random -----------------------------------------------------------------------------------------------------

UNCONTESTED = Shape(contested=False, quarantine=True, tiers=4)


@settings(max_examples=100, deadline=None)
@given(world=worlds(UNCONTESTED), data=st.data())
def test_compiled_rules_agree_with_the_reference(world: World, data: st.DataObject) -> None:
    places: dict[str, Place] = {key: data.draw(st.sampled_from(PLACES), label=key) for key in sorted(world.pods)}
    node = Node.of(world, places)
    for packet in sample_packets(world, 150):
        sender, receiver = ends(world, packet)
        agree(node, packet, expected(node, packet, sender, receiver))


@settings(max_examples=100, deadline=None)
@given(world=worlds(EVERYTHING_GOES))
def test_pods_known_by_address_agree_with_the_reference(world: World) -> None:
    """With every pod local by address, one node judges for both ends; pods that claim one address all have a say."""
    node = Node.of(world, dict.fromkeys(world.pods, "address"))
    for packet in sample_packets(world, 150):
        if not between_contested_addresses(world, packet):
            agree(node, packet, all(verdicts(world, packet)))


@settings(max_examples=40, deadline=None)
@given(world=worlds(UNCONTESTED))
def test_explain_agrees_with_the_reference_on_each_side(world: World) -> None:
    index = Index(world)
    ruleset = offline_ruleset(index)
    for packet in sample_packets(world, 30):
        said = explain(index, ruleset, packet.source, packet.destination, packet.protocol, packet.port)
        meant = verdicts(world, packet)
        assert said.egress.verdict == ("allow" if meant.egress else "deny"), str(packet)
        assert said.ingress.verdict == ("allow" if meant.ingress else "deny"), str(packet)
        assert said.verdict == ("allow" if all(meant) else "deny"), str(packet)


@settings(max_examples=40, deadline=None)
@given(world=worlds(UNCONTESTED), data=st.data())
def test_answers_and_errors_of_flows_come_back(world: World, data: st.DataObject) -> None:
    """Whatever the policies are: conntrack knows an answer only of a flow that was allowed."""
    places: dict[str, Place] = {key: data.draw(st.sampled_from(PLACES), label=key) for key in sorted(world.pods)}
    node = Node.of(world, places)
    for packet in sample_packets(world, 30):
        sender, receiver = ends(world, packet)
        assert node.passes(packet, sender, receiver, reply=True), f"answer {packet}"
        if packet.protocol == "ICMP":
            assert node.passes(packet, sender, receiver, related=True), f"error {packet}"


@settings(max_examples=40, deadline=None)
@given(world=worlds(UNCONTESTED), data=st.data())
def test_no_pod_speaks_for_another(world: World, data: st.DataObject) -> None:
    """A packet or an answer from a pod's interface with another source address is dropped, where there are policies."""
    closed = Pod("closed", "closed", {}, ("10.74.0.2", "fd74::2"))
    deny = Policy(
        "closed", "deny", EVERYTHING, ingress=(), egress=None
    )  # without an enforced policy nothing is dropped
    world = replace(world, pods={**world.pods, closed.key: closed}, policies={**world.policies, deny.key: deny})
    places: dict[str, Place] = {key: data.draw(st.sampled_from(("routed", "bridged"))) for key in sorted(world.pods)}
    node = Node.of(world, places)
    senders = [pod for pod in world.pods.values() if pod.takes_part and pod.addresses]
    if not senders:
        return
    for packet in sample_packets(world, 30):
        liar = data.draw(st.sampled_from(senders))
        if packet.source not in liar.addresses:
            receiver = ends(world, packet)[1]
            assert not node.passes(packet, liar, receiver), f"{liar.key}: {packet}"
            assert not node.passes(packet, liar, receiver, reply=True), f"{liar.key}: answer {packet}"


@settings(max_examples=40, deadline=None)
@given(world=worlds(EVERYTHING_GOES), data=st.data())
def test_rulesets_keep_to_what_a_kernel_takes(world: World, data: st.DataObject) -> None:
    """Whatever is jumped to and looked up exists, names and comments have room, multiport has its fifteen slots."""
    places: dict[str, Place] = {key: data.draw(st.sampled_from(PLACES), label=key) for key in sorted(world.pods)}
    fits_a_kernel(Node.of(world, places).ruleset)


def fits_a_kernel(ruleset: Ruleset) -> None:
    assert all(len(name) <= SET_NAME_LIMIT for name in ruleset.sets)
    for family, chains in ruleset.chains.items():
        assert all(len(name) <= CHAIN_NAME_LIMIT for name in chains)
        for rule in (rule for rules in chains.values() for rule in rules):
            assert len(rule.comment) <= COMMENT_LIMIT
            if isinstance(rule.target, (Jump, Goto)):
                assert rule.target.chain in chains
            for match in rule.matches:
                if isinstance(match, InSet):
                    assert ruleset.sets[match.name].family == family
                if isinstance(match, Ports):
                    assert sum(1 if low == high else 2 for low, high in match.ranges) <= 15


def agree(node: Node, packet: Packet, verdict: bool) -> None:
    """Fails with the world as manifests, where that can be written."""
    if node.passes(packet, *ends(node.world, packet)) != verdict:
        fields = ("pods", "namespaces", "policies")
        written = "\n".join(str(item) for field in fields for item in getattr(node.world, field).values())
        raise AssertionError(f"{packet} should {'pass' if verdict else 'be dropped'}; {dict(node.places)}\n{written}")


def between_contested_addresses(world: World, packet: Packet) -> bool:
    """From one address of a pod to another while another pod claims one of them: nothing is promised of that."""
    senders, receivers = claimants(world, packet.source), claimants(world, packet.destination)
    own = packet.source != packet.destination and any(pod in receivers for pod in senders)
    return own and contested(world, packet)
