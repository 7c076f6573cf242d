//! The default profile: an allow-list of what ordinary programs call, with a reason beside each group.
//!
//! What is not listed is answered with EPERM, and what this runtime does not know at all with ENOSYS
//! (`compile` sees to that). Some groups open with a capability: without it the kernel would refuse most of
//! their use anyway, and the filter takes away the rest, which is where the kernel's faults have been.
//!
//! Deliberately absent, whatever the capabilities:
//! - `io_uring_*`: its operations pass by every filter, and it has been the richest source of escapes;
//! - `add_key`, `keyctl`, `request_key`: keyrings belong to a user, not to a container;
//! - `userfaultfd`: stops the kernel at a chosen moment, which turns races into exploits;
//! - `kexec_*`, `swapon`, `swapoff`: they are about the host;
//! - `modify_ldt`: for 16- and 32-bit code, which cannot run here;
//! - what is obsolete: `uselib`, `ustat`, `sysfs`, `_sysctl`, `create_module`, `nfsservctl` and the like.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

/// Calls for everyone: (reason, names).
#[rustfmt::skip]
const EVERYONE: &[(&str, &[&str])] = &[
    ("reading and writing what is open", &[
        "read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2",
        "lseek", "sendfile", "splice", "tee", "vmsplice", "copy_file_range", "readahead", "fadvise64",
        "fallocate", "ftruncate", "truncate", "sync", "syncfs", "fsync", "fdatasync", "sync_file_range",
        "flock", "fcntl", "ioctl", "cachestat",
    ]),
    ("opening, closing and duplicating descriptors", &[
        "open", "openat", "openat2", "creat", "close", "close_range", "dup", "dup2", "dup3", "pipe", "pipe2",
        "memfd_create", "memfd_secret", "name_to_handle_at",
    ]),
    ("names, links and directories; file permissions decide", &[
        "access", "faccessat", "faccessat2", "chdir", "fchdir", "getcwd", "getdents", "getdents64", "link",
        "linkat", "symlink", "symlinkat", "readlink", "readlinkat", "mkdir", "mkdirat", "rmdir", "mknod",
        "mknodat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "umask",
    ]),
    ("what is known about files; file permissions decide", &[
        "stat", "lstat", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "chmod", "fchmod", "fchmodat",
        "fchmodat2", "chown", "fchown", "fchownat", "lchown", "utime", "utimes", "utimensat", "futimesat",
        "getxattr", "lgetxattr", "fgetxattr", "getxattrat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat",
        "listxattr", "llistxattr", "flistxattr", "listxattrat", "removexattr", "lremovexattr", "fremovexattr",
        "removexattrat", "file_getattr", "file_setattr",
    ]),
    ("watching files (fanotify marks need a group, which needs fanotify_init)", &[
        "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "fanotify_mark",
    ]),
    ("waiting for descriptors and events", &[
        "poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait",
        "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2", "signalfd", "signalfd4",
    ]),
    ("asynchronous I/O of the older kind, which databases use", &[
        "io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents", "ioprio_get",
        "ioprio_set",
    ]),
    ("memory of the process itself", &[
        "brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "mincore", "msync", "mlock", "mlock2",
        "mlockall", "munlock", "munlockall", "remap_file_pages", "mseal", "map_shadow_stack", "pkey_alloc",
        "pkey_free", "pkey_mprotect", "membarrier", "process_mrelease",
    ]),
    ("processes and threads (creating them: see clone below)", &[
        "fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid", "getpid", "getppid",
        "gettid", "set_tid_address", "getpgid", "getpgrp", "setpgid", "getsid", "setsid", "prctl",
        "arch_prctl", "set_thread_area", "get_thread_area", "pidfd_open", "pidfd_send_signal",
        "restart_syscall", "uretprobe",
    ]),
    ("looking into processes of the same user in the same namespace; safe since Linux 4.8, where a tracer \
      can no longer pass by its own filter", &[
        "ptrace", "process_vm_readv", "process_vm_writev",
    ]),
    ("locks between threads", &[
        "futex", "futex_waitv", "futex_wait", "futex_wake", "futex_requeue", "set_robust_list",
        "get_robust_list", "rseq",
    ]),
    ("signals, within the pid namespace", &[
        "kill", "tkill", "tgkill", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo",
        "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo", "sigaltstack", "pause",
        "alarm",
    ]),
    ("who the process is; the kernel asks for capabilities where they are needed", &[
        "getuid", "geteuid", "getgid", "getegid", "getgroups", "getresuid", "getresgid", "setuid", "setgid",
        "setgroups", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "capget",
        "capset",
    ]),
    ("locking oneself in further", &[
        "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
        "lsm_get_self_attr", "lsm_list_modules",
    ]),
    ("scheduling and limits of the process itself", &[
        "sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getattr", "sched_setattr",
        "sched_getparam", "sched_setparam", "sched_getscheduler", "sched_setscheduler",
        "sched_get_priority_max", "sched_get_priority_min", "sched_rr_get_interval", "getpriority",
        "setpriority", "getrlimit", "setrlimit", "prlimit64", "getrusage", "getcpu",
    ]),
    ("reading clocks and setting timers (adjtimex and clock_adjtime only read without CAP_SYS_TIME)", &[
        "time", "gettimeofday", "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "times",
        "getitimer", "setitimer", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime",
        "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime", "adjtimex",
        "clock_adjtime",
    ]),
    ("networking, within the network namespace (socket itself: see below)", &[
        "socketpair", "bind", "listen", "accept", "accept4", "connect", "shutdown", "getsockname",
        "getpeername", "getsockopt", "setsockopt", "sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg",
        "recvmmsg",
    ]),
    ("System V and POSIX queues, within the ipc namespace", &[
        "msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop", "semtimedop", "shmat", "shmctl",
        "shmdt", "shmget", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend",
        "mq_unlink",
    ]),
    ("what the system is", &["uname", "sysinfo", "getrandom"]),
];

