# shellcheck shell=bash
# Rows of scripts/lane-check --mode xdp: what a lane of AF_XDP sockets promises on a real device, and what becomes of it
# when the device, its queues or its program change. Sourced by scripts/lane-check, whose functions and names it uses.

ROWS_XDP=(xdp_ping xdp_two_queues xdp_probe xdp_silent_dedicated xdp_silent_shared xdp_generic xdp_jumbo xdp_relay xdp_starts_down
    xdp_flap xdp_carrier xdp_recreate xdp_displaced xdp_occupied xdp_queues xdp_mtu xdp_memlock xdp_rights xdp_kill)

# Programs of XDP at the device; the kernel shows native ones as xdp, generic ones as xdpgeneric.
program_at() { in_server ip -d link show "$1" | grep -o 'prog/xdp[a-z]* id [0-9]*'; }
lane_listens_xdp() { program_at c1 >/dev/null && [ "$(xsks)" -gt 0 ]; }
# Sockets of AF_XDP that the lane has: each has its rings mapped.
xsks() { { grep -o 'socket:\[[0-9]*\]' "/proc/$(lane_pid)/maps" 2>/dev/null || true; } | sort -u | wc -l; }
answers() { ping_ours 1; }
told() { grep -c "$1" "$RUN/lane.out"; }

# device_make QUEUES: c1 and up0 anew, with so many queues.
device_make() {
    cable_cut 1 2>/dev/null || true
    cable 1 "$1"
    in_server ip addr add $HOST/24 dev c1
    in_client 1 ip addr add "$(addr_client 1)/24" dev up0
    in_client 1 ip addr add 10.93.0.1/24 dev up0
    in_client 1 ip link set up0 up
    in_server ip link set c1 up
}

row_xdp_ping() {
    local mac before
    lane_start echo c1 $OURS/24 xdp
    before=$(received)
    ping_ours 10 || fail "no answer: $(tail -2 "$RUN/ping" | head -1)"
    mac=$(in_server cat /sys/class/net/c1/address)
    in_client 1 ip neigh show $OURS | finds "lladdr $mac " || fail "wrong card: $(in_client 1 ip neigh show $OURS)"
    nothing_received "$before"
    detail "10 of 10, rtt $(sed -n 's|^rtt [^=]*= [^/]*/\([^/]*\)/.*|\1|p' "$RUN/ping") ms; $(program_at c1)"
}

# Flows choose their queue by a hash: many of them come by both. ARP may come by the second worker's.
row_xdp_two_queues() {
    local i by
    device_make 2
    lane_start echo c1 $OURS/24 xdp slice=61001-62000 slice=62001-63000
    within 3 xsks_are 2 || fail "$(xsks) sockets"
    for i in $(seq 5); do
        in_client 1 ip neigh flush all
        ping_ours 1 || fail "no answer to ping $i after ARP anew"
    done
    by=$(for i in $(seq 61001 61032); do worker_of $OURS "$i"; done | sort | uniq -c | awk '{ printf "%s%d by queue %d", sep, $1, $2; sep = ", " }')
    [[ $by = *'queue 0'*'queue 1'* ]] || fail "not by both queues: $by"
    device_make 1
    detail "32 flows: $by; 5 times ARP anew"
}

row_xdp_probe() {
    in_client 1 ip addr add 10.91.1.78/24 dev up0
    lane_start echo c1 10.91.1.78/24 xdp probe
    within 4 lane_counted conflicts 'worker 0' 1 || fail 'the probe did not see the other station'
    in_client 1 ip addr del 10.91.1.78/24 dev up0
    lane_stop KILL
    lane_start echo c1 $OURS/24 xdp probe
    if ping_ours 1; then fail 'the address was used before it was probed'; fi
    within 9 answers || fail 'the address is not used after it was probed'
    detail "a station with the address was seen, a free address used after probing"
}

row_xdp_silent_dedicated() {
    local before
    lane_start echo c1 $OURS/24 xdp slice=61001-65535
    ping_ours 1 || fail 'no answer'
    in_server sysctl -qw net.ipv4.ip_forward=1
    before=$(received)
    [ "$(knock $OURS 62000) $(knock $OURS 80)" = 'silent silent' ] || fail 'the host answers for the address'
    [ "$(worker_of $OURS 80)" = 0 ] || fail 'the lane does not get all ports'
    nothing_received "$before"
    detail 'TCP and UDP to any port: nothing from the host'
}

