# shellcheck shell=bash
# What every script here shares: strict mode, messages, bounded waits. Source it, do not run it.
set -euo pipefail

# shellcheck disable=SC2034 # used by the scripts that source this
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck disable=SC2034
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/hublane

note() { printf '%s\n' "$*" >&2; }
die() {
    note "$(basename "$0"): $*"
    exit 1
}

# Seconds with fractions, for differences only.
now() { printf '%s' "$EPOCHREALTIME"; }
# since T0: seconds from T0 until now, one decimal.
since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }
# holds 'A < B': true if the comparison of two numbers (fractions allowed) holds.
holds() { awk "BEGIN { exit !($1) }"; }

# within SECONDS CMD...: repeats CMD until it succeeds; fails when SECONDS are over.
# finds [OPTIONS] PATTERN: grep -q that reads its input to the end. With pipefail, grep -q itself fails now and
# then: it stops at the first match, and what writes to it dies of the closed pipe.
finds() { grep "$@" >/dev/null; }

within() {
    local end
    end=$(awk -v t="$EPOCHREALTIME" -v s="$1" 'BEGIN { printf "%.3f", t + s }')
    shift
    until "$@"; do
        holds "$EPOCHREALTIME < $end" || return 1
        sleep 0.1
    done
}

# gone PID: no such process (a zombie counts as gone).
gone() { ! grep -qs '^State:[[:space:]]*[^Z[:space:]]' "/proc/$1/status"; }

# group_gone PID: the process group PID has no member but zombies.
group_gone() { ! pgrep -g "$1" -r D,R,S,T >/dev/null; }

# stop_group PID [SIGNAL]: ends the process group PID and waits; SIGKILL if SIGNAL does not do it in 10 s.
stop_group() {
    kill -s "${2:-TERM}" -- "-$1" 2>/dev/null || return 0
    within 10 group_gone "$1" && return
    kill -s KILL -- "-$1" 2>/dev/null || true
    within 5 group_gone "$1"
}
