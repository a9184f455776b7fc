"""Manifests and what they mean, read without a daemon: the same reader, checks and compiler that it has."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpold.config import ConfigError, Settings, compile_settings, load
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.findings import count, line
from netpold.ctl.progress import progress
from netpold.daemon.status import finding_json
from netpold.host.files import Moving, read_file
from netpold.host.scan import Ambiguous, look
from netpold.host.source import Source, SourceError
from netpold.host.trust import Trustees
from netpold.policy.assemble import Assembly
from netpold.policy.index import Index
from netpold.policy.model import Finding
from netpold.rules.offline import offline_ruleset
from netpold.rules.ruleset import Ruleset


@dataclass(frozen=True, slots=True)
class Manifests:
    """What some directories and files say.

    `files`: their paths.  `noted`: what is wrong, in order of position.  `passed_over`: other objects, by kind.
    """

    index: Index
    files: tuple[str, ...]
    noted: tuple[Finding, ...]
    passed_over: dict[str, int]

    @property
    def findings(self) -> list[dict[str, Any]]:
        """What is wrong, in the shape of finding_json."""
        return [finding_json(each) for each in self.noted]


def read(paths: Iterable[Path], settings: Settings, name: str = "") -> Manifests:
    """The manifests as they are now; nothing was known of them before.  `name`: how a person knows these paths.
    Raises Failure."""
    assembly = Assembly()
    findings: set[Finding] = set()
    files: list[str] = []
    for path in paths:
        # whose files they are on the node is not known here
        source = Source(path, settings.max_file_size, trustees=Trustees(None, settings.linked_trees))
        try:
            with progress(f"reading {name or path}") as told:
                reading = source.read_as_it_is(told.tell)
        except SourceError as error:
            raise _unreadable(error) from error
        files += reading.changed
        findings.update(reading.findings)
        assembly.update(reading.changed)
    index = Index(assembly.world)
    findings.update(assembly.findings(), index.claims.findings(assembly.world.pods))
    ordered = sorted(findings, key=lambda each: (each.position, each.code, each.path))
    return Manifests(index, tuple(files), tuple(ordered), dict(sorted(assembly.passed_over.items())))


def read_again(file: str, settings: Settings) -> bytes | None:
    """The bytes of a file that was read before; None where they can't be had any more."""
    try:
        fingerprint = look(file, settings.max_file_size, is_link=True)
        return read_file(file, fingerprint) if isinstance(fingerprint, bytes) else None
    except (Ambiguous, Moving, OSError):
        return None


def _unreadable(error: SourceError) -> Failure:
    """In words for who asks here, where nothing was in force before."""
    if isinstance(error.__cause__, PermissionError):
        hint = "ask as a user who may read it, such as root"
        return Failure(f"not permitted to read {error.directory}", hint, Exit.NOT_PERMITTED)
    if isinstance(error.__cause__, FileNotFoundError):
        return Failure(f"{error.directory} is not there", "name a directory or a file of manifests", Exit.USAGE)
    return Failure(f"{error.directory}: {error.fault}", "name a directory that can be read", Exit.USAGE)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings of this machine, with its flags on top.  Raises Failure."""
    given = getattr(arguments, "manifests", None)
    flags = {"manifests": str(given) if given else None}
    try:
        return load(flags)
    except ConfigError as error:
        if isinstance(error.__cause__, PermissionError):
            print(f"netpoldctl: {error.file} can't be read; default settings are assumed", file=sys.stderr)
            return Settings(manifests=given) if given else Settings()
        raise Failure(f"{error.file}: {error.key}: {error.fault}", error.cure, Exit.USAGE) from error


def index_of(settings: Settings) -> Index:
    """What the manifests say.  What is wrong in them is said on standard error: the answer is the one that netpold
    would enforce.  Raises Failure."""
    manifests = read([settings.manifests], settings)
    errors = [each for each in manifests.findings if each["severity"] == "error"]
    for each in errors[:3]:
        print(line(each), file=sys.stderr)
    if errors:
        hint = f"`netpoldctl check {settings.manifests}` shows all"
        print(f"netpoldctl: {count(errors)} in {settings.manifests}; {hint}", file=sys.stderr)
    return manifests.index


def model(arguments: argparse.Namespace, node: str | None = None) -> tuple[Index, Ruleset]:
    """The index and the ruleset for questions; with every pod taken as local, or those of one node.  Raises Failure."""
    settings = settings_of(arguments)
    index = index_of(settings)
    pods = None if node is None else [key for key, pod in index.world.pods.items() if pod.node == node]
    with progress("compiling"):
        return index, offline_ruleset(index, pods, compile_settings(settings))
