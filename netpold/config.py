"""The settings, as one table: the fields of `Settings`.

Each field carries its type, default, help and limits; the settings file, the daemon's flags, the commented example and
the man page are all made from them.  Defaults come first, then /etc/netpold/netpold.toml, then netpold.toml.d/*.toml
beside it in the order of their names, then flags; later ones win.  A file is TOML 1.0 with the settings' names as
top-level keys.
"""

from __future__ import annotations

import argparse
import difflib
import re
import socket
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from netpold.rules.settings import CompileSettings

DEFAULT_FILE = Path("/etc/netpold/netpold.toml")


class ConfigError(Exception):
    """A setting that can't be used: where it is written, what is wrong with it, and how to mend it."""

    def __init__(self, file: str, key: str, fault: str, cure: str) -> None:
        super().__init__(f"{file}: {key}: {fault}; {cure}" if key else f"{file}: {fault}; {cure}")
        self.file = file
        self.key = key
        self.fault = fault
        self.cure = cure


@dataclass(frozen=True, slots=True)
class _Texts:
    """What the texts of a list may be, or one text: as a pattern, in words, and how to mend what is not so."""

    pattern: re.Pattern[str]
    what: str
    plural: str
    cure: str
    example: str


_INTERFACES = _Texts(
    re.compile(r"(?!-|\.{1,2}$)(?:[-\w.:@]{1,15}|[-\w.:@]{1,14}\*)", re.ASCII),
    "the name of an interface",
    "names of interfaces",
    "write at most 15 letters, digits, `-`, `_`, `.`, `:` or `@`, with a `*` at most at the end",
    '["cali*", "veth*"]',
)
_ACCOUNT = re.compile(r"[0-9]{1,10}|[A-Za-z_][-A-Za-z0-9_.@]{0,63}\$?")
_NAME_CURE = "write its name as `getent` shows it, or its number, in quotes"
_USERS = _Texts(_ACCOUNT, "a user", "names or numbers of users", _NAME_CURE, '["git-sync", "65533"]')
_GROUP = _Texts(_ACCOUNT, "a group", "", _NAME_CURE, "")
_DIRECTORIES = _Texts(
    re.compile(r"/(?!proc(?:/|$)|sys(?:/|$)|dev(?:/|$)|$)[^\0]*"),
    "a directory that may hold manifests",
    "absolute paths",
    'write it as "/path/to/it"; `/` as a whole, /proc, /sys and /dev can\'t be',
    '["/srv/policies"]',
)


def _row(
    help: str, *, flag: bool = False, low: int = 0, high: int = 0, sample: str = "", texts: _Texts | None = None
) -> dict[str, Any]:
    """The rest of a row of the table.  `flag`: the daemon has a flag of that name.  `low`, `high`: limits of a number.
    `sample`: a value to show in the example, where the default depends on the machine.  `texts`: what a list may
    hold."""
    return {"help": help, "flag": flag, "low": low, "high": high, "sample": sample, "texts": texts}


