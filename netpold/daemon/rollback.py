"""Going back to policies that were in force before, while the manifests say others.

The last states of policies and namespaces that were in force are kept in memory (`History`).  One that was gone back to
is a trial without an end (tryout.py): it stays until the manifests say something else than they did then.  A restart
must not bring back what somebody went away from, so that one is on disk (`save`), with a digest of what the manifests
said: where they say the same at the next start, it is in force from the first ruleset on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from netpold.daemon.inbox import Question
from netpold.daemon.status import timestamp
from netpold.policy.canonical import written
from netpold.policy.changes import Changes
from netpold.policy.model import AnyPolicy, Namespace, World
from netpold.policy.rule_lines import rule_lines

MOST_REVISIONS = 10
NAME = "rollback.json"  # in the state directory
STEP = 50  # objects that are looked at between two pauses

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Revision:
    """Policies and namespaces as they came into force at some moment (ISO 8601, UTC)."""

    at: str
    world: World


class History:
    """`revisions`: the last ones, that which is in force last; another tuple after each change."""

    def __init__(self) -> None:
        self.revisions: tuple[Revision, ...] = ()

    def note(self, changes: Changes, world: World) -> None:
        """`world` has come into force, by these changes."""
        pairs: Iterable[tuple[object, object]] = (*changes.policies.values(), *changes.namespaces.values())
        if not self.revisions or any(before != now for before, now in pairs):
            kept = World({}, dict(world.namespaces), dict(world.policies))
            self.revisions = (*self.revisions, Revision(timestamp(datetime.now(UTC)), kept))[-MOST_REVISIONS:]


def digest(world: World) -> Question[str]:
    """What is another one when any policy or namespace says something else."""
    found = hashlib.sha256()
    for number, each in enumerate(_objects(world)):
        found.update(f"{each.quarantined} {written(each)}\n".encode())
        if number % STEP == 0:
            yield
    return found.hexdigest()


def objects(world: World) -> list[Json]:
    """What tryout.read takes."""
    return [
        {
            "manifest": json.loads(written(each)),
            "file": each.position.file if each.position else "",
            "line": each.position.line if each.position else 1,
            "rules": rule_lines(each),
            "closed": each.quarantined,
        }
        for each in _objects(world)
    ]


def _objects(world: World) -> list[AnyPolicy | Namespace]:
    namespaces = [world.namespaces[key] for key in sorted(world.namespaces)]
    return [*namespaces, *(world.policies[key] for key in sorted(world.policies))]


def save(state_dir: Path, content: Json) -> None:
    """Raises OSError."""
    draft = state_dir / f".{NAME}"
    with draft.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(state_dir / NAME)
    directory = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
