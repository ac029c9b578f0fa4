# shellcheck shell=bash
# The stations between a client and a server: squid, tinyproxy, microsocks, Dante and OpenSSH's server, as Debian packs
# them, unpacked by `scripts/setup --paths` and started only here, in the middle's namespace, with an /etc of their own.
#
#   client 1  10.91.1.2 -- 10.91.1.1  server  10.91.M.1 -- 10.91.M.2  middle (client M)
#
# The server forwards between the two. The name $FAR_NAME stands in the middle's own hosts file and nowhere else: who
# reaches it has had it resolved there. Source after netns.sh; who sets MIDDLE and TINYPROXY_IDLE before has his own.

PATHS=$CACHE/paths
# Where the middle sees them: squid's helpers, which have left root behind, would not get into root's own folders.
SEEN=/run/paths
MIDDLE=${MIDDLE:-2}
FAR_NAME=vpn.test
# Where each listens.
PORT_SQUID_DIGEST=3128
PORT_SQUID_BASIC=3129
PORT_TINYPROXY=8888
PORT_MICROSOCKS=1080
PORT_DANTE=1081
PORT_SSH=2222
PORT_SSH_SOCKS=1082
# A user of all of them that have some.
PROXY_USER=me
PROXY_PASSWORD='geheim: 1'
# tinyproxy cuts what is idle for so long.
TINYPROXY_IDLE=${TINYPROXY_IDLE:-3}

paths_need() { [ -x "$PATHS/usr/sbin/squid" ] || die 'the proxies are missing: scripts/setup --paths'; }

addr_middle() { addr_client $MIDDLE; }
in_middle() { in_client $MIDDLE "$RUN/middle/own" "$@"; }

# paths_up: routes, and the two folders with an /etc of their own. After net_up with as many clients as MIDDLE says.
paths_up() {
    chmod 711 "$RUN" # squid leaves root behind
    in_server sysctl -qw net.ipv4.ip_forward=1
    in_client 1 ip route add "10.91.$MIDDLE.0/24" via "$(addr_server 1)"
    in_client $MIDDLE ip route add 10.91.1.0/24 via "$(addr_server $MIDDLE)"
    own_etc middle "$(addr_server $MIDDLE) $FAR_NAME"
    own_etc here ''
    paths_ssh
    paths_config
}

# own_etc NAME HOSTS: $RUN/NAME/own CMD... runs CMD with users, home and names of its own. Inside `ip netns exec`, whose
# mounts nobody else sees.
own_etc() {
    local dir=$RUN/$1
    mkdir -p "$dir/etc" "$dir/home/.ssh"
    chmod 700 "$dir/home/.ssh"
    { printf '127.0.0.1 localhost\n' && printf '%s\n' "$2"; } >"$dir/etc/hosts"
    printf 'hosts: files\npasswd: files\ngroup: files\n' >"$dir/etc/nsswitch.conf"
    awk -F: -v OFS=: -v home="$dir/home" '$1 == "root" { $6 = home } $1 != "sshd" && $1 != "gate" && $1 != "proxy"' /etc/passwd >"$dir/etc/passwd"
    printf '%s\n' 'sshd:*:65531:65534::/run/sshd:/bin/false' 'proxy:*:65532:65534::/:/bin/false' "gate:*:0:0::$dir/home:/bin/sh" >>"$dir/etc/passwd"
    cat >"$dir/own" <<-EOC
		#!/bin/sh
		set -e
		for file in hosts nsswitch.conf passwd; do mount --bind $dir/etc/\$file /etc/\$file; done
		mount -t tmpfs none /run
		mkdir -m 755 /run/sshd $SEEN
		mount --bind $PATHS $SEEN
		exec "\$@"
	EOC
    chmod +x "$dir/own"
}

