# shellcheck shell=bash
# A server on some CPUs, the load generator on others.

# load_up: the network, with as many descriptors as the system gives and cubic at both ends.
load_up() {
    ulimit -n "$(ulimit -Hn)"
    net_up 1
    ns_cubic "$NS_SERVER"
    ns_cubic "$(ns_client 1)"
}

# load_server WORKERS FEATURES: the server of SERVER_KIND. All of its threads run on the CPUs of WORKERS.
load_server() {
    case $SERVER_KIND in
    hublane) server_wants "workers=$1" "features=$2" ;;
    stock) server_wants ;;
    esac
    taskset -acp "$1" "$(server_pid)" >/dev/null
}

# The process that does the work: the stock server has a watcher as its parent.
server_pid() {
    case $SERVER_KIND in
    hublane) cat "$RUN/server/pid" ;;
    stock) pgrep -g "$(cat "$RUN/server/pid")" -n vpnserver ;;
    esac
}

# load_run CPUS MODE [OPTIONS]: one mode of the generator against the server, as user u1.
load_run() {
    local cpus=$1 mode=$2 pin=(--cpus "$1")
    shift 2
    [ "$mode" != logins ] || pin=()
    in_client 1 taskset -c "$cpus" "$BENCH" "$mode" --server "$(addr_server 1):$SERVER_PORT" --hub PUBLIC \
        --user u1 --password-stdin --server-pid "$(server_pid)" "${pin[@]}" "$@" <<<'secret-1'
}
