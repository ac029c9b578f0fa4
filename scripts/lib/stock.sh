# shellcheck shell=bash
# The stock SoftEther programs: client, server, and vpncmd, which controls both.
#
# Debian's build keeps its state in /var/lib/softether, /var/log/softether and /run/softether. Each program
# gets folders of its own under $RUN by bind mounts in the mount namespace that `ip netns exec` makes, so
# that several run at once and nothing of the machine's own installation is touched. They would raise their
# priority above everything else; without CAP_SYS_NICE they cannot, and compete fairly with our server.
#
# One account named "hub" on one virtual card named "hub" (device vpn_hub) is enough for every test.

STOCK_BIN=$CACHE/softether/usr/libexec/softether
NIC=vpn_hub
SERVER_PORT=5555

# stock_spawn NAMESPACE NAME PROGRAM: starts PROGRAM with its state in $RUN/NAME; pid in $RUN/NAME/pid. With STOCK_RESOLV
# that file is its /etc/resolv.conf, with STOCK_PATH it finds programs there.
stock_spawn() {
    local dir=$RUN/$2
    mkdir -p "$dir/lib" "$dir/log" "$dir/run" /var/lib/softether /var/log/softether /run/softether
    # shellcheck disable=SC2016 # expanded by the inner shell
    spawn "$1" "$dir/out" setpriv --bounding-set=-sys_nice bash -c '
        mount --bind "$1/lib" /var/lib/softether
        mount --bind "$1/log" /var/log/softether
        mount --bind "$1/run" /run/softether
        [ -z "$3" ] || mount --bind "$3" /etc/resolv.conf
        PATH=$4 exec "$2" execsvc' bash "$dir" "$STOCK_BIN/$3/$3" "${STOCK_RESOLV:-}" "${STOCK_PATH:-$PATH}"
    echo "$SPAWNED" >"$dir/pid"
}

# ---- client -------------------------------------------------------------------------------------------

# vpnc N COMMAND [ARGS...]: one command to the client in namespace N.
vpnc() {
    local n=$1
    shift
    in_client "$n" timeout 20 "$STOCK_BIN/vpncmd/vpncmd" 127.0.0.1 /CLIENT /CMD "$@" </dev/null
}

# vpnc_lines N: the commands on stdin, one a line; fails if one of them fails.
vpnc_lines() {
    local dir=$RUN/client$1
    cat >"$dir/in"
    in_client "$1" timeout 20 "$STOCK_BIN/vpncmd/vpncmd" 127.0.0.1 /CLIENT "/IN:$dir/in" </dev/null >"$dir/said" || true
    all_completed "$dir/said"
}

# all_completed FILE: FILE is what vpncmd said to a file of commands, none of which failed; else shows it.
all_completed() {
    if grep -q '^The command completed' "$1" && ! grep -q '^Error occurred' "$1"; then return 0; fi
    cat "$1" >&2
    return 1
}

client_answers() { vpnc "$1" NicList >/dev/null 2>&1; }

# client_start N: client program and virtual card, with an address as nic_address gives it.
client_start() {
    local n=$1
    [ ! -e "$RUN/client$n/pid" ] || return 0
    stock_spawn "$(ns_client "$n")" "client$n" vpnclient
    within 20 client_answers "$n" || fail "the stock client does not start: $(tail -3 "$RUN/client$n/out")"
    vpnc_lines "$n" <<<'NicCreate hub'
    within 5 in_client "$n" ip link show "$NIC" >/dev/null 2>&1
    nic_address "$n"
    in_client "$n" ip link set "$NIC" up
}
# nic_address N: the inner address 10.92.0.N; scripts/lib/nat.sh leaves it to others.
nic_address() { in_client "$1" ip addr add "$(addr_inner "$1")/24" dev "$NIC"; }

