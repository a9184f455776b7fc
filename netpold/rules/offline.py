"""The ruleset for questions, not for a kernel: chosen pods are taken as local, wherever they run.

With both ends of a packet local, one ruleset holds what the nodes of both would do with it.
"""

from __future__ import annotations

from collections.abc import Iterable

from netpold.policy.changes import Changes
from netpold.policy.index import Index
from netpold.rules.compile import Compiler
from netpold.rules.endpoint import Endpoint
from netpold.rules.ruleset import Ruleset
from netpold.rules.settings import CompileSettings


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
