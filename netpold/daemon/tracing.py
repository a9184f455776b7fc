"""`explain --live`: waits for a packet between two ends, and tells what became of it, and what the model says.

Whoever asks waits in a thread of their own; the trace ends with the first packet, after its time, or when the client
has gone, and with it everything that was put into the kernel for it.  At most MOST at a time, and MOST_OF_READERS for
those who may only look.

What the model says is asked of the loop twice: before, to know what to look for, and afterwards, for the packet as it
was, with the rules that are in force then.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from netpold.daemon.inbox import Inbox, Question
from netpold.daemon.questions import Facts, NoAnswer, Parameters, Why, answer, explain, in_time, number
from netpold.daemon.questions_about import Held
from netpold.daemon.seen import moment
from netpold.daemon.traced_copies import asked_for
from netpold.host.kernel.backend import KernelError
from netpold.host.kernel.trace_table import Aim
from netpold.host.tracing import Caught, Trace
from netpold.rules.ends import end, families, first_packet, hook
from netpold.rules.port import parse
from netpold.rules.render import text
from netpold.rules.traced import Compared, Step, Way, meaning
from netpold.rules.walk import Packet

DEFAULT_S, LONGEST_S = 30.0, 3600.0
MOST, MOST_OF_READERS = 4, 2
MOST_AIMS = 16  # pairs of addresses
LOOK_S = 0.5  # how often to see whether it is to end
TRIES, AGAIN_S = 10, 0.3  # at asking the loop, once a packet is caught

Json = dict[str, Any]


class Tracer:
    """`look`, `hold`: see inspection.Inspection.  `trace` and `stop` are for any thread."""

    def __init__(self, backend: str, inbox: Inbox, look: Callable[[], Facts], hold: Callable[[], Held]) -> None:
        self._is_legacy = backend == "legacy"
        self._inbox, self._look, self._hold = inbox, look, hold
        self._free = threading.BoundedSemaphore(MOST)
        self._free_for_readers = threading.BoundedSemaphore(MOST_OF_READERS)
        self._stopped = 0  # how often

    def stop(self) -> None:
        """End those that go on."""
        self._stopped += 1

    def trace(self, parameters: Parameters, client: int, *, is_reader: bool) -> Json:
        """What `explain` says, with `live`: what became of a packet.  `client`: the descriptor of their connection.

        `parameters`: as of `explain`, and `seconds`.  Raises NoAnswer.
        """
        seconds = number(parameters, "seconds", 1, LONGEST_S, DEFAULT_S, "seconds")
        stopped = self._stopped
        aims: list[Aim] = []
        told = self._ask(lambda facts, _: _explained(facts, parameters, aims))
        with self._slot(is_reader):
            try:
                with closing(Trace(aims, legacy=self._is_legacy)) as trace:
                    is_caught = self._wait(trace, client, time.monotonic() + seconds, stopped)
                    note = trace.note
                caught = trace.caught() if is_caught else []
            except KernelError as error:
                raise NoAnswer(Why.BUSY, str(error), "mend that, and try again") from error
        live = {"seconds": seconds, "note": note, "traced": None}
        if not caught:
            return {**told, "live": live}
        found = self._compared(parameters, caught)
        if is_reader:  # who may look at policies need not see what the host's other rules say
            for step in found["live"]["steps"]:
                step["text"] = step["text"] if step["own"] else ""
        return {**found, "live": {**live, "traced": found["live"]}}

    @contextmanager
    def _slot(self, is_reader: bool) -> Iterator[None]:
        """One of those that there may be at a time.  Raises NoAnswer."""
        slots = [self._free_for_readers, self._free] if is_reader else [self._free]
        taken = []
        try:
            for each in slots:
                if not each.acquire(blocking=False):
                    text = f"{MOST} packets are waited for already, or {MOST_OF_READERS} by others than root"
                    raise NoAnswer(Why.BUSY, text, "try again when one of them has come")
                taken.append(each)
            yield
        finally:
            for each in taken:
                each.release()

    def _wait(self, trace: Trace, client: int, until: float, stopped: int) -> bool:
        """Whether a packet came.  Raises KernelError, and NoAnswer where nobody waits for it any more."""
        poll = select.poll()
        for fileno in trace.filenos():
            poll.register(fileno, select.POLLIN)
        poll.register(client, select.POLLRDHUP)
        while True:
            now = time.monotonic()
            wake = min(now + LOOK_S, trace.due or until)
            ready = dict(poll.poll(max(wake - now, 0.0) * 1000))
            if trace.read():
                return True
            if client in ready:
                raise NoAnswer(Why.BUSY, "whoever asked has gone", "ask again")
            if self._stopped != stopped:
                raise NoAnswer(Why.BUSY, "netpold was stopped, or its rules were taken out", "see `netpoldctl status`")
            if trace.due is None and time.monotonic() >= until:
                return False

    def _compared(self, parameters: Parameters, caught: Sequence[Caught]) -> Json:
        for _ in range(TRIES):
            try:
                return self._ask(lambda facts, _: _told(facts, self._hold(), parameters, caught))
            except NoAnswer as error:
                if error.why is not Why.BUSY:
                    raise
                failure = error
            time.sleep(AGAIN_S)
        raise failure

    def _ask(self, question: Callable[[Facts, Parameters], Question[Json]]) -> Json:
        return in_time(self._inbox, answer(question, self._look, {}))


def _explained(facts: Facts, parameters: Parameters, aims: list[Aim]) -> Question[Json]:
    """What is expected; `aims` gets what to look for."""
    told = yield from explain(facts, parameters)
    ends = end(facts.index, parameters["source"]), end(facts.index, parameters["destination"])
    protocol, port = parse(parameters["port"])
    found = []
    for family in families(*ends):
        model = first_packet(*ends, family, protocol, port)
        found += [
            Aim(source, destination, model.protocol, port, model.icmp_type)
            for source in ends[0].addresses
            for destination in ends[1].addresses
            if (":" in source) == (":" in destination) == (family == 6)
        ]
    aims[:] = found[:MOST_AIMS]
    return told


# The answer -----------------------------------------------------------------------------------------------------------


def _told(facts: Facts, held: Held, parameters: Parameters, copies: Sequence[Caught]) -> Question[Json]:
    """What `explain` says of the packet's addresses and port, and `live`."""
    caught, way, found = asked_for(facts, held.installed.names, copies)
    packet = way.packet
    told = yield from explain(facts, parameters)
    addresses = {"source": packet.source, "destination": packet.destination}
    is_another = packet.port is not None and packet.port != told["port"]  # a service's, translated
    if is_another or any(told[side]["address"] != address for side, address in addresses.items()):
        port = f"{packet.port}/{told['protocol']}" if is_another else parameters["port"]
        told = yield from explain(facts, {**parameters, **addresses, "port": port})
        for side in addresses:
            told[side]["name"] = parameters[side]
    expected = _expected(facts, parameters, caught, told, found)
    live = {
        "at": moment(caught.at),
        "packet": _packet_json(packet, caught),
        "copies": {"count": len(copies), "passed": sum(each.is_at_its_end for each in copies)},
        "hook": caught.hook or None,
        "steps": [_step_json(step, says) for step, says in zip(way.steps, found.says, strict=True)],
        "kernel": {
            "verdict": found.verdict,
            "judged": found.judged,
            "by_rules": way.by_rules,
            "fate": found.fate,
            "by": found.by and way.steps.index(found.by),
        },
        "expected": expected,
        "model": _model_json(found, packet),
        "agree": None if found.verdict is None else found.verdict == found.model,
        "parted": _parted_json(found, way),
    }
    return {**told, "live": live}


