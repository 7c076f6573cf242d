//! A private copy of the link's interface until the wire is merged.
#![allow(missing_docs, dead_code, missing_debug_implementations)]
use longshore_engine::{TaskId, TaskReport, TaskSpec};
use std::path::PathBuf;
use tokio::sync::mpsc;

#[derive(Debug)]
pub enum FromControl {
    Connected {
        instance_arn: String,
        cluster: String,
    },
    Disconnected {
        why: String,
    },
    Desired {
        store_id: String,
        generation: u64,
        wishes: Vec<Wish>,
    },
    StopOrphan(TaskId),
    ReportStored(TaskId),
}
#[derive(Debug)]
pub struct Wish {
    pub spec: TaskSpec,
    pub stop: Option<String>,
}
#[derive(Debug)]
pub struct Registration {
    pub attributes: Vec<(String, Option<String>)>,
    pub cpu: u32,
    pub memory: u64,
    pub reserved_ports: Vec<u16>,
    pub reserved_ports_udp: Vec<u16>,
    pub host_name: String,
    pub agent_version: String,
}
#[derive(Debug)]
pub struct LinkConfig {
    pub endpoint: String,
    pub token: Option<String>,
    pub identity_dir: PathBuf,
    pub registration: Registration,
    pub last_accepted: Option<(String, u64)>,
}
#[derive(Debug)]
pub struct Link(mpsc::Sender<FromControl>);
impl Link {
    pub fn start(_config: LinkConfig) -> (Link, mpsc::Receiver<FromControl>) {
        let (sender, receiver) = mpsc::channel(1);
        (Link(sender), receiver)
    }
    pub fn report(&self, _report: TaskReport) {}
    pub fn forget(&self, _task: &TaskId) {}
    pub fn acknowledge(&self, _task: &TaskId, _generation: u64, _result: Result<(), String>) {}
    pub fn ask_orphans(&self, _tasks: Vec<TaskId>) {}
    pub async fn shutdown(self) {}
}
