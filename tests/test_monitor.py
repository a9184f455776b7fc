"""What is seen of packets: real ones, on each backend, through the daemon and netpoldctl."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from netpold.ctl.client import ask
from netpold.daemon.observer import MOST_WAITING, Observer
from netpold.daemon.seen import MOST_EVENTS, MOST_SUMS, Seen, Times
from netpold.daemon.sights import Described, Sight, of_packet
from netpold.daemon.wording import line, reason
from netpold.host.nflog import FLUSH_S, Group, Heading, Logged
from netpold.policy.manifest import parse
from netpold.policy.model import Direction, Pod
from tests.lab import Backend, Lab, Outcome, Probe
from tests.lab.daemon import CHECKOUT
from tests.test_daemon import A_OUT, A_TO_B, DENY_ALL, Scene, eventually

Event = dict[str, Any]
AUDIT = "apiVersion: v1\nkind: Namespace\nmetadata: {name: x, annotations: {netpold.io/mode: audit}}\n"


def events(scene: Scene, *more: str) -> list[Event]:
    text = scene.daemon.ctl("monitor", "-o", "json", *more).stdout
    return [json.loads(each) for each in text.splitlines()]


def answer(scene: Scene, *words: str) -> Event:
    found: Event = json.loads(scene.daemon.ctl(*words, "-o", "json").stdout)
    return found


def ends(event: Event) -> tuple[str, str]:
    return event["source"]["pod"] or "", event["destination"]["pod"] or ""


@pytest.fixture(params=["routed", pytest.param("bridged", marks=pytest.mark.slow)])
def scene(lab: Lab, backend: Backend, request: pytest.FixtureRequest) -> Iterator[Scene]:
    made = Scene(lab, backend, request.param, config="log_drops = true\n")
    yield made
    made.daemon.kill()


@pytest.mark.kernel
def test_what_is_dropped_and_what_is_audited(scene: Scene) -> None:
    scene.enforce(deny=DENY_ALL, to_b=A_TO_B, out=A_OUT)
    assert scene.passes(scene.a, scene.b) and not scene.passes(scene.b, scene.a, "UDP", 6)
    assert not scene.passes(scene.c, scene.b)
    assert eventually(lambda: {ends(each) for each in events(scene)} >= {("x/b", "x/a"), ("x/c", "x/b")}), (
        events(scene),
        scene.daemon.log.read_text(),
    )
    found = [each for each in events(scene) if each["protocol"] != "ICMP"]
    assert all(each["verdict"] == "drop" and each["direction"] == "egress" for each in found)
    assert {ends(each) for each in found} == {("x/b", "x/a"), ("x/c", "x/b")}  # nothing that was allowed
    first = next(each for each in found if ends(each) == ("x/b", "x/a"))
    assert first["isolating"] == ["x/deny-all"] and first["judged"] == "x/b"
    assert (first["protocol"], first["port"]) == ("UDP", 80) and ":" in first["source"]["address"]
    assert {first["interface_in"], first["interface_out"]} == {scene.a.interface, scene.b.interface}
    assert "dropped" in scene.daemon.log.read_text() and "x/b -> x/a 80/UDP" in scene.daemon.log.read_text()
    scene.c.spoof(scene.a.address(4))
    lie = Probe(scene.c, scene.b, "UDP", 80, 4, source_address=scene.a.address(4))
    assert scene.lab.probe([lie])[lie] is not Outcome.OK
    assert eventually(lambda: any(each["why"] == "spoofed" and ends(each)[0] == "x/a" for each in events(scene)))
    spoofed = next(each for each in events(scene) if each["why"] == "spoofed" and ends(each)[0] == "x/a")
    assert (spoofed["sender"], spoofed["interface_in"], spoofed["judged"]) == ("x/c", scene.c.interface, None)
    assert not answer(scene, "audit")["rows"]

    scene.enforce(audit=AUDIT)
    assert answer(scene, "status")["audited"]["count"] == 3
    assert scene.passes(scene.a, scene.b) and scene.passes(scene.b, scene.a, "UDP", 6)
    assert scene.passes(scene.c, scene.b)
    scene.lab.probe([lie])  # which nobody holds up now
    assert eventually(lambda: any(each["sender"] and each["verdict"] == "audit" for each in events(scene)))
    lying = next(each for each in events(scene) if each["sender"] and each["verdict"] == "audit")
    assert (ends(lying), lying["judged"], lying["sender"]) == (("x/a", "x/b"), "x/c", "x/c")
    assert lying["isolating"] == ["x/deny-all"]
    assert eventually(lambda: len(answer(scene, "audit")["rows"]) >= 4)
    told = answer(scene, "audit")
    assert {(*ends(row), row["direction"]) for row in told["rows"] if row["protocol"] != "ICMP"} == {
        ("x/b", "x/a", "egress"),
        ("x/b", "x/a", "ingress"),
        ("x/c", "x/b", "egress"),
        ("x/c", "x/b", "ingress"),
    }
    later = [each for each in events(scene) if each["verdict"] == "audit"]
    miss = next(each["nearest_miss"] for each in later if each["direction"] == "ingress" and ends(each)[0] == "x/c")
    assert miss["policy"] == "x/a-to-b" and miss["but_for"] == "pod-labels" and miss["line"]

    # what it proposes makes it allowed when everything is enforced again
    assert "Would be dropped by the audited policies as they are: all of it." in scene.daemon.ctl("audit").stdout
    (scene.daemon.manifests / "audit.yaml").unlink()
    scene.enforce()
    assert "Dropped now: all of it, by policies that are enforced." in scene.daemon.ctl("audit").stdout
    scene.enforce(more="---\n".join(each["yaml"] for each in told["suggestions"]))
    assert "nothing of it would be dropped" in scene.daemon.ctl("audit").stdout
    assert answer(scene, "status")["audited"]["count"] == 0
    assert scene.passes(scene.b, scene.a, "UDP", 6) and scene.passes(scene.c, scene.b)
    assert not scene.passes(scene.c, scene.a)


@pytest.mark.kernel
def test_what_conntrack_is_told_not_to_track_is_audited(lab: Lab, backend: Backend) -> None:
    """DNS where the node's cache has it untracked; and groups on a bridge, of which conntrack learns nothing."""
    scene = Scene(lab, backend, "bridged")
    try:
        for chain in ("PREROUTING", "OUTPUT"):
            scene.node.iptables(backend, 4, "-t", "raw", "-A", chain, "-p", "udp", "-j", "CT", "--notrack")
        scene.enforce(deny=DENY_ALL, audit=AUDIT)
        assert scene.passes(scene.c, scene.b, "UDP")
        with scene.c.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(scene.c.addresses[0]))
            sender.sendto(b"who is there", ("224.1.2.3", 5353))
        wanted = {("x/c", "x/b", 80, side) for side in ("egress", "ingress")} | {("x/c", "", 5353, "egress")}

        def told() -> set[tuple[str, str, int, str]]:
            rows = answer(scene, "audit")["rows"]
            return {(*ends(row), row["port"], row["direction"]) for row in rows if row["now"] == "audit"}

        assert eventually(lambda: told() >= wanted), told()
    finally:
        scene.daemon.kill()


