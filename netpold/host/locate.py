"""Which pods are on this node, and by which interfaces: told by the pods' manifests and a `HostView`.

A pod is local when its manifest names this node; where it names none, when an interface of it is found here or a
bridge of this host has one of its addresses on-link, and from then on until its manifest is gone: a pod that stops,
or that a reboot brings back, is isolated before its interface is there again.  Its interfaces are, in this order:
those that its annotation names and that exist; the device of the host route to each address; the bridge port behind
which the address's neighbour is.  A route or a neighbour can lead to an interface that is not the pod's own: to the
physical network, into a tunnel, or to a port that several stations share (an uplink); and two ports can claim one
address.  Rules for one pod must never sit on an interface of others, so the pod is enforced by address then (no
interfaces).  So it is until an interface is found.

A route can go for a moment, what is said on a bridge proves nothing, and a pod may gain by losing its interface: no
rule checks the source of what is known by address only.  So a pod keeps the interface that it was found behind while
that is there, and no other pod gets it by what is said, nor when the first is gone: only an annotation or a host route
says so.  An interface that a pod has left for another one is its old one, and abandoned.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from types import MappingProxyType

from netpold.host.remains import Left
from netpold.host.view import HostView, Link
from netpold.policy.model import Pod
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.unclaimed import Unclaimed

# Kinds of interfaces (IFLA_INFO_KIND) with more than one pod behind them.  So have physical ones, which have no kind.
_SHARED_KINDS = frozenset({
    "bareudp", "batadv", "bond", "bridge", "geneve", "gre", "gretap", "erspan", "gtp", "hsr", "ip6gre", "ip6gretap",
    "ip6erspan", "ip6tnl", "ipip", "ipoib", "ipvlan", "ipvtap", "l2tp_eth", "macsec", "macvlan", "netdevsim", "sit",
    "team", "vlan", "vrf", "vti", "vti6", "vxcan", "vxlan", "wireguard", "xfrm",
})  # fmt: skip
_NOBODYS: Mapping[str, str] = MappingProxyType({})
_SAFE_NAME = re.compile(r"[A-Za-z0-9._-]{1,15}")  # a final "+" would be a wildcard to iptables


class Places:
    """Where the local pods that take part in policies are, as of the last `update`.

    `endpoints`: by the pod's key; another object when anything in it changed.  `were_here`: keys of the pods without
    nodeName that were found here at some time, with those from before the daemon's start; likewise another object.
    `abandoned`: interfaces that are there and that no pod has, and the key of the pod that was found there last and is
    gone, or elsewhere.  `warnings`: what a person should look at (one sentence each, sorted).
    """

    def __init__(self, node: str, were_here: frozenset[str] = frozenset(), before: Iterable[Left] = ()) -> None:
        """`before`: the pods with their interfaces when the daemon ran last."""
        self.endpoints: Mapping[str, Endpoint] = {}
        self.were_here = were_here
        self.abandoned: Mapping[str, str] = {}
        self.warnings: tuple[str, ...] = ()
        self._node = node
        self._view = HostView()
        self._here: dict[str, Pod] = {}  # pods that are on this node, and those of which nobody says where they are
        self._doubts: dict[str, list[str]] = {}
        self._before = tuple(before)
        self._ports: dict[str, tuple[Link, ...]] = {}  # where a pod was found last
        self._owners: dict[int, str] = {}  # by the index of an interface, the pod that was found there last
        self._addresses: dict[int, tuple[str, ...]] = {}  # likewise, that pod's

    def update(self, view: HostView, pods: Mapping[str, tuple[Pod | None, Pod | None]]) -> None:
        """Look at the pods that changed (by key, before and after); at all that may be here, where the view did."""
        touched: set[str] = set()
        freed: set[str] = set()  # addresses that some pod has no more, whose place another one may inherit
        for key, (old, pod) in pods.items():
            if old is not None:
                freed.update(old.addresses)
            if old is not None and pod is not None and not is_same(old.addresses, pod.addresses):
                self._ports.pop(key, None)
            if pod is not None and pod.takes_part and pod.node in (None, self._node):
                self._here[key] = pod
                touched.add(key)
            else:
                if key in self.were_here:
                    self.were_here -= {key}
                if self._here.pop(key, None) is not None:
                    touched.add(key)
        if view is not self._view:
            self._view = view
            touched.update(self._here)
        if freed:
            touched.update(key for key, pod in self._here.items() if not freed.isdisjoint(pod.addresses))
        self._remember()
        if touched:
            self._look(touched)

    def forget_all_but(self, pods: Container[str]) -> None:
        """Pods without a manifest, now that all manifests are read, were not only here but are gone."""
        self.were_here = frozenset(key for key in self.were_here if key in pods)

    def _remember(self) -> None:
        """Where pods were before the daemon's start."""
        links = {link.index: link for link in self._view.links.values()}
        for left in self._before:
            there = [links[index] for index in left.links.values() if index in links]
            self._owners.update((link.index, left.pod.key) for link in there)
            self._addresses.update((link.index, left.addresses) for link in there)
            pod = self._here.get(left.pod.key)
            if pod is not None and not left.closed and is_same(left.addresses, pod.addresses):
                self._ports[pod.key] = (*self._ports.get(pod.key, ()), *there)
        self._before = ()

    def _look(self, keys: Iterable[str]) -> None:
        endpoints = dict(self.endpoints)
        links = self._view.links
        owners = {name: self._owners[link.index] for name, link in links.items() if link.index in self._owners}
        for key, here in self._here.items():  # what is written down counts for more
            owners.update((name, key) for name in here.interfaces if name in links)
        for key in sorted(keys):
            pod = self._here.get(key)
            kept = tuple(self._kept(key, owners))
            inherited = frozenset(self._inherited(pod, owners)) if pod else frozenset()
            endpoint = (
                locate_one(self._view, pod, self._node, key in self.were_here, owners, kept, inherited) if pod else None
            )
            endpoints.pop(key, None)
            self._doubts.pop(key, None)
            if pod is None or endpoint is None:
                self._ports.pop(key, None)
                continue
            own = [each.name for each in endpoint.interfaces if each.name not in inherited]
            if own:
                self._ports[key] = tuple(links[name] for name in own)
                self._addresses.update((links[name].index, pod.addresses) for name in own)
            owners.update((name, key) for name in own)
            endpoints[key] = endpoint
            self._doubts[key] = [*doubts(self._view, pod), *_denied(self._view, pod, owners)]
        self._owners = {links[name].index: key for name, key in owners.items()}
        self._addresses = {index: each for index, each in self._addresses.items() if index in self._owners}
        if endpoints != self.endpoints:
            self.endpoints = endpoints
        came = {key for key in keys if key in endpoints and self._here[key].node is None} - self.were_here
        if came:
            self.were_here |= came
        self.abandoned = dict(_abandoned(self._view, endpoints, owners))
        found = [doubt for of_pod in self._doubts.values() for doubt in of_pod]
        self.warnings = tuple(sorted((*found, *_clashes(self._view, endpoints))))

    def _inherited(self, pod: Pod, owners: Mapping[str, str]) -> Iterator[str]:
        """The interfaces of a pod that is gone and had an address of this one: mostly it has got another name.  But it
        may also be another pod, elsewhere, so it does not own them."""
        for name, key in owners.items():
            had = set(self._addresses.get(self._view.links[name].index, ()))
            owner = self._here.get(key)
            if (owner is None or had.isdisjoint(owner.addresses)) and not had.isdisjoint(pod.addresses):
                yield name

    def _kept(self, key: str, owners: Mapping[str, str]) -> Iterator[str]:
        """The interfaces that a pod was behind and that are still there."""
        links = {link.index: link for link in self._view.links.values()} if key in self._ports else {}
        for link in self._ports.get(key, ()):
            now = links.get(link.index)
            if now is not None and owners.get(now.name) == key:
                yield now.name


