# Sourced after debian-root.sh by packaging/test-install: a Debian that boots, as a systemd-nspawn container.
#
# Nothing outside of it is changed: it has a network of its own, no access to kernel settings beside those of its network,
# and no rights to load modules.  There is one machine at a time; its cgroup has this process' number.

_MACHINE=netpold-test-$$
_NSPAWN='' # the process of systemd-nspawn
_LEADER='' # the machine's PID 1, as it is called here
_NSPAWN_ENVIRONMENT=(env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_LOCK=0) # trixie's systemd wants cgroup v2

# `machine_image SUITE` sets `image`, a Debian with an init system, and `archives`, where packages downloaded for it are kept.
machine_image() {
    local suite=$1 lock made=/var/tmp/netpold-fresh-root/boot-$1
    debian_base "$suite"
    image=$made/root
    archives=/var/tmp/netpold-fresh-root/archives-boot-$suite # not those that packaging/fresh-root may be using just now
    mkdir -p "$archives/partial"
    exec {lock}>"$made.lock"
    flock "$lock"
    if [[ ! $made/complete -nt $base/../complete || ! $made/complete -nt packaging/machine.sh ]]; then
        rm -rf "$made"
        mkdir -p "$made"
        cp -a --reflink=auto "$base/." "$made/root"
        image_run "$image" sh -c 'apt-get -q update && apt-get -q -y install "$@"' - --no-install-recommends \
            systemd systemd-sysv dbus python3 iproute2 sudo ca-certificates >"$made/log" 2>&1 ||
            die "the machine's image could not be made" "read $made/log"
        printf 'node-1\n' >"$image/etc/hostname"
        touch "$made/complete"
    fi
    exec {lock}>&-
}

# Run a command in a root that is not booted, with the host's network: to download packages.
image_run() { # ROOT COMMAND...
    local root=$1 status=0 lock
    shift
    exec {lock}>"$archives.lock" # apt would not wait for another one
    flock "$lock"
    "${_NSPAWN_ENVIRONMENT[@]}" systemd-nspawn --quiet --directory="$root" --as-pid2 --register=no --keep-unit \
        --resolv-conf=copy-host --console=pipe --bind="$archives:/var/cache/apt/archives" --machine="$_MACHINE-image" \
        --setenv=DEBIAN_FRONTEND=noninteractive "$@" </dev/null || status=$?
    exec {lock}>&-
    return $status
}

# Boot a root, and come back when it is up.  The root's console is beside it.
machine_boot() { # ROOT
    _ROOT=$1
    (
        for group in $(_cgroups); do
            mkdir -p "$group/$_MACHINE"
            echo $BASHPID >"$group/$_MACHINE/cgroup.procs"
        done
        exec "${_NSPAWN_ENVIRONMENT[@]}" systemd-nspawn --directory="$_ROOT" --boot --private-network --register=no \
            --keep-unit --system-call-filter='@mount bpf' --console=read-only --link-journal=no \
            --machine="$_MACHINE" --hostname=node-1 </dev/null >"$_ROOT.console" 2>&1
    ) &
    _NSPAWN=$!
    local end=$((SECONDS + 90)) pid
    while ((SECONDS < end)) && kill -0 $_NSPAWN 2>/dev/null; do
        for pid in $(pgrep -P $_NSPAWN); do
            grep -q '^NSpid:.*[[:space:]]1$' "/proc/$pid/status" 2>/dev/null && _LEADER=$pid
        done
        [[ $_LEADER && $(machine_state) =~ ^(running|degraded)$ ]] && return
        sleep 0.2
    done
    return 1
}

machine_state() { _in_machine systemctl is-system-running 2>/dev/null || :; }

# Run a command as a unit of the machine's own.
machine_run() { # [OPTION OF systemd-run...] COMMAND...
    _in_machine systemd-run --quiet --pipe --wait --collect "$@"
}

_in_machine() {
    timeout 600 nsenter --target "$_LEADER" --all env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@" </dev/null
}

# Reboot it from within; systemd-nspawn, told to keep its unit, ends with 133 for that and is started again.
machine_reboot() {
    local status=0
    _in_machine systemctl reboot || return 1
    timeout 60 tail --pid=$_NSPAWN -f /dev/null || machine_kill
    wait $_NSPAWN || status=$?
    _NSPAWN='' _LEADER=''
    ((status == 133)) && machine_boot "$_ROOT"
}

# Pull the plug.
machine_kill() {
    [[ $_NSPAWN ]] || return 0
    [[ ! $_LEADER ]] || kill -KILL "$_LEADER" 2>/dev/null || :
    timeout 10 tail --pid="$_NSPAWN" -f /dev/null || kill -KILL "$_NSPAWN" || :
    wait "$_NSPAWN" || :
    _NSPAWN='' _LEADER=''
}

# Take away what it leaves on the host.
machine_forget() {
    local group
    for group in $(_cgroups); do
        [[ ! -d $group/$_MACHINE ]] || find "$group/$_MACHINE" -depth -type d -exec rmdir {} +
    done
    rm -rf --one-file-system "/run/systemd/nspawn/propagate/$_MACHINE" "/run/systemd/nspawn/propagate/$_MACHINE-image"
}

_cgroups() { # where cgroup v2 is mounted, and v1's hierarchy of systemd
    local path
    for path in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
        [[ ! -e $path/cgroup.procs ]] || printf '%s\n' "$path"
    done
}
