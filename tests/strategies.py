"""Small worlds in which everything collides, for hypothesis: pods, namespaces, policies, packets and changes.

Few names, labels, ports and addresses, so that selectors half match, ports fall on both sides of a range's end, and
ipBlocks and their excepts cut through the pods' addresses. Namespaces and pods share their label keys, so that one
selector taken for the other shows. `Shape` says which of the stranger things a world may hold.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import strategies as st

from netpold.policy.model import (
    EVERYTHING,
    NAME_LABEL,
    Action,
    ClusterPolicy,
    ContainerPort,
    IPBlock,
    Mode,
    Namespace,
    Network,
    Node,
    NodePeer,
    Operator,
    Peer,
    Pod,
    PodPeer,
    Policy,
    PolicyKind,
    PolicyPort,
    PolicyRule,
    Protocol,
    Requirement,
    Selector,
    Tier,
    TierPeer,
    TierRule,
    World,
)
from tests.reference import Packet

NAMESPACES = ("x", "y", "z")
KEYS = ("app", "tier")
VALUES = ("a", "b", "")
PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP", "SCTP")
PORT_NAMES = ("http", "dns")
PORT_NUMBERS = (1, 79, 80, 81, 8080, 65535)

# Chosen for the prefixes that tell them apart: /32, /31, /25, /24, /16, /8, /1 and the same in IPv6.
POD_V4 = ("10.72.0.2", "10.72.0.3", "10.72.0.127", "10.72.0.128", "10.72.1.2", "10.72.10.2", "10.73.0.2", "172.16.0.2")
POD_V6 = ("fd72::2", "fd72::3", "fd72::7fff", "fd72::8000", "fd72:0:0:1::2", "fd72:10::2", "fd73::2", "2001:db8:72::2")
NODES = ("192.168.72.1", "fd00:72::1")
OUTSIDE = (
    "192.0.2.1",
    "203.0.113.7",
    "9.255.255.255",
    "10.72.255.255",
    "2001:db8::1",
    "8000::1",
    "::1:1",
    "fd72:ffff::1",
)

NODE_NAMES = ("n1", "n2")
NODE_ADDRESSES = {"n1": NODES, "n2": ("192.0.2.1", "2001:db8::1")}
PRIORITIES = (0, 10, 10, 1000)
CLUSTER_NAMES = ("c0", "c1", "c2")

V4_LENGTHS = (0, 1, 8, 9, 15, 16, 23, 24, 25, 30, 31, 32)
V6_LENGTHS = (0, 1, 8, 16, 31, 32, 48, 64, 65, 112, 113, 126, 127, 128)


@dataclass(frozen=True, slots=True)
class Shape:
    """What worlds may hold. `contested`: several live pods with one address. `quarantine`: manifests that failed.
    `tiers`: so many policies of the cluster, and nodes."""

    pods: int = 8
    policies: int = 6
    contested: bool = True
    quarantine: bool = False
    host_network: bool = True
    tiers: int = 0


PLAIN = Shape()
EVERYTHING_GOES = Shape(quarantine=True, tiers=3)
NO_CONTEST = Shape(contested=False)


# Labels and selectors -------------------------------------------------------------------------------------------------

labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2)


def _requirement(key: str, operator: Operator, values: Iterable[str]) -> Requirement:
    takes_values = operator in (Operator.IN, Operator.NOT_IN)
    return Requirement(key, operator, tuple(sorted(set(values))) if takes_values else ())


def _selectors(keys: Mapping[str, Sequence[str]]) -> st.SearchStrategy[Selector]:
    one = st.sampled_from(sorted(keys)).flatmap(
        lambda key: st.builds(
            _requirement,
            st.just(key),
            st.sampled_from((Operator.IN, Operator.IN, *Operator)),
            st.lists(st.sampled_from(keys[key]), min_size=1, max_size=2),
        )
    )
    some = st.sets(one, min_size=1, max_size=2).map(lambda requirements: Selector(tuple(sorted(requirements))))
    return st.one_of(st.just(EVERYTHING), some, some)


pod_selectors = _selectors(dict.fromkeys(KEYS, VALUES))
namespace_selectors = _selectors({**dict.fromkeys(KEYS, VALUES), NAME_LABEL: NAMESPACES})


# Policies -------------------------------------------------------------------------------------------------------------


def _around(address: str, length: int) -> Network:
    return ip_network(f"{address}/{length}", strict=False)


_NETWORKS: tuple[Network, ...] = tuple(
    dict.fromkeys(
        [_around(address, length) for address in POD_V4 for length in V4_LENGTHS]
        + [_around(address, length) for address in POD_V6 for length in V6_LENGTHS]
        + [_around(address, 32 if "." in address else 128) for address in (*NODES, *OUTSIDE)]
    )
)
_INSIDE: dict[Network, tuple[Network, ...]] = {
    outer: tuple(
        inner
        for inner in _NETWORKS
        if inner.version == outer.version and inner != outer and inner.subnet_of(outer)  # type: ignore[arg-type]
    )
    for outer in _NETWORKS
}


def _blocks_in(cidr: Network) -> st.SearchStrategy[IPBlock]:
    if not _INSIDE[cidr]:
        return st.just(IPBlock(cidr))
    excepts = st.lists(st.sampled_from(_INSIDE[cidr]), max_size=3, unique=True)
    return excepts.map(lambda networks: IPBlock(cidr, tuple(sorted(networks, key=str))))  # type: ignore[arg-type]


blocks = st.sampled_from(_NETWORKS).flatmap(_blocks_in)
pod_peers = st.builds(PodPeer, pod_selectors, st.none() | namespace_selectors)
peers: st.SearchStrategy[Peer] = st.one_of(pod_peers, pod_peers, blocks)


def _range(protocol: Protocol, ends: tuple[int, int]) -> PolicyPort:
    return PolicyPort(protocol, min(ends), max(ends))


protocols = st.sampled_from(("TCP", "TCP", *PROTOCOLS))
numbers = st.sampled_from(PORT_NUMBERS)
policy_ports = st.one_of(
    st.builds(PolicyPort, protocols),
    st.builds(PolicyPort, protocols, numbers),
    st.builds(PolicyPort, protocols, st.sampled_from(PORT_NAMES)),
    st.builds(_range, protocols, st.tuples(numbers, numbers)),
)
# More than the 15 slots that one multiport match has: single ports take one, ranges two.
many_ports = st.builds(
    lambda protocol, first, step, width: tuple(
        PolicyPort(protocol, first + step * n, first + step * n + width if width else None) for n in range(18)
    ),
    protocols,
    st.sampled_from((62, 80, 8063)),
    st.sampled_from((1, 2, 3)),
    st.sampled_from((0, 0, 1)),
)
ports = st.one_of(
    st.none(),
    st.lists(policy_ports, min_size=1, max_size=3, unique=True).map(tuple),
    st.lists(policy_ports, min_size=1, max_size=3, unique=True).map(tuple),
    many_ports,
)
some_peers = st.lists(peers, min_size=1, max_size=3, unique=True).map(tuple)
rules = st.builds(PolicyRule, peers=st.one_of(st.none(), some_peers, some_peers, some_peers), ports=ports)
_rules = st.lists(rules, max_size=3).map(tuple)
directions = st.one_of(
    st.tuples(_rules, st.none()), st.tuples(st.none(), _rules), st.tuples(_rules, _rules)
)  # never neither: policyTypes always has one


modes: st.SearchStrategy[Mode | None] = st.sampled_from((None, None, None, None, "audit", "enforce"))


@st.composite
def policies(draw: st.DrawFn, namespace: str, name: str, *, quarantine: bool = False) -> Policy:
    """A policy with any selector, rules in one direction or both."""
    ingress, egress = draw(directions)
    broken = quarantine and draw(st.integers(0, 5)) == 5
    if broken:  # the closed value: it isolates, and has no rules left
        ingress, egress = ingress and (), egress and ()
    mode = None if broken else draw(modes)
    return Policy(namespace, name, draw(pod_selectors), ingress, egress, quarantined=broken, mode=mode)


# Policies of the cluster ----------------------------------------------------------------------------------------------

actions = st.sampled_from((Action.ACCEPT, Action.DENY, Action.DENY, Action.PASS))
cluster_pods = st.builds(PodPeer, pod_selectors | st.just(EVERYTHING), namespace_selectors)
networks = st.builds(IPBlock, st.sampled_from(_NETWORKS))
node_peers = st.builds(NodePeer, _selectors(dict.fromkeys(KEYS, VALUES)))
ingress_peers: st.SearchStrategy[TierPeer] = cluster_pods
egress_peers: st.SearchStrategy[TierPeer] = st.one_of(cluster_pods, cluster_pods, networks, node_peers)


def _named(name: str) -> tuple[PolicyPort, ...]:
    return tuple(PolicyPort(protocol, name) for protocol in PROTOCOLS)


_cluster_ports = st.one_of(
    st.builds(PolicyPort, protocols, numbers).map(lambda port: (port,)),
    st.builds(_range, protocols, st.tuples(numbers, numbers).filter(lambda ends: ends[0] != ends[1])).map(
        lambda port: (port,)
    ),
    st.sampled_from(PORT_NAMES).map(_named),
)
cluster_ports = st.one_of(
    st.none(),
    st.lists(_cluster_ports, min_size=1, max_size=3, unique=True).map(lambda several: sum(several, ())),
    st.lists(_cluster_ports, min_size=1, max_size=3, unique=True).map(lambda several: sum(several, ())),
    many_ports,
)


@st.composite
def tier_rules(draw: st.DrawFn, peers: st.SearchStrategy[TierPeer], taken: st.SearchStrategy[Action]) -> TierRule:
    """As the API's validation has it: addresses that are no pods go with no port's name."""
    some = tuple(draw(st.lists(peers, min_size=1, max_size=3, unique=True)))
    ports = draw(cluster_ports)
    if ports and not all(isinstance(peer, PodPeer) for peer in some):
        ports = tuple(port for port in ports if not isinstance(port.port, str)) or None
    return TierRule(draw(taken), some, ports, draw(st.sampled_from(("", "", "rule"))))


def _closed_rules(draw: st.DrawFn, rules: tuple[TierRule, ...]) -> tuple[TierRule, ...]:
    """What is left of a manifest that could not be read: what it denies, or may deny."""
    found: list[TierRule] = []
    for rule in rules:
        if rule.action is Action.DENY:
            found.append(replace(rule, peers=None, ports=None) if draw(st.integers(0, 3)) == 3 else rule)
            if found[-1].peers is None:
                break  # there is nothing left to deny
    return tuple(found)


_KINDS: tuple[PolicyKind, ...] = ("ClusterNetworkPolicy",) * 5 + ("AdminNetworkPolicy", "BaselineAdminNetworkPolicy")


@st.composite
def cluster_policies(draw: st.DrawFn, *, quarantine: bool = False) -> ClusterPolicy:
    """Of any kind and tier; several have one priority."""
    kind, tier = draw(st.sampled_from(_KINDS)), draw(st.sampled_from(tuple(Tier)))
    name, priority = draw(st.sampled_from(CLUSTER_NAMES)), draw(st.sampled_from(PRIORITIES))
    taken = actions
    if kind == "AdminNetworkPolicy":
        tier = Tier.ADMIN
    elif kind == "BaselineAdminNetworkPolicy":
        name, tier, priority, taken = "default", Tier.BASELINE, 1000, actions.filter(lambda each: each != Action.PASS)
    ingress = tuple(draw(st.lists(tier_rules(ingress_peers, taken), max_size=3)))
    egress = tuple(draw(st.lists(tier_rules(egress_peers, taken), max_size=3)))
    broken = quarantine and draw(st.integers(0, 5)) == 5
    if broken:
        ingress, egress = _closed_rules(draw, ingress), _closed_rules(draw, egress)
    mode = None if broken else draw(modes)
    return ClusterPolicy(name, tier, priority, draw(cluster_pods), ingress, egress, kind, quarantined=broken, mode=mode)


@st.composite
def nodes(draw: st.DrawFn, name: str, *, quarantine: bool = False) -> Node:
    """A node with all of its addresses, or one, or none."""
    addresses = NODE_ADDRESSES[name][: draw(st.sampled_from((0, 1, 2, 2)))]
    return Node(name, draw(labels), addresses, quarantined=quarantine and draw(st.integers(0, 5)) == 5)


# Pods and namespaces --------------------------------------------------------------------------------------------------

container_ports = st.lists(
    st.builds(ContainerPort, st.sampled_from(PORT_NAMES), protocols, numbers), max_size=3, unique=True
).map(tuple)


@st.composite
def pods(draw: st.DrawFn, namespace: str, name: str, addresses: tuple[str, ...], shape: Shape = PLAIN) -> Pod:
    """A pod with these addresses; now and then finished, on the host's network, or (if asked for) quarantined."""
    oddity = draw(st.sampled_from(("", "", "", "", "finished", "host", "quarantined")))
    host = shape.host_network and oddity == "host"
    return Pod(
        namespace=namespace,
        name=name,
        labels=draw(labels),
        addresses=NODES if host else addresses,
        host_network=host,
        finished=oddity == "finished",
        ports=draw(container_ports),
        quarantined=shape.quarantine and oddity == "quarantined",
    )


