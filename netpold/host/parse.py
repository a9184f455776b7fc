"""Parsing many manifests at once: the other processors help where that pays.

A helper is this module run as a program: pickled texts in, pickled results out.  It is no fork (this process has
threads), and whatever becomes of a helper, what it did not deliver is parsed here.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from netpold.policy import manifest
from netpold.policy.chunks import LIMITS
from netpold.policy.manifest import Parsed

Text = tuple[str, bytes]  # path and content

WORTH_HELP = 1 << 20  # bytes: about a quarter of a second of parsing, which a helper takes to start
MOST_HELPERS = 3
PATIENCE_S = 120.0
PACKAGES = Path(__file__).resolve().parents[2]  # where a helper finds this package

ANY_SIZE = replace(LIMITS, file=sys.maxsize)  # whoever read the file has looked at its size

log = logging.getLogger("netpold")


def parse_all(texts: Sequence[Text]) -> dict[str, Parsed]:
    """What each text says, by path.  The same as parsing them one by one, sooner."""
    helpers = min(len(os.sched_getaffinity(0)) - 1, MOST_HELPERS)
    if helpers < 1 or sum(len(data) for _, data in texts) < WORTH_HELP:
        return _parse(texts)
    # every so manieth text, so that all get as much of large files as of small ones
    mine, *theirs = [texts[number :: helpers + 1] for number in range(helpers + 1)]
    with ThreadPoolExecutor(helpers) as pool:
        delivered = [pool.submit(_with_help, part) for part in theirs]
        found = _parse(mine)
        for part in delivered:
            found |= part.result()
    return found


def _with_help(texts: Sequence[Text]) -> dict[str, Parsed]:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(
            command, input=pickle.dumps(texts), capture_output=True, env=environment, timeout=PATIENCE_S, check=True
        )
        found: dict[str, Parsed] = pickle.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, pickle.UnpicklingError, EOFError) as error:
        log.warning("a process that was to help with parsing failed, so this one does it: %s", error)
        return _parse(texts)
    return found


def _parse(texts: Sequence[Text]) -> dict[str, Parsed]:
    return {path: manifest.parse(data, path, ANY_SIZE) for path, data in texts}


if __name__ == "__main__":
    gc.disable()  # it ends before garbage matters
    sys.stdout.buffer.write(pickle.dumps(_parse(pickle.loads(sys.stdin.buffer.read()))))
