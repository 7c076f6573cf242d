//! `longshore inspect`: all that the agent tells about one task.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::place::Which;
use crate::{ps, socket, telling};

/// Show all that the agent knows of one task, as JSON
///
/// A task that has ended can be inspected too, by its whole id: one of the last hundred that ended here since the agent
/// was started. What became of others: aws ecs describe-tasks.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    which: Which,
    /// The task: its ARN, its id, or the beginning of its id
    task: String,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<()> {
        let task = socket::block_on(self.task())?;
        telling::print(&format!("{task:#}\n"))
    }

    async fn task(&self) -> Result<Value> {
        match whole_id(&self.task)? {
            Some(id) => {
                let socket = self.which.instance()?.agent_socket();
                socket::get(&socket, &format!("/v1/tasks?taskarn={id}")).await
            }
            None => Ok(find(&ps::tasks(&self.which).await?, &self.task)?.clone()),
        }
    }
}

/// The id, if it is a whole one: tasks that have ended can be asked for by it.
pub(crate) fn whole_id(wanted: &str) -> Result<Option<&str>> {
    let id = id(wanted)?;
    let whole = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    Ok(whole.then_some(id))
}

/// The id in what a user calls a task: an ARN, an id, or its beginning.
pub(crate) fn id(wanted: &str) -> Result<&str> {
    match wanted.rsplit('/').next() {
        None | Some("") => {
            bail!("find task {wanted:?}: there is no id in it; longshore ps lists the tasks")
        }
        Some(id) => Ok(id),
    }
}

/// No task of this host has that id.
#[derive(Debug)]
pub(crate) struct NotHere(String);

impl std::fmt::Display for NotHere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wanted = &self.0;
        write!(
            f,
            "find task {wanted}: no task that is on this host has an id that begins so; longshore ps lists them, and one \
             that has ended is found by its whole id"
        )
    }
}

impl std::error::Error for NotHere {}

/// The one task that is meant.
pub(crate) fn find<'a>(tasks: &'a Value, wanted: &str) -> Result<&'a Value> {
    let id = id(wanted)?;
    let all = tasks.as_array().into_iter().flatten();
    let mut found = all.filter(|task| ps::short(&task["Arn"]).starts_with(id));
    match (found.next(), found.next()) {
        (Some(task), None) => Ok(task),
        (None, _) => Err(NotHere(wanted.to_owned()).into()),
        (Some(_), Some(_)) => {
            bail!("find task {wanted}: more than one begins so; give more of the id")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_task_is_found_by_arn_id_or_beginning() {
        let tasks = json!([{"Arn": "arn:x:task/default/abc1"}, {"Arn": "arn:x:task/default/abd2"}]);
        for wanted in ["arn:x:task/default/abc1", "abc1", "abc"] {
            assert_eq!(find(&tasks, wanted).unwrap(), &tasks[0], "{wanted}");
        }
        assert!(
            find(&tasks, "ab")
                .unwrap_err()
                .to_string()
                .contains("more than one")
        );
        for nothing in ["", "arn:x:task/default/"] {
            let error = find(&tasks, nothing).unwrap_err().to_string();
            assert!(error.contains("there is no id in it"), "{error}");
        }
        assert!(
            find(&tasks, "x")
                .unwrap_err()
                .to_string()
                .contains("longshore ps")
        );
    }
}
