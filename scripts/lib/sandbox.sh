# A place where foreign test suites may leave what they like: their mounts, processes, devices, links and cgroups
# end with it. Sourced after words.sh.

# sandboxed READ_ONLY_FOLDER COMMAND...
sandboxed() {
    local groups=() group status=0
    mapfile -t groups < <(sandbox_groups)
    for group in ${groups[@]+"${groups[@]}"}; do sandbox_group "$group"; done
    (
        for group in ${groups[@]+"${groups[@]}"}; do echo "$BASHPID" >"$group/cgroup.procs"; done
        exec unshare --mount --propagation private --cgroup --net --pid --fork --kill-child --mount-proc -- \
            bash -euo pipefail -c "$sandbox_inside" sandbox "$@"
    ) || status=$?
    for group in ${groups[@]+"${groups[@]}"}; do
        wait_until 10 find "$group" -depth -type d -exec rmdir {} + || say "left behind: $group" >&2
    done
    return "$status"
}

# A group of our own below the one we are in, in each v1 hierarchy. On pure v2 there are none: a group with processes
# may have no children with controllers, so the suite makes its groups where it would make them on any host.
sandbox_groups() {
    local controllers path at
    while IFS=: read -r _ controllers path; do
        [ -n "$controllers" ] || continue
        at=/sys/fs/cgroup/${controllers#name=}
        [ ! -d "$at" ] || printf '%s/longshore-sandbox-%s\n' "$at${path%/}" "$$"
    done </proc/self/cgroup
}

sandbox_group() {
    mkdir "$1"
    # A new cpuset has neither processors nor memory, and so takes no process.
    for file in cpuset.cpus cpuset.mems; do
        [ ! -e "$1/$file" ] || cat "${1%/*}/$file" >"$1/$file"
    done
}

# The cgroup mounts of a v1 host are made anew, so that our group is their root, without a hybrid host's cgroup2.
# Devices are copies: a suite that removes its folder with the host's /dev bound into it removes copies.
sandbox_inside='
    read_only=$1 && shift
    ip link set lo up
    mount --bind "$read_only" "$read_only" && mount -o remount,bind,ro "$read_only"
    if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
        umount -l /sys/fs/cgroup
        mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
        while IFS=: read -r _ controllers _; do
            [ -n "$controllers" ] || continue
            at=/sys/fs/cgroup/${controllers#name=} options=$controllers
            [ "$controllers" = "${controllers#name=}" ] || options=none,$controllers
            mkdir "$at" && mount -t cgroup -o "$options" cgroup "$at" || rmdir "$at"
        done </proc/self/cgroup
    fi
    mount -t tmpfs -o mode=755 dev /mnt && cp -a --one-file-system /dev/. /mnt/
    umount -l /dev && mount --move /mnt /dev
    mkdir -p /dev/pts /dev/shm /dev/mqueue
    mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts /dev/pts
    mount -t tmpfs -o mode=1777 shm /dev/shm
    mount -t mqueue mqueue /dev/mqueue
    mount -t tmpfs -o mode=755 run /run
    mount -t tmpfs -o mode=1777 tmp /tmp
    unset TMPDIR
    # Not exec: this shell is pid 1 there and reaps what containers leave.
    status=0
    "$@" || status=$?
    # A frozen process does not die, and the pid namespace would wait for it.
    find /sys/fs/cgroup -name freezer.state -exec sh -c "echo THAWED >\"\$1\"" thaw {} \; 2>/dev/null || true
    exit "$status"'
