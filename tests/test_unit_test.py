"""`netpoldctl test` on the guestbook: what passes, what fails and why, and its formats."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from netpold.rules.expectations import parse
from tests.test_ctl import ROOT, ctl

GUESTBOOK = ROOT / "etc/examples/guestbook"
PAGE = (ROOT / "docs/testing-policies.md").read_text()

FAILING = """\
tests:
- name: only the API reaches the database
  deny: {from: {any: anywhere, except: guestbook/api}, to: guestbook/db}
- name: the database answers nobody of its own accord
  allow: {from: guestbook/db, to: guestbook/ui, ports: [80/TCP]}
- name: nobody
  deny: {from: {labels: {app: nobody}}, to: guestbook/ui}
- name: a pod that is not there
  deny: {from: guestbook/nobody, to: guestbook/ui}
- name: addresses among themselves
  deny: {from: 192.0.2.1, to: 192.0.2.2}
"""


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    (tmp_path / "t.yaml").write_text(FAILING)
    return tmp_path / "t.yaml"


def test_the_example_of_the_page_passes(tmp_path: Path) -> None:
    example, of_nodes = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    tests, findings = parse(f"tests:\n{of_nodes}".encode(), "t.yaml")
    assert len(tests) == 2 and not findings
    (tmp_path / "t.yaml").write_text(example)
    done = ctl("test", "--manifests", GUESTBOOK, tmp_path / "t.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "ok    the user interface reaches the API, on its one port",
        "ok    nothing but the API and monitoring reaches the database",
        "ok    the office opens the user interface",
        "ok    its visitors do not",
        "4 tests: 4 passed, 0 failed",
    ]


def test_why_they_fail(failing: Path) -> None:
    done = ctl("test", "--manifests", GUESTBOOK, failing)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == f"FAIL  only the API reaches the database ({failing}:2)"
    assert "      monitoring/prometheus -> guestbook/db: passes, and should not: everything" in lines
    assert f"      ingress: guestbook/from-monitoring ingress[0] allows it ({GUESTBOOK}/40-monitoring.yaml:14)" in lines
    assert "      guestbook/db -> guestbook/ui: should pass, and does not: 80/TCP" in lines
    assert any(line.startswith("      egress: guestbook/db is isolated for egress") for line in lines)
    assert any(line.startswith("      nearest: guestbook/from-monitoring ingress[0]") for line in lines)
    assert "      `from` selects no pod that has an address, so nothing is tested" in lines
    assert "      `from`: no manifest declares the pod guestbook/nobody" in lines
    assert any(line.startswith("      no policy judges these") for line in lines)
    assert lines[-1] == "5 tests: 0 passed, 5 failed"


def test_json(failing: Path) -> None:
    done = ctl("test", "--manifests", GUESTBOOK, failing, "-o", "json")
    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert (answer["version"], answer["live"], answer["passed"], answer["failed"]) == (1, False, 0, 5)
    first = answer["tests"][0]
    assert (first["name"], first["line"], first["expected"]) == ("only the API reaches the database", 2, "deny")
    assert first["wrong"] == [
        {
            "source": {"text": "monitoring/prometheus", "pods": ["monitoring/prometheus"], "addresses": []},
            "destination": {"text": "guestbook/db", "pods": ["guestbook/db"], "addresses": []},
            "ports": "everything",
            "families": ["IPv4"],
            "node": None,
        }
    ]


def test_junit(failing: Path) -> None:
    done = ctl("test", "--manifests", GUESTBOOK, failing, "-o", "junit")
    assert done.returncode == 1
    root = ElementTree.fromstring(done.stdout)
    assert (root.get("tests"), root.get("failures")) == ("5", "5")
    (suite,) = root
    assert suite.get("name") == str(failing)
    failure = suite[0].find("failure")
    assert failure is not None and "and should not: everything" in failure.get("message", "")
    assert "from-monitoring ingress[0] allows it" in (failure.text or "")


def test_a_wrong_file_runs_no_test(failing: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("tests:\n- alow: {from: a/b, to: c/d}\n")
    done = ctl("test", "--manifests", GUESTBOOK, failing, tmp_path / "wrong.yaml")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "wrong.yaml:2:3: error: tests[0].alow: there is no field `alow` here; write `allow`" in done.stderr
    assert "1 error in test files: no test was run" in done.stderr


def test_a_manifest_is_no_file_of_tests() -> None:
    done = ctl("test", "--manifests", GUESTBOOK, GUESTBOOK / "10-pods.yaml")
    assert done.returncode == 2
    assert "10-pods.yaml has manifests" in done.stderr and len(done.stderr.splitlines()) == 2


def test_a_test_without_a_name_says_who_is_meant(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(
        "tests:\n- deny: {from: {any: 10.72.0.0/16, except: 10.72.10.0/24}, to: guestbook/ui}\n"
    )
    done = ctl("test", "--manifests", GUESTBOOK, tmp_path / "t.yaml")
    assert "deny 10.72.0.0/16 except 10.72.10.0/24 -> guestbook/ui" in done.stdout


@pytest.mark.parametrize("text", ["", "tests: []\n", "# nothing\n"])
def test_a_file_without_tests_is_no_success(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    done = ctl("test", "--manifests", GUESTBOOK, tmp_path / "t.yaml")
    assert done.returncode == 2
    assert "there are no tests" in done.stderr


def test_no_file(tmp_path: Path) -> None:
    done = ctl("test", "--manifests", GUESTBOOK, tmp_path / "none.yaml")
    assert done.returncode == 2
    assert "No such file" in done.stderr


def test_live_without_a_daemon(failing: Path, tmp_path: Path) -> None:
    done = ctl("test", "--live", "--socket", tmp_path / "none", failing)
    assert done.returncode == 3


def test_live_asks_the_node_and_nothing_else(failing: Path) -> None:
    done = ctl("test", "--live", "--manifests", GUESTBOOK, failing)
    assert done.returncode == 2
    assert "it can't be both" in done.stderr


def _dual_stack(names: str) -> str:
    """Pods x/a, x/b, ... with the addresses 10.0.0.1 and fd00::1, and so on: documents with the mark of the next."""
    pod = "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: x}}, status: {{podIPs: [{ips}]}}}}\n---\n"
    return "".join(
        pod.format(name=name, ips=f'{{ip: 10.0.0.{number}}}, {{ip: "fd00::{number}"}}')
        for number, name in enumerate(names, 1)
    )


def test_one_family_alone(tmp_path: Path) -> None:
    """The pair is asked about in the family that fails."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m/all.yaml").write_text(
        _dual_stack("ab")
        + """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: four, namespace: x}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}
"""
    )
    (tmp_path / "t.yaml").write_text("tests: [{allow: {from: x/a, to: x/b, ports: [80/TCP]}}]\n")
    done = ctl("test", "--manifests", tmp_path / "m", tmp_path / "t.yaml")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[1:3] == [
        "      x/a -> x/b (over IPv6): should pass, and does not: 80/TCP",
        "      as x/a (fd00::1) -> x/b (fd00::2): should pass, and does not: 80/TCP",
    ]
    assert lines[3].startswith("      ingress: x/b is isolated for ingress by x/four, "), lines[3]


