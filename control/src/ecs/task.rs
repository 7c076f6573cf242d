//! DescribeTasks, ListTasks.

use std::ops::ControlFlow;

use serde::Deserialize;
use serde_json::{Value, json};

use super::instance::same_cluster;
use super::page::Paging;
use super::shape::LAUNCH_TYPE;
use super::{Api, Error, arn, input};
use crate::model::{self, Desired, Instance, Stored, Task};
use crate::store::StoreError;

const LAUNCH_TYPES: [&str; 4] = ["EC2", "FARGATE", "EXTERNAL", "MANAGED_INSTANCES"];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Describe {
    cluster: Option<String>,
    tasks: Vec<String>,
    include: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct List {
    cluster: Option<String>,
    container_instance: Option<String>,
    family: Option<String>,
    started_by: Option<String>,
    service_name: Option<String>,
    daemon_name: Option<String>,
    desired_status: Option<String>,
    launch_type: Option<String>,
}

pub(super) fn key(cluster: &str, id: &str) -> String {
    format!("task/{cluster}/{id}")
}

impl Api {
    pub(super) fn describe_tasks(&self, body: &Value) -> Result<Value, Error> {
        let describe: Describe = input::read(body)?;
        let cluster = self.cluster(describe.cluster.as_deref())?.record.name;
        if describe.tasks.is_empty() {
            return Err(Error::parameter("Tasks cannot be empty."));
        }
        input::at_most("tasks", &describe.tasks, 100)?;
        let with_tags = input::includes(&describe.include, "TAGS", &["TAGS"])?;
        let (mut tasks, mut failures) = (Vec::new(), Vec::new());
        for text in &describe.tasks {
            match self.find_task(&cluster, text)? {
                Some(task) if with_tags => tasks.push(self.task_with_tags(&task)?),
                Some(task) => tasks.push(self.task_now(&task)?),
                None => failures.push(self.missing_task(&cluster, text)),
            }
        }
        Ok(json!({"tasks": tasks, "failures": failures}))
    }

    pub(super) fn list_tasks(&self, body: &Value) -> Result<Value, Error> {
        let list: List = input::read(body)?;
        let paging: Paging = input::read(body)?;
        let cluster = self.cluster(list.cluster.as_deref())?.record.name;
        if list.service_name.is_some() {
            return Err(Error::new("ServiceNotFoundException", "Service not found."));
        }
        if list.daemon_name.is_some() {
            return Err(Error::unsupported("'daemonName'"));
        }
        let wanted = self.filter(&list, &cluster)?;
        let prefix = format!("task/{cluster}/");
        let (mut page, after) = (paging.page()?, paging.after(&prefix)?);
        model::scan(
            self.store(),
            &prefix,
            after.as_deref(),
            |key, found: Stored<Task>| {
                let arn = || self.arns.task(&cluster, &found.record.id);
                if !wanted(&found.record) || page.push(key, arn()) {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        )?;
        Ok(page.answer("taskArns"))
    }

    fn filter(&self, list: &List, cluster: &str) -> Result<impl Fn(&Task) -> bool + use<>, Error> {
        let desired = match list.desired_status.as_deref().unwrap_or("RUNNING") {
            "RUNNING" => Some(Desired::Running),
            "STOPPED" => Some(Desired::Stopped),
            // No task is ever wanted PENDING.
            "PENDING" => None,
            other => {
                return Err(Error::parameter(format!(
                    "Invalid desiredStatus '{other}'. Must be one of [RUNNING, PENDING, STOPPED]."
                )));
            }
        };
        let launch_type = list.launch_type.as_deref().unwrap_or(LAUNCH_TYPE);
        if !LAUNCH_TYPES.contains(&launch_type) {
            return Err(Error::parameter(format!(
                "Invalid launchType '{launch_type}'."
            )));
        }
        let none = launch_type != LAUNCH_TYPE;
        let instance = match &list.container_instance {
            None => None,
            Some(text) => Some(self.find_instance(cluster, text)?.map(|i| i.record.id)),
        };
        let (family, started_by) = (list.family.clone(), list.started_by.clone());
        Ok(move |task: &Task| {
            let is = |wanted: &Option<String>, value: Option<&String>| {
                wanted.is_none() || wanted.as_ref() == value
            };
            !none
                && desired == Some(task.desired_now())
                && is(&family, Some(&task.family))
                && is(&started_by, task.started_by.as_ref())
                && instance
                    .as_ref()
                    .is_none_or(|i| i.as_ref() == Some(&task.instance))
        })
    }

    /// The id of the task that a caller means, whether there is one or not.
    pub(super) fn task_id(&self, cluster: &str, text: &str) -> Result<Option<String>, Error> {
        match self.arns.read("task", text) {
            Some(reference) if arn::is_id(reference.name) => {
                same_cluster(cluster, reference.cluster)?;
                Ok(Some(reference.name.to_owned()))
            }
            _ => Ok(None),
        }
    }

    fn find_task(&self, cluster: &str, text: &str) -> Result<Option<Task>, Error> {
        let Some(id) = self.task_id(cluster, text)? else {
            return Ok(None);
        };
        let found = model::read::<Task>(self.store(), &key(cluster, &id))?;
        Ok(found.map(|stored| stored.record))
    }

    fn task_now(&self, task: &Task) -> Result<Value, StoreError> {
        let at = format!("instance/{}/{}", task.cluster, task.instance);
        let instance = model::read::<Instance>(self.store(), &at)?;
        Ok(self
            .arns
            .task_shape(task, instance.as_ref().map(|i| &i.record)))
    }

    /// The task as it is now, with its tags.
    pub(super) fn task_with_tags(&self, task: &Task) -> Result<Value, StoreError> {
        let mut shape = self.task_now(task)?;
        shape["tags"] = super::cluster::tags(&task.tags);
        Ok(shape)
    }

    fn missing_task(&self, cluster: &str, text: &str) -> Value {
        let arn = match self.arns.read("task", text) {
            Some(reference) => self.arns.task(cluster, reference.name),
            None => text.to_owned(),
        };
        json!({"arn": arn, "reason": "MISSING"})
    }
}
