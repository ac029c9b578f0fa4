# shellcheck shell=bash
# scripts/compare nat: what a member's bytes to and from the Internet cost the server, side by side.
#
#   scripts/compare nat [--quick] [--rounds N] [--figure NAME]... [--system NAME]... [--suffix WORD] [--out FOLDER]
#
# Systems, all in the server's namespace at the same time, each with a stock client of its own:
#
#   snat-user     stock server, SecureNAT in user mode
#   snat-kernel   stock server, SecureNAT in kernel mode (raw sockets)
#   nft           stock server, hub bridged by a tap to the kernel, which forwards and masquerades
#   ours-nat      Hublane, gateway and NAT
#
# What a stream costs is the CPU time of the server's process. Where the kernel does the NAT, most of that work is not
# in the process: beside it stands the busy time of the whole machine, load included, which is the same for all.

NAT_PHASES=('nat-up nat-down nat-down-4 nat-ping' 'nat-idle nat-boot nat-connections nat-dhcp')
NAT_SYSTEMS='snat-user snat-kernel nft ours-nat'
NAT_ASKED=()
# System by client.
declare -A CLIENT_OF=([snat-user]=1 [snat-kernel]=2 [nft]=3 [ours-nat]=4)

compare_nat() {
    nat_arguments "$@"
    [ "$(nproc)" -ge 2 ] || die 'two CPUs are needed, one for the servers and one for the load'
    "$ROOT/scripts/setup" --compare
    hublane_build
    taskset -cp "$CPU_LOAD" $$ >/dev/null
    ulimit -n "$(ulimit -Hn)"
    net_up 4
    internet_up
    net_tune
    ns_cubic "$NS_INTERNET"
    LINES_FILE=$RUN/lines
    : >"$LINES_FILE"
    QUIET=$(python3 "$COMPARE_PY" idle --seconds 1)
    nat_systems_start
    IDLE=$(python3 "$COMPARE_PY" idle --seconds "$EACH" "${PIDS[@]}")
    note "idle: $IDLE"
    local phase
    for phase in "${NAT_PHASES[@]}"; do
        for ROUND in $(seq "$ROUNDS"); do nat_round "$phase"; done
    done
    nat_report || exit $?
}

nat_arguments() {
    local name
    COMPARE_PY=$ROOT/scripts/lib/compare_nat.py
    ROUNDS=5 EACH=5
    while [ $# -gt 0 ]; do
        case $1 in
        --quick) QUICK=yes ROUNDS=1 EACH=2 ;;
        --rounds) ROUNDS=$2 && shift ;;
        --figure) ASKED+=("$2") && shift ;;
        --system) NAT_ASKED+=("$2") && shift ;;
        --suffix) SUFFIX=$2 && shift ;;
        --out) OUT=$(realpath -- "$2") && shift ;;
        --list) tr ' ' '\n' <<<"${NAT_PHASES[*]}" && exit ;;
        *) die "unknown argument '$1'; see the head of scripts/lib/compare_nat.sh" ;;
        esac
        shift
    done
    for name in "${ASKED[@]}"; do
        [[ " ${NAT_PHASES[*]} " = *" $name "* ]] || die "no figure '$name'; --list names them"
    done
    for name in "${NAT_ASKED[@]}"; do
        [[ " $NAT_SYSTEMS " = *" $name "* ]] || die "no system '$name'; there are: $NAT_SYSTEMS"
    done
    [ ${#NAT_ASKED[@]} = 0 ] || NAT_SYSTEMS=${NAT_ASKED[*]}
    [[ $ROUNDS =~ ^[1-9][0-9]*$ ]] || die "--rounds takes a number, not '$ROUNDS'"
}

# Figures that are ours alone.
nat_alone() { case $1 in nat-idle | nat-boot | nat-connections | nat-dhcp) true ;; *) false ;; esac; }

nat_systems_start() {
    local system figure streams=''
    PIDS=()
    # shellcheck disable=SC2048 # words
    for figure in ${NAT_PHASES[*]}; do
        if wanted "$figure" && ! nat_alone "$figure"; then streams=yes; fi
    done
    [ -n "$streams" ] || return 0
    for system in $NAT_SYSTEMS; do
        on "$system" nat_system_start
        PIDS+=("$system=$(on "$system" system_pid)")
    done
}

