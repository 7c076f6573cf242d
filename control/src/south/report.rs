//! What an agent tells of a task, into the task's record.
//!
//! A report is a level: it replaces what was known, but never moves a status back, and never touches a
//! task that is STOPPED. The version rises only if something changed, so repeating a report is free.

use longshore_proto::v1;

use super::bounds;
use super::identity::{Arns, Identity, is_id};
use crate::model::{self, Binding, Container, Desired, Status, StopCode, Task};
use crate::store::{Store, StoreError};

/// A report, checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report {
    pub(super) id: String,
    status: Status,
    stop: Option<(StopCode, String)>,
    times: Times,
    containers: Vec<ContainerReport>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Times {
    pull_started_at: Option<u64>,
    pull_stopped_at: Option<u64>,
    started_at: Option<u64>,
    stopping_at: Option<u64>,
    execution_stopped_at: Option<u64>,
    stopped_at: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
struct ContainerReport {
    name: String,
    runtime_id: String,
    status: Status,
    exit_code: Option<i32>,
    reason: Option<String>,
    image_digest: Option<String>,
    bindings: Vec<Binding>,
}

/// What became of a report.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Taken in, or already known.
    Taken,
    /// The task is STOPPED in the store, at this version of its record (0: the store no longer lists it):
    /// the agent may forget it.
    Final(u64),
    /// Not a task of this instance.
    NotOurs,
}

/// Checks a report; the error names the field.
pub(super) fn check(arns: &Arns, cluster: &str, report: v1::Report) -> Result<Report, String> {
    let id = arns
        .task_id(cluster, &report.arn)
        .ok_or("arn: not a task of this cluster")?
        .to_owned();
    let stop = stop_code(report.stop_code)?;
    bounds::count("containers", report.containers.len(), bounds::CONTAINERS)?;
    Ok(Report {
        id,
        status: status(report.status)?,
        stop: stop.map(|code| (code, bounds::cut(&report.stop_reason, bounds::REASON))),
        times: Times {
            pull_started_at: report.pull_started_at,
            pull_stopped_at: report.pull_stopped_at,
            started_at: report.started_at,
            stopping_at: report.stopping_at,
            execution_stopped_at: report.execution_stopped_at,
            stopped_at: report.stopped_at,
        },
        containers: report
            .containers
            .into_iter()
            .map(container)
            .collect::<Result<_, _>>()?,
    })
}

fn container(report: v1::ContainerReport) -> Result<ContainerReport, String> {
    bounds::name("containers.name", &report.name)?;
    bounds::count("bindings", report.bindings.len(), bounds::PORTS)?;
    Ok(ContainerReport {
        status: status(report.status)?,
        exit_code: report.exit_code,
        reason: report.reason.map(|r| bounds::cut(&r, bounds::REASON)),
        image_digest: report.image_digest.map(|d| bounds::cut(&d, bounds::NAME)),
        bindings: report
            .bindings
            .iter()
            .map(binding)
            .collect::<Result<_, _>>()?,
        runtime_id: bounds::cut(&report.runtime_id, bounds::NAME),
        name: report.name,
    })
}

fn binding(binding: &v1::Binding) -> Result<Binding, String> {
    let protocol = match binding.transport() {
        v1::Transport::Tcp => "tcp",
        v1::Transport::Udp => "udp",
        v1::Transport::Unspecified => return Err("bindings.transport: not said".into()),
    };
    Ok(Binding {
        bind_ip: "0.0.0.0".into(),
        container_port: bounds::port("bindings.container_port", binding.container_port)?,
        host_port: bounds::port("bindings.host_port", binding.host_port)?,
        protocol: protocol.into(),
    })
}

