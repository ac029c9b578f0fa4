# shellcheck shell=bash
# scripts/demo nat: two members get everything from the gateway, reach the Internet and each other, and nothing else.
#
# The kernel of the server must not take part. It is asked by its own counters, with a packet filter that only counts:
# every packet that its IP receives (IpInReceives) must have come by an interface of the tunnel, none by the one that
# the NAT uses, and it forwards none (IpForwDatagrams). The filter also makes it track connections; those of the
# tunnel it finds, those of members it must not.

PROBE=$ROOT/scripts/lib/natprobe.py
# Reasons of drops that are the NAT's or the gateway's own.
OUR_DROPS='^(nat|gateway|egress|lane|dhcp|dns)_'
# Behind the uplink, for the host and nobody else: metadata of a cloud, and the operator's network.
FORBIDDEN='169.254.169.254 10.99.0.1 192.168.77.1 172.16.5.5'
BACK_SECONDS=30

# demo_begin NAME: everything but the server, and the head of the table.
demo_begin() {
    "$ROOT/scripts/setup"
    # shellcheck source=/dev/null
    . "$ROOT/scripts/lib/dhcp.sh"
    hublane_build
    net_up 2
    internet_up
    operators_network
    table_head "$1"
}

demo_nat() {
    demo_begin 'demo nat'
    row server nat_server
    row clients start_clients
    row addresses nat_addresses
    row 'names, UDP and TCP' nat_names
    row ping nat_ping_all
    row 'iperf3 both ways' nat_iperf
    row 'kernel stays out' nat_kernel_flat
    row 'hairpin UDP' nat_hairpin
    row 'hairpin TCP' nat_hairpin --tcp
    row 'forbidden targets' nat_forbidden
    row 'loopback addresses' nat_loopback
    row 'host and its ports' nat_host
    row dhclient nat_dhcp_client dhclient
    row udhcpc nat_dhcp_client udhcpc
    row dhcpcd nat_dhcp_client dhcpcd
    row 'reserved address' nat_reserved
    row 'kill -9 under load' nat_kill
    row 'user blocked' nat_block
    echo
    row 'dhcp list' nat_list dhcp list
    row 'nat list' nat_list nat list
    row 'nat stats' nat_list nat stats
    echo
    table_end
}

operators_network() {
    local address
    for address in $FORBIDDEN; do in_internet ip addr add "$address/32" dev lo; done
}

nat_server() {
    local address
    # shellcheck disable=SC2086 # words
    server_wants ${NAT_SERVER_OPTIONS:-workers=0-1}
    # What a member must not reach is there, and the host does reach it.
    for address in $INTERNET_HOST $FORBIDDEN; do
        in_server curl -sS -m 3 -o /dev/null "http://$address/" || fail "the host itself does not reach $address"
    done
    kernel_watch
    detail "gateway $INSIDE_GATEWAY, NAT $WAN_NAT on $WAN; the host reaches $FORBIDDEN"
}

nat_addresses() {
    member_dhcp 1 udhcpc
    member_dhcp 2 dhclient
    detail "client 1: $(member_address 1) by udhcpc, client 2: $(member_address 2) by dhclient"
    [ "$(member_address "$RESERVED_USER")" = "$RESERVED_ADDRESS" ] || fail "user u$RESERVED_USER has not got the address kept for him, $RESERVED_ADDRESS"
    [ "$(member_address 1)" != "$(member_address 2)" ] || fail 'both have the same address'
}

nat_names() {
    local how said
    for how in '' --tcp; do
        # shellcheck disable=SC2086 # no argument if empty
        said=$(in_client 1 python3 "$PROBE" resolve "$INSIDE_GATEWAY" www.example.net $how) || fail "no answer of $INSIDE_GATEWAY${how:+ by TCP}"
        [ "$said" = "$INTERNET_HOST" ] || fail "www.example.net is $said"
    done
    detail "$INSIDE_GATEWAY says www.example.net is $said"
}

nat_ping_all() {
    local n target out
    for n in 1 2; do
        for target in "$INSIDE_GATEWAY" "$INTERNET_HOST"; do
            out=$(in_client "$n" ping -n -q -c 5 -i 0.2 -W 2 "$target") || fail "client $n does not reach $target: $(tail -2 <<<"$out" | head -1)"
            detail "client $n -> $target $(sed -n 's|^rtt [^=]*= [^/]*/\([^/]*\)/.*|\1|p' <<<"$out") ms"
        done
    done
}