def _node_name() -> str:
    return socket.gethostname().strip().lower()  # as the kubelet names its node


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting of the daemon, checked."""

    manifests: Path = field(
        default=Path("/etc/netpold"), metadata=_row("Directory of the manifests, read recursively.", flag=True)
    )
    state_dir: Path = field(
        default=Path("/var/lib/netpold"),
        metadata=_row(
            "Directory for what has to outlive a restart: the last good rules, and what the manifests said.", flag=True
        ),
    )
    runtime_dir: Path = field(
        default=Path("/run/netpold"), metadata=_row("Directory for the control socket, netpold.sock.", flag=True)
    )
    node: str = field(
        default_factory=_node_name,
        metadata=_row("Name of this node: pods with this spec.nodeName are its own.", flag=True, sample='"worker-1"'),
    )
    backend: Literal["auto", "nft", "legacy"] = field(
        default="auto",
        metadata=_row("Which iptables the rules go to; auto takes the one that `iptables -V` names.", flag=True),
    )
    anti_spoofing: bool = field(
        default=True,
        metadata=_row("Drop packets from a pod's interface whose source address is not one of the pod's."),
    )
    accept: bool = field(
        default=False,
        metadata=_row(
            "End allowed traffic with ACCEPT in place of RETURN: for hosts whose FORWARD policy is DROP.  The host's "
            "other FORWARD rules no longer see that traffic."
        ),
    )
    host_access: Literal["allow", "policy"] = field(
        default="allow",
        metadata=_row("Traffic from pods to their own node: always allowed, or judged by the pods' egress policies."),
    )
    host_to_pods: Literal["allow", "policy"] = field(
        default="allow",
        metadata=_row("Traffic from the node to its own pods: always allowed, or judged by their ingress policies."),
    )
    mode: Literal["enforce", "audit"] = field(
        default="enforce",
        metadata=_row(
            "What becomes of policies without the annotation netpold.io/mode, in namespaces without it: they are "
            "enforced, or audited: what they would drop is let through and reported.  `netpoldctl audit` shows it."
        ),
    )
    nflog_group: int = field(
        default=92,
        metadata=_row(
            "NFLOG group that copies of dropped packets, and of those that audited policies would drop, go to; netpold "
            "reads it for `netpoldctl monitor` and `audit`.  No other program may read the same group; 0: no copies.",
            low=0,
            high=65535,
        ),
    )
    log_drops: bool = field(
        default=False,
        metadata=_row(
            "Write what is dropped, and what audited policies would drop, to the journal: at most once a minute for "
            "each pair and port, with how many packets it were."
        ),
    )
    max_file_size: int = field(
        default=64 * 1024 * 1024,
        metadata=_row("Manifest files with more bytes than this are refused.", low=1024, high=1 << 30),
    )
    settle_ms: int = field(
        default=20,
        metadata=_row(
            "For how many milliseconds the manifests must stay unchanged before they are acted on.", low=1, high=60_000
        ),
    )
    allow_empty: bool = field(
        default=False,
        metadata=_row(
            "Take a directory without any manifest for what it says: no policies.  Else what was known before stays in "
            "force, since a mount that failed looks the same."
        ),
    )
    rescan_s: int = field(
        default=30,
        metadata=_row(
            "After how many seconds without a file event the manifests are looked through anyway.", low=1, high=86_400
        ),
    )
    pod_interfaces: tuple[str, ...] = field(
        default=(),
        metadata=_row(
            'Names of the interfaces on the host that pods are behind, such as ["cali*", "veth*"], and of the '
            "bridges that these are ports of; a `*` at the end stands for any rest.  From and to an interface of "
            "such a name that no pod's manifest claims nothing is forwarded, but for addresses of pods whose "
            "interfaces are not known yet; to a bridge of such a name nothing is routed but for addresses of this "
            "node's pods.  Between these interfaces and the node itself holds what host_access and host_to_pods say, "
            "so probes and DHCP work before a pod is known; physical interfaces are never closed.  Where a boot "
            "finds no snapshot of the last good rules, nothing is forwarded from these and to these until netpold "
            "runs.  Empty: they are free.",
            texts=_INTERFACES,
        ),
    )
    trusted_users: tuple[str, ...] = field(
        default=(),
        metadata=_row(
            "Users whose files and directories count as manifests, by name or number, beside root, the user that "
            "netpold runs as and the owner of the directory of manifests.",
            texts=_USERS,
        ),
    )
    untrusted_files: Literal["refuse", "read"] = field(
        default="refuse",
        metadata=_row(
            "Manifests of users who are not trusted, and those that everybody may write to: what they said before "
            "stays in force, or they are read like others."
        ),
    )
    linked_trees: tuple[str, ...] = field(
        default=(),
        metadata=_row(
            "Directories that symlinks in the directory of manifests may lead into; links that stay in it are always "
            "followed, and all others refused.",
            texts=_DIRECTORIES,
        ),
    )
    socket_group: str | None = field(
        default=None,
        metadata=_row(
            "Group whose members may ask the control socket for what it tells, and change nothing; by name or number.  "
            "Empty: none.  The service's user has to be a member: netpold(8) has the drop-in.",
            texts=_GROUP,
        ),
    )
    metrics_port: int = field(
        default=0,
        metadata=_row(
            "TCP port on 127.0.0.1 and ::1 for Prometheus, path /metrics; 0: none.  The control socket always has it.",
            low=0,
            high=65535,
        ),
    )
    metrics_textfile: Path | None = field(
        default=None,
        metadata=_row(
            "File to write the metrics to, for the textfile collector of Prometheus' node exporter, which wants a name "
            "that ends in .prom.  Empty: none."
        ),
    )


def compile_settings(settings: Settings) -> CompileSettings:
    """What of the settings the compiler wants to know."""
    return CompileSettings(
        anti_spoofing=settings.anti_spoofing,
        accept=settings.accept,
        host_access=settings.host_access,
        host_to_pods=settings.host_to_pods,
        nflog_group=settings.nflog_group,
        mode=settings.mode,
    )


_TYPES: Mapping[str, Any] = get_type_hints(Settings)
_ROWS: Mapping[str, Mapping[str, Any]] = {each.name: each.metadata for each in fields(Settings)}
_DEFAULTS: Mapping[str, Any] = {each.name: each.default for each in fields(Settings)}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give a parser the daemon's flags.  Flags that are not given stay None."""
    for name, row in _ROWS.items():
        if row["flag"]:
            choices = _choices(name) or None
            metavar = None if choices else ("DIR" if _TYPES[name] is Path else "NAME")
            text = f"{row['help']}  Default: {default_text(name)}.".replace("%", "%%")
            parser.add_argument(_flag(name), dest=name, choices=choices, metavar=metavar, help=text)
    parser.add_argument("--config", metavar="FILE", type=Path, help=f"Settings file (default: {DEFAULT_FILE}).")


