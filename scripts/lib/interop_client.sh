# shellcheck shell=bash
# `scripts/interop client`: our own card (`hublane connect`) with our server and the stock one, and with the stock client
# at the other end of the hub. Sourced by scripts/interop. Rows of the ways (proxies, SSH) stand in interop_client_ways.sh,
# those of logins, clusters and terminals in interop_client_login.sh.
#
#   scripts/interop client [--server hublane|stock]... [--row NAME]... [--list]

# shellcheck source=scripts/lib/interop_client_ways.sh
. "$LIB/interop_client_ways.sh"
# shellcheck source=scripts/lib/interop_client_login.sh
. "$LIB/interop_client_login.sh"

CARD_ROWS=(refused certificate device connections-1 connections-2 connections-8 urgent epoll compression ipv6 stock-client bridge
    path-dead connection-dead restart-term restart-kill dhcp "${WAY_ROWS[@]}" "${LOGIN_ROWS[@]}")

interop_client() {
    local name
    rows_asked "$LIB/interop_client.sh" "hublane stock" "${CARD_ROWS[@]}" -- "$@"
    hublane_build
    "$ROOT/scripts/setup" --paths
    net_up 3 # two cards, and the middle
    paths_up
    for SERVER_KIND in "${ASKED_SERVERS[@]}"; do
        server_stop TERM
        rm -rf "$RUN/server" "$RUN"/card*/known
        table_head "card, $SERVER_KIND"
        for name in "${ASKED_ROWS[@]}"; do
            row "$name" "card_row_${name//-/_}"
            traffic_stop
            cards_stop KILL
            ways_end
            cluster_down
            case $name in stock-client) clients_stop ;; esac
        done
    done
    table_end
}

# ---- cards --------------------------------------------------------------------------------------------

# card_command N [OPTIONS...]: the command line of card N, with these options before those that all have, in CARD. It goes
# to CARD_HOST as CARD_USER, if they are set.
card_command() {
    local n=$1
    shift
    CARD=("$HUBLANE" connect "${CARD_HOST:-$(addr_server "$n")}:$SERVER_PORT" --user "${CARD_USER:-u$n}" "$@")
    [[ " $* " = *' --device '* ]] || CARD+=(--device "$NIC")
    [[ " $* " = *' --password-file '* ]] || CARD+=(--password-file "$RUN/card$n/password")
    [[ " $* " = *' --pin '* || " $* " = *' --ca '* ]] || CARD+=(--known-servers "$RUN/card$n/known")
    mkdir -p "$RUN/card$n"
    [ -e "$RUN/card$n/password" ] || (umask 077 && printf 'secret-%s\n' "$n" >"$RUN/card$n/password")
}

# card_start N [OPTIONS...]: starts it and waits for its session. Its events stand in $RUN/cardN/out.
card_start() {
    local n=$1
    rm -f "$RUN/card$n/out" "$RUN/card$n/known"
    card_command "$@"
    spawn "$(ns_client "$n")" "$RUN/card$n/out" "${CARD[@]}"
    echo "$SPAWNED" >"$RUN/card$n/pid"
    within 10 card_has "$n" connected || fail "card $n does not connect: $(tail -2 "$RUN/card$n/out" 2>&1)"
}

# cards [OPTIONS...]: cards 1 and 2 are in the hub, with the addresses of the stock clients.
cards() {
    local n
    for n in 1 2; do card_start "$n" --address "$(addr_inner "$n")/24" "$@"; done
}

card_has() { [ "$(card_count "$1" "$2")" -ge "${3:-1}" ]; }
# card_count N EVENT: how often it was told.
card_count() { cat "$RUN/card$1/out" 2>/dev/null | grep -c "\"event\":\"$2\"" || true; }

# card_stop N: SIGTERM; it must end within 4 s, as it should, and take the device along.
card_stop() {
    local pid
    pid=$(cat "$RUN/card$1/pid")
    kill -TERM "$pid"
    within 4 gone "$pid" || fail "card $1 does not end by SIGTERM"
    card_has "$1" ended || fail "card $1 ends without saying so: $(tail -1 "$RUN/card$1/out")"
    if in_client "$1" ip link show "$NIC" >/dev/null 2>&1; then fail "the device of card $1 is still there"; fi
    rm -f "$RUN/card$1/pid"
}

# cards_stop SIGNAL: whatever is left of them.
cards_stop() {
    local file
    for file in "$RUN"/card*/pid; do
        [ -e "$file" ] || continue
        stop_group "$(cat "$file")" "$1"
        rm -f "$file"
    done
}

