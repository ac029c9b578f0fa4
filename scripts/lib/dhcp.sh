# shellcheck shell=bash
# Stock DHCP clients in namespaces: ISC dhclient, busybox udhcpc, dhcpcd; and perfdhcp of Kea, which counts exchanges.
# Source common.sh and netns.sh first. None of them is installed and no service is started: packages are unpacked into
# the cache folder.
#
# Each client runs with /etc, /run and /var/lib of its own (bind mounts in the mount namespace that `ip netns exec`
# makes) and a host name of its own, so that its scripts write resolv.conf, leases and pid files where nobody else
# looks. They stay in $RUN/dhcp/NAMESPACE.NIC.CLIENT: lease, log, etc/resolv.conf.
#
#   dhcp_get CLIENT NS NIC       starts it and waits for its lease
#   dhcp_renew CLIENT NS NIC     makes it ask again. udhcpc and dhcpcd renew; dhclient cannot be told to: it is killed and
#                                started anew with its lease file, which is INIT-REBOOT
#   dhcp_release CLIENT NS NIC   makes it give the lease back, and ends it
#   dhcp_stop CLIENT NS NIC      ends it as a power cut would; a later dhcp_get finds its lease file
#   dhcp_show CLIENT NS NIC      what the interface has: address, default router, name servers, domain, MTU

DHCP_CLIENTS=(dhclient udhcpc dhcpcd)
DHCP_ROOT=$CACHE/dhcp
# What is missing of these libraries is unpacked beside perfdhcp: library|Debian package.
PERFDHCP_NEEDS=('liblog4cplus-2.0.so.3|liblog4cplus-2.0.5' 'libboost_system.so.1.74.0|libboost-system1.74.0')

