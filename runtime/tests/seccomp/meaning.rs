//! What a profile says, read word for word and without any compiling.

use std::cmp::Reverse;

use serde_json::Value;

use crate::machine::*;

/// Names used by the property tests, with their numbers, far apart and side by side.
pub(crate) const NAMES: [(&str, [u32; 5]); 8] = [
    ("read", [0, 3, 0, 63, 3]),
    ("write", [1, 4, 1, 64, 4]),
    ("close", [3, 6, 3, 57, 6]),
    ("mprotect", [10, 125, 10, 226, 125]),
    ("clone", [56, 120, 56, 220, 120]),
    ("execve", [59, 11, 520, 221, 11]),
    ("openat2", [437; 5]),
    ("clone3", [435; 5]),
];

pub(crate) fn number(name: &str, abi: Abi) -> u32 {
    let (_, numbers) = NAMES.iter().find(|(known, _)| *known == name).unwrap();
    numbers[abi as usize]
}

pub(crate) fn action_value(action: &Value, errno: &Value) -> u32 {
    let errno = errno.as_u64().unwrap_or(1) as u32;
    match action.as_str().unwrap() {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | errno,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | errno,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_NOTIFY" => 0x7fc0_0000,
        other => panic!("{other}"),
    }
}

/// (index, operator, value, second value)
type Arg = (usize, String, u64, u64);

pub(crate) fn parts(arg: &Value) -> Arg {
    let number = |name: &str| arg[name].as_u64().unwrap_or(0);
    let op = arg["op"].as_str().unwrap().to_owned();
    (
        number("index") as usize,
        op,
        number("value"),
        number("valueTwo"),
    )
}

pub(crate) fn holds((index, op, value, second): &Arg, call: &Call) -> bool {
    // 32-bit programs are compared by the lower halves.
    let width = if matches!(call.abi, X86_64 | Aarch64) {
        u64::MAX
    } else {
        0xffff_ffff
    };
    let (have, value, second) = (call.args[*index] & width, value & width, second & width);
    match op.as_str() {
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

/// Which of two conditions is asked first: the smaller.
pub(crate) fn precedence((index, op, value, second): &Arg, abi: Abi) -> (Reverse<usize>, u8, u64) {
    let width = if matches!(abi, X86_64 | Aarch64) {
        u64::MAX
    } else {
        0xffff_ffff
    };
    let (kind, value) = match op.as_str() {
        "SCMP_CMP_EQ" | "SCMP_CMP_NE" => (0, u64::MAX - (value & width)),
        "SCMP_CMP_MASKED_EQ" => (0, u64::MAX - (value & second & width)),
        "SCMP_CMP_LT" | "SCMP_CMP_LE" => (1, value & width),
        _ => (2, u64::MAX - (value & width)),
    };
    (Reverse(*index), kind, value)
}

/// What the profile says, read word for word.
pub(crate) fn expected(profile: &Value, call: &Call) -> u32 {
    let listed = profile["architectures"].as_array();
    let listed = listed.is_some_and(|all| all.iter().any(|arch| arch == call.abi.name()));
    if !listed && !matches!(call.abi, X86_64 | Aarch64) {
        return ENOSYS;
    }
    let default = action_value(&profile["defaultAction"], &profile["defaultErrnoRet"]);
    let entries = profile["syscalls"].as_array().unwrap();
    let names = |entry: &Value| -> Vec<String> {
        let names = entry["names"].as_array().unwrap().iter();
        names
            .map(|name| name.as_str().unwrap().to_owned())
            .collect()
    };
    let largest = entries
        .iter()
        .flat_map(names)
        .map(|name| number(&name, call.abi))
        .max();
    if profile["defaultAction"] == "SCMP_ACT_ERRNO"
        && largest.is_some_and(|most| call.number > most)
    {
        return ENOSYS;
    }
    let mut rules: Vec<(Vec<Arg>, u32)> = Vec::new();
    for entry in entries {
        let action = action_value(&entry["action"], &entry["errnoRet"]);
        let named = names(entry)
            .iter()
            .any(|name| number(name, call.abi) == call.number);
        if !named || action == default {
            continue;
        }
        let mut args: Vec<Arg> = entry["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(parts)
            .collect();
        let mut indices: Vec<usize> = args.iter().map(|arg| arg.0).collect();
        indices.sort();
        let is_some = |arg: &Arg| arg.1 != "SCMP_CMP_MASKED_EQ" || arg.2 != 0;
        if indices.windows(2).any(|pair| pair[0] == pair[1]) {
            let each = args
                .into_iter()
                .map(|arg| [arg].into_iter().filter(is_some).collect());
            rules.extend(each.map(|args| (args, action)));
        } else {
            args.sort_by_key(|arg| arg.0);
            args.retain(is_some);
            rules.push((args, action));
        }
    }
    if let Some((_, action)) = rules.iter().find(|(args, _)| args.is_empty()) {
        return *action;
    }
    rules.sort_by_key(|(args, _)| -> Vec<_> {
        args.iter().map(|arg| precedence(arg, call.abi)).collect()
    });
    let fits = |rule: &&(Vec<Arg>, u32)| rule.0.iter().all(|arg| holds(arg, call));
    rules.iter().find(fits).map_or(default, |rule| rule.1)
}
