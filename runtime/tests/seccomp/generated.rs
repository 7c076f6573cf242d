//! Generated profiles and calls: the filter's answer is the profile's meaning, on every architecture.

use std::ops::Range;

use longshore_runtime::seccomp::{Machine, compile_for};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::machine::*;
use crate::meaning::{NAMES, expected, number};
use crate::parse;

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

/// A profile for a machine, with any of the architectures that there are listed.
fn profile(rules: usize, args: usize, indices: Range<usize>) -> impl Strategy<Value = Value> {
    let rules = proptest::collection::vec(rule(args, indices), 0..=rules);
    let listed = proptest::sample::subsequence(vec![X86_64, X86, X32, Aarch64, Arm], 0..=5);
    (rules, action(), listed).prop_map(|(rules, (action, errno), listed)| {
        let listed: Vec<_> = listed.into_iter().map(Abi::name).collect();
        json!({
            "defaultAction": action,
            "defaultErrnoRet": errno,
            "architectures": listed,
            "syscalls": rules,
        })
    })
}

/// A call that a machine can receive.
fn any_call(machine: Machine) -> impl Strategy<Value = Call> {
    let abis = match machine {
        Machine::X86_64 => vec![X86_64, X86, X32],
        Machine::Aarch64 => vec![Aarch64, Arm],
    };
    let known = proptest::option::weighted(0.9, proptest::sample::select(&NAMES[..]));
    let arguments = proptest::array::uniform6(word());
    (proptest::sample::select(abis), known, arguments).prop_map(|(abi, known, args)| Call {
        abi,
        number: known.map_or(100_000, |(name, _)| number(name, abi)),
        args,
    })
}

fn any_machine() -> impl Strategy<Value = (Machine, Vec<Call>)> {
    let machine = prop_oneof![Just(Machine::X86_64), Just(Machine::Aarch64)];
    machine.prop_flat_map(|machine| {
        let calls = proptest::collection::vec(any_call(machine), 1..30);
        (Just(machine), calls)
    })
}

fn check(profile: &Value, machine: Machine, calls: Vec<Call>) -> Result<(), TestCaseError> {
    let Ok(filter) = compile_for(machine, &parse(profile)) else {
        return Ok(());
    };
    for call in calls {
        let answer = answer(&filter, &call);
        prop_assert_eq!(answer, expected(profile, &call), "{:?}", call);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_filter_answers_what_the_profile_says(
        profile in profile(6, 6, 0..6),
        (machine, calls) in any_machine(),
    ) {
        prop_assert!(compile_for(machine, &parse(&profile)).is_ok());
        check(&profile, machine, calls)?;
    }

    #[test]
    fn a_condition_alone_is_right_at_the_edges(
        profile in profile(2, 1, 0..1),
        (machine, calls) in any_machine(),
    ) {
        check(&profile, machine, calls)?;
    }

    /// Two conditions on two arguments, seldom the same.
    #[test]
    fn rules_that_overlap_have_one_order(
        profile in profile(8, 2, 0..3),
        (machine, calls) in any_machine(),
    ) {
        check(&profile, machine, calls)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Blocks that are longer than a conditional jump reaches.
    #[test]
    fn a_long_filter_answers_what_the_profile_says(
        profile in profile(60, 6, 0..6),
        (machine, calls) in any_machine(),
    ) {
        check(&profile, machine, calls)?;
    }
}