def _address_pairs(draw: st.DrawFn, count: int, contested: bool) -> list[tuple[str, ...]]:
    """For each pod an address of each family, of one, or none (not yet scheduled); now and then two of a family."""
    families = [draw(st.sampled_from(("46", "46", "46", "4", "6", "", "44"))) for _ in range(count)]
    free4, free6 = list(draw(st.permutations(POD_V4))), list(draw(st.permutations(POD_V6)))
    pairs: list[tuple[str, ...]] = []
    for wanted in families:
        taken: list[str] = []
        for family in wanted:
            free, every = (free4, POD_V4) if family == "4" else (free6, POD_V6)
            if contested and draw(st.integers(0, 5)) == 5:
                taken.append(draw(st.sampled_from(every)))
            elif free:
                taken.append(free.pop())
        pairs.append(tuple(dict.fromkeys(taken)))
    return pairs


@st.composite
def namespaces(draw: st.DrawFn, name: str, *, quarantine: bool = False) -> Namespace:
    """A namespace with labels of the keys that pods have too."""
    broken = quarantine and draw(st.integers(0, 3)) == 3
    ends = not broken and not draw(st.integers(0, 5))
    mode = None if broken else draw(modes)
    return Namespace(name, {**draw(labels), NAME_LABEL: name}, quarantined=broken, terminating=ends, mode=mode)