# nat_iperf [SECONDS]: client 1 and the Internet, TCP both ways at once.
nat_iperf() {
    local rates
    internet_iperf
    in_client 1 timeout 30 iperf3 -c "$INTERNET_HOST" -t "${1:-3}" --bidir -J >"$RUN/iperf.json" 2>/dev/null || true
    traffic_stop
    rates=$(iperf_rates "$RUN/iperf.json") || fail "iperf3 client 1 <-> Internet: $rates"
    detail "tcp $rates Mbit/s"
}

# ---- what the kernel saw ------------------------------------------------------------------------------

kernel_watch() {
    in_server nft -f - <<-EOR
		table ip watch {}
		delete table ip watch
		table ip watch {
		    counter nat {}
		    counter wan {}
		    counter others {}
		    chain arrivals {
		        type filter hook prerouting priority raw;
		        iifname "$WAN" ip daddr $WAN_NAT counter name nat
		        iifname "$WAN" counter name wan
		        iifname != "$WAN" counter name others
		    }
		    chain connections {
		        type filter hook prerouting priority filter;
		        ct state established accept
		    }
		}
	EOR
}
# kernel_counts FILE: name=value lines.
kernel_counts() {
    {
        in_server nstat -asz IpInReceives IpForwDatagrams | awk '/^Ip/ { print $1 "=" $2 }'
        in_server nft -j list counters table ip watch | json '"\n".join("%s=%d" % (c["counter"]["name"], c["counter"]["packets"]) for c in d["nftables"] if "counter" in c)'
        echo "conntrack=$(in_server cat /proc/sys/net/netfilter/nf_conntrack_count)"
    } >"$1"
}
kernel_grew() { echo $(($(sed -n "s/^$1=//p" "$RUN/kernel.after") - $(sed -n "s/^$1=//p" "$RUN/kernel.before"))); }

nat_kernel_flat() {
    local name i
    kernel_counts "$RUN/kernel.before"
    nat_iperf 2
    for i in $(seq 50); do
        in_client 1 curl -sS -m 5 -o /dev/null "http://$INTERNET_HOST/" || fail "fetch $i of 50 failed"
    done
    kernel_counts "$RUN/kernel.after"
    for name in IpInReceives IpForwDatagrams nat wan others conntrack; do
        note "$name: $(sed -n "s/^$name=//p" "$RUN/kernel.before") -> $(sed -n "s/^$name=//p" "$RUN/kernel.after")"
    done
    detail "50 pages fetched; IpForwDatagrams +$(kernel_grew IpForwDatagrams), packets for $WAN_NAT in the host's IP +$(kernel_grew nat), any by $WAN +$(kernel_grew wan)"
    detail "IpInReceives +$(kernel_grew IpInReceives), of the tunnel +$(kernel_grew others); conntrack +$(kernel_grew conntrack)"
    [ "$(kernel_grew IpForwDatagrams)" = 0 ] || fail 'the kernel forwarded packets'
    [ "$(kernel_grew nat)" = 0 ] || fail "packets for $WAN_NAT reached the host's IP"
    # Both are read one after the other, while keep-alives of the tunnel come.
    holds "$(kernel_grew IpInReceives) - $(kernel_grew others) - $(kernel_grew wan) < 10" || fail 'the host received packets that are not of the tunnel'
    holds "$(kernel_grew wan) < 10" || fail "packets by $WAN reached the host's IP"
    holds "$(kernel_grew conntrack) < 10" || fail 'the kernel tracks connections of members'
    [ -z "$(in_server grep -F "$WAN_NAT" /proc/net/nf_conntrack 2>/dev/null)" ] || fail "the kernel tracks a connection of $WAN_NAT"
}

# ---- each other ---------------------------------------------------------------------------------------

# nat_hairpin [--tcp]: client 2 waits behind its public endpoint, client 1 calls there.
nat_hairpin() {
    local file=$RUN/hairpin${1:-} said
    rm -f "$file"*
    load 2 "$file.out" python3 "$PROBE" listen "$INTERNET_HOST" 4242 "$file" ${1:+"$1"}
    said=$(in_client 1 python3 "$PROBE" call "$INTERNET_HOST" 4343 "$file" 'hello, neighbour' ${1:+"$1"} 2>&1) ||
        fail "client 1 does not reach client 2 by its public endpoint: $said; $(tail -1 "$file.out")"
    traffic_stop
    [[ $said = "$WAN_NAT "*" -> $WAN_NAT "* ]] || fail "not from and to $WAN_NAT: $said"
    detail "$said, and back"
}

# ---- what must fail -----------------------------------------------------------------------------------

