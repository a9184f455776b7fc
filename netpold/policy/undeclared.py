"""What to say of a name that no manifest declares: the names that are near it, for who mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from typing import Literal

MOST_SIMILAR = 1000  # names to compare it with letter by letter, which takes some ms
MOST_NAMED = 3


def undeclared(what: Literal["pod", "policy", "namespace"], name: str, known: Iterable[str]) -> tuple[str, str]:
    """That there is none of that name among these, and a hint."""
    keys = list(known)
    near = near_names(name, keys)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif what == "namespace":
        there = ", ".join(sorted(keys)[:MOST_NAMED])
        hint = f"there are namespaces such as {there}" if there else "write manifests of pods and policies"
    else:
        cluster = ", and one of the cluster by its name" if what == "policy" else ""
        hint = f"write it as namespace/name, as the manifests do{cluster}"
    beside = ", nor anything in it" if what == "namespace" else ""
    return f"no manifest declares the {what} {name}{beside}", hint


def near_names(name: str, keys: list[str]) -> list[str]:
    """The names that may be meant, at most MOST_NAMED: of the same name in another namespace, or else of similar
    letters, or else those that have it in them."""
    namespace, slash, bare = name.rpartition("/")
    own = [key for key in keys if slash and key.startswith(f"{namespace}/")][:MOST_SIMILAR]
    near = [key for key in keys if key.endswith(f"/{bare}")]
    near = near or difflib.get_close_matches(name, own or islice(keys, MOST_SIMILAR), n=MOST_NAMED)
    near = near or [key for key in islice(keys, MOST_SIMILAR) if bare and bare in key]
    return near[:MOST_NAMED]
