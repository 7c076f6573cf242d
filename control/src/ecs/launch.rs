//! What RunTask and StartTask share: judging the request, looking at the hosts, and committing the tasks.

use serde::Deserialize;
use serde_json::{Value, json};

use super::task_definition::document;
use super::{Api, Error};
use crate::definition::{Document, Overrides, check_tags, unsupported, unsupported_overrides};
use crate::id;
use crate::model::{
    self, Cluster, Container, Definition, Desired, Instance, Placement, Status, Stored, Tag, Task,
};
use crate::placement::{Demand, Host, Misfit};
use crate::store::{Compare, Outcome, StoreError, Write};

/// The members that both operations have.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Request {
    pub(super) cluster: Option<String>,
    task_definition: Option<String>,
    overrides: Option<Overrides>,
    group: Option<String>,
    started_by: Option<String>,
    tags: Vec<Tag>,
    propagate_tags: Option<PropagateTags>,
    #[serde(rename = "enableECSManagedTags")]
    enable_ecs_managed_tags: bool,
    enable_execute_command: bool,
    network_configuration: Option<Value>,
    volume_configurations: Vec<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum PropagateTags {
    TaskDefinition,
    Service,
    None,
}

/// A request that may become tasks.
#[derive(Debug)]
pub(super) struct Launch {
    definition: Definition,
    /// The definition with the overrides applied.
    document: Document,
    overrides: Value,
    pub(super) group: String,
    started_by: Option<String>,
    tags: Vec<Tag>,
    pub(super) demand: Demand,
}

/// A cluster as it was when a placement was decided.
#[derive(Debug)]
pub(super) struct Snapshot {
    cluster: Stored<Cluster>,
    pub(super) hosts: Vec<Host>,
    /// For each host: the revisions of its record and of its placement record.
    revisions: Vec<(u64, Option<u64>)>,
    placed: Vec<u64>,
    /// Which hosts were given a task since.
    touched: Vec<bool>,
}

impl Api {
    /// Judges everything that does not depend on the hosts.
    pub(super) fn launch(&self, request: &Request, cluster: &Cluster) -> Result<Launch, Error> {
        let text = request.task_definition.as_deref().unwrap_or_default();
        let found = self.find_definition(text)?;
        let definition = found
            .ok_or_else(|| Error::client("TaskDefinition not found."))?
            .record;
        if !definition.active {
            return Err(Error::parameter("TaskDefinition is inactive"));
        }
        let registered = document(&definition)?;
        if let Some(member) = unsupported(&registered) {
            return Err(member.into());
        }
        refuse_members(request)?;
        let overrides = request.overrides.clone().unwrap_or_default();
        if let Some(member) = unsupported_overrides(&overrides) {
            return Err(member.into());
        }
        let applied = overrides.apply(&registered);
        let document = applied.map_err(|invalid| Error::parameter(invalid.0))?;
        let overrides = json!(overrides.for_all_containers(&registered));
        Ok(Launch {
            group: group(request, &definition.family)?,
            started_by: started_by(request)?,
            tags: tags(request, &definition, cluster)?,
            demand: Demand::of(&document),
            definition,
            document,
            overrides,
        })
    }

    /// The hosts as they are now.
    pub(super) fn snapshot(&self, cluster: Stored<Cluster>) -> Result<Snapshot, StoreError> {
        let name = cluster.record.name.clone();
        // Placements are read before the tasks they brought: one that slips in between is seen as a
        // conflict, never missed.
        let mut instances = Vec::new();
        for found in model::all::<Instance>(self.store(), &format!("instance/{name}/"))? {
            let key = placement_key(&found.record);
            let placement = model::read::<Placement>(self.store(), &key)?;
            instances.push((found, placement));
        }
        let tasks = self.tasks_of(&name)?;
        let mut snapshot = Snapshot {
            cluster,
            hosts: Vec::new(),
            revisions: Vec::new(),
            placed: Vec::new(),
            touched: vec![false; instances.len()],
        };
        for (found, placement) in instances {
            let placed = placement.as_ref().map_or(0, |p| p.record.tasks);
            let revision = placement.map(|p| p.revision);
            snapshot.revisions.push((found.revision, revision));
            snapshot.placed.push(placed);
            snapshot.hosts.push(Host::with(found.record, &tasks));
        }
        Ok(snapshot)
    }

    /// Commits the tasks if the hosts they were placed on are still as the snapshot has them.
    pub(super) fn commit(
        &self,
        snapshot: &Snapshot,
        tasks: &[Task],
        more: Option<(Compare, Write)>,
    ) -> Result<Outcome, StoreError> {
        let cluster = super::cluster::key(&snapshot.cluster.record.name);
        let mut compares = vec![Compare::Revision(cluster, snapshot.cluster.revision)];
        let mut writes: Vec<Write> = tasks
            .iter()
            .map(|task| model::put(super::task::key(&task.cluster, &task.id), task))
            .collect();
        let touched = snapshot.touched.iter().enumerate().filter(|(_, t)| **t);
        for (index, _) in touched {
            let instance = &snapshot.hosts[index].instance;
            let (revision, placement) = snapshot.revisions[index];
            let key = placement_key(instance);
            compares.push(Compare::Revision(
                format!("instance/{}/{}", instance.cluster, instance.id),
                revision,
            ));
            compares.push(match placement {
                Some(revision) => Compare::Revision(key.clone(), revision),
                None => Compare::Absent(key.clone()),
            });
            let placed = Placement {
                tasks: snapshot.placed[index],
            };
            writes.push(model::put(key, &placed));
        }
        if let Some((compare, write)) = more {
            compares.push(compare);
            writes.push(write);
        }
        self.store().transact(&compares, &writes)
    }

