//! What this host has, what its tasks hold, and whether one more fits.
//!
//! A task holds its share from admission until it is STOPPED: a stopping task still holds everything.

use std::collections::BTreeSet;

use crate::spec::{NetworkMode, Protocol, TaskSpec};
use crate::vocabulary::Failure;

/// What this host has to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// CPU units, 1024 per core.
    pub cpu: u32,
    /// MiB.
    pub memory: u64,
    /// Host ports never given out.
    pub reserved_ports: BTreeSet<u16>,
}

/// What one task needs of its host. Dynamic host ports are chosen later and are not part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) cpu: u64,
    pub(crate) memory: u64,
    pub(crate) ports: BTreeSet<(Protocol, u16)>,
}

impl Need {
    /// ECS's rule: the task's own size where it has one, else the sum over its containers.
    pub(crate) fn of(spec: &TaskSpec) -> Need {
        let cpu = spec.containers.iter().map(|c| u64::from(c.cpu)).sum();
        let memory = spec
            .containers
            .iter()
            .filter_map(|c| c.memory_reservation.or(c.memory))
            .sum();
        let fixed = |port: &crate::PortMapping| {
            let host_port = if spec.network == NetworkMode::Host {
                Some(port.container_port)
            } else {
                port.host_port
            };
            host_port.map(|host_port| (port.protocol, host_port))
        };
        let ports = match spec.network {
            NetworkMode::None => BTreeSet::new(),
            NetworkMode::Host | NetworkMode::Bridge => spec
                .containers
                .iter()
                .flat_map(|c| &c.ports)
                .filter_map(fixed)
                .collect(),
        };
        Need {
            cpu: spec.cpu.map_or(cpu, u64::from),
            memory: spec.memory.unwrap_or(memory),
            ports,
        }
    }

    /// Adds what another task holds.
    pub(crate) fn add(&mut self, other: &Need) {
        self.cpu = self.cpu.saturating_add(other.cpu);
        self.memory = self.memory.saturating_add(other.memory);
        self.ports.extend(other.ports.iter().copied());
    }
}

impl Capacity {
    /// Whether `need` fits beside what is held.
    pub(crate) fn admits(&self, held: &Need, need: &Need) -> bool {
        held.cpu.saturating_add(need.cpu) <= u64::from(self.cpu)
            && held.memory.saturating_add(need.memory) <= self.memory
            && held.ports.is_disjoint(&need.ports)
    }

    /// Why `need` could not be met even by the empty host.
    pub(crate) fn refusal(&self, need: &Need) -> Option<Failure> {
        let port = need
            .ports
            .iter()
            .find(|(_, port)| self.reserved_ports.contains(port));
        let message = if need.cpu > u64::from(self.cpu) {
            format!(
                "reserve CPU: the task needs {} units and this host has {}; make the task smaller",
                need.cpu, self.cpu
            )
        } else if need.memory > self.memory {
            format!(
                "reserve memory: the task needs {} MiB and this host has {}; make the task smaller",
                need.memory, self.memory
            )
        } else if let Some((_, port)) = port {
            format!(
                "reserve port: host port {port} is reserved on this host; choose another hostPort"
            )
        } else {
            return None;
        };
        Some(Failure {
            name: "ResourceInitializationError".into(),
            message,
        })
    }
}
