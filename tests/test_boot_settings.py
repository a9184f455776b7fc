"""What the boot script reads from the settings is what the daemon reads: TOML in awk, names checked in the shell."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from netpold.config import _INTERFACES, ConfigError, load

SYSTEMD = Path(__file__).resolve().parents[1] / "systemd"
READER = SYSTEMD / "toml.awk"
UNKNOWN = object()
INTERFACE = _INTERFACES.pattern


class Answer(NamedTuple):
    """What a file says: None: nothing; UNKNOWN: something of the wrong kind; UNKNOWN in a list: no name."""

    interfaces: Any = None
    state_dir: Any = None
    backend: Any = None


def by_awk(text: str) -> tuple[Answer, int]:
    done = subprocess.run(["awk", "-f", READER], input=text.encode(), capture_output=True, env={"LC_ALL": "C"})
    assert not done.stderr
    found: dict[str, Any] = {}
    for line in done.stdout.decode().split("\n")[:-1]:
        what, _, value = line.partition(" ")
        if what == "pod_interfaces":
            found["interfaces"] = []
        elif what == "interface":
            found["interfaces"].append(value if INTERFACE.fullmatch(value) else UNKNOWN)
        elif what == "unreadable":
            found[value.replace("pod_", "")] = UNKNOWN
        else:
            found[what] = value
    return Answer(**found), done.returncode


def by_tomllib(text: str) -> Answer:
    """Raises TOMLDecodeError."""
    data = tomllib.loads(text)

    def named(name: str) -> Any:
        value = data.get(name)
        if isinstance(value, dict):
            return None  # a table, or a dotted key: not what the script looks for
        return value if value is None or (isinstance(value, str) and not _controls(value)) else UNKNOWN

    interfaces = data.get("pod_interfaces")
    if isinstance(interfaces, list):
        interfaces = [each if isinstance(each, str) and INTERFACE.fullmatch(each) else UNKNOWN for each in interfaces]
    else:
        interfaces = named("pod_interfaces") and UNKNOWN if interfaces != "" else UNKNOWN
    return Answer(interfaces, named("state_dir"), named("backend"))


def _controls(text: str) -> bool:
    return any(ord(letter) < 32 or ord(letter) == 127 for letter in text)


def inline_table(text: str) -> bool:
    """Whether one of the three is written as `{ ... }`, which awk calls unreadable and a [table] is not."""
    return any(f"{name}" in text and "{" in text for name in ("pod_interfaces", "state_dir", "backend"))


def agree(text: str) -> None:
    expected = by_tomllib(text)
    found, code = by_awk(text)
    assert code == 0
    for name, mine, theirs in zip(Answer._fields, found, expected, strict=True):
        if mine is UNKNOWN and theirs is None and inline_table(text):
            continue
        if mine is UNKNOWN and isinstance(theirs, str) and "\\" in text:
            continue  # an escape beyond ASCII: told, and passed over
        assert mine == theirs, (name, text)


CASES = [
    "",
    "pod_interfaces = []",
    'pod_interfaces = ["cali*", "veth*"]\nstate_dir = "/var/lib/netpold"\nbackend = "legacy"\n',
    "pod_interfaces=['cali*']# \"no\"",
    'pod_interfaces = [ # [\n  "a", # "b",\n\n  \'c\'\n  ,\n]\n',
    'pod_interfaces = ["a",]\npod_interfaces2 = ["b"]\n',
    "\"pod_interfaces\" = [\"a\"]\n'state_dir' = '/a\\b'\n",
    '"state\\u005fdir" = "/\\u0061"\n',
    'pod_interfaces = ["a]", "#b", "c\\"]", \'d"]\', "e"]\n',
    'pod_interfaces = ["""a""", \'\'\'b\'\'\', """\nc""", """\\\n   d""", """e"""", """"f""", """g\\"""""]\n',
    'x = """\npod_interfaces = ["a"]\n"""\n',
    "x = '''\npod_interfaces = ['a']\n\"\"\"\n'''\nstate_dir = '/b'",
    "x = [[1, 2], ['pod_interfaces', {a = ['b']}]]\npod_interfaces = ['c']\n",
    "pod_interfaces = [['a'], 1, {b = 'c'}, true, 'd', 1979-05-27 07:32:00Z, 'e']\n",
    "a.b = 1\na . pod_interfaces = ['x']\npod_interfaces.y = 1\n",
    "x = { pod_interfaces = ['a'], 'b' = \"}\" }\nbackend = 'nft'\n",
    "[t]\npod_interfaces = ['a']\n",
    "  [[ t ]] # x\nstate_dir = '/a'\n",
    "pod_interfaces = 'a'\nstate_dir = 7\nbackend = ['nft']\n",
    'pod_interfaces = ""\n',
    'pod_interfaces = ["a"]\r\nstate_dir = "/b"\r\n',
    'pod_interfaces = ["a\\nb", "a\tb", "caf\\u00e9", "café", "\\U0000002a"]\n',
    'state_dir = "/var/lib/net pold/é #1"\n',
    'state_dir = " /a  "\nbackend = ""\n',
    "manifests = '/x' # pod_interfaces = ['a']\n",
    "pod_interfaces\t=\t[\t'a'\t]\t",
    "d = 1979-05-27T07:32:00\nf = +1e6\ni = -inf\nb = false\npod_interfaces = ['a']\n",
]


