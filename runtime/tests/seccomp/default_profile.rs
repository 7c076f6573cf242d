//! The default profile, asked call by call.

use longshore_runtime::seccomp::{Filter, compile, default_profile};

use crate::machine::*;

fn default(capabilities: &[&str]) -> Filter {
    compile(&default_profile(capabilities)).unwrap()
}

#[test]
fn the_default_profile_allows_ordinary_programs() {
    let filter = default(&[]);
    for number in [
        libc::SYS_read,
        libc::SYS_openat,
        libc::SYS_execve,
        libc::SYS_mmap,
        libc::SYS_futex,
        libc::SYS_rt_sigreturn,
        libc::SYS_ptrace,
        libc::SYS_statx,
        libc::SYS_epoll_pwait2,
    ] {
        assert_eq!(answer(&filter, &call(number, [0; 6])), ALLOW, "{number}");
    }
}

#[test]
fn the_default_profile_refuses_what_leaves_the_container() {
    let filter = default(&[]);
    for number in [
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_move_mount,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_open_by_handle_at,
        libc::SYS_init_module,
        libc::SYS_kexec_load,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_reboot,
        libc::SYS_settimeofday,
        libc::SYS_chroot,
        libc::SYS_pivot_root,
        libc::SYS_swapon,
        libc::SYS_pidfd_getfd,
    ] {
        assert_eq!(answer(&filter, &call(number, [0; 6])), EPERM, "{number}");
    }
}

#[test]
fn some_calls_are_refused_whatever_the_capabilities() {
    let filter = default(&ALL_CAPABILITIES);
    for number in [
        libc::SYS_io_uring_setup,
        libc::SYS_keyctl,
        libc::SYS_userfaultfd,
        libc::SYS_kexec_load,
        libc::SYS_swapon,
    ] {
        assert_eq!(answer(&filter, &call(number, [0; 6])), EPERM, "{number}");
    }
}

const ALL_CAPABILITIES: [&str; 13] = [
    "CAP_SYS_ADMIN",
    "CAP_SYS_PTRACE",
    "CAP_SYS_MODULE",
    "CAP_SYS_TIME",
    "CAP_SYS_CHROOT",
    "CAP_SYS_BOOT",
    "CAP_SYS_PACCT",
    "CAP_SYS_RAWIO",
    "CAP_SYS_TTY_CONFIG",
    "CAP_BPF",
    "CAP_PERFMON",
    "CAP_DAC_READ_SEARCH",
    "CAP_SYS_NICE",
];

#[test]
fn a_capability_opens_its_calls_and_no_others() {
    let calls = [
        ("CAP_SYS_ADMIN", libc::SYS_mount),
        ("CAP_SYS_PTRACE", libc::SYS_pidfd_getfd),
        ("CAP_SYS_MODULE", libc::SYS_finit_module),
        ("CAP_SYS_TIME", libc::SYS_settimeofday),
        ("CAP_SYS_CHROOT", libc::SYS_chroot),
        ("CAP_SYS_BOOT", libc::SYS_reboot),
        ("CAP_SYS_PACCT", libc::SYS_acct),
        ("CAP_SYS_TTY_CONFIG", libc::SYS_vhangup),
        ("CAP_BPF", libc::SYS_bpf),
        ("CAP_PERFMON", libc::SYS_perf_event_open),
        ("CAP_SYSLOG", libc::SYS_syslog),
        ("CAP_DAC_READ_SEARCH", libc::SYS_open_by_handle_at),
        ("CAP_SYS_NICE", libc::SYS_mbind),
    ];
    for (capability, own) in calls {
        let filter = default(&[capability]);
        for (other, number) in calls {
            let admin = capability == "CAP_SYS_ADMIN"
                && ["CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG"].contains(&other);
            let wanted = if number == own || admin { ALLOW } else { EPERM };
            let got = answer(&filter, &call(number, [0; 6]));
            assert_eq!(got, wanted, "{capability}: {number}");
        }
    }
}

#[test]
fn clone_makes_threads_and_processes_but_no_namespaces() {
    let (filter, admin) = (default(&[]), default(&["CAP_SYS_ADMIN"]));
    // pthread_create's flags, and those of fork with a SIGCHLD.
    for flags in [0x003d_0f00, 0x0120_0011] {
        assert_eq!(
            answer(&filter, &call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0])),
            ALLOW
        );
    }
    for bit in [17, 25, 26, 27, 28, 29, 30] {
        let call = call(libc::SYS_clone, [1 << bit | 17, 0, 0, 0, 0, 0]);
        assert_eq!(answer(&filter, &call), EPERM, "{bit}");
        assert_eq!(answer(&admin, &call), ALLOW, "{bit}");
    }
    let clone3 = call(libc::SYS_clone3, [0; 6]);
    assert_eq!(answer(&filter, &clone3), ENOSYS);
    assert_eq!(answer(&admin, &clone3), ALLOW);
}

#[test]
fn sockets_of_refused_families_cannot_be_slipped_past_by_the_upper_half() {
    let filter = default(&[]);
    let socket = |family: u64| answer(&filter, &call(libc::SYS_socket, [family, 0, 0, 0, 0, 0]));
    for family in [
        libc::AF_UNIX,
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_NETLINK,
    ] {
        assert_eq!(socket(family as u64), ALLOW);
    }
    let unsupported = ERRNO | libc::EAFNOSUPPORT as u32;
    for family in [libc::AF_VSOCK, libc::AF_ALG] {
        assert_eq!(socket(family as u64), unsupported);
        assert_eq!(socket(family as u64 | 1 << 32), unsupported);
    }
}

#[test]
fn personality_may_be_asked_but_not_loosen_the_address_space() {
    let filter = default(&[]);
    let personality = |value| {
        answer(
            &filter,
            &call(libc::SYS_personality, [value, 0, 0, 0, 0, 0]),
        )
    };
    assert_eq!(personality(0xffff_ffff), ALLOW);
    assert_eq!(personality(u64::MAX), ALLOW);
    assert_eq!(personality(0), ALLOW);
    assert_eq!(personality(0x0004_0000), EPERM); // ADDR_NO_RANDOMIZE
    assert_eq!(personality(1 << 32 | 0x0040_0000), EPERM); // READ_IMPLIES_EXEC
}

#[test]
fn foreign_and_unknown_calls_do_not_exist() {
    let filter = default(&[]);
    let foreign = Call {
        abi: X86,
        ..call(0, [0; 6])
    };
    assert_eq!(answer(&filter, &foreign), ENOSYS);
    assert_eq!(answer(&filter, &call(600, [0; 6])), ENOSYS);
    if cfg!(target_arch = "x86_64") {
        for number in [0, 520] {
            let call = Call {
                abi: X32,
                ..call(number, [0; 6])
            };
            assert_eq!(answer(&filter, &call), ENOSYS);
        }
    }
}

#[test]
fn the_default_filter_is_short_and_quick() {
    let filter = default(&[]);
    assert!(
        filter.instructions.len() < 400,
        "{}",
        filter.instructions.len()
    );
    let worst = (0..500)
        .map(|number| run(&filter, &call(number, [u64::MAX; 6])).1)
        .max();
    // Four of prologue, one comparison per level of the tree, the longest list of conditions.
    assert!(worst.unwrap() < 60, "{worst:?}");
    assert!(run(&filter, &call(libc::SYS_read, [0; 6])).1 < 16);
}
