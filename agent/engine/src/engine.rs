//! The engine itself (being written).

use std::collections::BTreeSet;

use crate::{
    ContainerKey, Effect, Event, PortBinding, TaskId, TaskRecord, TaskReport, TaskSpec, Timestamp,
};

/// What this host has to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// CPU units, 1024 per core.
    pub cpu: u32,
    /// MiB.
    pub memory: u64,
    /// Ports never given out.
    pub reserved_ports: BTreeSet<u16>,
}

/// See the crate's documentation.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// An engine over what the journal holds; no records on a new host.
    ///
    /// Effects that were under way are asked for again. Before draining them, feed what the run
    /// directories show: `Exited` for each container whose exit record is there (or whose monitor is
    /// lost), nothing for one that still lives.
    pub fn restore(_capacity: Capacity, _records: Vec<TaskRecord>) -> Engine {
        todo!()
    }
    /// Takes one event.
    pub fn handle(&mut self, _now: Timestamp, _event: Event) {
        todo!()
    }
    /// Lets time pass: stop timeouts and retries that are due.
    pub fn tick(&mut self, _now: Timestamp) {
        todo!()
    }
    /// The earliest time at which `tick` has something to do.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        todo!()
    }
    /// A task whose record changed since it was last named here: persist `record(id)` (or delete the
    /// row, if that is None) and send `report(id)`, before running any effect.
    pub fn next_dirty(&mut self) -> Option<TaskId> {
        todo!()
    }
    /// The next thing to do.
    pub fn next_effect(&mut self) -> Option<Effect> {
        todo!()
    }
    /// The record to persist; None once the task is forgotten.
    pub fn record(&self, _task: &TaskId) -> Option<TaskRecord> {
        todo!()
    }
    /// The level snapshot to send.
    pub fn report(&self, _task: &TaskId) -> Option<TaskReport> {
        todo!()
    }
    /// The task's spec.
    pub fn spec(&self, _task: &TaskId) -> Option<&TaskSpec> {
        todo!()
    }
    /// Every task on this host, also stopped ones whose report is not stored yet.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskId> {
        std::iter::empty()
    }
    /// `<task id>-<10 digits>`: the container's id below the runtime, the same after each restart.
    pub fn runtime_id(&self, _container: &ContainerKey) -> Option<String> {
        todo!()
    }
    /// Published ports of a container, once attached.
    pub fn bindings(&self, _container: &ContainerKey) -> &[PortBinding] {
        todo!()
    }
}
