# shellcheck shell=bash
# The Internet of the NAT tests: a namespace behind the server's, which leads nowhere else.
#
#   client N -- 10.91.N.0/24 -- server -- wan0 203.0.113.2 == 203.0.113.1 inet0 -- Internet
#                                         (the NAT's own: 203.0.113.10)            198.51.100.1 .. .4
#
# Inside the hub 100.64.0.0/16, whose gateway 100.64.0.1 is our server's. Source after netns.sh, stock.sh and
# hublane.sh: members have no address before they are given one, and our server has a gateway and a NAT.

NS_INTERNET=hl$$-i
WAN=wan0
WAN_HOST=203.0.113.2      # the server's own address on that wire
WAN_NAT=203.0.113.10      # the NAT's
WAN_NAT_ANEW=203.0.113.11 # that of a second server of ours at the same time
WAN_ROUTER=203.0.113.1    # the Internet's end; DNS
INTERNET_HOST=198.51.100.1 # what every name resolves to
INTERNET_OTHERS='198.51.100.2 198.51.100.3 198.51.100.4'
ECHO_FIRST=198.51.100.100 # hublane-bench echo, for this one and the 99 after it, which nobody has
INSIDE_GATEWAY=100.64.0.1
MIRROR_PORT=3478

in_internet() { ip netns exec "$NS_INTERNET" "$@"; }

# Our server for these tests. What its keys are called stands here and nowhere else in the scripts. The Internet here
# has addresses for documentation, which members do not reach unless they are allowed to. With NAT_CROWD it is for
# thousands on one address: small blocks of ports.
nat_server_config() {
    cat <<-EOC
		[[hub]]
		name = "PUBLIC"
		profile = "public"

		bridges = "allow"

		[hub.gateway]
		address = "$INSIDE_GATEWAY/16"
		dns = ["$WAN_ROUTER"]

		[[hub.gateway.reservation]]
		user = "u$RESERVED_USER"
		address = "$RESERVED_ADDRESS"

		[hub.nat]
		device = "$WAN"
		addresses = ["$WAN_NAT"]
		allow = ["198.51.100.0/24"]
		${NAT_CROWD:+block_ports = 8}
	EOC
}
RESERVED_USER=2
RESERVED_ADDRESS=100.64.7.7
RELAY_ADDRESS=100.64.255.250

# What scripts/lib/hublane.sh and scripts/lib/stock.sh ask for.
hublane_config() { nat_server_config; }
nic_address() { :; }

# internet_up: namespace, wire, addresses, and what runs there. After net_up, which also takes it down.
internet_up() {
    local address
    ns_make "$NS_INTERNET"
    wan_make 1
    for address in $INTERNET_HOST $INTERNET_OTHERS; do in_internet ip addr add "$address/32" dev lo; done
    echo "nameserver $WAN_ROUTER" >"$RUN/resolv.conf"
    # shellcheck disable=SC2034 # used by stock_spawn
    STOCK_RESOLV=$RUN/resolv.conf
    # shellcheck disable=SC2086 # words
    spawn "$NS_INTERNET" "$RUN/internet" python3 "$ROOT/scripts/lib/internet.py" "$INTERNET_HOST" "$WAN_ROUTER" $INTERNET_OTHERS
    within 10 grep -qs '^ready' "$RUN/internet" || fail "the Internet does not start: $(tail -3 "$RUN/internet")"
}

# wan_make QUEUES: the wire, with so many queues at both ends.
wan_make() {
    local queues="numtxqueues $1 numrxqueues $1"
    # shellcheck disable=SC2086 # words
    ip link add inet0 netns "$NS_INTERNET" $queues type veth peer name "$WAN" netns "$NS_SERVER" $queues
    in_server ip addr add "$WAN_HOST/24" dev "$WAN"
    in_server ip link set "$WAN" up
    in_server ip route replace default via "$WAN_ROUTER"
    in_internet ip addr add "$WAN_ROUTER/24" dev inet0
    in_internet ip link set inet0 up
}
wan_drop() { in_server ip link del "$WAN"; }

# internet_iperf: an iperf3 server for one test there.
internet_iperf() {
    spawn "$NS_INTERNET" "$RUN/iperf-internet" iperf3 -s -1
    echo "$SPAWNED" >>"$RUN/load"
    within 5 internet_iperf_listens || fail 'iperf3 does not listen in the Internet'
}
internet_iperf_listens() { [ -n "$(in_internet ss -Hltn 'sport = :5201')" ]; }

# internet_echo: the far end of `hublane-bench nat`.
internet_echo() {
    spawn "$NS_INTERNET" "$RUN/echo" "$BENCH" echo --first "$ECHO_FIRST" --addresses 100
    echo "$SPAWNED" >>"$RUN/load"
    within 5 grep -qs '^ready' "$RUN/echo" || fail "hublane-bench echo does not start: $(tail -3 "$RUN/echo")"
}

