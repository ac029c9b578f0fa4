# shellcheck shell=bash
# An emulated machine for scripts/zero-copy: QEMU and a kernel of Debian in the cache folder, and an initial RAM disk with
# these scripts and the programs of this system that they call. Uses common.sh.

# virtio-net has zero-copy for both directions since Linux 6.13; this suite of Debian has a later one.
KERNEL_SUITE='http://deb.debian.org/debian trixie-backports main'
QEMU_PACKAGES=(qemu-system-x86 qemu-system-common qemu-system-data seabios)
# Libraries of QEMU that a system without it may lack; whatever is here already comes along all the same.
QEMU_LIBRARIES=(libcapstone4 libfdt1 libibverbs1 libpmem1 librdmacm1 libslirp0 libvdeplug2 libnl-3-200 libnl-route-3-200
    libndctl6 libdaxctl1)
VM_TOOLS=$CACHE/zero-copy

# In this order; each needs those before it.
GUEST_MODULES=(failover net_failover virtio_net veth tun)
GUEST_PROGRAMS=(bash sh cat ls cp mv rm mkdir mount ip ss nstat ping sysctl awk mawk sed grep cut sort uniq head tail tr seq wc
    mktemp sleep timeout setsid setpriv prlimit taskset kill pgrep xargs id env dirname basename readlink date getconf tee
    test true false touch ln dmesg uname stty)

# vm_fetch: once; later runs find everything there.
vm_fetch() {
    [ ! -e "$VM_TOOLS/complete" ] || return 0
    command -v apt-get >/dev/null || die 'QEMU and the kernel come as Debian packages; apt-get is needed to fetch them'
    local tmp kernel apt
    mkdir -p "$CACHE"
    tmp=$(mktemp -d "$VM_TOOLS.XXXXXX")
    note "fetching QEMU and a kernel for the emulated machine"
    mkdir -p "$tmp/lists/partial" "$tmp/debs"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $KERNEL_SUITE" >"$tmp/sources"
    apt=(-qq -o "APT::Sandbox::User=$(id -un)" -o "Dir::Etc::sourcelist=$tmp/sources" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$tmp/lists" -o "Dir::Cache=$tmp/lists" -o Acquire::Languages=none)
    apt-get "${apt[@]}" update >&2
    kernel=$(apt-cache "${apt[@]}" depends linux-image-cloud-amd64 | sed -n 's/.*Depends: linux-image-\([0-9].*\)$/\1/p' | sort -V | tail -1)
    [ -n "$kernel" ] || die "no kernel in $KERNEL_SUITE"
    (
        cd "$tmp/debs" || exit
        apt-get "${apt[@]}" download "linux-image-$kernel"
        # Newer packages come in parts.
        for part in modules binary base; do apt-get "${apt[@]}" download "linux-$part-$kernel" 2>/dev/null || true; done
        apt-get -qq -o "APT::Sandbox::User=$(id -un)" download busybox-static "${QEMU_PACKAGES[@]}" "${QEMU_LIBRARIES[@]}"
    ) >&2
    for deb in "$tmp"/debs/*.deb; do dpkg -x "$deb" "$tmp/root"; done
    rm -rf "$tmp/lists" "$tmp/debs" "$tmp/root/usr/share/doc"
    kernel=$(find "$tmp/root" -name "vmlinuz*" -type f | head -1)
    [ -n "$kernel" ] || die 'the kernel package has no kernel'
    mv "$kernel" "$tmp/root/vmlinuz"
    touch "$tmp/root/complete"
    # Whoever comes second keeps the first one's.
    mv -T "$tmp/root" "$VM_TOOLS" 2>/dev/null || [ -e "$VM_TOOLS/complete" ]
    rm -rf "$tmp"
}

# image_make FILE LANE: the RAM disk.
image_make() {
    local file=$1 lane=$2 tree name path module
    tree=$(mktemp -d "$RUN/tree.XXXXXX")
    mkdir -p "$tree"/{bin,proc,sys,dev,run,tmp,etc,modules,tree,root,usr/lib,lib64,var/run}
    ln -s bin "$tree/sbin"
    ln -s usr/lib "$tree/lib"
    for name in "${GUEST_PROGRAMS[@]}"; do
        path=$(PATH=$PATH:/usr/sbin:/sbin type -P "$name") || die "this system has no '$name'"
        cp -L "$path" "$tree/bin/$name"
        libraries "$path" "$tree"
    done
    # The system's own; what stands before it in PATH may be a script.
    path=$(readlink -f /usr/bin/python3)
    cp "$path" "$tree/bin/python3"
    libraries "$path" "$tree"
    cp -r "/usr/lib/$(basename "$path")" "$tree/usr/lib/"
    rm -rf "$tree"/usr/lib/python3*/{test,idlelib,lib2to3,ensurepip,tkinter,config-*}
    for path in "$tree"/usr/lib/python3*/lib-dynload/*.so; do libraries "$path" "$tree"; done
    cp "$lane" "$tree/bin/lane"
    libraries "$lane" "$tree"
    for module in "${GUEST_MODULES[@]}"; do
        path=$(find "$VM_TOOLS/" -name "$module.ko*" | head -1)
        case $path in
        *.xz) xz -dc "$path" >"$tree/modules/$module.ko" ;;
        *.zst) zstd -dqc "$path" >"$tree/modules/$module.ko" ;;
        *.ko) cp "$path" "$tree/modules/" ;;
        *) die "the kernel has no module '$module'" ;;
        esac
    done
    cp "$VM_TOOLS/bin/busybox" "$tree/bin/"
    for name in insmod poweroff hostname; do ln -s busybox "$tree/bin/$name"; done
    cp -r "$ROOT/scripts" "$tree/tree/"
    cp "$LIB/guest_init" "$tree/init"
    # Rows of users without rights enter it, too.
    chmod 755 "$tree" "$tree/init"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
    (cd "$tree" && find . | "$VM_TOOLS/bin/busybox" cpio -o -H newc 2>/dev/null) >"$file"
    rm -rf "$tree"
}

# libraries PROGRAM TREE: those it is linked with, where it looks for them.
libraries() {
    local path
    while read -r path; do
        [ -e "$2$path" ] || { mkdir -p "$2$(dirname "$path")" && cp -L "$path" "$2$path"; }
    done < <(ldd "$1" 2>/dev/null | grep -o '/[^ ]*' || true)
}
