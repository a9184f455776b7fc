"""The machine from within: commands, units, the daemon's socket, and everything that is in the kernel's firewall."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .report import Failure, expect

SERVICE = "netpold.service"
MANIFESTS = Path("/etc/netpold")
STATE = Path("/var/lib/netpold")
SETTINGS = Path("/etc/netpold/netpold.toml.d/50-test.toml")
_DROP_INS = Path("/etc/systemd/system/netpold.service.d")
BACKENDS = ("nft", "legacy")
SOCKET = Path("/run/netpold/netpold.sock")


def run(*command: str, must: bool = True, timeout: float = 120) -> str:
    """What a command prints on stdout.  Raises Failure with its last words when it fails and `must` is set."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if must and done.returncode:
        words = (done.stderr or done.stdout).strip()[-400:]
        raise Failure(f"`{' '.join(command)}` gave {done.returncode}: {words}")
    return done.stdout


def until(condition: Callable[[], object], timeout: float, otherwise: str, nap: float = 0.01) -> float:
    """Wait; gives the seconds that it took.  Raises Failure after `timeout` seconds."""
    begun = time.monotonic()
    while not condition():
        expect(time.monotonic() - begun < timeout, f"{otherwise} after {timeout:g} s")
        time.sleep(nap)
    return time.monotonic() - begun


# Units ----------------------------------------------------------------------------------------------------------------


def show(unit: str, name: str) -> str:
    """A property of a unit, as `systemctl show` has it."""
    return run("systemctl", "show", "--value", f"--property={name}", unit).strip()


def main_pid() -> int:
    """The daemon's process.  Raises Failure where there is none."""
    pid = int(show(SERVICE, "MainPID"))
    expect(pid, f"{SERVICE} is {show(SERVICE, 'ActiveState')}, it has no process")
    return pid


def seconds_of(unit: str, name: str) -> float:
    """A timestamp of a unit on CLOCK_MONOTONIC, as time.monotonic() has it: `name` is that of the property."""
    return int(show(unit, name)) / 1e6


def drop_in(name: str, text: str) -> None:
    """Add a line to the [Service] section of netpold.service; an empty one takes it back."""
    path = _drop_in(name)
    if text:
        _DROP_INS.mkdir(exist_ok=True)
        path.write_text(f"[Service]\n{text}\n")
    else:
        path.unlink(missing_ok=True)
        if not any(_DROP_INS.iterdir()):
            _DROP_INS.rmdir()
    run("systemctl", "daemon-reload")


def has_drop_in(name: str) -> bool:
    return _drop_in(name).exists()


def _drop_in(name: str) -> Path:
    return _DROP_INS / f"{name}.conf"


def settings(text: str) -> None:
    """Settings beside those of the package; nothing takes them back."""
    if text:
        SETTINGS.parent.mkdir(parents=True, exist_ok=True)
        SETTINGS.write_text(text)
    else:
        SETTINGS.unlink(missing_ok=True)


# The daemon -----------------------------------------------------------------------------------------------------------


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(str(SOCKET))


def ask(path: str) -> str:
    """The control socket's answer to a GET.  Raises OSError where nobody serves it, Failure when it refuses."""
    connection = _Connection("netpold")
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
    except http.client.HTTPException as error:
        raise Failure(f"GET {path}: {error!r}") from error
    finally:
        connection.close()
    expect(answer.status == 200, f"GET {path}: {answer.status} {body[:200]}")
    return body


def status() -> dict[str, Any]:
    """`GET /v1/status`; raises as `ask`."""
    found: dict[str, Any] = json.loads(ask("/v1/status"))
    return found


def is_in(state: str) -> bool:
    """Whether the socket answers, and with that state."""
    try:
        return bool(status()["state"] == state)
    except (OSError, Failure):
        return False


def enforcing() -> bool:
    return is_in("enforcing")


def await_enforcing(timeout: float = 30) -> float:
    """Until the daemon enforces; gives the seconds that it took."""
    return await_state("enforcing", timeout)


def await_state(state: str, timeout: float = 30) -> float:
    return until(lambda: is_in(state), timeout, f"the socket does not answer `{state}`")


# The journal ----------------------------------------------------------------------------------------------------------


def journal_entries() -> list[dict[str, Any]]:
    """What netpold has written since the machine booted."""
    lines = run("journalctl", "--unit", SERVICE, "--output", "json", "--all", "--boot").splitlines()
    return [json.loads(line) for line in lines]


def values(entry: dict[str, Any], field: str) -> list[str]:
    """journalctl gives a list where a field is there several times."""
    found: str | list[str] = entry.get(field, [])
    return [found] if isinstance(found, str) else list(found)


# The firewall ---------------------------------------------------------------------------------------------------------


def saved(backend: str, family: int) -> str:
    """`iptables-save` of one backend and family (4, 6), without comments and counters."""
    text = run(f"{'ip6tables' if family == 6 else 'iptables'}-{backend}-save")
    lines = [re.sub(r" \[\d+:\d+\]$", "", line) for line in text.splitlines() if line[:1] != "#"]
    return "\n".join(lines)


def all_rules() -> str:
    """Everything: both backends, both families, all sets with their members, without counters."""
    rules = [f"{backend} IPv{family}\n{saved(backend, family)}" for backend in BACKENDS for family in (4, 6)]
    sets = re.sub(r" packets \d+ bytes \d+", "", run("ipset", "save"))
    return "\n".join([*rules, *sorted(sets.splitlines())])


def settled_rules() -> str:
    """`all_rules`, when the daemon has taken away what it needs no more: some time after a change."""
    before = ""
    while before != (found := all_rules()):
        before = found
        time.sleep(0.7)
    return found


def own_rules() -> list[str]:
    """The lines of `all_rules` that are netpold's."""
    return [line for line in all_rules().splitlines() if re.search(r"NETPOLD-|\bNP[46]?-", line)]


def difference(before: str, after: str) -> str:
    """The first lines that only one of two texts has, for a failure's line."""
    old, new = before.splitlines(), after.splitlines()
    gone = [f"-{line}" for line in old if line not in set(new)]
    come = [f"+{line}" for line in new if line not in set(old)]
    return f"{len(gone)} lines gone, {len(come)} come: {' | '.join((gone + come)[:6])}"


def expect_rules(before: str, when: str) -> None:
    """Raises Failure unless all rules and sets are byte for byte as they were."""
    now = all_rules()
    expect(now == before, f"{when}: {difference(before, now)}")


def expect_same_rules(before: str, when: str) -> None:
    """The same for a daemon that has started anew: it builds its sets beside the old ones (`.1`, `.2`), commits, and
    takes the old ones away some time later.  Raises Failure when that does not come to the same rules."""

    def comparable(rules: str) -> str:
        return re.sub(r"\b(NP[46]-[-\w]+)\.\d+", r"\1", rules)

    def wrong() -> str:
        now = all_rules()
        return (
            "" if sorted(comparable(now).splitlines()) == expected else difference(comparable(before), comparable(now))
        )

    expected = sorted(comparable(before).splitlines())
    with suppress(Failure):
        until(lambda: not wrong(), 10, "", nap=0.2)
    expect(not (found := wrong()), f"{when}: {found}")
