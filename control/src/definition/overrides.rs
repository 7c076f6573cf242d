//! `overrides` of RunTask and StartTask, and a document with them laid over it.

use serde::{Deserialize, Serialize};

use super::{
    ContainerDefinition, Document, EnvironmentFile, EphemeralStorage, InferenceAccelerator,
    Invalid, KeyValue, ResourceRequirement, check, normalise,
};

/// ECS's limit, in characters of JSON.
const LONGEST: usize = 8192;

/// `TaskOverride`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Overrides {
    /// By container.
    pub container_overrides: Vec<ContainerOverride>,
    /// Always answered by ECS.
    pub inference_accelerator_overrides: Vec<InferenceAccelerator>,
    /// Task-level CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Task-level memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_role_arn: Option<String>,
    /// Role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_role_arn: Option<String>,
    /// Fargate's scratch space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage: Option<EphemeralStorage>,
}

/// `ContainerOverride`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerOverride {
    /// The container.
    pub name: String,
    /// Replaces `command`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Added to `environment`; replaces variables of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<Vec<KeyValue>>,
    /// Replaces `cpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Replaces `memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Replaces `memoryReservation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<u64>,
    /// Environment from S3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_files: Option<Vec<EnvironmentFile>>,
    /// GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_requirements: Option<Vec<ResourceRequirement>>,
}

impl Overrides {
    /// The document as this task runs it. Both must have been registered or parsed before; what was
    /// stored with a task always applies.
    ///
    /// # Errors
    /// A container that is not there, or a result that breaks a rule of ECS.
    pub fn apply(&self, document: &Document) -> Result<Document, Invalid> {
        let length = serde_json::to_string(self).map_or(usize::MAX, |text| text.chars().count());
        if length > LONGEST {
            return Err(Invalid(format!(
                "Overrides are {length} characters long; the longest allowed are {LONGEST}."
            )));
        }
        let mut applied = document.clone();
        if self.cpu.is_some() {
            applied.cpu.clone_from(&self.cpu);
        }
        if self.memory.is_some() {
            applied.memory.clone_from(&self.memory);
        }
        if self.ephemeral_storage.is_some() {
            applied
                .ephemeral_storage
                .clone_from(&self.ephemeral_storage);
        }
        for change in &self.container_overrides {
            let containers = &mut applied.container_definitions;
            let Some(container) = containers.iter_mut().find(|c| c.name == change.name) else {
                return Err(Invalid(format!(
                    "The container {} does not exist in the task definition.",
                    change.name
                )));
            };
            change.apply(container);
        }
        normalise(&mut applied)?;
        check(&applied)?;
        Ok(applied)
    }

    /// As ECS answers it: an entry for every container, whether it was overridden or not.
    #[must_use]
    pub fn for_all_containers(mut self, document: &Document) -> Overrides {
        for container in &document.container_definitions {
            let named = |o: &ContainerOverride| o.name == container.name;
            if !self.container_overrides.iter().any(named) {
                self.container_overrides.push(ContainerOverride {
                    name: container.name.clone(),
                    ..ContainerOverride::default()
                });
            }
        }
        self
    }
}

impl ContainerOverride {
    fn apply(&self, container: &mut ContainerDefinition) {
        if let Some(command) = self.command.as_ref().filter(|c| !c.is_empty()) {
            container.command = Some(command.clone());
        }
        for variable in self.environment.iter().flatten() {
            container.environment.retain(|v| v.name != variable.name);
            container.environment.push(variable.clone());
        }
        container.cpu = self.cpu.unwrap_or(container.cpu);
        container.memory = self.memory.or(container.memory);
        container.memory_reservation = self.memory_reservation.or(container.memory_reservation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document() -> Document {
        serde_json::from_value(
            json!({"family": "f", "containerDefinitions": [{"name": "a", "image": "i", "memory": 64,
            "command": ["x"], "environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]}),
        )
        .unwrap()
    }

    fn applied(overrides: serde_json::Value) -> Result<Document, Invalid> {
        let overrides: Overrides = serde_json::from_value(overrides).unwrap();
        overrides.apply(&document())
    }

    #[test]
    fn given_members_replace_and_environment_is_merged() {
        let overrides = json!({"cpu": "1 vCPU", "containerOverrides": [{"name": "a", "memory": 128,
            "command": ["y", "z"], "environment": [{"name": "A", "value": "9"}]}]});
        let document = applied(overrides).unwrap();
        let a = &document.container_definitions[0];
        assert_eq!(document.task_cpu(), Some(1024));
        assert_eq!(a.memory, Some(128));
        assert_eq!(a.command.as_ref().unwrap(), &["y", "z"]);
        let variables: Vec<_> = a
            .environment
            .iter()
            .map(|v| v.value.clone().unwrap())
            .collect();
        assert_eq!(variables, ["2", "9"]);
    }

    #[test]
    fn unknown_containers_and_broken_rules_are_refused() {
        let unknown = applied(json!({"containerOverrides": [{"name": "b"}]})).unwrap_err();
        assert_eq!(
            unknown.0,
            "The container b does not exist in the task definition."
        );
        assert!(applied(json!({"containerOverrides": [{"name": "a", "memory": 2}]})).is_err());
        let long = json!({"containerOverrides": [{"name": "a", "command": ["x".repeat(8200)]}]});
        assert!(applied(long).unwrap_err().0.contains("8192"));
    }

    #[test]
    fn ecs_answers_an_entry_for_each_container() {
        let overrides = Overrides::default().for_all_containers(&document());
        assert_eq!(
            serde_json::to_value(overrides).unwrap(),
            json!({"containerOverrides": [{"name": "a"}], "inferenceAcceleratorOverrides": []})
        );
    }
}
