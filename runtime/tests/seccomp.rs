//! Compiled filters against the profiles they come from: a small machine runs the BPF, a direct reading of
//! the profile says what it should have answered.

use std::ops::Range;

use longshore_runtime::seccomp::{Filter, compile, default_profile};
use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::*;
use serde_json::{Value, json};

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const ENOSYS: u32 = ERRNO | libc::ENOSYS as u32;
const EPERM: u32 = ERRNO | libc::EPERM as u32;

#[derive(Clone, Copy, Debug)]
struct Call {
    architecture: u32,
    number: u32,
    args: [u64; 6],
}

fn call(number: libc::c_long, args: [u64; 6]) -> Call {
    Call {
        architecture: ARCHITECTURE,
        number: number as u32,
        args,
    }
}

/// `struct seccomp_data`, as this machine lays it out.
fn data(call: &Call) -> Vec<u8> {
    let mut bytes = call.number.to_ne_bytes().to_vec();
    bytes.extend(call.architecture.to_ne_bytes());
    bytes.extend([0; 8]);
    call.args
        .iter()
        .for_each(|arg| bytes.extend(arg.to_ne_bytes()));
    bytes
}

/// Runs a filter as the kernel does, and refuses what the kernel's checker would refuse. Also tells how many
/// instructions it took.
fn run(filter: &Filter, call: &Call) -> (u32, usize) {
    let code = &filter.instructions;
    assert!(code.len() <= 4096);
    assert_eq!(
        code.last().map(|last| last.0),
        Some(0x06),
        "the last instruction returns"
    );
    let data = data(call);
    let (mut at, mut a, mut steps) = (0, 0u32, 0);
    loop {
        let (operation, yes, no, k) = code[at];
        at += 1;
        steps += 1;
        let mut branch = |taken: bool| at += usize::from(if taken { yes } else { no });
        match operation {
            0x20 => {
                assert!(k % 4 == 0 && k < 64);
                let word = &data[k as usize..k as usize + 4];
                a = u32::from_ne_bytes(word.try_into().unwrap());
            }
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => branch(a == k),
            0x25 => branch(a > k),
            0x35 => branch(a >= k),
            0x06 => return (k, steps),
            other => panic!("the kernel refuses {other:#x}"),
        }
    }
}

fn answer(filter: &Filter, call: &Call) -> u32 {
    run(filter, call).0
}

/// Names used by the property tests, with numbers far apart and side by side.
const NAMES: [(&str, libc::c_long); 8] = [
    ("read", libc::SYS_read),
    ("write", libc::SYS_write),
    ("close", libc::SYS_close),
    ("socket", libc::SYS_socket),
    ("clone", libc::SYS_clone),
    ("execve", libc::SYS_execve),
    ("openat2", libc::SYS_openat2),
    ("clone3", libc::SYS_clone3),
];

fn action_value(action: &Value, errno: &Value) -> u32 {
    let errno = errno.as_u64().unwrap_or(1) as u32;
    match action.as_str().unwrap() {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | errno,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | errno,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        other => panic!("{other}"),
    }
}

fn holds(arg: &Value, args: &[u64; 6]) -> bool {
    let have = args[arg["index"].as_u64().unwrap() as usize];
    let value = arg["value"].as_u64().unwrap();
    let second = arg["valueTwo"].as_u64().unwrap_or(0);
    match arg["op"].as_str().unwrap() {
        "SCMP_CMP_EQ" => have == value,
        "SCMP_CMP_NE" => have != value,
        "SCMP_CMP_LT" => have < value,
        "SCMP_CMP_LE" => have <= value,
        "SCMP_CMP_GE" => have >= value,
        "SCMP_CMP_GT" => have > value,
        "SCMP_CMP_MASKED_EQ" => have & value == second & value,
        other => panic!("{other}"),
    }
}

/// What the profile says, read word for word.
fn expected(profile: &Value, call: &Call) -> u32 {
    if call.architecture != ARCHITECTURE {
        return ENOSYS;
    }
    let default = action_value(&profile["defaultAction"], &profile["defaultErrnoRet"]);
    let Some((name, _)) = NAMES
        .iter()
        .find(|(_, number)| *number as u32 == call.number)
    else {
        // Of the numbers that are tried, these are no calls that are known.
        let errno = profile["defaultAction"] == "SCMP_ACT_ERRNO";
        let x32 = cfg!(target_arch = "x86_64") && call.number == 0x4000_0000;
        return if errno || x32 { ENOSYS } else { default };
    };
    let rules = profile["syscalls"].as_array().unwrap();
    let fits = |rule: &&Value| {
        let named = rule["names"]
            .as_array()
            .unwrap()
            .iter()
            .any(|have| have == name);
        let args = rule["args"].as_array().unwrap();
        named && args.iter().all(|arg| holds(arg, &call.args))
    };
    match rules.iter().find(fits) {
        Some(rule) => action_value(&rule["action"], &rule["errnoRet"]),
        None => default,
    }
}