def load(flags: Mapping[str, str | None] | None = None, file: Path | None = None) -> Settings:
    """The settings from `file` (by default DEFAULT_FILE, which may be missing), its `.d` directory, and flags.

    `flags` maps names of settings to texts; None stands for a flag that is not given, other names are passed over (so
    `vars()` of what argparse gives will do).  Raises ConfigError.
    """
    values: dict[str, Any] = {}
    for each in _files(file):
        for key, value in _read(each).items():
            if key not in _TYPES:
                raise ConfigError(str(each), key, "there is no such setting", _suggestion(key))
            values[key] = _checked(str(each), key, key, value)
    for name in _TYPES:
        text = (flags or {}).get(name)
        if text is not None:
            given = str(Path(text).absolute()) if text and _TYPES[name] is Path else text
            values[name] = _checked("command line", _flag(name), name, given)
    return Settings(**values)


def _files(file: Path | None) -> list[Path]:
    """The files to read, in order.  A file that was asked for by name must be there."""
    main = file or DEFAULT_FILE
    try:
        present = main.exists()
        if file and not present:
            raise ConfigError(str(main), "", "there is no such file", "correct --config, or leave it out")
        directory = main.with_name(f"{main.name}.d")
        parts = [each for each in directory.iterdir() if each.suffix == ".toml" and not each.name.startswith(".")]
    except FileNotFoundError:
        parts = []
    except OSError as error:
        raise ConfigError(str(error.filename), "", f"can't be read: {error.strerror}", _READABLE) from error
    return ([main] if present else []) + sorted(parts)


_READABLE = "make it readable for the user that netpold runs as"


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        raise ConfigError(str(file), "", f"can't be read: {error.strerror}", _READABLE) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(file), "", f"byte {error.start + 1} is not UTF-8", "save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        cure = 'write `name = value`, with texts in "quotes" (https://toml.io)'
        raise ConfigError(str(file), "", f"is not TOML: {error}", cure) from error


def _suggestion(key: str) -> str:
    near = difflib.get_close_matches(key.lower().replace("-", "_"), _TYPES, n=1)
    return f"did you mean {near[0]}?" if near else f"the settings are {', '.join(_TYPES)}"