_homes = st.sampled_from(("x", *NAMESPACES))  # one namespace with more in it


@st.composite
def worlds(draw: st.DrawFn, shape: Shape = PLAIN) -> World:
    """Up to three namespaces (some with no Namespace object), pods and policies as `shape` says."""
    with_object = draw(st.sets(st.sampled_from(NAMESPACES)))
    spaces = [draw(namespaces(name, quarantine=shape.quarantine)) for name in sorted(with_object)]
    homes = draw(st.lists(_homes, min_size=2, max_size=shape.pods))
    addresses = _address_pairs(draw, len(homes), shape.contested)
    people = [draw(pods(home, f"p{number}", addresses[number], shape)) for number, home in enumerate(homes)]
    keys = draw(st.lists(st.tuples(_homes, st.integers(0, 2)), min_size=1, max_size=shape.policies, unique=True))
    rules_of = [draw(policies(home, f"policy-{number}", quarantine=shape.quarantine)) for home, number in keys]
    tiered: list[ClusterPolicy] = []
    machines: list[Node] = []
    if shape.tiers:
        tiered = draw(st.lists(cluster_policies(quarantine=shape.quarantine), max_size=shape.tiers))
        names = draw(st.sets(st.sampled_from(NODE_NAMES)))
        machines = [draw(nodes(name, quarantine=shape.quarantine)) for name in sorted(names)]
    return World(
        {pod.key: pod for pod in people},
        {namespace.key: namespace for namespace in spaces},
        {policy.key: policy for policy in (*rules_of, *tiered)},
        {node.key: node for node in machines},
    )


