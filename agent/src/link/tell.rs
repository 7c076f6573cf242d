//! The engine's words, as the wire says them.

use longshore_engine::{
    ContainerReport, PortBinding, Protocol, Status, StopCode, TaskReport, TaskSpec,
};
use longshore_proto::v1;

use super::Registration;

/// Longest reason, in bytes; the control plane keeps no more. An image can choose texts of megabytes that end in
/// one, and a report that is larger than a message may be would end this session and every later one.
const REASON_MAX: usize = 1024;

/// A report.
pub(super) fn report(report: TaskReport) -> v1::Report {
    let (stop_code, stop_reason) = match report.stop {
        None => (v1::StopCode::Unspecified, String::new()),
        Some((code, reason)) => (self::stop_code(code), cut(reason)),
    };
    v1::Report {
        arn: report.arn,
        status: status(report.status).into(),
        stop_code: stop_code.into(),
        stop_reason,
        pull_started_at: report.pull_started_at.map(|t| t.0),
        pull_stopped_at: report.pull_stopped_at.map(|t| t.0),
        started_at: report.started_at.map(|t| t.0),
        stopping_at: report.stopping_at.map(|t| t.0),
        execution_stopped_at: report.execution_stopped_at.map(|t| t.0),
        stopped_at: report.stopped_at.map(|t| t.0),
        containers: report.containers.into_iter().map(container).collect(),
    }
}

fn container(report: ContainerReport) -> v1::ContainerReport {
    v1::ContainerReport {
        name: report.name,
        runtime_id: report.runtime_id,
        status: status(report.status).into(),
        exit_code: report.exit_code,
        reason: report.reason.map(cut),
        image_digest: report.image_digest,
        bindings: report.bindings.iter().map(binding).collect(),
    }
}

