# shellcheck shell=bash
# `scripts/interop bad`: our own card (`hublane connect`) and what it should not meet: proxies and servers that answer badly or
# not at all, sizes that are lies, another certificate, no device. Each time: a sentence that says what it is, the exit code or
# another attempt that docs/connect.md promises, no memory that grows, and the machine's own network as it was before.
# Sourced by scripts/interop.
#
#   scripts/interop bad [--row NAME]... [--list]

BAD_ROWS=(proxy-answers proxy-cut server-answers server-silence sizes-login sizes-stream terminal certificate-changed
    one-connection two-servers tun-missing tun-forbidden second-instance other-device refused)

# shellcheck source=scripts/lib/interop_client.sh
. "$LIB/interop_client.sh"

PEER_PORT=6443
MEMORY_GROWTH_KIB=16384

interop_bad() {
    local name
    rows_asked "$LIB/interop_bad.sh" "" "${BAD_ROWS[@]}" -- "$@"
    hublane_build
    "$ROOT/scripts/setup"
    net_up 2
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=bad -keyout "$RUN/bad.key" -out "$RUN/bad.pem" 2>/dev/null
    within 5 carrier || fail 'the cable to client 1 does not come up'
    table_head 'card, bad input'
    for name in "${ASKED_ROWS[@]}"; do
        row "$name" bad_row "$name"
        traffic_stop
        cards_stop KILL
        peer_stop
    done
    table_end
}

# bad_row NAME: with the network of client 1 looked at before and after.
bad_row() {
    mkdir -p "$RUN/card1"
    rm -f "$RUN/card1/known" "$RUN/card1/password"
    network >"$RUN/network-before"
    "bad_row_${1//-/_}"
    cards_stop TERM
    network_is_as_before
}

# network: everything of client 1 that a card could have changed.
network() {
    in_client 1 bash -c 'ip -o link; ip -o addr; ip route show table all; ip -6 route show table all; ip rule; ip -6 rule
        sha256sum /etc/resolv.conf; sysctl -a 2>/dev/null | grep -E "^net\.ipv[46]\.(conf|ip_forward)" | grep -v "\.hub"'
}
carrier() { in_client 1 ip -o link show up0 | finds 'state UP'; }
network_is_as_before() {
    network >"$RUN/network-after"
    diff "$RUN/network-before" "$RUN/network-after" >"$RUN/network-diff" || fail "the network is not as before: $(head -3 "$RUN/network-diff")"
}

# ---- peers --------------------------------------------------------------------------------------------

# peer MODE [ARGUMENT...]: in the server's namespace a peer of that kind serves; it says on $RUN/peer/out what happens.
peer() {
    peer_stop
    mkdir -p "$RUN/peer"
    rm -f "$RUN/peer/out"
    SPAWN_BY=(env "BADPEER_CERT=$RUN/bad.pem" "BADPEER_KEY=$RUN/bad.key")
    spawn "$NS_SERVER" "$RUN/peer/out" python3 "$LIB/badpeer.py" "$(addr_server 1)" $PEER_PORT "$@"
    # shellcheck disable=SC2034 # spawn has it
    SPAWN_BY=()
    echo "$SPAWNED" >"$RUN/peer/pid"
    within 10 finds -x listening "$RUN/peer/out" || fail "the peer $1 does not start: $(tail -1 "$RUN/peer/out")"
}
peer_stop() {
    [ -e "$RUN/peer/pid" ] || return 0
    stop_group "$(cat "$RUN/peer/pid")" KILL || true
    rm -f "$RUN/peer/pid"
}
calls() { grep -cx call "$RUN/peer/out" || true; }
called() { [ "$(calls)" -ge "$1" ]; }