drops_now() { hublane_ask status --json | json '"\n".join("%s %d" % item for item in d["drops"].items())' | sort; }

# refused_by_name TARGET CMD...: CMD, of client 1, must fail, and a reason of ours must count it.
refused_by_name() {
    local target=$1 names
    shift
    drops_now >"$RUN/drops.before"
    if "$@" >"$RUN/said" 2>&1; then fail "client 1 reaches $target: $(head -1 "$RUN/said")"; fi
    drops_now >"$RUN/drops.after"
    names=$(join "$RUN/drops.before" "$RUN/drops.after" | awk -v ours="$OUR_DROPS" '$3 > $2 && $1 ~ ours { printf "%s%s +%d", sep, $1, $3 - $2; sep = ", " }')
    [ -n "$names" ] || fail "$target: it failed ($(head -1 "$RUN/said")), but no reason says why"
    detail "$target: $names"
}
# Whatever answers, by whatever certificate, has been reached.
fetch_by_1() { in_client 1 curl -sSk -m 3 -o /dev/null "$1"; }

nat_forbidden() {
    local address
    for address in $FORBIDDEN; do
        in_client 1 ip route replace "$address/32" via "$INSIDE_GATEWAY" dev "$NIC"
        refused_by_name "$address" fetch_by_1 "http://$address/"
    done
}

# The member's own kernel would keep a packet to 127.0.0.1, so it is written by hand.
nat_loopback() {
    local address
    in_client 1 ping -n -q -c 1 -W 2 "$INSIDE_GATEWAY" >/dev/null || fail 'the gateway does not answer' # its card is known then
    for address in 127.0.0.1 127.9.9.9 0.0.0.0 255.255.255.255 224.0.0.1; do
        refused_by_name "$address" syn_by_1 "$address" "$SERVER_PORT"
    done
}
# True only if somebody lets it in.
syn_by_1() { ! in_client 1 python3 "$PROBE" syn "$NIC" "$INSIDE_GATEWAY" "$1" "$2"; }

# The control socket is a Unix socket and has no port; what listens is the tunnel's own port.
nat_host() {
    local address
    # Client 1's own wire leads to 10.91.1.1; the others are the host's as well.
    in_client 1 ip route replace 10.91.2.0/24 via "$INSIDE_GATEWAY" dev "$NIC"
    for address in "$WAN_HOST" "$(addr_server 2)" "$(addr_client 2)" "$INSIDE_GATEWAY" "$WAN_NAT"; do
        refused_by_name "$address:$SERVER_PORT" fetch_by_1 "https://$address:$SERVER_PORT/"
    done
    [ -z "$(in_server ss -Hltn | grep -v ":$SERVER_PORT " || true)" ] || fail "the server has other listeners: $(in_server ss -Hltn)"
}

# ---- DHCP ---------------------------------------------------------------------------------------------

# nat_dhcp_client CLIENT: client 1 gets, renews and releases by this program.
nat_dhcp_client() {
    local first second ns
    ns=$(ns_client 1)
    dhcp_release "$(cat "$RUN/dhcp-of-1" 2>/dev/null || echo udhcpc)" "$ns" "$NIC" >/dev/null 2>&1 || true
    member_dhcp 1 "$1"
    echo "$1" >"$RUN/dhcp-of-1"
    first=$(member_address 1)
    detail "$(dhcp_show "$1" "$ns" "$NIC" 2>&1 | tr '\n' ' ')"
    dhcp_renew "$1" "$ns" "$NIC" || fail "$1 does not renew"
    second=$(member_address 1)
    [ "$first" = "$second" ] || fail "$1 had $first and has $second after renewing"
    dhcp_release "$1" "$ns" "$NIC" || fail "$1 does not release"
    detail "got $first, renewed, released"
    member_dhcp 1 "$1"
    [ "$(member_address 1)" = "$first" ] || fail "$1 gets $(member_address 1) after releasing $first"
}

