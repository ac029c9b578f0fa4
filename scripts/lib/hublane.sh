# shellcheck shell=bash
# Our server: build, start in the server's namespace, ask.

TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
BUILD=${HUBLANE:+no} # HUBLANE=FILE tests that program, and its hublane-bench, as they are
HUBLANE=${HUBLANE:-$TARGET/release/hublane}
# shellcheck disable=SC2034 # used by scripts/members
BENCH=$HUBLANE-bench

hublane_build() { [ -n "$BUILD" ] || (cd "$ROOT" && cargo build --release --locked --workspace --quiet); }

# The hub as the tests want it: transparent, so that members reach each other without a gateway.
hublane_config() {
    cat <<-EOF
		[[hub]]
		name = "PUBLIC"
		profile = "lan"
		compression = "allow"
	EOF
}

# hublane_start [tls=VERSIONS] [certificate=auto|rsa|ecdsa] [features=all|6.1|5.15] [workers=LIST]
#               [gather=US] [rekey_after=RECORDS] [lane=MODE] [config=yes|no] [state=NAME] [via=program|run]: the first start of a state makes its users.
hublane_start() {
    local tls='' certificate='' gather='' features=all workers=0-1 rekey_after='' lane='' config=yes state=state via=program n
    [ $# = 0 ] || local "$@"
    local dir=$RUN/$SERVER
    local -a args=(--state "$dir/$state" --listen "0.0.0.0:$SERVER_PORT" --control-socket "$dir/control.sock"
        --workers "$workers" --kernel-features "$features")
    [ -z "$tls" ] || args+=(--tls-versions "$tls")
    [ -z "$certificate" ] || args+=(--certificate "$certificate")
    [ -z "$gather" ] || args+=(--gather-us "$gather")
    [ -z "$rekey_after" ] || args+=(--rekey-after "$rekey_after")
    [ -z "$lane" ] || args+=(--lane-mode "$lane")
    if [ ! -d "$dir/$state" ]; then
        mkdir -m 700 "$dir/$state"
        if [ "$config" = yes ]; then
            for n in 1 2 3 4; do
                printf 'secret-%s\n' "$n" | "$HUBLANE" user add "u$n" --state "$dir/$state" --password-stdin >/dev/null
            done
        fi
    fi
    if [ "$config" = yes ]; then
        hublane_config >"$dir/hublane.toml"
        args+=(--config "$dir/hublane.toml")
    fi
    local -a start=("$HUBLANE" serve)
    [ "$via" = program ] || start=("$ROOT/scripts/run" --no-setup)
    spawn "$NS_SERVER" "$dir/out" "${start[@]}" "${args[@]}"
    echo "$SPAWNED" >"$dir/pid"
    within 20 hublane_answers || fail "the server does not start: $(tail -3 "$dir/out")"
}

hublane_ask() { timeout 10 "$HUBLANE" "$@" --control-socket "$RUN/$SERVER/control.sock"; }
hublane_answers() { hublane_ask status >/dev/null 2>&1 && server_listens; }

# json EXPRESSION: prints it, with d the JSON on stdin.
json() {
    # shellcheck disable=SC2016 # Python's own quotes
    python3 -c '
import json, sys
def total(d, key):
    """Sum of the numbers under `key` anywhere in d."""
    kids = d.values() if isinstance(d, dict) else d if isinstance(d, list) else ()
    own = d.get(key, 0) if isinstance(d, dict) else 0
    return (own if isinstance(own, (int, float)) else 0) + sum(total(k, key) for k in kids)
d = json.load(sys.stdin)
print(eval(sys.argv[1]))' "$1"
}

hublane_sessions() { hublane_ask session list --json | json '"\n".join(s["user"] for s in d)'; }
# hublane_worker USER: the worker of this user's session.
hublane_worker() { hublane_ask session list --json | json "next((s['worker'] for s in d if s['user'] == '$1'), '')"; }
hublane_counter() { hublane_ask status --json | json "total(d, '$1')"; }
