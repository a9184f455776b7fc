"""`netpoldctl complete KIND PREFIX [LINE...]`: names for the shells' completions, one a line; for nobody else.

KIND is `pods`, `policies` or `namespaces`, LINE the command line so far, in words, for the socket that it names.  Where
very many names begin like that, their namespaces are given first, with a `/` to go on behind.  Whatever is wrong, there
is just nothing to offer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from netpold.ctl.client import DEFAULT_SOCKET, ask
from netpold.ctl.failure import Exit, Failure
from netpold.policy.model import policy_kind

KINDS = ("pods", "policies", "namespaces")
PATIENCE_S = 2.0
MOST_NAMES = 200


def run(words: Sequence[str]) -> Exit:
    """The words behind `complete`."""
    kind, prefix, *line = words if len(words) > 1 and words[0] in KINDS else ("", "")
    if not kind:
        return Exit.USAGE
    try:
        known = ask(_socket(line), "GET", "/v1/names", PATIENCE_S)
    except Failure:
        return Exit.FINE
    for name in candidates(kind, prefix, known):
        print(name)
    return Exit.FINE


def candidates(kind: str, prefix: str, known: dict[str, Any]) -> list[str]:
    """The names of that kind that begin so; `known` as `GET /v1/names` gives it."""
    names: Iterable[str] = known[kind]
    if kind == "namespaces":
        names = namespaces(known)
    found = sorted(name for name in names if name.startswith(prefix))
    if len(found) > MOST_NAMES and "/" not in prefix and kind != "namespaces":
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
