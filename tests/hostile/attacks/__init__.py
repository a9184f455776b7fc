"""The table of attacks: who sends what to whom, and whether it may arrive.

In each attack only one thing is amiss: a forged source goes to a port that is open to everybody, a forbidden port comes
from an honest source.
"""

from __future__ import annotations

from tests.hostile.attacks.connections import CONNECTIONS
from tests.hostile.attacks.errors import ERRORS
from tests.hostile.attacks.neighbours import ROUTERS
from tests.hostile.attacks.protocols import PROTOCOLS
from tests.hostile.attacks.shapes import SHAPES
from tests.hostile.attacks.sources import SPOOFED
from tests.hostile.attacks.ways import WAYS

__all__ = ["ATTACKS"]

ATTACKS = (*SPOOFED, *ROUTERS, *SHAPES, *PROTOCOLS, *CONNECTIONS, *ERRORS, *WAYS)