# Packets --------------------------------------------------------------------------------------------------------------


def interesting_addresses(world: World) -> list[str]:
    """Every pod's address, nodes, addresses outside, and those at the edges of the policies' blocks and excepts."""
    found = dict.fromkeys(address for pod in world.pods.values() for address in pod.addresses)
    found.update(dict.fromkeys((*NODES, *OUTSIDE)))
    found.update(dict.fromkeys(address for node in world.nodes.values() for address in node.addresses))
    for network in _networks(world):
        for edge in (network.network_address, network.broadcast_address):
            for offset in (-1, 0, 1):
                found.update(_neighbour(edge, offset))
    return list(found)


def _neighbour(edge: IPv4Address | IPv6Address, offset: int) -> dict[str, None]:
    number = int(edge) + offset
    inside = 0 < number < 2**edge.max_prefixlen - 1
    return {str(type(edge)(number)): None} if inside else {}


def _networks(world: World) -> Iterable[Network]:
    for policy in world.policies.values():
        for rule in (*(policy.ingress or ()), *(policy.egress or ())):
            for peer in rule.peers or ():
                if isinstance(peer, IPBlock):
                    yield peer.cidr
                    yield from peer.excepts


def policy_port_edges(world: World) -> list[tuple[str, int]]:
    """The first and last port of each range in a policy, and those just outside, in its protocol."""
    found: dict[tuple[str, int], None] = {}
    for policy in world.policies.values():
        for rule in (*(policy.ingress or ()), *(policy.egress or ())):
            for port in rule.ports or ():
                if isinstance(port.port, int):
                    last = port.end_port or port.port
                    numbers = (port.port - 1, port.port, last, last + 1)
                    found.update({(port.protocol, number): None for number in numbers if 0 < number < 65536})
    return list(found)