def _checked(where: str, key: str, name: str, value: Any) -> Any:
    """The value of setting `name`, or a ConfigError that says where it is written and under which key."""
    kind = _TYPES[name]
    row = _ROWS[name]
    choices = _choices(name)
    if choices:
        if value not in choices or not isinstance(value, str):
            cure = f"write {_in_words([f'{chr(34)}{each}{chr(34)}' for each in choices])}"
            raise ConfigError(where, key, f"{_shown(value)} is none of its values", cure)
        return value
    if kind is bool and type(value) is not bool:
        raise ConfigError(where, key, f"{_shown(value)} is not true or false", "write true or false, without quotes")
    if kind is int:
        low, high = row["low"], row["high"]
        if type(value) is not int or not low <= value <= high:
            raise ConfigError(where, key, f"{_shown(value)} can't be", f"write a whole number from {low} to {high}")
    if kind in (Path | None, str | None) and value == "":
        return None
    if kind == str | None:
        return _text(where, key, value, row["texts"])
    if kind in (Path, Path | None):
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise ConfigError(where, key, f"{_shown(value)} is not an absolute path", 'write it as "/path/to/it"')
        return Path(value)
    if kind == tuple[str, ...]:
        if not isinstance(value, list):
            raise ConfigError(where, key, f"{_shown(value)} is not a list", f"write it as {row['texts'].example}")
        return tuple([_text(where, key, each, row["texts"]) for each in value])
    if kind is str and (not isinstance(value, str) or not _NODE_NAME.fullmatch(value)):
        cure = 'write it as `kubectl get nodes` shows it: lower-case letters, digits, "-" and "."'
        raise ConfigError(where, key, f"{_shown(value)} is not a node name", cure)
    return value


_NODE_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def _text(where: str, key: str, value: Any, texts: _Texts) -> str:
    if not isinstance(value, str) or not texts.pattern.fullmatch(value):
        raise ConfigError(where, key, f"{_shown(value)} is not {texts.what}", texts.cure)
    return value


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _in_words(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _choices(name: str) -> tuple[str, ...]:
    """The values that a setting may have, where they are counted."""
    kind = _TYPES[name]
    return get_args(kind) if get_origin(kind) is Literal else ()


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# Text made from the table --------------------------------------------------------------------------------------------


def allowed_text(name: str) -> str:
    """What may be written for a setting, in words."""
    kind, row = _TYPES[name], _ROWS[name]
    if choices := _choices(name):
        return _in_words([f'"{each}"' for each in choices])
    if kind is int:
        return f"a whole number from {row['low']} to {row['high']}"
    words: dict[Any, str] = {
        bool: "true or false",
        Path: "an absolute path",
        Path | None: "an absolute path, or empty",
        str: "a node name",
    }
    if texts := row["texts"]:
        return f"a list of {texts.plural}" if texts.plural else f"{texts.what}, or empty"
    return words[kind]


def default_text(name: str) -> str:
    """The default of a setting in words: as TOML has it, or what it is taken from."""
    default = _DEFAULTS[name]
    if default is MISSING:
        return "the host name, in lower case"
    if isinstance(default, bool | int):
        return str(default).lower()
    if default == ():
        return "[]"
    return f'"{default or ""}"'


def example() -> str:
    """A settings file with every setting, commented out, at its default."""
    lines = ["# Settings of netpold.  Every line that is commented out shows the default.", ""]
    for name, row in _ROWS.items():
        lines += [f"# {line}" for line in textwrap.wrap(row["help"], 100)]
        lines.append(f"# Allowed: {allowed_text(name)}.")
        if row["sample"]:
            lines.append(f"# Default: {default_text(name)}.")
        lines += [f"#{name} = {row['sample'] or default_text(name)}", ""]
    return "\n".join(lines).rstrip() + "\n"


def manual() -> str:
    """The settings as a list for netpold.toml(5), in the man macros of groff_man(7)."""
    lines: list[str] = []
    for name, row in _ROWS.items():
        help_text = re.sub(r"`([^`]*)`", r"\\fI\1\\fR", row["help"].replace("\\", r"\e").replace("-", r"\-"))
        lines += [".TP", f"\\fB{name}\\fR", help_text, f"Allowed: {allowed_text(name)}."]
        lines.append(f"Default: {default_text(name)}.".replace("-", r"\-"))
        if row["flag"]:
            lines.append(f"Flag of the daemon: \\fB{_flag(name)}\\fR.".replace("-", r"\-"))
    return "\n".join(lines) + "\n"