@pytest.mark.parametrize("text", CASES)
def test_the_settings_are_read_as_tomllib_reads_them(text: str) -> None:
    agree(text)


def test_the_example_settings_too() -> None:
    text = (SYSTEMD.parent / "etc/netpold.toml").read_text()
    agree(text)
    uncommented = "\n".join(line[1:] if line[:1] == "#" and line[1:2].isalpha() else line for line in text.splitlines())
    agree(uncommented)
    assert by_awk(uncommented)[0].state_dir == "/var/lib/netpold"


@pytest.mark.parametrize(
    "text",
    [
        "pod_interfaces = ['a'",
        "state_dir = '/a\n",
        "pod_interfaces = ['a' 'b']\n",
        '\ufeffbackend = "nft"\n',
        "x\n",
        "=",
    ],
)
def test_what_is_no_toml_is_told(text: str) -> None:
    with pytest.raises(tomllib.TOMLDecodeError):
        by_tomllib(text)
    assert by_awk(text)[1] == 1


PRINTABLE = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FF).filter(lambda each: each != "\x7f"), max_size=8
)
NAMES = st.from_regex(r"[-A-Za-z0-9_.:@*]{1,16}", fullmatch=True) | PRINTABLE
SPACE = st.sampled_from(["", " ", "\t ", "  "])
GAP = st.sampled_from(["", " ", "\n", " # ], 'x' \"\n\t", "\n\n  "])


@st.composite
def texts(draw: st.DrawFn, value: st.SearchStrategy[str] = NAMES) -> str:
    """A string, in any of TOML's four ways."""
    text = draw(value)
    way = draw(st.sampled_from(['"', "'", '"""', "'''"]))
    newline = draw(st.sampled_from(["", "\n"])) if len(way) == 3 else ""
    if way[0] == "'":
        return way + newline + text.replace("'", "_") + way
    fold = draw(st.sampled_from(["", "\\\n  "])) if len(way) == 3 else ""
    return way + newline + fold + json.dumps(text, ensure_ascii=draw(st.booleans()))[1:-1] + way


@st.composite
def lists(draw: st.DrawFn, items: st.SearchStrategy[str]) -> str:
    gap = lambda: draw(GAP)  # noqa: E731
    parts = [f"{gap()}{item}{gap()}" for item in draw(st.lists(items, max_size=4))]
    end = draw(st.sampled_from([",", ""])) if parts else ""
    return f"[{','.join(parts)}{end}{gap()}]"


@st.composite
def tables(draw: st.DrawFn, items: st.SearchStrategy[str]) -> str:
    return "{" + ", ".join(f"k{number} = {item}" for number, item in enumerate(draw(st.lists(items, max_size=3)))) + "}"


