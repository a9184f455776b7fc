"""Whether this process may change the kernel's rules: as root, or as a user with that capability (capabilities(7))."""

from __future__ import annotations

import re
from pathlib import Path

CAP_NET_ADMIN = 12  # linux/capability.h


def may_change_rules() -> bool:
    """Whether CAP_NET_ADMIN is effective."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.M)
    return bool(found and int(found[1], 16) >> CAP_NET_ADMIN & 1)
