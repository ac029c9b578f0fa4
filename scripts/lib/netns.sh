# shellcheck shell=bash
# The test network: one namespace for the server, one for each client, joined by veth pairs and by nothing
# else. There is no route out. Names carry the pid of the script, so two runs never meet; the addresses are
# the same in every run, since they exist only inside.
#
#   client N  10.91.N.2 (up0) -- (cN) 10.91.N.1  server        N = 1..4
#
# Everything a script starts runs in one of these namespaces: ending all of their processes and removing the
# namespaces and $RUN is the whole clean-up.

NS_SERVER=hl$$-s
RUN='' # scratch folder of this run, set by net_up

ns_client() { printf 'hl%s-%s' "$$" "$1"; }
addr_server() { printf '10.91.%s.1' "$1"; }
# Where client N begins; the row new-address moves it within its /24.
addr_client() { printf '10.91.%s.2' "$1"; }

in_server() { ip netns exec "$NS_SERVER" "$@"; }
# in_client N CMD...
in_client() {
    local ns
    ns=$(ns_client "$1")
    shift
    ip netns exec "$ns" "$@"
}

# True where namespaces and veth pairs can be made: as root with the rights for it.
net_possible() {
    local ns=hl$$-probe
    [ "$(id -u)" = 0 ] && ip netns add "$ns" 2>/dev/null || return 1
    local ok=0
    ip -n "$ns" link add a0 type veth peer name b0 2>/dev/null && [ -c /dev/net/tun ] || ok=1
    ip netns del "$ns"
    return $ok
}

# net_up CLIENTS: makes the namespaces, and sees to it that they go away again.
net_up() {
    local n
    net_possible || die "network namespaces, veth pairs and /dev/net/tun are needed: run this as root"
    RUN=$(mktemp -d "${TMPDIR:-/tmp}/hublane-run.XXXXXX")
    trap net_down EXIT
    trap 'exit 130' INT TERM HUP
    ns_make "$NS_SERVER"
    for n in $(seq "$1"); do
        ns_make "$(ns_client "$n")"
        cable "$n"
        in_server ip addr add "$(addr_server "$n")/24" dev "c$n"
        in_server ip link set "c$n" up
        in_client "$n" ip addr add "$(addr_client "$n")/24" dev up0
        in_client "$n" ip link set up0 up
    done
}

# cable N [QUEUES]: the devices that join client N and the server, with so many queues; without addresses, down.
cable() {
    local queues=(${2:+numtxqueues "$2" numrxqueues "$2"})
    ip link add up0 netns "$(ns_client "$1")" "${queues[@]}" type veth peer name "c$1" netns "$NS_SERVER" "${queues[@]}"
}
# cable_cut N: both devices are gone.
cable_cut() { in_server ip link del "c$1"; }
# cable_carrier N up|down: the server's end notices.
cable_carrier() { in_client "$1" ip link set up0 "$2"; }
# What else must be true of a lane that runs on it.
cable_check() { :; }

ns_make() {
    ip netns add "$1"
    ip -n "$1" link set lo up
    # Router solicitations and the like of the kernel itself would count as traffic of the members.
    ip netns exec "$1" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 2>/dev/null || true
}

# ns_cubic NAMESPACE: TCP's congestion control there is cubic, whatever this system prefers. A namespace may choose only
# among those that the system allows to all.
ns_cubic() {
    local allowed
    allowed=$(sysctl -n net.ipv4.tcp_allowed_congestion_control)
    case " $allowed " in
    *' cubic '*) ;;
    *) sysctl -qw "net.ipv4.tcp_allowed_congestion_control=$allowed cubic" ;;
    esac
    ip netns exec "$1" sysctl -qw net.ipv4.tcp_congestion_control=cubic
}

net_down() {
    local ns
    set +e
    trap '' INT TERM HUP
    for ns in $(ip netns list | awk -v p="hl$$-" 'index($1, p) == 1 { print $1 }'); do
        ip netns pids "$ns" 2>/dev/null | xargs -r kill -9 2>/dev/null
        ip netns del "$ns"
    done
    if [ -n "${KEEP:-}" ]; then
        note "kept: $RUN"
    elif [ -n "$RUN" ]; then
        rm -rf "$RUN"
    fi
}

# spawn NAMESPACE LOGFILE CMD...: starts CMD in its own process group; its pid (= its group) is in SPAWNED.
# The group is needed because stock SoftEther renices, and forks inside, its whole process group.
# What stands in SPAWN_BY, such as (taskset -c 1), comes before CMD.
SPAWN_BY=()
spawn() {
    local ns=$1 log=$2
    shift 2
    ip netns exec "$ns" setsid "${SPAWN_BY[@]}" "$@" >>"$log" 2>&1 </dev/null &
    SPAWNED=$!
    disown "$SPAWNED"
}
