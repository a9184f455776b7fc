"""The support bundle: what is in it, what never is, and that it comes about whatever is missing."""

from __future__ import annotations

import json
import stat
import tarfile
from pathlib import Path

import pytest

from netpold.ctl.support_bundle import PARTS, own_lines
from tests.lab import Lab
from tests.test_ctl import CTL, ROOT, ctl
from tests.test_daemon import DENY_ALL, Scene

SECRET = "hunter2-never-to-be-seen"
POD = f"""apiVersion: v1
kind: Pod
metadata:
  name: secretive
  namespace: x
  labels: {{app: a}}
  annotations: {{example.com/token: {SECRET}}}
spec:
  nodeName: n1
  containers:
  - name: c
    image: registry.example.com/{SECRET}
    env: [{{name: PASSWORD, value: {SECRET}}}]
    ports: [{{name: http, containerPort: 80}}]
status: {{podIP: 10.72.0.98}}
"""
ALIAS = f"""apiVersion: v1
kind: Pod
metadata: {{name: forgot-quotes, namespace: x}}
spec:
  nodeName: n1
  containers:
  - name: c
    env:
    - name: PASSWORD
      value: *{SECRET}
    - name: OTHER
      value: !{SECRET} x
    - name: THIRD
      value: {{{SECRET}
"""
NUMBER = 8812345670099  # a finding: annotations are text
FAULTY = f"""apiVersion: v1
kind: Pod
metadata: {{name: faulty, namespace: x, annotations: {{example.com/token: {NUMBER}}}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: y, annotations: {SECRET}}}
"""


def contents(file: Path) -> dict[str, str]:
    with tarfile.open(file) as archive:
        found = {}
        for member in archive.getmembers():
            part = archive.extractfile(member)
            assert part and member.mode == 0o600
            found[member.name.partition("/")[2]] = part.read().decode()
        return found


def test_of_the_kernel_only_what_is_netpolds() -> None:
    saved = """# Generated
*filter
:FORWARD ACCEPT [5:500]
:NP-IN-veth1 - [0:0]
:KUBE-X - [0:0]
[5:500] -A FORWARD -j NETPOLD-FORWARD
[7:700] -A FORWARD -s 192.0.2.1/32 -m comment --comment "NETPOLD- by another" -j KUBE-X
[1:2] -A OUTPUT -d 192.0.2.2/32 -m comment --comment "[a] secret -j X" -j NETPOLD-FORWARD
[1:2] -A KUBE-X -g NP-IN-veth1
[1:2] -A KUBE-X -m comment --comment "leads -j NETPOLD-FORWARD"
[1:2] -A KUBE-X -j LOG --log-prefix NETPOLD-LIKE
[0:0] -A NP-IN-veth1 -g NP-RULES-x
COMMIT"""
    assert own_lines(saved).splitlines() == [
        "*filter",
        ":NP-IN-veth1 - [0:0]",
        "[5:500] -A FORWARD -j NETPOLD-FORWARD",
        "# a rule of another program leads from OUTPUT to NETPOLD-FORWARD",
        "# a rule of another program leads from KUBE-X to NP-IN-veth1",
        "[0:0] -A NP-IN-veth1 -g NP-RULES-x",
        "COMMIT",
    ]
    sets = "create NP4-x hash:ip family inet\ncreate other hash:ip\nadd NP4-x 10.0.0.1\nadd other 10.0.0.2\n"
    assert own_lines(sets) == "create NP4-x hash:ip family inet\nadd NP4-x 10.0.0.1\n"


def test_without_a_daemon_it_has_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar.gz"
    done = ctl("--socket", tmp_path / "absent", "support-bundle", "-o", "json", file)
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert "netpold does not run" in answer["missing"]["status.json"] and "versions.txt" in answer["parts"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "status.json" in contents(file)["README.txt"] and "status.json" not in contents(file)
    again = ctl("support-bundle", file)
    assert again.returncode == 2 and "is there already" in again.stderr
    directory = ctl("support-bundle", tmp_path)
    assert directory.returncode == 2 and f"{tmp_path} is a directory\nhint: name a file in it" in directory.stderr


@pytest.mark.kernel
def test_it_has_what_is_in_force_and_no_secrets(lab: Lab, tmp_path: Path) -> None:
    scene = Scene(lab, "nft")
    scene.daemon.write("secretive.yaml", POD)
    scene.daemon.write("faulty.yaml", FAULTY)
    scene.daemon.write("forgot-quotes.yaml", ALIAS)
    jump = ["OUTPUT", "-d", "192.0.2.7", "-m", "comment", "--comment", SECRET, "-j", "NETPOLD-FORWARD"]
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        scene.node.iptables("nft", 4, "-A", *jump)
        words = [*CTL, "--socket", str(scene.daemon.socket), "support-bundle", "--with-manifests"]
        done = scene.node.run(["env", f"PYTHONPATH={ROOT}", *words, str(tmp_path / "all.tar.gz")])  # with its kernel
        assert "README.txt in it says what they are" in done
        found = contents(tmp_path / "all.tar.gz")
        assert {part.name for part in PARTS} - found.keys() <= {"journal.txt", "network/sysctl.txt"}
        assert json.loads(found["status.json"])["state"] == "enforcing"
        verified = json.loads(found["verify.json"])
        assert [each["builtin"] for each in verified["hooks"] if each["state"] != "ok"] == ["OUTPUT"]
        assert "from OUTPUT to NETPOLD-FORWARD" in found["kernel/iptables-nft.txt"]
        assert "NETPOLD-FORWARD" in found["ruleset.txt"]
        pods = [each for each in json.loads(found["manifests.json"])["manifests"] if each["kind"] == "Pod"]
        assert "secretive" in {each["metadata"]["name"] for each in pods}
        codes = {each["code"] for each in json.loads(found["status.json"])["findings"] if "quotes" in each["file"]}
        assert codes == {"alias", "tag", "syntax"}
        assert not [name for name, text in found.items() if SECRET in text or str(NUMBER) in text]
        assert SECRET not in scene.daemon.log.read_text()
        few = scene.daemon.ctl("support-bundle", str(tmp_path / "few.tar.gz"))
        assert few.returncode == 0 and "manifests.json" not in contents(tmp_path / "few.tar.gz")