fn cut(mut text: String) -> String {
    let end = (0..=REASON_MAX.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}

fn binding(binding: &PortBinding) -> v1::Binding {
    v1::Binding {
        container_port: binding.container_port.into(),
        host_port: binding.host_port.into(),
        transport: match binding.protocol {
            Protocol::Tcp => v1::Transport::Tcp,
            Protocol::Udp => v1::Transport::Udp,
        }
        .into(),
    }
}

fn status(status: Status) -> v1::Status {
    match status {
        Status::Pending => v1::Status::Pending,
        Status::Running => v1::Status::Running,
        Status::Stopping => v1::Status::Stopping,
        Status::Stopped => v1::Status::Stopped,
    }
}

fn stop_code(code: StopCode) -> v1::StopCode {
    match code {
        StopCode::TaskFailedToStart => v1::StopCode::TaskFailedToStart,
        StopCode::EssentialContainerExited => v1::StopCode::EssentialContainerExited,
        StopCode::UserInitiated => v1::StopCode::UserInitiated,
    }
}

/// What the host has.
pub(super) fn registration(registration: &Registration) -> v1::Registration {
    let attributes = registration.attributes.iter();
    v1::Registration {
        host_name: registration.host_name.clone(),
        attributes: attributes
            .map(|(name, value)| v1::Attribute {
                name: name.clone(),
                value: value.clone(),
            })
            .collect(),
        cpu: registration.cpu,
        memory: registration.memory,
        ports: wide(&registration.reserved_ports),
        ports_udp: wide(&registration.reserved_ports_udp),
    }
}

fn wide(ports: &[u16]) -> Vec<u32> {
    ports.iter().map(|port| u32::from(*port)).collect()
}

/// A held task, for a control plane that does not know it. What it holds of the host is counted as placement
/// counts: the task's own figures, or its containers' together.
pub(super) fn held(spec: TaskSpec) -> v1::HeldTask {
    let soft = spec.containers.iter();
    let memory: u64 = soft
        .map(|c| c.memory_reservation.or(c.memory).unwrap_or(0))
        .fold(0, u64::saturating_add);
    let cpu = spec.containers.iter().map(|c| c.cpu);
    v1::HeldTask {
        arn: spec.arn,
        family: spec.family,
        revision: spec.revision,
        cpu: spec.cpu.unwrap_or_else(|| cpu.fold(0, u32::saturating_add)),
        memory: spec.memory.unwrap_or(memory),
        ports: host_ports(&spec.containers, Protocol::Tcp),
        ports_udp: host_ports(&spec.containers, Protocol::Udp),
        containers: spec
            .containers
            .into_iter()
            .map(|c| v1::HeldContainer {
                name: c.name,
                image: c.image,
                cpu: c.cpu,
                memory: c.memory,
                memory_reservation: c.memory_reservation,
            })
            .collect(),
    }
}

fn host_ports(containers: &[longshore_engine::ContainerSpec], protocol: Protocol) -> Vec<u32> {
    let ports = containers.iter().flat_map(|container| &container.ports);
    ports
        .filter(|mapping| mapping.protocol == protocol)
        .filter_map(|mapping| mapping.host_port)
        .map(u32::from)
        .collect()
}

/// Specs and reports for this room's tests.
#[cfg(test)]
pub(super) mod sample {
    use super::*;
    use longshore_engine::{ContainerSpec, NetworkMode, TaskId};
    use std::time::Duration;

    pub(in crate::link) fn id(n: u8) -> TaskId {
        TaskId::try_from(format!("{n:032x}")).unwrap()
    }

    pub(in crate::link) fn arn(n: u8) -> String {
        format!("arn:aws:ecs:us-east-1:000000000000:task/default/{}", id(n))
    }

    pub(in crate::link) fn report(n: u8, status: Status) -> TaskReport {
        TaskReport {
            task: id(n),
            arn: arn(n),
            status,
            stop: None,
            pull_started_at: None,
            pull_stopped_at: None,
            started_at: None,
            stopping_at: None,
            execution_stopped_at: None,
            stopped_at: None,
            containers: vec![],
        }
    }

    pub(in crate::link) fn spec(n: u8) -> TaskSpec {
        TaskSpec {
            id: id(n),
            arn: arn(n),
            family: "web".into(),
            revision: 1,
            cpu: None,
            memory: None,
            ephemeral_storage: None,
            network: NetworkMode::None,
            containers: vec![ContainerSpec {
                name: "main".into(),
                image: "busybox".into(),
                essential: true,
                cpu: 128,
                memory: Some(64),
                memory_reservation: Some(32),
                entry_point: None,
                command: None,
                environment: vec![],
                working_directory: None,
                user: None,
                hostname: None,
                privileged: false,
                readonly_root: false,
                no_new_privileges: false,
                cap_add: vec![],
                cap_drop: vec![],
                ulimits: vec![],
                ports: vec![],
                stop_timeout: Duration::from_secs(30),
            }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_any_length_fit_into_a_message() {
        let long = "€".repeat(1_000_000);
        let mut told = sample::report(1, Status::Stopped);
        told.stop = Some((StopCode::TaskFailedToStart, long.clone()));
        told.containers = vec![ContainerReport {
            name: "main".into(),
            runtime_id: "r".into(),
            status: Status::Stopped,
            exit_code: None,
            reason: Some(long),
            image_digest: None,
            bindings: vec![],
        }];
        let told = report(told);
        let reason = told.containers[0].reason.as_deref().unwrap();
        assert_eq!((told.stop_reason.len(), reason.len()), (1023, 1023));
    }

    #[test]
    fn a_held_task_counts_as_placement_counts() {
        let told = held(sample::spec(1));
        assert_eq!((told.cpu, told.memory), (128, 32));
        let mut own = sample::spec(1);
        (own.cpu, own.memory) = (Some(256), Some(512));
        let told = held(own);
        assert_eq!((told.cpu, told.memory), (256, 512));
    }
}
