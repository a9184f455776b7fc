"""The package and its units: what can be said of the files, purge on a real kernel, and (slow) the build itself."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from netpold import __version__
from netpold.host.journal import MESSAGES
from netpold.rules.ruleset import FAMILIES, SetKind
from tests.lab import BACKENDS, Backend, Lab
from tests.lab.daemon import Daemon

CHECKOUT = Path(__file__).resolve().parents[1]
DEBIAN = CHECKOUT / "debian"
UNITS = ("netpold.service", "netpold-boot.service")
POSTRM = DEBIAN / "netpold.postrm"

# Distribution on PyPI of each foreign package that is imported, and Debian's name for it
LIBRARIES = {
    "iptc": ("python-iptables", "python3-iptables"),
    "prometheus_client": ("prometheus-client", "python3-prometheus-client"),
    "systemd": ("systemd-python", "python3-systemd"),
    "watchdog": ("watchdog", "python3-watchdog"),
    "yaml": ("PyYAML", "python3-yaml"),
}

FOREIGN = """*filter
:OTHER - [0:0]
-A INPUT -p tcp -m tcp --dport 22 -m comment --comment "another -j NP-x" -j ACCEPT
-A FORWARD -s 198.51.100.0/24 -j OTHER
-A OTHER -j DROP
COMMIT
"""
FOREIGN6 = FOREIGN.replace("198.51.100.0/24", "2001:db8::/32")

UNFINISHED = """*filter
:NETPOLD-FORWARD - [0:0]
-I FORWARD -j NETPOLD-FORWARD
COMMIT
"""

DENY_ALL = """apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all, namespace: x}
spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}
"""


def text(path: str) -> str:
    return (CHECKOUT / path).read_text()


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload,no-any-return]


def imported() -> set[str]:
    """The top-level names of everything that the package imports from elsewhere."""
    found: set[str] = set()
    for path in (CHECKOUT / "netpold").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"netpold"}


def test_every_import_is_a_dependency() -> None:
    assert imported() == LIBRARIES.keys()
    project = tomllib.loads(text("pyproject.toml"))["project"]
    assert {re.split("[<>=]", each)[0] for each in project["dependencies"]} == {pip for pip, _ in LIBRARIES.values()}


def test_the_version_is_the_changelog_s() -> None:
    assert text("debian/changelog").startswith(f"netpold ({__version__}) ")


def test_the_modules_that_rules_need_are_loaded_at_boot() -> None:
    modules = {line for line in text("systemd/modules-load.d/netpold.conf").splitlines() if line and line[0] != "#"}
    kinds = {"ip_set_" + kind.replace(":", "_").replace(",", "") for kind in SetKind.__args__}
    golden = "".join(path.read_text() for path in (CHECKOUT / "tests" / "golden").glob("*/ruleset.txt"))
    built_in = {"tcp", "udp", "sctp", "icmp", "icmp6"}  # parts of xt_tcpudp and of ip_tables, and xt_sctp on demand
    matches = {f"xt_{name}" for name in set(re.findall(r"-m (\w+)", golden)) - built_in}
    assert kinds | matches | {"br_netfilter", "nf_tables", "nft_compat"} <= modules


def test_files_that_the_package_installs_are_there() -> None:
    for line in text("debian/netpold.install").splitlines():
        for pattern in line.split()[:-1]:
            assert list(CHECKOUT.glob(pattern)), pattern


def test_each_journal_message_is_in_the_catalog() -> None:
    catalog = text("systemd/netpold.catalog")
    assert set(re.findall(r"^-- ([0-9a-f]{32})$", catalog, re.M)) == {message.id for message in MESSAGES}


@pytest.mark.parametrize("script", sorted(DEBIAN.glob("netpold.p*")), ids=lambda path: path.name)
def test_maintainer_scripts_are_posix_shell(script: Path) -> None:
    if script.read_text().startswith("#!"):
        assert run("sh", "-n", script).stderr == ""
        if shutil.which("shellcheck"):
            assert run("shellcheck", script).stdout == ""


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS)
def test_units_are_hardened(unit: str) -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=18", CHECKOUT / "systemd" / unit)
    assert done.returncode == 0, done.stdout


def verified(directory: Path) -> list[str]:
    """What `systemd-analyze verify` has to say about the units, together with others in that directory."""
    for unit in UNITS:  # what they start is not installed here
        (directory / unit).write_text(
            re.sub(r"=/usr/(bin/netpold|lib/netpold/boot)\b.*$", "=/bin/true", text(f"systemd/{unit}"), flags=re.M)
        )
    done = run("systemd-analyze", "verify", "--man=no", *sorted(directory.iterdir()))
    return [line for line in done.stderr.splitlines() if "netpold" in line]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_units_are_understood(tmp_path: Path) -> None:
    assert verified(tmp_path) == []


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize(("unit", "waits"), [("netpold.service", True), ("netpold-boot.service", False)])
def test_only_the_service_waits_for_a_mount_at_etc_netpold(tmp_path: Path, unit: str, waits: bool) -> None:
    mount = "[Unit]\nDefaultDependencies=no\n{}\n[Mount]\nWhat=server:/policies\nWhere=/etc/netpold\nType=nfs\n"
    (tmp_path / "etc-netpold.mount").write_text(mount.format("After=network-online.target"))
    assert verified(tmp_path) == []
    # systemd finds out: a mount that in turn waits for the unit makes a cycle
    (tmp_path / "etc-netpold.mount").write_text(mount.format(f"After={unit}"))
    cycles = [line for line in verified(tmp_path) if "ordering cycle" in line]
    assert bool(cycles) == waits, cycles


@pytest.mark.kernel
@pytest.mark.parametrize("backends", [("nft",), ("legacy",), BACKENDS], ids="+".join)
def test_purge_takes_rules_and_sets_out_and_leaves_foreign_ones(lab: Lab, backends: tuple[Backend, ...]) -> None:
    def seen() -> list[str]:
        saved = [node.iptables_save(backend, family) for backend in backends for family in FAMILIES]
        return [re.sub(r"^#.*\n|\[[0-9:]+\]", "", each, flags=re.M) for each in (*saved, node.ipset_save())]

    node = lab.node("n1")
    pod = node.routed_pod("x", "a")
    for backend in backends:
        for tool, rules in (("iptables", FOREIGN), ("ip6tables", FOREIGN6)):
            node.run([f"{tool}-{backend}-restore", "--noflush"], rules)
    node.run(["ipset", "create", "OTHER", "hash:ip"])
    before = seen()
    for backend in backends:  # the second takes the first one's rules out
        daemon = Daemon(node, backend)
        daemon.write("all.yaml", pod.manifest(), DENY_ALL)
        with daemon:
            daemon.wait(20)
    if len(backends) > 1:  # as if it had not come to that
        node.run([f"iptables-{backends[0]}-restore", "--noflush"], UNFINISHED)
    assert all("-A FORWARD -j NETPOLD-FORWARD" in node.iptables_save(backend, 4) for backend in backends)
    assert "NP4-" in node.ipset_save()

    functions = POSTRM.read_text().partition('if [ "$1" = purge ]')[0]
    assert node.run(["sh", "-c", functions + "remove_rules"]) == ""
    assert seen() == before
    if "legacy" not in backends:
        names = [node.run(["cat", f"/proc/net/{which}_tables_names"], check=False) for which in ("ip", "ip6")]
        assert names == ["", ""]  # no legacy table was made by looking


# Makes $1 a root with this one's programs, whose only user is root, in a network namespace with rules of netpold's.
# $2: postrm; then how to enter that root.
ROOT = """
mount -t tmpfs tmpfs "$1"
for each in bin sbin lib lib64 usr; do
    if [ -L /$each ]; then cp -P /$each "$1"; continue; fi
    mkdir "$1/$each"
    [ ! -d /$each ] || mount --rbind /$each "$1/$each"
