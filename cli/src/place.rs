//! The arguments that name an instance, and where its parts are on this machine.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use longshore_agent::Instance;

/// The instance where none is named.
const DEFAULT_INSTANCE: &str = "default";

/// Which instance a verb is about.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Name of the instance; several can share a machine
    #[arg(
        long,
        default_value = DEFAULT_INSTANCE,
        value_name = "NAME",
        env = "LONGSHORE_INSTANCE"
    )]
    instance: String,
}

/// Which instance, and where its lasting state is.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    #[command(flatten)]
    which: Which,
    /// Where its lasting state is: images, logs, journal, keys [default: /var/lib/longshore[-NAME]]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl Which {
    /// The instance.
    pub(crate) fn instance(&self) -> Result<Instance> {
        Ok(Instance::named(&self.instance)?)
    }
}

impl Place {
    /// The instance, with its state where the operator wants it.
    pub(crate) fn instance(&self) -> Result<Instance> {
        let instance = self.which.instance()?;
        Ok(match &self.state_dir {
            Some(dir) => instance.with_state_root(absolute(dir)?),
            None => instance,
        })
    }
}

impl Place {
    /// The options of a command line that name this place; nothing where it is the default one.
    pub(crate) fn words(&self) -> Result<Vec<String>> {
        let mut words = Vec::new();
        if self.which.instance != DEFAULT_INSTANCE {
            words.extend(["--instance".to_owned(), self.which.instance.clone()]);
        }
        if let Some(dir) = &self.state_dir {
            words.extend([
                "--state-dir".to_owned(),
                absolute(dir)?.display().to_string(),
            ]);
        }
        Ok(words)
    }
}

/// A daemon outlives the folder that it was started in.
fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).with_context(|| format!("resolve --state-dir {}", dir.display()))
}

/// The file that says whose a state root is. `--reset` removes no folder without it.
const MARK: &str = "instance";

/// Makes the instance's roots, or takes them over if they are this instance's already.
///
/// A state root that holds anything else is refused: `--state-dir` may be mistyped, and `--reset` removes
/// what it names.
pub(crate) fn claim(instance: &Instance) -> Result<Claim> {
    let root = instance.state_root();
    let claim = match owner(root)? {
        Owner::Nobody => Claim::New(root.to_owned(), instance.run_root().to_owned()),
        Owner::Instance(name) if name == instance.name() => Claim::Old,
        Owner::Instance(name) => bail!(
            "use state folder {}: it is instance {name:?}'s",
            root.display()
        ),
        Owner::SomeoneElse => {
            bail!(
                "use state folder {}: it holds files that are not Longshore's; name an empty one",
                root.display()
            )
        }
    };
    instance.make_roots()?;
    let mark = root.join(MARK);
    std::fs::write(&mark, instance.name()).with_context(|| format!("write {}", mark.display()))?;
    Ok(claim)
}

/// What [`claim`] did.
#[derive(Debug)]
pub(crate) enum Claim {
    /// The state root was nobody's before; and the run root.
    New(PathBuf, PathBuf),
    /// It was this instance's already.
    Old,
}

impl Claim {
    /// Gives the roots up again if they were made now and nothing has come into them: for a start that failed.
    pub(crate) fn give_up_if_unused(self) {
        let Claim::New(state, run) = self else {
            return;
        };
        // A folder with something in it is not removed, and need not be.
        let _run = std::fs::remove_dir(run);
        let only_the_mark = std::fs::read_dir(&state).is_ok_and(|found| found.count() == 1);
        if only_the_mark && std::fs::remove_file(state.join(MARK)).is_ok() {
            let _state = std::fs::remove_dir(state);
        }
    }
}

/// Refuses a state root that is not this instance's to remove.
pub(crate) fn need_own(instance: &Instance) -> Result<()> {
    let root = instance.state_root();
    match owner(root)? {
        Owner::Nobody => Ok(()),
        Owner::Instance(name) if name == instance.name() => Ok(()),
        _ => bail!(
            "reset {}: it is not a state folder of instance {:?}",
            root.display(),
            instance.name()
        ),
    }
}

enum Owner {
    Nobody,
    Instance(String),
    SomeoneElse,
}

fn owner(root: &Path) -> Result<Owner> {
    let step = || format!("look at state folder {}", root.display());
    let mut entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Owner::Nobody),
        entries => entries.with_context(step)?,
    };
    if entries.next().is_none() {
        return Ok(Owner::Nobody);
    }
    match std::fs::read_to_string(root.join(MARK)) {
        Ok(name) => Ok(Owner::Instance(name)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Owner::SomeoneElse),
        Err(error) => Err(error).with_context(step),
    }
}

/// The `longshore-runtime` binary: as told, beside this program, or where packages put it.
pub(crate) fn runtime_binary(told: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = told {
        return match path.is_file() {
            true => Ok(path.to_owned()),
            false => bail!(
                "find longshore-runtime: --runtime {} is no file",
                path.display()
            ),
        };
    }
    let own = std::env::current_exe().context("find this program's own path")?;
    let places = candidates(&own);
    let found = places.iter().find(|path| path.is_file());
    found.cloned().with_context(|| {
        let places: Vec<_> = places
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        format!(
            "find longshore-runtime: it is not at {}; install it there or name it with --runtime",
            places.join(", ")
        )
    })
}

fn candidates(own: &Path) -> Vec<PathBuf> {
    let beside = own.with_file_name("longshore-runtime");
    let packaged = ["/usr/local/libexec/longshore", "/usr/libexec/longshore"];
    let packaged = packaged.map(|dir| Path::new(dir).join("longshore-runtime"));
    std::iter::once(beside).chain(packaged).collect()
}

/// Containers need root on this host; without it the first failing system call would be a riddle.
pub(crate) fn need_root(verb: &str) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("start longshore {verb}: it makes namespaces, mounts and cgroups; run it as root");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_is_searched_beside_the_program_first() {
        let places = candidates(Path::new("/opt/ls/longshore"));
        assert_eq!(places[0], Path::new("/opt/ls/longshore-runtime"));
        assert_eq!(places.len(), 3);
    }

    #[test]
    fn a_state_folder_has_one_instance_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("state");
        let named = |name| {
            let instance = Instance::named(name).unwrap();
            instance
                .with_state_root(root.clone())
                .with_run_root(dir.path().join("run"))
        };
        let first = claim(&named("one")).unwrap();
        claim(&named("one")).unwrap().give_up_if_unused();
        assert!(root.exists(), "it was there before");
        first.give_up_if_unused();
        assert!(!root.exists() && !dir.path().join("run").exists());
        let used = claim(&named("one")).unwrap();
        std::fs::write(root.join("journal"), "tasks").unwrap();
        used.give_up_if_unused();
        assert!(root.join("journal").exists());
        need_own(&named("one")).unwrap();
        assert!(
            claim(&named("two"))
                .unwrap_err()
                .to_string()
                .contains("instance \"one\"'s")
        );
        assert!(need_own(&named("two")).is_err());

        std::fs::remove_file(root.join(MARK)).unwrap();
        std::fs::write(root.join("thesis.txt"), "years of work").unwrap();
        assert!(claim(&named("one")).is_err());
        assert!(need_own(&named("one")).is_err());
    }

    #[test]
    fn a_runtime_that_is_not_there_is_named() {
        let error = runtime_binary(Some(Path::new("/nonexistent/rt"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/rt"));
    }
}
