"""What can be asked that needs a look into the kernel: INSPECTIONS, by the ends of their URLs.

pod, policy    name=NAMESPACE/NAME: everything about one
counters       what was counted by policy rule, by policy and by pod
verify         the kernel against the model, chain by chain and set by set

The loop tells what should be there (questions.py), and whoever asks reads the kernel in a thread of their own: a table
of many rules takes a while, in which the loop may have something better to do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from netpold.daemon.inbox import Inbox, Question
from netpold.daemon.questions import Facts, NoAnswer, Parameters, Why, answer, in_time, required
from netpold.daemon.questions_about import Held, Tally, about_pod, about_policy, counted
from netpold.daemon.verify import verify
from netpold.host.drops import Drops
from netpold.host.kernel.backend import Backend, KernelError
from netpold.rules.counted import PodChains, Readings, by_pod, by_rule, pod_chains
from netpold.rules.ruleset import FAMILIES, Ruleset

TRIES = 5  # at reading the kernel while it stays as it is
LEAST_PAUSE_S = 0.2  # between two readings of the kernel's counters
TURN_S = 30.0  # how long who asks waits for those who asked before

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What is frozen of what the loop holds, so that other threads may look at it."""

    head: Json  # of an answer
    ruleset: Ruleset
    chains: PodChains
    held: Held


class Inspection:
    """`look`: see questions.Look; `hold`: the same for Held, for the loop's thread.  `ask` is for any thread."""

    def __init__(
        self, backend: Backend, drops: Drops, inbox: Inbox, look: Callable[[], Facts], hold: Callable[[], Held]
    ) -> None:
        self._backend = backend
        self._drops = drops
        self._inbox, self._look, self._hold = inbox, look, hold
        self._turn = threading.Lock()  # guards the next
        self._read: tuple[float, Readings] = (0.0, {})

    def ask(self, question: str, parameters: Parameters) -> Json:
        """The answer to one of INSPECTIONS, one at a time: the loop does not have to share the interpreter with all who
        ask.  Raises NoAnswer."""
        if not self._turn.acquire(timeout=TURN_S):
            fault = f"others ask for so much that this was not begun within {TURN_S:g} s"
            raise NoAnswer(Why.BUSY, fault, "try again in a moment")
        try:
            return INSPECTIONS[question](self, parameters)
        finally:
            self._turn.release()

    def pod(self, parameters: Parameters) -> Json:
        """Everything about one pod."""
        name = required(parameters, "name", "NAMESPACE/NAME")
        tally, chains, _ = self._tally()
        return self._ask(lambda facts, _: about_pod(facts, self._hold(), tally, chains, name))

    def policy(self, parameters: Parameters) -> Json:
        """Everything about one policy."""
        name = required(parameters, "name", "NAMESPACE/NAME")
        tally, chains, _ = self._tally()
        return self._ask(lambda facts, _: about_policy(facts, self._hold(), tally, chains, name))

    def verify(self, parameters: Parameters) -> Json:
        """The kernel against what should be there."""
        for _ in range(TRIES):
            snapshot = self._snapshot()
            try:
                found = verify(snapshot.held.installed, self._backend, snapshot.held.frames)
            except KernelError as error:
                raise NoAnswer(Why.BUSY, str(error), "mend that, and try again") from error
            before, after = snapshot.held, self._snapshot().held
            if found["same"] or (after.installed is before.installed and after.frames == before.frames):
                return {**snapshot.head, **found}
        raise NoAnswer(
            Why.BUSY, "what is in force changes faster than it can be read", "try again when less is changing"
        )

    def counters(self, parameters: Parameters) -> Json:
        """What was counted."""
        tally, _, at = self._tally()
        return self._ask(lambda facts, _: counted(facts, self._hold(), tally, at))

    def _tally(self) -> tuple[Tally, PodChains, float]:
        """What was counted, for what is in force now; and when (time.monotonic())."""
        found = self._snapshot()
        at, readings = self._readings()
        rules = by_rule(found.ruleset, readings)
        pods = by_pod(found.ruleset, readings, found.chains)
        return Tally(rules, pods, self._drops.totals(LEAST_PAUSE_S)), found.chains, at

    def _snapshot(self) -> _Snapshot:
        found: list[tuple[Facts, Held]] = []

        def take(facts: Facts, _: Parameters) -> Question[Json]:
            found.append((facts, self._hold()))
            yield
            return {}

        head = self._ask(take)
        facts, held = found[-1]
        return _Snapshot(head, facts.ruleset, pod_chains(held.isolated, facts.endpoints), held)

    def _readings(self) -> tuple[float, Readings]:
        """When the kernel's counters were read, at most LEAST_PAUSE_S ago, and what they said."""
        at, readings = self._read
        if time.monotonic() - at >= LEAST_PAUSE_S:
            try:
                readings = {family: self._backend.counters(family) for family in FAMILIES}
            except KernelError as error:
                raise NoAnswer(Why.BUSY, str(error), "mend that, and try again") from error
            self._read = time.monotonic(), readings
        return self._read

    def _ask(self, question: Callable[[Facts, Parameters], Question[Json]]) -> Json:
        return in_time(self._inbox, answer(question, self._look, {}))


INSPECTIONS: Mapping[str, Callable[[Inspection, Parameters], Json]] = {
    "pod": Inspection.pod,
    "policy": Inspection.policy,
    "counters": Inspection.counters,
    "verify": Inspection.verify,
}