# dhcp_unpack: fetches the clients, once. busybox-static also has the server for dhcp_reference.
dhcp_unpack() {
    local need tmp packages=(isc-dhcp-client udhcpc busybox-static dhcpcd-base kea-admin kea-common)
    [ ! -e "$DHCP_ROOT/usr/sbin/perfdhcp" ] || return 0
    command -v apt-get >/dev/null || die "the DHCP clients come as Debian packages; apt-get is needed to fetch them"
    for need in "${PERFDHCP_NEEDS[@]}"; do
        PATH=$PATH:/sbin:/usr/sbin ldconfig -p | finds -F "${need%|*} " || packages+=("${need#*|}")
    done
    note "fetching DHCP clients: ${packages[*]}"
    mkdir -p "$CACHE"
    tmp=$(mktemp -d "$DHCP_ROOT.XXXXXX")
    # Files of a folder that apt's own user cannot enter are fetched as root, which apt reports on stderr.
    (cd "$tmp" && apt-get download -qq "${packages[@]}") >"$tmp/said" 2>&1 || die "apt-get: $(cat "$tmp/said")"
    local deb
    for deb in "$tmp"/*.deb; do dpkg -x "$deb" "$tmp/root"; done
    # Whoever comes second keeps the first one's.
    mv -T "$tmp/root" "$DHCP_ROOT" 2>/dev/null || [ -e "$DHCP_ROOT/usr/sbin/perfdhcp" ]
    rm -rf "$tmp"
}

# dhcp_dir CLIENT NS NIC: the folder of that client.
dhcp_dir() { printf '%s/dhcp/%s.%s.%s' "$RUN" "$2" "$3" "$1"; }

# dhcp_furnish DIR: makes DIR a home for a client: an /etc with what programs look for there, and no name server.
dhcp_furnish() {
    local dir=$1 file
    [ ! -e "$dir/etc" ] || return 0
    mkdir -p "$dir"/{etc,run,lib}/dhcpcd "$dir"/etc/dhcp/dhclient-{enter,exit}-hooks.d "$dir/lib/dhcp"
    # Without this one of its hooks dhclient asks for option 121 and does not follow it.
    cp "$DHCP_ROOT"/etc/dhcp/dhclient-exit-hooks.d/rfc3442-classless-routes "$dir"/etc/dhcp/dhclient-exit-hooks.d/
    for file in passwd group nsswitch.conf protocols services ld.so.cache ld.so.conf alternatives localtime; do
        [ ! -e "/etc/$file" ] || cp -a "/etc/$file" "$dir/etc/"
    done
    touch "$dir"/etc/{fstab,resolv.conf}
    echo '127.0.0.1 localhost' >"$dir/etc/hosts"
    echo client >"$dir/etc/hostname"
    # dhcpcd gives up its rights to this user; its home is where it locks itself in.
    echo "dhcpcd:x:65533:65533::$dir/lib/dhcpcd:/usr/sbin/nologin" >>"$dir/etc/passwd"
    cp "$DHCP_ROOT/etc/dhcpcd.conf" "$dir/etc/dhcpcd.conf"
    grep -v '^send host-name' "$DHCP_ROOT/etc/dhcp/dhclient.conf" >"$dir/etc/dhcp/dhclient.conf"
    sed "s|/usr/lib/dhcpcd/|$DHCP_ROOT&|" "$DHCP_ROOT/usr/lib/dhcpcd/dhcpcd-run-hooks" >"$dir/run-hooks"
    mkdir "$dir/bin"
    ln -s "$DHCP_ROOT/bin/busybox" "$dir/bin/busybox"
    chmod +x "$dir/run-hooks"
}

# What runs a command at home, given the folder and the command.
# shellcheck disable=SC2016 # expanded by the inner shell
DHCP_AT_HOME='
    dir=$1
    shift
    mount --bind "$dir/lib" /var/lib
    mount --bind "$dir/run" /run
    mount --bind "$dir/etc" /etc
    hostname client
    PATH=$dir/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    exec "$@"'

# dhcp_home DIR NS COMMAND...: runs COMMAND in NS at home in DIR.
dhcp_home() {
    local dir=$1 ns=$2
    shift 2
    ip netns exec "$ns" unshare --uts timeout 20 bash -c "$DHCP_AT_HOME" bash "$dir" "$@"
}

# dhcp_command CLIENT DIR NIC: the client's command line in DHCP_COMMAND, without what a single call adds.
dhcp_command() {
    case $1 in
    dhclient)
        DHCP_COMMAND=("$DHCP_ROOT/sbin/dhclient" -4 -v -cf /etc/dhcp/dhclient.conf -lf "$2/lease" -pf "$2/client.pid"
            -sf "$DHCP_ROOT/sbin/dhclient-script")
        ;;
    udhcpc)
        # -O: its own list has no 26 and 121; -x hostname: as Debian's ifupdown does.
        DHCP_COMMAND=("$DHCP_ROOT/bin/busybox" udhcpc -f -i "$3" -s "$DHCP_ROOT/etc/udhcpc/default.script"
            -p "$2/client.pid" -t 10 -T 2 -O mtu -O staticroutes -x hostname:client)
        ;;
    dhcpcd) DHCP_COMMAND=("$DHCP_ROOT/usr/sbin/dhcpcd" -4 -c "$2/run-hooks") ;;
    *) die "unknown DHCP client '$1'; known: ${DHCP_CLIENTS[*]}" ;;
    esac
}

# dhcp_start CLIENT NS NIC: starts it without waiting.
dhcp_start() {
    local dir DHCP_COMMAND=() foreground=()
    dir=$(dhcp_dir "$@")
    dhcp_furnish "$dir"
    dhcp_command "$1" "$dir" "$3"
    case $1 in
    dhclient) foreground=(-d "$3") && touch "$dir/lease" ;;
    dhcpcd) foreground=(-B -d "$3") ;;
    esac
    ip -n "$2" link set "$3" up
    spawn "$2" "$dir/log" unshare --uts bash -c "$DHCP_AT_HOME" bash "$dir" "${DHCP_COMMAND[@]}" "${foreground[@]}"
    echo "$SPAWNED" >"$dir/pid"
}

# dhcp_leases CLIENT NS NIC: how often it got or kept a lease.
dhcp_leases() {
    local log
    log=$(dhcp_dir "$@")/log
    [ -e "$log" ] || log=/dev/null
    grep -cE '^bound to |^udhcpc: lease of .* obtained|: leased .* for ' "$log" || true
}
dhcp_has_more() { [ "$(dhcp_leases "${@:2}")" -gt "$1" ] && dhcp_has_address "$3" "$4"; }
dhcp_has_address() { ip -n "$1" -4 addr show dev "$2" | finds 'inet '; }
dhcp_await() { within "${DHCP_SECONDS:-30}" dhcp_has_more "$@"; }

dhcp_get() {
    local before
    before=$(dhcp_leases "$@")
    dhcp_start "$@"
    dhcp_await "$before" "$@" || { dhcp_complain "$@" 'got no lease' && return 1; }
}

dhcp_renew() {
    local before dir DHCP_COMMAND=()
    dir=$(dhcp_dir "$@")
    before=$(dhcp_leases "$@")
    case $1 in
    dhclient) dhcp_stop "$@" && dhcp_start "$@" ;;
    udhcpc) kill -USR1 "$(cat "$dir/client.pid")" ;;
    dhcpcd)
        dhcp_command "$1" "$dir" "$3"
        dhcp_home "$dir" "$2" "${DHCP_COMMAND[@]}" --renew "$3" >>"$dir/log" 2>&1
        ;;
    esac
    dhcp_await "$before" "$@" || { dhcp_complain "$@" 'did not renew' && return 1; }
}

dhcp_release() {
    local dir DHCP_COMMAND=()
    dir=$(dhcp_dir "$@")
    dhcp_command "$1" "$dir" "$3"
    case $1 in
    dhclient) dhcp_home "$dir" "$2" "${DHCP_COMMAND[@]}" -r "$3" >>"$dir/log" 2>&1 ;;
    udhcpc) kill -USR2 "$(cat "$dir/client.pid")" ;;
    dhcpcd) dhcp_home "$dir" "$2" "${DHCP_COMMAND[@]}" -k "$3" >>"$dir/log" 2>&1 ;;
    esac
    within 10 dhcp_is_bare "$2" "$3" || { dhcp_complain "$@" 'did not release' && return 1; }
    stop_group "$(cat "$dir/pid")"
}
dhcp_is_bare() { ! dhcp_has_address "$1" "$2"; }

dhcp_stop() {
    stop_group "$(cat "$(dhcp_dir "$@")/pid")" KILL
    ip -n "$2" -4 addr flush dev "$3"
}

# dhcp_address NS NIC: its address, without the length of the prefix.
dhcp_address() { ip -n "$1" -4 -o addr show dev "$2" | awk '{ sub("/.*", "", $4); print $4; exit }'; }

dhcp_show() {
    local resolv
    resolv=$(dhcp_dir "$@")/etc/resolv.conf
    printf '%s: address=%s router=%s dns=%s domain=%s mtu=%s\n' "$1" \
        "$(ip -n "$2" -4 -o addr show dev "$3" | awk '{ print $4; exit }')" \
        "$(ip -n "$2" -4 route show default dev "$3" | awk '{ print $3; exit }')" \
        "$(awk '$1 == "nameserver" { printf "%s%s", s, $2; s = "," }' "$resolv")" \
        "$(awk '$1 == "domain" || $1 == "search" { print $2; exit }' "$resolv")" \
        "$(ip -n "$2" -o link show dev "$3" | sed 's/.* mtu \([0-9]*\).*/\1/')"
}

