"""Filter tables of the other backend, in force beside netpold's: they are told while they are there, and looking for
them loads nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from netpold.host.kernel.other_tables import nf_tables_is_there, other_in_use
from tests.lab import Backend, Lab
from tests.test_daemon import DENY_ALL, Scene, eventually

OTHER: dict[Backend, Backend] = {"nft": "legacy", "legacy": "nft"}


@pytest.mark.kernel
def test_they_are_told_of_while_they_are_there_and_nothing_else_changes(lab: Lab, backend: Backend) -> None:
    scene, other = Scene(lab, backend, config="rescan_s = 1\n"), OTHER[backend]

    def told() -> tuple[list[dict[str, str]], int]:
        status = scene.daemon.status()
        return status["other_tables"], sum(f"iptables-{other} has" in each for each in status["warnings"])

    with scene.daemon:
        scene.enforce(deny=DENY_ALL)
        assert told() == ([], 0)
        for families in ([4], [4, 6]):
            scene.node.iptables(other, families[-1], "-A", "FORWARD", "-j", "DROP")
            expected = [{"backend": other, "family": f"IPv{family}"} for family in families]
            assert eventually(lambda expected=expected: told() == (expected, 1), 20)
        assert scene.daemon.errors().count(f"iptables-{other} has a filter table too") == 1
        if other == "nft":  # a legacy table stays for as long as its module
            scene.node.run(["nft", "delete table ip filter; delete table ip6 filter"])
            assert eventually(lambda: told() == ([], 0), 20)
        assert scene.daemon.status()["drift"] is None


@pytest.mark.kernel
def test_a_built_in_chain_that_drops_is_in_force_without_a_rule(lab: Lab) -> None:
    node = lab.node("n1")
    with node.netns.entered():
        for words, found in (("-L", []), ("-N NP-IN-a", []), ("-A NP-IN-a -j DROP", []), ("-P FORWARD DROP", [6])):
            node.iptables("nft", 6, *words.split())
            assert list(other_in_use("legacy")) == found, words
        node.iptables("nft", 6, "-P", "FORWARD", "ACCEPT")
        node.iptables("nft", 4, "-A", "OUTPUT", "-j", "ACCEPT")
        assert list(other_in_use("legacy")) == [4]


@pytest.mark.parametrize(
    ("files", "is_there"),
    [
        ({}, True),  # no module can be loaded
        ({"proc/modules": ""}, False),
        ({"proc/modules": "", "sys/module/nf_tables/refcnt": "3"}, True),
        ({"proc/modules": "", "sys/kernel/btf/vmlinux": "\0nft_register_expr\0"}, True),
        ({"proc/modules": "", "sys/kernel/btf/vmlinux": "\0ipt_do_table\0"}, False),
        ({"proc/modules": "", "proc/kallsyms": "0 t ipt_do_table\n"}, False),
        ({"proc/modules": "", "proc/kallsyms": "0 T nft_register_expr\n"}, True),
    ],
)
def test_nf_tables_is_asked_where_that_loads_nothing(tmp_path: Path, files: dict[str, str], is_there: bool) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert nf_tables_is_there(tmp_path) == is_there