/// Calls that open with any of some capabilities: (capabilities, reason, names).
#[rustfmt::skip]
const WITH: &[(&[&str], &str, &[&str])] = &[
    (&["CAP_SYS_ADMIN"], "mounts and namespaces: the administrator of a container may rebuild it", &[
        "mount", "umount2", "pivot_root", "fsopen", "fsconfig", "fsmount", "fspick", "move_mount", "open_tree",
        "open_tree_attr", "mount_setattr", "statmount", "listmount", "unshare", "setns", "clone", "clone3",
        "sethostname", "setdomainname", "quotactl", "quotactl_fd", "fanotify_init", "lsm_set_self_attr",
        "lookup_dcookie",
    ]),
    (&["CAP_SYS_ADMIN", "CAP_BPF"], "programs in the kernel", &["bpf"]),
    (&["CAP_SYS_ADMIN", "CAP_PERFMON"], "performance counters see other processes", &["perf_event_open"]),
    (&["CAP_SYS_ADMIN", "CAP_SYSLOG"], "the kernel's log is the host's", &["syslog"]),
    (&["CAP_SYS_PTRACE"], "reaching into processes of other users", &[
        "kcmp", "pidfd_getfd", "process_madvise",
    ]),
    (&["CAP_DAC_READ_SEARCH"], "opening by handle passes by every directory above, also those of the host",
        &["open_by_handle_at"]),
    (&["CAP_SYS_NICE"], "placement of memory on nodes, of other processes too", &[
        "get_mempolicy", "set_mempolicy", "set_mempolicy_home_node", "mbind", "migrate_pages", "move_pages",
    ]),
    (&["CAP_SYS_CHROOT"], "changing the root directory", &["chroot"]),
    (&["CAP_SYS_TIME"], "the clock is the host's", &["settimeofday", "clock_settime"]),
    (&["CAP_SYS_MODULE"], "code in the kernel", &["init_module", "finit_module", "delete_module"]),
    (&["CAP_SYS_BOOT"], "rebooting (in a pid namespace it ends that)", &["reboot"]),
    (&["CAP_SYS_PACCT"], "process accounting is the host's", &["acct"]),
    (&["CAP_SYS_RAWIO"], "I/O ports", &["iopl", "ioperm"]),
    (&["CAP_SYS_TTY_CONFIG"], "hanging up a terminal that others use", &["vhangup"]),
];

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET. (CLONE_NEWTIME is no flag of clone(2),
/// where its bit belongs to the exit signal.)
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// Socket families that reach out of the network namespace: vsock talks to the hypervisor and to other
/// machines of the host; AF_ALG offers the kernel's ciphers, which programs have no need of and attackers had.
const REFUSED_FAMILIES: [u64; 2] = [libc::AF_VSOCK as u64, libc::AF_ALG as u64];

/// Execution domains without a say over the layout of memory: PER_LINUX, PER_LINUX32, both with UNAME26, and
/// the question for the present one.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Arguments that the kernel takes as `int` or `unsigned int`: it ignores their upper half, and so must a
/// comparison, or a bit set there would slip a forbidden value past it.
const INT: u64 = 0xffff_ffff;

/// The default profile for a container that holds these capabilities (`CAP_SYS_ADMIN`, ...): some
/// system calls open only with a capability.
///
/// It means the same to runtimes that use libseccomp.
pub fn default_profile(capabilities: &[&str]) -> LinuxSeccomp {
    let holds = |any_of: &[&str]| any_of.iter().any(|name| capabilities.contains(name));
    let mut rules: Vec<LinuxSyscall> = EVERYONE.iter().map(|(_, names)| allow(names)).collect();
    let open = WITH.iter().filter(|(any_of, ..)| holds(any_of));
    rules.extend(open.map(|(_, _, names)| allow(names)));
    rules.extend(clone_rules());
    rules.extend(socket_rules());
    rules.extend(personality_rules());
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM as u32))
        .set_syscalls(Some(rules));
    profile
}

