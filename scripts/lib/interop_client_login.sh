# shellcheck shell=bash
# Rows of `scripts/interop client` about getting in: passwords that the server has to see, a cluster that sends its members
# on, and what a person at a terminal sees. Sourced by interop_client.sh.

LOGIN_ROWS=(auth-plain redirect terminal)

# ---- --auth plain -------------------------------------------------------------------------------------

RADIUS_SECRET=between-us
RADIUS_PASSWORD='of radius: 1'

# Our server takes either proof. The stock one has a user whom it asks a RADIUS server about: without plain he does not
# get in, and to a server that nobody has vouched for the password is not sent unasked.
card_row_auth_plain() {
    local pin CARD_USER=u1
    server_wants
    mkdir -p "$RUN/card1"
    (umask 077 && echo wrong >"$RUN/card1/wrong" && printf '%s\n' "$RADIUS_PASSWORD" >"$RUN/card1/radius")
    card_fails 3 'code 9' --auth plain --password-file "$RUN/card1/wrong"
    if [ "$SERVER_KIND" = stock ]; then
        CARD_USER=r1
        radius_up
        card_fails 3 'code 9' --auth plain --password-file "$RUN/card1/wrong"
        finds '^r1 rejected' "$RUN/radius" || fail "the stock server does not ask: $(cat "$RUN/radius")"
        : >"$RUN/radius"
        card_fails 3 'code 9' --auth hashed --password-file "$RUN/card1/radius"
        rm -f "$RUN/card1/known"
        card_fails 3 'code 9' --password-file "$RUN/card1/radius"
        [ ! -s "$RUN/radius" ] || fail "the password was sent to a server that is not known: $(cat "$RUN/radius")"
        pin=$(server_fingerprint)
        card_start 1 --pin "$pin" --password-file "$RUN/card1/radius"
        finds '^r1 accepted' "$RUN/radius" || fail "in, but not by RADIUS: $(cat "$RUN/radius")"
        detail 'auto with --pin: in, by RADIUS'
        card_stop 1
        card_start 1 --auth plain --password-file "$RUN/card1/radius" --address "$(addr_inner 1)/24"
        detail 'plain: in, by RADIUS'
    else
        card_start 1 --auth plain --address "$(addr_inner 1)/24"
        detail 'plain: in'
    fi
    CARD_USER='' card_start 2 --address "$(addr_inner 2)/24"
    ping_check 1 2
    card_stop 1
}

# radius_up: a RADIUS server beside the stock server, which asks it about r1.
radius_up() {
    : >"$RUN/radius"
    spawn "$NS_SERVER" "$RUN/radius" python3 "$LIB/radius.py" 127.0.0.1 1812 "$RADIUS_SECRET" r1 "$RADIUS_PASSWORD"
    echo "$SPAWNED" >>"$RUN/load"
    within 5 finds listening "$RUN/radius" || fail "no RADIUS server: $(cat "$RUN/radius")"
    : >"$RUN/radius"
    vpns_lines <<-EOF
		Hub PUBLIC
		RadiusServerSet 127.0.0.1:1812 /SECRET:$RADIUS_SECRET /RETRY_INTERVAL:1000
		UserCreate r1 /GROUP:none /REALNAME:none /NOTE:none
		UserRadiusSet r1 /ALIAS:none
	EOF
}

# server_fingerprint: SHA-256 of the server's certificate, as openssl sees it.
server_fingerprint() {
    in_client 1 timeout 10 openssl s_client -connect "$(addr_server 1):$SERVER_PORT" </dev/null 2>/dev/null |
        openssl x509 -noout -fingerprint -sha256 | sed 's/.*=//'
}

# ---- cluster ------------------------------------------------------------------------------------------

MEMBER_PORT=5556
# Only hubs of the cluster's own kind exist there.
CLUSTER_HUB=SHARED

# The controller has no sessions of its own; everybody is sent on to the member. When that starts anew, the card goes
# back to the controller, and from there to the member again.
card_row_redirect() {
    local n
    [ "$SERVER_KIND" = stock ] || skip 'our server has no cluster'
    server_stop TERM
    cluster_up
    in_client 2 ip route replace 10.91.1.0/24 via "$(addr_server 2)"
    for n in 1 2; do card_start "$n" --hub $CLUSTER_HUB --connections 2 --address "$(addr_inner "$n")/24"; done
    within 10 member_lines 1 2 || fail "card 1 has no two connections to the member: $(tail -1 "$RUN/card1/out")"
    card_has 1 first_seen || fail 'the fingerprint of the controller was not shown'
    grep -c . "$RUN/card1/known" | finds -x 1 || fail "more or less than one server is known: $(cat "$RUN/card1/known")"
    finds -F "$(addr_server 1):$SERVER_PORT sha256:$(server_fingerprint | tr -d : | tr A-F a-f)" "$RUN/card1/known" ||
        fail "it is not the controller that is known: $(cat "$RUN/card1/known")"
    card_traffic 20
    member_do server_restart TERM
    for n in 1 2; do within 60 card_has "$n" connected 2 || fail "card $n is not back: $(tail -1 "$RUN/card$n/out")"; done
    within 10 member_lines 1 2 || fail "card 1 has no two connections to the member: $(tail -1 "$RUN/card1/out")"
    detail 'again after the member has started anew'
    card_traffic 10
    for n in 1 2; do card_stop "$n"; done
    cluster_down
}

