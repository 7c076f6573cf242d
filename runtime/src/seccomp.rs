//! Seccomp profiles compiled to BPF, without libseccomp.

use crate::StepError;
use oci_spec::runtime::LinuxSeccomp;

/// A compiled filter: classic BPF instructions ready for seccomp(2).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Filter {
    /// (code, jt, jf, k) per instruction.
    pub instructions: Vec<(u16, u8, u8, u32)>,
    /// SECCOMP_FILTER_FLAG_* bits.
    pub flags: u32,
}

/// The default profile for a container that holds these capabilities (`CAP_SYS_ADMIN`, ...): some
/// system calls open only with a capability.
pub fn default_profile(_capabilities: &[&str]) -> LinuxSeccomp {
    todo!()
}

/// Compiles a profile for this machine's architecture.
pub fn compile(_profile: &LinuxSeccomp) -> Result<Filter, StepError> {
    todo!()
}
