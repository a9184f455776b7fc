"""`netpoldctl support-bundle`: what is needed to find a fault, in one archive.

PARTS is all that can be in it.  Each part is got by itself: what can't be had is said in the archive, and the rest is
there all the same, so it works without a daemon, too.  Of the kernel only what carries netpold's names goes in, of
settings the values that are in force, of manifests counts alone, unless they are asked for, and then as netpold keeps
them: without annotations but its own, and without anything of containers but the names of ports.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import platform
import tarfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from netpold import __version__
from netpold.config import ConfigError, load
from netpold.ctl.client import ask, ask_text
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.findings import number
from netpold.ctl.output import say, say_json
from netpold.ctl.progress import progress
from netpold.host.kernel.backend import KernelError
from netpold.host.run import run as run_program
from netpold.rules.ruleset import CHAIN_PREFIXES, SET_PREFIXES
from netpold.rules.saved import jumps

JOURNAL_LINES = 10_000
ANSWER_S = 60.0
_OWN = (*CHAIN_PREFIXES, *SET_PREFIXES)


@dataclass(frozen=True, slots=True)
class Part:
    """A file in the archive, what it has for a person, and how to get it: from the daemon's socket.  `make` raises
    Failure, KernelError, ConfigError or OSError."""

    name: str
    what: str
    make: Callable[[Path], str]


def _answer(url: str) -> Callable[[Path], str]:
    return lambda socket: json.dumps(ask(socket, "GET", url, ANSWER_S), indent=1) + "\n"


def _text(url: str) -> Callable[[Path], str]:
    return lambda socket: ask_text(socket, url, ANSWER_S)


def _program(*words: str) -> Callable[[Path], str]:
    return lambda _: run_program(words)


def _saved(tool: str) -> Callable[[Path], str]:
    """The lines of netpold's own chains and sets, and what leads to them."""
    return lambda _: own_lines(run_program([tool, *(["-c"] if "tables" in tool else ["save"])]))


def own_lines(text: str) -> str:
    """Those of iptables-save -c or ipset save that are netpold's own.  Of other rules that lead to its chains only from
    where to where they do."""
    lines = []
    for line in text.splitlines():
        rest = line.partition(" ")[2] if line.startswith("[") else line  # without counters
        words = rest.split()
        if words[:1] != ["-A"]:
            if line.startswith("*") or line == "COMMIT" or any(each.lstrip(":").startswith(_OWN) for each in words[:2]):
                lines.append(line)
        elif words[1].startswith(_OWN):
            lines.append(line)
        else:
            lines += [
                line if rest == f"-A {chain} -j {own}" else f"# a rule of another program leads from {chain} to {own}"
                for chain, own in jumps(rest)
            ]
    return "\n".join(lines) + "\n"


def _settings(_: Path) -> str:
    settings = load()
    return "".join(f"{field.name} = {getattr(settings, field.name)}\n" for field in dataclasses.fields(settings))


def _versions(_: Path) -> str:
    lines = [f"netpold {__version__}", f"Python {platform.python_version()}", f"{platform.platform()}"]
    for words in (["iptables", "-V"], ["ipset", "version"], ["nft", "-v"], ["systemctl", "--version"]):
        try:
            lines.append(f"{words[0]}: {run_program(words).splitlines()[0]}")
        except (KernelError, IndexError) as error:
            lines.append(f"{words[0]}: {error}")
    release = Path("/etc/os-release").read_text().splitlines()
    return "\n".join([*lines, *(line for line in release if line.startswith(("NAME=", "VERSION=")))]) + "\n"


