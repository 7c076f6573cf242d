//! Names of things: ARNs written, and read back from whatever form a caller uses.

use crate::model::{Container, Task};

/// Writes and reads the ARNs of one region and account.
#[derive(Clone, Debug)]
pub struct Arns {
    /// Region.
    pub region: String,
    /// Account, 12 digits.
    pub account: String,
}

/// What a caller called something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// The cluster, where an ARN named one.
    pub cluster: Option<&'a str>,
    /// Name, short id, or `family:revision`.
    pub name: &'a str,
}

impl Arns {
    fn arn(&self, resource: &str) -> String {
        format!("arn:aws:ecs:{}:{}:{resource}", self.region, self.account)
    }

    /// A cluster's.
    #[must_use]
    pub fn cluster(&self, name: &str) -> String {
        self.arn(&format!("cluster/{name}"))
    }

    /// A revision's.
    #[must_use]
    pub fn task_definition(&self, family: &str, revision: u32) -> String {
        self.arn(&format!("task-definition/{family}:{revision}"))
    }

    /// A task's.
    #[must_use]
    pub fn task(&self, cluster: &str, id: &str) -> String {
        self.arn(&format!("task/{cluster}/{id}"))
    }

    /// A container instance's.
    #[must_use]
    pub fn instance(&self, cluster: &str, id: &str) -> String {
        self.arn(&format!("container-instance/{cluster}/{id}"))
    }

    /// A container's.
    #[must_use]
    pub fn container(&self, task: &Task, container: &Container) -> String {
        self.arn(&format!(
            "container/{}/{}/{}",
            task.cluster, task.id, container.uuid
        ))
    }

    /// Who acts: the account itself, as long as there are no users.
    #[must_use]
    pub fn principal(&self) -> String {
        format!("arn:aws:iam::{}:root", self.account)
    }

    /// Reads a name, a short id or an ARN of this region and account; none: an ARN of something else.
    /// `kind` is `cluster`, `task`, ...
    #[must_use]
    pub fn read<'a>(&self, kind: &str, text: &'a str) -> Option<Reference<'a>> {
        if !text.starts_with("arn:") {
            return Some(Reference {
                cluster: None,
                name: text,
            });
        }
        let resource = text.strip_prefix(&self.arn(&format!("{kind}/")))?;
        let (cluster, name) = match resource.split_once('/') {
            None => (None, resource),
            Some((cluster, name)) => (Some(cluster), name),
        };
        Some(Reference { cluster, name })
    }
}

/// Whether this is an id as tasks and instances have them: 32 lowercase hex digits.
pub(super) fn is_id(text: &str) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == 32 && text.bytes().all(digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ids_and_arns_mean_the_same() {
        let arns = Arns {
            region: "us-east-1".into(),
            account: "000000000000".into(),
        };
        let task = arns.task("c", "abc");
        assert_eq!(task, "arn:aws:ecs:us-east-1:000000000000:task/c/abc");
        let by = |cluster| {
            Some(Reference {
                cluster,
                name: "abc",
            })
        };
        assert_eq!(arns.read("task", &task), by(Some("c")));
        assert_eq!(arns.read("task", "abc"), by(None));
        let old = "arn:aws:ecs:us-east-1:000000000000:task/abc";
        assert_eq!(arns.read("task", old), by(None));
        assert_eq!(arns.read("cluster", &task), None);
        assert_eq!(
            arns.read("task", &task.replace("us-east-1", "eu-west-1")),
            None
        );
        assert_eq!(arns.read("task", "arn:"), None);
    }
}
