"""`netpoldctl render`: the ruleset that manifests make."""

from __future__ import annotations

import argparse
from typing import Any

from netpold.ctl.failure import Exit
from netpold.ctl.offline import model
from netpold.ctl.output import say, say_json
from netpold.ctl.progress import progress
from netpold.rules.render import ruleset_text, text
from netpold.rules.ruleset import Ruleset


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    _, ruleset = model(arguments, arguments.node)
    if arguments.output == "json":
        with progress("writing it down"):
            answer = _json(ruleset)
        say_json(answer)
    else:
        with progress("writing it down"):
            rules = ruleset_text(ruleset)
        say(rules.rstrip("\n"))
    return Exit.FINE


def _json(ruleset: Ruleset) -> dict[str, Any]:
    return {
        "version": 1,
        "hooks": dict(ruleset.hooks),
        "chains": {
            f"IPv{family}": {name: [text(rule, family) for rule in chains[name]] for name in sorted(chains)}
            for family, chains in ruleset.chains.items()
        },
        "sets": {
            name: {
                "family": f"IPv{each.family}",
                "type": each.kind,
                "meaning": each.meaning,
                "members": sorted(each.members),
            }
            for name, each in sorted(ruleset.sets.items())
        },
    }
