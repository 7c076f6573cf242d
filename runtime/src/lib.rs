//! The OCI runtime: a pure plan, a small init that walks it, and the monitor that is a container's parent.
//!
//! [`container`] is what an agent uses. [`monitor`] is the other side, in a process of its own, and the private
//! module `init` is what the container's first process does before it becomes the user's program.

mod beneath;
pub mod cgroup;
mod classic;
mod clock;
pub mod command;
mod console;
pub mod container;
mod environment;
mod errand;
mod error;
mod foreground;
mod hooks;
mod init;
mod interrupt;
mod kernel_text;
mod launch;
pub mod monitor;
mod network_device;
mod notify;
mod pid_file;
mod pid_namespace;
mod pidfd;
pub mod plan;
mod proc_stat;
mod record;
mod resctrl;
mod rights;
pub mod seccomp;
pub mod spec;
mod state;
mod wire;

pub use error::StepError;
