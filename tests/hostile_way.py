"""The way that the bytes of a manifest take through the daemon, and what it costs.

python3 -m tests.hostile_way SIZE [NAME...]     one JSON line for each shape of tests/hostile_shapes.py: name, bytes,
                                                peak of memory above what was there before (bytes), seconds (CPU)
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from logging import makeLogRecord
from pathlib import Path

from netpold.daemon.status import finding_json
from netpold.host import journal
from netpold.host.load import ANY_SIZE
from netpold.policy.assemble import Assembly
from netpold.policy.codec import Decoder, Encoder
from netpold.policy.documents import content, outline, parse_unit, units
from netpold.policy.findings import MOST_IN_ALL, MOST_IN_FILE
from netpold.policy.index import Index
from netpold.policy.manifest import MOST_KINDS, Parsed

FILE = "/etc/netpold/f.yaml"


def go(data: bytes) -> Parsed:
    """From bytes to a world, to the status' JSON and to lines of the journal; what the file says.  Raises
    AssertionError where something on the way is not as it should be."""
    found = units(data, ANY_SIZE)
    parts = [parse_unit(unit, FILE, ANY_SIZE) for unit in found]
    encoder, decoder = Encoder(), Decoder()
    assert all(decoder.decode(encoder.encode(part), FILE) == part for part in parts)
    parsed = content(outline(found), parts).parsed
    assert len(parsed.findings) <= 2 * (MOST_IN_FILE + 1)
    assert len(parsed.passed_over) <= MOST_KINDS + 1
    assembly = Assembly()
    assembly.update({FILE: parsed})
    index = Index(assembly.world)
    findings = [*assembly.findings(), *index.claims.findings(assembly.world.pods)]
    assert len(assembly.findings()) <= 2 * (MOST_IN_ALL + 1)
    text = json.dumps([finding_json(each) for each in findings])
    assert len(json.loads(text)) == len(findings)
    for each in findings:
        assert each.fault
        assert each.cure
        line = str(each)
        assert line.isprintable(), line
        assert len(line) < 2000, line
        journal.entry(makeLogRecord({"msg": line, "levelno": logging.ERROR, "levelname": "ERROR"}))[0].encode()
    return parsed


def measured(data: bytes) -> tuple[int, float]:
    """The peak of memory, in bytes above what was there before, and the seconds of CPU, in a process of its own; -1
    where that ended by a signal or an exception."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak is the present use
            before, began = _peak(), time.process_time()
            go(data)
            os.write(writer, json.dumps([_peak() - before, time.process_time() - began]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    peak, seconds = json.loads(answer or "[-1, -1]")
    return peak, seconds


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    from tests.hostile_shapes import SHAPES

    for name in sys.argv[2:] or SHAPES:
        data = SHAPES[name](int(sys.argv[1]))
        print(json.dumps([name, len(data), *measured(data)]), flush=True)
