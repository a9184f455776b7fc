"""`netpoldctl explain --live`: what became of a packet that came by, rule by rule, and whether the model agrees."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from netpold.ctl import ports
from netpold.ctl.client import ANSWER_S, ask
from netpold.ctl.explain import text as explained
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.output import paint, pairs, say, say_json, word, wrapped
from netpold.ctl.progress import progress
from netpold.printable import printable

Json = Mapping[str, Any]

DEFAULT_S = 30.0
_ANSWERED_S = ANSWER_S * 2  # for what the daemon does beside waiting

_CONNECTION = {
    "new": "begins a connection",
    "established": "of an open connection",
    "established, reply": "answers in an open connection",
    "related": "about another connection",
    "invalid": "of no connection that is known",
}


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    if arguments.manifests:
        hint = "leave out --manifests, or --live"
        raise Failure("only the running daemon sees packets, whatever other manifests say", hint, Exit.USAGE)
    port = ports.show(ports.parse(arguments.port))
    seconds = DEFAULT_S if arguments.seconds is None else arguments.seconds
    words = {"source": arguments.source, "destination": arguments.destination, "port": port, "seconds": seconds}
    what = f"waiting for a packet {arguments.source} -> {arguments.destination} {port}"
    with progress(what, seconds):
        answer: Json = ask(arguments.socket, "GET", f"/v1/trace?{urlencode(words)}", seconds + _ANSWERED_S)
    if arguments.output == "json":
        say_json(answer)
    else:
        say(*text(answer))
    return _exit(answer)


def _exit(answer: Json) -> Exit:
    traced = answer["live"]["traced"]
    if traced is None:
        return Exit.TIMED_OUT
    passed = traced["kernel"]["fate"] == "passed" and traced["kernel"]["verdict"] == "allow"
    return Exit.FINE if passed and traced["agree"] else Exit.NO


# Text -----------------------------------------------------------------------------------------------------------------


def text(answer: Json) -> list[str]:
    """The answer's lines for a person."""
    live = answer["live"]
    note = ["", *wrapped(printable(f"note: {live['note']}"), 0)] if live["note"] else []
    if live["traced"] is None:
        nothing = f"no such packet came by this node within {live['seconds']:g} s; of one is expected:"
        return [*wrapped(nothing, 0), "", *explained(answer), *note]
    traced = live["traced"]
    lines = [*explained(answer)[:1], "", f"{paint('packet', 'bold')}: {_packet(traced)}"]
    lines += ["", paint("way", "bold") + ":", *_way(traced)] if traced["steps"] else []
    kernel, model = _kernel(traced), _model(traced)
    return [*lines, "", *pairs([("kernel", kernel), ("model", model), ("agree", _agree(traced))], 0), *note]


def _packet(traced: Json) -> str:
    packet = traced["packet"]
    source, destination = (
        _end(packet[side], packet[port]) for side, port in (("source", "source_port"), ("destination", "port"))
    )
    parts = [f"{source} -> {destination} {packet['protocol']}"]
    parts += [f"in by {packet['in_interface']}"] if packet["in_interface"] else []
    parts += [f"out by {packet['out_interface']}"] if packet["out_interface"] else []
    parts += ["bridged"] if packet["bridged"] else []
    parts += [_CONNECTION.get(packet["connection"], packet["connection"])] if packet["connection"] else []
    count, passed = traced["copies"]["count"], traced["copies"]["passed"]
    if count > 1:
        parts.append(f"one of {count} copies, of which {passed or 'none'} came through")
    return printable(", ".join(parts))


def _end(address: str, port: int | None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _way(traced: Json) -> list[str]:
    """Each step: where it stands, and what it does."""
    rows = []
    for number, each in enumerate(traced["steps"]):
        where = f"{each['chain']} {each['rule'] or 'policy'}"
        if not each["own"]:
            where = f"{each['table']} {where}"
        says = each["says"]
        if not each["own"] and each["text"] and each["text"] != f"-j {each['target']}":
            says = f"{says} ({each['text']})"
        rows.append((printable(where), printable(says), number == traced["kernel"]["by"]))
    column = max(len(where) for where, _, _ in rows) + 4
    lines = []
    for where, says, is_end in rows:
        first, *rest = wrapped(says, column) or [""]
        lines.append(f"  {where.ljust(column - 2)}{paint(first, 'red') if is_end else first}")
        lines += [" " * column + each for each in rest]
    return lines


def _kernel(traced: Json) -> str:
    """What became of it: netpold's verdict, and where it got to, in a sentence."""
    kernel = traced["kernel"]
    by = None if kernel["by"] is None else traced["steps"][kernel["by"]]
    if kernel["verdict"] is None:
        return printable(f"it did not come to netpold's chains: {_fate(traced, by)}")
    verdict = word(kernel["verdict"])
    if by is not None and by["own"]:
        return f"{verdict}: {printable(by['says'])}, by {printable(by['place'])}"
    if kernel["verdict"] == "deny":
        return f"{verdict}: dropped in the filter table, where netpold's chains are; by which rule was not told"
    if kernel["judged"]:
        own = "netpold's chains let it pass"
    elif kernel["by_rules"]:
        own = "it met none of netpold's chains"
    else:
        own = "the filter table, where netpold's chains are, let it pass"
    then = "" if traced["kernel"]["fate"] == "passed" else "then "
    return f"{verdict}: {own}; {then}{printable(_fate(traced, by))}"


def _fate(traced: Json, by: Json | None) -> str:
    packet, hook = traced["packet"], traced["hook"]
    if by is not None:
        rule = f": {by['text']}" if by["text"] else ""
        return f"dropped by {by['place']}, which is not netpold's{rule}"
    if traced["kernel"]["fate"] == "passed":
        return "handed to the node itself" if hook == "INPUT" else f"left by {packet['out_interface']}"
    if traced["kernel"]["fate"] == "dropped":
        return "dropped in the filter table, by a rule that was not told of"
    if hook is None:
        return (
            "last seen before it was routed: there is no route, or rp_filter refuses its source, or a program took it"
        )
    return f"last seen in {hook}: something took it, and told nothing of it"


def _model(traced: Json) -> str:
    expected, model = traced["expected"], traced["model"]
    reason = printable(expected["reason"])
    if model["verdict"] == expected["verdict"]:
        return f"{word(expected['verdict'])}: {reason}"
    says = f"{word(model['verdict'])}: {printable(model['says'])}"
    return f"{says}; it is not such a packet as explain is about, which says {word(expected['verdict'])}: {reason}"


def _agree(traced: Json) -> str:
    if traced["agree"] is None:
        return "nothing to compare"
    verdict = paint("yes", "green") if traced["agree"] else paint("NO", "red")
    parted = traced["parted"]
    if parted is None:
        return verdict
    step = None if parted["kernel"] is None else traced["steps"][parted["kernel"]]
    kernel = f"has {step['place']}: {step['says']} ({step['text']})" if step else "goes no further in netpold's chains"
    model = parted["model"]
    wanted = f"a rule of {model['chain']}: {model['says']} ({model['rule']})" if model else "no further rule"
    joint = ", but" if traced["agree"] else ";"
    return f"{verdict}{joint} they part where the kernel {printable(kernel)}, and the model has {printable(wanted)}"
