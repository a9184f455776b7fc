"""What other programs do to the names of netpold's chains on a real kernel: each has its own again, and its rules.

In nf_tables a rule that leads to a chain leads there whatever the chain is called: by its name nothing is seen.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from netpold.daemon.drift import Drift
from netpold.daemon.verify import verify
from netpold.host.kernel.apply import apply, clean_up
from netpold.host.kernel.chain_names import ChainNames
from netpold.host.kernel.legacy import Legacy
from netpold.host.kernel.nft import Nft
from netpold.host.run import run
from netpold.rules.plan import Installed, plan
from tests.lab import Backend, Lab
from tests.lab.namespace import inside
from tests.test_daemon import A_OUT, A_TO_B, DENY_ALL, Scene, eventually
from tests.test_verify import rulesets

pytestmark = pytest.mark.kernel


def renamings(scene: Scene, backend: Backend) -> Iterator[str]:
    """A shell script each, in which $i is iptables."""
    saved = scene.node.iptables_save(backend, 4)
    rules, pods = (re.findall(rf"^:({prefix}[^ ]+)", saved, re.M) for prefix in ("NP-RULES-", "NP-IN-veth"))
    one, other = rules[:2]
    yield f"$i -E {one} NP-RULES-z; $i -F NP-RULES-z"
    yield f"$i -E {one} z"
    yield f"$i -E {one} z1; $i -E z1 NP-RULES-z2; $i -E NP-RULES-z2 z3"
    yield f"$i -E {one} z; $i -E z {one}"
    yield f"$i -E {one} z; $i -N {one}"
    yield f"$i -E {one} NP-RULES-z; $i -N {one}; $i -A {one} -j RETURN"
    yield f"$i -E {one} z; $i -E {other} {one}; $i -E z {other}"
    yield f"$i -E {pods[0]} NP-IN-z; $i -E {pods[1]} {pods[0]}; $i -E NP-IN-z {pods[1]}"
    yield f"$i -E {one} z; $i -E {pods[0]} {one}; $i -E {other} {pods[0]}; $i -E z {other}"
    yield "$i -E NETPOLD-FORWARD z"
    yield "$i -E NETPOLD-FORWARD NETPOLD-Z"
    if backend == "nft":  # legacy tables don't tell such a chain from one that another program made
        yield f"$i -E {one} z; $i -I z -j RETURN"
        yield "$i -E NETPOLD-FORWARD z; $i -F z"
        yield "$i -E NETPOLD-FORWARD z; $i -E NETPOLD-INPUT NETPOLD-FORWARD; $i -E z NETPOLD-INPUT"
        yield f"nft 'rename chain ip filter {one} z1; rename chain ip filter {other} z2; flush chain ip filter {one}'"
        yield "nft rename chain ip filter FORWARD z"


def table(scene: Scene, backend: Backend) -> str:
    """The whole table, others' chains too; a set that was made anew is the same."""
    lines = (each.split(" [")[0] for each in scene.node.iptables_save(backend, 4).splitlines() if each[0] != "#")
    return re.sub(r"(NP[46]-[\w-]+)\.\d+", r"\1", "\n".join(lines))


def test_what_is_renamed_has_its_name_again_and_nothing_is_left_behind(lab: Lab, backend: Backend) -> None:
    """The daemon stands still meanwhile, else it comes between the commands of a script."""
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        right = table(scene, backend)
        wrong = []
        for script in renamings(scene, backend):
            os.kill(scene.daemon.pid, signal.SIGSTOP)
            try:
                scene.node.run(["sh", "-ec", f"i='iptables-{backend} -w'; {script}"])
            finally:
                os.kill(scene.daemon.pid, signal.SIGCONT)
            if not eventually(lambda right=right: table(scene, backend) == right):
                now, then = (each.splitlines() for each in (table(scene, backend), right))
                more, less = ([x for x in one if x not in other] for one, other in ((now, then), (then, now)))
                wrong.append(f"{script}: more {more[:4]}, less {less[:4]}")
                right = table(scene, backend)
            if not (scene.passes(scene.a, scene.b) and not scene.passes(scene.c, scene.b)):
                wrong.append(f"{script}: other packets pass")
        verified = scene.daemon.ctl("verify")
        assert verified.returncode == 0, verified.stdout
        assert not wrong, "\n".join((*wrong, scene.daemon.errors()))