# card_fails CODE TEXT [OPTIONS...]: card 1 with these options ends with that code and says that.
card_fails() {
    local code=$1 text=$2 rc=0
    shift 2
    card_command 1 "$@"
    in_client 1 timeout 20 "${CARD[@]}" >"$RUN/card1/said" 2>&1 </dev/null || rc=$?
    [ "$rc" = "$code" ] || fail "$*: exit code $rc, not $code: $(tail -1 "$RUN/card1/said")"
    finds -F "$text" <"$RUN/card1/said" || fail "$*: says $(tail -1 "$RUN/card1/said")"
    detail "${*:-again}: exit $code"
}

# ---- traffic ------------------------------------------------------------------------------------------

# card_traffic [MB] [ADDRESS OF 2]: ping, and MB of random bytes each way with equal checksums.
card_traffic() {
    ping_check 1 2
    transfer 1 2 "${1:-100}"
    transfer 2 1 "${1:-100}"
}

# transfer FROM TO MB [ADDRESS]
transfer() { sums_agree "$(ns_client "$1")" "$(ns_client "$2")" "${4:-$(addr_inner "$2")}" "$3" "$1" "$2"; }

# echo_start: client 1 sends random bytes to client 2 and compares what it gets back, until SIGTERM; then all must have
# come back. 13 Mbit/s each way.
echo_start() {
    : >"$RUN/echoed"
    : >"$RUN/echo"
    load 2 "$RUN/echoed" python3 -u -c '
import socket, sys
s = socket.create_server((sys.argv[1], 6001))
print("listening")
c, _ = s.accept()
while b := c.recv(1 << 16): c.sendall(b)' "$(addr_inner 2)"
    within 5 finds listening <"$RUN/echoed" || fail 'no listener in client 2'
    load 1 "$RUN/echo" python3 -u -c '
import os, select, signal, socket, sys, time
c = socket.create_connection((sys.argv[1], 6001), 10)
c.setblocking(False)
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
sent, waiting, back, worst = bytearray(), b"", 0, 0.0
last = due = time.monotonic()
while not told or sent:
    now = time.monotonic()
    if not told and now >= due and not waiting:
        waiting, due = os.urandom(1 << 15), now + 0.02
        sent += waiting
    r, w, _ = select.select([c], [c] if waiting else [], [], 0.02)
    if w: waiting = waiting[c.send(waiting):]
    if r:
        b = c.recv(1 << 16)
        if not b or sent[:len(b)] != b: sys.exit("%s after %d bytes" % ("other bytes" if b else "the end", back))
        del sent[:len(b)]
        back, worst, last = back + len(b), max(worst, now - last), now
print("echo %.0f MB, longest pause %.1f s" % (back / 1e6, worst))' "$(addr_inner 2)"
    echo "$SPAWNED" >"$RUN/echo.pid"
}

# echo_end SECONDS: ends it. All must have come back, and never after a longer pause.
echo_end() {
    local pid pause
    pid=$(cat "$RUN/echo.pid")
    kill -TERM "$pid"
    within 30 gone "$pid" || fail 'what was sent into the inner connection does not all come back'
    finds '^echo' <"$RUN/echo" || fail "the inner connection broke: $(tail -1 "$RUN/echo")"
    detail "$(cat "$RUN/echo")"
    pause=$(sed -n 's/.*pause \([0-9.]*\) s/\1/p' "$RUN/echo")
    holds "$pause <= $1" || fail "the inner connection stood still for $pause s"
}


# ---- rows ---------------------------------------------------------------------------------------------

card_row_refused() {
    server_wants
    mkdir -p "$RUN/card1"
    (umask 077 && echo wrong >"$RUN/card1/wrong")
    card_fails 3 'code 9' --password-file "$RUN/card1/wrong"
    card_fails 3 'code 8' --hub NOWHERE
    card_fails 2 'others may read it' --password-file /etc/hostname
}

