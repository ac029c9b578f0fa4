# shellcheck shell=bash
# The two TLS pipes that hubs are compared with, in the server's namespace: HAProxy of Debian, and the bare relay of
# hublane-bench. Both take TLS, make TLS, and look at nothing in between; `hublane-bench stream` is their load.
#
# `scripts/setup --compare` fetches HAProxy. Needs common.sh, netns.sh, table.sh and hublane.sh.

HAPROXY_DIR=$CACHE/haproxy
PIPE_PORT=5556
PIPE=pipe # its folder under $RUN; with a port of its own for each, several run at once

# pipe_stop: ends whatever haproxy_start or relay_start has started.
pipe_stop() {
    [ -e "$RUN/$PIPE/pid" ] || return 0
    stop_group "$(cat "$RUN/$PIPE/pid")" || fail 'the pipe does not end'
    rm -f "$RUN/$PIPE/pid"
}

# haproxy_start CPU TO [SUITE]: from PIPE_PORT of every address to TO (ADDR:PORT), by one thread on CPU; its pid is in
# $RUN/$PIPE/pid. SUITE is the one TLS 1.3 suite of both sides (aes-128-gcm, as hublane-bench names them).
#
# Buffers stay at 16 kB (tune.bufsize, the default), from which HAProxy makes records of 15 kB and a bit; bigger ones
# would be another program than the one people run. Priority is that of our server.
haproxy_start() {
    local cpu=$1 to=$2 dir=$RUN/$PIPE
    [ -x "$HAPROXY_DIR/usr/sbin/haproxy" ] || die 'HAProxy is missing: scripts/setup --compare'
    mkdir -p "$dir"
    pipe_certificate
    haproxy_config "$to" "$(tls13_suite "${3:-aes-128-gcm}")" >"$dir/haproxy.cfg"
    spawn "$NS_SERVER" "$dir/out" env "LD_LIBRARY_PATH=$(haproxy_libraries)" \
        taskset -c "$cpu" "$HAPROXY_DIR/usr/sbin/haproxy" -db -f "$dir/haproxy.cfg"
    pipe_started HAProxy
}

haproxy_config() {
    cat <<-EOF
		global
		    nbthread 1
		    maxconn 4096
		    ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
		    ssl-default-server-options ssl-min-ver TLSv1.3 no-tls-tickets
		    ssl-default-bind-ciphersuites $2
		    ssl-default-server-ciphersuites $2
		defaults
		    mode tcp
		    timeout connect 10s
		    timeout client 1h
		    timeout server 1h
		listen pipe
		    bind 0.0.0.0:$PIPE_PORT ssl crt $RUN/$PIPE/pipe.pem
		    server sink $1 ssl verify none no-ssl-reuse
	EOF
}

# relay_start CPU TO [FEATURES]: the same by `hublane-bench limit relay`; FEATURES as the server's --kernel-features. It
# takes whatever suite is offered, so the load decides.
relay_start() {
    local dir=$RUN/$PIPE
    mkdir -p "$dir"
    spawn "$NS_SERVER" "$dir/out" "$BENCH" limit relay --listen "0.0.0.0:$PIPE_PORT" --to "$2" --cpu "$1" \
        --kernel-features "${3:-all}"
    pipe_started 'the relay'
}

pipe_started() {
    echo "$SPAWNED" >"$RUN/$PIPE/pid"
    within 10 pipe_listens || fail "$1 does not start: $(tail -3 "$RUN/$PIPE/out")"
}
pipe_listens() { [ -n "$(in_server ss -Hltn "sport = :$PIPE_PORT")" ]; }

# Certificate and key in one file, ECDSA with P-256 as our server's.
pipe_certificate() {
    local dir=$RUN/$PIPE
    [ ! -e "$dir/pipe.pem" ] || return 0
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=pipe \
        -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>"$dir/openssl.out" || fail "no certificate: $(cat "$dir/openssl.out")"
    cat "$dir/cert.pem" "$dir/key.pem" >"$dir/pipe.pem"
}

# Folders of the libraries that were unpacked beside HAProxy.
haproxy_libraries() {
    find "$HAPROXY_DIR/usr/lib" -name '*.so.*' -printf '%h\n' 2>/dev/null | sort -u | paste -sd:
}

# tls13_suite NAME: OpenSSL's name of what hublane-bench calls NAME.
tls13_suite() {
    case $1 in
    aes-128-gcm) echo TLS_AES_128_GCM_SHA256 ;;
    aes-256-gcm) echo TLS_AES_256_GCM_SHA384 ;;
    chacha20-poly1305) echo TLS_CHACHA20_POLY1305_SHA256 ;;
    *) die "no TLS 1.3 suite '$1'" ;;
    esac
}
