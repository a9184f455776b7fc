"""The table for frames between ports of bridges: what other programs do to it is found, told and put right, as is what
they do to chains and sets."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from netpold.ctl.verify import text
from netpold.daemon.verify import verify
from netpold.host.kernel.bridge_frames import BridgeFrames, listed, remove
from netpold.host.kernel.nft import Nft
from netpold.host.run import run
from netpold.host.view import HostView, Link
from netpold.rules.plan import Installed
from tests.lab import Backend, Lab
from tests.lab.namespace import inside
from tests.test_daemon import DENY_ALL, Scene, eventually

pytestmark = pytest.mark.kernel

# each with what `verify` then says of the table
HARMS = {
    "delete table bridge netpold": "missing",
    "flush chain bridge netpold prerouting": "different",
    "insert rule bridge netpold prerouting accept": "different",
    "flush set bridge netpold ports": "different",
    "add table bridge netpold { flags dormant; }": "different",
    "add chain bridge netpold other": "different",
    "flush chain bridge netpold postrouting": "different",
    "delete element bridge netpold closed { v2 }": "different",
}


def host(ports: int) -> HostView:
    """One with a bridge of so many ports."""
    links = {"br0": Link("br0", 1, "bridge")}
    return HostView(
        links, port_macs=frozenset(f"02:00:00:00:{each >> 8:02x}:{each & 255:02x}" for each in range(ports))
    )


def verified(frames: BridgeFrames) -> dict[str, Any]:
    found = verify(Installed(), Nft(), frames.listing)
    json.dumps(found)
    return found


def test_what_other_programs_do_to_the_table_is_found_and_put_right_and_what_netpold_does_is_no_repair() -> None:
    with inside("frames"):
        frames = BridgeFrames()
        frames.follow(HostView())
        frames.keep()
        assert frames.listing is None and not listed(), "there is no bridge yet"
        assert verified(frames)["same"] and not verified(frames)["tables"]
        for ports in (0, 3, 300, 2):
            frames.follow(host(ports))
            for _ in range(3):
                frames.keep()
            assert not frames.take_repair() and frames.warning is None
            found = verified(frames)
            assert found["same"] and [each["state"] for each in found["tables"]] == ["ok"]
        for closed in (frozenset({"v1", "-x", "vÿ", 'a"b', "x*"}), frozenset({'a"b'}), frozenset({"v2"})):
            frames.follow(host(2), closed)
            assert not frames.take_repair() and frames.warning is None and verified(frames)["same"]
            assert [each for each in ("v1", "-x", "vÿ", "v2") if each in closed] == re.findall(r'[ "]*"(.*)"', listed())
        right = listed()
        for harm, state in HARMS.items():
            run(["nft", "-f", "-"], harm)
            found = verified(frames)
            (table,) = found["tables"]
            assert not found["same"] and (table["family"], table["table"], table["state"]) == (
                "bridge",
                "netpold",
                state,
            )
            assert table["missing"]["count"] or table["extra"]["count"]
            frames.keep()
            assert listed() == right and verified(frames)["same"], harm
            assert frames.take_repair() and not frames.take_repair(), harm
        run(["nft", "-f", "-"], "flush chain bridge netpold prerouting")
        frames.follow(host(4))
        assert frames.take_repair(), "it was to be another in the same moment"
        run(["nft", "-f", "-"], "insert rule bridge netpold prerouting ip saddr 192.0.2.1 accept")
        lines = text({**verified(frames), "revision": 1})
        assert lines[0] == "bridge table netpold is different" and "  + ip saddr 192.0.2.1 accept" in lines
        assert "different; as they should be" in lines[-1] and lines[-1].endswith("0 of 1 bridge table")
        remove()
        remove()
        assert not listed()


def test_it_is_verified_and_a_repair_is_told_like_any_other(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend, "bridged", config="rescan_s = 1\n")
    node = scene.node

    def repaired(times: int) -> bool:
        return eventually(lambda: (scene.daemon.status()["drift"] or {"repairs": 0})["repairs"] == times)

    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        done = scene.daemon.ctl("verify")
        assert done.returncode == 0 and done.stdout.endswith(", 1 of 1 bridge table\n")
        right = node.run(["nft", "-s", "list", "table", "bridge", "netpold"])
        revision = scene.daemon.status()["revision"]
        harms = list(HARMS)[:2]
        for number, harm in enumerate(harms, 1):
            begun = ["-I", "-p", "udp", "-s", scene.a.address(4), "-d", scene.b.address(4), "--timeout", "300"]
            node.run(["nft", "-f", "-"], harm)
            node.run(["conntrack", *begun, "--sport", "4001", "--dport", "4002"])
            assert repaired(number), harm
            assert node.run(["nft", "-s", "list", "table", "bridge", "netpold"]) == right
            assert eventually(lambda: "dport=4002" not in node.run(["conntrack", "-L", "-p", "udp"])), "it is cut"
        status = scene.daemon.status()
        assert status["state"] == "enforcing" and status["revision"] == revision + len(harms)
        told = "another program had changed netpold's rules or sets: they are put back"
        assert eventually(lambda: told in scene.daemon.log.read_text())
        assert scene.daemon.ctl("verify").returncode == 0


def test_verify_says_that_it_is_gone_until_it_is_put_back_with_what_was_noticed(lab: Lab, backend: Backend) -> None:
    scene = Scene(lab, backend, "bridged", config="rescan_s = 3600\n")
    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        scene.node.run(["nft", "delete", "table", "bridge", "netpold"])
        done = scene.daemon.ctl("verify")
        assert done.returncode == 1 and "bridge table netpold is not there" in done.stdout
        scene.node.iptables(backend, 4, "-F", "NETPOLD-FORWARD")
        assert eventually(lambda: scene.daemon.ctl("verify").returncode == 0, 15)
        assert scene.daemon.status()["drift"]["repairs"] == 1, "it is one repair"