fn status(number: i32) -> Result<Status, String> {
    match v1::Status::try_from(number) {
        Ok(v1::Status::Pending) => Ok(Status::Pending),
        Ok(v1::Status::Running) => Ok(Status::Running),
        Ok(v1::Status::Stopping) => Ok(Status::Stopping),
        Ok(v1::Status::Stopped) => Ok(Status::Stopped),
        Ok(v1::Status::Unspecified) | Err(_) => Err(format!("status: {number} is none")),
    }
}

fn stop_code(number: i32) -> Result<Option<StopCode>, String> {
    match v1::StopCode::try_from(number) {
        Ok(v1::StopCode::Unspecified) => Ok(None),
        Ok(v1::StopCode::TaskFailedToStart) => Ok(Some(StopCode::TaskFailedToStart)),
        Ok(v1::StopCode::EssentialContainerExited) => Ok(Some(StopCode::EssentialContainerExited)),
        Ok(v1::StopCode::UserInitiated) => Ok(Some(StopCode::UserInitiated)),
        Err(_) => Err(format!("stop_code: {number} is none")),
    }
}

/// Takes a report of this instance in; when this returns, it is durable.
pub(super) fn take(
    store: &dyn Store,
    from: &Identity,
    report: &Report,
) -> Result<Outcome, StoreError> {
    let key = format!("task/{}/{}", from.cluster, report.id);
    let taken = model::update::<Task, Outcome>(store, &key, |task| {
        if task.instance != from.instance {
            return Outcome::NotOurs;
        }
        if task.status != Status::Stopped && report.status >= task.status {
            merge(task, report);
        }
        match task.status {
            Status::Stopped => Outcome::Final(task.version),
            _ => Outcome::Taken,
        }
    })?;
    let taken = taken.unwrap_or(Outcome::NotOurs);
    // What has ended elsewhere or nowhere needs no more telling.
    if taken == Outcome::NotOurs && report.status == Status::Stopped {
        return Ok(Outcome::Final(0));
    }
    Ok(taken)
}

fn merge(task: &mut Task, report: &Report) {
    let before = task.clone();
    task.status = report.status;
    if let Some((code, reason)) = &report.stop
        && task.stop_code.is_none()
    {
        // Whoever stopped it first said why: StopTask's reason stays.
        task.stop_code = Some(*code);
        task.stopped_reason = Some(reason.clone());
    }
    let times = &report.times;
    replace(&mut task.pull_started_at, times.pull_started_at);
    replace(&mut task.pull_stopped_at, times.pull_stopped_at);
    replace(&mut task.started_at, times.started_at);
    replace(&mut task.execution_stopped_at, times.execution_stopped_at);
    replace(&mut task.stopped_at, times.stopped_at);
    // StopTask's own time is the earlier one.
    task.stopping_at = task.stopping_at.or(times.stopping_at);
    if task.status >= Status::Stopping {
        task.desired = Desired::Stopped;
        task.stopping_at = task.stopping_at.or_else(|| Some(crate::now()));
    }
    if task.status == Status::Stopped {
        task.stopped_at = task.stopped_at.or_else(|| Some(crate::now()));
    }
    for container in &mut task.containers {
        let said = report.containers.iter().find(|r| r.name == container.name);
        if let Some(said) = said.filter(|said| said.status >= container.status) {
            merge_container(container, said);
        }
    }
    if *task != before {
        task.version += 1;
    }
}

fn merge_container(container: &mut Container, said: &ContainerReport) {
    container.status = said.status;
    replace(&mut container.exit_code, said.exit_code);
    replace(&mut container.reason, said.reason.clone());
    replace(&mut container.image_digest, said.image_digest.clone());
    if !said.runtime_id.is_empty() {
        container.runtime_id = Some(said.runtime_id.clone());
    }
    container.bindings.clone_from(&said.bindings);
}

fn replace<T>(known: &mut Option<T>, said: Option<T>) {
    if said.is_some() {
        *known = said;
    }
}