# Keys of the host and of one user, whom it lets in; the client knows the host.
paths_ssh() {
    local dir=$RUN/middle
    ssh-keygen -q -t ed25519 -N '' -f "$dir/host_key"
    ssh-keygen -q -t ed25519 -N '' -f "$RUN/here/home/.ssh/id_ed25519"
    cp "$RUN/here/home/.ssh/id_ed25519.pub" "$dir/authorized"
    printf '[%s]:%s %s\n' "$(addr_middle)" "$PORT_SSH" "$(cut -d' ' -f1,2 "$dir/host_key.pub")" >"$RUN/here/home/.ssh/known_hosts"
    # A name of the user's own configuration, which counts too.
    cat >"$RUN/here/home/.ssh/config" <<-EOC
		Host gatehouse
		    HostName $(addr_middle)
		    Port $PORT_SSH
		    User gate
	EOC
    cat >"$dir/sshd_config" <<-EOC
		ListenAddress $(addr_middle):$PORT_SSH
		HostKey $dir/host_key
		AuthorizedKeysFile $dir/authorized
		PidFile none
		StrictModes no
		UsePAM no
		PasswordAuthentication no
		PermitRootLogin prohibit-password
		AllowUsers gate
		PermitOpen $FAR_NAME:* $(addr_server $MIDDLE):*
	EOC
}

paths_config() {
    local dir=$RUN/middle here
    here=$(addr_middle)
    printf '%s:%s\n' $PROXY_USER "$(openssl passwd -apr1 "$PROXY_PASSWORD")" >"$dir/squid.basic"
    # HA1 of RFC 7616, since squid's plain form ends a password at its first colon.
    printf '%s:%s:%s\n' $PROXY_USER Hublane "$(printf '%s:Hublane:%s' $PROXY_USER "$PROXY_PASSWORD" | md5sum | cut -d' ' -f1)" >"$dir/squid.digest"
    squid_config digest $PORT_SQUID_DIGEST "$SEEN/usr/lib/squid/digest_file_auth -c $dir/squid.digest"
    squid_config basic $PORT_SQUID_BASIC "$SEEN/usr/lib/squid/basic_ncsa_auth $dir/squid.basic"
    cat >"$dir/tinyproxy.conf" <<-EOC
		Port $PORT_TINYPROXY
		Listen $here
		Timeout $TINYPROXY_IDLE
		MaxClients 50
		Allow 10.91.1.0/24
		BasicAuth $PROXY_USER $TINYPROXY_PASSWORD
		ConnectPort 443
		ConnectPort 5555
		ConnectPort 5556
		DefaultErrorFile "$SEEN/usr/share/tinyproxy/default.html"
	EOC
    cat >"$dir/danted.conf" <<-EOC
		logoutput: stderr
		internal: $here port = $PORT_DANTE
		external: $here
		clientmethod: none
		socksmethod: none
		user.privileged: root
		user.unprivileged: proxy
		client pass { from: 10.91.1.0/24 to: 0.0.0.0/0 }
		socks block {
		    from: 0.0.0.0/0 to: 0.0.0.0/0 port = 25
		    log: connect
		}
		socks pass {
		    from: 10.91.1.0/24 to: 0.0.0.0/0
		    command: connect
		    log: error connect
		}
	EOC
}
# tinyproxy's configuration takes no spaces.
TINYPROXY_PASSWORD=geheim

# squid_config SCHEME PORT PROGRAM
squid_config() {
    local dir=$RUN/middle
    mkdir -p "$dir/squid-$1"
    chmod 777 "$dir/squid-$1"
    cat >"$dir/squid-$1.conf" <<-EOC
		http_port $(addr_middle):$2
		auth_param $1 program $3
		auth_param $1 realm Hublane
		auth_param $1 children 1
		acl known proxy_auth REQUIRED
		acl allowed port 443 5555 5556
		http_access deny !allowed
		http_access allow known
		http_access deny all
		cache deny all
		cache_mem 8 MB
		cache_effective_user proxy
		pid_filename none
		cache_log $dir/squid-$1/log
		access_log none
		netdb_filename none
		pinger_enable off
		unlinkd_program $SEEN/usr/lib/squid/unlinkd
		mime_table $SEEN/usr/share/squid/mime.conf
		icon_directory $SEEN/usr/share/squid/icons
		error_directory $SEEN/usr/share/squid-langpack/templates
		coredump_dir $dir/squid-$1
		visible_hostname squid.test
		dns_nameservers 127.0.0.1
		dns_timeout 2 seconds
		dns_retransmit_interval 1 second
		max_filedescriptors 1024
		shutdown_lifetime 0 seconds
	EOC
}

