"""What rules say together: for each number of services, the ends for which just these are allowed.

A partition: every end is in one part of it.  Both are bits (pieces.py, services.py).
"""

from __future__ import annotations

Said = dict[int, int]  # services -> the ends for which just these are allowed


def widened(said: Said, some: int, services: int) -> Said:
    """The same, but that these services are allowed to `some`, too."""
    found: Said = {}
    for given, where in said.items():
        inside = where & some
        if inside and given | services != given:
            found[given | services] = found.get(given | services, 0) | inside
            where &= ~inside
        if where:
            found[given] = found.get(given, 0) | where
    return found


def narrowed(said: Said, some: int, services: int) -> Said:
    """The same, but that these services are not allowed to `some`."""
    found: Said = {}
    for given, where in said.items():
        inside = where & some
        if inside and given & services:
            found[given & ~services] = found.get(given & ~services, 0) | inside
            where &= ~inside
        if where:
            found[given] = found.get(given, 0) | where
    return found


def passed(said: Said, some: int, services: int, then: Said) -> Said:
    """The same, but that of these services `some` are allowed what `then` says."""
    found: Said = {given: rest for given, where in said.items() if (rest := where & ~some)}
    for given, where in said.items():
        if inside := where & some:
            for after, there in then.items():
                if both := inside & there:
                    now = (given & ~services) | (after & services)
                    found[now] = found.get(now, 0) | both
    return found


def both(one: Said, other: Said) -> Said:
    """What two judges allow together: what both do."""
    found: Said = {}
    for services, where in one.items():
        for given, there in other.items():
            if shared := where & there:
                found[services & given] = found.get(services & given, 0) | shared
    return found