@pytest.mark.kernel
def test_flows_that_were_open_before(lab: Lab, backend: Backend) -> None:
    """They are not cut, and what would cut them is told."""
    scene = Scene(lab, backend)
    try:
        scene.enforce()
        with scene.b.netns.entered(), socket.create_server(("0.0.0.0", 5432)) as server:
            with scene.c.netns.entered():
                client = socket.create_connection((scene.b.addresses[0], 5432), timeout=5)
            answering, _ = server.accept()
            scene.enforce(deny=DENY_ALL, audit=AUDIT)
            rows = [row for row in answer(scene, "audit")["rows"] if row["port"] == 5432]
            assert {(*ends(row), row["direction"], row["now"]) for row in rows} == {
                ("x/c", "x/b", "egress", "audit"),
                ("x/c", "x/b", "ingress", "audit"),
            }
            assert all((row["packets"], row["open_flows"]) == (0, 1) for row in rows)
            told = answer(scene, "audit")["suggestions"]
            client.sendall(b"still open")
            assert answering.recv(100) == b"still open"

            scene.enforce(more="---\n".join(each["yaml"] for each in told))
            assert not [row for row in answer(scene, "audit")["rows"] if row["now"] == "audit"]
            (scene.daemon.manifests / "audit.yaml").unlink()
            scene.enforce()
            assert answer(scene, "status")["audited"]["count"] == 0
            client.sendall(b"yet")
            assert answering.recv(100) == b"yet"
            client.close()
            answering.close()
    finally:
        scene.daemon.kill()


