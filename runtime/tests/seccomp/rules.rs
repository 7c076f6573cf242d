//! Single rules of the language, and what is refused.

use longshore_runtime::seccomp::{Handover, Machine, compile, compile_for};
use serde_json::{Value, json};

use crate::machine::*;
use crate::meaning::expected;
use crate::parse;

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
    let notify = json!([{ "names": ["read"], "action": "SCMP_ACT_NOTIFY" }]);
    let text = refusal(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": notify }));
    assert!(
        text.contains("listenerPath: SCMP_ACT_NOTIFY needs"),
        "{text}"
    );

    let text = refusal(json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x" }));
    assert!(text.contains("it goes with listenerPath only"), "{text}");

    let sixth = json!([{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }]);
    let rule = json!({ "names": ["read"], "action": "SCMP_ACT_LOG", "args": sixth });
    let text = refusal(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }));
    assert!(text.contains("argument 6 does not exist"), "{text}");

    let text = refusal(json!({ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1 }));
    assert!(text.contains("errnoRet goes with"), "{text}");

    let text = refusal(json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096 }));
    assert!(text.contains("errnoRet 4096 is above 4095"), "{text}");
}

#[test]
fn a_profile_that_is_too_long_for_the_kernel_is_refused() {
    let rule = |value: u32| {
        let args = json!([{ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }]);
        json!({ "names": ["read"], "action": "SCMP_ACT_LOG", "args": args })
    };
    let rules: Vec<Value> = (0..2000).map(rule).collect();
    let text = refusal(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules }));
    assert!(text.contains("the kernel takes 4096"), "{text}");

    // One entry whose names and conditions multiply.
    let args: Vec<Value> = (0..1000)
        .map(|value| json!({ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }))
        .collect();
    let rule = json!({ "names": vec!["read"; 1000], "action": "SCMP_ACT_LOG", "args": args });
    let text = refusal(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }));
    assert!(text.contains("more than 65536 rules"), "{text}");
}

/// A profile of rules for `read` (and `write`), each (action, errno, args).
fn profile(default: &str, rules: &[(&str, Option<u32>, Value)]) -> Value {
    let rules = rules.iter().map(|(action, errno, args)| {
        json!({ "names": ["read", "write"], "action": action, "errnoRet": errno, "args": args })
    });
    let rules: Vec<Value> = rules.collect();
    json!({ "defaultAction": default, "syscalls": rules })
}

fn arg(index: u64, op: &str, value: u64) -> Value {
    json!({ "index": index, "op": format!("SCMP_CMP_{op}"), "value": value })
}

/// What `read` with these first arguments gets.
fn of_read(profile: &Value, first: u64, second: u64) -> u32 {
    let filter = compile(&parse(profile)).unwrap();
    answer(&filter, &call(libc::SYS_read, [first, second, 0, 0, 0, 0]))
}

// The answers of the following five were libseccomp 2.5.4's.

#[test]
fn a_rule_without_conditions_decides_alone_wherever_it_stands() {
    let always = ("SCMP_ACT_ERRNO", Some(1), json!([]));
    let sometimes = ("SCMP_ACT_ERRNO", Some(2), json!([arg(0, "EQ", 5)]));
    for rules in [[always.clone(), sometimes.clone()], [sometimes, always]] {
        let profile = profile("SCMP_ACT_ALLOW", &rules);
        assert_eq!(
            [5, 6].map(|first| of_read(&profile, first, 0)),
            [ERRNO | 1; 2]
        );
    }
}

#[test]
fn of_two_rules_without_conditions_the_first_counts() {
    let rules = [2, 1].map(|errno| ("SCMP_ACT_ERRNO", Some(errno), json!([])));
    assert_eq!(of_read(&profile("SCMP_ACT_ALLOW", &rules), 0, 0), ERRNO | 2);
}

#[test]
fn a_rule_with_the_default_action_says_nothing() {
    let default = ("SCMP_ACT_ALLOW", None, json!([]));
    let sometimes = ("SCMP_ACT_ERRNO", Some(2), json!([arg(0, "EQ", 5)]));
    let profile = profile("SCMP_ACT_ALLOW", &[default, sometimes]);
    assert_eq!(
        [5, 6].map(|first| of_read(&profile, first, 0)),
        [ERRNO | 2, ALLOW]
    );
}

#[test]
fn the_narrower_condition_is_asked_first() {
    let wide = ("SCMP_ACT_ERRNO", Some(1), json!([arg(0, "GE", 5)]));
    let narrow = ("SCMP_ACT_ERRNO", Some(2), json!([arg(0, "EQ", 5)]));
    let later = ("SCMP_ACT_ERRNO", Some(3), json!([arg(1, "EQ", 7)]));
    for rules in [
        [wide.clone(), narrow.clone(), later.clone()],
        [later, narrow, wide],
    ] {
        let profile = profile("SCMP_ACT_ALLOW", &rules);
        let answers =
            [(4, 0), (5, 0), (6, 0), (5, 7)].map(|(one, two)| of_read(&profile, one, two));
        assert_eq!(answers, [ALLOW, ERRNO | 2, ERRNO | 1, ERRNO | 3]);
    }
}