/// Values around the boundary between the halves, where comparisons go wrong.
fn word() -> impl Strategy<Value = u64> {
    let half = prop_oneof![
        Just(0u64),
        Just(1),
        Just(2),
        Just(0x7fff_ffff),
        Just(0xffff_ffff)
    ];
    prop_oneof![
        4 => (half.clone(), half).prop_map(|(high, low)| high << 32 | low),
        1 => any::<u64>(),
    ]
}

fn argument(indices: Range<usize>) -> impl Strategy<Value = Value> {
    let op = prop_oneof![
        Just("SCMP_CMP_EQ"),
        Just("SCMP_CMP_NE"),
        Just("SCMP_CMP_LT"),
        Just("SCMP_CMP_LE"),
        Just("SCMP_CMP_GE"),
        Just("SCMP_CMP_GT"),
        Just("SCMP_CMP_MASKED_EQ"),
    ];
    (indices, word(), word(), op).prop_map(|(index, value, second, op)| {
        json!({ "index": index, "value": value, "valueTwo": second, "op": op })
    })
}

fn action() -> impl Strategy<Value = (&'static str, Option<u32>)> {
    let plain = prop_oneof![
        Just("SCMP_ACT_ALLOW"),
        Just("SCMP_ACT_KILL"),
        Just("SCMP_ACT_KILL_THREAD"),
        Just("SCMP_ACT_KILL_PROCESS"),
        Just("SCMP_ACT_TRAP"),
        Just("SCMP_ACT_LOG"),
    ];
    let numbered = prop_oneof![Just("SCMP_ACT_ERRNO"), Just("SCMP_ACT_TRACE")];
    prop_oneof![
        plain.prop_map(|action| (action, None)),
        (numbered, proptest::option::of(0u32..4096)),
    ]
}

fn rule(args: usize, indices: Range<usize>) -> impl Strategy<Value = Value> {
    let names = proptest::sample::subsequence(&NAMES[..], 1..4);
    let args = proptest::collection::vec(argument(indices), 0..=args);
    (names, args, action()).prop_map(|(names, args, (action, errno))| {
        let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
        json!({ "names": names, "args": args, "action": action, "errnoRet": errno })
    })
}

fn profile(rules: usize, args: usize, indices: Range<usize>) -> impl Strategy<Value = Value> {
    let rules = proptest::collection::vec(rule(args, indices), 0..=rules);
    (rules, action()).prop_map(|(rules, (action, errno))| {
        json!({ "defaultAction": action, "defaultErrnoRet": errno, "syscalls": rules })
    })
}

fn any_call() -> impl Strategy<Value = Call> {
    let known = proptest::sample::select(&NAMES[..]).prop_map(|(_, number)| number as u32);
    let unknown = prop_oneof![Just(0x4000_0000u32), Just(100_000)];
    let architecture = prop_oneof![9 => Just(ARCHITECTURE), 1 => Just(0x4000_0003)];
    let number = prop_oneof![9 => known, 1 => unknown];
    (architecture, number, proptest::array::uniform6(word())).prop_map(
        |(architecture, number, args)| Call {
            architecture,
            number,
            args,
        },
    )
}