# member_route N GATEWAY: the Internet of client N is behind GATEWAY.
member_route() {
    in_client "$1" ip route replace 198.51.100.0/24 via "$2" dev "$NIC"
    in_client "$1" ip route replace 203.0.113.0/24 via "$2" dev "$NIC"
}

# member_static N ADDRESS/BITS GATEWAY: client N has this address in the hub, and the Internet behind GATEWAY.
member_static() {
    member_address_is "$1" "$2"
    member_route "$1" "$3"
    within 15 in_client "$1" ping -n -c 1 -W 1 "$3" >/dev/null || fail "client $1 does not reach its gateway $3"
}

# member_address_is N ADDRESS/BITS: client N has this address in the hub and no other.
member_address_is() {
    in_client "$1" ip addr flush dev "$NIC"
    in_client "$1" ip addr add "$2" dev "$NIC"
    in_client "$1" ip link set "$NIC" up
}

# member_arps N ADDRESS: whether client N's system finds the card of ADDRESS.
member_arps() {
    in_client "$1" ping -n -c 1 -W 1 "$2" >/dev/null || true
    in_client "$1" ip neigh show "$2" dev "$NIC" | finds 'lladdr'
}

# member_dhcp N [CLIENT]: the same by DHCP (scripts/lib/dhcp.sh).
member_dhcp() {
    # shellcheck source=/dev/null
    . "$ROOT/scripts/lib/dhcp.sh"
    dhcp_get "${2:-udhcpc}" "$(ns_client "$1")" "$NIC" >"$RUN/dhcp$1" 2>&1 ||
        fail "client $1 gets no address by ${2:-udhcpc}: $(tail -3 "$RUN/dhcp$1")"
    [ -n "$(member_address "$1")" ] || fail "client $1 has no address after ${2:-udhcpc}"
    member_route "$1" "$INSIDE_GATEWAY"
}
member_address() { in_client "$1" ip -4 -o addr show dev "$NIC" | awk '{ sub(/\/.*/, "", $4); print $4; exit }'; }

# ---- the stock server's ways to the Internet ----------------------------------------------------------
# The functions below are for the server of $SERVER, which is a stock one.

IPTABLES_DIR=$CACHE/iptables

# snat_on user|kernel: switches its SecureNAT on. In kernel mode it opens raw sockets on the host's address and has
# iptables hide from the host what comes back; it takes that mode only after a reachability test (a name, and TCP port
# 80 of it), which the Internet here passes.
snat_on() {
    if [ "$1" = user ]; then
        vpns_lines <<<$'Hub PUBLIC\nExtOptionSet DisableKernelModeSecureNAT /VALUE:1\nExtOptionSet DisableIpRawModeSecureNAT /VALUE:1\nSecureNatEnable'
    else
        vpns_lines <<<$'Hub PUBLIC\nSecureNatEnable'
        within 60 snat_is_kernel || fail "SecureNAT does not go to kernel mode: $(grep -i 'kernel' "$RUN/$SERVER/said")"
    fi
}
snat_is_kernel() {
    vpns_lines <<<$'Hub PUBLIC\nSecureNatStatusGet' && grep -q 'Kernel-mode NAT is Active *|Yes' "$RUN/$SERVER/said"
}

# iptables of Debian, unpacked, in the PATH of what is started next: sets STOCK_PATH.
snat_iptables() {
    [ -x "$IPTABLES_DIR/usr/sbin/xtables-nft-multi" ] || die 'iptables is missing: scripts/setup --compare'
    mkdir -p "$RUN/bin"
    cat >"$RUN/bin/iptables" <<-EOC
		#!/bin/sh
		LD_LIBRARY_PATH=$IPTABLES_DIR/usr/lib/$(uname -m)-linux-gnu XTABLES_LIBDIR=$IPTABLES_DIR/usr/lib/$(uname -m)-linux-gnu/xtables \\
		    exec $IPTABLES_DIR/usr/sbin/xtables-nft-multi iptables "\$@"
	EOC
    chmod +x "$RUN/bin/iptables"
    # shellcheck disable=SC2034 # used by stock_spawn
    STOCK_PATH=$RUN/bin:$PATH
}

# tap_nat_on: bridges its hub to a tap of the kernel, which has the gateway's address, forwards and masquerades.
tap_nat_on() {
    vpns_lines <<<'BridgeCreate PUBLIC /DEVICE:nat /TAP:yes'
    within 10 in_server ip link show tap_nat >/dev/null 2>&1 || fail 'the bridge has made no tap_nat'
    in_server ip addr add "$INSIDE_GATEWAY/16" dev tap_nat
    in_server ip link set tap_nat up
    in_server sysctl -qw net.ipv4.ip_forward=1
    in_server nft -f - <<-EOC
		table ip tap_nat {
		    chain out {
		        type nat hook postrouting priority srcnat;
		        oifname "$WAN" ip saddr 100.64.0.0/10 masquerade
		    }
		}
	EOC
}
