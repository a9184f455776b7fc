"""The README's install section as a newcomer uses it: each block of commands, copied and pasted."""

from __future__ import annotations

import json
import re
from pathlib import Path

from . import pods
from .machine import run
from .report import Report, expect

CHECKOUT = Path("/root/netpold")
PODS = {pod.name: pod for pod in pods.GUESTBOOK}


def blocks(text: str) -> list[str]:
    """The commands of the section "Install" of a README: its blocks marked sh."""
    section = re.search(r"^## Install\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^```sh\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL) if section else []


def _reaches(source: str, destination: str) -> bool:
    """From a namespace as the example's script names it."""
    to = PODS[destination]
    return pods.reaches(f"pod-{source}", to.addresses[0], to.port)


def readme(report: Report) -> None:
    commands = blocks((CHECKOUT / "README.md").read_text())
    with report.step("the README has commands to install netpold"):
        expect(commands, "no block ```sh in the section `## Install`")
    for number, block in enumerate(commands, 1):
        first = block.strip().splitlines()[0]
        with report.step(f"README, block {number}: {first}"):
            run("bash", "-euo", "pipefail", "-c", f"cd {CHECKOUT}\n{block}", timeout=300)
    with report.step("the newcomer has arrived: the guestbook is enforced") as step:
        differences = [
            f"{source} to {destination} should be {'allowed' if allowed else 'denied'} but is not"
            for (source, destination), allowed in pods.expected(pods.MATRIX).items()
            if {source, destination} <= PODS.keys() and _reaches(source, destination) is not allowed
        ]
        expect(not differences, ", ".join(differences))
        found = json.loads(run("netpoldctl", "status", "-o", "json"))
        expect(found["state"] == "enforcing", f"{found['state']}: {found['error']}")
        step.saw(run("netpoldctl", "status").splitlines()[0])
