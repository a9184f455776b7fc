"""Objects into files, fast: 100,000 pods take seconds, where PyYAML's emitter takes minutes.

YAML is written in block style as `kubectl get -o yaml` prints it: lists not indented, text in quotes only where YAML
would read something else.  Only what manifests are made of: maps with plain keys, lists, text, numbers, booleans, null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from tests.bench.cluster import Size, manifests

Format = Literal["yaml", "json"]
Layout = Literal["namespace", "object"]
FORMATS: tuple[Format, ...] = ("yaml", "json")
LAYOUTS: tuple[Layout, ...] = ("namespace", "object")

_PLAIN = re.compile(r"[A-Za-z/](?:[A-Za-z0-9./@_-]|[: ](?=[^ ]))*|\d+\.\d+\.\d+\.\d+(?:/\d+)?")
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


def write(size: Size, directory: Path, kind: Format, layout: Layout) -> tuple[int, int]:
    """Write the cluster's manifests, one file a namespace or an object; gives the number of files and their bytes."""
    count = octets = 0
    for name, objects in manifests(size):
        parts = [objects] if layout == "namespace" else [[each] for each in objects]
        (directory / name).mkdir(parents=True)
        for index, part in enumerate(parts):
            octets += (directory / name / f"{index:05}.{kind}").write_text(text(part, kind))
            count += 1
    return count, octets


def text(objects: Iterable[dict[str, Any]], kind: Format = "yaml") -> str:
    """The content of a file with these objects: documents in YAML, a List in JSON."""
    if kind == "json":
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}, indent=1)
    lines: list[str] = []
    for each in objects:
        lines.append("---")
        _emit(each, "", lines)
    return "\n".join([*lines, ""])


def _emit(value: dict[str, Any] | list[Any], pad: str, lines: list[str]) -> None:
    """Add the lines of a map or list that is not empty."""
    if isinstance(value, dict):
        for key, each in value.items():
            if each and isinstance(each, dict | list):
                lines.append(f"{pad}{key}:")
                _emit(each, pad + "  " if isinstance(each, dict) else pad, lines)
            else:
                lines.append(f"{pad}{key}: {_scalar(each)}")
        return
    for each in value:
        if each and isinstance(each, dict | list):
            first = len(lines)
            _emit(each, pad + "  ", lines)
            lines[first] = f"{pad}- {lines[first][len(pad) + 2 :]}"
        else:
            lines.append(f"{pad}- {_scalar(each)}")


def _scalar(value: object) -> str:
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


@lru_cache(maxsize=4096)
def _quoted(value: str) -> str:
    plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return value if plain else json.dumps(value)
