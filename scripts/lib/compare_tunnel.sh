# shellcheck shell=bash
# scripts/compare tunnel: a download through the tunnel beside the same download without one and through the stock
# programs: over links of several kinds, without a link, and over one that is dead for a while.
#
#   scripts/compare tunnel [--quick] [--rounds N] [--cells NAME,NAME...] [--system NAME]... [--profile] [--suffix WORD] [--out FOLDER]
#
# --cells     only these, and no files; --list names them
# --system    only this system, and no files
# --profile   instead of all that, one run of `super` without a link under perf: where cards and server spend their time
#
# Client 1 fetches from a member behind the server, who has a wire of his own without limits. Between client 1 and the
# server is the link of the cell, `hublane-bench link`:
#
#   local        no link: a plain veth pair, whose super-packets TCP uses as those of a real card
#   link100      100 Mbit/s, no delay, drop-tail queue of 250 kB
#   delay20      the same with 10 ms each way; delay20-0.1 and delay20-1 lose 0.1 and 1 % of the frames, each way, by a
#                pattern that is the same for all systems of a round and another one in each round
#   dead         delay20, and for 15 s nothing passes
#
# Systems, one at a time on the link; servers and members at the far end stay:
#
#   direct       no tunnel: client 2 behind a router, which is the server's host
#   stock        stock client, stock server, stock client 2
#   ours         our card, our server, our card 3, all with the stock wire format
#   super        the same with super-frames, and card 4
#   stock-ours   stock client, our server, card 3 (local only: whose client costs what)
#   ours-stock   our card, stock server, stock client 2 (local only)

TUNNEL_CELLS='local link100 delay20 delay20-0.1 delay20-1 dead'
DEAD_ROUNDS=3 # of the cell `dead`, which takes longest and says yes or no
NS_LINK=hl$$-l

compare_tunnel() {
    local cell cells='' only='' profile='' name
    COMPARE_PY=$ROOT/scripts/lib/compare_tunnel.py
    ROUNDS=5 TUNNEL_SYSTEMS=()
    while [ $# -gt 0 ]; do
        case $1 in
        --quick) QUICK=yes ROUNDS=1 ;;
        --rounds) ROUNDS=$2 && shift ;;
        --cells | --figure) cells+=" ${2//,/ }" only=yes && shift ;;
        --system) TUNNEL_SYSTEMS+=("$2") only=yes && shift ;;
        --profile) profile=yes ;;
        --suffix) SUFFIX=$2 && shift ;;
        --out) OUT=$(realpath -- "$2") && shift ;;
        --list) tr ' ' '\n' <<<"$TUNNEL_CELLS" && exit ;;
        *) die "unknown argument '$1'; see the head of scripts/lib/compare_tunnel.sh" ;;
        esac
        shift
    done
    [[ $ROUNDS =~ ^[1-9][0-9]*$ ]] || die "--rounds takes a number, not '$ROUNDS'"
    for name in $cells; do
        [[ " $TUNNEL_CELLS " = *" $name "* ]] || die "no cell '$name'; --list names them"
    done
    for name in "${TUNNEL_SYSTEMS[@]}"; do
        [[ " direct stock ours super stock-ours ours-stock " = *" $name "* ]] || die "no system '$name'"
    done
    # Without a link first: there is no way back from it.
    for cell in $TUNNEL_CELLS; do [ -n "$cells" ] && [[ " $cells " != *" $cell "* ]] || ASKED+=("$cell"); done
    "$ROOT/scripts/setup"
    hublane_build
    SUPER_FRAMES='' WIRE_STOCK=()
    if "$HUBLANE" connect --help 2>&1 | finds -e '--super-frames'; then
        SUPER_FRAMES=yes WIRE_STOCK=(--super-frames off)
    fi
    net_up 4
    net_tune
    tunnel_far_ends
    if [ -n "$profile" ]; then tunnel_profile && return; fi
    LINES_FILE=$RUN/lines
    : >"$LINES_FILE"
    QUIET=$(python3 "$COMPARE_PY" idle --seconds 1)
    IDLE=$(python3 "$COMPARE_PY" idle --seconds 2 "${PIDS[@]}")
    for cell in "${ASKED[@]}"; do tunnel_cell "$cell"; done
    tunnel_report "$only" || exit $?
}

