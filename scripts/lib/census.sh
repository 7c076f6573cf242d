# Counts what Longshore could leave behind on this machine, one line each. Sourced after words.sh.

census() {
    awk '{ print "mount " $5 }' /proc/self/mountinfo
    find /sys/fs/cgroup -type d \( -name '*longshore*' -o -path '*/longshore*' \) 2>/dev/null | sed 's/^/cgroup /'
    ip -o link 2>/dev/null | awk -F': ' '{ print "link " $2 }'
    nft list tables 2>/dev/null | sed 's/^/nft /'
    find /run /var/lib -maxdepth 1 -name 'longshore*' | sed 's/^/folder /'
    find "${TMPDIR:-/tmp}" -maxdepth 1 -name 'longshore*' | sed 's/^/folder /'
    lsns -n -t net -o NS,COMMAND 2>/dev/null | awk '/longshore/ { print "netns " $0 }'
    pgrep -l longshore | awk '{ print "process " $2 " " $1 }'
    true
}
