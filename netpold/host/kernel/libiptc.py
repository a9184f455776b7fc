"""The kernel's legacy filter table through python-iptables' bindings to libiptc, and two questions to the kernel.

Of python-iptables only the classes of C functions are used, with a handle for each use: its Table keeps one handle per
process (bound to the network namespace and the table of that moment) and commits by itself, its Rule takes 1 ms a rule.
libiptc reads the whole table, changes that copy, and replaces the kernel's with one setsockopt; rules that nobody
touches pass through as bytes, with their counters.  Defined by libiptc/libiptc.c of iptables.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import os
import socket
import struct
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from netpold.host.kernel import xt_entry
from netpold.host.kernel.backend import KernelError, Trouble, refused
from netpold.policy.model import Family

_SO_IP_SET, _GET_BY_NAME, _IPSET_PROTOCOL, _NO_SET = 83, 6, 6, 0xFFFF  # linux/netfilter/ipset/ip_set.h
_SET_REQUEST = struct.Struct("@II32s")
_REVISION_REQUEST = struct.Struct("@29sB")
# family -> (socket level, getsockopt numbers of IP(6)T_SO_GET_REVISION_MATCH, _TARGET)
_REVISION = {4: (socket.IPPROTO_IP, 66, 67), 6: (socket.IPPROTO_IPV6, 68, 69)}

_NO_TABLE = (errno.ENOENT, errno.ENOPROTOOPT, errno.EAFNOSUPPORT)

_libc = ctypes.CDLL(None, use_errno=True)
_errno_location = _libc.__errno_location
_errno_location.restype = ctypes.POINTER(ctypes.c_int)


class Table:
    """A copy of the filter table, as the kernel had it when it was opened.  Its methods change the copy."""

    def __init__(self, family: Family, functions: Any, handle: Any) -> None:
        self._family = family
        self._functions = functions
        self._handle = handle

    def chains(self) -> list[str]:
        names = []
        name = self._functions.iptc_first_chain(self._handle)
        while name:
            names.append(os.fsdecode(name))
            name = self._functions.iptc_next_chain(self._handle)
        return names

    def has_chain(self, chain: str) -> bool:
        return bool(self._functions.iptc_is_chain(os.fsencode(chain), self._handle))

    def is_builtin(self, chain: str) -> bool:
        return bool(self._functions.iptc_builtin(os.fsencode(chain), self._handle))

    def create(self, chain: str) -> None:
        self._do("create_chain", os.fsencode(chain))

    def rename(self, chain: str, name: str) -> None:
        self._do("rename_chain", os.fsencode(chain), os.fsencode(name))

    def flush(self, chain: str) -> None:
        self._do("flush_entries", os.fsencode(chain))

    def delete(self, chain: str) -> None:
        self._do("delete_chain", os.fsencode(chain))

    def append(self, chain: str, entry: bytes) -> None:
        self._do("append_entry", os.fsencode(chain), entry)

    def insert(self, chain: str, position: int, entry: bytes) -> None:
        self._do("insert_entry", os.fsencode(chain), entry, position)

    def delete_rule(self, chain: str, position: int) -> None:
        self._do("delete_num_entry", os.fsencode(chain), position)

    def targets(self, chain: str) -> list[tuple[str, bool]]:
        """For each rule of a chain, what it jumps or goes to, and whether it is a jump with no condition."""
        size = xt_entry.entry_size(self._family)
        found = []
        rule = self._functions.iptc_first_rule(os.fsencode(chain), self._handle)
        while rule:
            target = os.fsdecode(self._functions.iptc_get_target(rule, self._handle))
            found.append((target, xt_entry.is_plain(ctypes.string_at(rule, size), self._family)))
            rule = self._functions.iptc_next_rule(rule, self._handle)
        return found

    def commit(self) -> None:
        """Put the copy into the kernel.  Raises OSError: EAGAIN when the kernel's table changed since it was read.

        libiptc itself would set the counters of the built-in chains' policies to zero, as every iptables-legacy does;
        here they only miss what is counted between read and write.
        """
        for chain in filter(self.is_builtin, self.chains()):
            counters = (ctypes.c_uint64 * 2)()
            policy = self._functions.iptc_get_policy(os.fsencode(chain), counters, self._handle)
            self._do("set_policy", os.fsencode(chain), policy, counters)
        self._do("commit")

    def _do(self, name: str, *arguments: Any) -> None:
        """Call a function of libiptc that answers 0 for failure.  Raises OSError with libiptc's text."""
        if not getattr(self._functions, f"iptc_{name}")(*arguments, self._handle):
            raise _error(self._functions)