# Servers, the way around them, and the members from whom client 1 fetches.
tunnel_far_ends() {
    local cpus
    cpus=0-$(($(nproc) - 1))
    in_server sysctl -qw net.ipv4.ip_forward=1
    direct_routes
    on ours system_start "$cpus" "workers=$cpus"
    on stock system_start "$cpus"
    on stock clients_want 2
    on ours card_start 3 --address "$(addr_inner 3)/24" "${WIRE_STOCK[@]}"
    PIDS=("ours=$(on ours system_pid)" "stock=$(on stock system_pid)" "stock-client=$(client_pid 2)" "card=$(card_pid 3)")
    [ -z "$SUPER_FRAMES" ] || on ours card_start 4 --address "$(addr_inner 4)/24" --super-frames on
}
direct_routes() {
    in_client 1 ip route replace 10.91.2.0/24 via "$(addr_server 1)"
    in_client 2 ip route replace 10.91.1.0/24 via "$(addr_server 2)"
}

# tunnel_cell CELL: all rounds.
tunnel_cell() {
    local cell=$1 rounds=$ROUNDS system systems='direct stock ours super'
    case $cell in
    local) systems='direct stock ours super stock-ours ours-stock' ;;
    dead) [ "$rounds" -le "$DEAD_ROUNDS" ] || rounds=$DEAD_ROUNDS ;;
    esac
    [ "$cell" = local ] || link_make
    for ROUND in $(seq "$rounds"); do
        # shellcheck disable=SC2086 # words
        for system in $(rotated "$ROUND" $systems); do
            [ ${#TUNNEL_SYSTEMS[@]} = 0 ] || [[ " ${TUNNEL_SYSTEMS[*]} " = *" $system "* ]] || continue
            [ "$system" != super ] || [ -n "$SUPER_FRAMES" ] || continue
            tunnel_run "$cell" "$system"
        done
    done
}

# tunnel_run CELL SYSTEM: one run. Logins and their ends are no part of it: they have a link of the same kind without loss.
tunnel_run() {
    local cell=$1 LABEL=$2 server=ours far
    case $LABEL in
    direct | stock | ours-stock) far=2 ;;
    ours | stock-ours) far=3 ;;
    super) far=4 ;;
    esac
    case $LABEL in
    direct) server=none ;;
    stock | ours-stock) server=stock ;;
    esac
    link_carries "$cell" on
    if [ "$server" = none ]; then
        local SERVER_KIND=none
        tunnel_measured "$cell" "$far" "$(addr_client "$far")" 0 0 0
        return
    fi
    in_client "$far" ip neigh flush all
    # In a shell of its own: one login that fails is one run without a figure, not the end of them all.
    if (on "$server" near_on); then
        on "$server" tunnel_measured_on "$cell" "$far"
        link_carries "$cell" on
    else
        on "$server" measure "$cell" sh -c 'echo "client 1 does not log in" >&2; false'
    fi
    on "$server" near_off
    link_carries "$cell" off
}
# What of the system of `on` uses CPU: client 1's program, that of the far member, the server.
tunnel_measured_on() {
    local far_pid near_pid
    case $2 in 2) far_pid=$(client_pid 2) ;; *) far_pid=$(card_pid "$2") ;; esac
    case $LABEL in stock*) near_pid=$(client_pid 1) ;; *) near_pid=$(card_pid 1) ;; esac
    tunnel_measured "$1" "$2" "$(addr_inner "$2")" "$near_pid" "$far_pid" "$(system_pid)" "$LABEL: $(near_cipher)"
}

