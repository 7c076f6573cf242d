//! A task as the journal keeps it: plain, versioned data, separate from the engine's own state.

use serde::{Deserialize, Serialize};

use crate::spec::TaskSpec;

/// One row of the agent's journal. Serialize it as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Layout of this record.
    pub version: u32,
    /// What was asked for.
    pub spec: TaskSpec,
}
