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
# --quick: one short round with a tenth of the members.
#
# What a stream costs is the CPU time of the server's process. Where the kernel does the NAT, most of that work is not
# in the process: beside it stands the busy time of the whole machine, load included, which is the same for all.

NAT_PHASES=('nat-up nat-down nat-down-4 nat-ping' 'nat-idle nat-boot nat-connections nat-dhcp')
NAT_SYSTEMS='snat-user snat-kernel nft ours-nat'
NAT_ASKED=()
NAT_MEMBERS=5000
NAT_FLOWS=100
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
    IDLE='none is running'
    [ ${#PIDS[@]} = 0 ] || IDLE=$(python3 "$COMPARE_PY" idle --seconds "$EACH" "${PIDS[@]}")
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
        --quick) QUICK=yes ROUNDS=1 EACH=2 NAT_MEMBERS=500 NAT_FLOWS=20 ;;
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

# ---- ours alone, a server of its own for each run -----------------------------------------------------

# nat_anew CMD...: CMD with a server of ours that has seen nobody yet, and goes afterwards.
nat_anew() {
    # shellcheck disable=SC2034 # used by nat_server_config
    local WAN_NAT=$WAN_NAT_ANEW LABEL=ours-nat
    on ours-nat-anew nat_users
    on ours-nat-anew system_start "$CPU_SERVER" "workers=$CPU_SERVER" "state=crowd"
    on ours-nat-anew "$@"
    on ours-nat-anew server_stop TERM
    rm -rf "${RUN:?}/ours-nat-anew"
}

# A state with u1 to u4, and m1, m2 ... for the generator: NATs and DHCP servers know members by their users.
nat_users() {
    local dir=$RUN/$SERVER n
    if [ ! -e "$RUN/crowd.json" ]; then
        mkdir -m 700 -p "$RUN/crowd"
        for n in 1 2 3 4; do
            printf 'secret-%s\n' "$n" | "$HUBLANE" user add "u$n" --state "$RUN/crowd" --password-stdin >/dev/null
        done
        python3 "$COMPARE_PY" users --file "$RUN/crowd/users.json" --password secret-1 --count "$NAT_MEMBERS"
        mv "$RUN/crowd/users.json" "$RUN/crowd.json"
    fi
    mkdir -p "$dir"
    mkdir -m 700 "$dir/crowd"
    install -m 600 "$RUN/crowd.json" "$dir/crowd/users.json"
}

figure_nat_idle() { nat_anew measure_rest; }
measure_rest() {
    sleep 2
    measure nat-idle python3 "$COMPARE_PY" rest --server-pid "$(system_pid)" --seconds $((2 * EACH))
}

# In 9 of the 10 seconds members begin, so that the last one has a second.
figure_nat_boot() { LOAD_USER=m LIMIT=300 nat_anew bench nat-boot nat --members "$NAT_MEMBERS" --numbered-users --boot-seconds 9; }

figure_nat_connections() {
    # shellcheck disable=SC2034 # used by nat_server_config
    local NAT_CROWD=yes
    internet_echo
    LOAD_USER=m LIMIT=500 nat_anew bench nat-connections nat --members "$NAT_MEMBERS" --numbered-users \
        --boot-seconds 9 --flows "$NAT_FLOWS" --target "$ECHO_FIRST" --targets 100 --rate 20000
    traffic_stop
}

# perfdhcp asks as a relay does, from the virtual NIC of a client in bridge mode: behind other ports there are no relays.
# Its address is nobody's lease, so that the gateway answers it by ARP and DHCP, and not to ping.
figure_nat_dhcp() { nat_anew measure_dhcp; }
measure_dhcp() {
    local n=4 dir=$CACHE/kea
    [ -x "$dir/usr/sbin/perfdhcp" ] || die 'perfdhcp is missing: scripts/setup --compare'
    rm -f "$RUN/client$n/want"
    clients_want "$n" bridge=yes
    member_address_is "$n" "$RELAY_ADDRESS/16"
    within 15 member_arps "$n" "$INSIDE_GATEWAY" || fail "client $n gets no answer by ARP from $INSIDE_GATEWAY"
    measure nat-dhcp python3 "$COMPARE_PY" exchanges --server-pid "$(system_pid)" --period "$EACH" \
        --netns "$(ns_client "$n")" -- env "LD_LIBRARY_PATH=$dir/usr/lib/$(uname -m)-linux-gnu" KEA_LOCKFILE_DIR=none \
        "$dir/usr/sbin/perfdhcp" -4 -r 2500 -R "$NAT_MEMBERS" -p "$EACH" -W 1000000 -l "$RELAY_ADDRESS" "$INSIDE_GATEWAY"
    client_offline "$n"
    rm -f "$RUN/client$n/want"
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
