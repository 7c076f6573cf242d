//! A small machine that runs filters as the kernel does.

use longshore_runtime::seccomp::Filter;

pub(crate) const ALLOW: u32 = 0x7fff_0000;
pub(crate) const ERRNO: u32 = 0x0005_0000;
pub(crate) const ENOSYS: u32 = ERRNO | libc::ENOSYS as u32;
pub(crate) const EPERM: u32 = ERRNO | libc::EPERM as u32;

/// A way into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}
pub(crate) use Abi::*;

pub(crate) const X32_BIT: u32 = 0x4000_0000;
pub(crate) const NATIVE: Abi = if cfg!(target_arch = "x86_64") {
    X86_64
} else {
    Aarch64
};

impl Abi {
    pub(crate) fn audit(self) -> u32 {
        match self {
            X86_64 | X32 => 0xc000_003e,
            X86 => 0x4000_0003,
            Aarch64 => 0xc000_00b7,
            Arm => 0x4000_0028,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            X86_64 => "SCMP_ARCH_X86_64",
            X86 => "SCMP_ARCH_X86",
            X32 => "SCMP_ARCH_X32",
            Aarch64 => "SCMP_ARCH_AARCH64",
            Arm => "SCMP_ARCH_ARM",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) abi: Abi,
    pub(crate) number: u32,
    pub(crate) args: [u64; 6],
}

pub(crate) fn call(number: libc::c_long, args: [u64; 6]) -> Call {
    Call {
        abi: NATIVE,
        number: number as u32,
        args,
    }
}

/// `struct seccomp_data`. A 32-bit program has no upper halves.
pub(crate) fn data(call: &Call) -> Vec<u8> {
    let x32 = if call.abi == X32 { X32_BIT } else { 0 };
    let mut bytes = (call.number | x32).to_le_bytes().to_vec();
    bytes.extend(call.abi.audit().to_le_bytes());
    bytes.extend([0; 8]);
    let narrow = matches!(call.abi, X86 | Arm);
    for arg in call.args {
        let arg = if narrow { arg & 0xffff_ffff } else { arg };
        bytes.extend(arg.to_le_bytes());
    }
    bytes
}

/// Runs a filter as the kernel does, and refuses what the kernel's checker would refuse. Also tells how many
/// instructions it took.
pub(crate) fn run(filter: &Filter, call: &Call) -> (u32, usize) {
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
                a = u32::from_le_bytes(word.try_into().unwrap());
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

pub(crate) fn answer(filter: &Filter, call: &Call) -> u32 {
    run(filter, call).0
}