# bad_card [OPTIONS...]: card 1 is started against the peer, or with --via against our server through it.
bad_card() {
    local to
    to=$(addr_server 1):$PEER_PORT
    [[ " $* " != *' --via '* ]] || to=$(addr_server 1):$SERVER_PORT
    rm -f "$RUN/card1/out"
    (umask 077 && echo secret-1 >"$RUN/card1/password")
    spawn "$(ns_client 1)" "$RUN/card1/out" "$HUBLANE" connect "$to" --user u1 --password-file "$RUN/card1/password" \
        --device "$NIC" --insecure "$@"
    echo "$SPAWNED" >"$RUN/card1/pid"
}
card_pid() { cat "$RUN/card1/pid"; }
card_says() { finds -F -e "$1" "$RUN/card1/out"; }
card_kib() { awk '/^VmRSS:/ { print $2 }' "/proc/$(card_pid)/status"; }

# says MODE WORDS [SECONDS]: the card waits after WORDS, calls again, and ends in good order.
says() {
    local mode=$1 words=$2
    within "${3:-8}" card_says "$words" || fail "$mode: says $(tail -1 "$RUN/card1/out"), not '$words'"
    finds '"event":"waiting"' "$RUN/card1/out" || fail "$mode: does not wait for another attempt"
    ends_well "$mode"
}
ends_well() {
    local pid
    pid=$(card_pid)
    gone "$pid" && fail "$1: the program has ended: $(tail -1 "$RUN/card1/out")"
    kill -TERM "$pid"
    within 5 gone "$pid" || fail "$1: does not end by SIGTERM"
    card_has 1 ended || fail "$1: ends without saying so: $(tail -1 "$RUN/card1/out")"
    rm -f "$RUN/card1/pid"
    if finds -i panicked "$RUN/card1/out"; then fail "$1: $(grep -i panicked "$RUN/card1/out")"; fi
    network_is_as_before
}

# meets MODE WORDS [OPTIONS...]: a peer of that kind; the card calls twice and says WORDS.
meets() {
    local mode=$1 words=$2
    shift 2
    peer "$mode"
    bad_card "$@"
    within 25 called 2 || fail "$mode: no second call: $(tail -1 "$RUN/card1/out")"
    says "$mode" "$words"
    detail "$mode"
}

# ---- rows: proxies ------------------------------------------------------------------------------------

bad_row_proxy_answers() {
    local way user
    way=http://$(addr_server 1):$PEER_PORT
    user=http://me@$(addr_server 1):$PEER_PORT
    # Where a password would help, none is there, and nobody can be asked.
    meets proxy-407 'wants a user and a password' --via "$way"
    (umask 077 && echo wrong >"$RUN/card1/proxy-password")
    meets proxy-407 'does not take this password of me' --via "$user" --proxy-password-file "$RUN/card1/proxy-password"
    meets proxy-smtp 'it begins with' --via "$way"
    meets proxy-half-end 'in the middle of its answer' --via "$way"
    meets proxy-ends 'without an answer' --via "$way"
    meets proxy-headers 'headers without end' --via "$way"
    meets proxy-403 'does not allow' --via "$way"
    # 15 s each; the second call is not waited for.
    peer proxy-half
    bad_card --via "$way"
    says proxy-half 'does not finish its answer within 15.0 s' 18
    peer proxy-silent
    bad_card --via "$way"
    says proxy-silent 'says nothing within 15.0 s' 18
    detail 'half an answer, none: 15 s'
}

# A proxy that ends what has lasted 4 s: the session goes on by another connection, and so does what is inside.
bad_row_proxy_cut() {
    local answered
    server_wants
    peer proxy-cut 4
    bad_card --via "http://$(addr_server 1):$PEER_PORT" --address "$(addr_inner 1)/24"
    within 10 card_has 1 connected || fail "no session: $(tail -1 "$RUN/card1/out")"
    card_start 2 --address "$(addr_inner 2)/24"
    rm -f "$RUN/ping1"
    load 1 "$RUN/ping1" ping -n -i 0.1 -c 130 "$(addr_inner 2)"
    within 20 card_has 1 attached 3 || fail "not three times attached again: $(tail -1 "$RUN/card1/out")"
    within 10 finds 'packets transmitted' "$RUN/ping1" || fail 'ping does not end'
    answered=$(sed -n 's/.* \([0-9]*\) received.*/\1/p' "$RUN/ping1")
    detail "$(card_count 1 lost) connections cut, $answered of 130 pings answered"
    [ "$(card_count 1 connected)" = 1 ] || fail 'it had to log in again'
    [ "$answered" -ge 110 ] || fail "only $answered of 130 pings are answered"
    card_stop 2
    ends_well proxy-cut
}