def test_where_each_family_fails_for_other_ends_none_is_said_to_be_alone(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/all.yaml").write_text(
        _dual_stack("abc")
        + """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: some, namespace: x}
spec:
  podSelector: {}
  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/24}}, {ipBlock: {cidr: "fd00::1/128"}}]}]
"""
    )
    (tmp_path / "t.yaml").write_text("tests: [{deny: {from: every pod, to: x/b}}]\n")
    told = ctl("test", "--manifests", tmp_path / "m", tmp_path / "t.yaml").stdout
    assert "x/a, x/c -> x/b (over IPv4): passes" in told and "x/a -> x/b (over IPv6): passes" in told
    assert "egress: no policy isolates x/a for egress" in told
    (tmp_path / "old").mkdir()
    manifests = (tmp_path / "m/all.yaml").read_text()
    (tmp_path / "old/all.yaml").write_text(re.sub(r"ingress: \[.*", "ingress: []", manifests))
    for form in ("text", "markdown"):
        told = ctl("diff", tmp_path / "old", tmp_path / "m", "-o", form).stdout
        assert "(over IPv4)" in told and "(over IPv6)" in told and "only)" not in told


HOME = """\
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, spec: {nodeName: n1}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x}, spec: {nodeName: n2}, status: {podIP: 10.0.0.2}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: x}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
"""
NODE = (
    "{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 10.9.0.1}]}}"
)
AGENT = """\
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: x}
spec: {nodeName: n1, hostNetwork: true}
status: {podIP: 10.9.0.1}
"""


def no_way_to(*networks: str, subject: str = "namespaces: {}") -> str:
    """A policy of the Admin tier that denies its subject what goes to these networks."""
    blocks = ", ".join(f'"{each}"' for each in networks)
    return f"""\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: not-the-node}}
spec:
  tier: Admin
  priority: 1
  subject: {{{subject}}}
  egress: [{{action: Deny, to: [{{networks: [{blocks}]}}]}}]
"""


