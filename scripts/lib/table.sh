# shellcheck shell=bash
# Rows of a result table. A row is a function: it runs in a subshell under `set -e`, says by `detail` what it
# saw, and ends early by `fail` or `skip`. What must outlive a row stands in files under $RUN.

ROWS_PASSED=0
ROWS_FAILED=0
ROWS_SKIPPED=0

fail() {
    note "$*"
    printf '%s\n' "$*" >"$RUN/verdict"
    exit 1
}
skip() {
    printf '%s\n' "$*" >"$RUN/verdict"
    exit 77
}
detail() { printf '%s; ' "$*" >>"$RUN/detail"; }

# rows_asked FILE "SERVERS" ROW... -- ARGS...: of these rows and servers, those that the command line ARGS asks for, in
# ASKED_ROWS and ASKED_SERVERS; all if it names none. FILE tells what can be said.
rows_asked() {
    local file=$1 servers=$2 rows=()
    shift 2
    while [ "$1" != -- ]; do rows+=("$1") && shift; done
    shift
    ASKED_ROWS=() ASKED_SERVERS=()
    while [ $# -gt 0 ]; do
        case $1 in
        --server)
            [[ -n $servers && " $servers " = *" ${2:-} "* ]] || die "no server '${2:-}' here; see the head of $file"
            ASKED_SERVERS+=("$2") && shift
            ;;
        --row)
            [[ " ${rows[*]} " = *" ${2:-} "* ]] || die "no row '${2:-}'; --list names them"
            ASKED_ROWS+=("$2") && shift
            ;;
        --list) printf '%s\n' "${rows[@]}" && exit ;;
        *) die "unknown argument '$1'; see the head of $file" ;;
        esac
        shift
    done
    [ ${#ASKED_ROWS[@]} -gt 0 ] || ASKED_ROWS=("${rows[@]}")
    # shellcheck disable=SC2206 # words
    [ ${#ASKED_SERVERS[@]} -gt 0 ] || ASKED_SERVERS=($servers)
}

table_head() { printf '%-20s %-7s %7s  %s\n' "$1" result seconds "what was seen"; }

# row LABEL FUNCTION [ARGS...]: runs it and prints its line.
row() {
    local label=$1 t rc result seen
    shift
    t=$(now)
    : >"$RUN/detail"
    : >"$RUN/verdict"
    set +e
    (
        set -e
        "$@"
    ) 2>"$RUN/row.err"
    rc=$?
    set -e
    seen=$(sed 's/; $//' "$RUN/detail")
    case $rc in
    0) result=pass ROWS_PASSED=$((ROWS_PASSED + 1)) ;;
    77) result=skip ROWS_SKIPPED=$((ROWS_SKIPPED + 1)) seen=$(cat "$RUN/verdict") ;;
    *) result=FAIL ROWS_FAILED=$((ROWS_FAILED + 1)) seen="$(cat "$RUN/verdict")${seen:+ ($seen)}" ;;
    esac
    printf '%-20s %-7s %7s  %s\n' "$label" "$result" "$(since "$t")" "$seen"
    if [ "$result" = FAIL ]; then
        tail -15 "$RUN/row.err" | sed 's/^/    | /'
        { tail -n 4 "$RUN/server/out" "$RUN"/client*/log/client_log/*.log 2>/dev/null || true; } | sed "s|$RUN/||; s/^/    : /"
    fi
}

# table_end: the closing line; false if a row failed or none ran.
table_end() {
    local skipped=''
    [ $ROWS_SKIPPED = 0 ] || skipped=", $ROWS_SKIPPED skipped"
    printf '%d passed, %d failed%s\n' $ROWS_PASSED $ROWS_FAILED "$skipped"
    [ $ROWS_FAILED = 0 ] && [ $ROWS_PASSED -gt 0 ]
}