/// Processes and threads, but no namespaces: a user namespace would give back every capability. The flags of
/// clone3 lie in memory, where no filter sees them: it does not exist, and glibc falls back to clone. Behind
/// CAP_SYS_ADMIN's own rules, which have no conditions and come first, these say nothing.
fn clone_rules() -> [LinuxSyscall; 2] {
    let flags = masked(0, NEW_NAMESPACES, 0);
    [
        when(allow(&["clone"]), flags),
        deny(&["clone3"], libc::ENOSYS),
    ]
}

/// EAFNOSUPPORT is what a kernel without these families says, so programs fall back. The rule that allows the
/// others has a condition that always holds: without any it would decide alone.
fn socket_rules() -> Vec<LinuxSyscall> {
    let refuse = |family| {
        let rule = deny(&["socket"], libc::EAFNOSUPPORT);
        when(rule, masked(0, INT, family))
    };
    let mut rules: Vec<_> = REFUSED_FAMILIES.into_iter().map(refuse).collect();
    let any = argument(0, LinuxSeccompOperator::ScmpCmpLe, u64::MAX, 0);
    rules.push(when(allow(&["socket"]), any));
    rules
}

fn personality_rules() -> impl Iterator<Item = LinuxSyscall> {
    PERSONALITIES
        .into_iter()
        .map(|value| when(allow(&["personality"]), masked(0, INT, value)))
}

fn allow(names: &[&str]) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| name.to_string()).collect())
        .set_action(LinuxSeccompAction::ScmpActAllow);
    rule
}

fn deny(names: &[&str], errno: i32) -> LinuxSyscall {
    let mut rule = allow(names);
    rule.set_action(LinuxSeccompAction::ScmpActErrno)
        .set_errno_ret(Some(errno as u32));
    rule
}

fn when(mut rule: LinuxSyscall, arg: LinuxSeccompArg) -> LinuxSyscall {
    rule.set_args(Some(vec![arg]));
    rule
}

/// Argument and value agree in the bits of the mask.
fn masked(index: usize, mask: u64, value: u64) -> LinuxSeccompArg {
    argument(index, LinuxSeccompOperator::ScmpCmpMaskedEq, mask, value)
}

fn argument(index: usize, op: LinuxSeccompOperator, value: u64, value_two: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .op(op)
        .value(value)
        .value_two(value_two)
        .build()
        .expect("every field of the builder has a default")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::syscalls;
    use super::*;

    fn names() -> impl Iterator<Item = &'static str> {
        let everyone = EVERYONE.iter().flat_map(|(_, names)| names.iter());
        let with = WITH.iter().flat_map(|(_, _, names)| names.iter());
        everyone.chain(with).copied()
    }

    #[test]
    fn every_name_is_a_system_call() {
        let unknown: Vec<_> = names()
            .filter(|name| syscalls::numbers(name).is_none())
            .collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn no_name_stands_twice() {
        let mut seen = BTreeSet::new();
        let twice: Vec<_> = names().filter(|name| !seen.insert(*name)).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }
}