TIER = no_way_to("10.9.0.0/24")


def told_of(tmp_path: Path, tests: str, *manifests: str) -> list[str]:
    """What `test` says of these tests, a line each."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m/all.yaml").write_text("---\n".join(f"{each.rstrip()}\n" for each in (HOME, *manifests)))
    (tmp_path / "t.yaml").write_text(f"tests:\n{tests}")
    done = ctl("test", "--manifests", tmp_path / "m", tmp_path / "t.yaml")
    assert not done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("who", [NODE, AGENT], ids=["Node", "hostNetwork"])
def test_a_nodes_own_address_and_its_own_pods(tmp_path: Path, who: str) -> None:
    """What policies leave free fails where it is denied, with the reason; on another node they judge."""
    tests = """\
- allow: {from: 10.9.0.1, to: x/a}
- allow: {from: x/a, to: 10.9.0.1/32, ports: [80/TCP]}
- deny: {from: 10.9.0.1, to: x/a}
- deny: {from: x/*, to: 10.9.0.1, ports: [80/TCP]}
- deny: {from: 10.9.0.1, to: x/b}
"""
    assert [line.replace(str(tmp_path), "") for line in told_of(tmp_path, tests, who)] == [
        "ok    allow 10.9.0.1 -> x/a",
        "ok    allow x/a -> 10.9.0.1/32",
        "FAIL  deny 10.9.0.1 -> x/a (/t.yaml:4)",
        "      10.9.0.1/32 -> x/a (pods of n1 and the node itself): passes, and should not: everything",
        "      as 10.9.0.1 -> x/a: passes, and should not: 1/TCP",
        "      egress: 10.9.0.1 is no pod that policies select",
        "      ingress: traffic between a node and its own pods is free",
        "FAIL  deny x/* -> 10.9.0.1 (/t.yaml:5)",
        "      x/a -> 10.9.0.1/32 (pods of n1 and the node itself): passes, and should not: 80/TCP",
        "      as x/a -> 10.9.0.1: passes, and should not: 80/TCP",
        "      egress: traffic between a node and its own pods is free",
        "      ingress: 10.9.0.1 is no pod that policies select",
        "ok    deny 10.9.0.1 -> x/b",
        "5 tests: 3 passed, 2 failed",
    ]


def test_a_block_leaves_out_a_node_and_its_own_pods(tmp_path: Path) -> None:
    tests = """\
- deny: {from: anywhere, to: x/a}
- deny: {from: x/a, to: [10.9.0.0/24, anywhere]}
- deny: {from: {any: [10.9.0.1, anywhere], except: 10.9.0.0/31}, to: x/a}
- deny: {from: [anywhere, 10.9.0.1], to: x/a}
"""
    lines = told_of(tmp_path, tests, NODE)
    assert [line[:4] for line in lines if line[0] != " "] == ["ok  ", "ok  ", "ok  ", "FAIL", "4 te"]
    assert "10.9.0.1/32 -> x/a (pods of n1 and the node itself)" in lines[4]


def test_what_should_pass_and_does_not_names_no_node(tmp_path: Path) -> None:
    """The first address of the block is the node's own, which passes."""
    lines = told_of(tmp_path, "- allow: {from: 10.9.0.0/24, to: x/a, ports: [80/TCP]}\n", NODE)
    assert lines[2] == "      as 10.9.0.2 -> x/a: should pass, and does not: 80/TCP"
    assert "is isolated for ingress" in lines[3]


def test_tiers_judge_what_a_pod_sends_to_its_own_node(tmp_path: Path) -> None:
    lines = told_of(tmp_path, "- deny: {from: x/a, to: 10.9.0.1}\n- allow: {from: x/a, to: 10.9.0.1}\n", NODE, TIER)
    assert lines[0].startswith("ok") and lines[1].startswith("FAIL")
    assert "      egress: Admin not-the-node egress[0] denies it" in "\n".join(lines)


def test_a_nodes_address_in_json(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(f"{HOME}---\n{NODE}\n")
    (tmp_path / "t.yaml").write_text("tests: [{deny: {from: 10.9.0.1, to: x/a}}]\n")
    done = ctl("test", "--manifests", tmp_path / "m.yaml", tmp_path / "t.yaml", "-o", "json")
    (wrong,) = json.loads(done.stdout)["tests"][0]["wrong"]
    assert wrong["node"] == "n1"
    assert wrong["source"]["addresses"] == [{"cidr": "10.9.0.1/32", "except": []}]
