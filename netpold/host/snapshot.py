"""The last good rules on disk, so that a boot can put them back before the daemon runs, without Python (systemd/boot).

`STATE_DIR/snapshot/current` is a symlink to a directory that holds one revision: for each family a file for `ipset
-exist restore` and one for `iptables-restore --noflush`, the backend's name, the pods that were on this node without
their manifests saying so (for the daemon's next start), and the checksums of all of them.  A revision is written whole
and synced, then one rename moves the symlink: whenever the writer is killed or the power fails, `current` is the old
revision or the new one.  What an interrupted write left behind, the next one takes away; what it may not take away,
since root left it, stops nothing.

The loop only copies the members of the sets (they change in place), and only when it is time: a tenth of a second after
a change, and so long after the last write that writing takes a twentieth of the time.  Where it is about pods of this
node, at once and half of the time: whoever is killed before knows nothing of them, if their manifests go meanwhile.  A
thread of its own renders and writes.  No trouble with the disk is ever more than a warning: the snapshot before stays,
and it is tried again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from netpold.host.remains import NO_REMAINS, Remains, read_remains, remains_line
from netpold.host.threads import started
from netpold.policy.model import Family
from netpold.rules.render import set_header, text
from netpold.rules.ruleset import FAMILIES, IPSet, Ruleset

SOON_S = 0.1  # from a change until it is saved
ASK_AGAIN_S = 0.01  # while something is written, what can't wait
SHARE, SHARE_SOON = 20, 1  # a write is followed by a pause of so many times its length
RETRY_S = 30.0  # after a write that failed
PATIENCE_S = 5.0  # how long to wait for the disk at the end
SLICE = 10_000  # members that are rendered in one go: about a millisecond

CURRENT = "current"
_PODS = "pods"

log = logging.getLogger("netpold")


class _Taken(NamedTuple):
    """What is to be saved: nobody changes it any more."""

    ruleset: Ruleset
    names: Mapping[str, str]
    pods: frozenset[str]
    remains: Remains = NO_REMAINS


class Snapshots:
    """The snapshot in a state directory, for one thread.  Raises nothing.

    `warning`: why the last write failed, or what it could not take away; a sentence for a person, or empty.
    """

    def __init__(self, state_dir: Path, backend: str, remains: Callable[[], Remains] = Remains) -> None:
        """`remains`: gives what `saved_remains` is to give; asked whenever something is taken."""
        self.warning = ""
        self._remains = remains
        self._state_dir = state_dir
        self._backend = backend
        self._changed_at: float | None = None  # when the first change came that is not taken yet
        self._thread: threading.Thread | None = None
        self._disk = threading.Lock()  # held while the snapshot is written or removed
        self._condition = threading.Condition()  # guards the rest
        self._waiting: _Taken | None = None
        self._closing = False
        self._failed = False  # what was taken last is not on disk
        self._not_before = self._soon_not_before = 0.0
        self._soon = False  # what changed and is not taken yet can't wait

    @property
    def due(self) -> float | None:
        """When (time.monotonic()) `take` should be called; None: everything is saved, or will be."""
        with self._condition:
            if self._changed_at is None and not self._failed:
                return None
            if self._waiting or self._disk.locked():
                return time.monotonic() + (ASK_AGAIN_S if self._soon else SOON_S)
            if self._soon and not self._failed:
                return max(self._soon_not_before, self._changed_at or 0.0)
            return max(self._not_before, (self._changed_at or 0.0) + SOON_S)

    def changed(self, soon: bool = False) -> None:
        """The kernel holds something else than what was taken last; `soon`: pods came or moved with it."""
        self._changed_at = self._changed_at or time.monotonic()
        self._soon |= soon

    def take(self, ruleset: Ruleset, names: Mapping[str, str], pods: frozenset[str] = frozenset()) -> None:
        """Copy the ruleset in force, with the names of its sets in the kernel by logical name, and write it some time.

        `pods`: what `saved_pods` is to give.  It takes the place of what was taken before and is not yet being written.
        """
        if self._thread is None:
            try:
                self._thread = started(self._run, "netpold-snapshot")
            except OSError as error:
                self._complain(error, "the rules can't be saved for the next boot")
                self._failed, self._not_before = True, time.monotonic() + RETRY_S
                return
        sets = {name: replace(each, members=frozenset(each.members)) for name, each in ruleset.sets.items()}
        with self._condition:
            self._waiting = _Taken(replace(ruleset, sets=sets), names, pods, self._remains())
            self._changed_at, self._soon, self._failed = None, False, False
            self._condition.notify_all()

    def forget(self) -> None:
        """Remove the snapshot, and what waits to be written."""
        with self._disk:
            with self._condition:
                self._waiting, self._changed_at, self._failed = None, None, False
            try:
                remove(self._state_dir)
            except OSError as error:
                self._complain(error, "the saved rules can't be removed, and the next boot puts them back")

    def close(self) -> None:
        """Write what was taken, if the disk lets us."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        while self._is_wanted():
            with self._disk:
                self._write_waiting()

    def _is_wanted(self) -> bool:
        """Wait for something to write; False: there is nothing, and nothing will come."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._closing)
            return self._waiting is not None

    def _write_waiting(self) -> None:
        with self._condition:
            taken, self._waiting = self._waiting, None
        if taken is None:
            return  # it was forgotten meanwhile
        began = time.monotonic()
        pause = 0.0
        try:
            leftover = _write(self._state_dir, self._backend, taken)
            if leftover is None:
                self.warning = ""
            else:
                self._complain(leftover, "older saved rules can't be removed")
        except OSError as error:
            self._complain(error, "the rules can't be saved for the next boot")
            pause = RETRY_S
        ended = time.monotonic()
        with self._condition:
            self._failed = pause > 0
            self._not_before = ended + max(SHARE * (ended - began), pause)
            self._soon_not_before = ended + max(SHARE_SOON * (ended - began), pause)

    def _complain(self, error: OSError, what: str) -> None:
        """Once, until something else is to be said, or a write leaves nothing to say."""
        if not self.warning.startswith(what):
            log.warning("%s: %s: %s", what, error.filename or self._state_dir, error.strerror)
        self.warning = f"{what}: {error.filename or self._state_dir}: {error.strerror}"


def saved_pods(state_dir: Path) -> frozenset[str]:
    """The pods of the snapshot, by key; none where there is no snapshot that can be read."""
    return frozenset(line for line in _pod_lines(state_dir) if not line.startswith("{"))


def saved_remains(state_dir: Path) -> Remains:
    """What the snapshot has of pods that may be gone by now; nothing where there is no snapshot that can be read."""
    return next((read_remains(line) for line in _pod_lines(state_dir) if line.startswith("{")), NO_REMAINS)


def _pod_lines(state_dir: Path) -> list[str]:
    try:
        return (_base(state_dir) / CURRENT / _PODS).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def remove(state_dir: Path) -> None:
    """Remove the snapshot of a state directory, if there is one.  Raises OSError."""
    base = _base(state_dir)
    try:
        (base / CURRENT).unlink(missing_ok=True)
        _sync(base)
        _remove_tree(base)
    except FileNotFoundError:
        return


def _base(state_dir: Path) -> Path:
    return state_dir / "snapshot"


def _write(state_dir: Path, backend: str, taken: _Taken) -> OSError | None:
    """Write a revision and make it the current one; returns why something older is still there beside it.

    Raises OSError; then the current one is as it was.
    """
    base = _base(state_dir)
    if not base.is_dir():
        base.mkdir(mode=0o700, parents=True)
        _sync(state_dir)
    _clean(base)
    revision = Path(tempfile.mkdtemp(dir=base))
    try:
        sums = [f"{_save(revision / name, lines)}  {name}\n" for name, lines in _files(backend, taken)]
        _save(revision / "sha256sums", sums)
        _sync(revision)
        link = revision.with_name(f"{CURRENT}.new")
        link.symlink_to(revision.name)
        link.replace(base / CURRENT)
        _sync(base)
    finally:
        leftover = _clean(base)
    return leftover


def _clean(base: Path) -> OSError | None:
    """Remove all but the current revision, as far as that goes; returns why one is left."""
    current = base / CURRENT
    keep = {CURRENT, str(current.readlink())} if current.is_symlink() else set()
    leftover = None
    for each in list(base.iterdir()):
        if each.name in keep:
            continue
        try:
            if each.is_dir() and not each.is_symlink():
                _remove_tree(each)
            else:
                each.unlink()
        except OSError as error:
            leftover = error
    return leftover


def _remove_tree(directory: Path) -> None:
    """Raises OSError, about the directory: shutil's names a file in it, without saying where that is."""
    try:
        shutil.rmtree(directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(directory)) from error


