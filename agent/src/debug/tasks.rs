//! `/v1/tasks`: what runs here, in the shapes of Amazon's introspection API, and beyond them limits in
//! force, usage, exit codes and reasons.

use http::StatusCode;
use longshore_engine::{
    ContainerReport, ContainerSpec, NetworkMode, PortBinding, Protocol, Status, StopCode, Timestamp,
};
use serde_json::{Map, Value, json};

use super::{Answer, Refusal, Sources, json_answer, query};
use crate::board::Notice;
use crate::statistics::Statistics;

pub(super) async fn answer(sources: &Sources, wanted: Option<&str>) -> Result<Answer, Refusal> {
    let value = match wanted {
        Some(text) => {
            let id = query::task_id(text)?;
            let board = &sources.board;
            let notice = board.task(&id).or_else(|| board.ended(&id));
            let notice = notice.ok_or_else(|| {
                let message = format!(
                    "find task {id}: it is not on this host, nor among the last that ended here since the agent was \
                     started; longshore ps lists those that are here, aws ecs describe-tasks knows the others"
                );
                Refusal(StatusCode::NOT_FOUND, message)
            })?;
            let cgroups = sources.tasks_cgroup.clone();
            blocking(move || task(&notice, &cgroups)).await?
        }
        None => {
            let notices = sources.board.tasks();
            let cgroups = sources.tasks_cgroup.clone();
            let all = move || {
                let tasks: Vec<Value> = notices.iter().map(|n| task(n, &cgroups)).collect();
                json!({ "Tasks": tasks })
            };
            blocking(all).await?
        }
    };
    Ok(json_answer(StatusCode::OK, &value))
}

/// Statistics are read from cgroup files.
async fn blocking(work: impl FnOnce() -> Value + Send + 'static) -> Result<Value, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

fn task(notice: &Notice, cgroups: &str) -> Value {
    let (spec, report) = (&notice.spec, &notice.report);
    let group = format!("{cgroups}/{}", spec.id);
    let containers: Vec<Value> = spec
        .containers
        .iter()
        .zip(&report.containers)
        .map(|(spec, report)| container(notice, spec, report, &group))
        .collect();
    let mut value = json!({
        "Arn": report.arn,
        "Family": spec.family,
        "Version": spec.revision.to_string(),
        "DesiredStatus": if report.stop.is_some() { "STOPPED" } else { "RUNNING" },
        "KnownStatus": status(report.status),
        "NetworkMode": network_mode(spec.network),
        "Limits": { "CPU": spec.cpu, "Memory": spec.memory },
        "Containers": containers,
    });
    if let Some(fields) = value.as_object_mut() {
        if let Some((code, reason)) = &report.stop {
            fields.insert("StopCode".to_owned(), stop_code(*code).into());
            fields.insert("StoppedReason".to_owned(), reason.clone().into());
        }
        times(notice, fields);
        if report.status != Status::Stopped {
            fields.insert("Statistics".to_owned(), statistics(&group));
        }
    }
    value
}

fn times(notice: &Notice, fields: &mut Map<String, Value>) {
    let report = &notice.report;
    let all = [
        ("PullStartedAt", report.pull_started_at),
        ("PullStoppedAt", report.pull_stopped_at),
        ("StartedAt", report.started_at),
        ("StoppingAt", report.stopping_at),
        ("ExecutionStoppedAt", report.execution_stopped_at),
        ("StoppedAt", report.stopped_at),
    ];
    for (name, at) in all {
        if let Some(at) = at {
            fields.insert(name.to_owned(), rfc3339(at).into());
        }
    }
}

fn container(
    notice: &Notice,
    spec: &ContainerSpec,
    report: &ContainerReport,
    task_group: &str,
) -> Value {
    let task = &notice.spec;
    let id = &report.runtime_id;
    let lives = report.status == Status::Running;
    json!({
        "DockerId": id,
        "DockerName": format!("ecs-{}-{}-{}", task.family, task.revision, spec.name),
        "Name": spec.name,
        "Image": spec.image,
        "ImageID": report.image_digest,
        "Essential": spec.essential,
        "KnownStatus": status(report.status),
        "ExitCode": report.exit_code,
        "Reason": report.reason,
        "Ports": report.bindings.iter().map(port).collect::<Vec<_>>(),
        "Limits": { "CPU": spec.cpu, "Memory": spec.memory, "MemoryReservation": spec.memory_reservation },
        "Statistics": lives.then(|| statistics(&format!("{task_group}/{id}"))),
    })
}

fn statistics(group: &str) -> Value {
    serde_json::to_value(Statistics::of(group)).unwrap_or_default()
}

fn port(binding: &PortBinding) -> Value {
    json!({
        "ContainerPort": binding.container_port,
        "HostPort": binding.host_port,
        "Protocol": match binding.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        },
    })
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Pending => "PENDING",
        Status::Running => "RUNNING",
        Status::Stopping => "STOPPING",
        Status::Stopped => "STOPPED",
    }
}

fn stop_code(code: StopCode) -> &'static str {
    match code {
        StopCode::TaskFailedToStart => "TaskFailedToStart",
        StopCode::EssentialContainerExited => "EssentialContainerExited",
        StopCode::UserInitiated => "UserInitiated",
    }
}

fn network_mode(mode: NetworkMode) -> &'static str {
    match mode {
        NetworkMode::None => "none",
        NetworkMode::Host => "host",
        NetworkMode::Bridge => "bridge",
    }
}

fn rfc3339(at: Timestamp) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| at.0.to_string(), |t| t.to_string())
}
