"""Events of Seen in words, for the journal and for netpoldctl."""

from __future__ import annotations

from typing import Any

from netpold.rules.reasons import left_of

Json = dict[str, Any]

_ECHO = (8, 128)
_VERDICTS = {"drop": "dropped", "audit": "audited, let through", "allow": "allowed"}


def line(event: Json, packets: int) -> str:
    """An event in one line."""
    many = "1 packet" if packets == 1 else f"{packets} packets"
    return f"{_VERDICTS[event['verdict']]} {many}: {way(event)}: {reason(event)}"


def way(event: Json) -> str:
    """From where to where, and to which port; of a sum, too."""
    ends = [each["pod"] or each["address"] for each in (event["source"], event["destination"])]
    return f"{ends[0]} -> {ends[1]} {port(event)}"


def port(event: Json) -> str:
    if event["port"] is not None:
        return f"{event['port']}/{event['protocol']}"
    if event["protocol"] == "ICMP" and event["icmp_type"] not in (None, *_ECHO):
        return f"ICMP type {event['icmp_type']}"
    return str(event["protocol"])


def reason(event: Json) -> str:
    """Why it was dropped or let through, in words."""
    if event["why"] == "spoofed":
        by = f" by {event['interface_in']}" if event["interface_in"] else ""
        sender = f" from {event['sender']}" if event.get("sender") else ""
        came = f": it came{sender}{by}" if sender or by else ""
        return f"the source address is not the sender's own{came}"
    if event["why"] == "unclaimed":
        return "no pod is known to have this interface"
    if event["verdict"] == "allow":
        rules = [_place(each) for each in event["allowed_by"]]
        if rules:
            return f"by {' and '.join(rules)}"
        return "; ".join(event["passes"]) or "which policies let it through is not known"
    judged = event["destination" if event["direction"] == "ingress" else "source"]["address"]
    if event["judged_lingers"]:
        return f"{left_of(judged, event['judged'])}: {_denial(event, judged)}"
    return _denial(event, event["judged"] or judged)


def _denial(event: Json, near: str) -> str:
    """By which policies it is denied, or would be; `near`: whom they judge."""
    if event["denied_by"]:
        closed = "; the policy is closed: its manifest failed the checks" if event["denied_by"]["closed"] else ""
        does = "would deny" if event["verdict"] == "audit" else "denies"
        return f"{_place(event['denied_by'])} {does} it{closed}"
    if not event["isolating"]:
        return f"a policy that judged {near} for {event['direction']} denied it; which one is not known"
    text = f"{', '.join(event['isolating'])} isolate{'s' if len(event['isolating']) == 1 else ''} {near}"
    text += f" for {event['direction']}, and no rule allows it"
    return f"{text}; {event['nearest_miss']['text']}" if event["nearest_miss"] else text


def _place(rule: Json) -> str:
    """A rule by its policy, of one of the cluster with its tier."""
    tier = "" if rule["tier"] == "NetworkPolicy" else f"{rule['tier']} "
    return f"{tier}{rule['policy']} {rule['direction']}[{rule['rule']}]"