row_xdp_silent_shared() {
    local before
    lane_start echo c1 $HOST/24 xdp shared slice=61001-65535
    before=$(received)
    [ "$(knock $HOST 60999)" = refused ] || fail "the host does not answer for its own ports"
    [ "$(received)" -gt "$before" ] || fail 'the counter of the host does not count'
    before=$(received)
    [ "$(knock $HOST 62000)" = silent ] || fail "the host answers for a port of ours: $(knock $HOST 62000)"
    [ "$(worker_of $HOST 65535)" = 0 ] || fail 'the lane does not get its ports'
    nothing_received "$before"
    in_client 1 ping -n -q -c 1 -W 1 $HOST >/dev/null || fail 'the host does not answer pings any more'
    lane_stop KILL
    [ "$(knock $HOST 62000)" = refused ] || fail 'after the end the host still does not answer'
    detail 'ours silent, the host answers for the rest, and for all after kill -9'
}

row_xdp_generic() {
    lane_start echo c1 $OURS/24 generic
    in_server ip link show c1 | finds xdpgeneric || fail "not generic: $(in_server ip link show c1)"
    ping_ours 5 || fail 'no answer'
    detail "5 of 5, generic by request; $(program_at c1)"
}

# Frames longer than a chunk come in pieces and go in pieces.
row_xdp_jumbo() {
    in_server ip link set c1 mtu 9000
    in_client 1 ip link set up0 mtu 9000
    lane_start echo c1 $OURS/24 xdp
    in_client 1 ping -n -q -c 3 -i 0.1 -W 1 -s 8900 -M do $OURS >"$RUN/ping" 2>&1 || fail "no answer to 8,900 bytes: $(tail -2 "$RUN/ping" | head -1)"
    in_client 1 ping -n -q -c 3 -i 0.1 -W 1 -s 1800 -M do $OURS >/dev/null || fail 'no answer to 1,800 bytes'
    lane_stop KILL
    in_server ip link set c1 mtu 1500
    in_client 1 ip link set up0 mtu 1500
    detail 'pings of 8,900 and 1,800 bytes, not fragmented, answered whole'
}