@pytest.mark.kernel
def test_policies_from_flows(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    try:
        scene.enforce()
        assert scene.passes(scene.a, scene.b) and scene.passes(scene.c, scene.b, "UDP", 6)
        text = scene.daemon.ctl("suggest", "x").stdout
        assert not parse(text.encode(), "s.yaml").findings
        assert {each["metadata"]["name"] for each in yaml.safe_load_all(text)} == {
            f"suggested-{name}" for name in "abc"
        }
        scene.enforce(suggested=text)
        assert scene.passes(scene.a, scene.b) and scene.passes(scene.c, scene.b, "UDP", 6)
        for source, destination, protocol in (
            (scene.a, scene.b, "UDP"),
            (scene.c, scene.b, "TCP"),
            (scene.b, scene.a, "TCP"),
            (scene.a, scene.c, "TCP"),
        ):
            assert not scene.passes(source, destination, protocol)
        one = answer(scene, "suggest", "x/b", "--direction", "ingress", "--without-drops")
        assert [each["pods"] for each in one["suggestions"]] == [["x/b"]]
        assert one["suggestions"][0]["policy"]["spec"]["policyTypes"] == ["Ingress"]
        assert len(one["suggestions"][0]["policy"]["spec"]["ingress"]) == 2
        host = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "host", "namespace": "x"}}
        away = {**host, "metadata": {"name": "away", "namespace": "x"}, "spec": {"nodeName": "n9"}}
        scene.daemon.write(
            "more.json",
            {**host, "spec": {"hostNetwork": True}, "status": {"podIP": "10.99.0.1"}},
            {**away, "status": {"podIP": "10.9.9.9"}},
        )
        scene.daemon.wait(20)
        for of, said, hint in (
            ("y", "no pod of the namespace y is on this node", "no manifest names that namespace"),
            ("x/nobody", "no manifest declares the pod x/nobody", "as the manifests do"),
            ("x/host", "the pod x/host is on its node's own network", "the pods that it talks to"),
            ("x/away", "the pod x/away is not on this node", "ask on its own node"),
        ):
            nobody = scene.daemon.ctl("suggest", of)
            assert nobody.returncode == 2 and said in nobody.stderr and hint in nobody.stderr
    finally:
        scene.daemon.kill()


@pytest.mark.kernel
def test_an_address_that_goes_from_pod_to_pod_is_no_block(lab: Lab, backend: Backend) -> None:
    """Whoever has it next was not seen."""
    scene = Scene(lab, backend)
    try:
        scene.daemon.write("c.json", scene.c.manifest(node=False))
        scene.daemon.write("pods.json", *(pod.manifest(node=False) for pod in (scene.a, scene.b)))
        scene.enforce(deny=DENY_ALL)
        (scene.daemon.manifests / "c.json").unlink()
        scene.daemon.wait(20)
        packet = Probe(scene.c, scene.b, "UDP", 80, 4)
        assert scene.lab.probe([packet], attempts=1)[packet] is not Outcome.OK
        assert eventually(lambda: bool(events(scene)))
        other = scene.c.manifest(node=False)
        for said, manifest in (
            ("is what x/c has left", None),
            ("is the address of y/other now", {**other, "metadata": {"name": "other", "namespace": "y"}}),
        ):
            if manifest is not None:
                scene.daemon.write("other.json", manifest)
                scene.daemon.wait(20)
            (found,) = answer(scene, "suggest", "x/b", "--direction", "ingress")["suggestions"]
            assert found["policy"]["spec"]["ingress"] == []
            assert any(f"NOT allowed: {scene.c.address(4)} {said}" in note for note in found["notes"]), found["notes"]
    finally:
        scene.daemon.kill()


