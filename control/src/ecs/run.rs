//! RunTask: places tasks and writes them down. It waits for nothing that happens on a host.

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::launch::{Launch, Request};
use super::shape::LAUNCH_TYPE;
use super::{Api, Error, input};
use crate::model::{self, ClientToken, Cluster, Stored, Task};
use crate::placement::place;
use crate::store::{Compare, Outcome, Write};

/// ECS's limits.
const MOST_TASKS: i64 = 10;
const MOST_CONSTRAINTS: usize = 10;
const LONGEST_TOKEN: usize = 64;

/// The members that only RunTask has.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Run {
    count: Option<i64>,
    client_token: Option<String>,
    launch_type: Option<String>,
    platform_version: Option<String>,
    capacity_provider_strategy: Vec<Value>,
    placement_constraints: Vec<Constraint>,
    placement_strategy: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Constraint {
    #[serde(rename = "type")]
    kind: String,
}

/// A client token in this cluster.
struct Token {
    key: String,
    parameters: String,
}

impl Api {
    pub(super) fn run_task(&self, body: &Value) -> Result<Value, Error> {
        let request: Request = input::read(body)?;
        let run: Run = input::read(body)?;
        let count = check_run(&run)?;
        let cluster = self.cluster(request.cluster.as_deref())?.record;
        let token = token(&run, &cluster.name, body)?;
        let mut launch = None;
        for _ in 0..model::ATTEMPTS {
            if let Some(answer) = self.answered_before(token.as_ref(), &cluster)? {
                return Ok(answer);
            }
            let launch = match &mut launch {
                Some(launch) => launch,
                empty => empty.insert(self.prepare(&request, &run, &cluster)?),
            };
            let found = self.cluster(request.cluster.as_deref())?;
            if let Some(answer) = self.try_run(launch, count, found, token.as_ref())? {
                return Ok(answer);
            }
        }
        Err(model::contended(&cluster.name).into())
    }

    fn prepare(&self, request: &Request, run: &Run, cluster: &Cluster) -> Result<Launch, Error> {
        let mut launch = self.launch(request, cluster)?;
        let apart = |c: &Constraint| c.kind == "distinctInstance";
        if run.placement_constraints.iter().any(apart) {
            launch.demand.apart_from = Some(launch.group.clone());
        }
        Ok(launch)
    }

    /// Places and commits; none: somebody else changed a host meanwhile.
    fn try_run(
        &self,
        launch: &Launch,
        count: usize,
        cluster: Stored<Cluster>,
        token: Option<&Token>,
    ) -> Result<Option<Value>, Error> {
        let mut snapshot = self.snapshot(cluster)?;
        if snapshot.hosts.is_empty() {
            return Err(Error::parameter(
                "No Container Instances were found in your cluster.",
            ));
        }
        let (mut tasks, mut failures) = (Vec::new(), Vec::new());
        while tasks.len() < count {
            match place(&launch.demand, &snapshot.hosts) {
                Ok(host) => tasks.push(snapshot.put(launch, host)),
                // All tasks are alike: what does not fit once does not fit again.
                Err(misfits) => {
                    let hosts = snapshot.hosts.iter().zip(&misfits);
                    failures = hosts
                        .map(|(host, misfit)| self.misfit_shape(&host.instance, misfit))
                        .collect();
                    break;
                }
            }
        }
        if !tasks.is_empty() {
            let more = token.map(|token| remember(token, &tasks));
            if self.commit(&snapshot, &tasks, more)? == Outcome::Conflict {
                return Ok(None);
            }
        }
        let tasks: Vec<Value> = tasks.iter().map(|task| self.new_task_shape(task)).collect();
        Ok(Some(json!({"tasks": tasks, "failures": failures})))
    }

