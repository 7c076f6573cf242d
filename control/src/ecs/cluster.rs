//! CreateCluster, DescribeClusters, ListClusters, DeleteCluster.

use std::ops::ControlFlow;

use serde::Deserialize;
use serde_json::{Value, json};

use super::page::Paging;
use super::shape::Counts;
use super::{Api, Error, input};
use crate::definition::{check_tags, is_name};
use crate::model::{self, Cluster, Instance, Status, Stored, Tag, Task};
use crate::store::{Compare, Outcome, StoreError};

const INCLUDES: [&str; 5] = [
    "ATTACHMENTS",
    "CONFIGURATIONS",
    "SETTINGS",
    "STATISTICS",
    "TAGS",
];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Create {
    cluster_name: Option<String>,
    tags: Vec<Tag>,
    settings: Vec<Setting>,
    configuration: Option<Value>,
    capacity_providers: Vec<String>,
    default_capacity_provider_strategy: Vec<Value>,
    service_connect_defaults: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Setting {
    name: String,
    value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Describe {
    clusters: Vec<String>,
    include: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    cluster: Option<String>,
}

pub(super) fn key(name: &str) -> String {
    format!("cluster/{name}")
}

impl Api {
    pub(super) fn create_cluster(&self, body: &Value) -> Result<Value, Error> {
        let create: Create = input::read(body)?;
        refuse_unsupported(&create)?;
        let name = create
            .cluster_name
            .as_ref()
            .unwrap_or(&self.default_cluster);
        if !is_name(name) {
            let name: String = name.chars().take(80).collect();
            return Err(Error::parameter(format!(
                "Invalid cluster name '{}'. Use 1 to 255 letters, digits, hyphens and underscores.",
                name.escape_debug()
            )));
        }
        check_tags(&create.tags).map_err(|invalid| Error::parameter(invalid.0))?;
        let settings = create.settings.iter().map(|s| Tag {
            key: s.name.clone(),
            value: s.value.clone(),
        });
        let wanted = Cluster {
            name: name.clone(),
            active: true,
            tags: create.tags.clone(),
            settings: settings.collect(),
        };
        let cluster = self.create_or_keep(wanted)?;
        let mut shape = self.arns.cluster_shape(&cluster, self.counts(&cluster)?);
        shape["tags"] = tags(&cluster.tags);
        shape["settings"] = settings_shape(&cluster.settings);
        Ok(json!({"cluster": shape}))
    }

    /// An ACTIVE cluster of the name stays as it is: the call is idempotent.
    fn create_or_keep(&self, wanted: Cluster) -> Result<Cluster, StoreError> {
        let key = key(&wanted.name);
        for _ in 0..model::ATTEMPTS {
            let compare = match model::read::<Cluster>(self.store(), &key)? {
                Some(found) if found.record.active => return Ok(found.record),
                Some(found) => Compare::Revision(key.clone(), found.revision),
                None => Compare::Absent(key.clone()),
            };
            let write = model::put(key.clone(), &wanted);
            if let Outcome::Committed(_) = self.store().transact(&[compare], &[write])? {
                return Ok(wanted);
            }
        }
        Err(model::contended(&key))
    }

    pub(super) fn describe_clusters(&self, body: &Value) -> Result<Value, Error> {
        let mut describe: Describe = input::read(body)?;
        input::at_most("clusters", &describe.clusters, 100)?;
        let with_tags = input::includes(&describe.include, "TAGS", &INCLUDES)?;
        let with_settings = input::includes(&describe.include, "SETTINGS", &INCLUDES)?;
        if describe.clusters.is_empty() {
            describe.clusters.push(self.default_cluster.clone());
        }
        let (mut clusters, mut failures) = (Vec::new(), Vec::new());
        for text in &describe.clusters {
            let Some(cluster) = self.find_cluster(text)? else {
                failures.push(self.missing("cluster", text));
                continue;
            };
            let cluster = cluster.record;
            let mut shape = self.arns.cluster_shape(&cluster, self.counts(&cluster)?);
            if with_tags {
                shape["tags"] = tags(&cluster.tags);
            }
            if with_settings {
                shape["settings"] = settings_shape(&cluster.settings);
            }
            clusters.push(shape);
        }
        Ok(json!({"clusters": clusters, "failures": failures}))
    }

    pub(super) fn list_clusters(&self, body: &Value) -> Result<Value, Error> {
        let paging: Paging = input::read(body)?;
        let (mut page, after) = (paging.page()?, paging.after("cluster/")?);
        model::scan(
            self.store(),
            "cluster/",
            after.as_deref(),
            |key, cluster: Stored<Cluster>| {
                let room = !cluster.record.active
                    || page.push(key, self.arns.cluster(&cluster.record.name));
                if room {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        )?;
        Ok(page.answer("clusterArns"))
    }

    pub(super) fn delete_cluster(&self, body: &Value) -> Result<Value, Error> {
        let named: Named = input::read(body)?;
        let text = named
            .cluster
            .ok_or_else(|| Error::parameter("Cluster should not be null or empty."))?;
        for _ in 0..model::ATTEMPTS {
            let found = self.cluster(Some(&text))?;
            let mut cluster = found.record;
            self.require_empty(&cluster)?;
            cluster.active = false;
            let key = key(&cluster.name);
            let unchanged = Compare::Revision(key.clone(), found.revision);
            let write = model::put(key, &cluster);
            if let Outcome::Committed(_) = self.store().transact(&[unchanged], &[write])? {
                let shape = self.arns.cluster_shape(&cluster, Counts::default());
                return Ok(json!({"cluster": shape}));
            }
        }
        Err(model::contended(&text).into())
    }

    fn require_empty(&self, cluster: &Cluster) -> Result<(), Error> {
        let counts = self.counts(cluster)?;
        if counts.instances > 0 {
            return Err(Error::new(
                "ClusterContainsContainerInstancesException",
                "The Cluster cannot be deleted while Container Instances are active or draining.",
            ));
        }
        if counts.running + counts.pending > 0 {
            return Err(Error::new(
                "ClusterContainsTasksException",
                "The Cluster cannot be deleted while Tasks are active.",
            ));
        }
        Ok(())
    }

    fn counts(&self, cluster: &Cluster) -> Result<Counts, StoreError> {
        let mut counts = Counts::default();
        let instances = format!("instance/{}/", cluster.name);
        counts.instances = model::all::<Instance>(self.store(), &instances)?.len();
        for task in model::all::<Task>(self.store(), &format!("task/{}/", cluster.name))? {
            match task.record.status {
                Status::Pending => counts.pending += 1,
                Status::Running | Status::Stopping => counts.running += 1,
                Status::Stopped => {}
            }
        }
        Ok(counts)
    }

    /// The ACTIVE cluster that a request means.
    pub(super) fn cluster(&self, text: Option<&str>) -> Result<Stored<Cluster>, Error> {
        let text = text.filter(|text| !text.is_empty());
        let found = self.find_cluster(text.unwrap_or(&self.default_cluster))?;
        let found = found.ok_or_else(Error::no_cluster)?;
        if !found.record.active {
            return Err(Error::new(
                "ClusterNotFoundException",
                "The referenced cluster was inactive.",
            ));
        }
        Ok(found)
    }

    fn find_cluster(&self, text: &str) -> Result<Option<Stored<Cluster>>, StoreError> {
        match self.arns.read("cluster", text) {
            Some(reference) if is_name(reference.name) && reference.cluster.is_none() => {
                model::read(self.store(), &key(reference.name))
            }
            _ => Ok(None),
        }
    }

    /// A failure with reason MISSING; the name in ECS's long form.
    fn missing(&self, kind: &str, text: &str) -> Value {
        let arn = match self.arns.read(kind, text) {
            Some(reference) => self.arns.cluster(reference.name),
            None => text.to_owned(),
        };
        json!({"arn": arn, "reason": "MISSING"})
    }
}

fn refuse_unsupported(create: &Create) -> Result<(), Error> {
    let members = [
        ("configuration", create.configuration.is_some()),
        ("capacityProviders", !create.capacity_providers.is_empty()),
        (
            "defaultCapacityProviderStrategy",
            !create.default_capacity_provider_strategy.is_empty(),
        ),
        (
            "serviceConnectDefaults",
            create.service_connect_defaults.is_some(),
        ),
    ];
    if let Some((member, _)) = members.iter().find(|(_, given)| *given) {
        return Err(Error::unsupported(&format!("'{member}'")));
    }
    for setting in &create.settings {
        match (setting.name.as_str(), setting.value.as_str()) {
            ("containerInsights", "disabled") => {}
            ("containerInsights", "enabled" | "enhanced") => {
                return Err(Error::unsupported("Setting 'containerInsights'"));
            }
            (name, value) => {
                return Err(Error::parameter(format!(
                    "Invalid cluster setting '{name}' with value '{value}'."
                )));
            }
        }
    }
    Ok(())
}

pub(super) fn tags(tags: &[Tag]) -> Value {
    json!(tags)
}

fn settings_shape(settings: &[Tag]) -> Value {
    let pair = |s: &Tag| json!({"name": s.key, "value": s.value});
    settings.iter().map(pair).collect()
}
