# shellcheck shell=bash
# scripts/demo lane: the rows of `scripts/demo nat` over AF_XDP sockets, with one and two queues and one and two workers,
# and what attaching and detaching does to the traffic of the host itself on the same device. Source after demo_nat.sh.

demo_lane() {
    demo_begin 'demo lane'
    local queues workers
    for queues in 1 2; do
        for workers in 1 2; do lane_rows $queues $workers; done
    done
    row 'host beside it' lane_host
    row 'doctor' lane_doctor
    echo
    table_end
}

# lane_rows QUEUES WORKERS
lane_rows() {
    local at="$1 queue"
    [ "$1" = 1 ] || at+=s
    at+=", $2 worker"
    [ "$2" = 1 ] || at+=s
    NAT_SERVER_OPTIONS="workers=$([ "$2" = 1 ] && echo 1 || echo 0-1) lane=xdp"
    row "$at" lane_server "$1" "$2"
    row '  clients' start_clients
    row '  addresses' nat_addresses
    row '  names, UDP and TCP' nat_names
    row '  ping' nat_ping_all
    row '  iperf3 both ways' nat_iperf
    row '  kernel stays out' nat_kernel_flat
    row '  hairpin UDP' nat_hairpin
    row '  hairpin TCP' nat_hairpin --tcp
    row '  forbidden targets' nat_forbidden
    row '  host and its ports' nat_host
    row '  reserved address' nat_reserved
    row '  user blocked' nat_block
    row '  every queue, no loss' lane_queues "$1" "$2"
}

lane_server() {
    server_stop TERM
    wan_drop
    wan_make "$1"
    nat_server
    [ "$(lane_says 'd["lane"]') $(lane_says 'len(d["queues"])')" = "xdp $1" ] ||
        fail "the lane is $(lane_says 'd["lane"]') with $(lane_says 'len(d["queues"])') queues"
    in_server ip -d link show "$WAN" | finds 'prog/xdp' || fail "no XDP program on $WAN"
    detail "native, $(lane_says '"; ".join("queue %d at worker %d, copied: %s" % (q["queue"], q["worker"], q["why_copy"]) for q in d["queues"])')"
}
# lane_says EXPRESSION: about the NAT of the hub as `hublane status` shows it, d.
lane_says() { hublane_ask status --json | json "(lambda d: $1)(d['hubs'][0]['gateway']['nat'])"; }

# Each queue had packets of the lane, none was lost in a ring, and workers gave each other what was not theirs.
lane_queues() {
    local drops crossed relayed
    drops=$(lane_says 'sum(q["ring_drops"] + q["bad_descriptors"] for q in d["queues"])')
    [ "$drops" = 0 ] || fail "$drops packets or descriptors were lost in rings"
    [ "$(lane_says 'd["decisions"].get("no_socket", 0)')" = 0 ] || fail 'packets came by a queue without a socket'
    crossed=$(hublane_counter lane_crossed) relayed=$(hublane_counter lane_relayed)
    if [ "$2" = 1 ]; then
        [ "$crossed $relayed" = '0 0' ] || fail 'one worker gave packets away'
    elif [ "$1" = 1 ]; then
        [ "$relayed" -gt 0 ] || fail 'the worker without a queue sent nothing by the other'
    fi
    detail "$(hublane_counter lane_received) received, of them crossed $crossed; $(hublane_counter lane_sent) sent, of them by another worker $relayed; decisions $(lane_says '", ".join("%s %d" % (n, c) for n, c in d["decisions"].items() if c)')"
}

# The host sends by the same device: TCP that is to go on whatever happens to the lane.
lane_host() {
    local t0 phase begun=()
    server_stop TERM
    spawn "$NS_SERVER" "$RUN/hold.out" python3 "$PROBE" hold "$INTERNET_HOST" "$RUN/hold"
    echo "$SPAWNED" >>"$RUN/load"
    within 10 test -e "$RUN/hold" || fail "the host's own connection does not begin: $(tail -1 "$RUN/hold.out")"
    internet_iperf
    in_server ping -n -D -i 0.01 -c 3000 -W 1 "$WAN_ROUTER" >"$RUN/gaps" 2>&1 &
    spawn "$NS_SERVER" "$RUN/host-iperf.json" iperf3 -c "$INTERNET_HOST" -t 24 -i 0.2 -J
    t0=$(now)
    for phase in without attached detached attached killed attached; do
        case $phase in
        # shellcheck disable=SC2086 # words
        attached) server_start $NAT_SERVER_OPTIONS ;;
        detached) server_stop TERM ;;
        killed) server_stop KILL ;;
        esac
        begun+=("$phase=$(since "$t0")")
        sleep 3
    done
    within 20 grep -q '"cpu_utilization_percent"' "$RUN/host-iperf.json" || fail "the host's iperf3 did not end: $(tail -3 "$RUN/host-iperf.json")"
    local counted
    counted=$(cat "$RUN/hold")
    sleep 0.5
    [ "$(cat "$RUN/hold")" -gt "$counted" ] || fail "the host's own connection broke: $(tail -1 "$RUN/hold.out")"
    detail "$(python3 - "$RUN/host-iperf.json" "$RUN/gaps" "${begun[@]}" <<'PY'
import json, re, sys
run = json.load(open(sys.argv[1]))
assert "error" not in run, run["error"]
marks = [(name, float(at)) for name, at in (word.split("=") for word in sys.argv[3:])]
rates = {}
for (name, begin), (_, end) in zip(marks, marks[1:] + [("", marks[-1][1] + 2.5)]):
    inside = [i["sum"]["bits_per_second"] for i in run["intervals"] if begin + 0.4 < i["sum"]["start"] and i["sum"]["end"] < end - 0.2]
    rates.setdefault(name, []).extend(inside)
zeros = sum(i["sum"]["bytes"] == 0 for i in run["intervals"])
print("iperf3 of the host, Gbit/s: " + ", ".join("%s %.1f" % (n, sum(r) / len(r) / 1e9) for n, r in rates.items() if r),
      "; %d of %d fifths of a second without a byte" % (zeros, len(run["intervals"])), sep="")
stamps = [float(m[1]) for m in re.finditer(r"^\[([\d.]+)\] \d+ bytes", open(sys.argv[2]).read(), re.MULTILINE)]
gaps = [b - a for a, b in zip(stamps, stamps[1:])]
print("; longest silence of ping, 100 a second: %.0f ms" % (1000 * max(gaps)))
PY
    )" || fail 'the host was disturbed'
    traffic_stop
    detail "the host's own TCP connection had $(cat "$RUN/hold") answers and goes on"
}

lane_doctor() {
    in_server "$HUBLANE" doctor --lane "$WAN" >"$RUN/list" || fail "hublane doctor fails: $(tail -1 "$RUN/list")"
    shown
}
