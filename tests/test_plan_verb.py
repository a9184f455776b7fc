"""`netpoldctl plan`: the daemon's own plan between two directories, told and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest

from tests.test_ctl import ROOT, ctl

GUESTBOOK = ROOT / "etc/examples/guestbook"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    directory = tmp_path / "other"
    copytree(GUESTBOOK, directory, symlinks=True)
    return directory


def replaced(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def test_nothing_to_do() -> None:
    done = ctl("plan", "--from", GUESTBOOK, GUESTBOOK)
    assert (done.returncode, done.stdout) == (0, "nothing to do: the kernel's rules are the same\n")


def test_a_set_changes_in_place(other: Path) -> None:
    replaced(other / "00-namespaces.yaml", "purpose: monitoring", "purpose: other")
    assert ctl("plan", "--from", GUESTBOOK, other).stdout.splitlines()[1:] == [
        "   one-way: every look-up is the old or the new one",
        "   - 10.244.2.11",
        "1 step, and 0 to clean up",
    ]


def test_a_rule_changes(other: Path) -> None:
    replaced(other / "50-office.yaml", "port: 80", "port: 81")
    lines = ctl("plan", "--from", GUESTBOOK, other).stdout.splitlines()
    assert lines[0] == "1. commit to IPv4's filter table: 2 chains"
    assert lines[2].endswith(" (guestbook/ui)")
    assert any("+ " in line and "--dport 81" in line for line in lines)
    assert "afterwards, when there is nothing else to do" in lines
    assert lines[-1] == "1 step, and 1 to clean up"


def test_json(other: Path) -> None:
    (other / "40-monitoring.yaml").unlink()
    answer = json.loads(ctl("plan", "--from", GUESTBOOK, other, "-o", "json").stdout)
    assert (answer["version"], answer["node"]) == (1, None)
    (commit,) = answer["steps"]
    assert (commit["step"], commit["family"], commit["unhook"]) == ("commit", "IPv4", [])
    new = {name for name, rules in commit["before"].items() if rules is None}
    assert new and all(name.startswith("NP-RULES-") for name in new)
    assert {each["step"] for each in answer["afterwards"]} == {"remove-chains", "destroy-sets"}
    assert all(each["why"] for each in (*answer["steps"], *answer["afterwards"]))


def test_of_one_node(other: Path) -> None:
    """The pods of the example name no node: they may be anywhere.  One that names another is left out."""
    replaced(other / "10-pods.yaml", "spec:\n", "spec:\n  nodeName: elsewhere\n")
    here = json.loads(ctl("plan", "--from", GUESTBOOK, other, "--node", "here", "-o", "json").stdout)
    chains = {name: rules for step in here["steps"] for name, rules in step["chains"].items()}
    assert chains["NETPOLD-FORWARD"]
    assert not any(name.startswith("NP-RULES-") for name in chains)
    assert not ctl("plan", "--from", GUESTBOOK, other, "--node", "elsewhere").stdout.startswith("1.")


def test_a_side_with_policies_alone_has_the_other_one_s_pods(other: Path) -> None:
    """The usual repository; what is planned is what it changes, and not that all pods go."""
    replaced(other / "50-office.yaml", "port: 80", "port: 81")
    whole = ctl("plan", "--from", GUESTBOOK, other).stdout
    (other / "10-pods.yaml").unlink()
    for old, new in ((GUESTBOOK, other), (other, GUESTBOOK)):
        done = ctl("plan", "--from", old, new)
        assert done.returncode == 0 and done.stdout.splitlines()[-1] == "1 step, and 1 to clean up"
    assert ctl("plan", "--from", GUESTBOOK, other).stdout == whole


def test_without_any_pods_there_is_nothing_to_plan(tmp_path: Path) -> None:
    for name, port in (("old", 80), ("new", 81)):
        (tmp_path / name).mkdir()
        text = (GUESTBOOK / "50-office.yaml").read_text().replace("port: 80", f"port: {port}")
        (tmp_path / name / "office.yaml").write_text(text)
    done = ctl("plan", "--from", tmp_path / "old", tmp_path / "new")
    assert done.returncode == 2 and "neither side says which pods there are" in done.stderr
    assert "--inventory" in done.stderr


def test_without_a_daemon_it_needs_a_beginning(tmp_path: Path) -> None:
    done = ctl("plan", "--socket", tmp_path / "none", GUESTBOOK)
    assert done.returncode == 3
