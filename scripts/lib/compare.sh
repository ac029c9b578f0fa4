# shellcheck shell=bash
# The systems that scripts/compare puts side by side, all in the server's namespace at the same time, and one run of
# the load generator against one of them.
#
#   system         what it is                                            port
#   ours           Hublane, one worker, RSA certificate                  5555
#   stock          SoftEther VPN Server                                  5556
#   k              hublane-bench limit relay: TLS in, TLS out, no hub    5557
#   haproxy        HAProxy: TLS in, TLS out, no hub                      5558
#   ours-p256      Hublane with a P-256 certificate                      5559
#   ours-anew      Hublane, started for one run, as is ours-many         5560
#   ours-6.1       Hublane with masked kernel features, or ours-5.15     5561
#   ours-two       Hublane, two workers                                  5562
#   snat-user      SoftEther, SecureNAT in user mode                     5563
#   snat-kernel    SoftEther, SecureNAT in kernel mode                   5564
#   nft            SoftEther, hub bridged by a tap to nftables           5565
#   ours-nat       Hublane with gateway and NAT                          5566
#   ours-nat-anew  the same, started for one run                         5567
#
# Servers share CPU $CPU_SERVER; the script, the generator, and stock clients share CPU $CPU_LOAD.

CPU_LOAD=0
CPU_SERVER=1
SUITE=aes-256-gcm
COMPARE_PY=$ROOT/scripts/lib/compare.py

# A failure here is a comparison that did not take place, which is not a target missed.
die() {
    note "$(basename "$0"): $*"
    exit 2
}
fail() { die "$@"; }

# on SYSTEM CMD...: CMD, with the functions of server.sh and haproxy.sh meaning SYSTEM.
on() {
    local SERVER=$1 SERVER_KIND=hublane SERVER_PORT PIPE=$1 PIPE_PORT
    shift
    case $SERVER in
    ours) SERVER_PORT=5555 ;;
    stock) SERVER_PORT=5556 SERVER_KIND=stock ;;
    k) SERVER_PORT=5557 SERVER_KIND=pipe ;;
    haproxy) SERVER_PORT=5558 SERVER_KIND=pipe ;;
    ours-p256) SERVER_PORT=5559 ;;
    ours-6.1 | ours-5.15) SERVER_PORT=5561 ;;
    ours-two) SERVER_PORT=5562 ;;
    ours-anew | ours-many) SERVER_PORT=5560 ;;
    snat-user) SERVER_PORT=5563 SERVER_KIND=stock ;;
    snat-kernel) SERVER_PORT=5564 SERVER_KIND=stock ;;
    nft) SERVER_PORT=5565 SERVER_KIND=stock ;;
    ours-nat) SERVER_PORT=5566 ;;
    ours-nat-anew) SERVER_PORT=5567 ;;
    *) die "no system '$SERVER'" ;;
    esac
    # shellcheck disable=SC2034 # used by haproxy.sh
    PIPE_PORT=$SERVER_PORT
    "$@"
}
is_pipe() { [ "$SERVER_KIND" = pipe ]; }

# Where a pipe connects to: the sink of the load, in client 1.
pipe_sink_port() { echo $((SERVER_PORT + 1000)); }

# system_start CPUS [name=value ...]: starts the system of `on` on these CPUs.
system_start() {
    # shellcheck disable=SC2034 # used by spawn
    local SPAWN_BY=(taskset -c "$1") cpus=$1
    shift
    mkdir -p "$RUN/$SERVER"
    case $SERVER in
    stock | snat-* | nft) server_start tls=1.3 reattach=no && stock_unlimited ;;
    k) relay_start "$cpus" "$(addr_client 1):$(pipe_sink_port)" ;;
    haproxy) haproxy_start "$cpus" "$(addr_client 1):$(pipe_sink_port)" "$SUITE" ;;
    *) server_start tls=1.3 certificate=rsa "$@" ;;
    esac
    nice_as_ours
}

# Without this the stock server drops most of what one member broadcasts.
stock_unlimited() {
    {
        echo 'Hub PUBLIC'
        echo 'UserPolicySet u1 /NAME:NoBroadcastLimiter /VALUE:yes'
    } | vpns_lines
}

# Nobody may have raised itself above the others.
nice_as_ours() {
    local nice
    nice=$(ps -o ni= -p "$(system_pid)" | tr -d ' ')
    [ "$nice" = "$(ps -o ni= -p $$ | tr -d ' ')" ] || fail "$SERVER runs at nice $nice"
}

# A stock server leaves a card's address with its last session while that lives, and all runs have the same cards.
stock_settles() {
    [ "$SERVER_KIND" = stock ] || return 0
    within 60 stock_is_empty || fail 'the stock server keeps its sessions'
}
stock_is_empty() { [ -z "$(server_sessions)" ]; }

# The process that does the work. The stock server forks it off.
system_pid() {
    local leader child
    leader=$(cat "$RUN/$SERVER/pid")
    child=$(pgrep -P "$leader" | head -1 || true)
    if [ "$SERVER_KIND" = stock ] && [ -n "$child" ]; then echo "$child"; else echo "$leader"; fi
}

# Congestion control of every namespace, and as many short-lived connections from client 1 as the figures make.
net_tune() {
    local n ns
    for n in s 1 2 3 4; do
        ns=hl$$-$n
        ip netns exec "$ns" sysctl -qw net.ipv4.tcp_congestion_control=cubic
        ip netns exec "$ns" sysctl -qw net.ipv4.tcp_tw_reuse=1 net.ipv4.ip_local_port_range='10000 65000'
    done
}

