"""The ways in which programs bring another tree of manifests to a node: each a class with the directory to watch, and
`become`, which makes it hold another tree.  Real programs where they are installed, else their system calls one by one.

A tree is texts by path.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

Files = Mapping[str, str]


def write(directory: Path, tree: Files) -> None:
    """Files in a directory that nobody watches."""
    for name, text in tree.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def run(*words: str | Path, cwd: Path | None = None) -> None:
    subprocess.run([*map(str, words)], cwd=cwd, check=True, capture_output=True, timeout=60)


class Way:
    """`base`: an empty directory to work in; `watched` is in it."""

    def __init__(self, base: Path, tree: Files) -> None:
        self.base = base
        self.inside: tuple[str, ...] = ()  # in front of commands that mount
        self.watched = base / "manifests"
        self.count = 0
        self.begin(tree)

    def begin(self, tree: Files) -> None:
        write(self.watched, tree)

    def become(self, tree: Files) -> None:
        raise NotImplementedError

    def aside(self, tree: Files, where: Path | None = None) -> Path:
        """The tree in a new directory."""
        self.count += 1
        made = (where or self.base) / f"aside-{self.count}"
        write(made, tree)
        return made

    def close(self) -> None:
        """Undo what outlives the test."""


class _Git(Way):
    def git(self, *words: str | Path, cwd: Path) -> str:
        settings = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
        done = subprocess.run(
            ["git", *settings, *map(str, words)], cwd=cwd, check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip()

    def commit(self, repository: Path, tree: Files) -> str:
        """A commit of that tree on the branch that is checked out; gives its name."""
        for each in repository.iterdir():
            if each.name != ".git":
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        write(repository, tree)
        self.git("add", "-A", cwd=repository)
        self.git("commit", "-q", "--allow-empty", "-m", f"revision {self.count}", cwd=repository)
        return self.git("rev-parse", "HEAD", cwd=repository)


class GitCheckout(_Git):
    """Branches are switched in the watched directory."""

    def begin(self, tree: Files) -> None:
        self.watched.mkdir()
        self.git("init", "-q", cwd=self.watched)
        self.commit(self.watched, tree)
        self.other = self.base / "other"
        self.git("clone", "-q", self.watched, self.other, cwd=self.base)
        self.commits: dict[int, str] = {}

    def become(self, tree: Files) -> None:
        commit = self.commits.get(id(tree))
        if commit is None:
            commit = self.commits[id(tree)] = self.commit(self.other, tree)
            self.git("fetch", "-q", self.other, commit, cwd=self.watched)
        self.git("checkout", "-q", "--detach", commit, cwd=self.watched)


class GitStopped(GitCheckout):
    """git does not run for a while, in the middle, as on a machine that is busy."""

    stopped_s = 0.05

    def git(self, *words: str | Path, cwd: Path) -> str:
        if words[0] != "checkout":
            return super().git(*words, cwd=cwd)
        lock, at_most_s = cwd / ".git/index.lock", 0.006
        with subprocess.Popen(["git", *words], cwd=cwd) as checkout:
            while not lock.exists() and checkout.poll() is None:
                pass
            time.sleep(random.uniform(0, at_most_s))
            checkout.send_signal(signal.SIGSTOP)
            time.sleep(self.stopped_s)
            checkout.send_signal(signal.SIGCONT)
        assert checkout.returncode == 0
        return ""


class GitPull(_Git):
    """The watched directory is a folder in a clone."""

    def begin(self, tree: Files) -> None:
        self.origin, clone = self.base / "origin", self.base / "clone"
        self.origin.mkdir()
        self.git("init", "-q", cwd=self.origin)
        self.commit(self.origin, {f"cluster/{name}": text for name, text in tree.items()})
        self.git("clone", "-q", self.origin, clone, cwd=self.base)
        self.watched = clone / "cluster"

    def become(self, tree: Files) -> None:
        self.commit(self.origin, {f"cluster/{name}": text for name, text in tree.items()})
        self.git("pull", "-q", "--ff-only", cwd=self.watched.parent)


class GitSync3(_Git):
    """git-sync v3: work trees `rev-HASH` beside the link that is watched."""

    worktrees = "."
    prefix = "rev-"

    def begin(self, tree: Files) -> None:
        self.origin, self.root = self.base / "origin", self.base / "root"
        self.origin.mkdir()
        self.git("init", "-q", cwd=self.origin)
        self.commit(self.origin, tree)
        self.git("clone", "-q", "--no-checkout", self.origin, self.root, cwd=self.base)
        self.watched = self.root / "current"
        self.become(tree)

    def become(self, tree: Files) -> None:
        commit = self.commit(self.origin, tree)
        self.git("fetch", "-q", cwd=self.root)
        place = self.root / self.worktrees / f"{self.prefix}{commit}"
        before = self.watched.resolve() if self.watched.is_symlink() else None
        self.git("worktree", "add", "-f", "--detach", "--no-checkout", place, commit, cwd=self.root)
        self.git("reset", "--hard", commit, "--", cwd=place)
        draft = self.root / "tmp-link"
        draft.symlink_to(os.path.relpath(place, self.root))
        draft.rename(self.watched)
        if before is not None:
            shutil.rmtree(before)
            self.git("worktree", "prune", cwd=self.root)


class GitSync4(GitSync3):
    """git-sync v4: work trees `.worktrees/HASH`."""

    worktrees = ".worktrees"
    prefix = ""


class GitSyncInside(GitSync4):
    """The link is in the watched directory."""

    def begin(self, tree: Files) -> None:
        super().begin(tree)
        self.link, self.watched = self.watched, self.root

    def become(self, tree: Files) -> None:
        if hasattr(self, "link"):
            self.watched = self.link
        super().become(tree)
        if hasattr(self, "link"):
            self.watched = self.root


class ConfigMap(Way):
    """A volume as the kubelet's AtomicWriter keeps it (pkg/volume/util/atomic_writer.go, its steps 5 to 12)."""

    pause_s = 0.02  # the kubelet is slow

    def begin(self, tree: Files) -> None:
        self.watched.mkdir()
        self.become(tree)

    def become(self, tree: Files) -> None:
        self.count += 1
        name, top = f"..2026_{self.count}", self.watched
        before = (top / "..data").resolve() if (top / "..data").is_symlink() else None
        flat = {each.replace("/", "-"): text for each, text in tree.items()}
        write(top / name, flat)
        (top / "..data_tmp").symlink_to(name)
        (top / "..data_tmp").rename(top / "..data")
        for each in sorted(flat):
            if not (top / each).is_symlink():
                time.sleep(self.pause_s)
                (top / each).symlink_to(f"..data/{each}")
        for path in list(top.iterdir()):
            if not path.name.startswith("..") and path.name not in flat:
                time.sleep(self.pause_s)
                path.unlink()
        if before is not None:
            shutil.rmtree(before)


