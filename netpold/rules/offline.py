"""The ruleset for questions, not for a kernel: chosen pods are taken as local, wherever they run.

With both ends of a packet local, one ruleset holds what the nodes of both would do with it.

Who asks about few ends among very many pods needs few members of the sets: of a packet between these ends none but
them is looked up (`between`).  To fill sets of ten thousand pods takes a second, of these ends some milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from netpold.policy.changes import Changes
from netpold.policy.index import Index
from netpold.policy.model import World
from netpold.policy.steps import Steps
from netpold.rules.compile import Compiler
from netpold.rules.endpoint import Endpoint
from netpold.rules.ends import End, judges
from netpold.rules.ruleset import Ruleset
from netpold.rules.settings import CompileSettings

STEP = 5  # pods that are compiled between two pauses: of a hundred, some ten milliseconds
MOST_STEPS = 20  # each makes the chains of all before it, too, so of more pods steps are longer


def offline_ruleset(
    index: Index, pods: Iterable[str] | None = None, settings: CompileSettings | None = None
) -> Ruleset:
    """The ruleset of a node that all these pods (keys; None: every pod) are on, known by address only."""
    world = index.world
    chosen = world.pods if pods is None else [key for key in pods if key in world.pods]
    endpoints = {key: Endpoint(key, world.pods[key].addresses, ()) for key in chosen if world.pods[key].takes_part}
    compiler = Compiler(index, settings or CompileSettings())
    ruleset = compiler.update(Changes(), endpoints).ruleset
    compiler.close()  # the index may be one that goes on
    return ruleset


def between(index: Index, pods: Iterable[str], ends: Iterable[End], settings: CompileSettings) -> Steps[Ruleset]:
    """The same of these pods, for packets between these ends alone: its sets hold no others.

    Looks at the index before its first pause only.
    """
    known, ends = index.world.pods, list(ends)
    local = {key: Endpoint(key, known[key].addresses, ()) for key in pods if known[key].takes_part}
    keys = judges(index, *ends, *(End(key, known[key], known[key].addresses) for key in local)) | local.keys()
    # who has the index may change its world in place
    said = index.world
    pods_of = {key: known[key] for key in keys}
    world = World(pods_of, dict(said.namespaces), dict(said.policies), dict(said.nodes))
    compiler = Compiler(Index(world), settings)
    ruleset = compiler.update(Changes(), {}).ruleset
    step = max(STEP, len(local) // MOST_STEPS)
    for count in range(step, len(local) + step, step):
        yield (count - step) / len(local)
        ruleset = compiler.update(Changes(), dict(islice(local.items(), count))).ruleset
    return ruleset