# ---- rows: servers ------------------------------------------------------------------------------------

bad_row_server_answers() {
    meets closes 'closed the connection'
    meets smtp 'TLS'
    meets smtp-inside 'does not speak HTTP'
    meets web 'HTTP status 404; is it a VPN server?'
    meets hello-bare 'lacks \"random\"'
    meets welcome-bare 'lacks \"session_key\"'
    meets unencrypted 'without encryption'
    meets noops 'nothing but NOOPs'
    meets code-unknown 'with code 4000000000'
    peer_stop
    bad_card
    says nobody 'nothing listens there'
    detail 'nobody there'
}

# None of them holds it for longer than a login may take.
bad_row_server_silence() {
    local mode
    for mode in silent half-hello silent-inside half-answer; do
        peer $mode
        bad_card
        says $mode 'says nothing for 15 s' 18
        detail "$mode"
    done
    peer drip
    bad_card
    says drip 'was not set up within 60 s' 65
    detail drip
}

bad_row_sizes_login() {
    meets length-huge 'HTTP body too large'
    meets length-negative 'not a valid HTTP message'
    meets headers-endless 'HTTP head too large'
    meets line-endless 'HTTP head too large'
    meets pack-elements 'PACK'
    meets pack-values 'PACK'
    meets pack-bytes 'PACK'
    meets pack-name 'PACK'
    # Numbers that cannot be meant are brought into range.
    peer welcome-numbers
    bad_card
    within 8 card_has 1 connected || fail "no session: $(tail -1 "$RUN/card1/out")"
    finds '"connections":2,' "$RUN/card1/out" || fail "more connections than asked for: $(tail -1 "$RUN/card1/out")"
    ends_well welcome-numbers
    detail welcome-numbers
}

# The connection is closed for its reason, and the next login comes; or it is borne. Either way nothing grows.
bad_row_sizes_stream() {
    lies block-huge block_too_long
    lies block-3201 block_too_long
    lies keep-alive-huge keep_alive_too_long
    lies keep-alive-513 keep_alive_too_long
    lies blocks-empty
    lies keep-alives
    lies inflate-bomb '' --compress
    lies frames-flood
}

