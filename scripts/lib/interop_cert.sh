# shellcheck shell=bash
# `scripts/interop cert`: logins by certificate. Our card at the stock server and at ours, the stock client at ours.
# Sourced by scripts/interop.
#
#   scripts/interop cert [--row NAME]... [--list]

CERT_ROWS=(stock-individual stock-signed stock-wrong ours-individual ours-wrong ours-password-again ours-stock-client files)

# shellcheck source=scripts/lib/interop_client.sh
. "$LIB/interop_client.sh"

interop_cert() {
    local name
    rows_asked "$LIB/interop_cert.sh" "" "${CERT_ROWS[@]}" -- "$@"
    hublane_build
    "$ROOT/scripts/setup"
    net_up 2
    certificates
    table_head 'login by certificate'
    for name in "${ASKED_ROWS[@]}"; do
        cert_server "$name"
        row "$name" "cert_row_${name//-/_}"
        traffic_stop
        cards_stop KILL
        case $name in *-stock-client) clients_stop ;; esac
    done
    table_end
}

# cert_server ROW: from one kind of server to the other nothing is kept.
cert_server() {
    local kind=hublane
    case $1 in stock-*) kind=stock ;; esac
    [ "$kind" != "$SERVER_KIND" ] || return 0
    server_stop TERM
    rm -rf "$RUN/server" "$RUN"/card*/known
    SERVER_KIND=$kind
}