# dhcp_complain CLIENT NS NIC WHAT
dhcp_complain() { note "$1 in $2 $4; the end of its log:" && tail -15 "$(dhcp_dir "$@")/log" >&2; }

# perfdhcp_run NS NIC ARGS...: as a relay in NS: perfdhcp fills in giaddr, the address of NIC, and waits on port 67.
#   -R CLIENTS -r RATE -p SECONDS; its report goes to stdout. It ends with 3 if some exchanges were not completed.
perfdhcp_run() {
    local ns=$1 nic=$2
    shift 2
    ip netns exec "$ns" env LD_LIBRARY_PATH="$DHCP_ROOT/usr/lib/$(uname -m)-linux-gnu" \
        timeout 300 "$DHCP_ROOT/usr/sbin/perfdhcp" -4 -l "$nic" "$@" </dev/null
}

# dhcp_reference NS NIC SERVER FIRST LAST [OPTION...]: busybox's server, to compare with and to try these functions on.
dhcp_reference() {
    local ns=$1 nic=$2 dir=$RUN/dhcp/reference.$1
    mkdir -p "$dir"
    {
        printf '%s\n' "interface $nic" "server $3" "start $4" "end $5" "lease_file $dir/leases" "pidfile $dir/server.pid" \
            'option subnet 255.255.0.0' "option router $3" "option dns $3" 'option lease 600' 'max_leases 5000'
        [ $# -le 5 ] || printf 'option %s\n' "${@:6}"
    } >"$dir/conf"
    touch "$dir/leases"
    spawn "$ns" "$dir/log" "$DHCP_ROOT/bin/busybox" udhcpd -f "$dir/conf"
}
