"""What two things are compared: directories, git revisions of them, and what the node has in force.

DIR              a directory (or a file)
git:REV          the other one's path (or else, beside `node` or another git:REV, the current directory's) there
git:REV:PATH     that path in the repository at that revision
node             what the running daemon has in force
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpold.config import Settings
from netpold.ctl.client import ask, warn
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.findings import line, number
from netpold.ctl.offline import read
from netpold.ctl.progress import progress
from netpold.ctl.revision import revision, write
from netpold.policy.canonical import read_back
from netpold.policy.index import Index
from netpold.policy.manifest import Object
from netpold.policy.model import ClusterPolicy, Namespace, Node, Pod, Policy, Position, World
from netpold.policy.rule_lines import with_rule_lines
from netpold.printable import printable
from netpold.rules.ends import Home

NODE = "node"
_GIT = "git:"
_TIMEOUT_S = 60.0
_MOST_ERRORS = 3  # of each side that are told


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two.  `name`: as it was given; files below `directory` are told as if they were below `shown`.
    `node`: the node's name, where it is what that has in force."""

    name: str
    index: Index
    directory: str = ""
    shown: str = ""
    node: str | None = None

    def file(self, position: Position) -> str:
        """The file as a person knows it."""
        if self.directory and position.file.startswith(self.directory):
            return printable(self.shown + position.file[len(self.directory) :])
        return printable(position.file)

    def place(self, position: Position | None) -> str:
        """`file:line`, or '' where that is not known."""
        if position is None or not position.line:
            return ""
        return printable(self.file(position)) + f":{position.line}"


def sides(names: Sequence[str], inventory: Path | None, settings: Settings, socket: Path) -> list[Side]:
    """What is meant by these names.  `inventory`: more manifests that hold on each side.  Raises Failure."""
    plain = [Path(name) for name in names if name != NODE and not name.startswith(_GIT)]
    inside = [each.split(":", 2)[2] for each in names if each.startswith(_GIT) and each.count(":") > 1]
    beside = plain[0] if plain else inside[0] if inside else None
    return [_side(name, beside, inventory, settings, socket) for name in names]


def _side(name: str, beside: Path | str | None, inventory: Path | None, settings: Settings, socket: Path) -> Side:
    """`beside`: the other one's directory, or (text) its path in the repository."""
    if name == NODE:
        answer = _in_force(socket)
        return Side(name, Index(world_in_force(answer)), node=answer.get("node"))
    if not name.startswith(_GIT):
        return _read(Path(name), inventory, settings, name)
    with tempfile.TemporaryDirectory(prefix="netpoldctl-") as directory:
        found = revision(name.removeprefix(_GIT), beside)
        path = write(found, Path(directory))
        path.mkdir(parents=True, exist_ok=True) if not path.exists() else None
        return _read(path, inventory, settings, name, f"{directory}/", f"{name.split(':')[1]}:")


def _read(
    path: Path, inventory: Path | None, settings: Settings, name: str, directory: str = "", shown: str = ""
) -> Side:
    manifests = read([path, *([inventory] if inventory else [])], settings, name)
    side = Side(name, manifests.index, directory, shown)
    errors = [each for each in manifests.findings if each["severity"] == "error"]
    for each in errors[:_MOST_ERRORS]:
        print(line({**each, "file": side.file(Position(each["file"], 1))}), file=sys.stderr)
    if len(errors) > _MOST_ERRORS:
        print(f"netpoldctl: {number(len(errors) - _MOST_ERRORS, 'more error')} in {printable(name)}", file=sys.stderr)
    return side


def in_force(socket: Path) -> tuple[Index, Home]:
    """What the running daemon enforces, and what of it is its node's own.  Raises Failure."""
    answer = _in_force(socket)
    home: Mapping[str, list[str]] = answer.get("home", {})  # an older one does not tell
    addresses, pods = (frozenset(home.get(each, ())) for each in ("addresses", "pods"))
    return Index(world_in_force(answer)), Home(answer["node"], addresses, pods)


def _in_force(socket: Path) -> Mapping[str, Any]:
    try:
        with progress("asking the daemon what is in force"):
            answer: Mapping[str, Any] = ask(socket, "GET", "/v1/manifests", _TIMEOUT_S)
    except Failure as failure:
        if failure.code is not Exit.USAGE:
            raise
        hint = "restart it, if a newer one is installed: `systemctl restart netpold`"
        raise Failure("the daemon is of an older release, and can't tell what is in force", hint, Exit.NO) from failure
    warn(answer)
    return answer


def world_in_force(answer: Mapping[str, Any]) -> World:
    """What `GET /v1/manifests` says, which is shown in docs/json.md.  Raises Failure."""
    world: dict[type[Object], dict[str, Any]] = {Pod: {}, Namespace: {}, Policy: {}, ClusterPolicy: {}, Node: {}}
    with progress("reading what is in force") as told:
        for count, (manifest, where) in enumerate(zip(answer["manifests"], answer["where"], strict=True)):
            told.tell(count / len(answer["manifests"]))
            position = Position(where["file"] or NODE, where["line"] or 0)
            found = read_back(json.dumps(manifest).encode(), position, where["quarantined"])
            if found is None:
                fault = f"this netpoldctl can't read what the daemon has in force: {where['object']}"
                raise Failure(fault, "use the one of the daemon's release", Exit.NO)
            world[type(found)][found.key] = with_rule_lines(found, where.get("rules"))
    return World(world[Pod], world[Namespace], {**world[Policy], **world[ClusterPolicy]}, world[Node])