@pytest.mark.kernel
def test_as_it_happens(lab: Lab, backend: Backend) -> None:
    """Two watch at once; one for what is allowed, too.  A flood is counted, and the loop goes on."""
    scene = Scene(lab, backend)
    try:
        scene.enforce(to_b=A_TO_B)
        socket_path = str(scene.daemon.socket)
        watch = [
            scene.node.spawn(
                ["/usr/bin/python3", "-m", "netpold.ctl", "--socket", socket_path, "monitor", "-o", "json", *more],
                stdout=subprocess.PIPE,
                cwd=CHECKOUT,
            )
            for more in (["--follow", "--pod", "x/c"], ["--for", "8s", "--allowed", "--port", "80/TCP"])
        ]
        time.sleep(3)  # for them to ask
        assert scene.passes(scene.a, scene.b) and not scene.passes(scene.c, scene.b)
        allowed, _ = watch[1].communicate(timeout=20)
        found = [json.loads(each) for each in allowed.splitlines()]
        assert {(*ends(each), each["verdict"]) for each in found} == {
            ("x/a", "x/b", "allow"),
            ("x/c", "x/b", "drop"),
        }
        by = next(each["allowed_by"] for each in found if each["verdict"] == "allow")
        assert [(rule["policy"], rule["direction"], rule["rule"]) for rule in by] == [("x/a-to-b", "ingress", 0)]

        with scene.c.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(20_000):
                sender.sendto(b"", (scene.b.addresses[0], 1024 + number % 1000))
        scene.enforce(more=A_OUT)
        assert scene.passes(scene.a, scene.b)
        assert eventually(lambda: ask(scene.daemon.socket, "GET", "/v1/drops?latest=1")["unlisted"] > 0)
        assert len(events(scene)) < 2000
        watch[0].terminate()
        followed, _ = watch[0].communicate(timeout=20)
        whole, _, _ = followed.rpartition(b"\n")  # it ended in the middle of what it wrote
        assert all("x/c" in ends(json.loads(each)) for each in whole.splitlines())
    finally:
        scene.daemon.kill()


@pytest.mark.kernel
def test_a_flood_is_told_of_as_one_at_once_and_counted_later(lab: Lab) -> None:
    """Nobody knows how many the kernel threw away until it logs the next packet."""
    scene = Scene(lab, "nft")
    try:
        scene.enforce(deny=DENY_ALL)
        command = ["/usr/bin/python3", "-m", "netpold.ctl", "--socket", str(scene.daemon.socket), "monitor", "--for"]

        def flood(packets: int, port: int) -> None:
            with scene.c.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for _ in range(packets):
                    sender.sendto(b"", (scene.b.addresses[0], port))

        def lost() -> tuple[int, bool]:
            found = ask(scene.daemon.socket, "GET", "/v1/drops?latest=0")
            return found["lost"], found["uncounted"]

        def watched(packets: int, port: int) -> str:
            watch = scene.node.spawn([*command, "4s"], stdout=subprocess.PIPE, cwd=CHECKOUT)
            time.sleep(1.5)  # for it to ask
            os.kill(scene.daemon.pid, signal.SIGSTOP)  # so that none is read before the kernel has thrown some away
            flood(packets, port)
            time.sleep(3 * FLUSH_S)
            os.kill(scene.daemon.pid, signal.SIGCONT)
            return watch.communicate(timeout=20)[0].decode()

        more = "... more packets came too fast to be looked at"
        for _ in range(2):
            before, _ = lost()
            text = watched(20_000, 7777)
            assert text.count(more) == 1, text
            assert lost()[1]
            assert before == lost()[0] or "before these" in text
        text = watched(1, 7778)
        assert more not in text and re.search(r"\.\.\. \d+ more packets .* looked at, before these", text), text
        assert lost()[0] > 0 and not lost()[1]
        assert more not in scene.daemon.ctl("monitor").stdout
    finally:
        scene.daemon.kill()


@pytest.mark.kernel
def test_over_a_restart(lab: Lab) -> None:
    """Who watches goes on, with all that the new daemon saw."""
    scene = Scene(lab, "nft")
    words = ["/usr/bin/python3", "-m", "netpold.ctl", "--socket", str(scene.daemon.socket)]
    try:
        scene.enforce(to_b=A_TO_B)
        assert not scene.passes(scene.c, scene.b)
        assert eventually(lambda: bool(events(scene)))
        following, watching = (
            scene.node.spawn(
                [*words, *more, "-o", "json"],
                stdout=(scene.daemon.log.parent / f"{more[0]}.out").open("w"),
                stderr=(scene.daemon.log.parent / f"{more[0]}.err").open("w"),
                cwd=CHECKOUT,
            )
            for more in (["monitor", "--follow"], ["status", "--watch"])
        )

        def shown(verb: str) -> list[Event]:
            return [json.loads(each) for each in (scene.daemon.log.parent / f"{verb}.out").read_text().splitlines()]

        assert eventually(lambda: bool(shown("monitor")) and bool(shown("status")), 10)
        before = shown("status")[-1]["since"]
        scene.daemon.kill()
        for verb in ("monitor", "status"):
            told = scene.daemon.log.parent / f"{verb}.err"
            assert eventually(lambda told=told: "; waiting for it\n" in told.read_text(), 10)
            assert told.read_text().count("waiting") == 1
        scene.enforce(more=A_OUT)
        assert not scene.passes(scene.c, scene.b, "UDP")
        assert eventually(lambda: any(each["protocol"] == "UDP" for each in shown("monitor")), 10)
        assert eventually(lambda: shown("status")[-1]["since"] != before, 10)
        for each in (following, watching):
            assert each.poll() is None
            each.terminate()
            each.wait(10)
    finally:
        scene.daemon.kill()
    gone = scene.daemon.ctl("status", "--watch")
    assert gone.returncode == 3 and "does not run" in gone.stderr


