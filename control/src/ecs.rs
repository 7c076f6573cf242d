//! The ECS API: one function for each operation, from a JSON document to a JSON document.
//!
//! There is no HTTP here and nothing async: a call reads the store, decides, and writes it. What agents do
//! about a change they learn from the store, over their own sessions.
//!
//! Absent: services, deployments, capacity providers, tags and settings calls, everything of
//! [`operation::NOT_YET`]; those answer UnsupportedFeatureException by name.

mod arn;
mod cluster;
mod error;
mod input;
mod instance;
mod launch;
mod mistyped;
mod operation;
mod page;
mod run;
mod shape;
mod start;
mod stop;
mod task;
mod task_definition;

use std::sync::Arc;

use serde_json::Value;

use crate::store::Store;

pub use self::arn::Arns;
pub use self::error::Error;

/// The API over a store.
#[derive(Clone)]
pub struct Api {
    store: Arc<dyn Store>,
    arns: Arns,
    default_cluster: String,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("arns", &self.arns)
            .finish_non_exhaustive()
    }
}

impl Api {
    /// The API over this store. `default_cluster` is meant where a call names none.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, arns: Arns, default_cluster: String) -> Api {
        Api {
            store,
            arns,
            default_cluster,
        }
    }

    fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Carries out one operation. Blocks for some disk reads and at most a few durable writes.
    ///
    /// # Errors
    /// ECS's errors, by name.
    pub fn call(&self, operation: &str, body: Value) -> Result<Value, Error> {
        let body = input::without_nulls(body);
        match operation {
            "CreateCluster" => self.create_cluster(&body),
            "DescribeClusters" => self.describe_clusters(&body),
            "ListClusters" => self.list_clusters(&body),
            "DeleteCluster" => self.delete_cluster(&body),
            "RegisterTaskDefinition" => self.register_task_definition(&body),
            "DescribeTaskDefinition" => self.describe_task_definition(&body),
            "ListTaskDefinitions" => self.list_task_definitions(&body),
            "ListTaskDefinitionFamilies" => self.list_task_definition_families(&body),
            "DeregisterTaskDefinition" => self.deregister_task_definition(&body),
            "RunTask" => self.run_task(&body),
            "StartTask" => self.start_task(&body),
            "StopTask" => self.stop_task(&body),
            "DescribeTasks" => self.describe_tasks(&body),
            "ListTasks" => self.list_tasks(&body),
            "ListContainerInstances" => self.list_container_instances(&body),
            "DescribeContainerInstances" => self.describe_container_instances(&body),
            other => Err(operation::refuse(other)),
        }
    }
}

#[cfg(test)]
mod tests;
