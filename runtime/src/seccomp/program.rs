//! Classic BPF as seccomp(2) takes it: instructions, the decision tree over call numbers, argument checks.
//!
//! BPF jumps only forward, so a program is written from its end: whatever a jump leads to stands already, its
//! distance is known, and one `ret` serves every jump that reaches it.

use super::rules::{Condition, Outcome, Rule, Section, Test};

/// (code, jt, jf, k), as in `struct sock_filter`.
pub(super) type Instruction = (u16, u8, u8, u32);

// linux/filter.h, linux/bpf_common.h
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(super) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// A conditional jump skips this many instructions at most.
const REACH: usize = 255;

/// Each section decides the calls of its architecture; those of any other get `foreign`. Whoever jumps into the
/// middle of a program that is too long finds its length checked by the caller.
pub(super) fn program(sections: &[Section], foreign: u32) -> Vec<Instruction> {
    let mut draft = Draft::default();
    let mut otherwise = draft.returns(foreign);
    // The machine's own section is the first to be asked for, and thus the last to be written.
    for section in sections.iter().rev() {
        let tree = draft.tree(&section.segments);
        let body = draft.push((LOAD, 0, 0, NUMBER), tree);
        otherwise = draft.branch(IF_EQUAL, section.audit, body, otherwise);
    }
    draft.push((LOAD, 0, 0, ARCHITECTURE), otherwise);
    draft.finish()
}

/// A place in a draft: how many instructions stand behind it.
type Place = usize;

/// A program with its last instruction first.
#[derive(Debug, Default)]
struct Draft {
    code: Vec<Instruction>,
    /// The latest `ret` of each action.
    returns: Vec<(u32, Place)>,
}

impl Draft {
    fn finish(mut self) -> Vec<Instruction> {
        self.code.reverse();
        self.code
    }

    /// An instruction that goes on with `next`.
    fn push(&mut self, instruction: Instruction, next: Place) -> Place {
        if self.code.len() != next + 1 {
            self.jump(next);
        }
        self.code.push(instruction);
        self.code.len() - 1
    }

    fn jump(&mut self, to: Place) -> Place {
        // A program is far shorter than 2^32: its length is checked before it is used.
        let distance = (self.code.len() - to - 1) as u32;
        self.code.push((JUMP, 0, 0, distance));
        self.code.len() - 1
    }

    /// `ret`, the latest one if a jump reaches it from here.
    fn returns(&mut self, action: u32) -> Place {
        let length = self.code.len();
        let known = self.returns.iter_mut().find(|(have, _)| *have == action);
        match known {
            Some((_, at)) if length - *at < REACH => return *at,
            Some((_, at)) => *at = length,
            None => self.returns.push((action, length)),
        }
        self.code.push((RETURN, 0, 0, action));
        length
    }

    fn branch(&mut self, test: u16, value: u32, yes: Place, no: Place) -> Place {
        if yes == no {
            return yes;
        }
        // One less than it may be: bringing `no` near moves `yes` away by one.
        let yes = self.near(yes, REACH - 1);
        let no = self.near(no, REACH);
        let length = self.code.len();
        // Both are within REACH now.
        let distance = |to: Place| (length - to - 1) as u8;
        self.code.push((test, distance(yes), distance(no), value));
        length
    }

    /// The place itself, or a jump to it if it is out of reach of the instruction that comes next.
    fn near(&mut self, place: Place, reach: usize) -> Place {
        if self.code.len() - place - 1 <= reach {
            place
        } else {
            self.jump(place)
        }
    }

    /// A balanced binary tree over segments of call numbers: each begins at its number and ends before the
    /// next one's; the first begins at 0. The number is loaded.
    fn tree(&mut self, segments: &[(u32, Outcome)]) -> Place {
        if let [(_, outcome)] = segments {
            return self.outcome(outcome);
        }
        let (left, right) = segments.split_at(segments.len() / 2);
        let start = right[0].0;
        let right = self.tree(right);
        let left = self.tree(left);
        self.branch(IF_AT_LEAST, start, right, left)
    }

    /// The first rule that holds decides.
    fn outcome(&mut self, outcome: &Outcome) -> Place {
        let mut otherwise = self.returns(outcome.otherwise);
        for rule in outcome.rules.iter().rev() {
            otherwise = self.rule(rule, otherwise);
        }
        otherwise
    }

    fn rule(&mut self, rule: &Rule, fails: Place) -> Place {
        let mut holds = self.returns(rule.action);
        for condition in rule.conditions.iter().rev() {
            holds = self.condition(condition, holds, fails);
        }
        holds
    }

    /// Arguments are 64 bits wide and BPF words 32, so the upper half decides first, then the lower half.
    fn condition(&mut self, condition: &Condition, holds: Place, fails: Place) -> Place {
        match condition.test {
            Test::Equal => self.same(condition, u64::MAX, holds, fails),
            Test::NotEqual => self.same(condition, u64::MAX, fails, holds),
            Test::Masked(mask) => self.same(condition, mask, holds, fails),
            Test::Greater => self.order(condition, IF_GREATER, holds, fails),
            Test::AtLeast => self.order(condition, IF_AT_LEAST, holds, fails),
            Test::AtMost => self.order(condition, IF_GREATER, fails, holds),
            Test::Less => self.order(condition, IF_AT_LEAST, fails, holds),
        }
    }

    /// Whether the argument and the value agree in the bits of the mask.
    fn same(&mut self, condition: &Condition, mask: u64, yes: Place, no: Place) -> Place {
        let (high, low) = halves(condition.argument);
        let [mask_high, mask_low] = split(mask);
        let [value_high, value_low] = split(condition.value);
        let equal = self.same_half(low, mask_low, value_low, yes, no);
        if condition.narrow {
            return equal;
        }
        self.same_half(high, mask_high, value_high, equal, no)
    }

    fn same_half(&mut self, word: u32, mask: u32, value: u32, yes: Place, no: Place) -> Place {
        if mask == 0 {
            return yes;
        }
        let mut at = self.branch(IF_EQUAL, value & mask, yes, no);
        if mask != u32::MAX {
            at = self.push((AND, 0, 0, mask), at);
        }
        self.push((LOAD, 0, 0, word), at)
    }

    /// `yes` if the argument is above the value, or if `last` holds of the lower halves of equal upper ones.
    fn order(&mut self, condition: &Condition, last: u16, yes: Place, no: Place) -> Place {
        let (high, low) = halves(condition.argument);
        let [value_high, value_low] = split(condition.value);
        let at = self.branch(last, value_low, yes, no);
        let lower = self.push((LOAD, 0, 0, low), at);
        if condition.narrow {
            return lower;
        }
        let at = self.branch(IF_EQUAL, value_high, lower, no);
        let at = self.branch(IF_GREATER, value_high, yes, at);
        self.push((LOAD, 0, 0, high), at)
    }
}

/// Offsets of the upper and the lower half of an argument; every machine here is little-endian.
fn halves(argument: u8) -> (u32, u32) {
    let first = ARGUMENTS + 8 * u32::from(argument);
    (first + 4, first)
}

fn split(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}
