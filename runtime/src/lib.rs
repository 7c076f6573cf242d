//! The OCI runtime: a pure plan, a small init that walks it, and the monitor that is a container's parent.

pub mod cgroup;
pub mod container;
mod error;
mod init;
pub mod plan;
pub mod seccomp;

pub use error::StepError;
