"""The files of a Source as they were acted on, and what of that was not handed out yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from netpold.host.absence import UNKNOWN
from netpold.host.scan import Seen
from netpold.policy.documents import Content
from netpold.policy.manifest import Parsed

NEVER_READ = b""  # no fingerprint is like it
NOT_KNOWN = Content(b"", UNKNOWN, ())


@dataclass(slots=True)
class File:
    """A path as it was acted on.  `seen`: what stood there then.  `visited`: by which walk it was last found."""

    seen: Seen
    content: Content
    visited: int

    @property
    def held(self) -> bool:
        """Whether there was a file with something in it, now or before a restart, and not only what can't be looked
        at."""
        if self.content is NOT_KNOWN:
            return self.seen == NEVER_READ
        return bool(self.content.parsed.objects) or self.content.parsed.truncated


@dataclass(slots=True)
class ActedOn:
    """`files`, by path.  `changed`: what they say now and said differently when it was last handed out (None: they are
    gone).  `complete`: everything was handed out once.  `walks`: the number of the latest walk."""

    files: dict[str, File] = field(default_factory=dict)
    changed: dict[str, Parsed | None] = field(default_factory=dict)
    complete: bool = False
    walks: int = 0

    def put(self, path: str, seen: Seen, content: Content) -> None:
        before = self.files.get(path)
        self.files[path] = File(seen, content, self.walks)
        if before is None or before.content.parsed is not content.parsed:
            self.changed[path] = content.parsed

    def take_away(self, path: str) -> None:
        del self.files[path]
        self.changed[path] = None

    def hand_out(self) -> dict[str, Parsed | None]:
        changed, self.changed = self.changed, {}
        return changed
