# shellcheck shell=bash
# scripts/compare lane: what a packet costs between two devices, with the NAT in between, by each kind of lane and by the
# kernel itself. No tunnel and no hub: these are the same for all.
#
#   scripts/compare lane [--quick] [--rounds N] [--figure NAME]... [--profile] [--suffix WORD] [--out FOLDER]
#
# Systems, one at a time on the same two veth pairs, station 1 on one side and station 2 on the other:
#
#   xdp      our NAT and two lanes of AF_XDP sockets, copy mode, which is all that veth has (examples/lane)
#   packet   the same with packet sockets
#   kernel   nftables masquerade; the server's kernel forwards
#
# --profile: one run of each of ours under perf instead of all; prints where the time goes.

LANE_FIGURES='lane-tcp lane-64 lane-1500'
LANE_SYSTEMS='xdp packet kernel'
# Far beyond what any of them carries, so that the figure is what they carry.
FAR=10.91.2.2
OWN=10.91.2.77

compare_lane() {
    local profile='' system figure
    COMPARE_PY=$ROOT/scripts/lib/compare_lane.py
    SERVER_KIND=none # there is no server to ask
    ROUNDS=5 EACH=5
    while [ $# -gt 0 ]; do
        case $1 in
        --quick) QUICK=yes ROUNDS=1 EACH=2 ;;
        --rounds) ROUNDS=$2 && shift ;;
        --figure) ASKED+=("$2") && shift ;;
        --profile) profile=yes ;;
        --suffix) SUFFIX=$2 && shift ;;
        --out) OUT=$(realpath -- "$2") && shift ;;
        --list) tr ' ' '\n' <<<"$LANE_FIGURES" && exit ;;
        *) die "unknown argument '$1'; see the head of scripts/lib/compare_lane.sh" ;;
        esac
        shift
    done
    for figure in "${ASKED[@]}"; do
        [[ " $LANE_FIGURES " = *" $figure "* ]] || die "no figure '$figure'; --list names them"
    done
    [ "$(nproc)" -ge 2 ] || die 'two CPUs are needed, one for the lane and one for the load'
    "$ROOT/scripts/setup"
    (cd "$ROOT" && cargo build --release --locked --quiet --example lane)
    LANE=${CARGO_TARGET_DIR:-$ROOT/target}/release/examples/lane
    taskset -cp "$CPU_LOAD" $$ >/dev/null
    net_up 2
    ns_cubic "$(ns_client 1)"
    lane_sink
    if [ -n "$profile" ]; then lane_profile && return; fi
    LINES_FILE=$RUN/lines
    : >"$LINES_FILE"
    QUIET=$(python3 "$COMPARE_PY" idle --seconds 1)
    for ROUND in $(seq "$ROUNDS"); do
        for figure in $LANE_FIGURES; do
            wanted "$figure" || continue
            # shellcheck disable=SC2086 # words
            for system in $(rotated "$ROUND" $LANE_SYSTEMS); do
                lane_system "$system" on
                LABEL=$system measure "$figure" python3 "$COMPARE_PY" "${figure%-*}" --figure "$figure" --pid "$LANE_PID" \
                    --near "$(ns_client 1)" --far "$(ns_client 2)" --to "$FAR" --seconds "$EACH" --tool "$LANE"
                lane_system "$system" off
            done
        done
    done
    lane_report || exit $?
}

# What arrives at station 2 for the discard port is counted and goes no further.
lane_sink() {
    in_client 2 nft -f - <<-EOR
		table ip sink {
		    counter arrived {}
		    chain arrivals {
		        type filter hook prerouting priority raw;
		        udp dport 9 counter name arrived drop
		    }
		}
	EOR
}

