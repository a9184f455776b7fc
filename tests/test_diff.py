"""`netpoldctl diff`: directories, git revisions and the node, as text, Markdown and JSON."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from hypothesis import given, settings

from netpold.ctl.groups_text import Names
from netpold.ctl.services_text import services
from netpold.ctl.sides import world_in_force
from netpold.policy.canonical import written
from netpold.policy.model import Namespace, Operator, Pod, Policy, Requirement, Selector, World
from netpold.rules.services import Span
from tests.strategies import EVERYTHING_GOES, worlds
from tests.test_ctl import CTL, ROOT, ctl

GUESTBOOK = ROOT / "etc/examples/guestbook"
PATHS = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """The guestbook with a rule on another port, a policy less, and one that allows more."""
    directory = tmp_path / "changed"
    copytree(GUESTBOOK, directory, symlinks=True)
    ports = directory / "30-ui-to-api.yaml"
    ports.write_text(ports.read_text().replace("port: 8080", "port: 9090"))
    (directory / "40-monitoring.yaml").unlink()
    office = directory / "50-office.yaml"
    office.write_text(
        office.read_text().replace("except:", "except: [10.72.0.0/24]").replace("        - 10.72.10.0/24", "")
    )
    return directory


def test_text(changed: Path) -> None:
    done = ctl("diff", GUESTBOOK, changed)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert f"- policy guestbook/from-monitoring ({GUESTBOOK}/40-monitoring.yaml:5)" in lines
    at = lines.index("opens  10.72.10.0/24 -> guestbook/ui")
    assert lines[at + 1 : at + 3] == [
        "  + 80/TCP",
        f"    guestbook/ui-from-office ingress[0] ({changed}/50-office.yaml:12) allows it",
    ]
    at = lines.index("changes  guestbook/ui -> guestbook/api")
    assert lines[at + 1 : at + 3] == ["  + 9090/TCP", "  - 8080/TCP"]
    at = lines.index("closes  monitoring/prometheus -> guestbook/api, guestbook/db, guestbook/ui")
    assert lines[at + 1] == "  - everything"
    assert lines[-1] == "4 differences: 1 opens, 1 changes, 2 close"


@pytest.mark.parametrize(("fail_on", "code"), [("open", 1), ("any", 1), ("never", 0)])
def test_fail_on(changed: Path, fail_on: str, code: int) -> None:
    assert ctl("diff", "--fail-on", fail_on, GUESTBOOK, changed).returncode == code


def test_what_only_closes_does_not_fail(tmp_path: Path) -> None:
    directory = tmp_path / "less"
    copytree(GUESTBOOK, directory, symlinks=True)
    (directory / "40-monitoring.yaml").unlink()
    assert ctl("diff", "--fail-on", "open", GUESTBOOK, directory).returncode == 0
    assert ctl("diff", "--fail-on", "any", GUESTBOOK, directory).returncode == 1


def test_nothing_changes() -> None:
    done = ctl("diff", "--fail-on", "any", GUESTBOOK, GUESTBOOK)
    assert (done.returncode, done.stdout) == (
        0,
        "nothing opens and nothing closes between 4 pods, or from or to any address\n",
    )


def test_json(changed: Path) -> None:
    answer = json.loads(ctl("diff", GUESTBOOK, changed, "-o", "json").stdout)
    assert answer["version"] == 1
    assert [(each["policy"], each["change"]) for each in answer["policies"]] == [
        ("guestbook/api-from-ui", "changed"),
        ("guestbook/from-monitoring", "removed"),
        ("guestbook/ui-from-office", "changed"),
        ("guestbook/ui-to-api", "changed"),
    ]
    opens, changes, *closes = answer["changes"]
    assert opens == {
        "kind": "opens",
        "source": {
            "text": "10.72.10.0/24",
            "pods": [],
            "addresses": [{"cidr": "10.72.10.0/24", "except": []}],
        },
        "destination": {"text": "guestbook/ui", "pods": ["guestbook/ui"], "addresses": []},
        "opens": [{"protocol": "TCP", "port": 80, "end_port": 80}],
        "closes": [],
        "families": ["IPv4"],
        "node": None,
        "because": [
            {
                "policy": "guestbook/ui-from-office",
                "direction": "ingress",
                "rule": 0,
                "does": "allows",
                "file": f"{changed}/50-office.yaml",
                "line": 12,
            }
        ],
    }
    assert [each["port"] for each in (*changes["opens"], *changes["closes"])] == [9090, 8080]
    assert {each["kind"] for each in closes} == {"closes"}


def test_markdown_is_a_table_that_names_can_not_break(tmp_path: Path) -> None:
    for side, port in (("a", 80), ("b", 81)):
        (tmp_path / side).mkdir()
        (tmp_path / side / "<x>|y.yaml").write_text(f"""\
