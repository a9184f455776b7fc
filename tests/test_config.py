"""Settings: the file, its .d directory, flags, and what is said about wrong ones."""

from __future__ import annotations

import argparse
import re
import socket
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from netpold import config
from netpold.config import ConfigError, Settings


def write(directory: Path, text: str, name: str = "netpold.toml") -> Path:
    file = directory / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def test_defaults_with_an_empty_file(tmp_path: Path) -> None:
    settings = config.load(file=write(tmp_path, ""))
    assert settings == Settings()
    assert settings.manifests == Path("/etc/netpold")
    assert settings.node == socket.gethostname().lower()


def test_later_ones_win(tmp_path: Path) -> None:
    file = write(tmp_path, 'node = "a"\nsettle_ms = 1\nrescan_s = 1\nbackend = "nft"\n')
    write(tmp_path, "settle_ms = 2\nrescan_s = 2\n", "netpold.toml.d/10-first.toml")
    write(tmp_path, "rescan_s = 3\n", "netpold.toml.d/20-second.toml")
    write(tmp_path, "rescan_s = 4\n", "netpold.toml.d/.hidden.toml")
    write(tmp_path, "not toml at all", "netpold.toml.d/README")
    settings = config.load({"node": "b", "backend": None, "other": "x"}, file)
    assert (settings.node, settings.settle_ms, settings.rescan_s, settings.backend) == ("b", 2, 3, "nft")


@pytest.mark.parametrize(
    ("text", "key", "fault", "cure"),
    [
        ("setle_ms = 3", "setle_ms", "no such setting", "did you mean settle_ms?"),
        ('state-dir = "/x"', "state-dir", "no such setting", "did you mean state_dir?"),
        ("zzzzz = 3", "zzzzz", "no such setting", "the settings are manifests,"),
        ("[settle_ms]\nx = 1", "settle_ms", "can't be", "a whole number from 1 to 60000"),
        ("settle_ms = true", "settle_ms", "true can't be", "a whole number"),
        ("settle_ms = 0", "settle_ms", "0 can't be", "from 1 to"),
        ("nflog_group = 65536", "nflog_group", "65536 can't be", "from 0 to 65535"),
        ("accept = 1", "accept", "1 is not true or false", "without quotes"),
        ('accept = "yes"', "accept", "'yes' is not true or false", "without quotes"),
        ('backend = "iptables"', "backend", "'iptables' is none of its values", 'write "auto", "nft" or "legacy"'),
        ("backend = 1", "backend", "1 is none of its values", '"legacy"'),
        ('manifests = "relative"', "manifests", "not an absolute path", "/path/to/it"),
        ("manifests = 7", "manifests", "7 is not an absolute path", "/path/to/it"),
        ('pod_interfaces = "cali*"', "pod_interfaces", "is not a list", '["cali*", "veth*"]'),
        ('pod_interfaces = ["ca*li"]', "pod_interfaces", "'ca*li' is not the name of an interface", "at the end"),
        ('pod_interfaces = ["sixteencharacter"]', "pod_interfaces", "not the name of an interface", "at most 15"),
        ('pod_interfaces = ["-x"]', "pod_interfaces", "'-x' is not the name of an interface", "letters"),
        ('pod_interfaces = ["a b"]', "pod_interfaces", "'a b' is not the name of an interface", "letters"),
        ('pod_interfaces = ["*"]', "pod_interfaces", "'*' is not the name of an interface", "at the end"),
        ("pod_interfaces = [1]", "pod_interfaces", "1 is not the name of an interface", "letters"),
        ('metrics_textfile = "x.prom"', "metrics_textfile", "not an absolute path", "/path/to/it"),
        ("metrics_port = -1", "metrics_port", "-1 can't be", "from 0 to 65535"),
        ('node = "Node A"', "node", "'Node A' is not a node name", "lower-case"),
        ('node = ""', "node", "'' is not a node name", "lower-case"),
        ("node", "", "is not TOML", "name = value"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, key: str, fault: str, cure: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        config.load(file=file)
    assert caught.value.file == str(file)
    assert caught.value.key == key
    assert fault in caught.value.fault
    assert cure in caught.value.cure
    assert str(file) in str(caught.value)


def test_interfaces_and_an_empty_path(tmp_path: Path) -> None:
    file = write(tmp_path, 'pod_interfaces = ["cali*", "veth-1.2"]\nmetrics_textfile = ""')
    settings = config.load(file=file)
    assert settings.pod_interfaces == ("cali*", "veth-1.2")
    assert settings.metrics_textfile is None


def test_error_in_a_part_names_the_part(tmp_path: Path) -> None:
    file = write(tmp_path, "")
    part = write(tmp_path, "accept = 2", "netpold.toml.d/a.toml")
    with pytest.raises(ConfigError, match=re.escape(str(part))):
        config.load(file=file)


def test_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "netpold.toml"
    file.write_bytes(b'node = "\xff"')
    with pytest.raises(ConfigError, match="byte 9 is not UTF-8"):
        config.load(file=file)


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        config.load(file=tmp_path / "absent.toml")


def test_a_directory_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        config.load(file=tmp_path)


def test_flags_from_the_table(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    file = write(tmp_path, 'backend = "nft"')
    words = ["--manifests", "here", "--state-dir", "/s", "--runtime-dir", "/r", "--node", "n", "--backend", "legacy"]
    arguments = parser.parse_args([*words, "--config", str(file)])
    settings = config.load(vars(arguments), arguments.config)
    assert settings.manifests == Path.cwd() / "here"
    assert (settings.state_dir, settings.runtime_dir) == (Path("/s"), Path("/r"))
    assert (settings.node, settings.backend) == ("n", "legacy")
    for name in ("manifests", "node", "backend"):
        assert name in parser.format_help()


def test_wrong_flag_is_named() -> None:
    with pytest.raises(ConfigError, match="command line: --node: 'UPPER' is not a node name"):
        config.load({"node": "UPPER"})


def test_example_shows_every_setting_at_its_default(tmp_path: Path) -> None:
    """Uncommented, the example is a valid file that says what holds without it (but for the node's name)."""
    text = "\n".join(re.sub("^#(?=[a-z_]+ = )", "", line) for line in config.example().splitlines())
    assert list(tomllib.loads(text)) == [each.name for each in fields(Settings)]
    assert config.load({"node": "same"}, write(tmp_path, text)) == Settings(node="same")


def test_the_example_in_etc_is_up_to_date() -> None:
    assert (Path(__file__).parent.parent / "etc/netpold.toml").read_text() == config.example()


def test_manual_names_every_setting() -> None:
    manual = config.manual()
    assert [f"\\fB{each.name}\\fR" for each in fields(Settings)] == re.findall(r"^\\fB\w+\\fR$", manual, re.M)