# The system of `on`, and its client: logged in, with an address, the Internet within reach.
nat_system_start() {
    local n=${CLIENT_OF[$SERVER]}
    [ "$SERVER" != snat-kernel ] || snat_iptables
    system_start "$CPU_SERVER" "workers=$CPU_SERVER"
    case $SERVER in
    snat-user) snat_on user ;;
    nft) tap_nat_on ;;
    esac
    clients_want "$n"
    case $SERVER in
    snat-user) member_static "$n" 192.168.30.50/24 192.168.30.1 ;;
    snat-kernel)
        # Its test of the way out begins when somebody is in the hub.
        snat_on kernel
        member_static "$n" 192.168.30.50/24 192.168.30.1
        ;;
    nft) member_static "$n" 100.64.0.50/16 "$INSIDE_GATEWAY" ;;
    ours-nat) member_dhcp "$n" ;;
    esac
    within 15 nat_reaches "$n" || fail "client $n of $SERVER does not reach the Internet"
}
nat_reaches() { in_client "$1" timeout 5 curl -sS -m 4 "http://$INTERNET_HOST/" >/dev/null 2>&1; }

nat_round() {
    local figure system
    for figure in $1; do
        wanted "$figure" || continue
        if nat_alone "$figure"; then
            [[ " $NAT_SYSTEMS " != *' ours-nat '* ]] || "figure_${figure//-/_}"
            continue
        fi
        # shellcheck disable=SC2086 # words
        for system in $(rotated "$ROUND" $NAT_SYSTEMS); do
            case $figure in
            nat-up) on "$system" nat_stream "$figure" -P 1 ;;
            nat-down) on "$system" nat_stream "$figure" -P 1 -R ;;
            nat-down-4) on "$system" nat_stream "$figure" -P 4 -R ;;
            nat-ping) on "$system" nat_ping "$figure" ;;
            esac
        done
    done
}

# nat_stream FIGURE [OPTIONS of iperf3]: TCP between the client of the system of `on` and the Internet.
nat_stream() {
    local figure=$1 n=${CLIENT_OF[$SERVER]}
    shift
    internet_iperf
    measure "$figure" python3 "$COMPARE_PY" download --server-pid "$(system_pid)" \
        --tls "$(client_status "$n" Encryption | sed 's/.*: \(.*\))/\1/')" -- \
        ip netns exec "$(ns_client "$n")" timeout $((EACH + 15)) iperf3 -c "$INTERNET_HOST" -t "$EACH" -J "$@"
    traffic_stop
}

# nat_ping FIGURE: round trips to the Internet while nothing else happens.
nat_ping() {
    measure "$1" python3 "$COMPARE_PY" echoes --server-pid "$(system_pid)" \
        --netns "$(ns_client "${CLIENT_OF[$SERVER]}")" --to "$INTERNET_HOST" --seconds "$EACH"
}

nat_report() {
    local -a out=(--out "$OUT")
    [ ${#ASKED[@]} = 0 ] && [ ${#NAT_ASKED[@]} = 0 ] || out=()
    [ -z "$QUICK" ] || SUFFIX=quick${SUFFIX:+-$SUFFIX}
    python3 "$COMPARE_PY" report --lines "$LINES_FILE" "${out[@]}" --suffix "nat${SUFFIX:+-$SUFFIX}" \
        --figures "${ASKED[*]:-${NAT_PHASES[*]}}" --rounds "$ROUNDS" --failed "$RUNS_FAILED" \
        --fact "command=scripts/compare $ARGUMENTS" --fact "idle=$IDLE" --fact "quiet=$QUIET" \
        --fact "hublane=$(commit)" --fact "rustc=$(cd "$ROOT" && rustc --version)" \
        --fact "kernel_line=$(grep -ho 'kernel: .*' "$RUN/ours-nat/out" 2>/dev/null | head -1)" \
        --fact "softether=$(on snat-user stock_version)" --fact "haproxy=nftables $(nft --version | sed 's/.*v\([^ ]*\).*/\1/')" \
        --fact "config=$(nat_server_config)"
}