# What client 1 and the server agreed on.
near_cipher() {
    case $LABEL in
    stock*) client_status 1 Encryption | sed 's/.*: \(.*\))/\1/' || true ;;
    *) sed -n 's/.*"cipher":"\([^"]*\)".*"event":"connected".*/\1/p' "$RUN/card1/out" | tail -1 ;;
    esac
}

# tunnel_measured CELL FAR ADDRESS PID PID PID [CIPHER]
tunnel_measured() {
    local mode=download seconds=8 ping=4 settle=2
    local -a link=()
    case $1 in
    local) seconds=6 ;;
    *-*) seconds=16 ;; # few bytes, and much chance
    dead) mode=dead ;;
    esac
    [ -z "$QUICK" ] || { seconds=4 ping=2 settle=1; }
    if [ "$1" != local ]; then
        link_carries "$1" off
        link_command "$1"
        link=("${LINK[@]}" --seed "$ROUND")
    fi
    local -a how=(--seconds "$seconds" --ping "$ping" --settle "$settle")
    [ "$mode" = download ] || how+=(--dead "$([ -n "$QUICK" ] && echo 5 || echo 15)")
    measure "$1" python3 "$COMPARE_PY" "$mode" "${how[@]}" --near "$(ns_client 1)" --far "$(ns_client "$2")" --to "$3" \
        --near-pid "$4" --far-pid "$5" --server-pid "$6" --tls "${7:-}" -- "${link[@]}"
}

# ---- the near end: client 1 on the system of `on` -----------------------------------------------------

near_on() {
    case $LABEL in
    stock*)
        client_start 1
        in_client 1 ip link set "$NIC" up
        # As our card has it by default: one connection for what is urgent, one for the rest.
        client_account 1 max_tcp=2 qos=yes
        client_connect 1
        client_await 1
        ;;
    super)
        near_card --super-frames on
        finds '"super_frames":true' <"$RUN/card1/out" || fail 'the server did not agree to super-frames'
        ;;
    *) near_card "${WIRE_STOCK[@]}" ;;
    esac
}
near_card() {
    # Another device has the same address.
    in_client 1 ip link set "$NIC" down 2>/dev/null || true
    card_start 1 --device hub0 --address "$(addr_inner 1)/24" "$@"
}
near_off() {
    local dir=$RUN/card1 signal=TERM
    # The stock client may be past mending: see clients_stop.
    case $LABEL in stock*) dir=$RUN/client1 signal=KILL ;; esac
    [ ! -e "$dir/pid" ] || stop_group "$(cat "$dir/pid")" $signal
    cat "$dir/out" >>"$RUN/near-$LABEL.out" 2>/dev/null || true
    rm -rf "$dir"
}
client_pid() { leader_or_child "$RUN/client$1/pid"; }
card_pid() { cat "$RUN/card$1/pid"; }
# The stock client forks off the one that does the work, as the server does.
leader_or_child() { pgrep -P "$(cat "$1")" | head -1 | grep . || cat "$1"; }

# ---- the link -----------------------------------------------------------------------------------------

# link_make: a link in place of client 1's wire, once. Offloads are off at its ends, as it carries frames only.
link_make() {
    [ ! -e "$RUN/link" ] || return 0
    mkdir "$RUN/link"
    cable_cut 1
    ns_make "$NS_LINK"
    ip link add up0 netns "$(ns_client 1)" gso_max_segs 1 type veth peer name near netns "$NS_LINK"
    ip link add c1 netns "$NS_SERVER" gso_max_segs 1 type veth peer name far netns "$NS_LINK"
    in_server ip addr add "$(addr_server 1)/24" dev c1
    in_client 1 ip addr add "$(addr_client 1)/24" dev up0
    ip -n "$NS_LINK" link set near up
    ip -n "$NS_LINK" link set far up
    in_server ip link set c1 up
    in_client 1 ip link set up0 up
    direct_routes
}