class LinkSwapped(Way):
    """The watched directory itself is a symlink."""

    def begin(self, tree: Files) -> None:
        self.watched.symlink_to(self.aside(tree))

    def become(self, tree: Files) -> None:
        before = self.watched.resolve()
        (self.base / "draft").symlink_to(self.aside(tree))
        (self.base / "draft").rename(self.watched)
        shutil.rmtree(before)


class DirectoryReplaced(Way):
    """Renamed away, and another one renamed into its place; for a moment there is none."""

    pause_s = 0.0

    def become(self, tree: Files) -> None:
        after, before = self.aside(tree), self.base / "before"
        self.watched.rename(before)
        time.sleep(self.pause_s)
        after.rename(self.watched)
        shutil.rmtree(before)


class DirectoryAway(DirectoryReplaced):
    """The same, and it is not there for a while."""

    pause_s = 0.2


class FolderReplaced(Way):
    """A folder in the watched directory is exchanged for another one (renameat2(2), RENAME_EXCHANGE)."""

    def begin(self, tree: Files) -> None:
        write(self.watched / "folder", tree)

    def become(self, tree: Files) -> None:
        draft = self.watched / ".draft"
        write(draft, tree)
        here, exchange = -100, 2
        names = os.fsencode(draft), os.fsencode(self.watched / "folder")
        assert ctypes.CDLL(None).renameat2(here, names[0], here, names[1], exchange) == 0
        shutil.rmtree(draft)