#[test]
fn of_conditions_on_one_argument_any_suffices() {
    let args = json!([arg(0, "EQ", 5), arg(0, "EQ", 6), arg(1, "EQ", 7)]);
    let profile = profile("SCMP_ACT_ALLOW", &[("SCMP_ACT_ERRNO", Some(1), args)]);
    let answers = [(5, 0), (6, 0), (0, 7), (0, 0)].map(|(one, two)| of_read(&profile, one, two));
    assert_eq!(answers, [ERRNO | 1, ERRNO | 1, ERRNO | 1, ALLOW]);
}

#[test]
fn calls_newer_than_the_profile_are_missing_and_not_forbidden() {
    let list = |action: &str| {
        let rule = json!({ "names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW" });
        let profile = json!({ "defaultAction": action, "syscalls": [rule] });
        let filter = compile(&parse(&profile)).unwrap();
        [
            libc::SYS_write,
            libc::SYS_openat2,
            libc::SYS_pidfd_getfd,
            5000,
        ]
        .map(|number| answer(&filter, &call(number, [0; 6])))
    };
    assert_eq!(list("SCMP_ACT_ERRNO"), [EPERM, ALLOW, ENOSYS, ENOSYS]);
    assert_eq!(
        list("SCMP_ACT_KILL_PROCESS"),
        [1 << 31, ALLOW, 1 << 31, 1 << 31]
    );
}

#[test]
fn architectures_that_never_call_are_passed_over_and_the_native_one_needs_no_listing() {
    let rule = json!({ "names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW" });
    let profile = |listed: &[&str]| json!({ "defaultAction": "SCMP_ACT_ERRNO", "architectures": listed, "syscalls": [rule] });
    let all = [
        "NATIVE",
        "X86",
        "X86_64",
        "X32",
        "ARM",
        "AARCH64",
        "MIPS",
        "MIPS64",
        "MIPS64N32",
        "MIPSEL",
        "MIPSEL64",
        "MIPSEL64N32",
        "PPC",
        "PPC64",
        "PPC64LE",
        "S390",
        "S390X",
        "PARISC",
        "PARISC64",
        "RISCV64",
        "LOONGARCH64",
        "M68K",
        "SH",
        "SHEB",
    ]
    .map(|name| format!("SCMP_ARCH_{name}"));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let compiled =
        |machine, listed: &[&str]| compile_for(machine, &parse(&profile(listed))).unwrap();
    for (machine, abis) in [
        (Machine::X86_64, &[X86_64, X86, X32][..]),
        (Machine::Aarch64, &[Aarch64, Arm][..]),
    ] {
        let names: Vec<_> = abis.iter().map(|abi| abi.name()).collect();
        assert_eq!(compiled(machine, &all), compiled(machine, &names));
        assert_eq!(
            compiled(machine, &["SCMP_ARCH_S390X"]),
            compiled(machine, &[])
        );
        for abi in abis {
            let read = Call {
                abi: *abi,
                number: crate::meaning::number("read", *abi),
                args: [0; 6],
            };
            assert_eq!(answer(&compiled(machine, &all), &read), ALLOW, "{abi:?}");
            let alone = answer(&compiled(machine, &[]), &read);
            assert_eq!(alone == ALLOW, matches!(abi, X86_64 | Aarch64), "{abi:?}");
        }
    }
    let unknown =
        serde_json::from_value::<oci_spec::runtime::LinuxSeccomp>(profile(&["SCMP_ARCH_Z80"]));
    assert!(unknown.unwrap_err().to_string().contains("SCMP_ARCH_Z80"));
}

