//! The six lists of hooks as data, and the rules that need no look at the host.
//!
//! Source: runtime-spec config.md "POSIX-platform Hooks". Where each list runs is the planner's affair for those
//! that init runs, and the commands' for the others.

use std::fmt;
use std::path::PathBuf;

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use super::step::Environment;
use crate::StepError;

/// When a list of hooks runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookKind {
    /// In the runtime's namespaces, once the container's are there. Deprecated, and in use.
    Prestart,
    /// In the runtime's namespaces, after the former.
    CreateRuntime,
    /// In the container's namespaces, the program of the runtime's file system, before the root is changed.
    CreateContainer,
    /// In the container, by `start`, before its program is executed.
    StartContainer,
    /// In the runtime's namespaces, once the program runs.
    Poststart,
    /// In the runtime's namespaces, once the container is gone.
    Poststop,
}

impl HookKind {
    /// The container's status at that time, as the OCI text names it. For `prestart` the text would have
    /// `creating`; hooks of its time know that they are called when all is created, and expect to hear so.
    pub(crate) fn status(self) -> &'static str {
        match self {
            HookKind::CreateRuntime | HookKind::CreateContainer => "creating",
            HookKind::Prestart | HookKind::StartContainer => "created",
            HookKind::Poststart => "running",
            HookKind::Poststop => "stopped",
        }
    }
}

impl fmt::Display for HookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HookKind::Prestart => "prestart",
            HookKind::CreateRuntime => "createRuntime",
            HookKind::CreateContainer => "createContainer",
            HookKind::StartContainer => "startContainer",
            HookKind::Poststart => "poststart",
            HookKind::Poststop => "poststop",
        })
    }
}

/// One program to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute.
    pub path: PathBuf,
    /// argv; never empty.
    pub args: Vec<String>,
    /// All of its environment.
    pub environment: Environment,
    /// Seconds after which it is killed.
    pub timeout: Option<u64>,
}

/// The hooks of a container that its parent runs, in their order. Those that init runs are steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// [`HookKind::Prestart`]
    pub prestart: Vec<Hook>,
    /// [`HookKind::CreateRuntime`]
    pub create_runtime: Vec<Hook>,
    /// [`HookKind::Poststart`]
    pub poststart: Vec<Hook>,
    /// [`HookKind::Poststop`]
    pub poststop: Vec<Hook>,
}

impl Hooks {
    /// Whether there is one that runs before the root is changed.
    pub(super) fn of_creation(&self) -> bool {
        !self.prestart.is_empty() || !self.create_runtime.is_empty()
    }

    /// Each list with its kind.
    pub fn lists(&self) -> [(HookKind, &[Hook]); 4] {
        [
            (HookKind::Prestart, &self.prestart),
            (HookKind::CreateRuntime, &self.create_runtime),
            (HookKind::Poststart, &self.poststart),
            (HookKind::Poststop, &self.poststop),
        ]
    }
}

/// Every hook of a spec.
#[derive(Debug, Default)]
pub(super) struct AllHooks {
    pub(super) by_parent: Hooks,
    pub(super) create_container: Vec<Hook>,
    pub(super) start_container: Vec<Hook>,
}

/// `process` is the environment of the container's program: a `startContainer` hook that names no environment of
/// its own has that one, since it is run where the program will be.
#[allow(deprecated)] // prestart is deprecated in the spec and still may be given.
pub(super) fn of(hooks: Option<&oci::Hooks>, process: &[String]) -> Result<AllHooks, StepError> {
    let Some(hooks) = hooks else {
        return Ok(AllHooks::default());
    };
    let none: &[String] = &[];
    let list = |kind, list: &Option<Vec<oci::Hook>>, default: &[String]| {
        let read = |(index, hook)| read(kind, index, hook, default);
        list.iter()
            .flatten()
            .enumerate()
            .map(read)
            .collect::<Result<Vec<Hook>, StepError>>()
    };
    Ok(AllHooks {
        by_parent: Hooks {
            prestart: list(HookKind::Prestart, hooks.prestart(), none)?,
            create_runtime: list(HookKind::CreateRuntime, hooks.create_runtime(), none)?,
            poststart: list(HookKind::Poststart, hooks.poststart(), none)?,
            poststop: list(HookKind::Poststop, hooks.poststop(), none)?,
        },
        create_container: list(HookKind::CreateContainer, hooks.create_container(), none)?,
        start_container: list(HookKind::StartContainer, hooks.start_container(), process)?,
    })
}