/// The task cannot run on its host, and its host holds nothing of it: STOPPED, TaskFailedToStart. Nothing
/// is done if it has been more than PENDING: then something may run, and only its agent can say.
pub(super) fn refuse(
    store: &dyn Store,
    instance: &str,
    key: &str,
    why: &str,
) -> Result<bool, StoreError> {
    let done = model::update::<Task, bool>(store, key, |task| {
        let untouched = task.containers.iter().all(|c| c.runtime_id.is_none());
        if task.instance != instance || task.status != Status::Pending || !untouched {
            return false;
        }
        task.desired = Desired::Stopped;
        task.status = Status::Stopped;
        task.stop_code = task.stop_code.or(Some(StopCode::TaskFailedToStart));
        if task.stopped_reason.is_none() {
            task.stopped_reason = Some(bounds::cut(why, bounds::REASON));
        }
        let now = Some(crate::now());
        task.stopping_at = task.stopping_at.or(now);
        task.stopped_at = now;
        for container in &mut task.containers {
            container.status = Status::Stopped;
        }
        task.version += 1;
        true
    })?;
    Ok(done.unwrap_or(false))
}

/// Of tasks that an agent holds and its set does not list: whether to stop each. An ARN that is not one of this
/// cluster is left out of both lists.
pub(super) fn judge(
    store: &dyn Store,
    arns: &Arns,
    from: &Identity,
    question: Vec<String>,
) -> Result<v1::OrphanVerdict, StoreError> {
    let mut verdict = v1::OrphanVerdict::default();
    for arn in question {
        let Some(id) = arns.task_id(&from.cluster, &arn).filter(|id| is_id(id)) else {
            continue;
        };
        let found = model::read::<Task>(store, &format!("task/{}/{id}", from.cluster))?;
        let wanted = found.is_some_and(|found| {
            found.record.instance == from.instance && found.record.status != Status::Stopped
        });
        if wanted {
            verdict.keep.push(arn);
        } else {
            verdict.stop.push(arn);
        }
    }
    Ok(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::south::fixture::{INSTANCE, id, keep, read, store, task};

    fn arns() -> Arns {
        Arns {
            region: "us-east-1".into(),
            account: "000000000000".into(),
        }
    }

    fn us() -> Identity {
        Identity {
            cluster: "default".into(),
            instance: INSTANCE.into(),
        }
    }

    fn said(n: u8, status: v1::Status) -> v1::Report {
        v1::Report {
            arn: arns().task("default", &id(n)),
            status: status.into(),
            started_at: (status != v1::Status::Pending).then_some(5),
            containers: vec![v1::ContainerReport {
                name: "main".into(),
                runtime_id: "r".into(),
                status: status.into(),
                exit_code: (status == v1::Status::Stopped).then_some(42),
                bindings: vec![v1::Binding {
                    container_port: 80,
                    host_port: 8080,
                    transport: v1::Transport::Tcp.into(),
                }],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn tell(store: &dyn Store, report: v1::Report) -> Outcome {
        let report = check(&arns(), "default", report).unwrap();
        take(store, &us(), &report).unwrap()
    }

    #[test]
    fn reports_move_a_task_forward_and_repeating_one_changes_nothing() {
        let (_directory, store) = store();
        keep(&store, &task(1));
        assert_eq!(tell(&store, said(1, v1::Status::Running)), Outcome::Taken);
        let running = read(&store, 1);
        assert_eq!(
            (running.status, running.version, running.started_at),
            (Status::Running, 2, Some(5))
        );
        assert_eq!(running.containers[0].bindings[0].host_port, 8080);
        assert_eq!(tell(&store, said(1, v1::Status::Running)), Outcome::Taken);
        assert_eq!(tell(&store, said(1, v1::Status::Pending)), Outcome::Taken);
        assert_eq!(read(&store, 1), running);
    }

    #[test]
    fn stopped_is_final() {
        let (_directory, store) = store();
        keep(&store, &task(1));
        let mut report = said(1, v1::Status::Stopped);
        report.stop_code = v1::StopCode::EssentialContainerExited.into();
        report.stop_reason = "Essential container in task exited".into();
        assert_eq!(tell(&store, report.clone()), Outcome::Final(2));
        let stopped = read(&store, 1);
        assert_eq!(stopped.containers[0].exit_code, Some(42));
        assert_eq!(
            (stopped.desired, stopped.stop_code),
            (Desired::Stopped, Some(StopCode::EssentialContainerExited))
        );
        assert!(stopped.stopped_at.is_some() && stopped.stopping_at.is_some());
        assert_eq!(tell(&store, report), Outcome::Final(2));
        assert_eq!(
            tell(&store, said(1, v1::Status::Running)),
            Outcome::Final(2)
        );
        assert_eq!(read(&store, 1), stopped);
    }

    #[test]
    fn the_first_reason_to_stop_stays() {
        let (_directory, store) = store();
        let mut asked = task(1);
        asked.stop_code = Some(StopCode::UserInitiated);
        asked.stopped_reason = Some("enough".into());
        keep(&store, &asked);
        let mut report = said(1, v1::Status::Stopped);
        report.stop_code = v1::StopCode::EssentialContainerExited.into();
        tell(&store, report);
        assert_eq!(read(&store, 1).stopped_reason.as_deref(), Some("enough"));
    }

    #[test]
    fn a_task_of_another_instance_is_untouched() {
        let (_directory, store) = store();
        let mut other = task(1);
        other.instance = id(99);
        keep(&store, &other);
        assert_eq!(tell(&store, said(1, v1::Status::Running)), Outcome::NotOurs);
        assert_eq!(
            tell(&store, said(1, v1::Status::Stopped)),
            Outcome::Final(0)
        );
        assert_eq!(
            tell(&store, said(2, v1::Status::Stopped)),
            Outcome::Final(0)
        );
        assert_eq!(read(&store, 1), other);
    }

    #[test]
    fn nonsense_is_refused_by_field() {
        let mut report = said(1, v1::Status::Running);
        report.status = 77;
        let error = check(&arns(), "default", report).unwrap_err();
        assert!(error.starts_with("status"), "{error}");
        let error = check(&arns(), "other", said(1, v1::Status::Running)).unwrap_err();
        assert!(error.starts_with("arn"), "{error}");
        let mut report = said(1, v1::Status::Running);
        report.containers[0].bindings[0].host_port = 99_999;
        assert!(check(&arns(), "default", report).is_err());
    }

    #[test]
    fn a_refused_task_stops_only_while_nothing_of_it_was_seen() {
        let (_directory, store) = store();
        keep(&store, &task(1));
        let key = format!("task/default/{}", id(1));
        assert!(refuse(&store, INSTANCE, &key, "no awsvpc").unwrap());
        let stopped = read(&store, 1);
        assert_eq!(
            (stopped.status, stopped.stop_code),
            (Status::Stopped, Some(StopCode::TaskFailedToStart))
        );
        let mut running = task(2);
        running.status = Status::Running;
        keep(&store, &running);
        let key = format!("task/default/{}", id(2));
        assert!(!refuse(&store, INSTANCE, &key, "x").unwrap());
        assert_eq!(read(&store, 2), running);
    }

    #[test]
    fn an_orphan_is_stopped_only_if_this_store_knows_no_live_task() {
        let (_directory, store) = store();
        keep(&store, &task(1));
        let mut stopped = task(2);
        stopped.status = Status::Stopped;
        keep(&store, &stopped);
        let arn = |n| arns().task("default", &id(n));
        let question = vec![arn(1), arn(2), arn(3), "arn:of:nobody".into()];
        let verdict = judge(&store, &arns(), &us(), question).unwrap();
        assert_eq!(verdict.keep, [arn(1)]);
        assert_eq!(verdict.stop, [arn(2), arn(3)]);
    }
}
