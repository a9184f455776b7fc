"""Why something is denied, or would be, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from netpold.policy.model import Direction, Policy

MOST_NAMED = 4  # policies
ITSELF = "the pod itself"  # the comment of rules that let this pass
REACHES_ITSELF = "a pod always reaches itself, whatever policies say"


def left_of(name: str, pod: str) -> str:
    """That a pod's manifest is gone; `name`: what is left of it, an address."""
    return f"{name} is left of {pod}, whose manifest is gone, and keeps its policies while it is there"


def lost_by(name: str, pod: str) -> str:
    """That a pod's manifest says an address (`name`) no more."""
    return f"{name} was an address of {pod}, whose manifest says it no more, and keeps its policies while that is there"


def denial(name: str, direction: Direction, policies: Sequence[Policy], is_audited: bool) -> str:
    """What to say of a pod that these policies isolate, and none of whose rules allows what is asked about;
    `is_audited`: they would isolate it."""
    closed = [policy.key for policy in policies if policy.quarantined]
    by = _joined([policy.key for policy in policies])
    head = f"audited: {name} would be" if is_audited else f"{name} is"
    if not policies:
        return f"{head} isolated for {direction}, and no rule allows it"
    isolated = f"{head} isolated for {direction} by {by}"
    if not closed:
        return f"{isolated}, and no rule of {'it' if len(policies) == 1 else 'these'} allows it"
    faulty = "whose manifest" if len(policies) == 1 else f"and the manifest of {_joined(closed)}"
    rest = "" if len(closed) == len(policies) else ", and no rule of the others allows it"
    return f"{isolated}, {faulty} failed the checks, so that it is closed{rest}"


def _joined(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    some = list(names[:MOST_NAMED])
    if len(names) > MOST_NAMED:
        some.append(f"{len(names) - MOST_NAMED} more")
    return " and ".join([", ".join(some[:-1]), some[-1]] if len(some) > 1 else some)