# A reservation by user: another card, another session, the same address, and at once.
nat_reserved() {
    local t old new
    old=$(in_client "$RESERVED_USER" cat "/sys/class/net/$NIC/address")
    client_offline "$RESERVED_USER"
    new=$(printf '02:%02x:%02x:%02x:%02x:%02x' $((RANDOM % 256)) $((RANDOM % 256)) $((RANDOM % 256)) $((RANDOM % 256)) $((RANDOM % 256)))
    in_client "$RESERVED_USER" ip addr flush dev "$NIC"
    in_client "$RESERVED_USER" ip link set "$NIC" down
    in_client "$RESERVED_USER" ip link set "$NIC" address "$new"
    in_client "$RESERVED_USER" ip link set "$NIC" up
    client_connect "$RESERVED_USER"
    client_await "$RESERVED_USER"
    t=$(now)
    member_dhcp "$RESERVED_USER" udhcpc
    detail "$old, then $new: $(member_address "$RESERVED_USER") after $(since "$t") s"
    [ "$(member_address "$RESERVED_USER")" = "$RESERVED_ADDRESS" ] || fail "the address kept for u$RESERVED_USER is $RESERVED_ADDRESS"
    in_client "$RESERVED_USER" ping -n -q -c 2 -W 2 "$INTERNET_HOST" >/dev/null || fail 'with it he does not reach the Internet'
}

# ---- the end of the server ----------------------------------------------------------------------------

# Under load the server is killed and started again. What the host itself does on that device must go on; addresses
# stay; members come back by themselves, or, since a stock client sometimes cannot after such an end (protocol note,
# section 1.1), as programs started anew.
nat_kill() {
    local n t counted before=() logins=() anew='' patience=$BACK_SECONDS
    spawn "$NS_SERVER" "$RUN/hold.out" python3 "$PROBE" hold "$INTERNET_HOST" "$RUN/hold"
    echo "$SPAWNED" >>"$RUN/load"
    within 10 test -e "$RUN/hold" || fail "the host's own connection does not begin: $(tail -1 "$RUN/hold.out")"
    for n in 1 2; do before[n]=$(member_address $n) logins[n]=$(client_logins $n); done
    internet_iperf
    load 1 /dev/null iperf3 -c "$INTERNET_HOST" -t 60 -P 4
    sleep 2
    server_restart KILL
    t=$(now)
    for n in 1 2; do
        if within "$patience" member_is_back $n "${logins[n]}"; then
            detail "client $n back after $(since "$t") s"
        else
            anew=yes patience=1 # the other one has had as long
        fi
    done
    counted=$(cat "$RUN/hold")
    sleep 1
    [ "$(cat "$RUN/hold")" -gt "$counted" ] || fail "the host's own connection on $WAN broke: $(tail -1 "$RUN/hold.out")"
    detail "the host's connection on $WAN had $(cat "$RUN/hold") answers and goes on"
    traffic_stop
    if [ -n "$anew" ]; then
        clients_stop
        # A lease is not taken from a session that may still live.
        within 30 no_sessions || fail 'sessions of programs that have ended are still there after 30 s'
        clients_want '1 2'
        for n in 1 2; do member_dhcp $n udhcpc; done
        detail 'client programs started anew, with other cards'
    fi
    for n in 1 2; do
        [ "$(member_address $n)" = "${before[n]}" ] || fail "client $n had ${before[n]} and has $(member_address $n)"
        in_client $n ping -n -q -c 2 -W 2 "$INTERNET_HOST" >/dev/null || fail "client $n does not reach the Internet again"
    done
    detail "addresses kept: ${before[*]}"
    in_server nft delete table ip watch 2>/dev/null || true
}
member_is_back() { [ "$(client_logins "$1")" -gt "$2" ] && in_client "$1" ping -n -q -c 1 -W 1 "$INTERNET_HOST" >/dev/null 2>&1; }

# Under load the operator blocks client 1's user: his flow stops within a second, and so does his session.
nat_block() {
    local t flow
    internet_iperf
    load 1 /dev/null iperf3 -c "$INTERNET_HOST" -t 60
    flow=$SPAWNED
    sleep 2
    ! gone "$flow" || fail 'there is no load'
    t=$(now)
    "$HUBLANE" user block u1 --state "$RUN/$SERVER/state" >/dev/null || fail 'hublane user block fails'
    within 1 no_session_of_1 || fail 'the session of a blocked user goes on after 1 s'
    within 1 no_mapping_of_1 || fail 'mappings of a blocked user live on after 1 s'
    detail "session and mappings gone after $(since "$t") s"
    "$HUBLANE" user unblock u1 --state "$RUN/$SERVER/state" >/dev/null || fail 'hublane user unblock fails'
    traffic_stop
}
no_session_of_1() { ! hublane_sessions | finds -x u1; }
no_mapping_of_1() { ! hublane_ask nat list | finds -w "$(member_address 1)"; }

no_sessions() { [ -z "$(hublane_sessions)" ]; }

# nat_list WORD...: what the operator sees.
nat_list() {
    hublane_ask "$@" >"$RUN/list" || fail "hublane $* fails"
    shown
}
