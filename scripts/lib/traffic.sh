# shellcheck shell=bash
# Traffic between two clients through the hub.

# ping_check FROM TO: five pings, at most one lost (the first may wait for ARP on a busy machine).
ping_check() {
    local out got
    out=$(in_client "$1" ping -n -q -c 5 -i 0.2 -W 2 "$(addr_inner "$2")" 2>&1) || true
    got=$(sed -n 's/.* \([0-9]*\) received.*/\1/p' <<<"$out")
    [ "${got:-0}" -ge 4 ] || fail "ping client $1 -> client $2: ${got:-0} of 5 answered"
    detail "ping $(sed -n 's|^rtt [^=]*= [^/]*/\([^/]*\)/.*|\1|p' <<<"$out") ms"
}

# load N OUTPUT CMD...: CMD runs in client N in the background, until it ends or traffic_stop; its pid is in SPAWNED.
load() {
    local n=$1 out=$2
    shift 2
    spawn "$(ns_client "$n")" "$out" "$@"
    echo "$SPAWNED" >>"$RUN/load"
}

# traffic_stop: ends what `load` started and what is left of it.
traffic_stop() {
    local pid
    [ -e "$RUN/load" ] || return 0
    while read -r pid; do stop_group "$pid" KILL; done <"$RUN/load"
    rm -f "$RUN/load"
}

# iperf_listen N: an iperf3 server for one test in client N.
iperf_listen() {
    load "$1" "$RUN/iperf-server.$1" iperf3 -s -1
    within 5 iperf_listens "$1" || fail "iperf3 does not listen in client $1"
}
iperf_listens() { [ -n "$(in_client "$1" ss -Hltn 'sport = :5201')" ]; }

# iperf_check FROM TO [SECONDS]: TCP both ways at once; both must carry data.
iperf_check() {
    local secs=${3:-1} rates
    iperf_listen "$2"
    in_client "$1" timeout $((secs + 15)) iperf3 -c "$(addr_inner "$2")" -t "$secs" --bidir -J >"$RUN/iperf.json" 2>/dev/null || true
    traffic_stop
    rates=$(iperf_rates "$RUN/iperf.json") || fail "iperf3 client $1 <-> client $2: $rates"
    detail "tcp $rates Mbit/s"
}

# "there / back" in Mbit/s of a --bidir result; false, with the reason, if one of them carried nothing.
iperf_rates() {
    python3 - "$1" <<'PY'
import json, sys
try:
    d = json.load(open(sys.argv[1]))
    e = d["end"]
    rates = [e[k]["bits_per_second"] / 1e6 for k in ("sum_received", "sum_received_bidir_reverse")]
except (ValueError, KeyError):
    sys.exit(print(locals().get("d", {}).get("error", "no result")) or 1)
print("%.0f / %.0f" % tuple(rates))
sys.exit(min(rates) < 0.1)
PY
}

# traffic_check A B: what every row demands of a session.
traffic_check() {
    ping_check "$1" "$2"
    iperf_check "$1" "$2"
}

# Whether pings of client 1 to 2 have a connection to themselves, in both directions, and the flows of TCP, of which there
# are enough that chance would not part them so, all another one.
urgent_apart() {
    local bulk urgent before after spilled
    ping_check 1 2
    before=$(conn_bytes 1)
    in_client 1 timeout 20 ping -q -c 300 -i 0.005 "$(addr_inner 2)" >"$RUN/pings" || true
    finds ' 300 received' <"$RUN/pings" || fail "pings are lost: $(tail -2 "$RUN/pings")"
    after=$(conn_bytes 1)
    urgent=$(more_on "$before" "$after" 20000)
    [ "$(wc -w <<<"$urgent")" = 1 ] || fail "pings went over '$urgent': $before, $after"
    before=$after
    iperf_listen 2
    in_client 1 timeout 20 iperf3 -c "$(addr_inner 2)" --bidir -P 8 -t 2 >"$RUN/iperf" || fail "iperf3: $(tail -1 "$RUN/iperf")"
    after=$(conn_bytes 1)
    bulk=$(more_on "$before" "$after" 5000000)
    [ "$(wc -w <<<"$bulk")" = 1 ] && [ "$bulk" != "$urgent" ] || fail "TCP went over '$bulk', pings over '$urgent'"
    spilled=$(grew "$before" "$after" "$urgent")
    [ "${spilled% *}" -lt 200000 ] && [ "${spilled#* }" -lt 200000 ] || fail "with TCP the connection of the pings sent and received $spilled bytes"
    detail "pings by port $urgent, TCP by port $bulk, both ways"
}
# conn_bytes N: of each connection, port:sent:received.
conn_bytes() {
    in_client "$1" ss -HtniO state established "dport = :$SERVER_PORT" |
        sed -n 's/.*:\([0-9]*\) *[0-9.]*:'"$SERVER_PORT"' .*bytes_sent:\([0-9]*\).*bytes_received:\([0-9]*\).*/\1:\2:\3/p'
}
# more_on BEFORE AFTER BYTES: ports on which so many were both sent and received.
more_on() {
    local port sent received
    for port in $(cut -d: -f1 <<<"$2"); do
        read -r sent received < <(grew "$1" "$2" "$port")
        [ "$sent" -lt "$3" ] || [ "$received" -lt "$3" ] || echo "$port"
    done
}
# grew BEFORE AFTER PORT: bytes sent and received meanwhile.
grew() {
    local sent received now_sent now_received
    IFS=: read -r sent received < <(sed -n "s/^$3://p" <<<"$1") || true
    IFS=: read -r now_sent now_received < <(sed -n "s/^$3://p" <<<"$2")
    echo "$((now_sent - ${sent:-0})) $((now_received - ${received:-0}))"
}

# sums_agree NETNS NETNS ADDRESS MB FROM TO: random bytes over TCP from one to the other, who has that address; both must
# have the same checksum. FROM and TO are their names in what is said.
sums_agree() {
    local sent got t
    : >"$RUN/got"
    spawn "$2" "$RUN/got" python3 -u "$LIB/sums.py" get "$3"
    echo "$SPAWNED" >>"$RUN/load"
    within 5 finds listening <"$RUN/got" || fail "no listener at $6: $(tail -1 "$RUN/got")"
    t=$(now)
    sent=$(ip netns exec "$1" timeout 60 python3 "$LIB/sums.py" send "$3" "$4") || fail "$5 cannot send $4 MB to $6"
    within 5 finds '^sum' <"$RUN/got" || fail "$6 did not get it all"
    got=$(sed -n 's/^sum //p' "$RUN/got")
    [ "$got" = "$sent" ] || fail "$4 MB from $5 to $6 arrive changed"
    detail "$4 MB $5>$6 in $(since "$t") s"
}
