"""What is counted as dropped: real packets between pods, so many sent, so many counted; without the daemon's loop."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from netpold.host import drops
from netpold.host.drops import Drops, DropTotals
from netpold.host.kernel.apply import apply, clean_up, installed
from netpold.host.kernel.flush import flush
from netpold.host.kernel.legacy import Legacy
from netpold.host.kernel.nft import Nft
from netpold.host.kernel.set_members import Count
from netpold.host.locate import addresses
from netpold.policy.assemble import Assembly
from netpold.policy.index import Index
from netpold.policy.manifest import parse
from netpold.policy.model import Direction
from netpold.rules.compile import Compiled, Compiler
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.plan import Installed, plan
from netpold.rules.settings import CompileSettings
from tests.lab import Backend, Lab, Pod
from tests.lab.datagram import DOMAIN

pytestmark = pytest.mark.kernel

SIZE = 100  # bytes that a datagram carries
IN, OUT = Direction.INGRESS, Direction.EGRESS


def policy(name: str, port: int | None = None, selector: str = "{app: b}", direction: str = "Ingress") -> str:
    key = "ingress" if direction == "Ingress" else "egress"
    rules = f"\n  {key}: [{{ports: [{{port: {port}, protocol: UDP}}]}}]" if port else ""
    return f"""apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}, namespace: x}}
spec:
  podSelector: {{matchLabels: {selector}}}
  policyTypes: [{direction}]{rules}
"""


class Scene:
    """Pods a and b on a node, and what the daemon's loop does with their drops."""

    def __init__(self, lab: Lab, backend: Backend, wiring: str) -> None:
        self.node = lab.node("n1")
        make = self.node.routed_pod if wiring == "routed" else self.node.bridged_pod
        self.bridged = wiring == "bridged"
        self.pods = {name: make("x", name, labels={"app": name}) for name in "abc"}
        self.a, self.b = self.pods["a"], self.pods["b"]
        self.backend = Nft() if backend == "nft" else Legacy()
        self.drops = Drops()
        self.installed: Installed | None = None
        assembly = self._assembly = Assembly()
        self._compiler = Compiler(Index(assembly.world), CompileSettings(nflog_group=0))
        self.here = set(self.pods)

    def enforce(self, **files: str) -> None:
        """Files by name; an empty text is one that is gone.  The pods' manifests go along."""
        texts = {**files, **{f"pod-{name}": json.dumps(pod.manifest()) for name, pod in self.pods.items()}}
        texts |= {f"pod-{name}": "" for name in self.pods.keys() - self.here}
        changes = self._assembly.update({name: parse(text.encode(), name) for name, text in texts.items()})
        endpoints = {
            pod.name: Endpoint(pod.name, pod.addresses, (Interface(pod.interface, self.bridged),))
            for name, pod in self.pods.items()
            if name in self.here
        }
        self.compiled = self._compiler.update(changes, endpoints)
        self.local = addresses(endpoints.values())
        self.apply(self.compiled)

    def apply(self, compiled: Compiled) -> None:
        with self.node.netns.entered():
            if self.installed is None:
                steps = plan(installed(self.backend), compiled.ruleset)
            else:
                steps = plan(self.installed, compiled.ruleset, compiled.changed, self.local)
            self.installed = apply(steps, self.backend)
            self.drops.follow(compiled.isolated, self.installed)

    def lose_track(self) -> None:
        """As after a round that failed: everything is made anew."""
        self.installed = None
        self.apply(self.compiled)

    def clean_up(self) -> None:
        assert self.installed
        with self.node.netns.entered():
            for _ in range(50):  # nf_tables gives sets free some time later
                with self.drops.settling(self.installed):
                    self.installed = clean_up(self.installed, self.backend)
                if not self.installed.stray_sets:
                    return
                time.sleep(0.02)
        raise AssertionError(self.installed.stray_sets)

    def totals(self) -> DropTotals:
        with self.node.netns.entered():
            return self.drops.totals()

    def packets(self, pod: str, direction: Direction = IN) -> int:
        return self.totals().pods.get((f"x/{pod}", direction), Count()).packets

    def by_policy(self, name: str, direction: Direction = IN) -> int:
        return self.totals().policies.get((f"x/{name}", direction), Count()).packets

    def greet(self) -> None:
        """So that the pods know their next hops; the node and its pods are free."""
        for family in (4, 6):
            for pod in self.pods.values():
                pod.run(["ping", "-c1", "-W5", self.node.address(family)])
            if self.bridged:  # neighbours on the bridge, too: ping drops nothing as long as there is no policy
                self.a.run(["ping", "-c1", "-W5", self.b.address(family)])
                self.b.run(["ping", "-c1", "-W5", self.a.address(family)])