@pytest.mark.kernel
def test_a_name_that_no_manifest_knows(lab: Lab) -> None:
    """It is told; who watches goes on even so, for the pod may come."""
    scene = Scene(lab, "nft")
    try:
        scene.enforce(to_b=A_TO_B)
        no_pod, no_namespace = "no manifest declares the pod x/bb", "no manifest declares the namespace y,"
        for words, code, told in (
            (("--pod", "x/bb"), 2, (no_pod, "hint: did you mean x/b?")),
            (("--pod", "x/bb", "-o", "json"), 2, (no_pod,)),
            (("--namespace", "y"), 2, (no_namespace, "hint: there are namespaces such as x")),
            (("--pod", "b", "--follow"), 2, ("no manifest declares the pod b", "hint: did you mean x/b?")),
            (("--pod", "x/bb", "--for", "1s"), 2, (f"{no_pod}; watching for it even so", "did you mean x/b?")),
        ):
            done = scene.daemon.ctl("monitor", *words)
            assert done.returncode == code and all(each in done.stderr for each in told), (words, done.stderr)
        for words in (("--pod", "x/b"), ("--pod", "192.0.2.1"), ("--pod", "FD00::1"), ("--namespace", "x")):
            done = scene.daemon.ctl("monitor", *words)
            assert done.returncode == 0 and "no manifest" not in done.stderr, words
        outputs = [scene.daemon.log.parent / f"later.{each}" for each in ("out", "err")]
        command = ["/usr/bin/python3", "-m", "netpold.ctl", "--socket", str(scene.daemon.socket), "monitor"]
        following = scene.node.spawn(
            [*command, "--follow", "--pod", "x/later"],
            stdout=outputs[0].open("w"),
            stderr=outputs[1].open("w"),
            cwd=CHECKOUT,
        )
        assert eventually(lambda: "the pod x/later; watching for it even so" in outputs[1].read_text(), 10)
        later = scene.node.routed_pod("x", "later")
        scene.daemon.write("later.json", later.manifest(node=False))
        scene.daemon.wait(20)
        assert not scene.passes(later, scene.b)
        assert eventually(lambda: "x/later" in outputs[0].read_text(), 10)
        following.terminate()
        following.wait(10)
        (scene.daemon.manifests / "later.json").unlink()
        scene.daemon.wait(20)
        done = scene.daemon.ctl("monitor", "--pod", "x/later")
        assert done.returncode == 0 and "x/later" in done.stdout, "what is remembered of it"
    finally:
        scene.daemon.kill()


@pytest.mark.kernel
def test_another_reader_of_the_group(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend)
    with scene.node.netns.entered():
        group = Group(92)
    try:
        scene.enforce(to_b=A_TO_B)
        assert eventually(lambda: any("NFLOG group 92" in each for each in answer(scene, "status")["warnings"]))
        shown = scene.daemon.ctl("monitor")
        assert shown.returncode == 0 and "another program reads NFLOG group 92" in shown.stderr
    finally:
        group.close()
        scene.daemon.kill()


# Without a kernel -----------------------------------------------------------------------------------------------------

A = Pod("x", "a", {"app": "a"}, ("10.0.0.1",))


def described(number: int = 0, port: int = 80, why: str = "policy") -> Described:
    direction = Direction.EGRESS if why == "policy" else None
    sight = Sight("drop", why, direction, "10.0.0.1", f"192.0.2.{number}", "TCP", port)  # type: ignore[arg-type]
    return Described(sight, A, None, A, ("x/p",))


