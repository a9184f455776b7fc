"""What other programs do to netpold's rules and sets on a real kernel: it is noticed, and put back as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.lab import Backend, Lab
from tests.test_daemon import A_OUT, A_TO_B, DENY_ALL, Scene, eventually

TABLE = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -j ACCEPT
COMMIT
"""
TOOLS = {4: "iptables", 6: "ip6tables"}


class Rules:
    """netpold's rules and sets in a node's kernel, as text that stays the same as long as they do."""

    def __init__(self, scene: Scene, backend: Backend) -> None:
        self.scene, self.node, self.backend = scene, scene.node, backend

    def saved(self) -> str:
        found = []
        for family in (4, 6):
            lines = self.node.iptables_save(self.backend, family).splitlines()
            own = [line.split(" [")[0] for line in lines if re.match(r"(:|-A )(NETPOLD-|NP-)", line)]
            hooks = [line for line in lines if re.match(r"-A (INPUT|FORWARD|OUTPUT) .*NETPOLD", line)]
            found += [f"IPv{family}", *own, *hooks]
            for builtin in ("INPUT", "FORWARD"):
                first = next((line for line in lines if line.startswith(f"-A {builtin} ")), "nothing")
                found.append(f"first in {builtin}: {first}")
        sets = self.node.ipset_save().splitlines()
        # without what differs in a set that was made anew
        bare = (re.sub(r" (initval|bucketsize|hashsize|packets) .*", "", line) for line in sets)
        return "\n".join([*found, *sorted(line for line in bare if re.match(r"\w+ NP[46]-", line))])

    def set_of(self, pod_address: str) -> str:
        """A set that allows that pod."""
        for words in map(str.split, self.node.ipset_save().splitlines()):
            if words[0] == "add" and words[2] == pod_address and "packets" not in words:
                return words[1]
        raise LookupError(pod_address)


def harms(scene: Scene, rules: Rules, backend: Backend) -> Iterator[tuple[str, str]]:
    """A shell script each, and what it is to be called."""
    peers = rules.set_of(scene.a.address(4))
    a, c = scene.a.address(4), scene.c.address(4)
    for family, tool in TOOLS.items():
        ipt = f"{tool}-{backend} -w"
        saved = scene.node.iptables_save(backend, family)
        chain = next(line.split()[0][1:] for line in saved.splitlines() if line.startswith(":NP-RULES-"))
        pod = next(line.split()[0][1:] for line in saved.splitlines() if line.startswith(":NP-IN-"))
        for words in (
            "-F",
            "-F NETPOLD-FORWARD",
            "-D NETPOLD-FORWARD 1",
            "-I NETPOLD-TO 1 -j RETURN",
            "-A NETPOLD-FORWARD -j ACCEPT",
            "-D FORWARD -j NETPOLD-FORWARD",
            "-I FORWARD -j ACCEPT",
            "-I FORWARD -j NETPOLD-FORWARD",
            f"-R {chain} 1 -j ACCEPT",
            f"-F {pod}",
            "-N NP-RULES-strange",
            "-N NP-IN-strange\n{ipt} -A NP-IN-strange -j ACCEPT\n{ipt} -I NETPOLD-TO -j NP-IN-strange",
            "-F\n{ipt} -X",
            "-D FORWARD -j NETPOLD-FORWARD\n{ipt} -F NETPOLD-FORWARD\n{ipt} -X NETPOLD-FORWARD",
            "-E NETPOLD-FORWARD something",
        ):
            script = f"{ipt} {words}".replace("{ipt}", ipt)
            yield script.replace("\n", "; "), script
        yield f"{tool}-restore of a table", f"{tool}-{backend}-restore <<'EOF'\n{TABLE}EOF\n{ipt} -D FORWARD -j ACCEPT"
    for words in (
        f"flush {peers}",
        f"del {peers} {a}",
        f"add {peers} {c}",
        f"add {peers} {c}; ipset del {peers} {a}",
        f"create other hash:ip; ipset add other {c}; ipset add other 10.255.255.1; ipset swap {peers} other; "
        "ipset destroy other",
        "create NP4-strange hash:ip",
        "flush",
    ):
        yield f"ipset {words}", f"ipset {words}"
    gone = f"iptables-{backend} -w -F; iptables-{backend} -w -X; ipset destroy {peers}"
    yield "flush, and destroy a set", f"n=0; until {gone}; do n=$((n+1)); [ $n -lt 50 ] || exit 1; done"
    if backend == "nft":
        for words in (
            "flush ruleset",
            "delete table ip filter",
            "delete table ip6 filter",
            "flush table ip filter",
            "flush chain ip filter NETPOLD-FORWARD",
            "insert rule ip filter NETPOLD-FORWARD accept",
            "insert rule ip filter FORWARD accept",
            "rename chain ip filter NETPOLD-FORWARD something",
            "'add table ip filter { flags dormant; }'",
            "delete table ip filter; nft flush ruleset; nft delete table ip6 filter",
        ):
            yield f"nft {words}", f"nft {words} || true"


# of the harms, those that differ most
SOME = re.compile(
    r"iptables-\w+ -w (-F|-F; .* -X|-I FORWARD -j ACCEPT|-D FORWARD .* -X .*|-E .*)"
    r"|ip6tables-\w+ -w (-R .*|-D FORWARD \S+ \S+)|iptables-restore of a table"
    r"|ipset (add .* del .*|.* swap .*)|.* destroy a set|nft (flush ruleset|'add .*)"
)


@pytest.mark.kernel
@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_whatever_another_program_does_is_put_back(lab: Lab, backend: Backend, which: str) -> None:
    scene = Scene(lab, backend)
    with scene.daemon:
        scene.enforce(deny=DENY_ALL, allow=A_TO_B, out=A_OUT)
        rules = Rules(scene, backend)
        right = rules.saved()
        wrong = []
        for name, script in harms(scene, rules, backend):
            if which == "some" and not SOME.fullmatch(name):
                continue
            scene.node.run(["sh", "-c", script], check=False)
            if not eventually(lambda right=right: rules.saved() == right, 5.0):
                now, then = set(rules.saved().splitlines()), set(right.splitlines())
                wrong.append(f"{name}: more {sorted(now - then)[:4]}, less {sorted(then - now)[:4]}")
                right = rules.saved()
            if not (scene.passes(scene.a, scene.b) and not scene.passes(scene.c, scene.b)):
                wrong.append(f"{name}: other packets pass")
        assert not wrong, "\n".join((*wrong, scene.daemon.errors()))
        assert scene.daemon.status()["state"] == "enforcing"