# lies MODE [REASON] [OPTIONS...]: closed for REASON, or borne for its 6 s.
lies() {
    local mode=$1 reason=${2:-} before grown
    shift $(($# > 2 ? 2 : $#))
    peer "$mode"
    bad_card "$@"
    within 8 card_has 1 connected || fail "$mode: no session: $(tail -1 "$RUN/card1/out")"
    before=$(card_kib)
    if [ -n "$reason" ]; then
        within 4 finds "\"reason\":\"$reason\"" "$RUN/card1/out" || fail "$mode: not closed as $reason: $(tail -1 "$RUN/card1/out")"
        within 15 card_has 1 connected 2 || fail "$mode: no login after that: $(tail -1 "$RUN/card1/out")"
    else
        sleep 6
        card_has 1 lost && fail "$mode: $(grep '"lost"' "$RUN/card1/out" | head -1)"
    fi
    grown=$(($(card_kib) - before))
    [ $grown -lt $MEMORY_GROWTH_KIB ] || fail "$mode: $grown KiB more memory"
    ends_well "$mode"
    detail "$mode ${reason:-borne}, $grown KiB"
}

# What a server says is shown to people only as text.
bad_row_terminal() {
    peer welcome-texts
    rm -f "$RUN/card1/out"
    (umask 077 && echo secret-1 >"$RUN/card1/password")
    spawn "$(ns_client 1)" "$RUN/card1/raw" script -qfc "$HUBLANE connect $(addr_server 1):$PEER_PORT --user u1 \
        --password-file $RUN/card1/password --device $NIC --insecure" "$RUN/card1/typescript"
    echo "$SPAWNED" >"$RUN/card1/pid"
    within 10 finds -a 'connected: ' "$RUN/card1/typescript" || fail "no session: $(tail -1 "$RUN/card1/typescript")"
    sleep 1
    # Its own line of state begins with CR and "erase line", and is cut off at the edge; nothing else moves a terminal.
    if tr -d '\r\n' <"$RUN/card1/typescript" | sed 's/\x1b\[\(K\|?7[lh]\)//g' | finds -aP '[\x00-\x08\x0b-\x1f\x7f]'; then
        fail "control characters: $(grep -aoP '[\x00-\x08\x0b-\x1f].{8}' "$RUN/card1/typescript" | head -2 | od -c | head -2)"
    fi
    detail "$(wc -c <"$RUN/card1/typescript") bytes, none that moves the terminal"
}

# The server comes back with another certificate: nothing is said to it, the device stays, and with the old one it goes on.
bad_row_certificate_changed() {
    server_wants
    card_start 1 --address "$(addr_inner 1)/24"
    server_stop TERM
    mkdir -p "$RUN/server/kept"
    mv "$RUN/server/state"/certificate-*.pem "$RUN/server/kept/"
    server_start
    within 20 card_says 'another certificate than before' || fail "says $(tail -1 "$RUN/card1/out")"
    in_client 1 ip -4 -br addr show "$NIC" | finds "$(addr_inner 1)/24" || fail 'the device has lost its address'
    [ -z "$(server_sessions)" ] || fail 'it has logged in all the same'
    card_has 1 failed && fail 'it has given up'
    # A program that is started now is told the same, and ends.
    card_fails 4 'another certificate than before' --device other
    server_stop TERM
    mv "$RUN/server/kept"/certificate-*.pem "$RUN/server/state/"
    server_start
    within 40 card_has 1 connected 2 || fail "it does not come back: $(tail -1 "$RUN/card1/out")"
    card_stop 1
}

# A firewall that lets one connection through: the card has what it can have, and asks for the other ever more seldom.
bad_row_one_connection() {
    server_wants
    in_server nft "add table ip wall; add chain ip wall in { type filter hook input priority 0; };
        add rule ip wall in iifname c1 tcp dport $SERVER_PORT ct state new ct count over 1 reject with tcp reset"
    card_start 1 --address "$(addr_inner 1)/24"
    card_start 2 --address "$(addr_inner 2)/24"
    within 10 card_has 1 not_attached 3 || fail "the wall is open: $(tail -1 "$RUN/card1/out")"
    ping_check 1 2
    sleep 10
    in_server nft 'delete table ip wall'
    [ "$(card_count 1 not_attached)" -le 6 ] || fail "$(card_count 1 not_attached) attempts"
    [ "$(card_count 1 connected)" = 1 ] && ! card_has 1 lost || fail 'it has given up what it had'
    detail "$(card_count 1 not_attached) attempts"
}

# One address, two servers that take turns: the other one does not know the session, which goes on all the same.
bad_row_two_servers() {
    local port=$SERVER_PORT
    server_wants
    mkdir -p "$RUN/other"
    cp -a "$RUN/server/state" "$RUN/other/state"
    SERVER=other SERVER_PORT=$((port + 1)) hublane_start
    in_server nft "add table ip turns; add chain ip turns in { type nat hook prerouting priority dstnat; };
        add rule ip turns in iifname c1 tcp dport $port numgen inc mod 2 1 redirect to :$((port + 1))"
    card_start 1 --address "$(addr_inner 1)/24"
    within 5 card_says 'the session is not known there' || fail "says $(tail -1 "$RUN/card1/out")"
    sleep 5
    in_server nft 'delete table ip turns'
    card_start 2 --address "$(addr_inner 2)/24"
    ping_check 1 2
    [ "$(card_count 1 connected)" = 1 ] && [ "$(card_count 1 not_attached)" = 1 ] || fail "it has not kept to what it had: $(tail -2 "$RUN/card1/out")"
    SERVER=other server_stop TERM
}

# ---- rows: devices ------------------------------------------------------------------------------------

# A kernel, or a container, without it.
bad_row_tun_missing() {
    card_command 1
    device_fails '/dev/net/tun is not there' unshare --mount sh -c 'mount -t tmpfs none /dev/net && exec "$@"' sh "${CARD[@]}"
}

# Root without CAP_NET_ADMIN, and somebody without any right.
bad_row_tun_forbidden() {
    card_command 1
    device_fails 'is not permitted' setpriv --bounding-set=-net_admin "${CARD[@]}"
    device_fails 'is not permitted' setpriv --reuid 65534 --clear-groups --inh-caps=-all env HUBLANE_PASSWORD=x "$HUBLANE" connect \
        "$(addr_server 1):$SERVER_PORT" --user u1 --insecure
}

# device_fails WORDS COMMAND...: it ends with 5 and says WORDS, before anybody is called.
device_fails() {
    local words=$1 rc=0
    shift
    in_client 1 timeout 20 "$@" >"$RUN/card1/said" 2>&1 </dev/null || rc=$?
    [ $rc = 5 ] || fail "exit code $rc, not 5: $(tail -1 "$RUN/card1/said")"
    finds -F -e "$words" "$RUN/card1/said" || fail "says $(tail -1 "$RUN/card1/said"), not '$words'"
    if finds '"event":"connecting"' "$RUN/card1/said"; then fail 'it has called the server before'; fi
    network_is_as_before
    detail "exit 5: $words"
}

# The second one ends; the first one does not notice.
bad_row_second_instance() {
    server_wants
    cards
    ping_check 1 2
    network >"$RUN/network-now"
    card_fails 5 'is in use' --address 10.99.99.9/24
    network | diff "$RUN/network-now" - >"$RUN/network-diff" || fail "the second one has changed: $(head -3 "$RUN/network-diff")"
    ping_check 1 2
    [ "$(card_count 1 connected)" = 1 ] || fail 'the first one had to log in again'
    card_stop 1
    card_stop 2
}

# A device of another kind that happens to have the name stays as it is.
bad_row_other_device() {
    in_client 1 ip link add other type veth peer name others-end
    in_client 1 ip addr add 10.98.0.1/24 dev other
    in_client 1 ip link set other up
    network >"$RUN/network-before"
    card_command 1 --device other --address 10.97.0.1/24
    device_fails 'no TAP device' "${CARD[@]}"
    card_command 1 --bridge nowhere
    device_fails 'no bridge of that name' "${CARD[@]}"
    card_command 1 --dhcp
    device_fails 'none of them is installed' env PATH=/nowhere "${CARD[@]}"
    in_client 1 ip link del other
    network >"$RUN/network-before"
}

# Refused for good when the device has its addresses already: all of it is gone afterwards.
bad_row_refused() {
    server_wants
    (umask 077 && echo wrong >"$RUN/card1/wrong")
    card_fails 5 'IPv6 is switched off' --address fd97::1/64
    in_client 1 sysctl -qw net.ipv6.conf.default.disable_ipv6=0
    network >"$RUN/network-before"
    card_fails 3 'code 9' --password-file "$RUN/card1/wrong" --address 10.97.0.1/24 --address fd97::1/64
    card_fails 3 'code 8' --hub NOWHERE --address 10.97.0.1/24
}