def test_events_are_kept_in_order_and_bounded() -> None:
    seen = Seen()
    for number in range(MOST_EVENTS + 10):
        seen.add(described(), Times(1, number, number), {})
    news = seen.after(0, 0)
    assert [each["number"] for each in news.events] == list(range(11, MOST_EVENTS + 11))
    assert (news.last, news.missed) == (MOST_EVENTS + 10, 10)
    assert seen.after(news.last, 0).events == ()
    assert seen.after(news.last + 999, 0).last == news.last  # of another life of the daemon
    ((pair, (times, isolating)),) = seen.sums().items()
    assert (pair.source.pod, pair.destination.address, isolating) == ("x/a", "192.0.2.0", ("x/p",))
    assert times == Times(MOST_EVENTS + 10, 0, MOST_EVENTS + 9)


def test_sums_that_were_not_seen_for_longest_go() -> None:
    seen = Seen()
    for port in range(MOST_SUMS):
        seen.add(described(port=port), Times(1, 0, 0), {})
    seen.add(described(port=0), Times(1, 0, 0), {})
    seen.add(described(port=MOST_SUMS), Times(1, 0, 0), {})
    ports = {pair.port for pair in seen.sums()}
    assert 0 in ports and 1 not in ports and MOST_SUMS in ports and seen.forgotten == 1
    seen.add(described(why="spoofed"), Times(1, 0, 0), {})
    assert len(seen.sums()) == MOST_SUMS  # nobody would allow that


def logged(prefix: str, port: int = 80) -> Logged:
    return Logged(prefix, Heading("10.0.0.1", "192.0.2.1", "tcp", 1234, port), "FORWARD", 3, 4, 0)


def test_only_netpolds_own_rules_count() -> None:
    assert of_packet(logged("netpold drop egress")) == Sight(
        "drop", "policy", Direction.EGRESS, "10.0.0.1", "192.0.2.1", "TCP", 80, None, 3, 4
    )
    found = of_packet(logged("netpold audit ingress"))
    assert found and (found.verdict, found.direction) == ("audit", Direction.INGRESS)
    assert of_packet(logged("ulogd: ")) is None and of_packet(logged("netpold drop egres")) is None


def test_too_many_different_ones_are_counted() -> None:
    def never(*_: object) -> Any:
        raise AssertionError("nobody is to be asked")

    observer = Observer(0, False, never, never)
    observer._count((of_packet(logged("netpold drop egress", port)) for port in range(MOST_WAITING + 5)), 1.0)
    observer._count([of_packet(logged("netpold drop egress", 0))] * 3, 2.0)
    assert observer.unlisted == 5 and len(observer._waiting) == MOST_WAITING
    assert next(iter(observer._waiting.values())) == Times(4, 1.0, 2.0)


RULE = {"policy": "x/p", "direction": "egress", "rule": 2, "tier": "NetworkPolicy"}
TIERS = {**RULE, "policy": "out", "tier": "Admin"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "x/p isolates x/a for egress, and no rule allows it"),
        ({"isolating": ["x/p", "x/q"]}, "x/p, x/q isolate x/a for egress"),
        ({"nearest_miss": {"text": "x/p egress[0] would allow it but for the port"}}, "it; x/p egress[0] would allow"),
        ({"isolating": []}, "a policy that judged x/a for egress denied it; which one is not known"),
        (
            {"judged_lingers": True},
            "10.0.0.1 is left of x/a, whose manifest is gone, and keeps its policies while it is there: "
            "x/p isolates 10.0.0.1 for egress, and no rule allows it",
        ),
        ({"why": "spoofed"}, "not the sender's own"),
        ({"why": "spoofed", "sender": "x/c", "interface_in": "veth7"}, "own: it came from x/c by veth7"),
        ({"why": "unclaimed"}, "no pod is known"),
        ({"verdict": "allow"}, "which policies let it through is not known"),
        (
            {"verdict": "allow", "passes": ["no policy isolates x/a", "b is free"]},
            ": no policy isolates x/a; b is free",
        ),
        ({"verdict": "allow", "allowed_by": [RULE]}, "by x/p egress[2]"),
        ({"verdict": "allow", "allowed_by": [RULE, TIERS]}, "by x/p egress[2] and Admin out egress[2]"),
        ({"denied_by": {**TIERS, "closed": False}}, "Admin out egress[2] denies it"),
        ({"verdict": "audit", "denied_by": {**TIERS, "closed": False}}, "Admin out egress[2] would deny it"),
    ],
)
def test_words(change: Event, words: str) -> None:
    event = {**Seen().add(described(), Times(2, 0, 0), {}), **change}
    assert words in f": {reason(event)}"
    assert "x/a -> 192.0.2.0 80/TCP: " in line(event, 2) and "2 packets" in line(event, 2)