class Rsync(Way):
    """Files are renamed into place one by one, but rsync's drafts show that it is at work."""

    flags: tuple[str, ...] = ("--delete-after",)

    def become(self, tree: Files) -> None:
        after = self.aside(tree)
        run("rsync", "-a", "--checksum", *self.flags, f"{after}/", f"{self.watched}/")
        shutil.rmtree(after)


class RsyncDelayed(Rsync):
    flags = ("--delay-updates", "--delete-after")


class RsyncSlow(Rsync):
    flags = ("--delete-after", "--bwlimit=40")


class RsyncInPlace(Rsync):
    flags = ("--inplace", "--delete-after")


class RsyncDelete(Rsync):
    """What is deleted goes first."""

    flags = ("--delete",)


class RsyncDeleteInPlace(Rsync):
    flags = ("--delete", "--inplace")


class Copied(Way):
    """cp -r over it, then what is too much is deleted."""

    def become(self, tree: Files) -> None:
        after = self.aside(tree)
        run("cp", "-r", f"{after}/.", self.watched)
        for path in sorted(self.watched.rglob("*.yaml")):
            if str(path.relative_to(self.watched)) not in tree:
                path.unlink()
        shutil.rmtree(after)


class MadeAgain(Way):
    """rm -r of the watched directory, and cp -r of another one to its place."""

    def become(self, tree: Files) -> None:
        after = self.aside(tree)
        run("rm", "-r", self.watched)
        run("cp", "-r", after, self.watched)
        shutil.rmtree(after)


class Emptied(Way):
    """All files are deleted, and others copied to their place."""

    def become(self, tree: Files) -> None:
        after = self.aside(tree)
        run("sh", "-c", 'rm -r "$0"/*; cp -r "$1"/* "$0"', self.watched, after)
        shutil.rmtree(after)


class Untarred(Way):
    """tar: unlinks each file, and writes it anew."""

    def become(self, tree: Files) -> None:
        after = self.aside(tree)
        run("tar", "-C", after, "-cf", self.base / "release.tar", ".")
        run("tar", "-C", self.watched, "-xf", self.base / "release.tar")
        for path in sorted(self.watched.rglob("*.yaml")):
            if str(path.relative_to(self.watched)) not in tree:
                path.unlink()
        shutil.rmtree(after)


class SedInPlace(Way):
    """A draft each, renamed into place.  Afterwards it may differ from the tree in what is no word of sed's."""

    def become(self, tree: Files) -> None:
        words = ("s/old/new/g",) if any("new" in text for text in tree.values()) else ("s/new/old/g",)
        run("sed", "-i", *words, *sorted(self.watched.rglob("*.yaml")))


class BindMount(Way):
    """Another tree is mounted over a directory, and the next one takes that away."""

    def begin(self, tree: Files) -> None:
        super().begin(tree)
        self.place = self.watched  # where to mount
        self.mounted = False

    def become(self, tree: Files) -> None:
        if self.mounted:
            self._unmount()
        else:
            self.mount(tree)
        self.mounted = not self.mounted

    def mount(self, tree: Files) -> None:
        run(*self.inside, "mount", "--bind", self.aside(tree), self.place)

    def _unmount(self) -> None:
        """Again and again while somebody reads a file there, as systemd does."""
        end = time.monotonic() + 10
        while True:
            try:
                return run(*self.inside, "umount", self.place)
            except subprocess.CalledProcessError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def close(self) -> None:
        if self.mounted and not self.inside:
            run("umount", "-l", self.place)


