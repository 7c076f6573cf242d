//! Seccomp profiles compiled to BPF, without libseccomp.
//!
//! Pure: nothing here calls the kernel. The same profile always gives the same filter, so filters may be
//! cached by the profile's hash.
//!
//!   profile ──▶ rules: number -> outcome ──▶ program: tree of comparisons ──▶ Filter
//!
//! Calls through another architecture's entry (32-bit programs; x32 on x86_64) get ENOSYS, whatever the
//! profile says of them. Deliberately absent: SCMP_ACT_NOTIFY, and compiling for a foreign architecture; both
//! are refused.

use oci_spec::runtime::LinuxSeccomp;

use crate::StepError;

mod default;
mod program;
mod rules;
mod syscalls;

pub use default::default_profile;

/// BPF_MAXINSNS: the kernel takes no longer program.
const MAX_INSTRUCTIONS: usize = 4096;

/// AUDIT_ARCH_* of this machine (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("system call numbers and audit number of this architecture are not known here");

/// A compiled filter: classic BPF instructions ready for seccomp(2).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Filter {
    /// (code, jt, jf, k) per instruction.
    pub instructions: Vec<(u16, u8, u8, u32)>,
    /// SECCOMP_FILTER_FLAG_* bits.
    pub flags: u32,
}

/// Compiles a profile for this machine's architecture.
///
/// Within a call the first rule whose conditions all hold decides. Names that are unknown here are passed
/// over, as the specification says. If the default action is SCMP_ACT_ERRNO, numbers that this runtime does
/// not know get ENOSYS instead, so that programs fall back from calls that are newer.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, StepError> {
    let segments = rules::segments(profile)?;
    let flags = rules::flags(profile)?;
    let body = program::tree(&segments);
    let instructions = program::guarded(ARCHITECTURE, rules::NO_SUCH_CALL, body);
    if instructions.len() > MAX_INSTRUCTIONS {
        let cause = format!(
            "it compiles to {} instructions and the kernel takes {MAX_INSTRUCTIONS}: give it fewer rules \
             with arguments",
            instructions.len()
        );
        return Err(refused("syscalls", cause));
    }
    Ok(Filter {
        instructions,
        flags,
    })
}

fn refused(subject: impl Into<String>, cause: impl Into<String>) -> StepError {
    StepError {
        step: "compile seccomp profile".to_owned(),
        subject: subject.into(),
        errno: None,
        cause: cause.into(),
    }
}