def is_same(before: tuple[str, ...], after: tuple[str, ...]) -> bool:
    """Whether it is the same pod whose addresses are these after those, and not another one of that name."""
    return not before or not set(before).isdisjoint(after)


def addresses(endpoints: Iterable[Endpoint]) -> frozenset[str]:
    """All addresses of some endpoints."""
    return frozenset(address for each in endpoints for address in each.addresses)


def locate_one(
    view: HostView,
    pod: Pod,
    node: str,
    was_here: bool = False,
    owners: Mapping[str, str] = _NOBODYS,
    kept: tuple[str, ...] = (),
    inherited: Container[str] = (),
) -> Endpoint | None:
    """A pod's endpoint; None where the pod is not local or takes no part in policies.  `was_here`: it was local before,
    and its manifest did not go since.  `owners`: of interfaces, by the keys of pods.  `kept`: the interfaces that the
    pod has as long as no route leads elsewhere; `inherited`: those that it may have, if nothing else is said."""
    if pod.node not in (None, node) or not pod.takes_part:
        return None
    names = [name for name in pod.interfaces if name in view.links] if pod.interfaces else []
    if not names:
        routed = [name for address in pod.addresses for name in _routed(view, address)]
        names = routed + (list(kept) if kept and not routed else _heard(view, pod, owners, inherited))
    if pod.node is None and not names and not was_here and not any(_is_near(view, each) for each in pod.addresses):
        return None
    return Endpoint(
        pod.key,
        tuple(address for address in pod.addresses if address not in view.own),
        tuple(Interface(name, view.links[name].master is not None) for name in dict.fromkeys(names) if _is_safe(name)),
        taken=any(address in view.own for address in pod.addresses),
    )


