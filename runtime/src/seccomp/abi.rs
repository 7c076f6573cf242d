//! The ways into the kernel that a filter can meet: a machine's own and those of its 32-bit siblings.

use oci_spec::runtime::{Arch, LinuxSeccomp};

/// A kind of machine that containers of ours can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86_64, which may also run x86 and x32 programs.
    X86_64,
    /// aarch64, which may also run arm programs.
    Aarch64,
}

impl Machine {
    /// The machine that this program was built for.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Machine = Machine::X86_64;
    /// The machine that this program was built for.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Machine = Machine::Aarch64;

    pub(super) fn own(self) -> Abi {
        match self {
            Machine::X86_64 => Abi::X86_64,
            Machine::Aarch64 => Abi::Aarch64,
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("system call numbers of this architecture are not in the table yet");

/// A calling convention: a numbering of the calls and a width of their arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Abi {
    /// AUDIT_ARCH_* (linux/audit.h), which the kernel puts beside the number.
    pub(super) fn audit(self) -> u32 {
        match self {
            Abi::X86_64 | Abi::X32 => 0xc000_003e,
            Abi::X86 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
        }
    }

    /// The first number: x32 shares its audit value with x86_64 and sets a bit in the number (asm/unistd.h).
    pub(super) fn first(self) -> u32 {
        match self {
            Abi::X32 => X32_BIT,
            _ => 0,
        }
    }

    /// Whether conditions look at the lower half of an argument only. A 32-bit program has no upper half, and
    /// a profile's -1 is written with 64 bits. (x32: libseccomp does the same.)
    pub(super) fn is_narrow(self) -> bool {
        !matches!(self, Abi::X86_64 | Abi::Aarch64)
    }
}

/// `__X32_SYSCALL_BIT`
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// What the profile's rules are compiled for: the machine's own ABI always, and of the listed architectures
/// those that a kernel of this machine can be entered through. No call ever arrives through any other, so that
/// code for it would only make the filter longer: it is passed over.
pub(super) fn abis(machine: Machine, profile: &LinuxSeccomp) -> Vec<Abi> {
    let siblings: &[(Arch, Abi)] = match machine {
        Machine::X86_64 => &[(Arch::ScmpArchX86, Abi::X86), (Arch::ScmpArchX32, Abi::X32)],
        Machine::Aarch64 => &[(Arch::ScmpArchArm, Abi::Arm)],
    };
    let listed = profile.architectures().as_deref().unwrap_or_default();
    let siblings = siblings.iter().filter(|(arch, _)| listed.contains(arch));
    std::iter::once(machine.own())
        .chain(siblings.map(|(_, abi)| *abi))
        .collect()
}