/// Through x86's socketcall(2) and ipc(2), whose first argument says which call is meant.
#[test]
fn a_rule_covers_the_multiplexed_form_of_its_call() {
    let x86 = |profile: &Value, number: u32, first: u64| {
        let filter = compile_for(Machine::X86_64, &parse(profile)).unwrap();
        let args = [first, 0, 0, 0, 0, 0];
        answer(
            &filter,
            &Call {
                abi: X86,
                number,
                args,
            },
        )
    };
    let profile = |rules: Value| {
        let x86 = ["SCMP_ARCH_X86"];
        json!({ "defaultAction": "SCMP_ACT_ERRNO", "architectures": x86, "syscalls": rules })
    };
    let (socketcall, ipc) = (102, 117);
    let plain = profile(json!([
        { "names": ["socket", "accept", "recv", "shmget"], "action": "SCMP_ACT_ALLOW" },
        { "names": ["bind"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5 },
    ]));
    let answers = [1, 5, 10, 2, 3].map(|call| x86(&plain, socketcall, call));
    assert_eq!(answers, [ALLOW, ALLOW, ALLOW, ERRNO | 5, EPERM]);
    assert_eq!(x86(&plain, 359, 0), ALLOW, "socket by its own number");
    // With a version in the upper half, which the kernel masks away too.
    assert_eq!(
        [23, 1 << 16 | 23, 24].map(|call| x86(&plain, ipc, call)),
        [ALLOW, ALLOW, EPERM]
    );

    // What decides lies in memory: the strictest.
    let hidden = profile(json!([{
        "names": ["socket"],
        "args": [arg(0, "NE", 40)],
        "action": "SCMP_ACT_ALLOW",
    }]));
    assert_eq!(x86(&hidden, socketcall, 1), EPERM);
    assert_eq!(
        [1, 40].map(|family| x86(&hidden, 359, family)),
        [ALLOW, EPERM]
    );

    // Unless the multiplexer itself is allowed.
    let open = profile(json!([
        { "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5 },
        { "names": ["socketcall"], "action": "SCMP_ACT_ALLOW" },
    ]));
    assert_eq!(x86(&open, socketcall, 1), ALLOW);
}

#[test]
fn a_32_bit_program_is_compared_by_what_it_has() {
    let args = json!([arg(0, "EQ", u64::MAX)]);
    let mut profile = profile("SCMP_ACT_ERRNO", &[("SCMP_ACT_ALLOW", None, args)]);
    profile["architectures"] = json!(["SCMP_ARCH_X86"]);
    let filter = compile_for(Machine::X86_64, &parse(&profile)).unwrap();
    let read = |abi, number, first| {
        answer(
            &filter,
            &Call {
                abi,
                number,
                args: [first; 6],
            },
        )
    };
    assert_eq!(read(X86, 3, u64::MAX), ALLOW);
    assert_eq!(read(X86_64, 0, 0xffff_ffff), EPERM);
    assert_eq!(read(X86_64, 0, u64::MAX), ALLOW);
}

/// (flags of the profile, whether it asks) -> flags of the filter
#[test]
fn flags_are_the_kernels() {
    let flags = |names: Option<&[&str]>, asks: bool| {
        let flags: Option<Vec<String>> = names.map(|names| {
            let full = names
                .iter()
                .map(|name| format!("SECCOMP_FILTER_FLAG_{name}"));
            full.collect()
        });
        let action = if asks {
            "SCMP_ACT_NOTIFY"
        } else {
            "SCMP_ACT_LOG"
        };
        let mut profile = profile("SCMP_ACT_ALLOW", &[(action, None, json!([]))]);
        profile["flags"] = json!(flags);
        profile["listenerPath"] = json!("/run/agent.sock");
        let filter = compile(&parse(&profile)).unwrap();
        assert_eq!(filter.listener.is_some(), asks);
        filter.flags
    };
    assert_eq!(flags(None, false), 4, "SPEC_ALLOW is the default");
    assert_eq!(flags(Some(&[]), false), 0);
    assert_eq!(flags(Some(&["TSYNC", "LOG", "SPEC_ALLOW"]), false), 7);
    assert_eq!(
        flags(Some(&["WAIT_KILLABLE_RECV"]), false),
        0,
        "nobody waits"
    );
    assert_eq!(flags(Some(&["WAIT_KILLABLE_RECV"]), true), 32 | 8);
    assert_eq!(
        flags(Some(&["TSYNC"]), true),
        1 | 8 | 16,
        "with TSYNC_ESRCH"
    );

    let unknown = json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"] });
    let error = serde_json::from_value::<oci_spec::runtime::LinuxSeccomp>(unknown).unwrap_err();
    assert!(
        error.to_string().contains("SECCOMP_FILTER_FLAG_X"),
        "{error}"
    );
}

/// (calls that are asked about, or the default action) -> how the listener leaves init
#[test]
fn the_listener_leaves_by_a_call_that_is_not_asked_about() {
    let handover = |default: &str, rules: Value| {
        let profile = json!({
            "defaultAction": default,
            "listenerPath": "/run/agent.sock",
            "syscalls": rules,
        });
        compile(&parse(&profile))
            .unwrap()
            .listener
            .unwrap()
            .handover
    };
    let asked = |names: &[&str]| json!({ "names": names, "action": "SCMP_ACT_NOTIFY" });
    let plain = handover("SCMP_ACT_ALLOW", json!([asked(&["mkdir"])]));
    assert_eq!(plain, Handover::Sendmsg);
    let many = handover("SCMP_ACT_LOG", json!([asked(&["sendmsg"])]));
    assert_eq!(many, Handover::Sendmmsg);
    let sometimes = json!({
        "names": ["sendmsg", "sendmmsg"],
        "args": [arg(0, "EQ", 9)],
        "action": "SCMP_ACT_NOTIFY",
    });
    assert_eq!(
        handover("SCMP_ACT_ALLOW", json!([sometimes])),
        Handover::Taken
    );
    assert_eq!(handover("SCMP_ACT_NOTIFY", json!([])), Handover::Taken);
    let refused = handover("SCMP_ACT_ERRNO", json!([asked(&["mkdir"])]));
    assert_eq!(refused, Handover::Taken);
}