@contextmanager
def filter_table(family: Family) -> Iterator[Table]:
    """Open the filter table of the current network namespace.  Raises KernelError."""
    functions = _bindings(family)
    handle = functions.iptc_init(b"filter")
    if not handle:
        error = _error(functions)
        hint = "; this kernel may only know nft: use `--backend nft`" if error.errno in _NO_TABLE else ""
        raise refused(error.errno, f"IPv{family} filter table of iptables-legacy: {error.strerror}{hint}")
    try:
        yield Table(family, functions, handle)
    finally:
        functions.iptc_free(handle)


def _error(functions: Any) -> OSError:
    number = _errno_location()[0]
    return OSError(number, functions.iptc_strerror(number).decode(errors="replace"))


@cache
def _bindings(family: Family) -> Any:
    """python-iptables' class of libiptc functions.  Imported at first use: it takes time and starts processes."""
    spec = importlib.util.find_spec("iptc")
    if spec is None or spec.origin is None:
        raise KernelError("python-iptables is missing: install python3-iptables, or use `--backend nft`")
    # Told where its own library and the plugins of xtables are, the import does not run gcc and ldconfig to find out.
    known = {
        "IPTABLES_LIBDIR": Path(spec.origin).parent.parent,
        "XTABLES_LIBDIR": Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "", "xtables"),
    }
    unset = [name for name, path in known.items() if name not in os.environ and path.is_dir()]
    os.environ.update({name: str(known[name]) for name in unset})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from iptc import ip4tc, ip6tc
    except (ImportError, OSError, AttributeError, ValueError) as error:
        cure = "install libip4tc2 and libip6tc2, and run ldconfig"
        raise KernelError(f"python-iptables, for iptables-legacy's tables, does not load: {error}; {cure}") from error
    finally:
        for name in unset:
            del os.environ[name]
    return ip4tc.iptc if family == 4 else ip6tc.ip6tc


class SetIndexes:
    """The indexes of ipsets by name, each asked for once; to be used for one commit, as a set made anew has another."""

    def __init__(self) -> None:
        """Raises KernelError when this process may not ask."""
        try:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
        except OSError as error:
            raise Trouble(f"raw socket: {error.strerror}; netpold needs CAP_NET_ADMIN and CAP_NET_RAW") from error
        self._known: dict[str, int] = {}

    def __enter__(self) -> SetIndexes:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def __call__(self, name: str) -> int:
        """Raises LookupError for a set that is not there."""
        if name not in self._known:
            self._known[name] = self._ask(name)
        return self._known[name]

    def _ask(self, name: str) -> int:
        data = name.encode()
        if len(data) > 31:
            raise LookupError(f"set {name}: a name has at most 31 bytes")
        answer, reply = _getsockopt(
            self._socket, socket.IPPROTO_IP, _SO_IP_SET, _SET_REQUEST.pack(_GET_BY_NAME, _IPSET_PROTOCOL, data)
        )
        index: int = struct.unpack_from("@H", reply, 8)[0] if answer == 0 else _NO_SET
        if index == _NO_SET:
            raise LookupError(f"there is no set {name}" + (f" ({os.strerror(answer)})" if answer else ""))
        return index


def kernel_knows(family: Family, is_target: bool, name: str, revision: int) -> bool:
    """Whether the kernel has an extension in that revision (and can load it, if it is a module)."""
    level, match, target = _REVISION[family]
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with socket.socket(kind, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as asker:
        request = _REVISION_REQUEST.pack(name.encode(), revision)
        error, _ = _getsockopt(asker, level, target if is_target else match, request)
    return error == 0


def _getsockopt(asker: socket.socket, level: int, option: int, request: bytes) -> tuple[int, bytes]:
    """getsockopt(2) with a request in the buffer, which Python's own can't: (error number or 0, the buffer after)."""
    buffer = ctypes.create_string_buffer(request, len(request))
    length = ctypes.c_uint32(len(request))
    failed = _libc.getsockopt(asker.fileno(), level, option, buffer, ctypes.byref(length))
    return (ctypes.get_errno() if failed else 0), buffer.raw
