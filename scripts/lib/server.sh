# shellcheck shell=bash
# The server under test, ours or the stock one, behind the same few functions.
# SERVER_KIND is hublane or stock; options are name=value words (see hublane_start, stock_server_start).
# Where several run at once, SERVER names the one that is meant (its folder is $RUN/$SERVER), with SERVER_PORT.

SERVER_KIND=${SERVER_KIND:-hublane}
SERVER=${SERVER:-server}

# server_wants [name=value ...]: a server with exactly these options runs; one that already does stays.
server_wants() {
    if server_runs && [ "$(cat "$RUN/$SERVER/want" 2>/dev/null)" = "as told: $*" ]; then return 0; fi
    # The stock server ends without close_notify.
    [ "$SERVER_KIND" = hublane ] || clients_stop
    server_stop TERM
    server_start "$@"
    # Clients of the server before wait for their retry: they are told to start anew.
    rm -f "$RUN"/client*/want
}

server_start() {
    mkdir -p "$RUN/$SERVER"
    case $SERVER_KIND in
    hublane) hublane_start "$@" ;;
    stock) stock_server_start "$@" ;;
    esac
    echo "as told: $*" >"$RUN/$SERVER/want"
}

# server_restart SIGNAL: ends it by SIGNAL and starts it again with the same options.
server_restart() {
    local told
    told=$(sed 's/^as told: *//' "$RUN/$SERVER/want")
    server_stop "$1"
    # shellcheck disable=SC2086 # options are single words
    server_start $told
}

server_stop() {
    [ -e "$RUN/$SERVER/pid" ] || return 0
    stop_group "$(cat "$RUN/$SERVER/pid")" "$1" || fail "the server does not end by SIG$1, nor by SIGKILL"
    rm -f "$RUN/$SERVER/pid"
}

server_runs() { [ -e "$RUN/$SERVER/pid" ] && ! gone "$(cat "$RUN/$SERVER/pid")"; }
server_listens() { [ -n "$(in_server ss -Hltn "sport = :$SERVER_PORT")" ]; }

# User names of the members' sessions, one a line.
server_sessions() {
    case $SERVER_KIND in
    hublane) hublane_sessions ;;
    stock) stock_server_sessions ;;
    esac
}

# tls_facts N [arguments of s_client]: version, cipher and kind of key as a foreign TLS client sees them.
tls_facts() {
    local n=$1 said
    shift
    said=$(in_client "$n" timeout 10 openssl s_client -connect "$(addr_server "$n"):$SERVER_PORT" "$@" </dev/null 2>/dev/null) || true
    sed -n 's/^New, \(TLS[^,]*\), Cipher is \(.*\)/\1 \2/p' <<<"$said"
    openssl x509 -noout -text <<<"$said" 2>/dev/null | sed -n 's/^ *Public Key Algorithm: //p'
}