PARTS = (
    Part(
        "status.json",
        "what `netpoldctl status -o json` says, with counts of manifests and all findings",
        _answer("/v1/status"),
    ),
    Part("verify.json", "the kernel against the model, as `netpoldctl verify -o json`", _answer("/v1/verify")),
    Part("counters.json", "what was counted by policy rule, policy and pod", _answer("/v1/counters")),
    Part("metrics.txt", "the daemon's metrics", _text("/metrics")),
    Part(
        "ruleset.txt",
        "the ruleset in force: names of pods and policies, labels that policies select, addresses",
        _text("/v1/ruleset"),
    ),
    Part("settings.txt", "the settings of this machine, without the daemon's flags", _settings),
    Part("versions.txt", "versions of netpold, Python, the kernel and the tools", _versions),
    Part("kernel/iptables-nft.txt", "netpold's chains, IPv4 by nft", _saved("iptables-nft-save")),
    Part("kernel/ip6tables-nft.txt", "netpold's chains, IPv6 by nft", _saved("ip6tables-nft-save")),
    Part("kernel/iptables-legacy.txt", "netpold's chains, IPv4 by legacy", _saved("iptables-legacy-save")),
    Part("kernel/ip6tables-legacy.txt", "netpold's chains, IPv6 by legacy", _saved("ip6tables-legacy-save")),
    Part("kernel/ipset.txt", "netpold's sets with their members", _saved("ipset")),
    Part("network/links.txt", "the host's interfaces", _program("ip", "-d", "link")),
    Part("network/addresses.txt", "their addresses", _program("ip", "address")),
    Part("network/routes.txt", "the host's routes", _program("ip", "route", "show", "table", "all")),
    Part("network/forwarding.txt", "where the host's bridges heard whom", _program("bridge", "fdb")),
    Part(
        "network/sysctl.txt",
        "forwarding and bridge-nf settings of the kernel",
        _program("sysctl", "-a", "-r", r"^net\.(bridge\..*|ipv[46]\.(conf\.all\.forwarding|ip_forward))$"),
    ),
    Part(
        "journal.txt",
        f"the last {JOURNAL_LINES:,} lines of the service's journal",
        _program(
            "journalctl",
            "--unit",
            "netpold",
            "--no-pager",
            "--output",
            "short-iso-precise",
            "--lines",
            str(JOURNAL_LINES),
        ),
    ),
)
MANIFESTS = Part(
    "manifests.json",
    "the manifests in force, as netpold reads them: without annotations but its own, and "
    "without anything of containers but the names of ports",
    _answer("/v1/manifests"),
)


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    parts = [*PARTS, *([MANIFESTS] if arguments.with_manifests else [])]
    file = arguments.file or Path(f"netpold-{platform.node()}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz")
    if file.exists():
        raise _taken(file)
    with progress("gathering") as told:
        made: dict[Part, tuple[str, bool]] = {}
        for count, part in enumerate(parts):
            told.what = f"gathering {part.name}"
            told.tell(count / len(parts))
            made[part] = _made(part, arguments.socket)
        _write(file, made)
    missing = {part.name: text for part, (text, there) in made.items() if not there}
    if arguments.output == "json":
        names = [part.name for part, (_, there) in made.items() if there]
        say_json({"version": 1, "file": str(file), "parts": names, "missing": missing})
    else:
        say(
            f"{file} has {number(len(made) - len(missing), 'part')}; README.txt in it says what they are, and what "
            "is not in it.  Look through it before you hand it on."
        )
        for name, why in missing.items():
            say(f"  not in it: {name}: {why}")
    return Exit.FINE


def _taken(file: Path) -> Failure:
    what = "a directory" if file.is_dir() else "there already"
    hint = f"name a file in it: {file / 'netpold.tar.gz'}" if file.is_dir() else "name another file, or delete that one"
    return Failure(f"{file} is {what}", hint, Exit.USAGE)


def _made(part: Part, socket: Path) -> tuple[str, bool]:
    """What the part has; or why it can't be had, and False."""
    try:
        return part.make(socket), True
    except (Failure, KernelError, ConfigError, OSError) as error:
        return str(error), False


def _write(file: Path, made: dict[Part, tuple[str, bool]]) -> None:
    """For its owner's eyes alone, and never over another file."""
    try:
        with file.open("xb") as out:
            file.chmod(0o600)
            with tarfile.open(fileobj=out, mode="w:gz") as archive:
                top = file.name.removesuffix(".tar.gz")
                _add(archive, f"{top}/README.txt", readme(made))
                for part, (text, there) in made.items():
                    if there:
                        _add(archive, f"{top}/{part.name}", text)
    except FileExistsError as error:
        raise _taken(file) from error
    except OSError as error:
        raise Failure(
            f"{file} can't be written: {error.strerror}", "name a file in another directory", Exit.USAGE
        ) from error


def readme(made: dict[Part, tuple[str, bool]]) -> str:
    lines: Iterable[str] = (
        f"  {part.name}: {part.what}{'' if there else f'; NOT HERE: {text}'}" for part, (text, there) in made.items()
    )
    head = "What netpoldctl support-bundle has found on this node:\n\n"
    never = (
        "\nNever in it: annotations (but netpold.io/interface and netpold.io/mode), environment variables, images,\n"
        "volumes, rules and sets of other programs, other programs' journals.\n"
    )
    return head + "\n".join(lines) + "\n" + never


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode(errors="surrogateescape")
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
    archive.addfile(member, io.BytesIO(data))
