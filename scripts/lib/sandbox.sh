# A place where foreign test suites may leave what they like: their mounts, processes, devices, links and cgroups
# end with it. Sourced after words.sh.

# sandboxed READ_ONLY_FOLDER COMMAND...
sandboxed() {
    local groups=() group idle link status=0 read_only=$1
    shift
    idle=$(sandbox_idle_controllers)
    link=$(sandbox_link)
    mapfile -t groups < <(sandbox_groups)
    for group in ${groups[@]+"${groups[@]}"}; do sandbox_group "$group"; done
    (
        for group in ${groups[@]+"${groups[@]}"}; do echo "$BASHPID" >"$group/cgroup.procs"; done
        exec unshare --mount --propagation private -- \
            bash -euo pipefail -c "$sandbox_outside" sandbox "$idle" "$sandbox_inside" "$read_only" "$link" "$@"
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
    local half
    mkdir "$1"
    # A new cpuset has neither processors nor memory, and so takes no process.
    for file in cpuset.cpus cpuset.mems; do
        [ ! -e "$1/$file" ] || cat "${1%/*}/$file" >"$1/$file"
    done
    # A new group has no time for real-time processes either. Another sandbox may want the other half.
    if [ -e "$1/cpu.rt_runtime_us" ]; then
        half=$(($(cat "${1%/*}/cpu.rt_runtime_us") / 2))
        echo "$half" >"$1/cpu.rt_runtime_us" || true
    fi
}

# Controllers that a v1 host's kernel has and nobody uses.
sandbox_idle_controllers() {
    [ -e /sys/fs/cgroup/cgroup.controllers ] ||
        awk '$2 == 0 && $4 == 1 && $1 ~ /^(hugetlb|net_cls|net_prio)$/ { print $1 }' /proc/cgroups
}

# The name of a link of this machine beside lo, if there is one.
sandbox_link() {
    ip -brief link | awk '$1 != "lo" { sub(/@.*/, "", $1); print $1; exit }'
}

# Their hierarchies are made outside of the new cgroup namespace, where alone the kernel allows it. One ends when it is
# unmounted and its groups are gone; both take a moment.
sandbox_outside='
    idle=$1 inside=$2 status=0 && shift 2
    mount -t tmpfs -o mode=755 idle /mnt
    for controller in $idle; do
        mkdir "/mnt/$controller" && mount -t cgroup -o "$controller" cgroup "/mnt/$controller" || rmdir "/mnt/$controller"
    done
    unshare --mount --propagation private --cgroup --net --pid --fork --kill-child --mount-proc -- \
        bash -euo pipefail -c "$inside" sandbox "$@" || status=$?
    for controller in $idle; do
        for try in {1..50}; do
            find "/mnt/$controller" -mindepth 1 -depth -type d -exec rmdir {} + || true
            umount "/mnt/$controller"
            sleep 0.2
            ! grep -q "^$controller[[:space:]]0[[:space:]]" /proc/cgroups || continue 2
            mount -t cgroup -o "$controller" cgroup "/mnt/$controller"
        done
        echo "left behind: the hierarchy of $controller" >&2
    done
    exit "$status"'

# The cgroup mounts of a v1 host are made anew, so that our group is their root, without a hybrid host's cgroup2.
# Devices are copies: a suite that removes its folder with the host's /dev bound into it removes copies.
sandbox_inside='
    read_only=$1 link=$2 && shift 2
    ip link set lo up
    # Some tests want a second link, and net_prio knows those of the initial network namespace alone.
    [ -z "$link" ] || ip link add "$link" type bridge
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
    umount -R -l /mnt
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
