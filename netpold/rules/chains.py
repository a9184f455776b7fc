"""The chains of one family, from the local pods with the policies that isolate them.

    FORWARD -> NETPOLD-FORWARD
        NETPOLD-FROM        which pod sends: by interface (tree), bridge port (tree), address (tree)
            NP-OUT-...      its source address must be the pod's (spoofing.py); replies pass; then its egress rules
        revoked             what answers connections that are no longer allowed (revoke.py)
        replies, errors     of connections that were judged in their original direction (icmp.py)
        revoked             what goes on with such a connection that conntrack has forgotten
        NETPOLD-TO          which pod receives, likewise
            NP-IN-...       its ingress rules
    INPUT   -> NETPOLD-INPUT      pods to their own node: source addresses, the node's loopback; what the tiers say;
                                  egress rules of all policies if the settings say so
    OUTPUT  -> NETPOLD-OUTPUT     the node to its pods, only if the settings say so
    NP-RULES-<hash>         compiled rules of a pod's policies in a direction; RETURN allows, DROP at the end (RETURN
                            where all of them are audited: audit.py); of tiers in several chains (shared.py)

A RETURN means "this pod allows it": it comes back to NETPOLD-FORWARD, which goes on to the other pod.  So several
judges of one packet add up to "all of them allow", whoever they are; that is also how an address that two pods claim
is judged.  The source address is checked before anything else, replies included: a pod cannot answer for another.

Replies are those of conntrack (`--ctdir REPLY`); packets of the original direction are judged one by one, so a
tighter policy stops open connections.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

from netpold.policy.model import Direction, Family
from netpold.rules import at_home, destinations, dispatch, icmp, spoofing
from netpold.rules.local import Local
from netpold.rules.parts import Parts
from netpold.rules.peers import PolicyRules
from netpold.rules.places import address_chain, interface_chain, passes, where
from netpold.rules.reasons import ITSELF
from netpold.rules.revoke import forgotten_rule, revoked_rule
from netpold.rules.ruleset import (
    Address,
    Goto,
    HopLimit,
    IcmpType,
    InSet,
    Jump,
    Match,
    Reply,
    Routed,
    Rule,
    Side,
    Target,
)
from netpold.rules.sets import Sets
from netpold.rules.settings import CompileSettings
from netpold.rules.shared import SharedRules
from netpold.rules.unclaimed import CHAIN, Unclaimed, before_replies, closing

_RECEIVER = "NETPOLD-TO"
_HOST = "NETPOLD-HOST"

# Linux routes what is for a link-local address back to where it came from: there it is a pod's own that nobody knows.
_OFF_THE_BRIDGE = Rule((Routed(), Address("dst", icmp.LINK_LOCAL)), "DROP", "link-local: not to be routed")


class Chains:
    """Builds the chains of one family.  Parts whose inputs are those of the last time are taken from there."""

    def __init__(self, family: Family, settings: CompileSettings, sets: Sets, rules: PolicyRules) -> None:
        self.family = family
        self.settings = settings
        self.sets = sets
        self.policy_rules = rules
        self._parts = Parts()

    def build(self, local: list[Local], active: bool, unclaimed: Unclaimed) -> Mapping[str, tuple[Rule, ...]]:
        """All chains, for these pods; `active`: any policy is enforced; `unclaimed`: what is closed beside them."""
        self.local = local
        self.unclaimed = unclaimed
        self.shared = SharedRules(self.family, self.settings.nflog_group, self.policy_rules)
        self.spoof_checks = active and self.settings.anti_spoofing  # without such a policy a node drops nothing
        self.levels = dispatch.LEVELS - any(each.has_tiers for each in local)  # theirs are more chains behind each tree
        self._parts.begin((self.spoof_checks, self.levels))
        self.on_interface: dict[tuple[str, bool], list[Local]] = defaultdict(list)
        self.at_address: dict[str, list[Local]] = defaultdict(list)
        for each in local:
            for interface in each.endpoint.interfaces:
                self.on_interface[interface.name, interface.bridged].append(each)
            for address in each.judged_at(self.family):
                self.at_address[address].append(each)
        self._heads()
        if unclaimed:
            endpoints = (each.endpoint for each in local)
            self.chains.update(closing(unclaimed, endpoints, self.family, self.sets, self.settings.nflog_group))
        self.uses = self._parts.uses()  # by chain, the sets that it refers to
        return self.chains

    @property
    def chains(self) -> dict[str, tuple[Rule, ...]]:
        return self._parts.chains

    def _heads(self) -> None:
        outgoing = self._tree("NETPOLD-FROM", "src", Direction.EGRESS)
        incoming = self._tree(_RECEIVER, "dst", Direction.INGRESS)
        self._forward(bool(outgoing), bool(incoming))
        self._input(bool(outgoing))
        if self.settings.host_to_pods == "policy":
            revoked, forgotten = self._revoked(bool(outgoing or incoming))
            self.chains["NETPOLD-INPUT"] = (*revoked, *forgotten, *self.chains["NETPOLD-INPUT"])
            self.chains["NETPOLD-OUTPUT"] = (
                *icmp.neighbour_discovery(self.family),
                *revoked,
                Rule((Reply(),), "RETURN", "replies"),
                *forgotten,
                *([Rule((), Goto(_RECEIVER))] if incoming else []),
            )

    # The heads ----------------------------------------------------------------------------------------------------

    def _forward(self, outgoing: bool, incoming: bool) -> None:
        done: Target = Goto("NETPOLD-ACCEPT") if self.settings.accept else "RETURN"
        if self.settings.accept:
            self._accept()
        sender = [Rule((), Jump("NETPOLD-FROM"))] if outgoing else []
        receiver = [Rule((), Jump(_RECEIVER))] if incoming else []
        errors, chains = icmp.errors(self.family, self._forged_errors(), done)
        self.chains.update(chains)
        passed = [Rule((Reply(),), done, "replies"), *errors]
        if self.unclaimed:
            passed = [*(before_replies(self.family, rule.matches) for rule in passed), *passed]
        last = [Rule((), done)] if self.settings.accept else []
        # never without a match on conntrack: a flow that is known only from its middle, because nothing asked for
        # conntrack before the first policy came, may be taken for one that began at the other end
        revoked, forgotten = self._revoked(outgoing or incoming)
        rules = [*sender, *revoked, *passed, *forgotten, *receiver, *last]
        if self.family == 6 and (outgoing or incoming):
            # only what is bridged still has a hop limit of 255: routing takes one off
            advertised = Rule(
                (icmp.protocol(6), IcmpType(icmp.ROUTER_ADVERTISEMENT)),
                done,
                "from no pod: these were sorted out above",
            )
            self.chains["NETPOLD-ND"] = (
                *icmp.neighbour_discovery(6, done),
                *(icmp.no_router() if self._closes(self.local, *Direction) else ()),
                *sender,
                advertised,
                *passed,
                *receiver,
                *last,
            )
            rules.insert(0, Rule((icmp.protocol(6), HopLimit(255)), Goto("NETPOLD-ND")))
        self.chains["NETPOLD-FORWARD"] = tuple(rules)

    def _revoked(self, any_policy: bool) -> tuple[list[Rule], list[Rule]]:
        """What is to stand just before replies pass, and just behind: no reply has to walk past it."""
        return ([revoked_rule(self.family)], [forgotten_rule(self.family)]) if any_policy else ([], [])

    def _forged_errors(self) -> bool:
        """Makes the chains that drop errors which are no pod's own; whether there are any."""
        addresses = sorted(self.at_address) if self.spoof_checks else []
        make = partial(icmp.forged_errors, addresses)
        chains = self._parts.once(icmp.FORGED_ERRORS, addresses, make)
        self.chains.update(chains)
        return bool(chains)

    def _input(self, outgoing: bool) -> None:
        first: list[Rule] = []
        if self.spoof_checks and self.local:
            first, chains = spoofing.loopback(self.family)
            self.chains.update(chains)
        if self.settings.host_access == "policy":
            forged = [Rule(icmp.error(self.family), Jump(icmp.FORGED_ERRORS))] if self._forged_errors() else []
            judged = [*icmp.neighbour_discovery(self.family), *forged, Rule((), Goto("NETPOLD-FROM"))]
            self.chains["NETPOLD-INPUT"] = (*first, *(judged if outgoing else ()))
            return
        by_address = {
            address: self._parts.once(("host", address), pods, partial(self._host_address_leaf, address, pods))
            for address, pods in self.at_address.items()
        }
        leading = {address: leaf for address, leaf in by_address.items() if leaf}
        others = self._parts.once(_HOST, leading, partial(self._address_tree, f"{_HOST}@", leading, "src"))
        leaves = {
            key: self._parts.once(
                ("host", key), (pods, bool(others)), partial(self._host_leaf, *key, pods, bool(others))
            )
            for key, pods in self.on_interface.items()
        }
        rules = self._interface_trees(_HOST, "src", {key: rules for key, rules in leaves.items() if rules})
        self.chains["NETPOLD-INPUT"] = (*first, *rules, *others)

    def _host_leaf(self, name: str, bridged: bool, pods: list[Local], ends: bool) -> tuple[Rule, ...]:
        """What an interface's pods may send to their own node: NetworkPolicies leave that free, tiers do not.  `ends`:
        there is more behind the tree that they need not pass."""
        here = passes("src", name, bridged)
        judged = self._at_home(pods)
        if not judged:
            check = self._spoof_check(pods, spoofing.ALIEN)
            return where(here, (*check, Rule((), "RETURN")) if ends else check)
        chain = at_home.interface_chain(name)
        self.chains[chain] = (*self._spoof_check(pods, spoofing.ALIEN, then=judged), *judged)
        return (Rule((here,), Goto(chain)),)

    def _host_address_leaf(self, address: str, pods: list[Local]) -> tuple[Rule, ...]:
        """The same for what comes another way with a pod's address."""
        judged = self._at_home(pods)
        if not judged:
            return ()
        chain = at_home.chain(address, (each.key for each in pods))
        self.chains[chain] = tuple(judged)
        return (Rule((Address("src", address),), Goto(chain)),)

    def _at_home(self, pods: list[Local]) -> list[Rule]:
        rules, chains = at_home.judged(pods, self.shared, self.family)
        self.chains.update(chains)
        return rules

    def _accept(self) -> None:
        """Only traffic of this node's pods is accepted; the host's other rules judge the rest."""
        own = [address for each in self.local for address in each.own(self.family)]
        name = self.sets.addresses("pods of this node", self.family, own)
        self.chains["NETPOLD-ACCEPT"] = (
            Rule((InSet(name, "src"),), "ACCEPT"),
            Rule((InSet(name, "dst"),), "ACCEPT"),
        )

    # From packet to pod -------------------------------------------------------------------------------------------

    def _tree(self, root: str, side: Side, direction: Direction) -> list[Rule]:
        """The trees of one side; makes the chain `root` and gives its rules, none where no pod is concerned.

        A packet that passes an interface of a pod is judged there.  One that passes any other way is judged by its
        address: its pod's interface may not be known yet, or be another than a moment ago, or a neighbour on a bridge
        may lie about where an address is.
        """
        by_address: dict[str, tuple[Rule, ...]] = {}
        for address, pods in self.at_address.items():
            make = partial(self._address_leaf, side, address, pods, direction)
            leaf = self._parts.once(("address", direction, address), pods, make)
            if leaf:
                by_address[address] = leaf
        missed = f"{root}@"
        others = self._parts.once(missed, by_address, partial(self._address_tree, missed, by_address, side))
        if self.unclaimed:
            others = [Rule((), Jump(CHAIN[side])), *others]
        if others and self.family == 6 and side == "dst" and any(bridged for _, bridged in self.on_interface):
            others = [_OFF_THE_BRIDGE, *others]
        if others:
            self.chains[missed] = tuple(others)
        leaves = {
            key: self._parts.once(
                ("leaf", direction, key),
                (pods, bool(others)),
                partial(self._interface_leaf, side, *key, pods, direction, bool(others)),
            )
            for key, pods in self.on_interface.items()
        }
        named = {key: leaf for key, leaf in leaves.items() if leaf}
        rules = self._interface_trees(root, side, named, missed if others else "")
        if others:
            rules = [*rules, Rule((), Goto(missed))]
        if rules:
            self.chains[root] = tuple(rules)
        return rules

    def _address_tree(self, root: str, leaves: dispatch.Leaves, side: Side) -> Sequence[Rule]:
        rules, chains = dispatch.addresses(root, leaves, side, self.levels)
        self.chains.update(chains)
        return rules

    def _interface_trees(
        self, root: str, side: Side, leaves: Mapping[tuple[str, bool], tuple[Rule, ...]], missed: str = ""
    ) -> list[Rule]:
        rules: list[Rule] = []
        for bridged, tree in ((True, f"{root}="), (False, f"{root}-")):
            of_kind = {name: leaf for (name, is_bridged), leaf in leaves.items() if is_bridged is bridged}
            make = partial(self._name_tree, tree, of_kind, side, bridged, missed)
            rules += self._parts.once(tree, (of_kind, missed), make)
        return rules

    def _name_tree(self, root: str, leaves: dispatch.Leaves, side: Side, bridged: bool, missed: str) -> Sequence[Rule]:
        rules, chains = dispatch.names(
            root, leaves, lambda name: passes(side, name, bridged, prefix=True), missed, self.levels
        )
        self.chains.update(chains)
        return rules

    def _interface_leaf(
        self, side: Side, name: str, bridged: bool, pods: list[Local], direction: Direction, ends: bool
    ) -> tuple[Rule, ...]:
        """What holds for packets from (to) one interface: a goto to its chain, or where no pod is isolated the check
        of the source address alone.  `ends`: there is more behind the tree that they need not pass."""
        here = passes(side, name, bridged)
        if not any(each.isolation[direction] for each in pods):
            if bridged and direction is Direction.INGRESS:
                return where(here, self._own_destinations(pods) if ends else ())
            check = self._spoof_check(pods, spoofing.ALIEN) if direction is Direction.EGRESS else ()
            return where(here, (*check, Rule((), "RETURN")) if ends else check)
        if direction is Direction.EGRESS:
            chain, rules = interface_chain(name, direction), self._egress_of_interface(pods)
        else:
            chain, rules = (
                interface_chain(name, direction),
                self._ingress_of_interface(passes("src", name, bridged), pods, bridged and ends),
            )
        self.chains[chain] = tuple(rules)
        return (Rule((here,), Goto(chain)),)

    def _egress_of_interface(self, pods: list[Local]) -> list[Rule]:
        closes = self._closes(pods, Direction.EGRESS)
        if len(pods) == 1:
            return self._egress_of(pods, closes)
        check = self._spoof_check(pods, spoofing.SPOOF if closes else spoofing.ALIEN)
        rules = self._by_address(pods, Direction.EGRESS)
        return [*rules, Rule((), Goto(self._spoof_chain(spoofing.SPOOF)))] if closes else [*rules, *check]

    def _egress_of(self, pods: list[Local], closes: bool) -> list[Rule]:
        """What the only pod behind an interface sends.  Of what it sends without its address NetworkPolicies that
        isolate it allow nothing; tiers deny what they name."""
        judged = self._judge(pods, Direction.EGRESS)
        if closes and pods[0].is_isolated(Direction.EGRESS):
            return [*self._spoof_check(pods, spoofing.SPOOF), *judged]
        return [*self._spoof_check(pods, spoofing.ALIEN, then=judged if closes else ()), *judged]

    def _ingress_of_interface(self, own: Match, pods: list[Local], others_too: bool) -> list[Rule]:
        """`others_too`: what is for somebody else is judged by address, too."""
        if len(pods) == 1:
            others = self._own_destinations(pods, negate=True) if others_too else ()
            return [Rule((own,), "RETURN", ITSELF), *others, *self._judge(pods, Direction.INGRESS)]
        # what else is sent to an interface with an isolated pod behind it is meant for nobody that is known
        closed = [Rule((), "DROP", "no pod has this address")] if self._closes(pods, Direction.INGRESS) else []
        return [*self._by_address(pods, Direction.INGRESS), *closed]

    def _closes(self, pods: Iterable[Local], *directions: Direction) -> bool:
        return any(each.closes(direction) for each in pods for direction in directions)

    def _own_destinations(self, pods: list[Local], negate: bool = False) -> tuple[Rule, ...]:
        """See destinations.py."""
        own = sorted({address for each in pods for address in each.own(self.family)})
        names = " ".join(sorted(each.key for each in pods))
        target: Target = Jump(f"{_RECEIVER}@") if negate else "RETURN"
        return destinations.own(own, names, target, negate, self.family, self.sets)

    def _by_address(self, pods: list[Local], direction: Direction) -> list[Rule]:
        """Several pods behind one interface: which one, by address."""
        claimants: dict[str, list[Local]] = defaultdict(list)
        for each in pods:
            for address in each.own(self.family):
                claimants[address].append(each)
        side: Literal["src", "dst"] = "src" if direction is Direction.EGRESS else "dst"
        rules = []
        for address in sorted(claimants):
            chain = self._address_chain(address, claimants[address], direction)
            rules.append(Rule((Address(side, address),), Goto(chain) if chain else "RETURN"))
        return rules

    def _address_leaf(self, side: Side, address: str, pods: list[Local], direction: Direction) -> tuple[Rule, ...]:
        chain = self._address_chain(address, pods, direction)
        return (Rule((Address(side, address),), Goto(chain)),) if chain else ()

    def _address_chain(self, address: str, pods: list[Local], direction: Direction) -> str:
        """The chain that judges for the pods at an address; '' where none is isolated."""
        isolated = [each for each in pods if each.isolation[direction]]
        if not isolated:
            return ""
        own = self._hairpins(isolated) if direction is Direction.INGRESS else []
        chain = address_chain(address, [each.key for each in isolated], direction)
        self.chains[chain] = (*own, *self._judge(isolated, direction))
        return chain

    def _hairpins(self, pods: list[Local]) -> list[Rule]:
        """What the pods send to themselves by way of the host.  Anybody could send with their addresses, so only what
        comes from an interface of theirs, where these are known."""
        common = frozenset.intersection(*(frozenset(each.own(self.family)) for each in pods))
        interfaces = sorted({each for pod in pods for each in pod.endpoint.interfaces})
        here: list[tuple[Match, ...]] = [(passes("src", each.name, each.bridged),) for each in interfaces]
        if not all(pod.endpoint.interfaces for pod in pods):
            here = [()]
        return [
            Rule((*matches, Address("src", address)), "RETURN", ITSELF)
            for matches in here
            for address in sorted(common)
        ]

    # What a pod says ----------------------------------------------------------------------------------------------

    def _judge(self, pods: list[Local], direction: Direction) -> list[Rule]:
        """The rules of the policies of each of the pods, all of which must allow (almost always it is one pod)."""
        rules: list[Rule] = []
        if direction is Direction.EGRESS:
            rules = [
                Rule((Reply(),), "RETURN", "replies"),
                Rule(icmp.error(self.family), "RETURN", "errors about known connections"),
            ]
            own = frozenset.intersection(*(frozenset(each.own(self.family)) for each in pods))
            rules += [Rule((Address("dst", address),), "RETURN", ITSELF) for address in sorted(own)]
        judges = [chain for each in pods if (chain := self._rules_chain(each, direction))]
        rules += [Rule((), Jump(chain)) for chain in judges[:-1]]
        rules += [Rule((), Goto(chain)) for chain in judges[-1:]]
        return rules

    def _rules_chain(self, each: Local, direction: Direction) -> str:
        """The shared chain with the rules of all policies that judge a pod in a direction; '' where none does."""
        shared = self.shared.of(each, direction)
        self.chains.update(shared.chains)
        return shared.name

    # Source addresses ---------------------------------------------------------------------------------------------

    def _spoof_check(self, pods: list[Local], chain: str, then: Sequence[Rule] = ()) -> tuple[Rule, ...]:
        """Packets with a source address that none of the pods has go to `chain`.  `then`: what judges those that it
        lets pass, but for what is sent before a host has an address.

        No check where a pod has no address at all yet: then nothing is known to compare with.
        """
        if not self.spoof_checks or not all(each.endpoint.addresses or each.endpoint.taken for each in pods):
            return ()
        own = sorted({address for each in pods for address in each.own(self.family)})
        names = " ".join(sorted(each.key for each in pods))
        made = self._spoof_chain(chain)
        target: Target = Jump(made) if then else Goto(made)
        first = spoofing.before_addresses(self.family) if then else []
        return (*first, spoofing.others(own, names, target, self.family, self.sets))

    def _spoof_chain(self, chain: str) -> str:
        """Makes the chain, and gives its name."""
        self.chains.update(spoofing.chains(chain, self.family, self.settings.nflog_group))
        return chain
