"""`netpoldctl check`: what is wrong in manifests."""

from __future__ import annotations

import argparse

from netpold.ctl.failure import Exit
from netpold.ctl.findings import count, line, number
from netpold.ctl.offline import read, settings_of
from netpold.ctl.output import say, say_json
from netpold.printable import printable


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    manifests = read(arguments.paths, settings_of(arguments))
    world = manifests.index.world
    if arguments.output == "json":
        objects = {"policies": len(world.policies), "pods": len(world.pods), "namespaces": len(world.namespaces)}
        say_json(
            {
                "version": 1,
                "files": manifests.files,
                "objects": objects,
                "passed_over": manifests.passed_over,
                "findings": manifests.findings,
            }
        )
    else:
        say(*map(line, manifests.findings))
        counts = ((manifests.files, "file"), (len(world.policies), "policy"), (len(world.pods), "pod"))
        in_words = [number(*each) for each in (*counts, (len(world.namespaces), "namespace"))]
        say(f"{', '.join(in_words)}: {count(manifests.findings)}")
        if manifests.passed_over:
            kinds = ", ".join(f"{many} {kind}" for kind, many in manifests.passed_over.items())
            say(printable(f"passed over, netpold has no use for them: {kinds}"))
    return Exit.NO if any(each["severity"] == "error" for each in manifests.findings) else Exit.FINE
