"""A host of the laboratory (node, pod, outside host): a network namespace with addresses, where commands can run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.namespace import NetworkNamespace, directory, kill_in, owner, run


def family_of(address: str) -> int:
    return 6 if ":" in address else 4


def full(address: str) -> str:
    """The address as a prefix of its own: /32 or /128."""
    return f"{address}/{128 if family_of(address) == 6 else 32}"


def nodad(address: str) -> str:
    """The end of an `ip addr add`: IPv6 addresses are usable at once, with no detection of duplicates."""
    return " nodad" if family_of(address) == 6 else ""


@dataclass
class Site:
    """What one laboratory owns: namespaces, processes and a directory.  `close()` removes all of it."""

    number: int
    directory: Path = field(default_factory=directory)
    namespaces: list[NetworkNamespace] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _count: int = 0

    def serial(self) -> int:
        """A number that nothing else of this laboratory has."""
        self._count += 1
        return self._count

    def namespace(self, name: str) -> NetworkNamespace:
        """A fresh network namespace; accept_dad=0 makes IPv6 addresses usable at once."""
        made = NetworkNamespace(f"{owner()}{self.number}-{self.serial()}-{name}")
        self.namespaces.append(made)
        made.sysctl({f"ipv6/conf/{which}/accept_dad": 0 for which in ("all", "default")})
        made.sysctl({"ipv4/conf/all/promote_secondaries": 1})  # one address can go before another of its subnet
        made.sysctl({"ipv4/icmp_ratemask": 0, "ipv6/icmp/ratelimit": 0})  # each rejected probe hears of it
        return made

    def drop(self, namespace: NetworkNamespace) -> None:
        self.namespaces.remove(namespace)
        namespace.remove()

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process if it still runs, and collect it."""
        process.kill()
        process.wait()
        self.processes.remove(process)

    def close(self) -> None:
        for process in list(self.processes):
            self.stop(process)
        kill_in([namespace.name for namespace in self.namespaces])  # what those had started
        for namespace in list(self.namespaces):
            self.drop(namespace)
        shutil.rmtree(self.directory)


class Host:
    """Something with addresses; packets are sent from it and to it."""

    def __init__(self, site: Site, name: str, netns: NetworkNamespace, addresses: Sequence[str] = ()) -> None:
        self.site = site
        self.name = name
        self.netns = netns
        self.addresses = tuple(addresses)
        self.environment: dict[str, str] = {}

    def address(self, family: int) -> str:
        """Its first address of that family; raises LookupError where it has none."""
        for address in self.addresses:
            if family_of(address) == family:
                return address
        raise LookupError(f"{self} has no IPv{family} address")

    def families(self) -> tuple[int, ...]:
        return tuple(sorted({family_of(address) for address in self.addresses}))

    def run(self, args: Sequence[str], stdin: str = "", check: bool = True, timeout: float = 30) -> str:
        """Run a command inside and give its output; raises LabError when it fails and `check` is set."""
        return run(["ip", "netns", "exec", self.netns.name, *args], stdin, check, timeout, self.environment)

    def spawn(self, args: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        """Start a command inside; it is killed when the laboratory ends, or the thread that calls this does."""
        inside = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.netns.name, *args]
        process: subprocess.Popen[bytes] = subprocess.Popen(inside, **options)  # type: ignore[call-overload]
        self.site.processes.append(process)
        return process

    def __repr__(self) -> str:
        return self.name


class Outside(Host):
    """A host that is no part of the cluster, behind a node; it may have many addresses."""
