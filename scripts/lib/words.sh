# What every script says and where everything lies. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
stage=$root/target/stage
cache=$root/target/cache
# How longshore-runtime is compiled: static, and at a fixed address (docs/decisions/0009).
runtime_flags="-C target-feature=+crt-static -C relocation-model=static"
# And with musl's libc. glibc's asks the processor what it is, some dozens of questions at each start; on a virtual machine
# each of them is answered by the hypervisor. Without rustup and without the target: glibc's, which is only slower.
runtime_target() {
    local musl=$(uname -m)-unknown-linux-musl
    if [ -d "$(rustc --print target-libdir --target "$musl" 2>/dev/null)" ] || rustup target add "$musl" >/dev/null 2>&1; then
        echo "$musl"
    else
        echo "$(uname -m)-unknown-linux-gnu"
    fi
}

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || die "needs root: it makes namespaces, mounts and control groups; run it with sudo"
}

# Runs a command, keeps its output in a file, shows the file only if the command fails.
quietly() {
    local log=$cache/quietly.$$.log
    mkdir -p "$cache"
    if "$@" >"$log" 2>&1; then
        rm -f "$log"
    else
        local status=$?
        cat "$log" >&2
        rm -f "$log"
        return "$status"
    fi
}

# Waits until a command succeeds, at most so many seconds.
wait_until() {
    local seconds=$1 start=$SECONDS
    shift
    until "$@" >/dev/null 2>&1; do
        [ $((SECONDS - start)) -lt "$seconds" ] || return 1
        sleep 0.1
    done
}