SCALARS = st.sampled_from(["1", "0x1F", "1.5e-3", "true", "07:32:00", "1979-05-27 07:32:00", "nan"])
VALUES = st.recursive(texts() | SCALARS, lambda items: lists(items) | tables(items), max_leaves=5)
PATHS = texts(PRINTABLE.map(lambda text: f"/{text}"))
BACKENDS = texts(st.sampled_from(["auto", "nft", "legacy"]))
KEYS = st.sampled_from(["manifests", "x", "pod", "state", '"pod_interfaces "', "a.pod_interfaces", "b . c"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    mine = {"pod_interfaces": lists(texts()) | VALUES, "state_dir": PATHS | VALUES, "backend": BACKENDS | VALUES}
    entries = {draw(KEYS): draw(VALUES) for _ in range(draw(st.integers(0, 3)))}
    for name, value in mine.items():
        if draw(st.booleans()):
            entries[draw(st.sampled_from([name, f'"{name}"', f"'{name}'"]))] = draw(value)
    lines = []
    for name in draw(st.permutations(sorted(entries))):
        comment = draw(st.sampled_from(["", " # pod_interfaces = ['c']", "#'"]))
        lines.append(f"{draw(SPACE)}{name}{draw(SPACE)}={draw(SPACE)}{entries[name]}{draw(SPACE)}{comment}")
        lines += draw(st.lists(st.sampled_from(["", "  # state_dir = '/x'", "\t"]), max_size=2))
    lines += draw(st.sampled_from([[], ["[table]", "pod_interfaces = ['d']", "backend = 'nft'"]]))
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines) + draw(st.sampled_from(["", "\n"]))


@given(documents())
@settings(max_examples=400)
def test_any_toml_is_read_as_tomllib_reads_it(text: str) -> None:
    agree(text)


@given(documents(), st.data())
@settings(max_examples=400)
def test_damaged_toml_is_read_as_tomllib_reads_it_where_it_does(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        taken = data.draw(st.integers(0, 3))
        text = text[:at] + data.draw(st.text("\"'\\[]{}#=,. \n\tax1_", max_size=2)) + text[at + taken :]
    readable = False
    with suppress(tomllib.TOMLDecodeError):
        by_tomllib(text)
        readable = True
    if readable:
        agree(text)
    else:
        assert by_awk(text)[1] in (0, 1)  # and it ends


# The script ----------------------------------------------------------------------------------------------------------


def accepted(settings_file: Path) -> tuple[list[str], str]:
    """The names that the script closes, in a network namespace of its own, and all that it says."""
    script = ["unshare", "-n", SYSTEMD / "boot", settings_file]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    [*_, last] = [line for line in done.stderr.split("\n") if "nothing is" in line]
    if "names no pod_interfaces" in last:
        return [], done.stderr
    return last.removeprefix("<5>IPv6: nothing is forwarded from and to ").removesuffix(
        " until netpold runs"
    ).split(), done.stderr


def write(path: Path, **values: Any) -> None:
    path.write_text("".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items()))


@pytest.mark.kernel
@given(
    st.lists(
        NAMES | st.sampled_from([".", "..", ".*", "*", "a" * 15, "a" * 16, "a" * 14 + "*", "-t", "a-t", "a**", "+"])
    )
)
@settings(max_examples=25)
def test_a_name_is_one_to_the_script_where_it_is_one_to_the_daemon(names: list[str]) -> None:
    assume(not any(map(_controls, names)))
    with tempfile.TemporaryDirectory() as directory:
        settings_file = Path(directory) / "netpold.toml"
        write(settings_file, state_dir=directory, pod_interfaces=names)
        found, _ = accepted(settings_file)
    # iptables-restore takes a word with a dash in front for an option
    assert found == [name for name in names if INTERFACE.fullmatch(name) and name[0] != "-"]


@pytest.mark.kernel
def test_files_are_read_in_the_daemons_order_and_what_is_wrong_is_told_and_passed_over(tmp_path: Path) -> None:
    main = tmp_path / "netpold.toml"
    parts = tmp_path / "netpold.toml.d"
    parts.mkdir()
    write(main, state_dir=str(tmp_path), pod_interfaces=["main*"])
    assert accepted(main)[0] == ["main*"]
    write(parts / "10-b.toml", pod_interfaces=["ten", "ten2"])
    write(parts / "9-a.toml", pod_interfaces=["nine"])
    write(parts / ".99.toml", pod_interfaces=["hidden"])
    write(parts / "99.toml~", pod_interfaces=["backup"])
    assert accepted(main)[0] == list(load(None, main).pod_interfaces) == ["nine"]
    write(parts / "é.toml", pod_interfaces=["last", "no; reboot", "a b"], state_dir="relative", backend="ebpf")
    (parts / "zz.toml").write_text("pod_interfaces = 7\n")
    (parts / "zzz.toml").write_text("metrics_port = 1\nthis is no TOML\n")
    found, said = accepted(main)
    assert found == ["last"]
    for what in (
        "'no; reboot'",
        "'a b'",
        "state_dir relative",
        "backend ebpf",
        "zz.toml: unreadable",
        "zzz.toml: not all",
    ):
        assert what in said
    assert all(line[:3] in ("<3>", "<4>", "<5>", "<6>") for line in said.splitlines())
    with pytest.raises(ConfigError):
        load(None, main)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say() -> None:
    subprocess.run(["shellcheck", SYSTEMD / "boot", SYSTEMD / "strip-saved"], check=True)