# member_lines N COUNT: card N has so many connections to the member, and none to the controller.
member_lines() {
    [ "$(in_client "$1" ss -Htn state established "dport = :$MEMBER_PORT" | wc -l)" = "$2" ] && card_lines "$1" 0
}
member_do() { SERVER=member SERVER_PORT=$MEMBER_PORT "$@"; }
controller_do() { SERVER=controller "$@"; }

# cluster_up: two stock servers, controller and member of a cluster, with a hub and users.
cluster_up() {
    local n
    rm -rf "$RUN/controller" "$RUN/member"
    controller_do server_start
    member_do server_start
    # Each starts anew to become what it is told.
    controller_do vpns_lines <<<'ClusterSettingController /WEIGHT:100 /ONLY:yes' ||
        skip 'this edition of the stock server refuses to be the controller of a cluster'
    within 20 controller_do stock_server_answers || fail 'the controller does not come back'
    member_do vpns_lines <<<"ClusterSettingMember 127.0.0.1:$SERVER_PORT /IP:$(addr_server 1) /PORTS:$MEMBER_PORT /PASSWORD: /WEIGHT:100"
    within 30 cluster_has_member || fail "the member does not come: $(tail -5 "$RUN/controller/said")"
    {
        echo "HubCreateStatic $CLUSTER_HUB /PASSWORD:hub"
        echo "Hub $CLUSTER_HUB"
        for n in 1 2; do
            echo "UserCreate u$n /GROUP:none /REALNAME:none /NOTE:none"
            echo "UserPasswordSet u$n /PASSWORD:secret-$n"
        done
    } | controller_do vpns_lines
    detail 'stock controller and member'
}
cluster_has_member() {
    controller_do vpns_lines <<<ClusterMemberList && finds '|Member *|' "$RUN/controller/said"
}
cluster_down() {
    controller_do server_stop KILL
    member_do server_stop KILL
}

# ---- at a terminal ------------------------------------------------------------------------------------

# Sentences, and one line of state that is written over; also where it is wider than the terminal, of 80 columns here.
card_row_terminal() {
    local pid
    server_wants
    mkdir -p "$RUN/card1"
    rm -f "$RUN/card1/known" "$RUN/card1/screen"
    card_start 2 --address "$(addr_inner 2)/24"
    card_command 1 --connections 2 --address "$(addr_inner 1)/24"
    spawn "$(ns_client 1)" "$RUN/card1/out" script -qfec "stty cols 80 rows 24; exec ${CARD[*]@Q}" "$RUN/card1/screen"
    echo "$SPAWNED" >"$RUN/card1/pid"
    within 10 finds ' sent again' "$RUN/card1/screen" || fail "no line of state: $(tail -3 "$RUN/card1/screen")"
    ping_check 1 2
    server_restart TERM
    within 20 card_says 2 '^connected: ' || fail "it is not back: $(screen | tail -2)"
    sleep 2
    screen >"$RUN/card1/rows"
    [ "$(grep -c ' sent again' "$RUN/card1/rows")" = 1 ] || fail "not one line of state: $(cat "$RUN/card1/rows")"
    detail "$(grep ' sent again' "$RUN/card1/rows" | sed 's/ *$//')"
    pid=$(ip netns pids "$(ns_client 1)" | while read -r pid; do if grep -qsx hublane "/proc/$pid/comm"; then echo "$pid"; fi; done)
    kill -INT "$pid"
    within 4 gone "$(cat "$RUN/card1/pid")" || fail 'it does not end by SIGINT'
    screen >"$RUN/card1/rows"
    if finds ' sent again\|"event"' "$RUN/card1/rows"; then fail "left on the screen: $(cat "$RUN/card1/rows")"; fi
    tail -1 "$RUN/card1/rows" | finds '^ended; [0-9]* bytes in, [0-9]* out' || fail "the last line is $(tail -1 "$RUN/card1/rows")"
    detail "$(wc -l <"$RUN/card1/rows") rows of sentences, the last $(tail -1 "$RUN/card1/rows" | sed 's/ *$//')"
}

card_says() { [ "$(screen | grep -c "$2" || true)" -ge "$1" ]; }

# screen: what a terminal of 80 columns has shown by now, its rows from the first one on, without what `script` adds.
screen() {
    grep -av '^Script \(started\|done\) ' "$RUN/card1/screen" | python3 -c '
import re, sys
rows, x, y, wrap = [[" "] * 80], 0, 0, True
for what in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|.", sys.stdin.buffer.read().decode(), re.S):
    if what == "\r": x = 0
    elif what == "\n": y += 1
    elif what == "\x1b[K": rows[y][x:] = [" "] * (80 - x)
    elif what in ("\x1b[?7l", "\x1b[?7h"): wrap = what[-1] == "h"
    elif what[0] < " ": sys.exit("the terminal is told " + repr(what))
    else:
        if x == 80: x, y = (0, y + 1) if wrap else (79, y)
        while y >= len(rows): rows.append([" "] * 80)
        rows[y][x], x = what, x + 1
    while y >= len(rows): rows.append([" "] * 80)
print("\n".join("".join(row) for row in rows if "".join(row).strip()))'
}