def sample_packets(world: World, count: int, seed: int = 0) -> list[Packet]:
    """`count` packets at random, the same ones each time."""
    chance = random.Random(seed)
    maker = _PacketMaker(world)
    return [maker.packet(chance) for _ in range(count)]


def packets(world: World) -> st.SearchStrategy[Packet]:
    """A packet between two interesting addresses of one family, mostly with a pod at one end or both."""
    maker = _PacketMaker(world)
    return st.integers(0, 2**32).map(lambda seed: maker.packet(random.Random(seed)))


class _PacketMaker:
    """Half of the packets are from pod to pod, the rest have any address at an end; ports are those that matter: of the
    destination's containers, by its policies' edges, in the right protocol or another."""

    def __init__(self, world: World) -> None:
        every = interesting_addresses(world)
        owned = list(dict.fromkeys(address for pod in world.pods.values() for address in pod.addresses)) or every
        self._owned = owned
        self._by_family = {
            version: [[end for end in ends if ip_address(end).version == version] for ends in (owned, every)]
            for version in (4, 6)
        }
        self._served: dict[str, list[tuple[str, int]]] = {}
        for pod in world.pods.values():
            for address in pod.addresses:
                self._served.setdefault(address, []).extend((port.protocol, port.port) for port in pod.ports)
        self._everywhere = list(dict.fromkeys(port for served in self._served.values() for port in served))
        self._edges = policy_port_edges(world)

    def packet(self, chance: random.Random) -> Packet:
        first = chance.choice(self._owned)
        owned_ends, every_end = self._by_family[ip_address(first).version]
        ends = [first, chance.choice(chance.choice((owned_ends, every_end)))]
        chance.shuffle(ends)
        source, destination = ends
        kind = chance.randrange(12)
        if kind == 0:
            return Packet(source, destination, chance.choice(("ICMP", "GRE")))
        served = (self._served.get(destination) or self._everywhere) if kind < 6 else self._everywhere
        protocol, port = chance.choice((served if kind < 8 else self._edges) or [("TCP", 80)])
        if kind % 4 == 3:
            protocol = chance.choice(PROTOCOLS)
        return Packet(source, destination, protocol, port)