done
mkdir "$1/dev" "$1/etc" "$1/proc" "$1/run" "$1/tmp" "$1/var"
mount --rbind /dev "$1/dev"
cp -a /etc/alternatives /etc/login.defs "$1/etc"
echo root:x:0:0:root:/root:/bin/sh >"$1/etc/passwd"
echo root:x:0: >"$1/etc/group"
install -m 600 /dev/null "$1/etc/shadow"
cp "$2" "$1/postrm"
for family in ip ip6; do
    "${family}tables-nft" -N NETPOLD-FORWARD
    "${family}tables-nft" -A FORWARD -j NETPOLD-FORWARD
done
shift 2
"""
WITH_PROC = ["sh", "-c", 'mount -t proc proc "$0/proc" && chroot "$0" "$@"']
AS_MACHINE = ["unshare", "--pid", "--fork", "--mount-proc", "--root"]


def in_root(directory: Path, enter: list[str], script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a ROOT; "$@" in it enters the root."""
    done = run("unshare", "--net", "--mount", "sh", "-ec", ROOT + script, "-", directory, POSTRM, *enter, directory)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("enter", "is_chroot", "left"),
    [(["chroot"], 2, 2), (WITH_PROC, 0, 2), (AS_MACHINE, 1, 0)],
    ids=["chroot without proc", "chroot", "machine"],
)
def test_purge_takes_rules_out_where_it_is_no_chroot(
    tmp_path: Path, enter: list[str], is_chroot: int, left: int
) -> None:
    script = """
"$@" ischroot || echo "is_chroot $?"
"$@" sh /postrm purge
{ iptables-nft-save; ip6tables-nft-save; } | grep -e "-j NETPOLD-FORWARD" || :
"""
    done = in_root(tmp_path, enter, script)
    assert f"is_chroot {is_chroot}\n" in done.stdout or not is_chroot
    assert done.stdout.count("-A FORWARD -j NETPOLD-FORWARD") == left
    assert ("may be a chroot" in done.stderr) == (is_chroot == 2), done.stderr


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("made_by", "stays"),
    [
        ("systemd-sysusers /sysusers", False),
        ("useradd --create-home netpold", True),
        ("useradd --system --home /nonexistent netpold", True),
        ("useradd --comment netpold,\\ network\\ policies --home /nonexistent netpold", True),
    ],
    ids=["the package's", "a person's", "another system user", "no system user"],
)
def test_purge_removes_the_package_s_user_and_no_other(tmp_path: Path, made_by: str, stays: bool) -> None:
    # the package's postinst: sysusers leaves a user alone who is there
    script = f"""
cp {CHECKOUT}/systemd/sysusers.d/netpold.conf "$0/sysusers"
mkdir "$0/home"
"$@" {made_by}
"$@" systemd-sysusers /sysusers
"$@" getent passwd netpold
echo purge
"$@" sh /postrm purge
"$@" getent passwd netpold || echo gone
"$@" getent group netpold || echo gone
ls "$0/home"
"""
    done = in_root(tmp_path, ["chroot"], script.replace("$0", str(tmp_path)))
    before, _, after = done.stdout.partition("purge\n")
    assert before.startswith("netpold:")
    if stays:
        assert after.startswith(before)
        assert "was there before" in done.stderr
        assert after.endswith("netpold\n") == ("--create-home" in made_by)
    else:
        assert after == "gone\ngone\n"
        assert "the user netpold" not in done.stderr


