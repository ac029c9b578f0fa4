# shellcheck shell=bash
# For the machine that scripts/zero-copy emulates: the devices of scripts/lib/netns.sh are its virtio-net cards, whose far
# ends QEMU joins.

slot_server() { echo "1$1"; }
slot_client() { echo "0$(($1 + 4))"; }
# card SLOT: the name of the device there, as long as it is in the first namespace.
card() { basename "$(echo /sys/bus/pci/devices/0000:00:"$1".0/virtio*/net/*)"; }
# driver SLOT bind|unbind
driver() {
    local virtio
    virtio=$(basename "$(echo /sys/bus/pci/devices/0000:00:"$1".0/virtio*)")
    echo "$virtio" >"/sys/bus/virtio/drivers/virtio_net/$2"
}

cable() {
    local server client
    [ "${2:-1}" = 1 ] || skip 'the cards have one queue'
    server=$(slot_server "$1")
    client=$(slot_client "$1")
    # They are there from the start, and after a cut again.
    [ -e "$(echo /sys/bus/pci/devices/0000:00:"$server".0/virtio*/net)" ] || { driver "$server" bind && driver "$client" bind; }
    ip link set "$(card "$server")" netns "$NS_SERVER" name "c$1"
    ip link set "$(card "$client")" netns "$(ns_client "$1")" name up0
}

cable_cut() { driver "$(slot_server "$1")" unbind && driver "$(slot_client "$1")" unbind; }

# The second serial port is QEMU's monitor.
cable_carrier() {
    local state=on
    [ "$2" = up ] || state=off
    printf '\nset_link c%s-card %s\n' "$1" "$state" >/dev/ttyS1
}

# cable_check [ARGS...]: what the lane on it says of its queues: zero-copy, unless ARGS or the MTU rule it out.
cable_check() {
    local said wanted=yes
    [[ " $* " != *' generic '* ]] || wanted=no
    # The driver has zero-copy for frames that fit into a chunk of 2 KiB.
    [ "$(in_server cat /sys/class/net/c1/mtu)" -le 1500 ] || wanted=no
    within 5 grep -q '^queue .* zero-copy: ' "$RUN/lane.out" || fail 'the lane says nothing of its queues'
    # Of each queue what was said last.
    said=$(awk '/^queue .* zero-copy: / { at = $0; sub(/ zero-copy: .*/, "", at); last[at] = $0 } END { for (at in last) print last[at] }' "$RUN/lane.out")
    if finds -v " zero-copy: $wanted" <<<"$said"; then fail "zero-copy should be $wanted: $said"; fi
}