apiVersion: v1
kind: Pod
metadata: {{name: web, namespace: shop}}
status: {{podIP: 10.0.0.1}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: in, namespace: shop}}
spec: {{podSelector: {{}}, ingress: [{{ports: [{{port: {port}}}]}}]}}
""")
    text = ctl("diff", tmp_path / "a", tmp_path / "b", "-o", "markdown").stdout
    (row,) = [line for line in text.splitlines() if line.startswith("| anywhere")]
    assert row.replace("\\|", "").count("|") == 5
    assert "&lt;x>" in row and "<x>" not in text
    assert "+ 81/TCP; - 80/TCP" in row


# Sides ----------------------------------------------------------------------------------------------------------------


def git(where: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *identity, *words], cwd=where, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The guestbook in a directory `m` of a repository, committed, then changed."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "-q")
    copytree(GUESTBOOK, root / "m", symlinks=True)
    (root / "elsewhere").mkdir()
    (root / "elsewhere/office.yaml").write_text(
        (GUESTBOOK / "50-office.yaml").read_text().replace("port: 80", "port: 1")
    )
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "all")
    (root / "m/40-monitoring.yaml").unlink()
    return root


def test_a_revision_of_the_other_one(repository: Path) -> None:
    done = ctl("diff", "git:HEAD", repository / "m")
    assert not done.stderr
    assert "- policy guestbook/from-monitoring (HEAD:m/40-monitoring.yaml:5)" in done.stdout
    assert "closes  monitoring/prometheus -> guestbook/api" in done.stdout
    back = ctl("diff", repository / "m", "git:HEAD")
    assert "+ policy guestbook/from-monitoring (HEAD:m/40-monitoring.yaml:5)" in back.stdout
    assert "opens  monitoring/prometheus" in back.stdout


def test_errors_of_a_revision_are_told_with_its_own_files(repository: Path) -> None:
    (repository / "m/bad.yaml").write_text("kind: Pod\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "bad")
    (repository / "m/bad.yaml").unlink()
    done = ctl("diff", "git:HEAD", repository / "m")
    assert done.returncode == 0
    assert "HEAD:m/bad.yaml:1:1: error: " in done.stderr


def test_two_revisions(repository: Path) -> None:
    git(repository, "commit", "-q", "-a", "-m", "less")
    words = [*CTL, "diff", "git:HEAD~1:m", "git:HEAD:./m"]
    done = subprocess.run(words, cwd=repository, env=PATHS, capture_output=True, text=True, timeout=60)
    assert "closes  monitoring/prometheus" in done.stdout
    assert not done.stderr


def test_a_revision_of_the_other_ones_path(repository: Path) -> None:
    """Else all of the repository, where more is, would be compared with a part of it."""
    for words in (("git:HEAD", "git:HEAD:m"), ("git:HEAD:./m", "git:HEAD")):
        done = subprocess.run(
            [*CTL, "diff", *words], cwd=repository, env=PATHS, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.startswith("nothing opens and nothing closes between 4 pods"), done.stdout + done.stderr
        assert not done.stderr


def test_a_hook_of_a_server_has_no_work_tree(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(repository), "served")
    gate = f"{' '.join(map(str, CTL))} diff --fail-on open git:$2:m git:$3:m"
    hook = tmp_path / "served/hooks/update"
    hook.write_text(f"#!/bin/sh\nexport PYTHONPATH={ROOT}\nexec {gate}\n")
    hook.chmod(0o755)
    git(repository, "commit", "-q", "-a", "-m", "closes")
    git(repository, "push", "-q", str(tmp_path / "served"), "main")
    git(repository, "revert", "--no-edit", "HEAD")
    words = ["git", "push", "-q", str(tmp_path / "served"), "main"]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "opens  monitoring/prometheus -> guestbook/api" in done.stderr, done.stderr

    for words in (("git:main", "git:main:m"), ("git:main", "git:main"), ("git:main:./m", "git:main:m")):
        done = subprocess.run(
            [*CTL, "diff", *words], cwd=tmp_path / "served", env=PATHS, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.startswith("nothing opens and nothing closes"), done.stderr


def test_what_the_symlinks_of_a_revision_lead_to(repository: Path) -> None:
    """A clean work tree and what was committed say the same, whatever names the targets have."""
    top = repository / "m"
    (top / "store/deep").mkdir(parents=True)
    (top / "40-monitoring.yaml").symlink_to("by-name")
    (top / "by-name").symlink_to("store/monitoring.conf")
    (top / "store/monitoring.conf").write_text((GUESTBOOK / "40-monitoring.yaml").read_text())
    (top / "store/README").write_text("words\n")
    (top / "store/deep/README").write_text("words\n")
    (top / "README").symlink_to("store/../store/README")
    (top / "deep").symlink_to("store/deep")
    (top / "loop.yaml").symlink_to("loop.yaml")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "links")
    done = ctl("diff", "git:HEAD", top)
    told = [line.replace(f"{top}/", "").replace("HEAD:m/", "") for line in done.stderr.splitlines()]
    assert len(told) == 2 and told[0] == told[1] and told[0].startswith("loop.yaml:"), "only what is wrong in both"
    assert done.stdout.startswith("nothing opens and nothing closes"), done.stdout


def test_a_revision_of_a_file(repository: Path) -> None:
    policies = repository / "m/30-ui-to-api.yaml"
    pods = ("--inventory", repository / "m/10-pods.yaml")
    assert ctl("diff", "git:HEAD", policies, *pods).stdout.startswith("nothing opens and nothing closes")
    policies.write_text("")
    done = ctl("diff", "git:HEAD", policies, *pods)
    assert not done.stderr
    assert "- policy guestbook/ui-to-api (HEAD:m/30-ui-to-api.yaml:3)" in done.stdout, done.stdout


def test_a_revision_of_submodules(repository: Path, tmp_path: Path) -> None:
    """They are read where they are checked out, and where not, that is told: never as if they held nothing."""
    git(repository, "commit", "-q", "-a", "-m", "less")
    root = tmp_path / "super"
    root.mkdir()
    git(root, "init", "-q")
    git(root, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository), "all/sub")
    git(root, "commit", "-q", "-m", "less")
    git(root / "all/sub", "checkout", "-q", "HEAD~1")
    git(root, "commit", "-q", "-a", "-m", "all")
    (root / "other").mkdir()
    (root / "other/namespace.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "other")
    assert ctl("diff", "git:HEAD", root).stdout.startswith("nothing opens and nothing closes")
    own = ("git:main", root / "all/sub/m")  # a revision of the submodule itself
    for words in (("git:HEAD~2", root), ("git:HEAD~2", root / "all"), own):
        done = ctl("diff", *words)
        assert "monitoring/prometheus -> guestbook/api" in done.stdout, done.stderr

    git(root, "submodule", "--quiet", "deinit", "-f", "--all")
    assert ctl("diff", "git:HEAD", root / "other").returncode == 0
    done = ctl("diff", "git:HEAD", root)
    assert done.returncode == 2
    assert "the submodule all/sub is not checked out" in done.stderr
    assert "submodule update --init all/sub" in done.stderr


@pytest.mark.parametrize(
    ("revision", "fault"),
    [
        ("git:nonesuch", "git knows no revision 'nonesuch'"),
        ("git:--output=x", "git knows no revision '--output=x'"),
        ("git:HEAD:nowhere", "there are no manifests at nowhere in "),
        ("git:HEAD:../..", "is not inside the repository"),
    ],
)
def test_revisions_that_there_are_not(repository: Path, revision: str, fault: str) -> None:
    words = [*CTL, "diff", revision, "m"]
    done = subprocess.run(words, cwd=repository, env=PATHS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert fault in done.stderr
    assert "hint: " in done.stderr


def test_no_repository(tmp_path: Path) -> None:
    done = ctl("diff", "git:HEAD", tmp_path)
    assert done.returncode == 2
    assert "can't be asked for a revision" in done.stderr


def test_policies_alone_are_compared_with_the_pods_of_the_other_side(changed: Path) -> None:
    (changed / "10-pods.yaml").unlink()
    (changed / "00-namespaces.yaml").unlink()
    assert "opens  10.72.10.0/24 -> guestbook/ui" in ctl("diff", GUESTBOOK, changed).stdout


def test_pods_from_elsewhere(changed: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    copytree(GUESTBOOK, old, symlinks=True)
    for directory in (old, changed):
        (directory / "10-pods.yaml").unlink()
    assert "no pods are on both sides, so nothing was compared" in ctl("diff", old, changed).stdout
    for fail_on in ("open", "any"):
        gate = ctl("diff", old, changed, "--fail-on", fail_on)
        assert gate.returncode == 2 and "can't tell" in gate.stderr and "--inventory" in gate.stderr
    done = ctl("diff", "--inventory", GUESTBOOK / "10-pods.yaml", old, changed)
    assert "opens  10.72.10.0/24 -> guestbook/ui" in done.stdout


def test_labels_are_named_where_they_are_what_changed(tmp_path: Path) -> None:
    directory = tmp_path / "m"
    copytree(GUESTBOOK, directory, symlinks=True)
    for name, old, new in (("00-namespaces", "purpose: monitoring", "purpose: x"), ("10-pods", "tier: db", "tier: x")):
        file = directory / f"{name}.yaml"
        file.write_text(file.read_text().replace(old, new))
    lines = ctl("diff", GUESTBOOK, directory).stdout.splitlines()
    assert lines[:2] == [
        f"~ namespace monitoring ({directory}/00-namespaces.yaml:7)",
        f"~ pod guestbook/db ({directory}/10-pods.yaml:35)",
    ]
    assert "closes  guestbook/api -> guestbook/db" in lines
    answer = json.loads(ctl("diff", GUESTBOOK, directory, "-o", "json").stdout)
    assert [(each["namespace"], each["change"]) for each in answer["namespaces"]] == [("monitoring", "changed")]
    assert [(each["pod"], each["change"]) for each in answer["pods"]["changed"]] == [("guestbook/db", "changed")]


def test_pods_of_one_side_are_named(changed: Path) -> None:
    (changed / "pod.yaml").write_text(
        "{apiVersion: v1, kind: Pod, metadata: {name: new, namespace: shop}, status: {podIP: 10.9.9.9}}\n"
    )
    assert f"only in {changed}, and not compared: shop/new" in ctl("diff", GUESTBOOK, changed).stdout


POD = "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: x}}, spec: {spec}, status: {status}}}\n"
CLOSED = """\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: x}
spec: {podSelector: {}}
"""


def pods_of(directory: Path, **pods: tuple[str, str]) -> Path:
    """A directory with these pods, each with its spec and status, all of them isolated."""
    directory.mkdir()
    told = (POD.format(name=name, spec=spec, status=status) for name, (spec, status) in pods.items())
    (directory / "all.yaml").write_text("---\n".join(told) + CLOSED)
    return directory


IN_BOTH = '{podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}'


@pytest.mark.parametrize(
    ("old", "new", "family", "why"),
    [
        (IN_BOTH, IN_BOTH.replace("{", "{phase: Succeeded, ", 1), None, "finished in {new}"),
        ("{phase: Failed}", "{}", None, "finished in {old}"),
        ("{}", "{}", None, "without an address"),
        (IN_BOTH, "{}", None, "without an address in {new}"),
        ("{podIP: 10.0.0.2}", "{podIP: 'fd00::2'}", None, "without addresses of one family on both sides"),
        ("{podIP: 10.0.0.2}", IN_BOTH, "IPv6", "without an IPv6 address in {old}"),
    ],
)
def test_pods_of_both_sides_that_are_not_compared_are_named(
    tmp_path: Path, old: str, new: str, family: str | None, why: str
) -> None:
    web = ("{}", "{podIP: 10.0.0.1}")
    sides = [pods_of(tmp_path / name, db=("{}", status), web=web) for name, status in (("old", old), ("new", new))]
    why = why.format(old=sides[0], new=sides[1])
    where = f" in {family}" if family else ""
    lines = ctl("diff", *sides).stdout.splitlines()
    assert lines[-1] == f"{why}, and not compared{where}: x/db"
    assert lines[-2].endswith(
        "between 2 pods, or from or to any address" if family else "between 1 pod, or from or to any address"
    )
    answer = json.loads(ctl("diff", *sides, "-o", "json").stdout)
    assert answer["pods"]["not_compared"] == [{"pod": "x/db", "family": family, "why": why}]


def test_where_no_pod_can_be_compared_nothing_is_told(tmp_path: Path) -> None:
    sides = [pods_of(tmp_path / name, db=("{}", f"{{phase: {name}}}")) for name in ("Running", "Failed")]
    done = ctl("diff", *sides, "--fail-on", "open")
    assert done.returncode == 2 and "no pod can be compared, so --fail-on open can't tell" in done.stderr


def test_a_pod_that_goes_to_the_hosts_network_opens(tmp_path: Path) -> None:
    web = ("{}", "{podIP: 10.0.0.1}")
    sides = [
        pods_of(tmp_path / name, db=(spec, "{podIP: 10.0.0.2}"), web=web)
        for name, spec in (("old", "{}"), ("new", "{hostNetwork: true}"))
    ]
    done = ctl("diff", *sides, "--fail-on", "open")
    assert done.returncode == 1
    assert "-> x/db" in done.stdout
    assert f"x/closed ({sides[0]}/all.yaml:5) no longer isolates for ingress" in done.stdout
    assert ctl("diff", *reversed(sides), "--fail-on", "open").returncode == 0


@settings(max_examples=40, deadline=None)
@given(world=worlds(EVERYTHING_GOES))
def test_what_is_in_force_is_read_back(world: World) -> None:
    tables = (world.namespaces, world.nodes, world.policies, world.pods)
    objects = [each for table in tables for each in table.values()]
    manifests = [json.loads(written(each)) for each in objects]
    where = [{"object": each.key, "file": None, "line": None, "quarantined": each.quarantined} for each in objects]
    assert world_in_force({"manifests": manifests, "where": where}) == world


# Words ----------------------------------------------------------------------------------------------------------------

TCP, UDP, SCTP, OTHER = (Span(name, 1, 65535) for name in ("TCP", "UDP", "SCTP", "other"))
OTHER = OTHER._replace(first=0, last=0)


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ((TCP, UDP, SCTP, OTHER), "everything"),
        ((TCP,), "every TCP port"),
        ((Span("TCP", 80, 80), Span("UDP", 53, 53)), "80/TCP, 53/UDP"),
        ((Span("TCP", 1, 21), Span("TCP", 23, 65535), UDP, SCTP, OTHER), "everything but 22/TCP"),
        ((Span("TCP", 1, 21), Span("TCP", 23, 65535)), "every TCP port but 22"),
        ((TCP, UDP, SCTP), "everything but ICMP and other protocols"),
        ((Span("TCP", 8000, 8999), OTHER), "8000-8999/TCP, ICMP and other protocols"),
    ],
)
def test_services(spans: tuple[Span, ...], words: str) -> None:
    assert services(spans) == words


APPS = ("x", "y", "z")
PODS = {
    f"{space}/{app}{number}": Pod(space, f"{app}{number}", {"app": app, "tier": f"t{number % 2}"}, ("10.0.0.1",))
    for space in "abcdef"
    for app in APPS
    for number in range(4)
}
SPACES = {name: Namespace(name, {"stage": "prod" if name in "cdef" else name}) for name in "abcdef"}
ASKING = Policy("a", "p", Selector(tuple(Requirement(key, Operator.EXISTS) for key in ("app", "tier"))), (), None)


def those(spaces: str, app: str = "xyz", numbers: str = "0123") -> frozenset[str]:
    return frozenset(key for key in PODS if key[0] in spaces and key[2] in app and key[3] in numbers)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (those("abcdef"), "every pod"),
        (those("a", "x", "0"), "a/x0"),
        (those("ab", "x", "0"), "a/x0, b/x0"),
        (those("a"), "a/* (12 pods)"),
        (those("a", "x"), "a/{app=x} (4 pods)"),
        (those("a", "xy"), "a/{app in (x,y)} (8 pods)"),
        (those("a", "xy", "02"), "a/{tier=t0,app in (x,y)} (4 pods)"),
        (those("a") - those("a", "x", "02"), "a/* but {app=x,tier=t0} (10 pods)"),
        (those("a", "x", "0") | those("a", "yz", "12"), "a/x0, a/y1 and 3 more of a (5 pods)"),
        (those("ab", "x"), "a/{app=x}, b/{app=x} (8 pods)"),
        (those("abcdef") - those("a", "x"), "every pod but a/{app=x} (68 pods)"),
        (those("abcdef", "x"), "{app=x} of every namespace (24 pods)"),
        (those("abcde", "x"), "{app=x} of every namespace but f (20 pods)"),
        (those("cdef", "x"), "{app=x} of every namespace but a, b (16 pods)"),
        (those("abcdef") - those("abcdef", "x"), "{app in (y,z)} of every namespace (48 pods)"),
    ],
)
def test_groups_of_pods(chosen: frozenset[str], words: str) -> None:
    assert Names(PODS, World(PODS, SPACES, {ASKING.key: ASKING})).pods(chosen) == words


def test_namespaces_by_a_label() -> None:
    pods = {
        f"{key}{more}": replace(pod, namespace=f"{pod.namespace}{more}") for key, pod in PODS.items() for more in "12"
    }
    pods = {each.key: each for each in pods.values()}
    spaces = {
        name: Namespace(name, {"stage": "prod" if name < "c" else "test"})
        for name in {p.namespace for p in pods.values()}
    }
    some = frozenset(key for key, pod in pods.items() if pod.namespace < "c" and pod.labels["app"] == "x")
    assert Names(pods, World(pods, spaces)).pods(some) == "{app=x} of namespaces with stage=prod (16 pods)"


def test_no_daemon(tmp_path: Path) -> None:
    done = ctl("diff", "node", GUESTBOOK, "--socket", tmp_path / "none")
    assert done.returncode == 3
    assert "netpold does not run" in done.stderr


@pytest.mark.parametrize("words", [("check", "-o", "sarif", "."), ("diff", "git:HEAD", "git:HEAD:m")])
def test_where_the_directory_is_gone_that_is_said(tmp_path: Path, words: tuple[str, ...]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *CTL, *(GUESTBOOK if w == "." else w for w in words)]
    done = subprocess.run(command, cwd=gone, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("netpoldctl: the current directory was deleted\nhint: ")