# Slow: the build ----------------------------------------------------------------------------------------------------


def cloned(directory: Path) -> Path:
    """A clone of this checkout's last commit."""
    if not (CHECKOUT / ".git").exists():
        pytest.skip("this checkout has no history to build from (packaging/fresh-root leaves it out)")
    source = directory / "source"
    assert run("git", "-c", "safe.directory=*", "clone", "-q", CHECKOUT, source).returncode == 0
    return source


def built(directory: Path, *, umask: int, **environment: str) -> Path:
    """The package, built from a clone in that directory."""
    source = cloned(directory)
    output = directory / "output"
    done = run(source / "packaging/build-deb", "--output", output, umask=umask, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    (package,) = output.iterdir()
    return package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("first"), umask=0o022)


@pytest.mark.slow
def test_two_builds_are_the_same_bytes(package: Path, tmp_path: Path) -> None:
    other = built(tmp_path, umask=0o077, TZ="Asia/Tokyo", LANG="de_DE.UTF-8", PYTHONHASHSEED="7")
    assert other.read_bytes() == package.read_bytes()


@pytest.mark.slow
def test_it_depends_on_debian_s_packages(package: Path) -> None:
    depends = run("dpkg-deb", "-f", package, "Depends").stdout
    names = {each.split()[0] for each in depends.split(",")}
    assert {debian for _, debian in LIBRARIES.values()} | {"iptables", "ipset", "kmod"} <= names
    assert "python3:any (>= 3.11" in depends


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("lintian"), reason="lintian is not installed")
def test_lintian_has_nothing_to_say(package: Path) -> None:
    done = run("lintian", "--pedantic", "--allow-root", package)
    assert done.stdout == ""


@pytest.mark.slow
def test_a_local_repository_has_the_package(package: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    assert run(CHECKOUT / "packaging/make-repo", repository, package).returncode == 0
    assert "Package: netpold\n" in (repository / "Packages").read_text()
    assert " Packages\n" in (repository / "Release").read_text()


@pytest.mark.slow
def test_pip_installs_both_programs(tmp_path: Path) -> None:
    source, venv = cloned(tmp_path), tmp_path / "venv"
    assert run("/usr/bin/python3", "-m", "venv", "--system-site-packages", venv).returncode == 0
    done = run(venv / "bin/pip", "install", "--no-build-isolation", "--no-deps", "--no-index", source)
    assert done.returncode == 0, done.stderr
    assert run(venv / "bin/netpold", "--version", cwd=tmp_path).stdout == f"netpold {__version__}\n"
    done = run(venv / "bin/netpoldctl", "check", CHECKOUT / "etc/examples/guestbook", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    words = "matrix", "--manifests", CHECKOUT / "etc/examples/guestbook", "-o", "html"
    assert run(venv / "bin/netpoldctl", *words, cwd=tmp_path).stdout.startswith("<!doctype html>")