def _expected(facts: Facts, parameters: Parameters, caught: Caught, told: Json, found: Compared) -> Json:
    """What `explain` says of this node, and why.  An address of the node itself it does not know as such; then what the
    node's own traffic meets is the model's word alone."""
    ends = (end(facts.index, parameters[side], facts.home) for side in ("source", "destination"))
    if caught.hook in ("INPUT", "OUTPUT") and caught.hook != hook(*ends):
        why = f": {meaning(found.rule)}" if found.rule else ""
        reason = f"it is the node itself that {'gets' if caught.hook == 'INPUT' else 'sends'} it{why}"
        return {"verdict": found.model, "reason": reason}
    judged = [told[direction] for direction in ("egress", "ingress") if told[direction]["in_force"]]
    verdict = "deny" if any(each["verdict"] == "deny" for each in judged) else "allow"
    reasons = dict.fromkeys(each["reason"] for each in judged if each["verdict"] == verdict)
    return {"verdict": verdict, "reason": "; ".join(reasons) or "none of the two is judged on this node"}


def _packet_json(packet: Packet, caught: Caught) -> Json:
    return {
        "family": f"IPv{packet.family}",
        "source": packet.source,
        "source_port": packet.source_port,
        "destination": packet.destination,
        "protocol": packet.protocol,
        "port": packet.port,
        "icmp_type": packet.icmp_type,
        "in_interface": packet.in_interface or None,
        "out_interface": packet.out_interface or None,
        "bridged": caught.bridged,
        "connection": caught.state or None,
    }


def _step_json(step: Step, says: str) -> Json:
    return {
        "family": step.family,
        "table": step.table,
        "chain": step.chain,
        "rule": step.number,
        "own": step.is_own,
        "text": step.text,
        "verdict": step.verdict,
        "target": step.target or None,
        "place": step.place,
        "says": says,
    }


def _model_json(found: Compared, packet: Packet) -> Json:
    rule = found.rule
    return {
        "verdict": found.model,
        "chain": found.chain,
        "rule": text(rule, packet.family) if rule else None,
        "says": meaning(rule) if rule else "no rule says more",
    }


def _parted_json(found: Compared, way: Way) -> Json | None:
    parting = found.parting
    if parting is None:
        return None
    model = parting.model and {
        "chain": parting.model_chain,
        "rule": text(parting.model, way.packet.family),
        "says": meaning(parting.model),
    }
    return {"kernel": parting.kernel and way.steps.index(parting.kernel), "model": model}
