//! Tasks that a host holds and this store never heard of become tasks of that host here: after a
//! backup was restored, what runs goes on and is shown, and nothing is stopped because a record is missing.
//!
//! The record says what the agent says: PENDING until its report follows. Its overrides are unknown, and
//! its definition may be; the host then goes on with the one it holds.

use longshore_proto::v1::{HeldContainer, HeldTask};
use serde_json::json;

use super::bounds;
use super::identity::{Arns, Identity};
use crate::model::{self, Container, Desired, Resources, Status, Task};
use crate::store::{Compare, Outcome, Store, StoreError};

/// Enters the held tasks that this store does not know. Answers the revision of the last entry (0: none)
/// and, for tasks that cannot be entered, why.
pub(super) fn adopt(
    store: &dyn Store,
    arns: &Arns,
    from: &Identity,
    held: Vec<HeldTask>,
) -> Result<(u64, Vec<String>), StoreError> {
    let (mut last, mut refused) = (0, Vec::new());
    for held in held {
        match record(arns, from, held) {
            Ok(task) => last = last.max(enter(store, &task)?),
            Err(why) => refused.push(why),
        }
    }
    Ok((last, refused))
}

fn enter(store: &dyn Store, task: &Task) -> Result<u64, StoreError> {
    let key = format!("task/{}/{}", task.cluster, task.id);
    let absent = [Compare::Absent(key.clone())];
    match store.transact(&absent, &[model::put(key, task)])? {
        Outcome::Committed(revision) => Ok(revision),
        // Known here already: its record stands.
        Outcome::Conflict => Ok(0),
    }
}

fn record(arns: &Arns, from: &Identity, held: HeldTask) -> Result<Task, String> {
    let id = arns
        .task_id(&from.cluster, &held.arn)
        .ok_or_else(|| {
            format!(
                "arn {:?}: not a task of this cluster",
                bounds::cut(&held.arn, 200)
            )
        })?
        .to_owned();
    bounds::name("family", &held.family)?;
    bounds::count("containers", held.containers.len(), bounds::CONTAINERS)?;
    Ok(Task {
        id,
        cluster: from.cluster.clone(),
        group: format!("family:{}", held.family),
        family: held.family,
        revision: held.revision,
        instance: from.instance.clone(),
        desired: Desired::Running,
        status: Status::Pending,
        overrides: json!({}),
        ephemeral_storage: None,
        started_by: None,
        tags: Vec::new(),
        holds: Resources {
            cpu: held.cpu,
            memory: held.memory,
            ports: bounds::ports("ports", &held.ports)?,
            ports_udp: bounds::ports("ports_udp", &held.ports_udp)?,
        },
        stop_code: None,
        stopped_reason: None,
        version: 1,
        created_at: crate::now(),
        pull_started_at: None,
        pull_stopped_at: None,
        started_at: None,
        stopping_at: None,
        execution_stopped_at: None,
        stopped_at: None,
        containers: held
            .containers
            .into_iter()
            .map(container)
            .collect::<Result<_, _>>()?,
    })
}

fn container(held: HeldContainer) -> Result<Container, String> {
    bounds::name("containers.name", &held.name)?;
    Ok(Container {
        uuid: crate::id::uuid(),
        name: held.name,
        image: bounds::cut(&held.image, 2048),
        image_digest: None,
        runtime_id: None,
        status: Status::Pending,
        exit_code: None,
        reason: None,
        bindings: Vec::new(),
        cpu: held.cpu,
        memory: held.memory,
        memory_reservation: held.memory_reservation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::south::fixture::{INSTANCE, id, keep, read, store, task};

    #[test]
    fn unknown_tasks_are_entered_and_known_ones_are_left_alone() {
        let (_directory, store) = store();
        let arns = Arns {
            region: "us-east-1".into(),
            account: "000000000000".into(),
        };
        let us = Identity {
            cluster: "default".into(),
            instance: INSTANCE.into(),
        };
        let mut known = task(1);
        known.status = Status::Running;
        keep(&store, &known);
        let held = |n| HeldTask {
            arn: arns.task("default", &id(n)),
            family: "old".into(),
            revision: 4,
            cpu: 256,
            ..Default::default()
        };
        let strange = HeldTask {
            arn: "arn:aws:ecs:elsewhere:1:task/default/x".into(),
            ..held(3)
        };
        let (last, refused) = adopt(&store, &arns, &us, vec![held(1), held(2), strange]).unwrap();
        assert_eq!(read(&store, 1), known);
        let adopted = read(&store, 2);
        assert_eq!(
            (adopted.family.as_str(), adopted.revision, adopted.holds.cpu),
            ("old", 4, 256)
        );
        assert_eq!(adopted.instance, INSTANCE);
        let key = format!("task/default/{}", id(2));
        assert_eq!(last, store.get(&key).unwrap().unwrap().revision);
        assert_eq!(refused.len(), 1);
    }
}
