"""The program that helps with parsing: batches of units on standard input, what they say on standard output.

Both ways a message is its length in 8 bytes and a list in marshal's format: (file, *Unit) for each unit, and the tuple
that `codec.Encoder` makes of what it says.
"""

from __future__ import annotations

import gc
import marshal
import sys
from dataclasses import replace

from netpold.policy.chunks import LIMITS
from netpold.policy.codec import Encoder
from netpold.policy.documents import Unit, parse_unit


def main() -> None:
    """Parse until there is nothing more to read."""
    limits = replace(LIMITS, file=int(sys.argv[1]))
    while size := sys.stdin.buffer.read(8):
        batch = marshal.loads(sys.stdin.buffer.read(int.from_bytes(size)))
        encoder = Encoder()
        answer = marshal.dumps([encoder.encode(parse_unit(Unit(*unit), file, limits)) for file, *unit in batch])
        sys.stdout.buffer.write(len(answer).to_bytes(8) + answer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    gc.disable()  # what is parsed has no cycles
    main()
