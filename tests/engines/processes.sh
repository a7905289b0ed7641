# shellcheck shell=sh
# Sourced by the start and stop scripts: processes known by pid AND start time, so
# that a reused pid is never taken for ours.

# born PID: its start time in clock ticks since boot; empty when it is gone.
born() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# note FILE PID: remembers a process that we started.
note() { echo "$2 $(born "$2")" > "$1"; }

# alive FILE: is the process noted there still the same one?
alive() {
    [ -f "$1" ] || return 1
    read -r noted_pid noted_born < "$1"
    [ -n "$noted_born" ] && [ "$(born "$noted_pid")" = "$noted_born" ]
}

# tree PID: its children, theirs, and itself.
tree() {
    # shellcheck disable=SC2013
    for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do tree "$child"; done
    echo "$1"
}

# running PID: there, and more than a zombie.
running() { [ -d "/proc/$1" ] && ! grep -q '^State:.*Z' "/proc/$1/status" 2>/dev/null; }

# end FILE...: SIGTERM to each noted process, 20 s, then SIGKILL to what is left of
# it and of its children. Nothing else is touched.
end() {
    ending=
    for file in "$@"; do
        alive "$file" || continue
        ending="$ending $(tree "$noted_pid" | tr '\n' ' ')"
        kill -TERM "$noted_pid" 2>/dev/null || true
    done
    tries=0
    while [ $tries -lt 40 ]; do
        left=
        for pid in $ending; do
            if running "$pid"; then left="$left $pid"; fi
        done
        [ -n "$left" ] || break
        sleep 0.5
        tries=$((tries + 1))
    done
    for pid in ${left:-}; do kill -KILL "$pid" 2>/dev/null || true; done
    rm -f "$@"
}
