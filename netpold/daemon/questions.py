"""What may be asked about what is in force, and the answers, as JSON.

Each question is a function that takes the parameters of its URL, and gives a generator, which the loop runs a step at a
time between two rounds (inbox.py): it looks at the loop's own state, by way of Facts.  What changed between two of its
steps may make an answer that holds for no moment; such a one is begun again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum, auto
from itertools import chain
from typing import Any

from netpold.daemon.bridge_filter import ALL_SEEN, BridgeFilter
from netpold.daemon.inbox import Inbox, Question, T
from netpold.policy.canonical import title, written
from netpold.policy.index import Index
from netpold.policy.manifest import Object
from netpold.policy.model import World
from netpold.policy.rule_lines import rule_lines
from netpold.rules import asked
from netpold.rules.answers import explain_json, matrix_json
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.ends import NOWHERE, End, Home, UnknownEndpoint, asked_end, judges
from netpold.rules.matrix import matrix_in_steps
from netpold.rules.offline import between
from netpold.rules.page import explained_in_steps
from netpold.rules.port import NoPort, as_json, parse
from netpold.rules.ruleset import Ruleset
from netpold.rules.settings import CompileSettings

STEP = 50  # objects that are written between two pauses: some milliseconds
ANSWER_S = 10.0  # how long who asks waits for the loop
TRIES = 5  # how often to begin again

Json = dict[str, Any]


class Texts(list[str]):
    """Values in an answer that are written as JSON already: ten thousand of them are no work for the collector."""


class Why(Enum):
    """There is no answer: the question is wrong, asks for what is not there, comes at a bad time, or
    after a flush, when nothing is in force any more."""

    WRONG = auto()
    UNKNOWN = auto()
    BUSY = auto()
    FLUSHED = auto()


class NoAnswer(Exception):
    """The question can't be answered: the reason in words, and what to do."""

    def __init__(self, why: Why, fault: str, hint: str) -> None:
        super().__init__(fault)
        self.why = why
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Facts:
    """What is in force at a moment, for the loop's thread alone: it changes some of it in place.

    `moment`: another one when anything of it is another.  `endpoints`: the local pods, by key.  `bridge_filter`:
    which packets of this node's pods do not pass netpold's rules at all.  `instead`: what is in force instead of the
    manifests, in words.
    """

    moment: tuple[int, int]
    revision: int
    state: str
    node: str
    index: Index
    ruleset: Ruleset
    endpoints: Mapping[str, Endpoint]
    settings: CompileSettings
    home: Home = NOWHERE
    bridge_filter: BridgeFilter = ALL_SEEN
    instead: str | None = None

    @property
    def world(self) -> World:
        return self.index.world


Parameters = Mapping[str, str]
Look = Callable[[], Facts]  # at how things are now; raises NoAnswer


def answer(
    question: Callable[[Facts, Parameters], Question[Json]], look: Look, parameters: Parameters
) -> Question[Json]:
    """The question's answer, which holds for one moment.  Raises NoAnswer."""
    for _ in range(TRIES):
        facts = look()
        steps = question(facts, parameters)
        try:
            while look().moment == facts.moment:
                next(steps)
                yield
        except StopIteration as end:
            head = {"version": 1, "revision": facts.revision, "state": facts.state, "node": facts.node}
            past = {"unfiltered": facts.bridge_filter.unfiltered(), "unfiltered_tagged": []}
            return {**head, "instead": facts.instead, **past, **end.value}
    raise NoAnswer(
        Why.BUSY, "what is in force changes faster than this can be answered", "try again when less is changing"
    )


