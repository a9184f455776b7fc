# Sourced by packaging/test and packaging/demo: makes a bare Debian ready for them.
#
# Everything here does nothing where its work is done already, so a second run starts at once.

die() { # sentence hint [exit code]
    printf '%s: %s\nhint: %s\n' "${0##*/}" "$1" "$2" >&2
    exit "${3:-1}"
}

need_root() {
    ((EUID == 0)) || die "only root may make network namespaces and firewall rules" "sudo $0" 4
}

# Debian's packages by name; those that are missing are installed.
need_packages() {
    local missing=() package
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    printf 'Installing from Debian: %s\n' "${missing[*]}"
    local log
    log=$(mktemp)
    if ! {
        export DEBIAN_FRONTEND=noninteractive
        apt-get -q update &&
            apt-get -q -y -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}"
    } </dev/null >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        die "apt-get could not install ${missing[*]}" "see its last words above; is deb.debian.org reached?"
    fi
    rm -f "$log"
}

# What a bare chroot lacks (/proc, /sys, /dev/pts) is mounted, and what a container holds read-only (/proc/sys) is made
# writable.  `undo_mounts` takes it all back; call it at the end.
_MOUNTED=() _REMOUNTED=()
need_mounts() {
    _mount /proc /proc/self/ns proc
    _mount /sys /sys/class sysfs
    _mount /dev/pts /dev/pts/ptmx devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5
    local path
    for path in /proc/sys /proc/sys/net; do
        [[ -w /proc/sys/net/ipv4/ip_forward ]] && break
        mount -o remount,bind,rw "$path" 2>/dev/null && _REMOUNTED+=("$path")
    done
    [[ -w /proc/sys/net/ipv4/ip_forward ]] ||
        die "/proc/sys/net can't be written" "in a container: set SYSTEMD_NSPAWN_API_VFS_WRITABLE=1 for systemd-nspawn"
}

# `ip netns` wants the root to be a mount point, which a plain chroot is not.  Then the whole script is run once more, in
# a chroot that is one: call this after need_mounts, with the script's arguments.
need_root_mount() {
    awk '$5 == "/" { found = 1 } END { exit !found }' /proc/self/mountinfo && return
    local root status=0
    root=$(mktemp -d /run/netpold-root-XXXXXX)
    mount --rbind / "$root" || die "the root is no mount point, and can't be made one" "mount --bind DIR DIR, before chroot DIR"
    _MOUNTED=("$root" "${_MOUNTED[@]}")
    chroot "$root" "$PWD/packaging/${0##*/}" "$@" || status=$?
    undo_mounts
    exit "$status"
}

mounts_are_own() { ((${#_MOUNTED[@]} + ${#_REMOUNTED[@]})); }

undo_mounts() {
    local path
    for path in "${_REMOUNTED[@]}"; do mount -o remount,bind,ro "$path" || :; done
    cd /
    for path in "${_MOUNTED[@]}"; do
        umount -l "$path" || :
        [[ $path != /run/netpold-* ]] || rmdir "$path"
    done
    _MOUNTED=() _REMOUNTED=()
}

_mount() { # where, what is there when it is mounted, type, options
    local where=$1 sign=$2
    shift 2
    [[ -e $sign ]] && return
    mkdir -p "$where"
    mount -t "$1" "${@:2}" "$1" "$where" ||
        die "$where is not mounted, and mounting it failed" "mount -t $1 $1 $where, outside of the container"
    _MOUNTED=("$where" "${_MOUNTED[@]}")
}

# The kernel's side: modules where the kernel has them as modules, and the right to use them.
need_netfilter() {
    modprobe -aq veth bridge br_netfilter nf_tables nft_compat ip_tables ip6_tables iptable_filter ip6table_filter \
        nf_conntrack nf_conntrack_netlink ip_set ip_set_hash_ip ip_set_hash_net ip_set_hash_ipport \
        ip_set_hash_netport xt_set xt_addrtype xt_physdev xt_conntrack xt_multiport xt_comment xt_NFLOG 2>/dev/null || :
    unshare --net ip link set lo up 2>/dev/null ||
        die "network namespaces can't be made here" \
            "in a container: give it CAP_SYS_ADMIN and CAP_NET_ADMIN (systemd-nspawn --capability=all)"
    unshare --net iptables -w -A FORWARD -j RETURN 2>/dev/null ||
        die "iptables can't be used here" \
            "modprobe nf_tables nft_compat on the host; in a container also: systemd-nspawn --capability=all"
}

# What netpold itself needs at run time, as Debian's packages.
RUNTIME_PACKAGES=(
    python3 python3-iptables python3-prometheus-client python3-systemd python3-watchdog python3-yaml
    iptables ipset iproute2 kmod nftables
)