# path_start NAME: starts a station and waits until it listens. Its process group stands in $RUN/middle/NAME.pid.
path_start() {
    local port command libraries
    path_stop "$1"
    case $1 in
    squid-*) command=("$SEEN/usr/sbin/squid" -N -f "$RUN/middle/$1.conf") ;;
    tinyproxy) command=("$SEEN/usr/bin/tinyproxy" -d -c "$RUN/middle/tinyproxy.conf") ;;
    microsocks) command=("$SEEN/usr/bin/microsocks" -i "$(addr_middle)" -p $PORT_MICROSOCKS -u $PROXY_USER -P "$PROXY_PASSWORD") ;;
    dante) command=("$SEEN/usr/sbin/danted" -f "$RUN/middle/danted.conf") ;;
    ssh) command=("$SEEN/usr/sbin/sshd" -D -e -f "$RUN/middle/sshd_config") ;;
    # OpenSSH's client as a SOCKS proxy: the one that knows SOCKS 4a.
    ssh-socks)
        command=(ssh -N -D "$(addr_middle):$PORT_SSH_SOCKS" -i "$RUN/here/home/.ssh/id_ed25519" -o BatchMode=yes
            -o "UserKnownHostsFile=$RUN/here/home/.ssh/known_hosts" -p $PORT_SSH "gate@$(addr_middle)")
        ;;
    esac
    port=$(path_port "$1")
    libraries=$SEEN/lib/$(uname -m)-linux-gnu:$SEEN/usr/lib/$(uname -m)-linux-gnu
    local SPAWN_BY=("$RUN/middle/own" env "LD_LIBRARY_PATH=$libraries")
    spawn "$(ns_client $MIDDLE)" "$RUN/middle/$1.out" "${command[@]}"
    echo "$SPAWNED" >"$RUN/middle/$1.pid"
    within 15 path_listens "$port" || fail "$1 does not start: $(tail -2 "$RUN/middle/$1.out" "$RUN/middle/$1/log" 2>/dev/null)"
}
path_listens() { [ -n "$(in_client $MIDDLE ss -Hltn "sport = :$1")" ]; }

path_port() {
    case $1 in
    squid-digest) echo $PORT_SQUID_DIGEST ;;
    squid-basic) echo $PORT_SQUID_BASIC ;;
    tinyproxy) echo $PORT_TINYPROXY ;;
    microsocks) echo $PORT_MICROSOCKS ;;
    dante) echo $PORT_DANTE ;;
    ssh) echo $PORT_SSH ;;
    ssh-socks) echo $PORT_SSH_SOCKS ;;
    esac
}

# path_stop NAME: ends it with all its connections.
path_stop() {
    [ -e "$RUN/middle/$1.pid" ] || return 0
    stop_group "$(cat "$RUN/middle/$1.pid")" KILL
    rm -f "$RUN/middle/$1.pid"
    # sshd's children have groups of their own.
    in_client $MIDDLE ss -HtnpK "sport = :$(path_port "$1")" >/dev/null 2>&1 || true
    [ "$1" != ssh ] || ip netns pids "$(ns_client $MIDDLE)" | while read -r pid; do
        if grep -qs '^sshd' "/proc/$pid/comm"; then kill -KILL "$pid" 2>/dev/null || true; fi
    done
}
