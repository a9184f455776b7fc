"""`netpoldctl pod`: everything about one pod."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from netpold.ctl import about
from netpold.ctl.about import Json
from netpold.ctl.failure import Exit
from netpold.ctl.findings import number
from netpold.ctl.output import paint, pairs
from netpold.policy.model import Direction
from netpold.printable import printable

_SHARED = "rules that mean pods by their labels mean it only where they mean all of these"


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    return about.run(arguments, "pod", text)


def text(pod: Json) -> list[str]:
    """The lines for a person."""
    lines = [about.title(pod["pod"], pod), *pairs(_facts(pod))]
    if pod["host_network"] or pod["finished"]:
        return lines
    for direction in Direction:
        lines += ["", *_direction(pod[direction], direction, _elsewhere(pod))]
    return lines


def _facts(pod: Json) -> list[tuple[str, str]]:
    node = f"{pod['on_node']}, this one" if pod["here"] and pod["on_node"] else pod["on_node"]
    facts = [
        ("addresses", ", ".join(pod["addresses"]) or "none yet"),
        ("node", node or ("this one" if pod["here"] else "not said")),
    ]
    for address, others in pod["also_claimed_by"].items():
        more = f" and {len(others) - about.MOST_NAMED} more" if len(others) > about.MOST_NAMED else ""
        facts.append(
            ("contested", f"{address} is claimed by {', '.join(others[: about.MOST_NAMED])}{more}, too: {_SHARED}")
        )
    if pod["host_network"]:
        facts.append(("network", "the host's: policies do not select it"))
    if pod["finished"]:
        facts.append(("phase", "finished: its addresses are no longer its own"))
    if pod["here"]:
        ports = [f"{each['name']}{' (bridge port)' if each['bridged'] else ''}" for each in pod["interfaces"]]
        facts.append(("interface", ", ".join(ports) or "none found: enforced by address"))
        if taken := [each for each in pod["addresses"] if each not in pod["enforced_addresses"]]:
            facts.append(("not enforced", f"{', '.join(taken)}: the host's own"))
        if lost := [each for each in pod["enforced_addresses"] if each not in pod["addresses"]]:
            facts.append(("lost", f"{', '.join(lost)}: judged as before, though the manifest says it no more"))
    if pod["ports"]:
        facts.append(("ports", ", ".join(f"{each['name']} {each['port']}/{each['protocol']}" for each in pod["ports"])))
    facts += [
        ("labels", about.labels(pod["labels"])),
        ("of namespace", about.labels(pod["namespace_labels"])),
        ("in force", about.in_force(pod)),
    ]
    return [(name, printable(value)) for name, value in facts]


def _elsewhere(pod: Json) -> str:
    """Why nothing is enforced for it here; empty where it is."""
    if pod["here"]:
        return ""
    if pod["on_node"]:
        return f"enforced on {pod['on_node']}, which is not this node"
    return "not enforced here: its manifest names no node, and no interface here is its own"


def _direction(found: Json, direction: Direction, elsewhere: str) -> list[str]:
    name = paint(direction, "bold")
    policies, tiers = found["policies"], found["tiers"]
    if not policies and not tiers:
        return [f"{name}: {paint('free', 'green')}, no policy isolates it"]
    state = paint("audited only, NOT ENFORCED", "yellow") if found["audited"] else paint("isolated", "red")
    by = [f"{state}, by {number(len(policies), 'policy')}" if policies else "no NetworkPolicy isolates it"]
    by += [f"judged by {number(len(tiers), 'policy')} of the cluster"] if tiers else []
    lines = [f"{name}: {'; '.join(by)}"]
    facts = [("policies", ", ".join(map(_policy, policies)))] if policies else []
    if not elsewhere:
        if policies or found["judged"]:  # who is denied nothing is not counted
            facts += [
                ("judged", about.count(found["judged"], "since its rules were written")),
                ("dropped", about.count(found["dropped"], "since netpold started")),
            ]
        facts += about.chains(found["chains"])
    else:
        facts.append(("where", elsewhere))
    lines += pairs([(name, printable(value)) for name, value in facts])
    lines += _tier([each for each in tiers if each["tier"] == "Admin"], direction)
    if policies:
        what = "NetworkPolicies, allowed" if tiers else "allowed"
        lines.append(f"  {what}" if found["rules"] else f"  {what}: nothing")
        lines += about.rules(found["rules"], with_policy=direction)
    baseline = [each for each in tiers if each["tier"] == "Baseline"]
    if baseline and policies and not found["audited"]:
        return [*lines, f"  Baseline: not asked ({', '.join(each['policy'] for each in baseline)})"]
    return [*lines, *_tier(baseline, direction)]


def _policy(each: Json) -> str:
    audited = " (audited)" if each["audited"] else ""
    version = "" if each["in_force_as"] == "written" else f" ({about.in_force(each)})"
    return f"{each['policy']}{about.place(each)}{audited}{version}"


def _tier(policies: Sequence[Json], direction: Direction) -> list[str]:
    """The rules of a tier, in the order in which they count."""
    lines = [f"  {policies[0]['tier']}, the first of these that matches counts"] if policies else []
    for each in policies:
        notes = ["audited: what it denies passes"] if each["audited"] else []
        notes += ["it may be about this pod, so what it denies counts"] if each["only_denies"] else []
        about_it = "".join(f", {note}" for note in (f"priority {each['priority']}", *notes))
        lines.append(f"   {printable(each['policy'])}{about_it}")
        lines += about.rules(each["rules"], with_policy=direction)
    return lines
