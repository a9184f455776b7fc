"""Completions: up to date with the command lines, and what the shells themselves make of them.

Each shell is asked for the candidates of a line, with the cursor at its end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netpold.ctl import main as ctl
from netpold.ctl.verbs import VERBS
from netpold.daemon import main as daemon
from netpold.daemon.control import Control

ROOT = Path(__file__).parent.parent
COMPLETION = ROOT / "packaging/completion"

# The function is called as readline would call it, on a line that ends at the cursor.
BASH = """\
source /usr/share/bash-completion/bash_completion
source "$1/$2.bash"
COMP_LINE=$3 COMP_POINT=${#3} COMP_TYPE=9 COMP_KEY=9 COMP_WORDS=("${@:4}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
compopt() { :; }  # works only below readline
_$2 "$2" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
(( ! ${#COMPREPLY[@]} )) || printf '%s\\n' "${COMPREPLY[@]}"
"""

# A shell with a terminal, as the completion system wants it, whose compadd prints what it is given that matches.
ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1= PS2= COLUMNS=500; unset zle_bracketed_paste; stty -echo; fpath=(${(q)1} \$fpath)"
zpty -w shell "autoload -Uz compinit; compinit -D -u; zstyle ':completion:*' verbose no"
zpty -w shell 'compadd() {
    local -a hits
    builtin compadd -A hits "$@"
    (( $#hits )) && print -l && print -lr -- ${hits/#/hit:$IPREFIX}
    builtin compadd "$@"
}
answer() { compstate[list]= compstate[insert]=; _main_complete; print -r end: }
zle -C answer complete-word answer; bindkey "^I" answer
print -r ready:'
zpty -r shell answer $'*\nready:*' || exit 1
zpty -n -w shell "$2"$'\t'
zpty -r shell answer '*end:*' || exit 1
print -r -- $answer
zpty -d shell
"""


def run(*command: str | Path) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "TERM": "dumb"}
    )
    assert not done.stderr
    return done.stdout


def bash(line: str) -> set[str]:
    words = line.replace("=", " = ").split(" ")  # as readline has it: `=` is a word of its own
    return {
        each.strip()
        for each in run("bash", "--norc", "-c", BASH, "bash", COMPLETION, words[0], line, *words).splitlines()
    }


def zsh(line: str) -> set[str]:
    lines = run("zsh", "-f", "-c", ZSH, "zsh", COMPLETION, line).splitlines()
    found = {each.removeprefix("hit:").strip() for each in lines if each.startswith("hit:")}
    # where there is no argument to offer, zsh offers options
    return found if line.rpartition(" ")[2].startswith("-") else {each for each in found if not each.startswith("-")}


def fish(line: str) -> set[str]:
    script = "source $argv[1]/$argv[2].fish; complete --do-complete $argv[3]"
    answer = run("fish", "--no-config", "-c", script, COMPLETION, line.partition(" ")[0], line)
    return {each.partition("\t")[0] for each in answer.splitlines()}


SHELLS = [
    pytest.param(
        shell,
        marks=pytest.mark.skipif(not needed.exists(), reason=f"{needed} is not installed (Debian package {package})"),
    )
    for shell, needed, package in (
        (bash, Path("/usr/share/bash-completion/bash_completion"), "bash-completion"),
        (zsh, Path("/usr/bin/zsh"), "zsh"),
        (fish, Path("/usr/bin/fish"), "fish"),
    )
]
in_each_shell = pytest.mark.parametrize("shell", SHELLS)
Shell = Callable[[str], set[str]]


def test_the_committed_files_are_up_to_date(tmp_path: Path) -> None:
    """If not: /usr/bin/python3 packaging/completion/make.py"""
    run(sys.executable, COMPLETION / "make.py", tmp_path)
    made = {each.name: each.read_text() for each in tmp_path.iterdir()}
    assert len(made) == 6
    assert {name: (COMPLETION / name).read_text() for name in made} == made


@in_each_shell
def test_verbs(shell: Shell) -> None:
    verbs = {verb.name for verb in VERBS}
    assert shell("netpoldctl ") == verbs
    assert shell("netpoldctl --socket /run/x ") == verbs
    assert shell("netpoldctl w") == {"wait"}
    assert shell("netpoldctl status w") == set()


@in_each_shell
def test_options(shell: Shell) -> None:
    for line, parser in (("netpoldctl", ctl.parser()), ("netpold", daemon.parser())):
        assert shell(f"{line} -") == _options(parser)
    verbs = next(each for each in ctl.parser()._actions if isinstance(each, argparse._SubParsersAction))
    for verb, parser in verbs.choices.items():
        assert shell(f"netpoldctl {verb} -") == _options(parser)
    assert shell("netpoldctl matrix --ports ICMP --man") == {"--manifests"}
    assert shell("netpold --backend nft --no") == {"--node"}


def _options(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings}


@in_each_shell
def test_values(shell: Shell) -> None:
    assert shell("netpoldctl status -o ") == {"text", "json"}
    assert shell("netpoldctl status --output j") == {"json"}
    assert {each.removeprefix("--output=") for each in shell("netpoldctl status --output=j")} == {"json"}
    assert shell("netpold --backend ") == {"auto", "nft", "legacy"}
    assert shell("netpoldctl wait --timeout ") == set()


@in_each_shell
def test_the_forms_of_each_verb(shell: Shell) -> None:
    """-o takes another choice with some of them."""
    for verb in VERBS:
        for output in (each for each in verb.arguments if "-o" in each.names):
            assert shell(f"netpoldctl {verb.name} -o ") == set(output.options["choices"]), verb.name
    assert shell("netpoldctl --socket /run/x matrix --output m") == {"markdown"}


@in_each_shell
def test_ports(shell: Shell) -> None:
    assert "ICMP" in shell("netpoldctl explain shop/web shop/db ")
    assert shell("netpoldctl explain -o json shop/web 10.0.0.1 54") == {"54/TCP", "54/UDP", "54/SCTP"}
    assert shell("netpoldctl explain shop/web shop/db 54/U") == {"54/UDP"}
    assert shell("netpoldctl explain shop/web 54") == set()
    assert shell("netpoldctl explain shop/web shop/db 54/UDP 54") == set()
    assert shell("netpoldctl matrix --ports 80/T") == {"80/TCP"}
    assert shell("netpoldctl matrix --ports 80/TCP,54/U") == {"80/TCP,54/UDP"}
    assert {each.removeprefix("--ports=") for each in shell("netpoldctl matrix --ports=80/TCP,I")} == {"80/TCP,ICMP"}


@in_each_shell
def test_files_and_directories(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x1.yaml", "x2.toml"):
        (tmp_path / name).touch()
    (tmp_path / "x3").mkdir()
    monkeypatch.chdir(tmp_path)
    everything, manifests, directories = {"x1.yaml", "x2.toml", "x3"}, {"x1.yaml", "x3"}, {"x3"}

    def found(line: str) -> set[str]:
        return {each.removesuffix("/") for each in shell(line)}

    assert found("netpoldctl render --manifests x") == directories
    assert found("netpoldctl --manifests x") == directories
    assert found("netpoldctl --socket x") == everything
    for line in ("netpoldctl check x", "netpoldctl check x3 x"):
        assert found(line) == (everything if shell is fish else manifests)
    assert found("netpold --state-dir x") == directories
    assert found("netpold --config x") == everything


KNOWN = {
    "pods": [f"shop/{name}" for name in ("api", "db", "web")] + [f"mail/box-{number}" for number in range(300)],
    "policies": ["shop/deny-all"],
    "namespaces": ["empty"],
    "nodes": ["gb1", "gb2", "other"],
}


class Named:
    """What the completions ask of the daemon, and no more."""

    def ask(self, question: str, parameters: dict[str, str]) -> dict[str, object]:
        assert question == "names"
        return {"version": 1, **KNOWN}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A netpoldctl on the PATH, and the socket of a daemon that knows some names."""
    script = tmp_path / "netpoldctl"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m netpold.ctl "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    server = Control(tmp_path / "run", Named())  # type: ignore[arg-type]
    server.start()
    yield server.path
    server.close()


@in_each_shell
def test_names_that_the_daemon_knows(shell: Shell, served: Path) -> None:
    line = f"netpoldctl --socket {served}"
    assert shell(f"{line} pod shop/") == {"shop/api", "shop/db", "shop/web"}
    assert shell(f"{line} pod ") == {"shop/", "mail/"}, "too many to be listed"
    assert shell(f"{line} policy ") == {"shop/deny-all"}
    assert shell(f"{line} explain shop/web shop/d") == {"shop/db"}
    assert shell(f"{line} explain mail/box-29") == {"mail/box-29", *(f"mail/box-29{number}" for number in range(10))}
    assert shell(f"{line} monitor --pod shop/a") == {"shop/api"}
    assert shell(f"{line} monitor --namespace ") == {"empty", "mail", "shop"}
    assert shell(f"{line} suggest s") == {"shop"}
    assert shell(f"{line} suggest shop/w") == {"shop/web"}
    for verb in ("matrix", "plan", "render"):
        assert shell(f"{line} {verb} --node g") == {"gb1", "gb2"}


@in_each_shell
def test_lists_of_names_that_the_daemon_knows(shell: Shell, served: Path) -> None:
    line = f"netpoldctl --socket {served} matrix"
    assert shell(f"{line} --pods shop/") == {"shop/api", "shop/db", "shop/web"}
    assert shell(f"{line} --pods ") == {"shop/", "mail/"}
    assert shell(f"{line} --pods mail/box-7,shop/w") == {"mail/box-7,shop/web"}
    assert shell(f"{line} --pods shop/api,mail/box-7,s") == {
        f"shop/api,mail/box-7,shop/{name}" for name in ("db", "web")
    }
    assert shell(f"{line} --namespace ") == {"empty", "mail", "shop"}
    assert shell(f"{line} --namespace shop,") == {"shop,empty", "shop,mail"}
    assert {each.removeprefix("--namespace=") for each in shell(f"{line} --namespace=shop,m")} == {"shop,mail"}


@in_each_shell
def test_sides_are_files_or_the_node(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("new", "near"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    for line in ("diff n", "diff new n", "plan n", "plan --from n"):
        assert {each.removesuffix("/") for each in shell(f"netpoldctl {line}")} == {"new", "near", "node"}, line
    assert shell("netpoldctl diff no") == {"node"}


@in_each_shell
def test_without_a_daemon_there_is_nothing_to_offer(shell: Shell, served: Path) -> None:
    assert shell(f"netpoldctl --socket {served}.absent pod ") == set()
