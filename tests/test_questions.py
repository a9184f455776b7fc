"""What the daemon answers about what is in force, held against packets and against the manifests."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import Any
from urllib.parse import urlencode

import pytest

from netpold.ctl.client import ask
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.reach import Reach
from netpold.ctl.sides import in_force
from tests.lab import Lab
from tests.test_daemon import A_OUT, A_TO_B, DENY_ALL, Scene, eventually, policy

pytestmark = pytest.mark.kernel

AWAY = """apiVersion: v1
kind: Pod
metadata: {name: away, namespace: x, labels: {app: away}}
spec: {nodeName: elsewhere}
status: {podIP: 10.99.0.1}
"""


def asked(scene: Scene, question: str, **parameters: str) -> dict[str, Any]:
    answer: dict[str, Any] = ask(scene.daemon.socket, "GET", f"/v1/{question}?{urlencode(parameters)}")
    return answer


def cells(scene: Scene, **parameters: str) -> list[dict[str, Any]]:
    reach = Reach.of(asked(scene, "matrix", **parameters))
    return [cell for source in range(len(reach.ends)) for cell in reach.cells(source)]


def test_explain_and_matrix_say_what_packets_find(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        found = {(row["source"], row["destination"]): row["verdict"] for row in cells(scene, ports="80/TCP")}
        pods = {"x/a": scene.a, "x/b": scene.b, "x/c": scene.c}
        assert {name for pair in found for name in pair} == pods.keys()
        for source, destination in ((one, other) for one in pods for other in pods if one != other):
            passes = scene.passes(pods[source], pods[destination])
            assert found[source, destination] == ("allow" if passes else "deny")
            answer = asked(scene, "explain", source=source, destination=destination, port="80/TCP")
            assert answer["verdict"] == found[source, destination]
            assert answer["egress"]["in_force"] and answer["ingress"]["in_force"]
        assert found["x/a", "x/b"] == "allow" and found["x/c", "x/b"] == "deny"
        assert {found[name, name] for name in pods} == {"allow"}, "a pod reaches itself"


def test_a_pod_of_another_node_is_judged_by_the_same_manifests(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(closed=policy("away", "  podSelector: {matchLabels: {app: away}}\n"), away=AWAY)
        answer = asked(scene, "explain", source="x/a", destination="x/away", port="80/TCP")
        assert (answer["verdict"], answer["egress"]["verdict"], answer["ingress"]["verdict"]) == (
            "deny",
            "allow",
            "deny",
        )
        assert answer["egress"]["in_force"] and not answer["ingress"]["in_force"]
        assert answer["ingress"]["node"] == "elsewhere"
        found = {
            (row["source"], row["destination"]): row["verdict"] for row in cells(scene, pods="x/*", ports="80/TCP")
        }
        assert (found["x/a", "x/away"], found["x/a", "x/b"]) == ("deny", "allow")
        assert not asked(scene, "matrix", pods="x/*")["in_force"] and asked(scene, "matrix")["in_force"]


def test_who_asks_is_told_where_packets_go_past_the_rules(lab: Lab) -> None:
    scene = Scene(lab, "nft", "bridged")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        words = (("explain", "x/a", "x/b", "80/TCP"), ("matrix",), ("verify",), ("diff", "node", "node"))
        assert not [each for each in words if scene.daemon.ctl(*each).stderr]
        scene.node.netns.sysctl({"bridge/bridge-nf-call-iptables": 0})
        assert eventually(lambda: bool(asked(scene, "names")["unfiltered"]), 20)
        assert scene.passes(scene.a, scene.b)
        for each in words:
            assert "whatever is said here, IPv4 packets between ports" in scene.daemon.ctl(*each).stderr, each
        status = scene.daemon.ctl("status")
        assert status.returncode == Exit.NO and "error: IPv4 packets between ports" in status.stdout
        assert scene.daemon.ctl("try", str(scene.daemon.manifests), "--for", "30s").returncode == Exit.FINE
        assert scene.daemon.ctl("try", "--end").returncode == Exit.FINE
        (scene.daemon.manifests / "deny.yaml").unlink()
        assert eventually(lambda: scene.state() == "enforcing"), "nobody is isolated"
        scene.enforce(deny=DENY_ALL)
        assert scene.state() == "degraded"
        scene.node.netns.sysctl({"bridge/bridge-nf-call-iptables": 1})
        assert eventually(lambda: scene.state() == "enforcing", 20)


def test_tagged_packets_are_told_of_where_two_ports_of_a_bridge_are_asked_about(lab: Lab) -> None:
    scene = Scene(lab, "nft", "bridged")
    routed = [scene.node.routed_pod("y", name) for name in "rs"]
    scene.daemon.write("routed.json", *(pod.manifest(node=False) for pod in routed))
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        scene.node.netns.sysctl({"bridge/bridge-nf-filter-vlan-tagged": 0})
        assert eventually(lambda: "VLAN tags" in scene.daemon.ctl("status").stdout, 20)
        about_two = (("explain", "x/a", "x/b", "80/TCP"), ("matrix",), ("diff", "node", str(scene.daemon.manifests)))
        for each in about_two:
            line = scene.daemon.ctl(*each).stderr
            assert line == "netpoldctl: VLAN-tagged packets pass a bridge unfiltered: see `netpoldctl status`\n", each
        others = (("x/a", "y/r"), ("y/r", "x/a"), ("y/r", "y/s"), ("x/a", "192.0.2.1"), ("x/a", "x/a"))
        quiet = (*(("explain", *ends, "80/TCP") for ends in others), ("matrix", "--namespace", "y"), ("verify",))
        for each in (*quiet, ("pod", "x/a"), ("policy", "x/deny-all")):
            assert not scene.daemon.ctl(*each).stderr, each
        assert asked(scene, "explain", source="x/b", destination="x/a", port="80/TCP")["unfiltered_tagged"] == ["vlan"]
        scene.node.netns.sysctl({"bridge/bridge-nf-call-ip6tables": 0})  # that is of weight everywhere
        assert eventually(lambda: bool(asked(scene, "names")["unfiltered"]), 20)
        for each in quiet:
            assert "IPv6 packets between ports of a bridge" in scene.daemon.ctl(*each).stderr, each


def test_the_manifests_in_force_mean_the_same_anywhere(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        (scene.daemon.manifests / "deny.yaml").write_text("a: [")  # its last good version is in force
        scene.daemon.wait(20)
        answer = asked(scene, "manifests")
        kept = scene.daemon.manifests.with_name("kept")
        kept.mkdir()
        items = {"apiVersion": "v1", "kind": "List", "items": answer["manifests"]}
        (kept / "all.json").write_text(json.dumps(items))
        rows = scene.daemon.ctl("matrix", "-o", "json", "--manifests", str(kept), "--ports", "80/TCP").stdout
        assert json.loads(rows)["rows"] == cells(scene, ports="80/TCP")
        page = scene.daemon.ctl("matrix", "-o", "html").stdout
        assert "what node" in page and "enforces, revision" in page
        where = {each["object"]: each["file"].rpartition("/")[2] for each in answer["where"]}
        assert where["NetworkPolicy x/deny-all"] == "deny.yaml" and where["Pod x/a"] == "pods.json"
        index, home = in_force(scene.daemon.socket)
        assert home.node and home.pods == {"x/a", "x/b", "x/c"}
        (rule,) = index.world.policies["x/a-to-b"].ingress or ()
        text = (scene.daemon.manifests / "allow.yaml").read_text().splitlines()
        assert rule.position and "from:" in text[rule.position.line - 1], "where the rule stands, not its policy"
        assert set(asked(scene, "names")["pods"]) == {"x/a", "x/b", "x/c"}


@pytest.mark.parametrize(
    ("question", "parameters", "code", "text"),
    [
        ("explain", {"source": "x/a", "destination": "x/nobody", "port": "80/TCP"}, Exit.USAGE, "x/nobody"),
        ("explain", {"source": "x/a", "destination": "x/b", "port": "80"}, Exit.USAGE, "no port"),
        ("explain", {"source": "x/a", "port": "80/TCP"}, Exit.USAGE, "destination is missing"),
        ("matrix", {"ports": "80"}, Exit.USAGE, "no port"),
        ("matrix", {"addresses": "x/nobody"}, Exit.USAGE, "x/nobody"),
        ("matrix", {"pods": "y/*"}, Exit.USAGE, "no pod is called y/"),
    ],
)
def test_questions_that_have_no_answer(
    lab: Lab, question: str, parameters: dict[str, str], code: Exit, text: str
) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce()
        with pytest.raises(Failure, match=text) as failure:
            asked(scene, question, **parameters)
        assert failure.value.code == code and failure.value.hint


def test_answers_come_while_everything_changes(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        done = threading.Event()

        def change() -> None:
            number = 0
            while not done.is_set():
                number += 1
                scene.daemon.write("out.yaml", A_OUT.replace("name: ", f"name: n{number % 7}"))
                subprocess.run(["sleep", "0.002"], check=True)

        changer = threading.Thread(target=change)
        changer.start()
        try:
            for _ in range(20):
                answer = asked(scene, "explain", source="x/a", destination="x/b", port="80/TCP")
                assert answer["verdict"] == "deny", "whatever a may send, b takes nothing"
        finally:
            done.set()
            changer.join()
