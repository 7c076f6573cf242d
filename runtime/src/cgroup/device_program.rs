//! The device list as a BPF program for v2, which has no `devices` controller: the kernel runs a program
//! of type BPF_PROG_TYPE_CGROUP_DEVICE at each mknod and open below the group.
//!
//! The rules are tried from the last to the first. Each settles the access bits that it names: one that
//! is denied ends with 0, and when all are allowed the program ends with 1. What no rule settles is denied.

use std::os::fd::AsFd;

use longshore_sys::bpf::{self, Instruction};
use rustix::io::Errno;

use super::devices::{Kind, Rule};
use super::directory::{Directory, failed};
use crate::StepError;

// Opcodes (linux/bpf_common.h, linux/bpf.h).
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const AND: u8 = 0x57; // BPF_ALU64 | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x77; // BPF_ALU64 | BPF_RSH | BPF_K
const MOVE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const MOVE_REGISTER: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const JUMP_IF_NOT: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const JUMP_IF: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

// Registers: the verdict, the context and then scratch, and the parts of the request.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Translates the rules. `struct bpf_cgroup_dev_ctx` is (access << 16 | kind), major, minor: three u32.
pub(super) fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        register(LOAD_WORD, KIND, CONTEXT, 0),
        register(MOVE_REGISTER, ACCESS, KIND, 0),
        immediate(AND, KIND, 0xffff),
        immediate(SHIFT_RIGHT, ACCESS, 16),
        register(LOAD_WORD, MAJOR, CONTEXT, 4),
        register(LOAD_WORD, MINOR, CONTEXT, 8),
    ];
    for rule in rules.iter().rev() {
        program.extend(block(rule));
    }
    program.push(immediate(MOVE, RESULT, 0));
    program.push(immediate(EXIT, 0, 0));
    program
}

/// One rule. Every condition that does not hold jumps behind the block.
fn block(rule: &Rule) -> Vec<Instruction> {
    let kind = rule.kind.map(|kind| match kind {
        Kind::Block => 1, // BPF_DEVCG_DEV_BLOCK
        Kind::Char => 2,  // BPF_DEVCG_DEV_CHAR
    });
    let conditions: Vec<_> = [(KIND, kind), (MAJOR, rule.major), (MINOR, rule.minor)]
        .into_iter()
        .filter_map(|(part, wanted)| Some((part, wanted?)))
        .collect();
    let verdict = verdict(rule);
    let length = conditions.len() + verdict.len();
    let mut block = Vec::with_capacity(length);
    for (at, (part, wanted)) in conditions.into_iter().enumerate() {
        block.push(jump(JUMP_IF_NOT, part, wanted, length - at - 1));
    }
    block.extend(verdict);
    block
}

fn verdict(rule: &Rule) -> Vec<Instruction> {
    let access = i32::from(rule.access);
    match rule.allow {
        // What is allowed is struck from the request; nothing left: granted.
        true => vec![
            immediate(AND, ACCESS, !access),
            jump(JUMP_IF_NOT, ACCESS, 0, 2),
            immediate(MOVE, RESULT, 1),
            immediate(EXIT, 0, 0),
        ],
        false => vec![
            register(MOVE_REGISTER, SCRATCH, ACCESS, 0),
            immediate(AND, SCRATCH, access),
            jump(JUMP_IF, SCRATCH, 0, 2),
            immediate(MOVE, RESULT, 0),
            immediate(EXIT, 0, 0),
        ],
    }
}

fn register(code: u8, to: u8, from: u8, offset: i16) -> Instruction {
    Instruction::new(code, to, from, offset, 0)
}

fn immediate(code: u8, to: u8, value: i32) -> Instruction {
    Instruction::new(code, to, 0, 0, value)
}

/// `distance` is below 10 and device numbers are below 2^20: neither is cut.
fn jump(code: u8, register: u8, value: u32, distance: usize) -> Instruction {
    Instruction::new(code, register, 0, distance as i16, value as i32)
}

/// Puts the program in force on the group in place of what is there. The new one is attached before the
/// old ones go: as long as several are, all of them must agree, so no hole opens on the way.
pub(super) fn attach(group: &Directory, rules: &[Rule]) -> Result<(), StepError> {
    let explain = |step: &str, error: std::io::Error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        failed(step, group.path(), errno, remedy(errno))
    };
    let before = bpf::attached_device_programs(group.fd().as_fd())
        .map_err(|error| explain("list device programs of", error))?;
    let program = bpf::load_device_program(&program(rules))
        .map_err(|error| explain("load device program for", error))?;
    bpf::attach_device_program(group.fd().as_fd(), program.as_fd())
        .map_err(|error| explain("attach device program to", error))?;
    for id in before {
        bpf::detach_device_program(group.fd().as_fd(), id)
            .map_err(|error| explain("detach old device program from", error))?;
    }
    Ok(())
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM => {
            "a device list needs CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN) in the first user \
             namespace, and no ancestor group whose own program forbids others"
        }
        Errno::INVAL | Errno::NOSYS => {
            "a device list needs a kernel with CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::devices::{any_rules, judge};
    use super::*;
    use proptest::prelude::*;

    /// Just enough of the machine to run these programs.
    fn run(program: &[Instruction], context: [u32; 3]) -> u64 {
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let i = program[at];
            at += 1;
            let to = usize::from(i.registers & 15);
            let from = usize::from(i.registers >> 4);
            let value = i64::from(i.immediate) as u64;
            match i.code {
                LOAD_WORD => registers[to] = u64::from(context[i.offset as usize / 4]),
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                MOVE => registers[to] = value,
                MOVE_REGISTER => registers[to] = registers[from],
                JUMP_IF_NOT if registers[to] != value => at += i.offset as usize,
                JUMP_IF if registers[to] == value => at += i.offset as usize,
                JUMP_IF | JUMP_IF_NOT => {}
                EXIT => return registers[0],
                code => panic!("unknown opcode {code:#x}"),
            }
        }
    }

    proptest! {
        #[test]
        fn the_program_says_what_the_rules_say(
            rules in any_rules(), char: bool, major in 0u32..4, minor in 0u32..4, access in 1u8..8,
        ) {
            let (kind, number) = if char { (Kind::Char, 2) } else { (Kind::Block, 1) };
            let context = [u32::from(access) << 16 | number, major, minor];
            let wanted = judge(&rules, kind, major, minor, access);
            prop_assert_eq!(run(&program(&rules), context), u64::from(wanted));
        }
    }
}