@pytest.fixture(autouse=True)
def always_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drops, "LEAST_PAUSE_S", 0.0)


@pytest.fixture(params=["routed", "bridged"])
def scene(lab: Lab, backend: Backend, request: pytest.FixtureRequest) -> Iterator[Scene]:
    made = Scene(lab, backend, request.param)
    with closing(made.backend):
        made.greet()
        yield made


def send(source: Pod, destination: Pod, count: int, family: int = 4, port: int = 9, own: str = "") -> None:
    with source.netns.entered():
        sender = socket.socket(DOMAIN[family], socket.SOCK_DGRAM)
    with sender:
        if own:
            sender.bind((own, 0))
        for number in range(count):
            sender.sendto(bytes(SIZE), (destination.address(family), port))
            if number % 50 == 49:
                time.sleep(0.002)  # a queue between pod and node holds 1000 packets


def settled(count: Callable[[], int], wanted: int) -> int:
    """The count, when it is what it should be, or has not become so."""
    end = time.monotonic() + 3
    while count() != wanted and time.monotonic() < end:
        time.sleep(0.01)
    return count()


@pytest.mark.parametrize("family", [4, 6])
def test_as_many_are_counted_as_were_sent(scene: Scene, family: int) -> None:
    scene.enforce(allow=policy("allow", 53), out=policy("out", 53, "{app: a}", "Egress"))
    send(scene.a, scene.b, 40, family, port=53)  # allowed
    send(scene.pods["c"], scene.b, 300, family)
    send(scene.a, scene.b, 7, family)  # dropped where it leaves, and never gets to b
    assert settled(lambda: scene.packets("b"), 300) == 300
    assert settled(lambda: scene.packets("a", OUT), 7) == 7
    found = scene.totals()
    size = SIZE + 8 + (20 if family == 4 else 40)
    assert found.pods == {("x/b", IN): Count(300, 300 * size), ("x/a", OUT): Count(7, 7 * size)}
    assert found.policies == {("x/allow", IN): Count(300, 300 * size), ("x/out", OUT): Count(7, 7 * size)}
    assert found.failures == 0


def test_counts_go_on_over_edits_and_relabels(scene: Scene) -> None:
    scene.enforce(one=policy("one", 53))
    send(scene.a, scene.b, 100)
    scene.enforce(one=policy("one", 54))
    send(scene.a, scene.b, 100)
    assert settled(lambda: scene.packets("b"), 200) == 200
    scene.clean_up()
    scene.enforce(two=policy("two", 55))  # from here on two policies isolate it
    send(scene.a, scene.b, 100)
    assert settled(lambda: scene.packets("b"), 300) == 300
    scene.b.labels = {"app": "other"}  # and none
    scene.enforce()
    send(scene.a, scene.b, 100)
    scene.clean_up()
    scene.b.labels = {"app": "b"}
    scene.enforce(two="")
    send(scene.a, scene.b, 100)
    assert settled(lambda: scene.packets("b"), 400) == 400
    scene.clean_up()
    assert scene.packets("b") == 400
    assert (scene.by_policy("one"), scene.by_policy("two")) == (400, 100)


def test_counts_go_on_when_everything_is_made_anew(scene: Scene) -> None:
    scene.enforce(one=policy("one"))
    for number in range(1, 4):
        send(scene.a, scene.b, 50)
        scene.lose_track()
        send(scene.a, scene.b, 50)
        scene.clean_up()
        assert settled(lambda: scene.packets("b"), number * 100) == number * 100
    assert scene.by_policy("one") == 300