class TmpfsMount(BindMount):
    """A tmpfs that is complete."""

    def mount(self, tree: Files) -> None:
        aside, draft = self.aside(tree), self.base / "draft"
        draft.mkdir(exist_ok=True)
        run(*self.inside, "mount", "-t", "tmpfs", "tmpfs", draft)
        run(*self.inside, "cp", "-r", f"{aside}/.", draft)
        run(*self.inside, "mount", "--bind", draft, self.place)
        run(*self.inside, "umount", draft)


class FilledMount(BindMount):
    """An empty tmpfs, to which the files are copied slowly."""

    def mount(self, tree: Files) -> None:
        aside = self.aside(tree)
        run(*self.inside, "mount", "-t", "tmpfs", "tmpfs", self.place)
        run(*self.inside, "sh", "-c", 'for each in "$0"/*; do sleep 0.05; cp "$each" "$1"; done', aside, self.place)


class FolderMount(BindMount):
    """Over a directory that is on the way to the watched one."""

    def begin(self, tree: Files) -> None:
        self.watched = self.base / "volume/deep/manifests"
        super().begin(tree)
        self.place = self.base / "volume"

    def mount(self, tree: Files) -> None:
        super().mount({f"deep/manifests/{name}": text for name, text in tree.items()})


# Of one file -------------------------------------------------------------------------------------------------------


class _OneFile(Way):
    """All of the tree is in one file."""

    def begin(self, tree: Files) -> None:
        self.file = self.watched / "all.yaml"
        write(self.watched, {"all.yaml": self.text(tree)})

    @staticmethod
    def text(tree: Files) -> str:
        return "---\n".join(tree[name] for name in sorted(tree))


class Ansible(_OneFile):
    """ansible.builtin.copy (module_utils/basic.py, atomic_move): a draft in the same directory, renamed into place."""

    def become(self, tree: Files) -> None:
        self.count += 1
        draft = self.watched / f".ansible_tmp{self.count:08}all.yaml"
        draft.touch()
        draft.write_text(self.text(tree))
        draft.chmod(0o644)
        draft.rename(self.file)


class RenamedFromOutside(_OneFile):
    """ansible.builtin.copy where /tmp is on the same file system; mv."""

    def become(self, tree: Files) -> None:
        draft = self.base / "outside"
        draft.write_text(self.text(tree))
        draft.rename(self.file)


class Vim(_OneFile):
    """Keeps a backup, and writes the file anew."""

    def become(self, tree: Files) -> None:
        after = self.base / "after"
        after.write_text(self.text(tree))
        run("vim", "-u", "NONE", "-es", "-c", "set backup backupcopy=no", "-c", f"%!cat {after}", "-c", "wq", self.file)
        assert self.file.read_text() == after.read_text()


class Emacs(_OneFile):
    """A lock, a backup by renaming, and writing anew."""

    def become(self, tree: Files) -> None:
        lock = self.watched / ".#all.yaml"
        lock.symlink_to("user@host.1234:1")
        self.file.rename(self.watched / "all.yaml~")
        self.file.write_text(self.text(tree))
        lock.unlink()


class SlowWriter(_OneFile):
    """In pieces, the file open all the time."""

    def become(self, tree: Files) -> None:
        text = self.text(tree)
        with self.file.open("w") as file:
            for at in range(0, len(text), len(text) // 7 + 1):
                file.write(text[at : at + len(text) // 7 + 1])
                file.flush()
                time.sleep(0.15)


# Ways in which there is nothing but the tree before or after.
ATOMIC: tuple[type[Way], ...] = (
    GitCheckout,
    GitStopped,
    GitPull,
    GitSync3,
    GitSync4,
    GitSyncInside,
    ConfigMap,
    LinkSwapped,
    DirectoryReplaced,
    DirectoryAway,
    FolderReplaced,
    Rsync,
    RsyncDelayed,
    RsyncSlow,
    RsyncInPlace,
    RsyncDelete,
    RsyncDeleteInPlace,
    Copied,
    MadeAgain,
    Emptied,
    Untarred,
    SedInPlace,
    BindMount,
    TmpfsMount,
    FilledMount,
    FolderMount,
    Ansible,
    RenamedFromOutside,
    Vim,
    Emacs,
    SlowWriter,
)
