# shellcheck shell=bash
# `scripts/interop lans`: LANs made one segment by bridged cards (`hublane connect --bridge`), by our server or the stock
# one; loops; what is put back after a crash; stock bridges that cascade into our hub. Sourced by scripts/interop.
#
#   scripts/interop lans [--server hublane|stock]... [--row NAME]... [--list]
#
# Each LAN is a namespace with a bridge, which is also where the card runs, and namespaces of hosts on it:
#
#   host 1a, 1b -- br0 (client 1) -- card -- up0 -- server -- up0 -- card -- br0 (client 2) -- host 2a, 2b

LANS_ROWS=(arp nd mdns netbios dhcp transfer loop loop-cable loop-lan loop-stock loop-again crash stays cascade-bridge cascade-server)

interop_lans() {
    local name
    rows_asked "$LIB/interop_lans.sh" "hublane stock" "${LANS_ROWS[@]}" -- "$@"
    hublane_build
    "$ROOT/scripts/setup"
    # shellcheck source=scripts/lib/dhcp.sh
    . "$LIB/dhcp.sh"
    dhcp_unpack
    net_up 3
    lan_up 1
    lan_up 2
    for SERVER_KIND in "${ASKED_SERVERS[@]}"; do
        server_stop TERM
        rm -rf "$RUN/server"
        table_head "LANs, $SERVER_KIND"
        for name in "${ASKED_ROWS[@]}"; do
            row "$name" "lans_row_${name//-/_}"
            traffic_stop
            legs_stop
            cables_cut
        done
    done
    table_end
}

# ---- LANs ---------------------------------------------------------------------------------------------

