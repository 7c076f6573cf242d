//! Seccomp profiles compiled to BPF, without libseccomp.
//!
//! Pure: nothing here calls the kernel. The same profile always gives the same filter.
//!
//!   profile ──▶ rules: number -> outcome, for each ABI ──▶ program: tree of comparisons ──▶ Filter
//!
//! Calls through the entry of an architecture that the profile does not list (32-bit programs; x32 on x86_64) get
//! ENOSYS, whatever the profile says of them. Deliberately absent: a cache of compiled filters; compiling costs less than
//! finding, reading and checking one would (the figures are with the decision, docs/decisions/0001).

use std::path::PathBuf;

use oci_spec::runtime::LinuxSeccomp;

use crate::StepError;

mod abi;
mod default;
mod program;
mod rules;
mod syscalls;

pub use abi::Machine;
pub use default::default_profile;

/// BPF_MAXINSNS: the kernel takes no longer program.
const MAX_INSTRUCTIONS: usize = 4096;

// SECCOMP_RET_* (linux/seccomp.h)
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

/// The answer to calls that do not exist for this process.
const NO_SUCH_CALL: u32 = ERRNO | libc::ENOSYS as u32;

// SECCOMP_FILTER_FLAG_* (linux/seccomp.h)
const TSYNC: u32 = 1;
const LOG_FLAG: u32 = 2;
const SPEC_ALLOW: u32 = 4;
const NEW_LISTENER: u32 = 8;
const TSYNC_ESRCH: u32 = 16;
const WAIT_KILLABLE_RECV: u32 = 32;

/// A compiled filter: classic BPF instructions ready for seccomp(2).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Filter {
    /// (code, jt, jf, k) per instruction.
    pub instructions: Vec<(u16, u8, u8, u32)>,
    /// SECCOMP_FILTER_FLAG_* bits.
    pub flags: u32,
    /// Who answers what the filter asks; set if and only if NEW_LISTENER is among the flags.
    pub listener: Option<Listener>,
}

/// Where the descriptor goes that SCMP_ACT_NOTIFY asks through.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Listener {
    /// A Unix stream socket on the host.
    pub path: PathBuf,
    /// What its owner wants to be told with the descriptor.
    pub metadata: Option<String>,
    /// How init gives the descriptor away.
    pub handover: Handover,
}

/// How init gives the listener's descriptor to its parent once the filter is in force.
///
/// A call that the filter asks about waits for an answer, which nobody gives before the descriptor has arrived. So it
/// must be one that the filter lets pass, whatever its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Handover {
    /// sendmsg(2)
    Sendmsg,
    /// sendmmsg(2)
    Sendmmsg,
    /// None at all: the parent takes it by pidfd_getfd(2), for which it needs CAP_SYS_PTRACE.
    Taken,
}

/// Compiles a profile for the machine that this program was built for.
///
/// What several rules for one call mean stands in the module `rules`. Names that are unknown here are passed over,
/// as the specification says.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, StepError> {
    compile_for(Machine::NATIVE, profile)
}

/// Compiles a profile for any machine.
pub fn compile_for(machine: Machine, profile: &LinuxSeccomp) -> Result<Filter, StepError> {
    let sections = rules::sections(profile, &abi::abis(machine, profile))?;
    let instructions = program::program(&sections, NO_SUCH_CALL);
    if instructions.len() > MAX_INSTRUCTIONS {
        let cause = format!(
            "it compiles to {} instructions and the kernel takes {MAX_INSTRUCTIONS}: give it fewer rules \
             with arguments",
            instructions.len()
        );
        return Err(refused("syscalls", cause));
    }
    if profile.listener_metadata().is_some() && profile.listener_path().is_none() {
        let cause = "it goes with listenerPath only; leave it out or say where it is to be sent";
        return Err(refused("listenerMetadata", cause));
    }
    let asks = instructions.contains(&(program::RETURN, 0, 0, NOTIFY));
    let handover = || handover(machine, &sections[0]);
    let listener = asks.then(|| listener(profile, handover())).transpose()?;
    Ok(Filter {
        flags: flags(rules::flags(profile), asks),
        instructions,
        listener,
    })
}

/// The flags that go together: without a listener there is nobody to wait for, and with one TSYNC must report its
/// failure by errno (seccomp(2)).
fn flags(given: u32, asks: bool) -> u32 {
    match asks {
        false => given & !WAIT_KILLABLE_RECV,
        true if given & TSYNC != 0 => given | NEW_LISTENER | TSYNC_ESRCH,
        true => given | NEW_LISTENER,
    }
}

fn handover(machine: Machine, own: &rules::Section) -> Handover {
    let passes = |name: &&str| {
        let number = syscalls::numbers(name).and_then(|numbers| numbers.on(machine.own()));
        let outcome = number.and_then(|number| own.outcome(number));
        outcome.is_some_and(|outcome| {
            outcome.rules.is_empty() && [ALLOW, LOG].contains(&outcome.otherwise)
        })
    };
    match ["sendmsg", "sendmmsg"].iter().position(passes) {
        Some(0) => Handover::Sendmsg,
        Some(_) => Handover::Sendmmsg,
        None => Handover::Taken,
    }
}

fn listener(profile: &LinuxSeccomp, handover: Handover) -> Result<Listener, StepError> {
    let path = profile.listener_path().as_ref();
    let path = path.filter(|path| !path.as_os_str().is_empty());
    let path = path.ok_or_else(|| {
        let cause = "SCMP_ACT_NOTIFY needs the path of a socket where its questions are answered";
        refused("listenerPath", cause)
    })?;
    Ok(Listener {
        path: path.clone(),
        metadata: profile.listener_metadata().clone(),
        handover,
    })
}

/// Why the kernel refused a filter that asks.
pub(crate) fn explain(filter: &Filter, errno: rustix::io::Errno) -> StepError {
    let error = StepError::io("load", "seccomp filter", errno);
    if errno == rustix::io::Errno::INVAL && filter.flags & WAIT_KILLABLE_RECV != 0 {
        let cause = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs Linux 5.19; leave it out".into();
        return StepError { cause, ..error };
    }
    error
}

fn refused(subject: impl Into<String>, cause: impl Into<String>) -> StepError {
    StepError {
        step: "compile seccomp profile".to_owned(),
        subject: subject.into(),
        errno: None,
        cause: cause.into(),
    }
}