fn parse(profile: &Value) -> LinuxSeccomp {
    serde_json::from_value(profile.clone()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_filter_answers_what_the_profile_says(
        profile in profile(6, 6, 0..6),
        calls in proptest::collection::vec(any_call(), 1..20),
    ) {
        let filter = compile(&parse(&profile)).unwrap();
        for call in calls {
            prop_assert_eq!(answer(&filter, &call), expected(&profile, &call), "{:?}", call);
        }
    }

    #[test]
    fn a_condition_alone_is_right_at_the_edges(
        profile in profile(2, 1, 0..1),
        calls in proptest::collection::vec(any_call(), 1..20),
    ) {
        let filter = compile(&parse(&profile)).unwrap();
        for call in calls {
            prop_assert_eq!(answer(&filter, &call), expected(&profile, &call), "{:?}", call);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Blocks that are longer than a conditional jump reaches.
    #[test]
    fn a_long_filter_answers_what_the_profile_says(
        profile in profile(25, 16, 0..6),
        calls in proptest::collection::vec(any_call(), 1..40),
    ) {
        let Ok(filter) = compile(&parse(&profile)) else { return Ok(()) };
        for call in calls {
            prop_assert_eq!(answer(&filter, &call), expected(&profile, &call), "{:?}", call);
        }
    }
}

#[test]
fn a_block_beyond_the_reach_of_a_short_jump_is_jumped_over() {
    let args: Vec<Value> = (0..16)
        .map(|at| json!({ "index": at % 6, "value": at, "op": "SCMP_CMP_NE" }))
        .collect();
    let rule = json!({ "names": ["write"], "args": args, "action": "SCMP_ACT_LOG" });
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [rule, rule, rule, rule, rule, rule, rule, rule],
    });
    let filter = compile(&parse(&profile)).unwrap();
    assert!(filter.instructions.iter().any(|code| code.0 == 0x05));
    for (number, args) in [
        (libc::SYS_write, [100; 6]),
        (libc::SYS_write, [15; 6]),
        (libc::SYS_close, [100; 6]),
        (libc::SYS_read, [100; 6]),
    ] {
        let call = call(number, args);
        assert_eq!(
            answer(&filter, &call),
            expected(&profile, &call),
            "{call:?}"
        );
    }
}

fn refusal(profile: Value) -> String {
    compile(&parse(&profile)).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_compiled_is_refused_by_name() {
    let notify = json!({ "names": ["read"], "action": "SCMP_ACT_NOTIFY" });
    let text = refusal(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [notify] }));
    assert!(
        text.starts_with("compile seccomp profile syscalls[0]: SCMP_ACT_NOTIFY needs"),
        "{text}"
    );

    let foreign = ["SCMP_ARCH_MIPS"];
    let text = refusal(json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": foreign }));
    assert!(
        text.contains("this machine's architecture is not among"),
        "{text}"
    );

    let sixth = json!([{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }]);
    let rule = json!({ "names": ["read"], "action": "SCMP_ACT_LOG", "args": sixth });
    let text = refusal(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }));
    assert!(text.contains("argument 6 does not exist"), "{text}");

    let text = refusal(json!({ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1 }));
    assert!(text.contains("errnoRet goes with"), "{text}");

    let text = refusal(json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096 }));
    assert!(text.contains("errnoRet 4096 is above 4095"), "{text}");

    let text = refusal(json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x" }));
    assert!(text.contains("listenerPath"), "{text}");
}

#[test]
fn a_profile_that_is_too_long_for_the_kernel_is_refused() {
    let rule = |value: u32| {
        let args = json!([{ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }]);
        json!({ "names": ["read"], "action": "SCMP_ACT_LOG", "args": args })
    };
    let rules: Vec<Value> = (0..1000).map(rule).collect();
    let text = refusal(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules }));
    assert!(text.contains("the kernel takes 4096"), "{text}");
}

#[test]
fn siblings_of_the_native_architecture_may_be_listed_and_unknown_names_are_passed_over() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": [
            if cfg!(target_arch = "x86_64") { "SCMP_ARCH_X86_64" } else { "SCMP_ARCH_AARCH64" },
            "SCMP_ARCH_X86",
            "SCMP_ARCH_X32",
        ],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        "syscalls": [{ "names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW" }],
    });
    let filter = compile(&parse(&profile)).unwrap();
    assert_eq!(filter.flags, 6);
    assert_eq!(answer(&filter, &call(libc::SYS_read, [0; 6])), ALLOW);
    assert_eq!(answer(&filter, &call(libc::SYS_write, [0; 6])), EPERM);
}

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
        architecture: 0x4000_0003,
        ..call(0, [0; 6])
    };
    assert_eq!(answer(&filter, &foreign), ENOSYS);
    assert_eq!(answer(&filter, &call(600, [0; 6])), ENOSYS);
    if cfg!(target_arch = "x86_64") {
        let x32_read = 0x4000_0000;
        assert_eq!(answer(&filter, &call(x32_read, [0; 6])), ENOSYS);
        assert_eq!(answer(&filter, &call(0x4000_0000 + 520, [0; 6])), ENOSYS);
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