# Certificates in $RUN/certs: NAME.pem and NAME.key. `own`, `long` and `other` sign themselves; `signed` is signed by `ca`,
# `curve` is one that the protocol does not know.
certificates() {
    local name
    mkdir -p "$RUN/certs"
    for name in own other ca; do certificate_make "$name" rsa:2048; done
    certificate_make long rsa:4096
    certificate_make curve ec -pkeyopt ec_paramgen_curve:P-256
    (
        cd "$RUN/certs" || exit
        openssl req -newkey rsa:3072 -nodes -subj /CN=signed -keyout signed.key -out signed.csr 2>/dev/null
        openssl x509 -req -in signed.csr -CA ca.pem -CAkey ca.key -set_serial 77 -days 2 -out signed.pem 2>/dev/null
        # The older form of a key, which many programs still write.
        openssl rsa -in own.key -traditional -out own.pkcs1 2>/dev/null
        openssl rsa -in own.key -aes256 -passout pass:x -out own.encrypted 2>/dev/null
        chmod 600 ./*
    )
}

# certificate_make NAME KIND [OPTIONS]
certificate_make() {
    local name=$1 kind=$2
    shift 2
    openssl req -x509 -newkey "$kind" "$@" -nodes -days 2 -subj "/CN=$name" -set_serial 5 \
        -keyout "$RUN/certs/$name.key" -out "$RUN/certs/$name.pem" 2>/dev/null
}

# Card 1 is by the certificate and key in CERT, as CERT_USER; card 2 by its password. See interop_client.sh.
CERT=()
CERT_USER=member
card_command() {
    local n=$1
    shift
    mkdir -p "$RUN/card$n"
    CARD=("$HUBLANE" connect "$(addr_server "$n"):$SERVER_PORT" "$@" --device "$NIC" --known-servers "$RUN/card$n/known")
    if [ "$n" = 1 ]; then
        CARD+=(--user "$CERT_USER" "${CERT[@]}")
    else
        (umask 077 && printf 'secret-%s\n' "$n" >"$RUN/card$n/password")
        CARD+=(--user "u$n" --password-file "$RUN/card$n/password")
    fi
}

# by NAME [KEY]: card 1 has this certificate.
by() { CERT=(--cert "$RUN/certs/$1.pem" --key "$RUN/certs/${2:-$1.key}"); }

# let_in NAME: the user of card 1 logs in by exactly this certificate.
let_in() {
    case $SERVER_KIND in
    hublane) server_state user set "$CERT_USER" --cert "$RUN/certs/$1.pem" >/dev/null ;;
    stock) vpns_lines <<<"$(printf 'Hub PUBLIC\nUserCertSet %s /LOADCERT:%s' "$CERT_USER" "$RUN/certs/$1.pem")" ;;
    esac
}
server_state() { "$HUBLANE" "$@" --state "$RUN/server/state"; }

# A server with the user of card 1.
cert_serve() {
    server_wants
    [ ! -e "$RUN/server/has-member" ] || return 0
    case $SERVER_KIND in
    hublane) server_state user add "$CERT_USER" >/dev/null ;;
    stock) vpns_lines <<<"$(printf 'Hub PUBLIC\nUserCreate %s /GROUP:none /REALNAME:none /NOTE:none' "$CERT_USER")" ;;
    esac
    : >"$RUN/server/has-member"
}

# comes_in: both cards are in the hub, by several connections, and reach each other.
comes_in() {
    cards --connections 3
    within 10 card_lines 1 3 || fail "no three connections: $(tail -1 "$RUN/card1/out")"
    card_traffic 10
    card_stop 1
    card_stop 2
}

# fails_as WHAT CODE TEXT [OPTIONS...]: card 1, which has WHAT, ends with that code and says that.
fails_as() {
    local what=$1 code=$2 text=$3 rc=0
    shift 3
    card_command 1 "$@"
    in_client 1 timeout 20 "${CARD[@]}" >"$RUN/card1/said" 2>&1 </dev/null || rc=$?
    [ "$rc" = "$code" ] || fail "$what: exit code $rc, not $code: $(tail -1 "$RUN/card1/said")"
    finds -F -e "$text" "$RUN/card1/said" || fail "$what: says $(tail -1 "$RUN/card1/said")"
    detail "$what: exit $code"
}

# ---- rows ---------------------------------------------------------------------------------------------

cert_row_stock_individual() { individual; }
cert_row_ours_individual() { individual; }

individual() {
    cert_serve
    let_in own
    by own
    comes_in
    by own own.pkcs1
    card_start 1
    card_stop 1
    detail 'PKCS #1'
    let_in long
    by long
    card_start 1
    card_stop 1
    detail '4096 bits'
}

# Whoever the hub's CA vouches for, if the name fits.
cert_row_stock_signed() {
    cert_serve
    # Its path must not begin with "/", which begins options.
    (cd "$RUN/certs" && vpns_lines <<<$'Hub PUBLIC\nCAAdd ca.pem')
    vpns_lines <<<"$(printf 'Hub PUBLIC\nUserSignedSet %s /CN:signed /SERIAL:none' "$CERT_USER")"
    by signed
    comes_in
    by own
    fails_as 'not signed' 3 'code 9'
    vpns_lines <<<"$(printf 'Hub PUBLIC\nUserSignedSet %s /CN:somebody /SERIAL:none' "$CERT_USER")"
    by signed
    fails_as 'another name' 3 'code 9'
}

cert_row_stock_wrong() { wrong 'UserCertSet'; }
cert_row_ours_wrong() { wrong 'hublane user set'; }

# wrong HINT: what the server refuses ends it, with the code and what to do.
wrong() {
    cert_serve
    let_in own
    by other
    fails_as 'another certificate' 3 "$1"
    by own
    CERT_USER=nobody fails_as 'unknown user' 3 'code 9'
    CERT_USER=u2 fails_as 'user with a password' 3 'code 9'
    by own
    card_start 1
    card_stop 1
}

# `reset` gives a password, and takes the certificate away.
cert_row_ours_password_again() {
    cert_serve
    let_in own
    by own
    card_start 1
    card_stop 1
    server_state user list | finds "$CERT_USER .*sha256:" || fail 'the list does not show the certificate'
    echo known-to-him | server_state user reset "$CERT_USER" --password-stdin >/dev/null
    fails_as 'certificate of before' 3 'code 9'
    (umask 077 && echo known-to-him >"$RUN/card1/password")
    CERT=(--password-file "$RUN/card1/password")
    card_start 1
    card_stop 1
    let_in own
    fails_as 'password of before' 3 'code 9'
}

# The stock client logs in to our server by its own means, and is refused with another key.
cert_row_ours_stock_client() {
    cert_serve
    let_in own
    stock_client_by own
    client_connect 1
    client_await 1
    clients_want 2
    traffic_check 1 2
    stock_client_by other
    client_connect 1
    within 15 client_log_has 1 '(code 9)' || fail "no code 9 in the client's log: $(client_log 1 | tail -1)"
    detail "$(client_log 1 | sed -n 's/.*Cause: //p' | tail -1)"
}

# stock_client_by NAME: client 1 has an account with this certificate, and is offline.
stock_client_by() {
    client_start 1
    client_account 1 user="$CERT_USER"
    vpnc_lines 1 <<<"AccountCertSet hub /LOADCERT:$RUN/certs/$1.pem /LOADKEY:$RUN/certs/$1.key"
}

# What can be seen without a server is said before a device is made.
cert_row_files() {
    server_wants
    by own other.key
    fails_as 'key of another' 2 'is not the key of the certificate'
    by curve
    fails_as 'elliptic curve' 2 'not of RSA'
    by own curve.key
    fails_as 'its key' 2 'not of RSA'
    by own own.encrypted
    fails_as 'encrypted key' 2 'openssl pkey'
    by own none.key
    fails_as 'no file' 2 'cannot be read'
    chmod 644 "$RUN/certs/other.key"
    by other
    fails_as 'open key' 2 'chmod 600'
    chmod 600 "$RUN/certs/other.key"
    CERT=(--cert "$RUN/certs/own.pem")
    fails_as 'no key' 2 'required arguments'
    by own
    fails_as 'password as well' 2 'cannot be used with' --password-file "$RUN/certs/own.key"
    if in_client 1 ip link show "$NIC" >/dev/null 2>&1; then fail 'there is a device'; fi
}
