"""The man pages: up to date with the program's tables, clean to their checkers, and with examples that work."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from netpold import config
from netpold.ctl import main as ctl
from netpold.ctl.failure import Exit
from netpold.ctl.verbs import VERBS
from netpold.daemon import main as daemon
from netpold.daemon.routes import ROUTES
from netpold.daemon.status import Status
from netpold.host.drops import DropTotals
from netpold.host.exposition import exposition
from netpold.host.journal import MESSAGES
from netpold.host.metrics import Tally

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs/man").glob("*.[58]"))
INSTALLED = "/usr/share/doc/netpold"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def needs(program: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not shutil.which(program), reason=f"{program} is not installed (Debian package {package})"
    )


# What is on a page ---------------------------------------------------------------------------------------------------


def lines(name: str, section: str) -> list[str]:
    """The lines of a section, as they are in the file."""
    text = (ROOT / "docs/man" / name).read_text()
    found = re.search(rf'^\.SH "?{section}"?\n(.*?)(?=^\.SH |\Z)', text, re.MULTILINE | re.DOTALL)
    assert found, f"{name} has no section {section}"
    return found[1].splitlines()


def plain(line: str) -> str:
    """A line without macros and escapes."""
    macro, _, rest = line.partition(" ")
    if re.fullmatch(r"\.[BIR]{1,2}", macro):
        words = shlex.split(rest.replace("\\", "\\\\"))
        line = (" " if len(macro) == 2 else "").join(words)
    return re.sub(r"\\f.|\\:", "", line).replace(r"\-", "-").replace(r"\e", "\\")


def heads(name: str, section: str) -> list[str]:
    """What stands at the margin of the outermost lists of a section."""
    found, depth, is_head = [], 0, False
    for line in lines(name, section):
        depth += (line == ".RS") - (line == ".RE")
        if is_head and depth == 0:
            found.append(plain(line))
        is_head = line in (".TP", ".TQ")
    return found


def examples(name: str, section: str = "EXAMPLES") -> Iterator[str]:
    inside: list[str] | None = None
    for line in lines(name, section):
        if line == ".EX":
            inside = []
        elif line == ".EE":
            assert inside is not None
            yield "\n".join([*inside, ""])
            inside = None
        elif inside is not None:
            inside.append(plain(line))


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


# Up to date ----------------------------------------------------------------------------------------------------------


def test_the_committed_pages_are_up_to_date(tmp_path: Path) -> None:
    """If not: /usr/bin/python3 docs/man/make.py"""
    subprocess.run([sys.executable, ROOT / "docs/man/make.py", tmp_path], check=True, timeout=60)
    made = {each.name: each.read_text() for each in tmp_path.iterdir()}
    assert made == {page.name: page.read_text() for page in PAGES}


def test_the_settings_are_on_their_page() -> None:
    assert heads("netpold.toml.5", "SETTINGS") == list(config.Settings.__dataclass_fields__)


def test_options_of_the_daemon() -> None:
    names = {name for action in daemon.parser()._actions for name in action.option_strings}
    assert options(" ".join(heads("netpold.8", "OPTIONS"))) == names
    synopsis = options(" ".join(map(plain, lines("netpold.8", "SYNOPSIS"))))
    assert synopsis == names - {"-h", "--help", "--version", "--check-settings"}


def test_verbs_and_their_arguments() -> None:
    commands = {head.partition(" ")[0]: head for head in heads("netpoldctl.8", "COMMANDS")}
    assert commands.keys() == {verb.name for verb in VERBS}
    for verb in VERBS:
        written = commands[verb.name]
        named = [argument for argument in verb.arguments if argument.names[0].startswith("-")]
        assert options(written) == {argument.names[0] for argument in named}
        for argument in verb.arguments:
            metavar = argument.options.get("metavar")
            assert metavar is None or metavar in written
        for argument in named:
            is_optional = f"[{argument.names[0]}" in written
            assert is_optional != argument.options.get("required", False)


def test_who_wants_no_daemon() -> None:
    """The verbs that can read manifests themselves: those that have no socket to ask, or a directory to name."""
    named = {verb.name: {each.names[0] for each in verb.arguments} for verb in VERBS}
    read = {name for name, names in named.items() if "--socket" not in names or names & {"--manifests", "--inventory"}}
    _, _, text = " ".join(map(plain, lines("netpoldctl.8", "DESCRIPTION"))).partition("Those that read manifests")
    assert set(re.findall(r"[a-z-]+", text)) & named.keys() == read


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("FAULTS", "Last good versions outlive restarts, reboots and upgrades"),
        ("FAULTS", "no policies"),  # of a file that became empty: it never means that
        ("GITOPS", "10 s"),  # so long rsync may take
        ("GITOPS", "pauses below 0.25 s"),
        ("GITOPS", "pauses below 20 ms"),  # with --inplace
    ],
)
def test_what_semantics_says_too(section: str, said: str) -> None:
    assert said in " ".join(lines("netpold-manifests.5", section))
    assert said in " ".join((ROOT / "docs/semantics.md").read_text().split())


def test_options_of_netpoldctl() -> None:
    parsers = [ctl.parser()]
    for action in ctl.parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers += action.choices.values()
    names = {name for parser in parsers for action in parser._actions for name in action.option_strings}
    assert options(" ".join(heads("netpoldctl.8", "OPTIONS"))) == names


def test_exit_codes_and_requests() -> None:
    assert heads("netpoldctl.8", "EXIT STATUS") == [str(int(code)) for code in Exit]
    requests = [head.partition("?")[0] for head in heads("netpoldctl.8", "THE CONTROL SOCKET")]
    assert sorted(requests) == sorted(f"{method} {path}" for path, (method, _) in ROUTES.items())


def test_message_ids_in_examples_are_real() -> None:
    text = "".join(examples("netpold.8"))
    assert set(re.findall("[0-9a-f]{32}", text)) == {
        message.id for message in MESSAGES if message.name in ("rejected", "quarantined")
    }


def test_metrics_are_real() -> None:
    status = Status.starting(config.Settings(), "nft")
    text = exposition("0", Tally(last_apply_at=0.0), status, DropTotals()).decode()
    metrics = [re.split(r"[{,]", head)[0] for head in heads("netpold.8", "METRICS")]
    assert len(metrics) > 5
    assert set(metrics) <= set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))


def test_the_service_is_confined_as_it_says() -> None:
    capabilities = set(re.findall("CAP_[A-Z_]+", " ".join(lines("netpold.8", "THE SERVICE"))))
    unit = (ROOT / "systemd/netpold.service").read_text()
    allowed = re.search("^AmbientCapabilities=(.*)$", unit, re.MULTILINE)
    assert allowed and set(allowed[1].split()) == capabilities


@each_page
def test_documents_that_are_referred_to(page: Path) -> None:
    installed = (ROOT / "debian/netpold.docs").read_text().split()
    for name in re.findall(rf"{INSTALLED}/(\S+\.md)", page.read_text().replace("\\-", "-")):
        assert any(fnmatch(f"docs/{name}", pattern) for pattern in installed)
        assert (ROOT / "docs" / name).exists()


# Clean ---------------------------------------------------------------------------------------------------------------


def at_80_columns(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MANWIDTH": "80", "MANROFFSEQ": "", "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


@needs("man", "man-db")
@each_page
def test_groff_has_nothing_to_say(page: Path) -> None:
    done = at_80_columns("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page)  # as lintian does
    assert (done.returncode, done.stderr) == (0, "")


@needs("mandoc", "mandoc")
@each_page
def test_mandoc_has_nothing_to_say(page: Path) -> None:
    done = subprocess.run(["mandoc", "-T", "lint", page], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@needs("man", "man-db")
@each_page
def test_it_fits_80_columns(page: Path) -> None:
    done = at_80_columns("man", "-l", page)
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


# Examples that work --------------------------------------------------------------------------------------------------


def shell(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run an example where the examples are, with netpoldctl from this checkout."""
    (directory / "netpoldctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m netpold.ctl "$@"\n')
    (directory / "netpoldctl").chmod(0o755)
    script = script.replace(f"{INSTALLED}/examples", str(ROOT / "etc/examples"))
    environment = {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-uc", script], capture_output=True, text=True, timeout=60, cwd=directory, env=environment
    )


AUTHOR = "-c user.name=nobody -c user.email=nobody@localhost"


def test_questions_about_manifests_can_be_pasted(tmp_path: Path) -> None:
    asked = [each for each in examples("netpoldctl.8") if "/etc/" not in each]
    shutil.copytree(ROOT / "etc/examples/guestbook", tmp_path / "manifests")
    for words in ("init -q", "add manifests", f"{AUTHOR} commit -qm first", "update-ref refs/remotes/origin/main HEAD"):
        subprocess.run(["git", *words.split()], cwd=tmp_path, check=True, timeout=60)
    codes = []
    for each in asked:
        done = shell(each, tmp_path)
        assert not done.stderr
        codes.append(done.returncode)
    assert codes == [0, 0, 1, 0, 0, 0]  # the third one is about mistakes


def test_manifests_can_be_pasted(tmp_path: Path) -> None:
    for number, each in enumerate(examples("netpold-manifests.5")):
        (tmp_path / f"{number}.yaml").write_text(each)
    done = shell("netpoldctl check . && netpoldctl explain --manifests . shop/web shop/db 5432/TCP", tmp_path)
    assert "2 files, 2 policies, 2 pods, 0 namespaces: 0 errors, 1 warning" in done.stdout  # of kube-system


def test_settings_can_be_pasted(tmp_path: Path) -> None:
    for each in examples("netpold.toml.5"):
        (tmp_path / "x.toml").write_text(each)
        assert config.load(file=tmp_path / "x.toml") != config.Settings()
