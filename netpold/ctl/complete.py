"""`netpoldctl complete KIND PREFIX [LINE...]`: names for the shells' completions, one a line; for nobody else.

KIND is one of KINDS; with a comma behind it, PREFIX is a list with commas, whose last name is completed.  LINE is the
command line so far, in words, for the socket that it names.  Where very many names begin like that, their namespaces
are given first, with a `/` to go on behind.  Whatever is wrong, there is just nothing to offer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from netpold.ctl.client import DEFAULT_SOCKET, ask
from netpold.ctl.failure import Exit, Failure
from netpold.policy.model import policy_kind

KINDS = ("pods", "policies", "namespaces", "nodes", "subjects")  # subjects: namespaces, and behind a / their pods
PATIENCE_S = 2.0
MOST_NAMES = 200


def run(words: Sequence[str]) -> Exit:
    """The words behind `complete`."""
    kind, prefix, *line = words if len(words) > 1 else ("", "")
    kind, is_list = kind.removesuffix(","), kind.endswith(",")
    if kind not in KINDS:
        return Exit.USAGE
    before, comma, last = prefix.rpartition(",") if is_list else ("", "", prefix)
    try:
        known = ask(_socket(line), "GET", "/v1/names", PATIENCE_S)
    except Failure:
        return Exit.FINE
    for name in candidates(kind, last, known):
        if not comma or name not in before.split(","):
            print(f"{before}{comma}{name}")
    return Exit.FINE


def candidates(kind: str, prefix: str, known: dict[str, Any]) -> list[str]:
    """The names of that kind that begin so; `known` as `GET /v1/names` gives it."""
    if kind == "subjects":
        kind = "pods" if "/" in prefix else "namespaces"
    names: Iterable[str] = namespaces(known) if kind == "namespaces" else known.get(kind, ())
    found = sorted(name for name in names if name.startswith(prefix))
    if len(found) > MOST_NAMES and "/" not in prefix and kind in ("pods", "policies"):
        return sorted({f"{_namespace(name)}/" if _namespace(name) else name for name in found})
    return found


def namespaces(known: dict[str, Any]) -> set[str]:
    """Those that anything is in, too."""
    return {*known["namespaces"], *(_namespace(key) for each in ("pods", "policies") for key in known[each])} - {""}


def _namespace(key: str) -> str:
    """Of a pod or policy; '' for one of the cluster."""
    return key.partition("/")[0] if policy_kind(key) == "NetworkPolicy" else ""


def _socket(line: Sequence[str]) -> Path:
    """That which the line names, if any (`--socket PATH`, `--socket=PATH`, and as bash has it, `--socket = PATH`)."""
    for number, word in enumerate(line):
        name, equals, value = word.partition("=")
        if name == "--socket":
            rest = [value] if equals and value else [each for each in line[number + 1 :] if each != "="]
            return Path(rest[0]) if rest else DEFAULT_SOCKET
    return DEFAULT_SOCKET