# Changes --------------------------------------------------------------------------------------------------------------


@st.composite
def changed(draw: st.DrawFn, world: World, shape: Shape = PLAIN, most: int = 4) -> World:
    """The world after one to `most` changes of mixed kind: a git commit's worth."""
    kinds = (*_CHANGES, *_CLUSTER_CHANGES) if shape.tiers else _CHANGES
    for _ in range(draw(st.integers(1, most))):
        world = draw(st.sampled_from(kinds))(draw, world, shape)
    return world


@st.composite
def histories(draw: st.DrawFn, shape: Shape = PLAIN, steps: int = 4) -> list[World]:
    """A world and what becomes of it, change by change."""
    history = [draw(worlds(shape))]
    for _ in range(draw(st.integers(1, steps))):
        history.append(draw(changed(history[-1], shape)))
    return history


def _put_pod(world: World, pod: Pod) -> World:
    return replace(world, pods={**world.pods, pod.key: pod})


def _free_addresses(draw: st.DrawFn, world: World, shape: Shape) -> tuple[str, ...]:
    """An address of each family, or none; ones that live pods have only where the shape allows it."""
    taken = {address for pod in world.pods.values() if not pod.finished for address in pod.addresses}
    chosen = []
    for pool in (POD_V4, POD_V6):
        choice = [address for address in pool if shape.contested or address not in taken]
        if choice and draw(st.integers(0, 3)):
            chosen.append(draw(st.sampled_from(choice)))
    return tuple(chosen)


def _new_pod(draw: st.DrawFn, world: World, shape: Shape) -> World:
    key = draw(st.tuples(st.sampled_from(NAMESPACES), st.integers(0, 9)))
    addresses = _free_addresses(draw, world, shape)
    return _put_pod(world, draw(pods(key[0], f"p{key[1]}", addresses, shape)))


def _changed_pod(draw: st.DrawFn, world: World, shape: Shape) -> World:
    if not world.pods:
        return _new_pod(draw, world, shape)
    pod = world.pods[draw(st.sampled_from(sorted(world.pods)))]
    match draw(st.sampled_from(("labels", "addresses", "finish", "ports", "move"))):
        case "labels":
            return _put_pod(world, replace(pod, labels=draw(labels)))
        case "addresses" if not pod.host_network:
            return _put_pod(world, replace(pod, addresses=_free_addresses(draw, world, shape)))
        case "finish":
            return _put_pod(world, replace(pod, finished=True))
        case "ports":
            return _put_pod(world, replace(pod, ports=draw(container_ports)))
        case _:  # its addresses go to a new pod, and it is gone
            others = {key: other for key, other in world.pods.items() if key != pod.key}
            heir = replace(pod, namespace=draw(st.sampled_from(NAMESPACES)), name="heir", labels=draw(labels))
            return replace(world, pods={**others, heir.key: heir})


def _without_pod(draw: st.DrawFn, world: World, shape: Shape) -> World:
    gone = draw(st.sampled_from((*sorted(world.pods), None)))
    return replace(world, pods={key: pod for key, pod in world.pods.items() if key != gone})


