# Reads a task's limits from the kernel's own files, cgroup v1 or v2. Sourced after words.sh.

# limits_of INSTANCE TASK
limits_of() {
    local id=${2##*/} file group
    while read -r file; do
        case $file in
        */"$id"-*) group=container ;;
        *) group=task ;;
        esac
        printf '%-10s %-24s %s\n' "$group" "${file##*/}" "$(cat "$file")"
    done < <(find /sys/fs/cgroup -path "*longshore-$1*/$id*" \( \
        -name cpu.max -o -name memory.max -o -name pids.max -o \
        -name cpu.cfs_quota_us -o -name cpu.cfs_period_us -o -name memory.limit_in_bytes \) | sort)
}