def test_a_built_in_chain_that_another_has_taken_the_name_of_has_no_jump_left(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        os.kill(scene.daemon.pid, signal.SIGSTOP)
        try:
            scene.node.run(["nft", "rename chain ip filter FORWARD z"])
            scene.node.run(["iptables-nft", "-A", "FORWARD", "-s", "192.0.2.1", "-j", "ACCEPT"])
        finally:
            os.kill(scene.daemon.pid, signal.SIGCONT)

        def rules(chain: str) -> list[str]:
            lines = scene.node.run(["nft", "-s", "list", "chain", "ip", "filter", chain]).splitlines()
            return [re.sub("counter ", "", line.strip()) for line in lines[3:-2]]

        right = [[], ["jump NETPOLD-FORWARD", "ip saddr 192.0.2.1 accept"]]
        assert eventually(lambda: [rules("z"), rules("FORWARD")] == right), [rules("z"), rules("FORWARD")]
        assert not scene.passes(scene.a, scene.b)


def test_other_programs_may_rename_their_own_chains(lab: Lab, backend: Backend) -> None:
    """As some do who fill a list anew: it is no business of netpold's."""
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        revision = scene.daemon.status()["revision"]
        for words in ("-N LIST", "-A LIST -s 192.0.2.1 -j DROP", "-A FORWARD -j LIST", "-E LIST OLD", "-N LIST"):
            scene.node.iptables(backend, 4, *words.split())
        before = table(scene, backend)
        scene.node.iptables(backend, 4, "-E", "OLD", "OLDER")
        scene.enforce(allow=A_TO_B)
        assert scene.daemon.status()["revision"] == revision + 1
        assert scene.daemon.status()["drift"] is None
        assert "-A FORWARD -j OLDER" in table(scene, backend)
        assert "-A FORWARD -j OLD" in before


@pytest.mark.parametrize("script", ["$i -E $one $other-", "$i -E $one z; $i -F z; $i -N $one"])
def test_what_nobody_noticed_is_found_when_everything_is_read(
    backend: Backend, script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/xtables.lock")
    ruleset = next(each for each in rulesets() if sum(name.startswith("NP-RULES-") for name in each.chains[4]) > 1)
    one, other = sorted(name for name in ruleset.chains[4] if name.startswith("NP-RULES-"))[:2]
    woken = threading.Event()
    with inside("renamed"), closing(Nft() if backend == "nft" else Legacy()) as kernel:
        now = apply(plan(Installed(), ruleset), kernel)
        drift = Drift(kernel, woken.set)  # that does not watch
        run(["sh", "-ec", f"i=iptables-{backend}; one={one}; other={other}; {script}"])
        drift.begin(now)
        assert woken.wait(10)
        mended = drift.mend(now, now)
        assert mended is not None and mended.installed is not None
        assert verify(clean_up(mended.installed, kernel), kernel)["same"]
        drift.close()


def test_names_are_known_again_where_events_were_lost(lab: Lab) -> None:
    node = lab.node("n1")
    with node.netns.entered():
        for words in ("-N NP-RULES-a", "-N NP-RULES-b", "-N OTHER"):
            node.iptables("nft", 4, *words.split())
        names = ChainNames()
        assert not names.read()
        for words in ("-E NP-RULES-a z", "-X NP-RULES-b", "-N NP-RULES-c", "-E OTHER MORE"):
            node.iptables("nft", 4, *words.split())
        (found,) = names.read()
        assert (found.family, found.name) == (4, "NP-RULES-a")
        with closing(Nft()) as nft:
            assert nft.rename((found,))
            assert not nft.rename((found,))
            assert nft.chains(4) == {"NP-RULES-a", "NP-RULES-c"}
            node.run(["nft", "delete", "table", "ip", "filter"])
            node.run(
                ["nft", "add table ip filter; add chain ip filter a; add chain ip filter b; add chain ip filter c"]
            )
            assert not nft.rename((found,)), "handles of another table say nothing"
        assert not names.read()