def _heard(view: HostView, pod: Pod, owners: Mapping[str, str], inherited: Container[str]) -> list[str]:
    """The port that a bridge's tables have for a pod's addresses; none where these do not agree."""
    contested = [address for address in pod.addresses if address in view.contested]
    if not contested:
        ports = [name for address in pod.addresses for name in _found_on_bridge(view, address)]
        return [port for port in ports if owners.get(port, pod.key) == pod.key or port in inherited]
    free = {port for each in contested for port in view.contested[each] if owners.get(port, pod.key) == pod.key}
    return [port for port in free if len(free) == 1 and not _is_shared(view, port) and _is_own(view, port)]


def doubts(view: HostView, pod: Pod) -> Iterator[str]:
    """What may be wrong with one local pod's place."""
    for name in pod.interfaces:
        if not _is_safe(name):
            yield f"pod {pod.key}: interface {name!r} can't be matched in a rule, so it is left out; rename it"
        elif name not in view.links:
            yield f"pod {pod.key}: interface {name} of annotation netpold.io/interface does not exist on this host"
    for address in pod.addresses:
        if address in view.own:
            yield f"pod {pod.key}: {address} is this host's own address; set spec.hostNetwork or correct status.podIPs"
        elif not pod.interfaces:
            yield from _doubts_about_address(view, pod, address)


def _doubts_about_address(view: HostView, pod: Pod, address: str) -> Iterator[str]:
    where = f"pod {pod.key}: {address}"
    if address in view.contested:
        ports = " and ".join(view.contested[address])
        held = "the pod keeps the port that it had, or is enforced by address"
        yield f"{where} was heard on ports {ports}: {held}; remove the wrong port"
    cure = "name the pod's interface in annotation netpold.io/interface"
    for name in _found(view, address):
        if not _is_safe(name):
            yield f"{where} is behind interface {name!r}, which can't be matched in a rule; rename it"
    port = view.port(address)
    if port is not None and _is_shared(view, port) and not _found(view, address):
        yield f"{where} is behind bridge port {port}, which others share, so it is enforced by address; {cure}"


def _denied(view: HostView, pod: Pod, owners: Mapping[str, str]) -> Iterator[str]:
    """A pod whose address is heard behind another pod's port."""
    for address in pod.addresses if not pod.interfaces else ():
        port = view.port(address)
        if port is not None and owners.get(port, pod.key) != pod.key:
            heard = f"{address} is heard behind {port}, the port of pod {owners[port]}, and not believed"
            yield f"pod {pod.key}: {heard}; if it is there, say so in annotation netpold.io/interface"


