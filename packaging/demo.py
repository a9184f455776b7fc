"""The demonstration: the guestbook on a throwaway node, the real daemon, real connections.

Each step puts files of etc/examples/guestbook into the watched directory, waits as a script would (`netpoldctl wait`),
then tries every connection and shows the answers as a matrix.  What a step should come to stands beside it; the exit
code is 1 where packets disagree.  Run it by packaging/demo, which installs what is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.lab import BACKENDS, Backend, Lab, LabError, Node, Outcome, Outside, Pod, Probe
from tests.lab.daemon import CHECKOUT, PYTHON, Daemon
from tests.lab.namespace import owner

EXAMPLES = Path(__file__).resolve().parents[1] / "etc" / "examples"
DIRECTORY = Path("/run/netpold-demo")
ELSEWHERE = {"office": "10.72.5.20", "visitors": "10.72.10.20", "internet": "192.0.2.20"}
INTERNET_PORT = 443
WIDTH = 78
CELL = 6
BOLD, DIM, GREEN, RED, YELLOW = "1", "2", "32", "31", "33"
ON_GREEN, ON_RED = "1;97;42", "1;97;41"

Pair = tuple[str, str]


@dataclass(frozen=True)
class Step:
    """Files of the guestbook that come in addition, what to say about them, and who then reaches whom."""

    title: str
    files: tuple[str, ...]
    says: str
    matrix: str

    def expected(self) -> dict[Pair, bool]:
        """The matrix as data; pairs with `-` are not tried."""
        head, *rows = (line.split() for line in self.matrix.strip().splitlines())
        return {
            (source, destination): word == "yes"
            for source, *words in rows
            for destination, word in zip(head, words, strict=True)
            if word != "-"
        }


STEPS = (
    Step(
        "No policy",
        ("00-namespaces.yaml", "10-pods.yaml"),
        "The pods are known, and no policy speaks of them. Everybody reaches the database.",
        """
                     ui   api  db   prometheus  internet
        ui           -    yes  yes  yes         yes
        api          yes  -    yes  yes         yes
        db           yes  yes  -    yes         yes
        prometheus   yes  yes  yes  -           yes
        office       yes  yes  yes  yes         -
        visitors     yes  yes  yes  yes         -
        internet     yes  yes  yes  yes         -
        """,
    ),
    Step(
        "Deny all",
        ("20-deny-all.yaml",),
        "One policy selects every pod of the namespace guestbook and allows nothing. Nothing gets in or out of it any "
        "more; prometheus lives in another namespace and goes on as before.",
        """
                     ui   api  db   prometheus  internet
        ui           -    no   no   no          no
        api          no   -    no   no          no
        db           no   no   -    no          no
        prometheus   no   no   no   -           yes
        office       no   no   no   yes         -
        visitors     no   no   no   yes         -
        internet     no   no   no   yes         -
        """,
    ),
    Step(
        "The user interface to the API, the API to the database",
        ("30-ui-to-api.yaml", "31-api-to-db.yaml"),
        "Two links, each allowed at both of its ends. The way back stays shut, as does the short cut from ui to db.",
        """
                     ui   api  db   prometheus  internet
        ui           -    yes  no   no          no
        api          no   -    yes  no          no
        db           no   no   -    no          no
        prometheus   no   no   no   -           yes
        office       no   no   no   yes         -
        visitors     no   no   no   yes         -
        internet     no   no   no   yes         -
        """,
    ),
    Step(
        "Monitoring may look in",
        ("40-monitoring.yaml",),
        "A namespaceSelector: whoever lives in a namespace labelled purpose=monitoring reaches all of the guestbook.",
        """
                     ui   api  db   prometheus  internet
        ui           -    yes  no   no          no
        api          no   -    yes  no          no
        db           no   no   -    no          no
        prometheus   yes  yes  yes  -           yes
        office       no   no   no   yes         -
        visitors     no   no   no   yes         -
        internet     no   no   no   yes         -
        """,
    ),
    Step(
        "The office, without its visitors",
        ("50-office.yaml",),
        "An ipBlock: 10.72.0.0/16 may open the user interface, except 10.72.10.0/24.",
        """
                     ui   api  db   prometheus  internet
        ui           -    yes  no   no          no
        api          no   -    yes  no          no
        db           no   no   -    no          no
        prometheus   yes  yes  yes  -           yes
        office       yes  no   no   yes         -
        visitors     no   no   no   yes         -
        internet     no   no   no   yes         -
        """,
    ),
)
MISTAKE = EXAMPLES / "mistakes" / "blog-post.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(prog="packaging/demo", description="Shows netpold at work on a throwaway node.")
    parser.add_argument("--backend", choices=BACKENDS, default="nft", help="which iptables (default: nft)")
    parser.add_argument("--pause", action="store_true", help="wait for the Enter key before each further step")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with _directory(), Lab() as lab:
            try:
                good = Demo(lab, arguments.backend, arguments.pause).run()
            finally:  # cleaning up is not to be interrupted
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:
        print("\nStopped.")
        _prove_clean()
        return 130
    except LabError as error:
        print(f"packaging/demo: {error}", file=sys.stderr)
        return 1
    return 0 if _prove_clean() and good else 1


class Demo:
    """The node and what is on it, the daemon, and what the last step came to."""

    def __init__(self, lab: Lab, backend: Backend, pause: bool) -> None:
        self.lab = lab
        self.pause = pause and sys.stdin.isatty()
        self.node: Node = lab.node("demo")
        self.outside: Outside = lab.outside(self.node, list(ELSEWHERE.values()))
        self.pods: dict[str, Pod] = {}
        self.ports = {"internet": INTERNET_PORT}
        for manifest in yaml.safe_load_all((EXAMPLES / "guestbook" / "10-pods.yaml").read_text()):
            self._add(manifest)
        self.daemon = Daemon(self.node, backend, DIRECTORY)
        self.before: dict[Pair, Outcome] = {}
        self.tried = 0
        self.wrong: list[str] = []

    def run(self) -> bool:
        """All steps; gives whether each of them came out as expected."""
        self._introduce()
        with self.daemon:
            self.daemon.wait()
            for number, step in enumerate(STEPS, 1):
                self._title(number, step.title)
                self._put(*(EXAMPLES / "guestbook" / name for name in step.files))
                say(step.says)
                self._try(step.expected())
            self._explain(len(STEPS) + 1)
            self._mistake(len(STEPS) + 2)
        return self._conclude()

    def _add(self, manifest: dict[str, Any]) -> None:
        """Build the pod that a manifest tells of."""
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        self.pods[name] = self.node.routed_pod(namespace, name, [manifest["status"]["podIP"]])
        self.ports[name] = manifest["spec"]["containers"][0]["ports"][0]["containerPort"]

    # The steps ----------------------------------------------------------------------------------------------------

    def _introduce(self) -> None:
        print(paint("netpold: network policies from files, on a node without an API server", BOLD))
        print()
        say(
            "This node is made of network namespaces: a pair of interfaces and a route for each pod, and beside it a "
            "host that is no part of the cluster. netpold runs here as on any node, and the connections are real."
        )
        print()
        for name, pod in self.pods.items():
            fact(name, f"{pod.address(4):<13}a pod in the namespace {pod.namespace}, port {self.ports[name]}")
        fact("office", f"{ELSEWHERE['office']:<13}outside of the cluster")
        fact("visitors", f"{ELSEWHERE['visitors']:<13}outside, the part of the office network for visitors")
        fact("internet", f"{ELSEWHERE['internet']:<13}outside, another network, port {INTERNET_PORT}")

    def _explain(self, number: int) -> None:
        self._title(number, "Why?")
        say("netpoldctl asks the same compiled rules that the kernel has:")
        print()
        self._netpoldctl("explain", ELSEWHERE["visitors"], "guestbook/ui", "80/TCP")

    def _mistake(self, number: int) -> None:
        self._title(number, "A policy with mistakes")
        self._put(MISTAKE)
        say("As a blog post printed it: lists written as maps, and an exception larger than its block.")
        print()
        for index, line in enumerate(MISTAKE.read_text().splitlines(), 1):
            if not line.startswith("#"):
                print(paint(f"  {index:>3}  {line}", DIM))
        print()
        self._wait()
        self._netpoldctl("status")
        status = self.daemon.status()
        if status["state"] != "enforcing" or status["policies"] != {"accepted": 7, "rejected": 1}:
            self.wrong.append(f"netpoldctl status: {status['state']}, policies: {status['policies']}")
        print()
        say("It is rejected as a whole, and nothing is guessed. Everything else stays in force:")
        self._try(STEPS[-1].expected())

    def _conclude(self) -> bool:
        print()
        if not self.wrong:
            print(paint(f"All {self.tried} connections went as they should.", GREEN))
            return True
        print(paint(f"{len(self.wrong)} of {self.tried} answers are not what they should be:", RED))
        print("\n".join(f"  {each}" for each in self.wrong))
        print(f"The log of netpold:\n{self.daemon.errors()}", file=sys.stderr)
        return False

    # What steps do ------------------------------------------------------------------------------------------------

    def _title(self, number: int, title: str) -> None:
        print()
        if self.pause and number > 1:
            input(paint("(Enter goes on) ", DIM))
        print(paint(f"{number}  {title}", BOLD))

    def _put(self, *files: Path) -> None:
        """Files into the watched directory, together."""
        for path in files:
            self.daemon.write(path.name, path.read_text())
            print(paint(f"   + {path.relative_to(EXAMPLES.parents[1])}", DIM))

    def _wait(self) -> float:
        """Until what is on disk is enforced or rejected; gives the seconds that it took."""
        begun = time.monotonic()
        self.daemon.wait()
        return time.monotonic() - begun

    def _try(self, expected: Mapping[Pair, bool]) -> None:
        """Wait, try all these connections, show what came of them, and remember what should not have come."""
        waited = self._wait()
        probes = {pair: self._probe(*pair) for pair in expected}
        answers = self.lab.probe(probes.values())
        late = [probes[pair] for pair, allowed in expected.items() if allowed and answers[probes[pair]] != Outcome.OK]
        answers |= self.lab.probe(late)  # a lost packet is no verdict
        outcomes = {pair: answers[probe] for pair, probe in probes.items()}
        wrong = [
            f"{source} to {destination}: should be {'allowed' if allowed else 'denied'}, but {outcome.value}"
            for (source, destination), allowed in expected.items()
            if (outcome := outcomes[source, destination]) is not (Outcome.OK if allowed else Outcome.NO_REQUEST)
        ]
        print()
        print("\n".join(matrix(outcomes, self.before, self.ports)))
        print()
        verdict = paint("all as expected", GREEN) if not wrong else paint(f"{len(wrong)} not as expected", RED)
        print(f"   {paint(f'netpoldctl wait: {waited:.2f} s; {len(outcomes)} connections tried,', DIM)} {verdict}")
        self.before = outcomes
        self.tried += len(outcomes)
        self.wrong += wrong

    def _probe(self, source: str, destination: str) -> Probe:
        target = ELSEWHERE.get(destination) or self.pods[destination]
        port = self.ports[destination]
        if source in ELSEWHERE:
            return Probe(self.outside, target, "TCP", port, source_address=ELSEWHERE[source])
        return Probe(self.pods[source], target, "TCP", port)

    def _netpoldctl(self, *arguments: str) -> None:
        """Run it as a person would, and let it speak for itself."""
        print(paint(f"$ netpoldctl {' '.join(arguments)}", BOLD))
        where = ["--socket", str(self.daemon.socket), "--manifests", str(self.daemon.manifests)]
        subprocess.run([PYTHON, "-m", "netpold.ctl", *where, *arguments], cwd=CHECKOUT, check=False)


# Around it ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _directory() -> Iterator[None]:
    """The demonstration's directory, of a name that reads well; one demonstration at a time has it."""
    DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise LabError(f"another demonstration runs, it has {DIRECTORY}") from None
    try:
        for path in DIRECTORY.iterdir():  # of one that was killed
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield
    finally:
        shutil.rmtree(DIRECTORY)
        os.close(lock)