    pub(super) fn misfit_shape(&self, instance: &Instance, misfit: &Misfit) -> Value {
        json!({
            "arn": self.arns.instance(&instance.cluster, &instance.id),
            "reason": misfit.reason,
            "detail": misfit.detail,
        })
    }
}

impl Snapshot {
    /// Makes a task on a host and takes away what it holds.
    pub(super) fn put(&mut self, launch: &Launch, host: usize) -> Task {
        self.touched[host] = true;
        self.placed[host] += 1;
        let host = &mut self.hosts[host];
        host.hold(&launch.demand.resources, &launch.group);
        launch.task(&host.instance)
    }
}

impl Launch {
    fn task(&self, instance: &Instance) -> Task {
        Task {
            id: id::hex(),
            cluster: instance.cluster.clone(),
            family: self.definition.family.clone(),
            revision: self.definition.revision,
            instance: instance.id.clone(),
            desired: Desired::Running,
            status: Status::Pending,
            overrides: self.overrides.clone(),
            ephemeral_storage: self
                .document
                .ephemeral_storage
                .as_ref()
                .map(|s| s.size_in_gib),
            group: self.group.clone(),
            started_by: self.started_by.clone(),
            tags: self.tags.clone(),
            holds: self.demand.resources.clone(),
            stop_code: None,
            stopped_reason: None,
            version: 1,
            created_at: crate::now(),
            pull_started_at: None,
            pull_stopped_at: None,
            started_at: None,
            stopping_at: None,
            execution_stopped_at: None,
            stopped_at: None,
            containers: self.containers(),
        }
    }

    fn containers(&self) -> Vec<Container> {
        let definitions = self.document.container_definitions.iter();
        let container = |c: &crate::definition::ContainerDefinition| Container {
            uuid: id::uuid(),
            name: c.name.clone(),
            image: c.image.clone(),
            image_digest: None,
            runtime_id: None,
            status: Status::Pending,
            exit_code: None,
            reason: None,
            bindings: Vec::new(),
            cpu: c.cpu,
            memory: c.memory,
            memory_reservation: c.memory_reservation,
        };
        definitions.map(container).collect()
    }
}

fn placement_key(instance: &Instance) -> String {
    format!("placement/{}/{}", instance.cluster, instance.id)
}

fn refuse_members(request: &Request) -> Result<(), Error> {
    if request.network_configuration.is_some() {
        return Err(Error::parameter(
            "Network Configuration is not valid for the given networkMode of this task definition.",
        ));
    }
    if request.enable_execute_command {
        return Err(Error::unsupported("'enableExecuteCommand'"));
    }
    if !request.volume_configurations.is_empty() {
        return Err(Error::unsupported("'volumeConfigurations'"));
    }
    Ok(())
}

fn group(request: &Request, family: &str) -> Result<String, Error> {
    let Some(group) = request.group.clone().filter(|group| !group.is_empty()) else {
        return Ok(format!("family:{family}"));
    };
    if group.starts_with("service:") {
        return Err(Error::parameter(
            "Invalid group. The namespace 'service:' is reserved for services.",
        ));
    }
    if group.len() > 255 {
        return Err(Error::parameter("group is longer than 255 characters."));
    }
    Ok(group)
}

fn started_by(request: &Request) -> Result<Option<String>, Error> {
    let started_by = request.started_by.clone().filter(|text| !text.is_empty());
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'/' | b'.');
    let fits = |text: &String| text.len() <= 128 && text.bytes().all(allowed);
    match started_by {
        Some(text) if !fits(&text) => Err(Error::parameter(
            "startedBy has at most 128 letters, digits, hyphens, underscores, slashes and periods.",
        )),
        started_by => Ok(started_by),
    }
}

/// The request's own tags win over those of the definition, as in ECS.
fn tags(request: &Request, definition: &Definition, cluster: &Cluster) -> Result<Vec<Tag>, Error> {
    check_tags(&request.tags).map_err(|invalid| Error::parameter(invalid.0))?;
    let mut tags = request.tags.clone();
    match request.propagate_tags {
        None | Some(PropagateTags::None) => {}
        Some(PropagateTags::Service) => {
            return Err(Error::parameter(
                "propagateTags SERVICE is only valid for tasks of a service.",
            ));
        }
        Some(PropagateTags::TaskDefinition) => {
            let given = |tag: &&Tag| request.tags.iter().all(|own| own.key != tag.key);
            tags.extend(definition.tags.iter().filter(given).cloned());
        }
    }
    if request.enable_ecs_managed_tags {
        tags.push(Tag {
            key: "aws:ecs:clusterName".into(),
            value: cluster.name.clone(),
        });
    }
    Ok(tags)
}
