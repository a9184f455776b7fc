"""`python3 -m inside STAGE...`: runs stages, one line a step; the exit code is 1 when a step failed.

PROGRAMS are no stages: they are what processes of the test run, the flood and the units of a boot.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from . import boots, gone, group, last_good, life, neighbours, newcomer
from .flood import Flood
from .report import Report

STAGES: Mapping[str, Callable[[Report], None]] = {
    stage.__name__: stage
    for stage in (
        gone.before,
        life.install,
        life.guestbook,
        life.journal,
        life.hardening,
        life.killed,
        life.reload,
        life.upgrade,
        life.watchdog,
        life.health,
        boots.pods_at_boot,
        boots.with_snapshot,
        boots.let_go,
        boots.no_snapshot,
        boots.without_snapshot,
        boots.broken_snapshot,
        boots.with_broken_snapshot,
        boots.hung_boot_script,
        boots.with_hung_boot_script,
        boots.no_pods_at_boot,
        boots.legacy,
        gone.remove,
        gone.purge,
        neighbours.flushed,
        group.group,
        last_good.broken_manifests,
        last_good.with_broken_manifests,
        last_good.emptied_manifests,
        last_good.with_emptied_manifests,
        neighbours.persistent,
        neighbours.with_persistent,
        neighbours.ufw,
        neighbours.with_ufw,
        neighbours.firewalld,
        neighbours.with_firewalld,
        newcomer.readme,
    )
}

PROGRAMS: Mapping[str, Callable[[], None]] = {
    "flood": Flood.run,
    "boot": boots.bring_up,
    "shutdown": boots.shut_down,
    "ssh": boots.stand_in_for_ssh,
}


def main() -> int:
    if sys.argv[1] in PROGRAMS:
        PROGRAMS[sys.argv[1]]()
        return 0
    report = Report()
    for name in sys.argv[1:]:
        STAGES[name](report)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