# link_command CELL: the program that is the link of a cell, in LINK; losses and death are for runs only.
link_command() {
    LINK=(ip netns exec "$NS_LINK" "$BENCH" link near far --rate-kbit 100000 --queue-bytes 250000)
    case $1 in delay20* | dead) LINK+=(--delay-us 10000) ;; esac
    case $1 in
    delay20-0.1) LINK+=(--loss-ppm 1000) ;;
    delay20-1) LINK+=(--loss-ppm 10000) ;;
    esac
}

# link_carries CELL on|off: between runs, without loss. Two of them at the same time would carry each frame twice.
link_carries() {
    [ "$1" != local ] || return 0
    if [ "$2" = on ]; then
        link_command "${1%-*}"
        rm -f "$RUN/link/out"
        spawn "$NS_LINK" "$RUN/link/out" "${LINK[@]:4}"
        echo "$SPAWNED" >"$RUN/link/pid"
        within 5 grep -qs '^link between' "$RUN/link/out" || fail "no link: $(tail -2 "$RUN/link/out")"
    else
        [ ! -e "$RUN/link/pid" ] || stop_group "$(cat "$RUN/link/pid")" TERM
        rm -f "$RUN/link/pid"
        [ -z "$(ip netns pids "$NS_LINK")" ] || fail 'a link goes on'
    fi
}

# ---- profile ------------------------------------------------------------------------------------------

tunnel_profile() {
    local end pid LABEL=super
    command -v perf >/dev/null || die 'perf is missing (Debian: linux-perf)'
    on ours near_on
    spawn "$(ns_client 4)" "$RUN/iperf" iperf3 -s
    within 5 in_client 1 ping -q -c 1 -W 1 "$(addr_inner 4)" >/dev/null || fail 'no ping comes back'
    in_client 1 iperf3 -c "$(addr_inner 4)" -R -t 12 | grep -E 'sender|receiver' &
    sleep 2
    for end in gets sends server; do
        case $end in gets) pid=$(card_pid 1) ;; sends) pid=$(card_pid 4) ;; server) pid=$(on ours system_pid) ;; esac
        perf record -q -F 999 -g -p "$pid" -o "$RUN/perf.$end" -- sleep 3 >/dev/null 2>&1
    done
    wait
    for end in gets sends server; do
        echo "== $end"
        perf script -i "$RUN/perf.$end" --fields comm,ip,sym,dso 2>/dev/null | python3 "$ROOT/scripts/lib/folded.py" "$RUN/folded.$end"
    done
    on ours near_off
}

# ---- report -------------------------------------------------------------------------------------------

# tunnel_report [ONLY]: with ONLY no files.
tunnel_report() {
    local -a out=(--out "$OUT")
    [ -z "$1" ] || out=()
    [ -z "$QUICK" ] || SUFFIX=quick${SUFFIX:+-$SUFFIX}
    python3 "$COMPARE_PY" report --lines "$LINES_FILE" "${out[@]}" --suffix "tunnel${SUFFIX:+-$SUFFIX}" \
        --figures "${ASKED[*]}" --rounds "$ROUNDS" --failed "$RUNS_FAILED" \
        --fact "command=scripts/compare $ARGUMENTS" --fact "idle=$IDLE" --fact "quiet=$QUIET" \
        --fact "hublane=$(commit)" --fact "rustc=$(cd "$ROOT" && rustc --version)" \
        --fact "kernel_line=$(grep -ho 'kernel: .*' "$RUN/ours/out" | head -1)" \
        --fact "softether=$(on stock stock_version)" --fact "haproxy=$(iperf3 --version | head -1)" \
        --fact "super_frames=$SUPER_FRAMES" --fact "systems=${TUNNEL_SYSTEMS[*]}" --fact "dead_rounds=$DEAD_ROUNDS" \
        --fact "config=$(hublane_config)"
}
