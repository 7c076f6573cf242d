//! A command's standard input, output and error, as its container gets them.
//!
//! They are passed on as they are, but for the host's null device: through that one a container's root could change
//! its mode and owner for everybody. In its place stands the same device in a mount that is read-only, unless init puts
//! the container's own there before anything of the container runs ([`Step::OwnNull`]).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::StepError;
use crate::error::Context;
use crate::init;
use crate::plan::{Plan, Step};

/// Copies for the init of a plan; one that is closed becomes the null device.
pub(super) fn own(plan: &Plan) -> Result<[OwnedFd; 3], StepError> {
    let replaced = plan.steps.contains(&Step::OwnNull);
    let mut sealed = None;
    let mut pass_on = |standard: BorrowedFd<'_>| {
        let number = standard.as_raw_fd();
        let step = "pass on standard stream";
        let given = match rustix::io::fcntl_dupfd_cloexec(standard, 3) {
            Err(Errno::BADF) => None,
            other => Some(other.context(step, number)?),
        };
        match given {
            None if replaced => open_null(),
            Some(given) if replaced || !init::is_null(given.as_fd()).context(step, number)? => {
                Ok(given)
            }
            null => seal(null, &mut sealed),
        }
    };
    Ok([
        pass_on(rustix::stdio::stdin())?,
        pass_on(rustix::stdio::stdout())?,
        pass_on(rustix::stdio::stderr())?,
    ])
}

fn seal(null: Option<OwnedFd>, sealed: &mut Option<OwnedFd>) -> Result<OwnedFd, StepError> {
    if sealed.is_none() {
        match init::null_device() {
            Ok(device) => *sealed = Some(device),
            // Without the right to seal it there is none to change it either.
            // And before Linux 5.12 there is no way to seal it out here; a /dev of the container's own brings another.
            Err(error)
                if [Errno::PERM, Errno::NOSYS]
                    .map(|errno| Some(errno.raw_os_error()))
                    .contains(&error.errno) =>
            {
                return null.map_or_else(open_null, Ok);
            }
            Err(error) => return Err(error),
        }
    }
    let sealed = sealed.as_ref().expect("made just above");
    sealed.try_clone().context("pass on", "/dev/null")
}

fn open_null() -> Result<OwnedFd, StepError> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context("open", "/dev/null")
}