def explain(facts: Facts, parameters: Parameters) -> Question[Json]:
    """`source`, `destination`: pods or addresses; `port`: as in `80/TCP`."""
    source, destination = required(parameters, "source"), required(parameters, "destination")
    asked = (source, destination, *_port(required(parameters, "port")))
    try:
        ends = asked_end(facts.index, source, facts.home), asked_end(facts.index, destination, facts.home)
        here = explain_json(facts.index, facts.ruleset, *asked, _own(facts, *ends), facts.home)
        here["unfiltered_tagged"] = facts.bridge_filter.tagged_between(ends, facts.endpoints)
        away = [judges(facts.index, each) - facts.endpoints.keys() for each in ends]
        yield
        if not any(away):
            return _told(facts, here, here, away)
        # what other nodes make of the same manifests for these pods
        ruleset = yield from between(facts.index, sorted(set().union(*away)), ends, facts.settings)
        return _told(facts, here, explain_json(facts.index, ruleset, *asked, home=facts.home), away)
    except UnknownEndpoint as error:
        raise NoAnswer(Why.UNKNOWN, str(error), error.hint) from error


def _own(facts: Facts, source: End, destination: End) -> Interface | None:
    """By which a pod sends to itself."""
    if source.pod is None or source.addresses != destination.addresses or source.pod.key not in facts.endpoints:
        return None
    return next(iter(facts.endpoints[source.pod.key].interfaces), None)


def _told(facts: Facts, here: Json, there: Json, away: Sequence[Set[str]]) -> Json:
    """One answer of both: each end's pod is judged on its own node."""
    told = dict(here)
    for direction, pods in zip(("egress", "ingress"), away, strict=True):
        denies = here[direction]["verdict"] == "deny"
        of = there if pods and not denies else here
        told[direction] = {**of[direction], "in_force": of is here, "node": _node(facts, pods)}
        if of is not here:
            told[direction]["sets"] = [_elsewhere(facts, each) for each in of[direction]["sets"]]
    denied = any(told[direction]["verdict"] == "deny" for direction in ("egress", "ingress"))
    told["verdict"] = "deny" if denied else "allow"
    both = ((family, {each["families"][family] for each in (here, there)}) for family in here["families"])
    told["families"] = {family: "deny" if "deny" in verdicts else "allow" for family, verdicts in both}
    return told


def _elsewhere(facts: Facts, told: Json) -> Json:
    """A set of another node, of which only the members that were asked about are known, unless it is here as well."""
    here = facts.ruleset.sets.get(told["name"])
    return {**told, "members": len(here.members) if here else None}


def _node(facts: Facts, pods: Set[str]) -> str | None:
    """Of the pods that are elsewhere, as far as their manifests say."""
    return next((node for key in sorted(pods) if (node := facts.world.pods[key].node)), None) if pods else facts.node


def matrix(facts: Facts, parameters: Parameters) -> Question[Json]:
    """Of this node's pods, or of others that are asked about: `namespace`, `pods` (patterns), `node`; `addresses`;
    `ports`.  With `explained`, what `explain` says of each cell."""
    world = facts.world
    patterns, node = _listed(parameters, "pods"), parameters.get("node") or None
    namespaces = _listed(parameters, "namespace")
    pods = asked.pods(world, namespaces, patterns, node)
    if fault := asked.fault(world, pods, namespaces, patterns, node):
        raise NoAnswer(Why.UNKNOWN, *fault)
    if not patterns and node is None:
        pods = [key for key in pods if key in facts.endpoints]
    if len(pods) > asked.MOST_PODS:
        hint = f"choose up to {asked.MOST_PODS:,} of them with namespace, node or pods"
        raise NoAnswer(Why.WRONG, f"{len(pods):,} pods make {len(pods) ** 2:,} pairs", hint)
    if not pods and namespaces:
        hint = f"ask about pods anywhere with a pattern: '{namespaces[0]}/*'"
        raise NoAnswer(Why.UNKNOWN, f"no pod of {' or '.join(namespaces)} is on this node", hint)
    wanted = [_port(each) for each in _listed(parameters, "ports")]
    ports, left_out = (wanted, []) if wanted else asked.ports(world, pods)
    in_force = facts.endpoints.keys() >= set(pods)
    others, ruleset = _listed(parameters, "addresses"), facts.ruleset
    try:
        ends = asked.once(asked_end(facts.index, name, facts.home) for name in (*pods, *others))
        if not in_force:
            ruleset = yield from between(facts.index, pods, ends, facts.settings)
        found = yield from matrix_in_steps(facts.index, ruleset, ends, ports)
    except UnknownEndpoint as error:
        raise NoAnswer(Why.UNKNOWN, str(error), error.hint) from error
    what = f"what node {facts.node} enforces" if in_force else f"what node {facts.node} knows"
    told = {
        **matrix_json(found),
        "ports_left_out": [as_json(port) for port in left_out],
        "in_force": in_force,
        "about": f"{what}, revision {facts.revision}",
        "unfiltered_tagged": facts.bridge_filter.tagged_between(ends, facts.endpoints),
    }
    if parameters.get("explained"):
        told["explained"] = yield from explained_in_steps(facts.index, ruleset, found)
    return told