ns_host() { printf 'hl%s-h%s' "$$" "$1"; }
# in_host HOST CMD...: HOST is the number of its LAN and a letter.
in_host() {
    local ns
    ns=$(ns_host "$1")
    shift
    ip netns exec "$ns" "$@"
}
# addr_host HOST [6]: its address; all LANs are one subnet, as one segment has it.
addr_host() { printf "$([ "${2:-4}" = 6 ] && echo 'fd93::' || echo '10.93.0.')%s%s" "${1:0:1}" "$(($(printf '%d' "'${1:1}") - 96))"; }

# lan_up N: bridge br0 and hosts Na and Nb.
lan_up() {
    local n=$1 host
    in_client "$n" ip link add br0 type bridge
    in_client "$n" ip link set br0 up
    for host in "${n}a" "${n}b"; do
        ns_make "$(ns_host "$host")"
        in_host "$host" sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0
        ip link add eth0 netns "$(ns_host "$host")" type veth peer name "p$host" netns "$(ns_client "$n")"
        in_client "$n" ip link set "p$host" master br0 up
        in_host "$host" ip link set eth0 up
        in_host "$host" ip addr add "$(addr_host "$host")/24" dev eth0
        in_host "$host" ip addr add "$(addr_host "$host" 6)/64" dev eth0 nodad
    done
}

# forget: hosts ask anew who is where.
forget() {
    local host
    for host in 1a 1b 2a 2b; do in_host "$host" ip neigh flush all; done
}

# host_ping FROM TO [COUNT]: all must be answered but the first, which may wait for ARP.
host_ping() {
    local count=${3:-5} said got
    said=$(in_host "$1" ping -n -q -c "$count" -i 0.2 -W 1 "$(addr_host "$2")" 2>&1) || true
    got=$(sed -n 's/.* \([0-9]*\) received.*/\1/p' <<<"$said")
    [ "${got:-0}" -ge $((count - 1)) ] || fail "ping $1 -> $2: ${got:-0} of $count answered"
    detail "ping $1>$2 $(sed -n 's|^rtt [^=]*= [^/]*/\([^/]*\)/.*|\1|p' <<<"$said") ms"
}
pings() { in_host "$1" ping -n -q -c 1 -W 1 "$(addr_host "$2")" >/dev/null 2>&1; }

# ---- legs ---------------------------------------------------------------------------------------------

# leg_start LEG N [OPTIONS...]: a card called LEG in client N as user uN, and waits for its session. Its events stand in
# $RUN/LEG/out. The user is u4 for a leg that is the second one of its client. The device has the
# same name, or LEG_DEVICE. LEG_HOME: at home there (see dhcp.sh).
leg_start() {
    local leg=$1 n=$2 user=u$2 dir=$RUN/$1 command=()
    shift 2
    [ "$leg" != second ] || user=u4
    mkdir -p "$dir"
    [ -e "$dir/password" ] || (umask 077 && printf 'secret-%s\n' "${user#u}" >"$dir/password")
    rm -f "$dir/out" "$dir/known"
    command=("$HUBLANE" connect "$(addr_server "$n"):$SERVER_PORT" --user "$user" --password-file "$dir/password"
        --known-servers "$dir/known" --device "${LEG_DEVICE:-$leg}" "$@")
    [ -z "${LEG_HOME:-}" ] || command=(unshare --uts bash -c "$DHCP_AT_HOME" bash "$LEG_HOME" "${command[@]}")
    spawn "$(ns_client "$n")" "$dir/out" "${command[@]}"
    echo "$SPAWNED" >"$dir/leg"
    within 10 leg_has "$leg" connected || fail "$leg does not connect: $(tail -2 "$dir/out" 2>&1)"
}

# leg_has LEG EVENT [COUNT]: it has told EVENT, so often.
leg_has() { [ "$(grep -c "\"event\":\"$2\"" "$RUN/$1/out" 2>/dev/null || true)" -ge "${3:-1}" ]; }
# leg_says LEG EVENT FIELD: of its last EVENT.
leg_says() { grep "\"event\":\"$2\"" "$RUN/$1/out" | tail -1 | json "d.get('$3')"; }
# leg_time LEG EVENT: when it told its last EVENT, in seconds since 1970.
leg_time() { date +%s.%3N -d "$(leg_says "$1" "$2" time)"; }

# leg_end LEG SIGNAL: by TERM it must end in good order within 4 s.
leg_end() {
    local pid
    pid=$(cat "$RUN/$1/leg")
    kill -s "$2" "$pid"
    within 4 gone "$pid" || fail "$1 does not end by SIG$2"
    [ "$2" != TERM ] || leg_has "$1" ended || fail "$1 ends without saying so: $(tail -1 "$RUN/$1/out")"
    rm -f "$RUN/$1/leg"
}

legs_stop() {
    local file
    for file in "$RUN"/*/leg; do
        [ -e "$file" ] || continue
        stop_group "$(cat "$file")" KILL
        rm -f "$file"
    done
}

# joined: LANs 1 and 2 are one segment.
joined() {
    server_wants
    leg_start one 1 --bridge br0
    leg_start two 2 --bridge br0
    forget
}

# ---- what crosses -------------------------------------------------------------------------------------

# The answer must come from the card of the very host: many cards live behind one session.
lans_row_arp() {
    local from to seen want
    joined
    for from in 1a 1b; do
        for to in 2a 2b; do
            within 3 pings "$from" "$to" || fail "no ping $from -> $to"
            seen=$(in_host "$from" ip neigh show "$(addr_host "$to")" | awk '{ print $5 }')
            want=$(in_host "$to" cat /sys/class/net/eth0/address)
            [ "$seen" = "$want" ] || fail "$from sees $to at $seen, not $want"
        done
    done
    host_ping 1a 2a
    host_ping 2b 1b
    detail '4 pairs, each by its own address'
}

lans_row_nd() {
    local seen want said
    joined
    said=$(in_host 1a ping -6 -n -q -c 4 -i 0.2 -W 2 "$(addr_host 2a 6)" 2>&1) || true
    finds -E ' [34] received' <<<"$said" || fail "ping 1a -> 2a over IPv6: $said"
    seen=$(in_host 1a ip -6 neigh show "$(addr_host 2a 6)" | awk '{ print $5 }')
    want=$(in_host 2a cat /sys/class/net/eth0/address)
    [ "$seen" = "$want" ] || fail "1a sees 2a at '$seen', not $want"
    # An address that is in use there must not be taken here: duplicate address detection (RFC 4862 section 5.4).
    in_host 1b ip addr add "$(addr_host 2a 6)/64" dev eth0
    within 5 address_is_duplicate || { in_host 1b ip addr del "$(addr_host 2a 6)/64" dev eth0 && fail 'a duplicate address was not noticed'; }
    in_host 1b ip addr del "$(addr_host 2a 6)/64" dev eth0
    detail "neighbour $seen, duplicate address found"
}
address_is_duplicate() { in_host 1b ip -6 addr show dev eth0 | finds dadfailed; }

lans_py() { python3 "$LIB/lans.py" "$@"; }

# answer HOST: it answers to the name "host" and its own.
answer() {
    local pid
    : >"$RUN/answer.$1"
    ip netns exec "$(ns_host "$1")" setsid python3 -u "$LIB/lans.py" answer "$(addr_host "$1")" "host$1" >"$RUN/answer.$1" 2>&1 </dev/null &
    pid=$!
    disown $pid
    echo $pid >>"$RUN/load"
    within 5 finds ready <"$RUN/answer.$1" || fail "no programs in $1: $(cat "$RUN/answer.$1")"
}

lans_row_mdns() {
    local asks has seen
    joined
    answer 1a
    answer 2a
    for asks in 1b:2a 2b:1a; do
        has=${asks#*:}
        seen=$(ip netns exec "$(ns_host "${asks%:*}")" python3 "$LIB/lans.py" mdns "$(addr_host "${asks%:*}")" "host$has") ||
            fail "${asks%:*} gets no answer for host$has.local"
        [ "$seen" = "$(addr_host "$has")" ] || fail "host$has.local is $seen"
        detail "${asks%:*}: host$has.local is $seen"
    done
}

lans_row_netbios() {
    local asks has to seen
    joined
    answer 1a
    answer 2a
    for asks in 1b:2a 2b:1a; do
        has=${asks#*:} asks=${asks%:*}
        for to in 10.93.0.255 255.255.255.255; do
            [ "$to" != 255.255.255.255 ] || in_host "$asks" ip route replace default dev eth0
            seen=$(ip netns exec "$(ns_host "$asks")" python3 "$LIB/lans.py" netbios "$(addr_host "$asks")" "host$has" "$to") ||
                fail "$asks gets no answer for HOST$has from $to"
            [ "$seen" = "$(addr_host "$has")" ] || fail "HOST$has is $seen"
        done
        in_host "$asks" ip route del default
        within 3 datagrams "$has" "$asks" || fail "datagrams of $asks do not reach $has"
        detail "$asks: HOST${has^^} is $seen, by both broadcast addresses, ports 137 and 138"
    done
}
datagrams() { [ "$(grep -c "datagram from $(addr_host "$2")" "$RUN/answer.$1")" -ge 2 ]; }

# A server in LAN 1, a client in LAN 2.
lans_row_dhcp() {
    local ns address
    joined
    ns=$(ns_host 2b)
    dhcp_reference "$(ns_host 1a)" eth0 "$(addr_host 1a)" 10.93.0.100 10.93.0.150
    echo "$SPAWNED" >>"$RUN/load"
    in_host 2b ip -4 addr flush dev eth0
    dhcp_get dhclient "$ns" eth0 || fail 'no lease'
    address=$(dhcp_address "$ns" eth0)
    [[ $address = 10.93.0.1[0-4][0-9] || $address = 10.93.0.150 ]] || fail "its address is '$address'"
    detail "$(dhcp_show dhclient "$ns" eth0)"
    dhcp_release dhclient "$ns" eth0 || fail 'the lease cannot be given back'
    in_host 2b ip addr replace "$(addr_host 2b)/24" dev eth0
}

# Random bytes both ways, with equal checksums at both ends.
lans_row_transfer() {
    joined
    host_transfer 1a 2a 50
    host_transfer 2b 1b 50
}

# host_transfer FROM TO MB
host_transfer() { sums_agree "$(ns_host "$1")" "$(ns_host "$2")" "$(addr_host "$2")" "$3" "$1" "$2"; }

# cables_cut: no cable joins bridges.
cables_cut() {
    local n
    for n in 1 2; do in_client "$n" ip link del cable 2>/dev/null || true; done
}

# ---- loops --------------------------------------------------------------------------------------------

# storm HOST RATE: it broadcasts for a minute.
storm() {
    ip netns exec "$(ns_host "$1")" setsid python3 "$LIB/lans.py" storm eth0 60 "$2" >/dev/null 2>&1 </dev/null &
    echo $! >>"$RUN/load"
    disown $!
}
# flow FROM TO: bytes as fast as they go, for a minute.
flow() {
    ip netns exec "$(ns_host "$2")" setsid iperf3 -s -1 >/dev/null 2>&1 </dev/null &
    echo $! >>"$RUN/load"
    disown $!
    within 5 listens "$2" || fail "iperf3 does not listen in $2"
    ip netns exec "$(ns_host "$1")" setsid iperf3 -c "$(addr_host "$2")" -t 60 >/dev/null 2>&1 </dev/null &
    echo $! >>"$RUN/load"
    disown $!
}
listens() { [ -n "$(in_host "$1" ss -Hltn 'sport = :5201')" ]; }
# server_cpu: seconds that the server has used.
server_cpu() { awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print ($12 + $13) / hz }' "/proc/$(cat "$RUN/$SERVER/pid")/stat"; }
# frames HOST: that it has received.
frames() { in_host "$1" cat /sys/class/net/eth0/statistics/rx_packets; }
# quiet HOST: fewer than 50 frames reach it in a second.
quiet() {
    local before
    before=$(frames "$1")
    sleep 1
    [ $(($(frames "$1") - before)) -lt 50 ]
}

# loop_found T LEG PLACE: within 3 s after T it has told a loop there, and that it gives way.
loop_found() {
    local t=$1 leg=$2 place=$3 took
    within 6 leg_has "$leg" loop || fail "no loop was found: $(tail -1 "$RUN/$leg/out")"
    took=$(awk -v a="$t" -v b="$(leg_time "$leg" loop)" 'BEGIN { printf "%.1f", b - a }')
    [ "$(leg_says "$leg" loop reason)" = bridge_loop ] || fail "its reason is $(leg_says "$leg" loop reason)"
    [ "$(leg_says "$leg" loop place)" = "$place" ] || fail "its place is $(leg_says "$leg" loop place)"
    detail "$leg gives way after $took s: bridge_loop, $place"
    holds "$took <= 3" || fail "the loop was found only after $took s"
}

# storm_ends HOST: the storm has ended where nobody broadcasts any more.
storm_ends() {
    traffic_stop
    within 6 quiet "$1" || fail "the LAN of $1 does not fall silent: $(frames "$1") frames"
}

# A second card on the bridge of the first one.
lans_row_loop() {
    local most t
    joined
    host_ping 1a 2a
    storm 1b 500
    sleep 1
    most=$(frames 2b)
    leg_start second 1 --bridge br0
    t=$(leg_time second connected)
    loop_found "$t" second ring
    detail "$(($(frames 2b) - most)) frames reached LAN 2 meanwhile"
    storm_ends 2b
    if leg_has one loop || leg_has two loop; then fail 'another leg gave way, too'; fi
    in_client 1 ip link show second | finds NO-CARRIER || fail 'the bridge does not know that the leg is closed'
    host_ping 1a 2a
    host_ping 2b 1b
}

# The two LANs are joined by a cable, too, while both are full of broadcasts and of a flow: one of the two legs gives way,
# and both LANs go on by the cable.
lans_row_loop_cable() {
    local t
    joined
    host_ping 1a 2a
    storm 1b "${STORM:-10000}"
    storm 2b "${STORM:-10000}"
    flow 1a 2a
    sleep 1
    server_cpu >"$RUN/cpu"
    ip link add cable netns "$(ns_client 1)" type veth peer name cable netns "$(ns_client 2)"
    in_client 1 ip link set cable master br0 up
    in_client 2 ip link set cable master br0 up
    t=$(now)
    loop_found "$t" two ring
    sleep 2
    [ "$SERVER_KIND" = stock ] || detail "server $(awk -v a="$(cat "$RUN/cpu")" -v b="$(server_cpu)" -v s="$(since "$t")" 'BEGIN { printf "%.1f s of CPU in %.1f s", b - a, s }')"
    ! leg_has one loop || fail 'the other leg gave way, too'
    storm_ends 2b
    t=$(now)
    within 5 pings 1a 2a || fail 'the LANs do not reach each other by the cable'
    detail "ping by the cable $(since "$t") s after that"
    host_ping 1a 2a
    cables_cut
}

# The LAN itself has one: its leg goes, and the other LAN has peace. When the cable is pulled the leg comes back.
lans_row_loop_lan() {
    local t
    joined
    storm 1b 500
    sleep 1
    in_client 1 ip link add cable type veth peer name cable2
    in_client 1 ip link set cable master br0 up
    in_client 1 ip link set cable2 master br0 up
    t=$(now)
    loop_found "$t" one lan
    within 6 quiet 2b || fail 'LAN 2 does not fall silent'
    ! leg_has two loop || fail 'the other leg gave way, too'
    host_ping 2a 2b
    cables_cut
    storm_ends 1a
}

# Beside a stock bridge, which knows nothing of loops, it is always our card that gives way, as old as it may be.
lans_row_loop_stock() {
    local t
    [ "$SERVER_KIND" = hublane ] || skip 'the same as with our server'
    joined
    host_ping 1a 2a
    storm 1b 500
    far_start vpnbridge BRIDGE
    t=$(now)
    in_client 2 ip link set tap_lan master br0 up
    loop_found "$t" two ring
    ! leg_has one loop || fail 'the other leg gave way, too'
    storm_ends 2b
    t=$(now)
    within 10 pings 1a 2a || fail 'the LANs do not reach each other by the stock bridge'
    detail "ping by the stock bridge $(since "$t") s after that"
}

# It tries again after a minute: behind a shut gate as long as the loop is there, and works when that is gone.
lans_row_loop_again() {
    local t before
    joined
    host_ping 1a 2a
    storm 1b 500
    leg_start second 1 --bridge br0
    t=$(leg_time second connected)
    loop_found "$t" second ring
    storm_ends 2b
    within 65 leg_has second connected 2 || fail "it does not try again: $(tail -1 "$RUN/second/out")"
    before=$(frames 2b)
    within 4 leg_has second loop 2 || fail 'the loop was not found again'
    detail "again $(leg_says second loop after_ms) ms after its return, $(($(frames 2b) - before)) frames reached LAN 2"
    [ $(($(frames 2b) - before)) -lt 100 ] || fail 'there was a storm again'
    leg_end one TERM
    within 65 leg_has second connected 3 || fail "it does not try again: $(tail -1 "$RUN/second/out")"
    within 8 pings 1a 2a || fail 'it does not carry anything after the loop has gone'
    host_ping 1a 2a
    ! leg_has second loop 3 || fail 'a loop was found that is none'
}

# ---- what is put back ---------------------------------------------------------------------------------

# At home in $RUN/home: /etc and /var/lib of its own, with a stock DHCP client.
lans_home() {
    local home=$RUN/home
    rm -rf "$home"
    dhcp_furnish "$home"
    printf 'nameserver 192.0.2.53\nsearch before.example\n' >"$home/etc/resolv.conf"
    cp "$home/etc/resolv.conf" "$home/before"
    cat >"$home/bin/dhclient" <<-END
		#!/bin/sh
		touch $home/lease
		exec $DHCP_ROOT/sbin/dhclient -cf /etc/dhcp/dhclient.conf -lf $home/lease -sf $DHCP_ROOT/sbin/dhclient-script "\$@"
	END
    chmod +x "$home/bin/dhclient"
    LEG_HOME=$home
}
home_leased() { finds "nameserver $(addr_host 1a)" <"$RUN/home/etc/resolv.conf" && in_client 3 ip -4 addr show dev third | finds 'inet 10.93'; }
home_as_before() { cmp -s "$RUN/home/etc/resolv.conf" "$RUN/home/before"; }

# A card with an address by DHCP is killed; the next start puts back name servers and default route. In good order it
# does so itself.
lans_row_crash() {
    local route dhclient
    server_wants
    leg_start one 1 --bridge br0
    dhcp_reference "$(ns_host 1a)" eth0 "$(addr_host 1a)" 10.93.0.100 10.93.0.150
    echo "$SPAWNED" >>"$RUN/load"
    lans_home
    in_client 3 ip route replace default via "$(addr_server 3)" dev up0
    route=$(in_client 3 ip route show default)
    leg_start third 3 --dhcp
    within 20 home_leased || fail "no lease: $(tail -3 "$RUN/third/out")"
    # As the scripts of some systems do; Debian's leaves the one that is there.
    in_client 3 ip route replace default via "$(addr_host 1a)" dev third
    if (LEG_DEVICE=third leg_start again 3) >/dev/null 2>&1; then fail 'a second card got the same device'; fi
    finds -F 'is in use' <"$RUN/again/out" || fail "a second card says $(tail -1 "$RUN/again/out")"
    rm -f "$RUN/again/leg"
    sleep 1
    dhclient=$(pgrep -f "$RUN/home/leas[e]" | head -1)
    [ -n "$dhclient" ] || fail 'no DHCP client runs'
    leg_end third KILL
    within 3 gone "$dhclient" || fail 'the DHCP client goes on without its card'
    ! home_as_before || fail 'the row is wrong: nothing was changed'
    [ -z "$(in_client 3 ip route show default)" ] || fail 'the row is wrong: the route is still there'
    leg_start third 3 --address 10.93.0.77/24
    leg_has third restored || fail 'nothing was put back at the next start'
    home_as_before || fail "resolv.conf is $(cat "$RUN/home/etc/resolv.conf")"
    [ "$(in_client 3 ip route show default)" = "$route" ] || fail "the default route is $(in_client 3 ip route show default)"
    detail "killed; the next start: $(leg_says third restored what)"
    leg_end third TERM
    leg_start third 3 --dhcp
    within 20 home_leased || fail "no lease: $(tail -3 "$RUN/third/out")"
    leg_end third TERM
    home_as_before || fail "after the end resolv.conf is $(cat "$RUN/home/etc/resolv.conf")"
    ! compgen -G "$RUN/home/lib/hublane-connect/restore-*" >/dev/null || fail 'the note is still there'
    detail "ended: $(leg_says third restored what)"
    in_client 3 ip route del default
}

# A device that somebody made before keeps neither bridge nor address of ours.
lans_row_stays() {
    server_wants
    lans_home
    in_client 1 ip tuntap add dev one mode tap
    leg_start one 1 --bridge br0
    leg_end one KILL
    in_client 1 ip link show one | finds 'master br0' || fail 'the row is wrong: the device is in no bridge'
    leg_start one 1 --address 10.93.0.88/24
    leg_has one restored || fail 'nothing was put back at the next start'
    if in_client 1 ip link show one | finds master; then fail 'the device is still in the bridge'; fi
    detail "killed; the next start: $(leg_says one restored what)"
    in_client 1 ip addr show dev one | finds 10.93.0.88 || fail 'the device has no address'
    leg_end one TERM
    if in_client 1 ip addr show dev one | finds 10.93.0.88; then fail 'the device has its address still'; fi
    detail "ended: $(leg_says one restored what)"
    in_client 1 ip tuntap del dev one mode tap
}

# ---- stock bridges ------------------------------------------------------------------------------------

# A stock bridge or server in LAN 2 (a device of its own on br0) cascades into our hub.
lans_row_cascade_bridge() { cascade vpnbridge BRIDGE; }
lans_row_cascade_server() { cascade vpnserver LAN2; }

# vpnbridge_unpack: it is the one stock program that scripts/setup does not bring; it shares the others' data.
vpnbridge_unpack() {
    local dir=$STOCK_BIN/vpnbridge tmp
    [ ! -e "$dir/vpnbridge" ] || return 0
    note 'fetching the stock bridge'
    tmp=$(mktemp -d "$CACHE/vpnbridge.XXXXXX")
    {
        cd "$tmp"
        apt-get download -qq softether-vpnbridge || { apt-get update -qq && apt-get download -qq softether-vpnbridge; }
        cd - >/dev/null
    } >"$tmp/said" 2>&1 || fail "apt-get: $(cat "$tmp/said")"
    dpkg -x "$tmp"/*.deb "$tmp/root"
    # Whoever comes second keeps the first one's.
    mv -T "$tmp/root/usr/libexec/softether/vpnbridge" "$dir" 2>/dev/null || [ -e "$dir/vpnbridge" ]
    rm -rf "$tmp"
}

# far COMMANDS on stdin: to the stock program in LAN 2.
far() {
    cat >"$RUN/far/in"
    in_client 2 timeout 20 "$STOCK_BIN/vpncmd/vpncmd" "127.0.0.1:$SERVER_PORT" /SERVER /PASSWORD: "/IN:$RUN/far/in" </dev/null >"$RUN/far/said" || true
    all_completed "$RUN/far/said"
}
far_answers() { far <<<About 2>/dev/null; }
far_is_online() { far <<<"Hub $1"$'\nCascadeStatusGet up' 2>/dev/null && finds 'Connection Completed' <"$RUN/far/said"; }

# far_start PROGRAM HUB: the stock PROGRAM in LAN 2 joins device tap_lan, which is not yet in the bridge, with our hub.
far_start() {
    local program=$1 hub=$2
    vpnbridge_unpack
    rm -rf "$RUN/far"
    mkdir -p "$RUN/far/lib"
    # With a configuration the bridge does not make its only hub by itself.
    { stock_server_config | sed '$d'; [ "$hub" != BRIDGE ] || printf 'declare VirtualHUB\n{\ndeclare BRIDGE\n{\nbool Online true\n}\n}\n'; echo '}'; } >"$RUN/far/lib/${program/vpn/vpn_}.config"
    stock_spawn "$(ns_client 2)" far "$program"
    cp "$RUN/far/pid" "$RUN/far/leg"
    within 20 far_answers || fail "the stock $program does not start: $(tail -3 "$RUN/far/out")"
    {
        [ "$hub" = BRIDGE ] || echo "HubCreate $hub /PASSWORD:hub"
        echo "BridgeCreate $hub /DEVICE:lan /TAP:yes"
        echo "Hub $hub"
        echo "CascadeCreate up /SERVER:$(addr_server 2):$SERVER_PORT /HUB:PUBLIC /USERNAME:u3"
        echo 'CascadePasswordSet up /PASSWORD:secret-3 /TYPE:standard'
        echo 'CascadeOnline up'
    } | far || fail "the stock $program does not do as told"
    within 20 far_is_online "$hub" || fail "the cascade is not online: $(grep Status "$RUN/far/said")"
    within 10 in_client 2 ip link show tap_lan >/dev/null 2>&1 || fail "the stock $program makes no device"
}

cascade() {
    local hub=$2 host
    [ "$SERVER_KIND" = hublane ] || skip 'a stock cascade into a stock server is none of our business'
    server_wants
    far_start "$@"
    in_client 2 ip link set tap_lan master br0 up
    leg_start one 1 --bridge br0
    forget
    within 10 pings 1a 2a || fail 'no ping 1a -> 2a'
    for host in 2a 2b; do
        host_ping 1a "$host"
        host_ping "$host" 1b
    done
    host_transfer 1a 2a 20
    host_transfer 2b 1b 20
    hublane_ask mac list --json >"$RUN/macs"
    for host in 1a 1b 2a 2b; do
        finds -i "$(in_host "$host" cat /sys/class/net/eth0/address)" <"$RUN/macs" || fail "our hub does not know the card of $host"
    done
    detail "$(json 'len(d)' <"$RUN/macs") addresses in our hub"
    detail "$(far <<<"Hub $hub"$'\nCascadeStatusGet up' && sed -n 's/^Number of TCP Connections *|//p' "$RUN/far/said") connections"
}
