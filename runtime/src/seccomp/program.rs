//! Classic BPF as seccomp(2) takes it: instructions, the decision tree over call numbers, argument checks.
//!
//! Every piece of code made here jumps only forward and only within itself, and ends in `ret` on every way.
//! Pieces can therefore be put together in any order without fixing up addresses.

use super::rules::{Condition, Outcome, Test};

/// (code, jt, jf, k), as in `struct sock_filter`.
pub(super) type Instruction = (u16, u8, u8, u32);

// linux/filter.h, linux/bpf_common.h
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `returns` for every call that does not come through `architecture`'s own entry (AUDIT_ARCH_*); else the
/// number is loaded and `body` decides.
pub(super) fn guarded(architecture: u32, returns: u32, body: Vec<Instruction>) -> Vec<Instruction> {
    let mut program = vec![
        (LOAD, 0, 0, ARCHITECTURE),
        (IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, returns),
        (LOAD, 0, 0, NUMBER),
    ];
    program.extend(body);
    program
}

/// A balanced binary tree over segments of call numbers: each begins at its number and ends before the next
/// one's; the first must begin at 0.
pub(super) fn tree(segments: &[(u32, Outcome)]) -> Vec<Instruction> {
    let (left, right) = match segments {
        [] => return Vec::new(),
        [(_, outcome)] => return leaf(outcome),
        _ => segments.split_at(segments.len() / 2),
    };
    let below = tree(left);
    let mut code = branch(right[0].0, below.len());
    code.extend(below);
    code.extend(tree(right));
    code
}

/// Skips `distance` instructions if the number is at least `start`. Conditional jumps reach 255 instructions,
/// the unconditional one reaches everything.
fn branch(start: u32, distance: usize) -> Vec<Instruction> {
    match u8::try_from(distance) {
        Ok(short) => vec![(IF_AT_LEAST, short, 0, start)],
        // A program is far shorter than 2^32: its length is checked before it is used.
        Err(_) => vec![(IF_AT_LEAST, 0, 1, start), (JUMP, 0, 0, distance as u32)],
    }
}

fn leaf(outcome: &Outcome) -> Vec<Instruction> {
    let mut code = Vec::new();
    for rule in &outcome.rules {
        code.extend(check(&rule.conditions));
        code.push((RETURN, 0, 0, rule.action));
    }
    code.push((RETURN, 0, 0, outcome.otherwise));
    code
}

/// Where a jump of a check leads.
#[derive(Clone, Copy)]
enum To {
    /// To the next instruction.
    On,
    /// Behind this condition, which holds.
    Holds,
    /// Behind the rule's `ret`, because the condition does not hold.
    Fails,
}

type Draft = (u16, To, To, u32);

/// Code that goes on behind itself if all conditions hold, and one instruction further if one does not.
fn check(conditions: &[Condition]) -> Vec<Instruction> {
    let drafts: Vec<Vec<Draft>> = conditions.iter().map(draft).collect();
    let end: usize = drafts.iter().map(Vec::len).sum();
    let mut code = Vec::with_capacity(end);
    for draft in drafts {
        let holds = code.len() + draft.len();
        for (operation, yes, no, value) in draft {
            let here = code.len() + 1;
            // Within 255: `rules` bounds the number of conditions, and each is at most 6 instructions long.
            let distance = |to: To| match to {
                To::On => 0,
                To::Holds => (holds - here) as u8,
                To::Fails => (end + 1 - here) as u8,
            };
            code.push((operation, distance(yes), distance(no), value));
        }
    }
    code
}

/// Arguments are 64 bits wide and BPF words 32, so the high half decides first, then the low half.
fn draft(condition: &Condition) -> Vec<Draft> {
    let (high, low) = halves(condition.argument);
    let load = |offset| (LOAD, To::On, To::On, offset);
    let [high_value, low_value] = split(condition.value);
    match condition.test {
        Test::Equal => vec![
            load(high),
            (IF_EQUAL, To::On, To::Fails, high_value),
            load(low),
            (IF_EQUAL, To::Holds, To::Fails, low_value),
        ],
        Test::NotEqual => vec![
            load(high),
            (IF_EQUAL, To::On, To::Holds, high_value),
            load(low),
            (IF_EQUAL, To::Fails, To::Holds, low_value),
        ],
        Test::Masked(mask) => {
            let [mask_high, mask_low] = split(mask);
            vec![
                load(high),
                (AND, To::On, To::On, mask_high),
                (IF_EQUAL, To::On, To::Fails, high_value & mask_high),
                load(low),
                (AND, To::On, To::On, mask_low),
                (IF_EQUAL, To::Holds, To::Fails, low_value & mask_low),
            ]
        }
        Test::Greater => order(condition, IF_GREATER, To::Holds, To::Fails),
        Test::AtLeast => order(condition, IF_AT_LEAST, To::Holds, To::Fails),
        Test::AtMost => order(condition, IF_GREATER, To::Fails, To::Holds),
        Test::Less => order(condition, IF_AT_LEAST, To::Fails, To::Holds),
    }
}

/// `yes` if the argument is above the value, or if `last` holds of the low halves of equal high ones.
fn order(condition: &Condition, last: u16, yes: To, no: To) -> Vec<Draft> {
    let (high, low) = halves(condition.argument);
    let [value_high, value_low] = split(condition.value);
    vec![
        (LOAD, To::On, To::On, high),
        (IF_GREATER, yes, To::On, value_high),
        (IF_EQUAL, To::On, no, value_high),
        (LOAD, To::On, To::On, low),
        (last, yes, no, value_low),
    ]
}

/// Offsets of the high and the low half of an argument.
fn halves(argument: u8) -> (u32, u32) {
    let first = ARGUMENTS + 8 * u32::from(argument);
    if cfg!(target_endian = "little") {
        (first + 4, first)
    } else {
        (first, first + 4)
    }
}

fn split(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}