def names(facts: Facts, parameters: Parameters) -> Question[Json]:
    """What can be asked about, for completion."""
    yield from ()
    world = facts.world
    nodes = {*world.nodes, *(pod.node for pod in world.pods.values() if pod.node)}
    tables: Mapping[str, Iterable[str]] = {
        "pods": world.pods,
        "policies": world.policies,
        "namespaces": world.namespaces,
        "lingering": {each.pod.key for each in facts.home.lingering.values() if not each.lost},
        "nodes": nodes,
    }
    return {name: sorted(keys) for name, keys in tables.items()}


def manifests(facts: Facts, parameters: Parameters) -> Question[Json]:
    """The world in force, as the manifests that say it, and what of it is this node's own."""
    found, where = Texts(), Texts()
    for number, each in enumerate(_objects(facts.world)):
        found.append(written(each))
        at = each.position
        name = title(each)
        place = {"file": at and at.file, "line": at and at.line, "rules": rule_lines(each)}
        where.append(json.dumps({"object": name, **place, "quarantined": each.quarantined}))
        if number % STEP == 0:
            yield
    tagged = facts.bridge_filter.tagged_of(facts.endpoints)
    home = {"addresses": sorted(facts.home.addresses), "pods": sorted(facts.home.pods & facts.world.pods.keys())}
    return {"manifests": found, "where": where, "home": home, "unfiltered_tagged": tagged}


def _objects(world: World) -> Iterator[Object]:
    tables: Iterable[Mapping[str, Object]] = (world.namespaces, world.nodes, world.policies, world.pods)
    return iter(list(chain.from_iterable(each.values() for each in tables)))


def in_time(inbox: Inbox, question: Question[T], seconds: float = ANSWER_S) -> T:
    """The loop's answer.  Raises NoAnswer, also where it has no time for one."""
    try:
        return inbox.ask(question, seconds)
    except TimeoutError as error:
        hint = "try again in a moment; `netpoldctl status` says what it does"
        raise NoAnswer(Why.BUSY, f"the daemon had no time for an answer within {seconds:g} s", hint) from error


# What a URL says ------------------------------------------------------------------------------------------------------


def required(parameters: Parameters, name: str, example: str = "...") -> str:
    """Raises NoAnswer where it is missing."""
    if not parameters.get(name):
        raise NoAnswer(Why.WRONG, f"{name} is missing", f"add {name}={example} to the URL")
    return parameters[name]


def number(
    parameters: Parameters, name: str, low: float, high: float, default: float | None = 0, what: str = "a number"
) -> float:
    """One from `low` to `high`; `default` where it is not given, None: it has to be.  Raises NoAnswer."""
    text = parameters.get(name, "" if default is None else f"{default}")
    try:
        found = float(text)
    except ValueError:
        found = low - 1
    if not low <= found <= high:  # NaN is refused too
        raise NoAnswer(Why.WRONG, f"{name}={text[:40]} can't be", f"give {what} from {low:g} to {high:g}")
    return found


def _listed(parameters: Parameters, name: str) -> list[str]:
    return [each for each in parameters.get(name, "").split(",") if each]


def _port(text: str) -> tuple[str, int | None]:
    try:
        return parse(text)
    except NoPort as error:
        raise NoAnswer(Why.WRONG, str(error), error.hint) from error


# By the ends of their URLs.
QUESTIONS: Mapping[str, Callable[[Facts, Parameters], Question[Json]]] = {
    "explain": explain,
    "matrix": matrix,
    "manifests": manifests,
    "names": names,
}