# What it showed the first time counts; a pin counts more; a certificate made by a stranger is not vouched for.
card_row_certificate() {
    local pin
    server_wants
    card_start 1
    card_has 1 first_seen || fail 'the fingerprint was not shown'
    card_stop 1
    pin=$(sed -n 's/.*sha256://p' "$RUN/card1/known")
    [ ${#pin} = 64 ] || fail 'the fingerprint was not remembered'
    card_start 1 --pin "$pin"
    card_stop 1
    card_fails 4 "$pin" --pin "${pin//[0-9]/0}"
    printf '%s:%s sha256:%064d\n' "$(addr_server 1)" "$SERVER_PORT" 1 >"$RUN/card1/known"
    card_fails 4 'another certificate than before'
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=stranger \
        -keyout "$RUN/card1/key.pem" -out "$RUN/card1/ca.pem" 2>/dev/null
    card_fails 4 'certificate' --ca "$RUN/card1/ca.pem"
    rm -f "$RUN/card1/known"
}

card_row_device() {
    server_wants
    card_start 1
    card_fails 5 'is in use'
    card_fails 5 'no bridge of that name' --device other --bridge br9
    card_fails 5 'no name of a device' --device a/b
    card_command 1 --device other
    local rc=0
    in_client 1 setpriv --reuid 65534 --clear-groups --inh-caps=-all env HUBLANE_PASSWORD=x timeout 10 "$HUBLANE" connect \
        "$(addr_server 1):$SERVER_PORT" --user u1 --insecure >"$RUN/card1/said" 2>&1 </dev/null || rc=$?
    { [ $rc = 5 ] && finds 'not permitted' <"$RUN/card1/said"; } || fail "nobody: exit $rc, $(tail -1 "$RUN/card1/said")"
    detail "nobody: exit 5"
    card_stop 1
}

card_row_connections_1() { card_connections 1; }
card_row_connections_2() { card_connections 2; }
card_row_connections_8() { card_connections 8; }

card_connections() {
    local n
    server_wants
    cards --connections "$1"
    for n in 1 2; do
        within 10 card_lines "$n" "$1" || fail "card $n has no $1 connections: $(tail -1 "$RUN/card$n/out")"
    done
    card_traffic
    for n in 1 2; do
        card_lines "$n" "$1" || fail "card $n has not kept its $1 connections"
        card_stop "$n"
    done
}
# card_lines N COUNT: it has so many TCP connections.
card_lines() { [ "$(in_client "$1" ss -Htn state established "dport = :$SERVER_PORT" | wc -l)" = "$2" ]; }

# What is urgent has a connection to itself; the rest has the other one.
card_row_urgent() {
    local n
    server_wants
    cards
    for n in 1 2; do within 10 card_lines "$n" 2 || fail "card $n has no second connection: $(tail -1 "$RUN/card$n/out")"; done
    urgent_apart
}

card_row_epoll() {
    server_wants
    cards --kernel-features 5.15 --connections 2
    card_traffic 30
}

card_row_compression() {
    server_wants
    cards --compress
    finds '"compress":true' <"$RUN/card1/out" || skip 'the server does not compress'
    card_traffic 20
}

# Super-packets of TCP and UDP over IPv6 are cut, too.
card_row_ipv6() {
    local n
    server_wants
    for n in 1 2; do
        in_client "$n" sysctl -qw net.ipv6.conf.default.disable_ipv6=0
        card_start "$n" --address "fd00::$n/64" --address "$(addr_inner "$n")/24"
    done
    within 10 in_client 1 ping -6 -q -c 1 -W 1 fd00::2 >/dev/null 2>&1 || fail 'no ping over IPv6'
    transfer 1 2 50 fd00::2
    transfer 2 1 50 fd00::1
}

card_row_stock_client() {
    server_wants
    clients_want 2
    card_start 1 --address "$(addr_inner 1)/24" --connections 2
    card_traffic
    card_stop 1
}

# The address is the bridge's, and so is the card that speaks.
card_row_bridge() {
    server_wants
    in_client 1 ip link add br0 address 5e:00:00:00:00:77 type bridge
    in_client 1 ip addr add "$(addr_inner 1)/24" dev br0
    in_client 1 ip link set br0 up
    card_start 1 --bridge br0
    card_start 2 --address "$(addr_inner 2)/24"
    in_client 1 ip link show "$NIC" | finds 'master br0' || fail 'the device is no port of the bridge'
    card_traffic 20
    in_client 2 ip neigh show "$(addr_inner 1)" | finds 5e:00:00:00:00:77 || fail 'another card answers'
    card_stop 1
    in_client 1 ip link show br0 >/dev/null || fail 'the bridge is gone'
    in_client 1 ip link del br0
}

# Nothing passes for 15 s; pings must be answered within 2 s of the end, and an inner connection must live, both ways. The
# flow is a slow one: how soon a flow recovers that had already lost segments at the moment of the cut is a matter of the
# host's TCP, which may take the 15 s for the round-trip time, and wait accordingly before it sends the next one again.
card_row_path_dead() {
    local from answered
    server_wants
    cards --connections 2
    ping_check 1 2
    rm -f "$RUN/ping1"
    echo_start
    load 1 "$RUN/ping1" ping -n -D -i 0.1 -w 60 "$(addr_inner 2)"
    sleep 2
    in_server nft "add table ip dead; add chain ip dead in { type filter hook input priority 0; };
        add chain ip dead out { type filter hook output priority 0; };
        add rule ip dead in iifname c1 drop; add rule ip dead out oifname c1 drop"
    sleep 15
    in_server nft 'delete table ip dead'
    from=$(now)
    within 6 pinged_since "$from" || fail "no ping is answered 6 s after the way is there again: $(tail -2 "$RUN/card1/out")"
    answered=$(pinged_since "$from" show)
    detail "dead for 15 s, first ping $answered s after that"
    sleep 3
    echo_end 18
    holds "$answered <= 2" || fail "ping only after $answered s"
    [ "$(card_count 1 connected)" = 1 ] || fail 'it had to log in again'
}

# pinged_since T [show]: whether a ping of client 1 was answered after T; how long after.
pinged_since() {
    sed -n 's/^\[\([0-9.]*\)\].*time=.*/\1/p' "$RUN/ping1" |
        awk -v t="$1" -v show="${2:-}" '$1 >= t { if (show) printf "%.2f", $1 - t; found = 1; exit } END { exit !found }'
}

# One of eight connections falls silent, that of the flow: the card replaces it, and both ends send by others. Neither hears
# what the other knows about it: first the card finds out, within 4 s, then perhaps the server by what it had meant to go
# back by that connection, within 3 more; and the flow tries again after twice as long at the latest.
card_row_connection_dead() {
    local port
    server_wants
    cards --connections 8
    within 10 card_lines 1 8 || fail 'no eight connections'
    echo_start
    sleep 3
    port=$(busiest_port 1)
    [ -n "$port" ] || fail 'the server has no connection of card 1'
    cut_silently "$port"
    sleep 14
    echo_end 14
    in_server nft 'delete table ip cut'
    [ "$(card_count 1 connected)" = 1 ] || fail 'it had to log in again'
    card_has 1 lost || fail 'the dead connection was not noticed'
    card_lines 1 8 || fail 'the dead connection was not replaced'
}

card_row_restart_term() { card_restart TERM; }
card_row_restart_kill() { card_restart KILL; }

# The cards log in again, the device stays, and so does a flow inside.
card_restart() {
    local n flow index t
    server_wants
    cards --connections 2
    ping_check 1 2
    index=$(in_client 1 cat "/sys/class/net/$NIC/ifindex")
    iperf_listen 2
    rm -f "$RUN"/*.json "$RUN/ping1"
    load 1 "$RUN/restart.json" iperf3 -c "$(addr_inner 2)" -t 20 -J
    flow=$SPAWNED
    sleep 3
    server_restart "$1"
    t=$(now)
    for n in 1 2; do
        within 15 card_has "$n" connected 2 || fail "card $n is not back: $(tail -1 "$RUN/card$n/out")"
    done
    detail "back after $(since "$t") s"
    within 40 gone "$flow" || fail 'the flow does not end'
    flow_after 15 "$RUN/restart.json" >"$RUN/seen" || fail "the flow did not go on: $(cat "$RUN/seen")"
    detail "$(cat "$RUN/seen")"
    [ "$(in_client 1 cat "/sys/class/net/$NIC/ifindex")" = "$index" ] || fail 'the device is another one'
    card_traffic 10
}

# The gateway of the hub serves the address by the system's client, which here is a stand-in for one: busybox.
card_row_dhcp() {
    [ "$SERVER_KIND" = hublane ] || skip 'the stock server has another gateway'
    # shellcheck source=scripts/lib/dhcp.sh
    . "$LIB/dhcp.sh"
    dhcp_unpack
    hublane_config() { printf '[[hub]]\nname = "PUBLIC"\n[hub.gateway]\n'; }
    server_wants state=gateway
    mkdir -p "$RUN/dhcp-bin"
    ln -sf "$DHCP_ROOT/bin/busybox" "$RUN/dhcp-bin/busybox"
    cat >"$RUN/dhcp-bin/script" <<-'EOF'
		#!/bin/sh
		[ "$1" != bound ] || ip addr add "$ip/$mask" dev "$interface"
	EOF
    printf '#!/bin/sh\nexec %s/busybox udhcpc -s %s/script "$@"\n' "$RUN/dhcp-bin" "$RUN/dhcp-bin" >"$RUN/dhcp-bin/udhcpc"
    chmod +x "$RUN/dhcp-bin/script" "$RUN/dhcp-bin/udhcpc"
    PATH=$RUN/dhcp-bin:$PATH card_start 1 --dhcp
    within 15 card_leased || fail "no address: $(tail -2 "$RUN/card1/out")"
    detail "$(in_client 1 ip -4 -br addr show "$NIC" | awk '{ print $3 }')"
    card_stop 1
    hublane_ask dhcp list --json >"$RUN/list"
    detail "$(json 'str(len(d)) + " leases"' <"$RUN/list")"
}
card_leased() { [ -n "$(in_client 1 ip -4 -br addr show "$NIC" | awk '{ print $3 }')" ]; }