def _prove_clean() -> bool:
    """Look whether anything is left, and say so."""
    left = [*Path("/run/netns").glob(f"{owner()}*"), *Path(tempfile.gettempdir()).glob(f"{owner()}*")]
    left += [DIRECTORY] if DIRECTORY.exists() else []
    print("The node is gone, and nothing is left of it." if not left else f"Left behind: {', '.join(map(str, left))}")
    return not left


# What it looks like ---------------------------------------------------------------------------------------------------


def matrix(outcomes: Mapping[Pair, Outcome], before: Mapping[Pair, Outcome], ports: Mapping[str, int]) -> list[str]:
    """Who reaches whom: senders down, receivers across; what changed since `before` stands out."""
    sources = dict.fromkeys(source for source, _ in outcomes)
    reached = {destination for _, destination in outcomes}
    heads = {name: f"{name}:{ports[name]}" for name in sources if name in reached}
    lines = [paint(" " * 16 + "   ".join(heads.values()), DIM)]
    for source in sources:
        cells = []
        for destination, head in heads.items():
            pair = (source, destination)
            outcome = outcomes.get(pair)
            changed = pair in before and before[pair] is not outcome
            cells.append(_cell(outcome, changed) + " " * (len(head) + 3 - CELL))
        lines.append(f"   {source:<12}{''.join(cells)}".rstrip())
    return lines


def _cell(outcome: Outcome | None, changed: bool) -> str:
    """One answer, CELL columns wide."""
    if outcome is None:
        return paint(f"{' -':<{CELL}}", DIM)
    word, plain, filled = {
        Outcome.OK: ("yes", GREEN, ON_GREEN),
        Outcome.NO_REQUEST: ("no", RED, ON_RED),
    }.get(outcome, (outcome.name.lower(), YELLOW, YELLOW))
    if not coloured():
        return f"{' ' + word + ('*' if changed else ''):<{CELL}}"
    return paint(f" {word} ", filled if changed else plain) + " " * (CELL - len(word) - 2)


def say(text: str) -> None:
    """A paragraph."""
    print(textwrap.fill(text, WIDTH, initial_indent="   ", subsequent_indent="   "))


def fact(name: str, text: str) -> None:
    print(f"   {name:<12}{text}")


def coloured() -> bool:
    """Colours are for terminals only, and not with NO_COLOR set (https://no-color.org) or TERM=dumb."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if coloured() else text


if __name__ == "__main__":
    sys.exit(main())