def _abandoned(
    view: HostView, endpoints: Mapping[str, Endpoint], owners: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Interfaces that were pods', by name, with the pods' keys.  A pod that is here and at no interface may yet be
    behind its old one."""
    claimed = {interface.name for each in endpoints.values() for interface in each.interfaces}
    for name, key in owners.items():
        is_lost = key not in endpoints or endpoints[key].interfaces
        if is_lost and name not in claimed and _is_own(view, name):
            yield name, key


def _clashes(view: HostView, endpoints: Mapping[str, Endpoint]) -> Iterator[str]:
    """Interfaces that several pods claim, unless the routes say that these are behind it."""
    users: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints.values():
        for interface in endpoint.interfaces:
            users.setdefault(interface.name, []).append(endpoint)
    for name, sharing in users.items():
        routed = all(view.routes.get(address) == name for endpoint in sharing for address in endpoint.addresses)
        addresses = [address for endpoint in sharing for address in endpoint.addresses]
        if len(sharing) > 1 and not (routed and len(set(addresses)) == len(addresses)):
            pods = " and ".join(sorted(endpoint.pod for endpoint in sharing))
            yield f"interface {name} is claimed by pods {pods}; correct their annotations or addresses"


def nobodys(view: HostView, names: tuple[str, ...]) -> Unclaimed:
    """What to close by the names of pods' interfaces (setting `pod_interfaces`), on this host."""
    every = Unclaimed(names)
    if not names:
        return every
    covered = [link for link in view.links.values() if _is_safe(link.name) and every.covers(link.name)]
    shared = [link for link in covered if link.kind != "bridge" and not _is_own(view, link.name)]
    return Unclaimed(
        names,
        frozenset(link.name for link in covered if link.kind == "bridge"),
        frozenset(Interface(link.name, link.master is not None) for link in shared),
    )


def unclaimed(view: HostView, closing: Unclaimed, endpoints: Iterable[Endpoint]) -> tuple[str, ...]:
    """The interfaces of this host that are closed, since no pod claims them: names, sorted."""
    claimed = {interface.name for each in endpoints for interface in each.interfaces}
    shared = closing.bridges | {interface.name for interface in closing.shared}
    named = {name for name in view.links if closing.covers(name)} - shared
    return tuple(sorted((named | {interface.name for interface in closing.interfaces}) - claimed))


def _found(view: HostView, address: str) -> tuple[str, ...]:
    """The interface that a route or a bridge's tables have for an address, where that can be one pod's own."""
    return _routed(view, address) or _found_on_bridge(view, address)


def _routed(view: HostView, address: str) -> tuple[str, ...]:
    device = _device(view, address)
    return (device,) if device is not None and address not in view.own and _is_own(view, device) else ()


def _found_on_bridge(view: HostView, address: str) -> tuple[str, ...]:
    if address in view.own or _device(view, address) is not None:
        return ()
    port = view.port(address)
    return (port,) if port is not None and not _is_shared(view, port) and _is_own(view, port) else ()


def _device(view: HostView, address: str) -> str | None:
    """That a host route leads to, but for a bridge: that says not to which port."""
    device = view.routes.get(address)
    return None if device is None or view.links[device].kind == "bridge" else device


def _is_shared(view: HostView, port: str) -> bool:
    """Whether a bridge's port leads to others, too.  A namespace's own end of a veth does not, however many MAC
    addresses speak there: else a pod could rid itself of its port's rules by making some up."""
    return port in view.uplinks and not view.links[port].away


def _is_near(view: HostView, address: str) -> bool:
    """Whether a bridge has the address on-link, and not behind a port that leads off this host."""
    if view.bridge(address) is None or address in view.own:
        return False
    port = view.port(address)
    return port is None or _is_own(view, port)


def _is_own(view: HostView, name: str) -> bool:
    kind = view.links[name].kind
    return kind is not None and kind not in _SHARED_KINDS


def _is_safe(name: str) -> bool:
    return _SAFE_NAME.fullmatch(name) is not None