# measure FIGURE CMD...: runs CMD and keeps the JSON it prints last as the result of FIGURE for the system of `on`.
# With LABEL, under that name instead of the system's; with LIMIT, for at most so many seconds.
measure() {
    local figure=$1 rc=0
    local -a more=()
    shift
    if [ "$SERVER_KIND" = hublane ]; then
        more=(--status "$HUBLANE status --json --control-socket $RUN/$SERVER/control.sock")
    fi
    python3 "$COMPARE_PY" run --lines "$LINES_FILE" --round "$ROUND" --figure "$figure" --system "${LABEL:-$SERVER}" \
        --limit "${LIMIT:-150}" "${more[@]}" -- "$@" || rc=$?
    [ $rc = 0 ] || RUNS_FAILED=$((RUNS_FAILED + 1))
}

# bench FIGURE MODE [ARGS...]: one run of the generator as members of the hub of the system of `on`.
bench() {
    local figure=$1 mode=$2
    local -a where=(--cpus "${LOAD_CPUS:-$CPU_LOAD}")
    shift 2
    stock_settles
    # Logins are threads of their own, which stay where the script is.
    [ "$mode" != logins ] || where=()
    measure "$figure" ip netns exec "$(ns_client 1)" "$BENCH" "$mode" --server "$(addr_server 1):$SERVER_PORT" \
        --hub PUBLIC --user "${LOAD_USER:-u1}" --password-stdin --suite "$SUITE" --tls 1.3 "${where[@]}" \
        --server-pid "$(system_pid)" --json "$@"
}

# pipe FIGURE [ARGS...]: one run of the generator through the pipe of `on`.
pipe() {
    local figure=$1
    shift
    measure "$figure" ip netns exec "$(ns_client 1)" "$BENCH" stream --via "$(addr_server 1):$SERVER_PORT" \
        --listen "$(addr_client 1):$(pipe_sink_port)" --suite "$SUITE" --tls 1.3 --cpus "$CPU_LOAD" \
        --server-pid "$(system_pid)" --json --connections 1 --record-bytes 16384 --window 1048576 "$@"
}

# rotated ROUND WORD...: the words, beginning with another one in each round.
rotated() {
    local by=$((($1 - 1) % ($# - 1)))
    shift
    echo "${@:by+1}" "${@:1:by}"
}

# ---- a download between stock clients -----------------------------------------------------------------

# shape N: client N's wire carries 100 Mbit/s each way.
shape() {
    in_server tc qdisc add dev "c$1" root tbf rate 100mbit burst 32k latency 50ms
    in_client "$1" tc qdisc add dev up0 root tbf rate 100mbit burst 32k latency 50ms
}

# downloaders_start A B: stock clients A and B log in to the system of `on`. The suite is the server's choice among all
# of them: this client resets what OpenSSL's configuration says (SSL_CTX_set_ssl_version).
downloaders_start() { clients_want "$1 $2"; }

# download A B SECONDS: client A fetches from client B.
download() {
    iperf_listen "$2"
    measure download python3 "$COMPARE_PY" download --server-pid "$(system_pid)" \
        --tls "$(client_status "$1" Encryption | sed 's/.*: \(.*\))/\1/')" -- \
        ip netns exec "$(ns_client "$1")" timeout $(($3 + 15)) iperf3 -c "$(addr_inner "$2")" -t "$3" -R -J
    traffic_stop
}

# ping_beside_bulk A B SECONDS: round trips of client A to client B while four TCP streams go the same way.
ping_beside_bulk() {
    iperf_listen "$2"
    measure rtt-taps python3 "$COMPARE_PY" ping --server-pid "$(system_pid)" --netns "$(ns_client "$1")" \
        --to "$(addr_inner "$2")" --seconds "$3" --tls "$(client_status "$1" Encryption | sed 's/.*: \(.*\))/\1/')"
    traffic_stop
}

# ---- where members land -------------------------------------------------------------------------------
# A session goes to the worker with fewer sessions while both have little to do, and one that is taken over stays
# where it was. Logged in one after the other, members of an idle server hence take turns, and each pair (0 and 1,
# 2 and 3) is apart. For pairs that are together, half of the members are first logged in while worker 1 is held
# full by others; when those are gone, the other half finds worker 1 empty.

# sessions_on USER CONDITION: names of his sessions for which the condition on s, a row of the list, holds.
sessions_on() { hublane_ask session list --json | json "'\n'.join(s['name'] for s in d if s['user'] == '$1' and $2)" | sed '/^$/d'; }
sessions_are() { [ "$(sessions_on "$1" True | wc -l)" = "$2" ]; }
kick() {
    local name
    sessions_on "$1" "$2" | while read -r name; do hublane_ask session kick "$name" >/dev/null; done
}

# hold USER COUNT FILE: COUNT idle members, logged in one after the other, until traffic_stop.
hold() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    load 1 "$3" bash -c 'printf "%s\n" "$1" | exec "${@:2}"' bash "secret-${1#u}" \
        "$BENCH" sessions --server "$(addr_server 1):$SERVER_PORT" --hub PUBLIC --user "$1" --password-stdin \
        --members "$2" --parallel 1 --seconds 60
    within 20 sessions_are "$1" "$2" || fail "$2 members of $1 do not log in: $(tail -2 "$3")"
}

# place_apart: nobody is there, the next members take turns.
place_apart() {
    kick u1 True
    sleep 1.5 # the load of the last second decides before the number of sessions does
}

# place_together MEMBERS: those numbered below half are on worker 0, the rest will go to worker 1.
place_together() {
    place_apart
    hold u2 "$1" "$RUN/holders"
    kick u2 's["worker"] == 0'
    sleep 1.5
    hold u1 $(($1 / 2)) "$RUN/held"
    kick u2 True
    sleep 1.5
    [ "$(sessions_on u1 's["worker"] == 1' | wc -l)" = 0 ] || fail "members that were to be on worker 0 are not"
    traffic_stop
}