def _save(path: Path, chunks: Iterable[str]) -> str:
    """Write a file through to the disk; returns the SHA-256 of what it holds, in hexadecimal digits."""
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        for chunk in chunks:
            data = chunk.encode()
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _sync(directory: Path) -> None:
    """Make the names in a directory outlive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# What the files say --------------------------------------------------------------------------------------------------


def _files(backend: str, taken: _Taken) -> Iterator[tuple[str, Iterable[str]]]:
    """Names and content; systemd/boot reads them by these names, and counts them."""
    yield "backend", [f"{backend}\n"]
    yield _PODS, [*(f"{pod}\n" for pod in sorted(taken.pods)), f"{remains_line(taken.remains)}\n"]
    for family in FAMILIES:
        yield f"ipv{family}.sets", _sets(family, taken)
        yield f"ipv{family}.rules", _rules(family, taken)


def _sets(family: Family, taken: _Taken) -> Iterator[str]:
    for ipset in taken.ruleset.sets.values():
        if ipset.family == family:
            yield from _set(taken.names[ipset.name], ipset)


def _set(name: str, ipset: IPSet) -> Iterator[str]:
    # with `-exist` a set that is there is taken as it is: members that an interrupted boot left must not stay
    yield f"create {name} {set_header(ipset)}\nflush {name}\n"
    before = f"add {name} "
    members = iter(ipset.members)
    while some := list(islice(members, SLICE)):
        yield before + f"\n{before}".join(some) + "\n"


def _rules(family: Family, taken: _Taken) -> Iterator[str]:
    """All chains first, then the jumps to them; systemd/boot takes out those that are there, behind the first line."""
    chains, name = taken.ruleset.chains[family], taken.names.__getitem__
    yield "*filter\n" + "".join(f":{chain} - [0:0]\n" for chain in chains)
    for chain, rules in chains.items():
        yield "".join(f"-A {chain} {text(rule, family, name)}\n" for rule in rules)
    yield "".join(f"-I {builtin} 1 -j {own}\n" for builtin, own in taken.ruleset.hooks.items())
    yield "COMMIT\n"