fn read(
    kind: HookKind,
    index: usize,
    hook: &oci::Hook,
    default: &[String],
) -> Result<Hook, StepError> {
    let place = format!("hooks.{kind}[{index}]");
    let refused = |field: &str, cause: &str| {
        Err(StepError::refused(
            "plan hook",
            format!("{place}.{field}"),
            cause,
        ))
    };
    let Some(path) = hook.path().to_str().filter(|path| path.starts_with('/')) else {
        return refused("path", "it must be an absolute path");
    };
    let mut args = hook.args().clone().unwrap_or_default();
    if args.is_empty() {
        args.push(path.to_owned());
    }
    if path.contains('\0') || args.iter().any(|arg| arg.contains('\0')) {
        return refused("args", "a path or argument holds a NUL byte");
    }
    let environment = hook.env().as_deref().unwrap_or(default);
    let sound = |entry: &String| {
        !entry.contains('\0')
            && entry
                .split_once('=')
                .is_some_and(|(name, _)| !name.is_empty())
    };
    if !environment.iter().all(sound) {
        return refused("env", "an entry must read NAME=value and hold no NUL byte");
    }
    let environment = Environment(environment.to_vec());
    let timeout = match hook.timeout() {
        None => None,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Some(seconds),
            _ => return refused("timeout", "it must be greater than zero"),
        },
    };
    let path = PathBuf::from(path);
    Ok(Hook {
        path,
        args,
        environment,
        timeout,
    })
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.environment.names().collect();
        write!(
            f,
            "{} {:?} with [{}]",
            self.path.display(),
            self.args,
            names.join(" ")
        )?;
        match self.timeout {
            Some(seconds) => write!(f, ", {seconds} s at most"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn hooks(hooks: Value) -> Result<AllHooks, StepError> {
        let hooks: oci::Hooks = serde_json::from_value(hooks).unwrap();
        of(Some(&hooks), &["PATH=/bin".into(), "TOKEN=hunter2".into()])
    }

    #[test]
    fn a_hook_has_its_own_environment_and_nothing_of_the_runtimes() {
        let all = hooks(json!({
            "prestart": [{"path": "/a"}, {"path": "/b", "args": ["x", "y"], "env": ["K=v", "K=w"], "timeout": 5}],
            "startContainer": [{"path": "/c"}, {"path": "/d", "env": []}],
        }))
        .unwrap();
        let texts: Vec<String> = all
            .by_parent
            .prestart
            .iter()
            .chain(&all.start_container)
            .map(Hook::to_string)
            .collect();
        expect_test::expect![[r#"
            /a ["/a"] with []
            /b ["x", "y"] with [K K], 5 s at most
            /c ["/c"] with [PATH TOKEN]
            /d ["/d"] with []"#]]
        .assert_eq(&texts.join("\n"));
        assert!(!format!("{all:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_wrong_with_a_hook_is_named_by_its_place() {
        for (hook, words) in [
            (
                json!({"path": "a"}),
                "hooks.poststop[1].path: it must be an absolute path",
            ),
            (json!({"path": ""}), "absolute"),
            (json!({"path": "/a\0"}), "NUL"),
            (json!({"path": "/a", "args": ["\0"]}), "NUL"),
            (
                json!({"path": "/a", "env": ["hunter2"]}),
                "hooks.poststop[1].env",
            ),
            (json!({"path": "/a", "env": ["=hunter2"]}), "NAME=value"),
            (json!({"path": "/a", "timeout": 0}), "greater than zero"),
            (json!({"path": "/a", "timeout": -1}), "greater than zero"),
        ] {
            let refusal = hooks(json!({"poststop": [{"path": "/good"}, hook]}))
                .unwrap_err()
                .to_string();
            assert!(
                refusal.contains(words) && !refusal.contains("hunter2"),
                "{refusal}"
            );
        }
    }
}