# clients_stop: ends the client programs and forgets their state.
#
# The 5.01 client does not recover from a TCP connection that ends without close_notify, by FIN or by reset: it
# drops every later connection within two seconds (protocol note, section 1.1). A test that has cut it off
# in this way leaves the next one a new client.
clients_stop() {
    local dir
    for dir in "$RUN"/client*; do
        [ -e "$dir/pid" ] || continue
        stop_group "$(cat "$dir/pid")" KILL
        rm -rf "$dir"
    done
}

addr_inner() { printf '10.92.0.%s' "$1"; }

# client_account N [name=value ...]: makes the account anew, as told; the client is offline afterwards.
#   hub user password type=standard|radius (hashed or plain) server max_tcp half bridge compress encrypt retry
# shellcheck disable=SC2034 # max_tcp and the like are set by name
client_account() {
    local n=$1
    shift
    local hub=PUBLIC user=u$n password=secret-$n type=standard server max_tcp=1 half=no bridge=no compress=no encrypt=yes qos=no retry=5
    server=$(addr_server "$n")
    [ $# = 0 ] || local "$@"
    rm -f "$RUN/client$n/want"
    client_offline "$n"
    vpnc "$n" AccountDelete hub >/dev/null || true
    vpnc_lines "$n" <<-EOF
		AccountCreate hub /SERVER:$server:$SERVER_PORT /HUB:$hub /USERNAME:$user /NICNAME:hub
		AccountPasswordSet hub /PASSWORD:$password /TYPE:$type
		AccountDetailSet hub /MAXTCP:$max_tcp /INTERVAL:1 /TTL:0 /HALF:$half /BRIDGE:$bridge /MONITOR:no /NOTRACK:yes /NOQOS:$([ "$qos" = yes ] && echo no || echo yes) /DISABLEUDP:yes
		AccountRetrySet hub /NUM:999 /INTERVAL:$retry
		Account$([ "$compress" = yes ] && echo CompressEnable || echo CompressDisable) hub
		Account$([ "$encrypt" = yes ] && echo EncryptEnable || echo EncryptDisable) hub
	EOF
}

client_offline() {
    vpnc "$1" AccountDisconnect hub >/dev/null || true
    within 15 client_is_offline "$1" || fail "client $1 does not go offline"
}
client_is_offline() { ! vpnc "$1" AccountStatusGet hub >/dev/null; }

client_connect() { vpnc "$1" AccountConnect hub >/dev/null; }

# client_status N [FIELD]: the client's own account of its session, or one value of it.
client_status() {
    if [ $# = 1 ]; then
        vpnc "$1" AccountStatusGet hub
    else
        vpnc "$1" AccountStatusGet hub | awk -F'|' -v f="$2" '{ k = $1; sub(/ +$/, "", k) } k == f { print $2 }'
    fi
}

client_is_up() { client_status "$1" | finds '^Session Status.*|Connection Completed'; }
client_has_conns() { [ "$(client_status "$1" 'Number of TCP Connections')" = "$2" ]; }

# client_await N [SECONDS]: until the client shows an established session.
client_await() {
    within "${2:-15}" client_is_up "$1" || fail "client $1 is not connected after ${2:-15} s: $(client_status "$1" 'Session Status')"
}

# clients_want "N N ..." [name=value ...]: these clients are connected with exactly these options; those that
# already are stay as they are.
clients_want() {
    local n clients=$1 fresh=()
    shift
    for n in $clients; do
        client_start "$n"
        if [ "$(cat "$RUN/client$n/want" 2>/dev/null)" = "as told: $*" ] && client_is_up "$n"; then continue; fi
        client_account "$n" "$@"
        client_connect "$n"
        fresh+=("$n")
    done
    for n in "${fresh[@]}"; do
        client_await "$n"
        echo "as told: $*" >"$RUN/client$n/want"
    done
}

# client_log N: what the client wrote to its log since its account was last made. It has the codes of errors
# ("(code 9)"), which vpncmd does not show, and the moment of each login to the millisecond.
client_log() {
    awk '/VPN Connection Setting "hub" has been created/ { s = "" } { s = s $0 "\n" } END { printf "%s", s }' \
        "$RUN/client$1"/log/client_log/*.log
}
client_log_has() { client_log "$1" | finds -F "$2"; }

# client_login_time N: when its newest session was established, in seconds since 1970.
client_login_time() { date +%s.%3N -d "$(client_log "$1" | grep 'Now connected' | tail -1 | cut -c1-23)"; }
client_logins() { client_log "$1" | grep -c 'Now connected' || true; }

# ---- server -------------------------------------------------------------------------------------------

vpns_lines() {
    cat >"$RUN/$SERVER/in"
    in_server timeout 20 "$STOCK_BIN/vpncmd/vpncmd" "127.0.0.1:$SERVER_PORT" /SERVER /PASSWORD: "/IN:$RUN/$SERVER/in" </dev/null >"$RUN/$SERVER/said" || true
    all_completed "$RUN/$SERVER/said"
}

stock_server_answers() { vpns_lines <<<About 2>/dev/null; }

# stock_server_start [tls=1.2|1.3|1.2,1.3] [reattach=yes|no]: the first start makes hub and users. Its certificate is
# always RSA. With reattach=no a session ends with its connections.
stock_server_start() {
    local tls=1.2,1.3 reattach=yes first=''
    [ $# = 0 ] || local "$@"
    [ -e "$RUN/$SERVER/lib" ] || first=yes
    mkdir -p "$RUN/$SERVER/lib"
    [ -z "$first" ] || stock_server_config >"$RUN/$SERVER/lib/vpn_server.config"
    # Its own setting cannot switch TLS 1.3 off, OpenSSL's can.
    cat >"$RUN/$SERVER/openssl.cnf" <<-EOF
		openssl_conf = conf
		[conf]
		ssl_conf = ssl
		[ssl]
		system_default = limits
		[limits]
		MinProtocol = TLSv${tls%%,*}
		MaxProtocol = TLSv${tls##*,}
	EOF
    OPENSSL_CONF=$RUN/$SERVER/openssl.cnf stock_spawn "$NS_SERVER" "$SERVER" vpnserver
    within 20 stock_server_answers || fail "the stock server does not start: $(tail -3 "$RUN/$SERVER/out")"
    if [ -n "$first" ]; then stock_server_fill; fi
}

# Everything that would look for the Internet is off.
stock_server_config() {
    cat <<-EOF
		declare root
		{
			declare DDnsClient
			{
				bool Disabled true
			}
			declare ListenerList
			{
				declare Listener0
				{
					bool DisableDos true
					bool Enabled true
					uint Port $SERVER_PORT
				}
			}
			declare ServerConfiguration
			{
				bool DisableDeadLockCheck true
				bool DisableGetHostNameWhenAcceptTcp true
				bool DisableNatTraversal true
				bool DisableSessionReconnect $([ "${reattach:-yes}" = yes ] && echo false || echo true)
				bool EnableVpnAzure false
				bool UseKeepConnect false
				bool UseWebUI false
				uint MaxConnectionsPerIP 10000
			}
		}
	EOF
}

stock_server_fill() {
    local n
    {
        echo 'HubCreate PUBLIC /PASSWORD:hub'
        echo 'Hub PUBLIC'
        for n in 1 2 3 4; do
            echo "UserCreate u$n /GROUP:none /REALNAME:none /NOTE:none"
            echo "UserPasswordSet u$n /PASSWORD:secret-$n"
        done
        echo 'LogDisable packet'
        echo 'LogDisable security'
        echo 'Flush' # a kill -9 must not lose this
    } | vpns_lines
}

# Sessions of members (the hub's own are not listed), one user name a line.
stock_server_sessions() {
    vpns_lines <<<$'Hub PUBLIC\nSessionList'
    sed -n 's/^User Name *|//p' "$RUN/$SERVER/said" | tr '[:upper:]' '[:lower:]'
}
