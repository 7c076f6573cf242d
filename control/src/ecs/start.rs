//! StartTask: tasks on the hosts that the caller names. A host's policy and its room still count.

use serde::Deserialize;
use serde_json::{Value, json};

use super::instance::same_cluster;
use super::launch::{Launch, Request};
use super::{Api, Error, input};
use crate::model;
use crate::placement::fit;
use crate::store::Outcome;

/// ECS's limit.
const MOST_INSTANCES: usize = 10;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Start {
    container_instances: Vec<String>,
}

impl Api {
    pub(super) fn start_task(&self, body: &Value) -> Result<Value, Error> {
        let request: Request = input::read(body)?;
        let start: Start = input::read(body)?;
        if start.container_instances.is_empty() {
            return Err(Error::parameter("Container instances cannot be empty."));
        }
        input::at_most(
            "containerInstances",
            &start.container_instances,
            MOST_INSTANCES,
        )?;
        let cluster = self.cluster(request.cluster.as_deref())?.record;
        let launch = self.launch(&request, &cluster)?;
        for _ in 0..model::ATTEMPTS {
            if let Some(answer) = self.try_start(&launch, &start, &request)? {
                return Ok(answer);
            }
        }
        Err(model::contended(&cluster.name).into())
    }

    /// Commits what fits; none: somebody else changed a host meanwhile.
    fn try_start(
        &self,
        launch: &Launch,
        start: &Start,
        request: &Request,
    ) -> Result<Option<Value>, Error> {
        let cluster = self.cluster(request.cluster.as_deref())?;
        let name = cluster.record.name.clone();
        let mut snapshot = self.snapshot(cluster)?;
        let (mut tasks, mut failures) = (Vec::new(), Vec::new());
        for text in &start.container_instances {
            let reference = self.arns.read("container-instance", text);
            same_cluster(&name, reference.and_then(|r| r.cluster))?;
            let named = |id: &String| reference.is_some_and(|r| r.name == id);
            let mut hosts = snapshot.hosts.iter();
            let Some(index) = hosts.position(|host| named(&host.instance.id)) else {
                failures.push(self.missing_instance(&name, text));
                continue;
            };
            let host = &snapshot.hosts[index];
            match fit(&launch.demand, host) {
                Ok(()) => tasks.push(snapshot.put(launch, index)),
                Err(misfit) => failures.push(self.misfit_shape(&host.instance, &misfit)),
            }
        }
        if !tasks.is_empty() && self.commit(&snapshot, &tasks, None)? == Outcome::Conflict {
            return Ok(None);
        }
        let tasks: Vec<Value> = tasks.iter().map(|task| self.new_task_shape(task)).collect();
        Ok(Some(json!({"tasks": tasks, "failures": failures})))
    }
}