def _put_namespace(draw: st.DrawFn, world: World, shape: Shape) -> World:
    namespace = draw(namespaces(draw(st.sampled_from(NAMESPACES)), quarantine=shape.quarantine))
    return replace(world, namespaces={**world.namespaces, namespace.key: namespace})


def _without_namespace(draw: st.DrawFn, world: World, shape: Shape) -> World:
    gone = draw(st.sampled_from(NAMESPACES))
    return replace(world, namespaces={key: item for key, item in world.namespaces.items() if key != gone})


def _put_policy(draw: st.DrawFn, world: World, shape: Shape) -> World:
    namespace, number = draw(st.tuples(st.sampled_from(NAMESPACES), st.integers(0, 2)))
    policy = draw(policies(namespace, f"policy-{number}", quarantine=shape.quarantine))
    return replace(world, policies={**world.policies, policy.key: policy})


def _without_policy(draw: st.DrawFn, world: World, shape: Shape) -> World:
    gone = draw(st.sampled_from((*sorted(world.policies), None)))
    return replace(world, policies={key: policy for key, policy in world.policies.items() if key != gone})


def _put_cluster_policy(draw: st.DrawFn, world: World, shape: Shape) -> World:
    policy = draw(cluster_policies(quarantine=shape.quarantine))
    return replace(world, policies={**world.policies, policy.key: policy})


def _changed_cluster_policy(draw: st.DrawFn, world: World, shape: Shape) -> World:
    """One thing of a policy: where it stands, whom it is about, the order of its rules, what one does or is about."""
    keys = sorted(key for key, policy in world.policies.items() if isinstance(policy, ClusterPolicy))
    if not keys:
        return _put_cluster_policy(draw, world, shape)
    policy = world.policies[draw(st.sampled_from(keys))]
    assert isinstance(policy, ClusterPolicy)
    match draw(st.sampled_from(("priority", "tier", "subject", "order", "rule", "mode"))):
        case "priority" if policy.kind != "BaselineAdminNetworkPolicy":
            policy = replace(policy, priority=draw(st.sampled_from(PRIORITIES)))
        case "tier" if policy.kind == "ClusterNetworkPolicy":
            policy = replace(policy, tier=draw(st.sampled_from(tuple(Tier))))
        case "order":
            ingress, egress = draw(st.permutations(policy.ingress)), draw(st.permutations(policy.egress))
            policy = replace(policy, ingress=tuple(ingress), egress=tuple(egress))
        case "rule" if policy.egress and policy.kind == "ClusterNetworkPolicy" and not policy.quarantined:
            rule = draw(tier_rules(egress_peers, actions))
            policy = replace(policy, egress=(*policy.egress[:-1], rule))
        case "mode" if not policy.quarantined:
            policy = replace(policy, mode=draw(modes))
        case _:
            policy = replace(policy, subject=draw(cluster_pods))
    return replace(world, policies={**world.policies, policy.key: policy})


def _put_node(draw: st.DrawFn, world: World, shape: Shape) -> World:
    node = draw(nodes(draw(st.sampled_from(NODE_NAMES)), quarantine=shape.quarantine))
    return replace(world, nodes={**world.nodes, node.key: node})


def _without_node(draw: st.DrawFn, world: World, shape: Shape) -> World:
    gone = draw(st.sampled_from(NODE_NAMES))
    return replace(world, nodes={key: node for key, node in world.nodes.items() if key != gone})


_CLUSTER_CHANGES = (
    _put_cluster_policy,
    _changed_cluster_policy,
    _changed_cluster_policy,
    _changed_cluster_policy,
    _put_node,
    _without_node,
)
_CHANGES = (
    _new_pod,
    _changed_pod,
    _changed_pod,
    _without_pod,
    _put_namespace,
    _without_namespace,
    _put_policy,
    _put_policy,
    _without_policy,
)