def test_an_address_that_moves_counts_for_the_pod_that_has_it(scene: Scene) -> None:
    scene.enforce(one=policy("one", selector="{role: server}"))
    scene.b.labels = scene.pods["c"].labels = {"role": "server"}
    scene.enforce()
    send(scene.a, scene.b, 30)
    assert settled(lambda: scene.packets("b"), 30) == 30
    old, c = scene.b, scene.pods["c"]
    freed = old.addresses
    scene.here.discard("b")
    scene.node.remove(old)
    scene.node.remove(c)
    scene.pods["c"] = (scene.node.bridged_pod if scene.bridged else scene.node.routed_pod)(
        "x", "c", freed, labels={"role": "server"}
    )
    del scene.pods["b"]
    scene.enforce(**{"pod-b": ""})
    scene.pods["c"].run(["ping", "-c1", "-W5", scene.node.address(4)])
    send(scene.a, scene.pods["c"], 20)
    assert settled(lambda: scene.packets("c"), 20) == 20
    assert scene.packets("b") == 30
    assert scene.by_policy("one") == 50


def test_spoofed_packets_are_counted_apart(scene: Scene) -> None:
    scene.enforce(one=policy("one"))
    for family, address in ((4, "10.72.99.9"), (6, "fd72::99:9")):
        scene.a.spoof(address)
        send(scene.a, scene.b, 25, family, own=address)
    assert settled(lambda: sum(each.packets for each in scene.totals().spoofed.values()), 50) == 50
    assert {family: each.packets for family, each in scene.totals().spoofed.items()} == {4: 25, 6: 25}
    assert scene.packets("b") == 0


def test_every_packet_of_a_flood_is_counted_while_policies_change(scene: Scene) -> None:
    scene.enforce(one=policy("one", 53))
    stop, sent = threading.Event(), 0

    def flood() -> None:
        nonlocal sent
        while not stop.is_set():
            send(scene.a, scene.b, 50)
            sent += 50

    sender = threading.Thread(target=flood)
    sender.start()
    try:
        number = 0
        while number < 20 or sent < 1000:
            name = f"policy-{number % 3}"
            scene.enforce(**{name: policy(name, 100 + number) if number % 2 else ""})
            scene.packets("b")
            if number % 4 == 3:
                scene.clean_up()
            if number % 7 == 6:
                scene.lose_track()
            number += 1
    finally:
        stop.set()
        sender.join()
    assert settled(lambda: scene.packets("b"), sent) == sent
    assert scene.by_policy("one") == sent


def test_what_is_gone_is_told_of_for_a_while(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.enforce(one=policy("one"))
    send(scene.a, scene.b, 5)
    assert settled(lambda: scene.packets("b"), 5) == 5
    scene.enforce(one="")
    scene.clean_up()
    assert scene.packets("b") == 5
    monkeypatch.setattr(drops, "KEEP_S", 0.0)
    assert scene.totals().pods == scene.totals().policies == {}


def test_a_flush_leaves_the_counts_and_no_error(scene: Scene) -> None:
    scene.enforce(one=policy("one"))
    send(scene.a, scene.b, 5)
    assert settled(lambda: scene.packets("b"), 5) == 5
    with scene.node.netns.entered():
        flush()
    assert scene.packets("b") == 5
    assert scene.totals().failures == 0
    scene.lose_track()
    send(scene.a, scene.b, 9)
    assert settled(lambda: scene.packets("b"), 14) == 14


def test_a_kernel_that_does_not_answer_is_a_warning_and_counted(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.enforce(one=policy("one"))
    with scene.node.netns.entered():
        flush()
    another = "create NP4-DROPPED-IN hash:ip\nadd NP4-DROPPED-IN 10.0.0.1\n"  # without counters
    scene.node.run(["ipset", "restore"], another)
    with caplog.at_level(logging.WARNING):
        assert [scene.totals().failures for _ in range(3)] == [1, 2, 3]
    assert len([each for each in caplog.records if "can't be read" in each.getMessage()]) == 1


def test_what_nobody_has_read_goes_to_who_had_the_address_then(scene: Scene) -> None:
    scene.enforce(one=policy("one", selector="{role: server}"))
    scene.b.labels = scene.pods["c"].labels = {"role": "server"}
    scene.enforce()
    send(scene.a, scene.b, 30)
    old, other = scene.b, scene.pods["c"]
    freed = old.addresses
    scene.here.discard("b")
    scene.node.remove(old)
    scene.node.remove(other)
    wire = scene.node.bridged_pod if scene.bridged else scene.node.routed_pod
    scene.pods["c"] = wire("x", "c", freed, labels={"role": "server"})
    del scene.pods["b"]
    scene.enforce(**{"pod-b": ""})
    assert (scene.packets("b"), scene.packets("c")) == (30, 0)
