//! Any seccomp profile: a filter whose jumps stay inside and which ends in a return, or a refusal; the same twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_runtime::seccomp::compile;
use oci_spec::runtime::LinuxSeccomp;

/// Instruction classes of classic BPF, linux/bpf_common.h.
const CLASS: u16 = 0x07;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;
const ALWAYS: u16 = 0x05;

fuzz_target!(|text: &[u8]| {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(text) else { return };
    let Ok(filter) = compile(&profile) else { return };
    assert_eq!(Ok(&filter), compile(&profile).as_ref());
    let length = filter.instructions.len();
    assert!((1..=4096).contains(&length), "{length} instructions");
    assert_eq!(filter.instructions[length - 1].0 & CLASS, RETURN);
    for (at, (code, yes, no, far)) in filter.instructions.iter().enumerate() {
        let reach = match code {
            code if *code == ALWAYS => *far as usize,
            code if code & CLASS == JUMP => usize::from(*yes.max(no)),
            _ => 0,
        };
        assert!(at + 1 + reach < length || code & CLASS == RETURN, "instruction {at} jumps out");
    }
});