    /// The answer to a call whose token was used before.
    fn answered_before(
        &self,
        token: Option<&Token>,
        cluster: &Cluster,
    ) -> Result<Option<Value>, Error> {
        let Some(token) = token else {
            return Ok(None);
        };
        let Some(found) = model::read::<ClientToken>(self.store(), &token.key)? else {
            return Ok(None);
        };
        let arn = |id: &String| self.arns.task(&cluster.name, id);
        if found.record.parameters != token.parameters {
            return Err(Error::conflict(
                "The clientToken was already used with different parameters.",
                found.record.tasks.iter().map(arn).collect(),
            ));
        }
        let mut tasks = Vec::new();
        for id in &found.record.tasks {
            let key = super::task::key(&cluster.name, id);
            if let Some(task) = model::read::<Task>(self.store(), &key)? {
                tasks.push(self.task_with_tags(&task.record)?);
            }
        }
        Ok(Some(json!({"tasks": tasks, "failures": []})))
    }

    /// A task that was just made, as RunTask and StartTask answer it.
    pub(super) fn new_task_shape(&self, task: &Task) -> Value {
        let mut shape = self.arns.task_shape(task, None);
        shape["tags"] = super::cluster::tags(&task.tags);
        shape
    }
}

fn check_run(run: &Run) -> Result<usize, Error> {
    let count = run.count.unwrap_or(1);
    if !(1..=MOST_TASKS).contains(&count) {
        return Err(Error::parameter(format!(
            "count must be between 1 and {MOST_TASKS}."
        )));
    }
    if !run.capacity_provider_strategy.is_empty() {
        return Err(if run.launch_type.is_some() {
            Error::parameter(
                "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again.",
            )
        } else {
            Error::unsupported("'capacityProviderStrategy'")
        });
    }
    match run.launch_type.as_deref() {
        None | Some(LAUNCH_TYPE) => {}
        Some(other @ ("FARGATE" | "EXTERNAL" | "MANAGED_INSTANCES")) => {
            return Err(Error::unsupported(&format!("'launchType' '{other}'")));
        }
        Some(other) => return Err(Error::parameter(format!("Invalid launchType '{other}'."))),
    }
    if run.platform_version.is_some() {
        return Err(Error::parameter(
            "The platform version must be null when specifying an EC2 launch type.",
        ));
    }
    if !run.placement_strategy.is_empty() {
        return Err(Error::unsupported("'placementStrategy'"));
    }
    check_constraints(&run.placement_constraints)?;
    Ok(usize::try_from(count).unwrap_or(1))
}

fn check_constraints(constraints: &[Constraint]) -> Result<(), Error> {
    input::at_most("placementConstraints", constraints, MOST_CONSTRAINTS)?;
    for constraint in constraints {
        match constraint.kind.as_str() {
            "distinctInstance" => {}
            "memberOf" => return Err(Error::unsupported("Placement constraint 'memberOf'")),
            other => {
                return Err(Error::parameter(format!(
                    "Invalid placement constraint type '{other}'. Must be one of [distinctInstance, memberOf]."
                )));
            }
        }
    }
    Ok(())
}

fn token(run: &Run, cluster: &str, body: &Value) -> Result<Option<Token>, Error> {
    let Some(text) = run.client_token.as_ref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    if text.chars().count() > LONGEST_TOKEN {
        return Err(Error::parameter("idempotency token longer than 64."));
    }
    let hash = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    Ok(Some(Token {
        key: format!("clienttoken/{cluster}/{}", hash(text.as_bytes())),
        // The members are sorted: the same parameters in another order are the same call.
        parameters: hash(body.to_string().as_bytes()),
    }))
}

fn remember(token: &Token, tasks: &[Task]) -> (Compare, Write) {
    let record = ClientToken {
        parameters: token.parameters.clone(),
        tasks: tasks.iter().map(|task| task.id.clone()).collect(),
        created_at: crate::now(),
    };
    let first = Compare::Absent(token.key.clone());
    (first, model::put(token.key.clone(), &record))
}
