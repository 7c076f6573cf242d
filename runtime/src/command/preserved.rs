//! `--preserve-fds` and sd_listen_fds(3): descriptors of the caller's that reach the program, and no others.
//!
//! One that is not open is no error: podman counts the sockets of an activation that its own caller announced, whether
//! they are there or not. Its number stays free in the program.

use longshore_sys::Preserved;

use super::global::Globals;
use super::options::{Given, Opt};
use crate::StepError;
use crate::error::Context;
use crate::plan::Plan;

pub(super) const OPTION: Opt = Opt::value(
    "preserve-fds",
    "COUNT",
    "Give the program so many of the caller's descriptors, from 3 on.",
);

/// A socket activation by systemd, if this process is meant by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Activation {
    count: u32,
    names: Option<String>,
}

impl Activation {
    /// From LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES.
    pub(super) fn of_environment() -> Result<Option<Activation>, StepError> {
        let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (Some(count), pid) = (value("LISTEN_FDS"), value("LISTEN_PID")) else {
            return Ok(None);
        };
        Activation::read(
            &count,
            pid.as_deref(),
            value("LISTEN_FDNAMES"),
            std::process::id(),
        )
    }

    /// A variable that was meant for another process, an ancestor, says nothing of this one's descriptors.
    fn read(
        count: &str,
        pid: Option<&str>,
        names: Option<String>,
        own: u32,
    ) -> Result<Option<Activation>, StepError> {
        if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
            return Ok(None);
        }
        let count = count.parse().map_err(|_| {
            StepError::refused("read", "LISTEN_FDS", format!("{count:?} is not a number"))
        })?;
        Ok((count > 0).then_some(Activation { count, names }))
    }

    /// Tells the program.
    pub(super) fn announce(self, plan: &mut Plan) {
        plan.listen(self.count, self.names);
    }
}

/// The descriptors that the activation and `--preserve-fds` name. No program that this one starts meanwhile, a hook,
/// gets any.
pub(super) fn take(
    globals: &Globals,
    given: &Given,
    activation: Option<&Activation>,
) -> Result<Vec<Preserved>, StepError> {
    let asked = given.parsed::<u32>("preserve-fds", "a number of descriptors")?;
    let asked = asked.unwrap_or(0);
    let count = asked.saturating_add(activation.map_or(0, |activation| activation.count));
    let all = || format!("3 to {}", u64::from(count) + 2);
    let taken = longshore_sys::duplicate_inherited(count).context("preserve descriptors", all())?;
    longshore_sys::close_all_on_exec().context("close on exec", "descriptors")?;
    let missing = (count as usize).saturating_sub(taken.len());
    if missing > 0 {
        globals.log.warning(&format!(
            "preserve descriptors {}: {missing} of them are not open, and will not be in the container; open them or \
             preserve fewer",
            all()
        ));
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_activation_is_for_one_process() {
        let read = |count: &str, pid: Option<&str>| Activation::read(count, pid, None, 7);
        let two = Activation {
            count: 2,
            names: None,
        };
        assert_eq!(read("2", Some("7")).unwrap(), Some(two.clone()));
        assert_eq!(read("2", None).unwrap(), Some(two));
        assert_eq!(read("2", Some("8")).unwrap(), None);
        assert_eq!(read("2", Some("x")).unwrap(), None);
        assert_eq!(read("0", Some("7")).unwrap(), None);
        assert!(read("-1", Some("7")).is_err());
        assert!(read("two", None).is_err());
    }
}
