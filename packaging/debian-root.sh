# Sourced after lib.sh by packaging/fresh-root and packaging/test-install: Debians made by debootstrap, to be copied.

# `debian_base SUITE` sets `base`, a root that has nothing but the base system and is not to be changed, and `archives`,
# where packages that were downloaded for it are kept.  It is made once a day and suite, below /var/tmp; MIRROR names
# another Debian mirror.  The host's extra certificates and its apt settings are there.
debian_base() {
    local suite=$1 home=/var/tmp/netpold-fresh-root
    local made=$home/$suite lock
    [[ $suite == bookworm || $suite == trixie ]] || die "there is no suite $suite" "bookworm or trixie" 2
    base=$made/root archives=$home/archives-$suite
    mkdir -p "$archives/partial"
    exec {lock}>"$home/lock-$suite"
    flock "$lock"
    if [[ ! $(find "$made/complete" -mmin -1440 2>/dev/null) ]]; then
        printf 'Making %s with debootstrap\n' "$made"
        rm -rf "$made"
        mkdir -p "$made"
        debootstrap --variant=minbase "$suite" "$base" "${MIRROR:-http://deb.debian.org/debian}" >"$made/log" 2>&1 ||
            die "debootstrap failed" "read $made/log"
        apt-config dump | grep -E '^Acquire::(http|https|ftp|Check-|Retries|ForceIPv)' >"$base/etc/apt/apt.conf.d/90host" || :
        # ca-certificates, when it is installed, takes in what lies there
        mkdir -p "$base/usr/local/share/ca-certificates"
        cp -a /usr/local/share/ca-certificates/. "$base/usr/local/share/ca-certificates/" || :
        touch "$made/complete"
    fi
    exec {lock}>&-
}
