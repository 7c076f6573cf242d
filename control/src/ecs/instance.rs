//! ListContainerInstances, DescribeContainerInstances.

use std::ops::ControlFlow;

use serde::Deserialize;
use serde_json::{Value, json};

use super::page::Paging;
use super::{Api, Error, arn, input};
use crate::model::{self, Instance, Status, Stored, Task};
use crate::placement::Host;
use crate::store::StoreError;

const STATUSES: [&str; 5] = [
    "ACTIVE",
    "DRAINING",
    "REGISTERING",
    "DEREGISTERING",
    "REGISTRATION_FAILED",
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct List {
    cluster: Option<String>,
    filter: Option<String>,
    status: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Describe {
    cluster: Option<String>,
    container_instances: Vec<String>,
    include: Vec<String>,
}

impl Api {
    pub(super) fn list_container_instances(&self, body: &Value) -> Result<Value, Error> {
        let list: List = input::read(body)?;
        let paging: Paging = input::read(body)?;
        let cluster = self.cluster(list.cluster.as_deref())?.record;
        if list.filter.is_some_and(|filter| !filter.is_empty()) {
            return Err(Error::parameter(
                "'filter' is not supported by this version of Longshore.",
            ));
        }
        let status = list.status.as_deref().unwrap_or("ACTIVE");
        if !STATUSES.contains(&status) {
            return Err(Error::parameter(format!(
                "Invalid status '{status}'. Must be one of [{}].",
                STATUSES.join(", ")
            )));
        }
        let prefix = format!("instance/{}/", cluster.name);
        let (mut page, after) = (paging.page()?, paging.after(&prefix)?);
        if status != "ACTIVE" {
            return Ok(page.answer("containerInstanceArns"));
        }
        model::scan(
            self.store(),
            &prefix,
            after.as_deref(),
            |key, found: Stored<Instance>| {
                let arn = self.arns.instance(&cluster.name, &found.record.id);
                if page.push(key, arn) {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        )?;
        Ok(page.answer("containerInstanceArns"))
    }

    pub(super) fn describe_container_instances(&self, body: &Value) -> Result<Value, Error> {
        let describe: Describe = input::read(body)?;
        let cluster = self.cluster(describe.cluster.as_deref())?.record.name;
        if describe.container_instances.is_empty() {
            return Err(Error::parameter("Container instances cannot be empty."));
        }
        input::at_most("containerInstances", &describe.container_instances, 100)?;
        let known = ["TAGS", "CONTAINER_INSTANCE_HEALTH"];
        input::includes(&describe.include, "TAGS", &known)?;
        let tasks = self.tasks_of(&cluster)?;
        let (mut instances, mut failures) = (Vec::new(), Vec::new());
        for text in &describe.container_instances {
            match self.find_instance(&cluster, text)? {
                Some(found) => instances.push(self.describe_instance(found.record, &tasks)),
                None => failures.push(self.missing_instance(&cluster, text)),
            }
        }
        Ok(json!({"containerInstances": instances, "failures": failures}))
    }

    fn describe_instance(&self, instance: Instance, tasks: &[Task]) -> Value {
        let here = |task: &&Task| task.instance == instance.id;
        let of = |wanted: fn(Status) -> bool| {
            let here = tasks.iter().filter(here);
            here.filter(|task| wanted(task.status)).count()
        };
        let running = of(|status| matches!(status, Status::Running | Status::Stopping));
        let pending = of(|status| status == Status::Pending);
        let host = Host::with(instance, tasks);
        self.arns.instance_shape(&host, running, pending)
    }

    /// The cluster's tasks, also the STOPPED ones that are still kept.
    pub(super) fn tasks_of(&self, cluster: &str) -> Result<Vec<Task>, StoreError> {
        let tasks = model::all::<Task>(self.store(), &format!("task/{cluster}/"))?;
        Ok(tasks.into_iter().map(|stored| stored.record).collect())
    }

    /// The instance of this cluster that a caller means.
    pub(super) fn find_instance(
        &self,
        cluster: &str,
        text: &str,
    ) -> Result<Option<Stored<Instance>>, Error> {
        match self.arns.read("container-instance", text) {
            Some(reference) if arn::is_id(reference.name) => {
                same_cluster(cluster, reference.cluster)?;
                let key = format!("instance/{cluster}/{}", reference.name);
                Ok(model::read(self.store(), &key)?)
            }
            _ => Ok(None),
        }
    }

    pub(super) fn missing_instance(&self, cluster: &str, text: &str) -> Value {
        let arn = match self.arns.read("container-instance", text) {
            Some(reference) => self.arns.instance(cluster, reference.name),
            None => text.to_owned(),
        };
        json!({"arn": arn, "reason": "MISSING"})
    }
}

/// An ARN that names another cluster than the request does is a mistake, not a miss.
pub(super) fn same_cluster(cluster: &str, named: Option<&str>) -> Result<(), Error> {
    match named {
        Some(named) if named != cluster => Err(Error::parameter(format!(
            "Identifier is for {named}. Your cluster is {cluster}"
        ))),
        _ => Ok(()),
    }
}
