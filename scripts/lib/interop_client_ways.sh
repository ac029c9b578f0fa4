# shellcheck shell=bash
# Rows of `scripts/interop client` in which card 1 goes to the server by a way of its own (`--via`), through a real
# proxy or SSH server in the middle, and card 2 straight. Sourced by interop_client.sh.
#
# The server takes nothing from client 1 but through the middle. Each row: login by a name that only the middle can
# resolve (SOCKS 4: by an address), ping, 100 MB each way; then the middle dies under traffic and comes back, and the
# card with it, by the same way, with the inner connection that was open all the time; 10 MB more.

WAY_ROWS=(via-direct via-squid via-tinyproxy via-socks4 via-socks5 via-ssh)
# shellcheck disable=SC2034 # paths.sh: the middle is the client behind the two with cards
MIDDLE=3
# shellcheck disable=SC2034 # paths.sh: longer than a session is silent
TINYPROXY_IDLE=600
# shellcheck source=scripts/lib/paths.sh
. "$LIB/paths.sh"

# For how long the middle is away, in seconds. Below the timeout of a session (20 s), which therefore may live on.
WAY_AWAY=4
# Until pings are answered once it is back: the card tries again after half a second if nobody listens, and after 2 s
# if nobody answers; a login later than that has waited, 4 s at most after so short a time.
WAY_BACK=5

card_row_via_direct() { card_way none direct "$(addr_server 1)"; }
card_row_via_squid() { card_way squid-digest "http://$PROXY_USER@$(addr_middle):$PORT_SQUID_DIGEST" $FAR_NAME "$PROXY_PASSWORD"; }
card_row_via_tinyproxy() { card_way tinyproxy "http://$PROXY_USER@$(addr_middle):$PORT_TINYPROXY" $FAR_NAME "$TINYPROXY_PASSWORD"; }
card_row_via_socks4() { card_way dante "socks4://$(addr_middle):$PORT_DANTE" "$(addr_server $MIDDLE)"; }
card_row_via_socks5() { card_way microsocks "socks5://$PROXY_USER@$(addr_middle):$PORT_MICROSOCKS" $FAR_NAME "$PROXY_PASSWORD"; }
card_row_via_ssh() { card_way ssh "ssh://gate@$(addr_middle):$PORT_SSH" $FAR_NAME; }

# card_way STATION VIA HOST [PASSWORD]: all that such a row demands. Without a station the cable is cut.
card_way() {
    local station=$1 via=$2 host=$3 from=$MIDDLE index
    server_wants
    if [ "$station" = none ]; then from=1; else
        only_through_the_middle
        path_start "$station"
    fi
    mkdir -p "$RUN/card1"
    (umask 077 && printf '%s\n' "${4:-}" >"$RUN/card1/proxy")
    way_card "$host" --via "$via" --proxy-password-file "$RUN/card1/proxy"
    card_start 2 --address "$(addr_inner 2)/24"
    within 10 way_lines "$from" 2 || fail "the server has no two connections of $(addr_client "$from")"
    card_traffic 100
    index=$(in_client 1 cat "/sys/class/net/$NIC/ifindex")
    way_cut "$station"
    within 10 way_lines "$from" 2 || fail "card 1 has not come back with two connections: $(tail -1 "$RUN/card1/out")"
    [ "$(in_client 1 cat "/sys/class/net/$NIC/ifindex")" = "$index" ] || fail 'the device is another one'
    card_traffic 10
    card_stop 1
    [ -z "$(ip netns pids "$(ns_client 1)")" ] || fail 'card 1 leaves processes behind'
}

# The server hears nothing of client 1; what it forwards for it is another matter.
only_through_the_middle() {
    local n
    in_server nft 'add table ip ways; add chain ip ways in { type filter hook input priority 0; };
        add rule ip ways in iifname c1 drop'
    for n in 1 $MIDDLE; do
        if in_client 1 timeout 1 bash -c "exec 3<>/dev/tcp/$(addr_server "$n")/$SERVER_PORT" 2>/dev/null; then
            fail "client 1 reaches the server at $(addr_server "$n") without the middle"
        fi
    done
}

# way_card HOST OPTIONS...: card 1 goes to HOST, with the home and the names of a user who knows the SSH server.
way_card() {
    local CARD_HOST=$1 SPAWN_BY=(env -u SSH_AUTH_SOCK "$RUN/here/own")
    shift
    card_start 1 --address "$(addr_inner 1)/24" --connections 2 "$@"
}

# way_lines N COUNT: so many connections of client N are with the server.
way_lines() {
    [ "$(in_server ss -Htn state established "sport = :$SERVER_PORT" dst "$(addr_client "$1")" | wc -l)" = "$2" ]
}

# way_cut STATION: the station dies under traffic, and is started again; an inner connection lives through it.
way_cut() {
    local station=$1 noticed logins t
    rm -f "$RUN/ping1"
    echo_start
    load 1 "$RUN/ping1" ping -n -D -i 0.1 -w 60 "$(addr_inner 2)"
    sleep 2
    noticed=$(way_noticed)
    logins=$(card_count 1 connected)
    if [ "$station" = none ]; then in_server ip link set c1 down; else path_stop "$station"; fi
    sleep $WAY_AWAY
    [ "$(way_noticed)" -gt "$noticed" ] || fail "card 1 has not noticed in $WAY_AWAY s: $(tail -1 "$RUN/card1/out")"
    if [ "$station" = none ]; then in_server ip link set c1 up; else path_start "$station"; fi
    t=$(now)
    within 30 pinged_since "$t" || fail "no ping is answered 30 s after the middle is back: $(tail -2 "$RUN/card1/out")"
    way_says "away $WAY_AWAY s, ping $(pinged_since "$t" show) s after that" "$logins"
    holds "$(pinged_since "$t" show) <= $WAY_BACK" || fail "ping only $(pinged_since "$t" show) s after the middle is back"
    sleep 2
    echo_end $((WAY_AWAY + 2 * WAY_BACK))
    traffic_stop
}
way_noticed() { echo $(($(card_count 1 lost) + $(card_count 1 not_attached))); }
# way_says TEXT LOGINS: TEXT, and whether the card had to log in again.
way_says() { detail "$1, $([ "$(card_count 1 connected)" = "$2" ] && echo 'same session' || echo 'logged in again')"; }

# ways_end: all ways are open again, and no station is left.
ways_end() {
    local what
    for what in "$RUN"/middle/*.pid; do
        if [ -e "$what" ]; then path_stop "$(basename "$what" .pid)"; fi
    done
    for what in ways cut dead; do in_server nft "add table ip $what; delete table ip $what"; done
    in_server ip link set c1 up
}