# TCP between two stations across two devices, no super-packets: each byte is compared by iperf3's own end and by SHA-256.
row_xdp_relay() {
    local before used sent got
    lane_start relay c1 10.93.0.1 c2 10.93.0.2 xdp
    in_client 1 ping -n -q -c 3 -i 0.1 -W 2 10.93.0.2 >/dev/null || fail 'no ping through the relay'
    before=$(cpu "$(lane_pid)")
    rm -f "$RUN/got"
    spawn "$(ns_client 2)" "$RUN/got" timeout 60 python3 -c '
import hashlib, socket
s = socket.create_server(("10.93.0.2", 5202))
c, _ = s.accept()
h = hashlib.sha256()
while block := c.recv(1 << 20):
    h.update(block)
print(h.hexdigest())'
    within 5 sink_listens || fail 'the sink does not listen'
    sent=$(in_client 1 timeout 60 python3 -c '
import hashlib, os, socket
data = os.urandom('$RELAY_MIB' << 20)
s = socket.create_connection(("10.93.0.2", 5202))
s.sendall(data)
s.close()
print(hashlib.sha256(data).hexdigest())') || fail 'nothing could be sent'
    within 20 test -s "$RUN/got" || fail 'the sink got no end'
    got=$(cat "$RUN/got")
    [ "$got" = "$sent" ] || fail 'other bytes arrived'
    used=$(awk -v a="$before" -v b="$(cpu "$(lane_pid)")" 'BEGIN { print b - a }')
    detail "$RELAY_MIB MiB whole, $(awk -v u="$used" -v m="$RELAY_MIB" 'BEGIN { printf "%.1f", u / m / 1.048576e-3 }') CPU s/GB, lost $(lane_count drop_tx_full right)+$(lane_count drop_rx_overflow left)"
}

row_xdp_starts_down() {
    in_server ip link set c1 down
    spawn "$NS_SERVER" "$RUN/lane.out" "$LANE" echo c1 $OURS/24 xdp
    echo "$SPAWNED" >"$RUN/lane.pid"
    sleep 0.5
    gone "$(lane_pid)" && fail "the lane does not wait for its device: $(tail -1 "$RUN/lane.out")"
    in_server ip link set c1 up
    within 5 answers || fail 'no answer after the link came up'
    cable_check
    detail 'opened when the device came up'
}

row_xdp_flap() {
    local i before
    lane_start echo c1 $OURS/24 xdp
    ping_ours 1 || fail 'no answer before'
    before=$(program_at c1)
    for i in $(seq 100); do
        in_server ip link set c1 down
        in_server ip link set c1 up
    done
    within 5 answers || fail 'no answer after 100 flaps'
    for i in 1 2 3; do
        in_server ip link set c1 down
        sleep 0.5
        in_server ip link set c1 up
        within 5 answers || fail "no answer after slow flap $i"
    done
    [ "$(program_at c1) $(xsks)" = "$before 1" ] || fail "then $before, now $(program_at c1) and $(xsks) sockets"
    in_server ip link set c1 address 02:00:00:00:00:99
    # veth takes frames to the address before, too: what counts is that those to this one are taken up.
    within 5 other_card || fail 'the other card is not announced'
    in_client 1 ip neigh flush all
    within 5 answers || fail 'no answer from the other card'
    in_client 1 ip neigh show $OURS | finds 'lladdr 02:00:00:00:00:99 ' || fail "not at the other card: $(in_client 1 ip neigh show $OURS)"
    detail '100 flaps and 3 slow ones: same program, same socket; another card address taken up'
}

row_xdp_carrier() {
    local i
    lane_start echo c1 $OURS/24 xdp
    for i in 1 2 3; do
        ping_ours 1 || fail "no answer before cut $i"
        cable_carrier 1 down
        within 5 lane_counted link_downs 'worker 0' "$i" || fail "cut $i was not seen"
        cable_carrier 1 up
        within 5 answers || fail "no answer after cut $i"
    done
    cable_check
    detail 'the cable pulled and put in 3 times: seen, answers after each'
}

other_card() { in_client 1 ip neigh show $OURS | finds 'lladdr 02:00:00:00:00:99 '; }

row_xdp_recreate() {
    local i
    lane_start echo c1 $OURS/24 xdp
    for i in 1 2; do
        ping_ours 1 || fail 'no answer before'
        cable_cut 1
        sleep 0.5
        device_make 1
        within 5 answers || fail "no answer on the device of the same name: $(tail -1 "$RUN/lane.out")"
    done
    [ "$(xsks)" = 1 ] || fail "$(xsks) sockets"
    detail 'deleted and made again twice: answers as before'
}

# `ip link set xdp off` may not take away what hangs on a link; who has the right to may detach the link itself.
row_xdp_displaced() {
    lane_start echo c1 $OURS/24 xdp
    ping_ours 1 || fail 'no answer before'
    if in_server ip link set c1 xdp off 2>/dev/null && ! program_at c1 >/dev/null; then fail 'ip link took the program away'; fi
    in_server "$LANE" detach c1 || fail 'the link cannot be detached from outside'
    within 5 answers || fail "not on again: $(tail -1 "$RUN/lane.out")"
    program_at c1 >/dev/null || fail 'no program'
    detail "detached from outside, on again by itself: $(program_at c1)"
}

# Somebody else was first: refused, with his program's name; he keeps the device.
row_xdp_occupied() {
    lane_start echo c1 $OURS/24 xdp
    local theirs
    theirs=$(program_at c1)
    in_server timeout 5 "$LANE" echo c1 10.91.1.79/24 xdp >"$RUN/second.out" 2>&1 && fail 'a second lane starts on the same device'
    grep -q "${theirs##* }" "$RUN/second.out" || fail "the id ${theirs##* } is not named: $(tail -1 "$RUN/second.out")"
    ping_ours 1 || fail 'the first does not answer any more'
    detail "$(tail -1 "$RUN/second.out" | cut -c1-160)"
}

# More queues are taken up. Fewer the kernel refuses as long as a socket is on one of those that would go.
row_xdp_queues() {
    device_make 2
    queues_active up0 1 && queues_active c1 1 || skip 'the device does not change its queues'
    lane_start echo c1 $OURS/24 xdp slice=61001-62000 slice=62001-63000
    [ "$(xsks)" = 1 ] || fail "$(xsks) sockets on 1 queue"
    ping_ours 1 || fail 'no answer with 1 queue'
    queues_active c1 2 && queues_active up0 2 || fail 'the device does not get a second queue'
    within 6 xsks_are 2 || fail "$(xsks) sockets on 2 queues: $(tail -1 "$RUN/lane.out")"
    within 5 answers || fail 'no answer with 2 queues'
    if queues_active c1 1 2>/dev/null; then fail 'the kernel takes a queue away under its socket'; fi
    ping_ours 1 || fail 'no answer any more'
    device_make 1
    detail '1 queue, then 2: as many sockets within 6 s, answers each time; back to 1 is refused by the kernel while they are open'
}
xsks_are() { [ "$(xsks)" = "$1" ]; }
# queues_active DEVICE N: how many it uses, of those it has; by ETHTOOL_SCHANNELS.
queues_active() {
    local where=(in_server)
    [ "$1" = c1 ] || where=(in_client 1)
    "${where[@]}" python3 - "$1" "$2" <<'PY'
import array, fcntl, socket, struct, sys
device, count = sys.argv[1].encode(), int(sys.argv[2])
value = array.array("B", struct.pack("9I", 0x3C, *[0] * 8))  # ETHTOOL_GCHANNELS
sock = socket.socket()
request = struct.pack("16sQ16x", device, value.buffer_info()[0])
fcntl.ioctl(sock, 0x8946, request)
fields = list(struct.unpack("9I", value))
fields[0], fields[5], fields[6] = 0x3D, count, count  # ETHTOOL_SCHANNELS: rx, tx
value[:] = array.array("B", struct.pack("9I", *fields))
fcntl.ioctl(sock, 0x8946, request)
PY
}

answers_long() { in_client 1 ping -n -q -c 2 -i 0.1 -W 1 -s 8000 -M do $OURS >/dev/null; }

row_xdp_mtu() {
    lane_start echo c1 $OURS/24 xdp
    ping_ours 1 || fail 'no answer before'
    in_server ip link set c1 mtu 9000 || fail 'the MTU cannot be changed while the program is on the device'
    in_client 1 ip link set up0 mtu 9000
    # It looks once a second, and may have to open other sockets then.
    within 5 answers_long || fail 'no answer to 8,000 bytes'
    in_server ip link set c1 mtu 1500
    in_client 1 ip link set up0 mtu 1500
    sleep 2.5
    within 2 answers || fail 'no answer after the MTU went back'
    cable_check
    detail '1500 to 9000 and back under the running lane'
}

# What a user with the rights but without memory to lock gets: a message that says what to raise, and no lane.
row_xdp_memlock() {
    local caps='-all,+net_admin,+net_raw,+bpf,+perfmon'
    in_server prlimit --memlock=65536:65536 setpriv --inh-caps "$caps" --bounding-set "$caps" --reuid 65534 --ambient-caps "$caps" \
        timeout 5 "$LANE" echo c1 $OURS/24 xdp >"$RUN/small.out" 2>&1 && fail 'it starts with 64 KiB to lock'
    grep -q 'RLIMIT_MEMLOCK' "$RUN/small.out" || fail "the message does not name the limit: $(tail -1 "$RUN/small.out")"
    program_at c1 >/dev/null && fail 'the program stays on the device'
    detail "$(tail -1 "$RUN/small.out" | cut -c1-200)"
}

# Nobody, with the capabilities of packaging/hublane-nat.conf, and in place of its LimitMEMLOCK= the one that asks for none.
row_xdp_rights() {
    local caps
    caps=+ipc_lock,$(sed -n 's/^AmbientCapabilities=//p' "$ROOT/packaging/hublane-nat.conf" | sed 's/CAP_/+/g; s/ /,/g' | tr '[:upper:]' '[:lower:]')
    : >"$RUN/lane.out"
    spawn "$NS_SERVER" "$RUN/lane.out" setpriv --inh-caps "-all,$caps" --bounding-set "-all,$caps" \
        --reuid 65534 --ambient-caps "-all,$caps" "$LANE" echo c1 $OURS/24 xdp
    echo "$SPAWNED" >"$RUN/lane.pid"
    within 5 answers || fail "no answer: $(tail -1 "$RUN/lane.out")"
    detail "as nobody with $caps"
}

row_xdp_kill() {
    lane_start echo c1 $OURS/24 xdp
    ping_ours 1 || fail 'no answer'
    lane_stop KILL
    within 3 no_program || fail "left: $(program_at c1)"
    lane_start echo c1 $OURS/24 xdp
    ping_ours 1 || fail 'no answer after the restart'
    detail 'program gone with the process, started again at once'
}
no_program() { ! program_at c1 >/dev/null; }