# lane_system SYSTEM on|off: sets LANE_PID, 0 where no process carries packets.
lane_system() {
    LANE_PID=0
    if [ "$2" = off ]; then
        [ ! -e "$RUN/lane.pid" ] || stop_group "$(cat "$RUN/lane.pid")" TERM
        rm -f "$RUN/lane.pid"
        in_server nft delete table ip lane 2>/dev/null || true
        in_server sysctl -qw net.ipv4.ip_forward=0
        return
    fi
    in_client 1 ip neigh flush all
    in_client 2 ip neigh flush all
    if [ "$1" = kernel ]; then
        in_client 1 ip route replace "$FAR/32" via "$(addr_server 1)" dev up0
        in_server sysctl -qw net.ipv4.ip_forward=1
        in_server nft -f - <<-EOR
			table ip lane {
			    chain out {
			        type nat hook postrouting priority srcnat;
			        oifname "c2" masquerade
			    }
			}
		EOR
    else
        in_client 1 ip route replace "$FAR/32" dev up0
        SPAWN_BY=(taskset -c "$CPU_SERVER")
        spawn "$NS_SERVER" "$RUN/lane.out" "$LANE" masquerade c1 "$FAR" c2 "$OWN" "$1"
        SPAWN_BY=()
        LANE_PID=$SPAWNED
        echo "$LANE_PID" >"$RUN/lane.pid"
    fi
    within 10 lane_reaches || fail "$1: station 1 does not reach station 2: $(tail -2 "$RUN/lane.out")"
}
lane_reaches() { in_client 1 ping -n -q -c 1 -W 1 "$FAR" >/dev/null 2>&1; }

# Where ours spend their time: needs perf.
lane_profile() {
    local system
    command -v perf >/dev/null || die 'perf is missing (Debian: linux-perf)'
    for system in xdp packet; do
        lane_system "$system" on
        in_client 1 "$LANE" blast "$FAR:9" 18 4 >/dev/null &
        sleep 1
        perf record -q -F 999 -g -p "$LANE_PID" -o "$RUN/perf.$system" -- sleep 2 >/dev/null 2>&1
        wait
        echo "== $system, 64-byte frames: share of the process's CPU time, by whose code"
        perf report -i "$RUN/perf.$system" --no-children --stdio -g none --sort dso --percent-limit 0.5 2>/dev/null | grep -v '^#' | grep -v '^$'
        echo "== $system: by system call and what it leads to"
        perf report -i "$RUN/perf.$system" --children --stdio -g none --sort symbol 2>/dev/null |
            grep -E '__x64_sys_|xsk_generic_xmit$|xsk_build_skb|veth_xmit|net_rx_action|ip_rcv$|__netif_receive_skb_one_core|sock_def_readable|schedule$|packet_sendmsg|packet_recvmsg' || true
        echo "== $system: by function itself"
        perf report -i "$RUN/perf.$system" --no-children --stdio -g none --percent-limit 1.5 2>/dev/null | grep -v '^#' | grep -v '^$'
        lane_system "$system" off
    done
}

lane_report() {
    local -a out=(--out "$OUT")
    [ ${#ASKED[@]} = 0 ] || out=()
    [ -z "$QUICK" ] || SUFFIX=quick${SUFFIX:+-$SUFFIX}
    python3 "$COMPARE_PY" report --lines "$LINES_FILE" "${out[@]}" --suffix "lane${SUFFIX:+-$SUFFIX}" \
        --figures "${ASKED[*]:-$LANE_FIGURES}" --rounds "$ROUNDS" --failed "$RUNS_FAILED" \
        --fact "command=scripts/compare $ARGUMENTS" --fact "idle=none is running" --fact "quiet=$QUIET" \
        --fact "hublane=$(commit)" --fact "rustc=$(cd "$ROOT" && rustc --version)" \
        --fact "kernel_line=no server" --fact "softether=not used" --fact "haproxy=nftables $(nft --version | sed 's/.*v\([^ ]*\).*/\1/')" \
        --fact "config=# none: lane masquerade c1 $FAR c2 $OWN xdp"
}
